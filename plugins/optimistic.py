"""Optimistic: each update is made twice, and the one before it is taken back once.

w ← w + 2u_t − u_{t−1}, where u_t is the change that the recipe's optimizer makes in step t: −η g_t under SGD, and −η
times the preconditioned gradient under Adam. Before the first update there is none to take back: u_0 = 0. Momentum and
weight decay are part of u_t.

The trick goes with every optimizer of a recipe, and in either order with tricks that move the learning rate. Each u_t
keeps the rate of its own step. An update that is skipped (a closed gate) is not remembered. A companion goes with the
player that it learns with. The cost is one more copy of the weights.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from gantricks import Context, Players, Problem, Trick, UserError, hookimpl


@torch.no_grad()
def correct_(weights: list[Tensor], changes: list[Tensor], previous: list[Tensor], held: Tensor) -> None:
    """After an update by u_t = `changes`: w ← w + u_t − u_{t−1}, and `previous` ← u_t, in place.

    The lists are parallel, shape by shape. Where `held` (0-dim) is 1 nothing moves. With the update itself this is w ←
    w + 2u_t − u_{t−1}: Daskalakis et al. 2018, OMD for u = −η g, Optimistic Adam for Adam.
    """
    moves = [(1 - held).to(weights[0].dtype)] * len(weights)
    torch._foreach_addcmul_(weights, torch._foreach_sub(changes, previous), moves)
    torch._foreach_lerp_(previous, changes, moves)


class OptimisticUpdate(torch.optim.Optimizer):
    """The optimistic form of another optimizer, which can be told by `found_inf` to skip an update (a fused one).

    It shares that one's groups and its state, which must exist already, and adds "previous" to it, the last change of
    each weight.
    """

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        super().__init__(inner.param_groups, inner.defaults)
        self.inner = inner
        # shared: a trick that changes the rate of one changes that of the other
        self.param_groups, self.state = inner.param_groups, inner.state
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["previous"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)

    @torch.no_grad()
    def step_unless(self, held: Tensor) -> None:
        """Update the weights that have a gradient once, and leave everything as it is where `held` is 1."""
        weights = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        changes = torch._foreach_neg(weights)
        inner: Any = self.inner
        inner.found_inf = held
        inner.step()
        torch._foreach_add_(changes, weights)
        correct_([*weights], [*changes], [self.state[p]["previous"] for p in weights], held)


class Optimistic(Trick):
    """Optimistic updates: each player steps as if its next gradient were the present one plus its last change.

    A player that follows its gradient alone is always one step late, and the two spiral away from each other. With the
    correction, plain steps converge on the games where they would circle. It costs no further gradient.

    When it hurts: a change of the gradient from one batch to the next counts twice, so noise of small batches grows.
    Lower learning rates then. Momentum undoes part of the effect; the authors' Adam has β₁ = 0.5.

    Source: Daskalakis et al. 2018, Training GANs with Optimism (OMD and Optimistic Adam).
    """

    class Config(Trick.Config):
        players: Annotated[Players, Field(description="whose updates are optimistic")] = Players()

    config: Config

    @classmethod
    def facts(cls, config: Config) -> dict[str, Any]:
        names = {"discriminator": "d_optimizer", "generator": "g_optimizer"}
        return {"replaces": {part for player, part in names.items() if player in config.players}}

    @hookimpl
    def transform_optimizer(self, optimizer: torch.optim.Optimizer, player: str, ctx: Context) -> torch.optim.Optimizer:
        if {"d": "discriminator", "g": "generator"}[ctx.learns_in(player)] not in self.config.players:
            return optimizer
        if not getattr(optimizer, "_step_supports_amp_scaling", False):
            raise UserError(
                Problem(
                    f"{type(optimizer).__name__} cannot be told to skip an update",
                    f"tricks.{ctx.name}",
                    "use it with adam, adamw or sgd, or switch off the trick that replaces the optimizer",
                )
            )
        return OptimisticUpdate(optimizer)
