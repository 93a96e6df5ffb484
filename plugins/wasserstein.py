"""Wasserstein: the discriminator is a critic, whose mean output on reals less that on fakes estimates a distance.

D minimises f - r, where r and f are its outputs on reals and on fakes. G minimises -f. The estimate is the distance up
to a factor, if D's slope is bounded and D is near its best. It is minus D's loss. Only differences of outputs mean
anything, so no output is half-way between real and fake.

The objective alone does not bound D. `clip` = c brings each of D's weights back to [-c, c] after each of D's updates.
The paper has c = 0.01, RMSprop and five D steps for each of G's. A gradient penalty beside it is the better choice.
Other penalties on D's slope, and spectral norm, do as well. Put a trick that follows D's weights, such as ema, after
this one in the recipe, so that it sees clipped weights.

There are no targets. Label tricks (label_smoothing, soft_labels, label_flipping) are refused beside it.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from gantricks import AdversarialLoss, Context, Out, Trick, hookimpl


@torch.no_grad()
def clip_(weights: list[Tensor], limit: float, updated: Tensor) -> None:
    """Clamp all `weights` to [-limit, limit] in place. `updated`, 0-dim, is 1, or 0 to leave them as they are.

    Arjovsky et al. 2017, algorithm 1.
    """
    # in the weights' type: a float32 limit would not be the option's in float64
    bound = torch.full_like(updated, limit, dtype=weights[0].dtype).masked_fill(updated == 0, torch.inf)
    for weight in weights:
        weight.clamp_(-bound, bound)


class Objective(AdversarialLoss):
    """Both players' losses."""

    undecided = None

    def d_loss(self, real: Out, fake: Out, real_labels: Tensor, fake_labels: Tensor, ctx: Context) -> dict[str, Tensor]:
        return {"real": -real.logits, "fake": fake.logits}

    def g_loss(self, real: Out | None, fake: Out, labels: Tensor, ctx: Context) -> dict[str, Tensor]:
        return {"adversarial": -fake.logits}


class Wasserstein(Trick):
    """Wasserstein objective (WGAN): D widens the gap between its mean outputs on reals and on fakes, G narrows it.

    With D's slope bounded, the gap estimates the distance between data and samples. So it falls as samples improve, and
    G's gradient does not vanish where D is sure.

    It needs a bound on D's slope: [tricks.gradient_penalty], or `clip`. Give D several steps for each of G's.

    When it hurts: without a bound D's output grows without end. Clipping pushes weights to both limits and makes D too
    simple. Alone, or clipped, the game circles its equilibrium (Mescheder et al. 2018).

    Source: Arjovsky et al. 2017, Wasserstein GAN, algorithm 1.
    """

    fault_safe = True

    class Config(Trick.Config):
        clip: Annotated[
            float | None, Field(gt=0, le=1e6, description="largest size of D's weights; no bound when left out")
        ] = None

    config: Config

    @hookimpl
    def adversarial_loss(self) -> AdversarialLoss:
        return Objective()

    @hookimpl
    def after_d_step(self, ctx: Context) -> None:
        if self.config.clip is not None:
            clip_([*ctx.discriminator.parameters()], self.config.clip, ctx.updated)
