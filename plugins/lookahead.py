"""Lookahead: every few steps both players are put back part of the way towards where they were last put.

Each player, companions too, has slow weights φ beside its own, θ. After every `every` steps φ ← φ + alpha (θ − φ), then
θ ← φ, for all players at once. The optimizers keep their state. So does batch norm: its statistics are not averaged,
and follow within a few steps. The slow weights cost one more copy of both networks.

The steps in between go on as without the trick, with gates and several D steps as they are. A player whose gate is
closed is put back too. Weights that join later (growing) have rested where their slow weights are.

`ema` averages the fast weights. To sample from slow ones, let the interval of samples and checkpoints be a multiple of
`every`. The authors' code takes `every` = 5 and alpha = 0.5 on images. Its second level of slow weights, put back every
10,000 steps, is not here.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from gantricks import Context, Trick, hookimpl


@torch.no_grad()
def synchronise_(slow: list[Tensor], fast: list[Tensor], alpha: float, due: Tensor) -> None:
    """φ ← φ + alpha (θ − φ), then θ ← φ, in place, where `due` (0-dim) is 1; at 0 every tensor keeps its bits.

    `slow` and `fast` are φ and θ, shape by shape. Zhang et al. 2019, Lookahead Optimizer; for games Chavdarova et al.
    2021, algorithm 1.
    """
    due = due.to(slow[0].dtype)
    torch._foreach_lerp_(slow, fast, [alpha * due] * len(slow))
    torch._foreach_lerp_(fast, slow, [due] * len(slow))


class Lookahead(Trick):
    """Lookahead: every `every` steps both players go back to a point between their slow weights and where they are.

    Players that go round each other run along an orbit. A point on the chord between two of its points is nearer to its
    centre. So the slow weights spiral inwards where plain steps circle or drift away.

    When it hurts: a low alpha takes back much of what was learned. With a large `every`, the networks jump at each
    synchronisation, and Adam's averages then belong to another place.

    Source: Chavdarova et al. 2021, Taming GANs with Lookahead-Minmax, algorithm 1.
    """

    neutral = {"alpha": 1.0}
    conflicts = {"network_swap": "a past state that stands in for a player would be averaged with its slow weights"}
    fault_safe = True
    trial = {"every": 2}
    strengths = {"alpha": (0.8, 0.5, 0.2)}

    class Config(Trick.Config):
        every: Annotated[int, Field(ge=1, le=1_000_000, description="steps from one synchronisation to the next")] = 5
        alpha: Annotated[
            float,
            Field(gt=0, le=1, description="share of the way since the last synchronisation that is kept"),
        ] = 0.5

    config: Config

    @hookimpl
    def on_setup(self, ctx: Context) -> None:
        networks = {**ctx.learners("d"), **ctx.learners("g")}
        named = {f"{player}.slow.{name}": p for player, net in networks.items() for name, p in net.named_parameters()}
        self.fast: list[Tensor] = [*named.values()]
        self.slow = {name: parameter.detach().clone() for name, parameter in named.items()}
        self.since = torch.zeros((), device=ctx.device)

    @hookimpl
    def after_step(self, ctx: Context) -> None:
        # the count is on the device, so that one captured step serves the steps in between as well
        self.since.add_(ctx.healthy)
        due = (self.since == self.config.every) * ctx.healthy
        synchronise_([*self.slow.values()], self.fast, self.config.alpha, due)
        self.since.mul_(1 - due)

    def tensors(self) -> dict[str, Tensor]:
        return {"since": self.since, **self.slow}
