"""Learning rate decay: both players' learning rates fall exponentially over the run.

The rate goes from lr₀ in the first step to γ · lr₀ in the last. The rates of both players fall together unless
`players` names one, which changes their balance over the run. A companion goes with the player that it learns with. The
rate is logged as it is used.

The trick goes with every optimizer of a recipe, and with sgd_discriminator in either order.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from gantricks import Context, Players, Trick, hookimpl

ROLES = {"d": "discriminator", "g": "generator"}


def decayed(start: Tensor, gamma: float | Tensor, progress: Tensor) -> Tensor:
    """The rate start · γ^progress, 0-dim as both tensors are; `progress` is 0 in the first step and 1 in the last."""
    return start * torch.pow(gamma, progress)


class LrDecay(Trick):
    """Learning rate decay: learning rates fall from what the recipe sets to `gamma` times that, exponentially.

    The rate is lr₀ · γ^progress. Early in the run large steps get the game going. Later, small ones let the players
    settle where constant ones would keep them circling.

    When it hurts: the decay is tied to the number of steps in the recipe, so a short trial of a long recipe ends at
    small rates too. A game that has not settled by the end never will.

    Source: exponential decay, as in practitioners' reports.
    """

    neutral = {"gamma": 1.0}
    strengths = {"gamma": (0.3, 0.1, 0.01)}

    class Config(Trick.Config):
        gamma: Annotated[float, Field(gt=0, le=1, description="learning rate in the last step over the first")] = 0.1
        players: Annotated[Players, Field(description="whose learning rate falls")] = Players()

    config: Config

    @classmethod
    def facts(cls, config: Config) -> dict[str, Any]:
        return {"replaces": {f"{name}_learning_rate" for name in ROLES.values() if name in config.players}}

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.rates: dict[str, Tensor] = {}
        self.phases: dict[str, str] = {}

    @hookimpl
    def transform_optimizer(self, optimizer: torch.optim.Optimizer, player: str, ctx: Context) -> torch.optim.Optimizer:
        # float32 rounds the rate, so at 1 even the form of the optimizer stays
        if self.config.gamma < 1 and ROLES[ctx.learns_in(player)] in self.config.players:
            for number, group in enumerate(optimizer.param_groups):
                # a tensor in the group, not a number: the optimizer reads it anew at every step, captured or not
                rate = torch.as_tensor(group["lr"], dtype=torch.float32, device=ctx.device)
                group["lr"] = self.rates[f"{player}.{number}"] = rate
                self.phases[f"{player}.{number}"] = ctx.learns_in(player)
        return optimizer

    @hookimpl
    def on_setup(self, ctx: Context) -> None:
        # only here: a trick after this one may have given its own rate
        self.starts = {name: rate.clone() for name, rate in self.rates.items()}

    @hookimpl
    def before_d_step(self, ctx: Context) -> None:
        self._decay("d", ctx)

    @hookimpl
    def before_g_step(self, ctx: Context) -> None:
        self._decay("g", ctx)

    def tensors(self) -> dict[str, Tensor]:
        return self.rates

    def _decay(self, phase: str, ctx: Context) -> None:
        for name, rate in self.rates.items():
            if self.phases[name] == phase:
                rate.copy_(decayed(self.starts[name], ctx.value(self.config.gamma), ctx.elapsed))
