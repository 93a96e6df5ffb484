"""Gradient clipping: no update follows a gradient longer than a limit.

The length is that of the gradients of all weights of a player together. `players` restricts the trick to one side. A
companion goes with the player that it learns with, and has a length of its own. For two limits use two instances. The
length before clipping is logged as `norm_d` and `norm_g`. The length after clipping is logged as the gradient norm.

Put the trick last in the recipe: it clips the gradients that tricks before it have added. A gradient that is not finite
stays so and stops the run as usual.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from gantricks import Context, Players, Trick, hookimpl


@torch.no_grad()
def clip_(gradients: list[Tensor], max_norm: Tensor) -> Tensor:
    """Scale `gradients` in place by min(1, max_norm / ‖g‖), ‖g‖ the norm of all of them together; return ‖g‖, 0-dim.

    Gradients within the limit keep every bit. Where ‖g‖ is not finite nothing finite is left behind: a limit divided by
    infinity would turn an overflow into gradients of 0, and hide it.

    Source: Pascanu et al. 2013, On the Difficulty of Training Recurrent Neural Networks, algorithm 1.
    """
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    torch._foreach_mul_(gradients, torch.where(norm.isfinite(), (max_norm / norm).clamp(max=1), norm))
    found: Tensor = norm
    return found


class GradientClipping(Trick):
    """Gradient clipping: a player's gradient that is longer than `max_norm` is scaled back to that length.

    One steep batch then cannot throw the weights far away, nor fill Adam's averages with a spike. The direction of the
    gradient stays.

    When it hurts: a limit below the usual length makes every update follow a unit direction, which undoes the weighting
    of batches. Choose the limit from the logged lengths. Adam divides by the gradient's recent size, so a limit that
    always acts changes little there.

    Source: Pascanu et al. 2013, algorithm 1.
    """

    trial = {"max_norm": 0.1}
    strengths = {"max_norm": (10.0, 1.0, 0.1)}

    class Config(Trick.Config):
        max_norm: Annotated[float, Field(gt=0, le=1e6, description="longest gradient that is left as it is")] = 1.0
        players: Annotated[Players, Field(description="whose gradients are clipped")] = Players()

    config: Config

    @hookimpl
    def on_setup(self, ctx: Context) -> None:
        self.parameters: dict[str, list[Tensor]] = {}
        self.phases: dict[str, list[str]] = {}
        for role, phase in (("discriminator", "d"), ("generator", "g")):
            learners = ctx.learners(phase) if role in self.config.players else {}
            self.parameters |= {player: [*network.parameters()] for player, network in learners.items()}
            self.phases[phase] = list(learners)
        self.norms = {player: torch.zeros((), device=ctx.device) for player in self.parameters}

    @hookimpl
    def after_d_backward(self, ctx: Context) -> None:
        self._clip("d", ctx)

    @hookimpl
    def after_g_backward(self, ctx: Context) -> None:
        self._clip("g", ctx)

    @hookimpl
    def log_scalars(self) -> dict[str, Tensor]:
        return {f"norm_{player}": norm for player, norm in self.norms.items()}

    def tensors(self) -> dict[str, Tensor]:
        return {f"norm_{player}": norm for player, norm in self.norms.items()}

    def _clip(self, phase: str, ctx: Context) -> None:
        for player in self.phases[phase]:
            gradients = [p.grad for p in self.parameters[player] if p.grad is not None]
            if gradients:
                self.norms[player].copy_(clip_(gradients, ctx.value(self.config.max_norm)))
