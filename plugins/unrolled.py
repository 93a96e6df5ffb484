"""Unrolled: the generator learns against the discriminator that its present samples would lead to.

In G's step a copy of D's weights makes `steps` plain gradient steps down D's adversarial loss, all on the same batch:
the reals of the last D step with their labels, and G's own fakes, scored as in D's step. G's loss is that under the
last weights. Its gradient flows through all of these steps: G learns what D would answer, not only what D would be.
D itself takes its one ordinary step. In G's step its weights, its optimizer and its running statistics stay.

A step moves the weights by `rate` times the length of the gradient ("gradient_norm/d" in the log). One of Adam moves
them by about its learning rate times √(number of weights). The authors unroll Adam in their experiments, and plain
steps in their equations.

The unrolled steps know D's objective alone. Penalties and other terms that tricks add to D's loss, clipped weights and
companions are not part of them. The unrolled D's scores take the place of D's in the G step: in the terms and weights
of other tricks, and where the objective compares with reals. Tricks that score further batches there ask D as it is.

Every step costs a pass of D and its backward, and keeps them in memory until G's update. `steps` = 0 is the game as it
was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from gantricks import Batch, Context, Out, Schedule, Scheduled, Trick, hookimpl

Weights = dict[str, Tensor]


def unroll(weights: Weights, loss: Callable[[Weights], Tensor], steps: int, rate: Tensor | float) -> Weights:
    """`weights` after some plain gradient steps of size `rate` down `loss`, 0-dim, as a differentiable function of all
    that the loss depends on. Source: Metz et al. 2017, eq. 6 to 8.
    """
    for _ in range(steps):
        slopes = torch.autograd.grad(loss(weights), [*weights.values()], create_graph=True, allow_unused=True)
        weights = {
            name: weight if slope is None else weight - rate * slope
            for (name, weight), slope in zip(weights.items(), slopes, strict=True)
        }
    return weights


class Unrolled(Trick):
    """Unrolled: G's loss is taken under the D that would be there after a few more steps, and G's gradient knows them.

    Where G puts all samples on one mode, a D that is a few steps ahead has turned against them already. So G gains
    nothing by it, and has no reason to run from mode to mode in front of D.

    When it hurts: in G's step D is passed `steps` + 1 times, and differentiated twice. At a high `rate` the unrolled D
    jumps about and its gradient is noise; at a low one it is D as it is.

    Source: Metz et al. 2017, Unrolled Generative Adversarial Networks, §2.2 and 2.3.
    """

    neutral = {"steps": 0}
    strengths = {"rate": (0.03, 0.1, 0.3)}

    class Config(Trick.Config):
        steps: Annotated[int, Field(ge=0, le=100, description="steps of D that G looks ahead; 0: none")] = 5
        rate: Annotated[
            float | Schedule,
            Scheduled(0.0, 1e3),
            Field(description="learning rate of these plain gradient steps, a number or a schedule"),
        ] = 0.1

    config: Config

    @classmethod
    def facts(cls, config: Any) -> Mapping[str, Any]:
        return {"forwards": {"d": config.steps}}

    @hookimpl
    def before_g_step(self, ctx: Context) -> None:
        # from here on D is frozen, and which of its weights learn is no longer to be seen
        self.learning = [name for name, weight in ctx.discriminator.named_parameters() if weight.requires_grad]

    @hookimpl
    def g_scores(self, fake: Batch, ctx: Context) -> tuple[Out, Out] | None:
        if not self.config.steps:
            return None
        real = ctx.d_input(ctx.real, True)
        present = dict(ctx.discriminator.named_parameters())
        start = {name: present[name].detach().requires_grad_() for name in self.learning}
        ahead = unroll(
            start,
            lambda weights: ctx.d_loss(*ctx.score(real, fake, weights)),
            self.config.steps,
            ctx.value(self.config.rate),
        )
        return ctx.score(real, fake, ahead)
