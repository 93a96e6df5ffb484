"""Historical averaging: each player is drawn towards the mean of the weights it has had so far.

θ̄_t = (1/t) Σ θ_i counts the present weights too, and every past one alike, so the pull is 0 in the first step. The
mean is kept online, at the price of one more copy of the weights. It covers weights only, never batch norm's
statistics. The history of weights that join later (growing) begins then. In float32 the mean takes in less and less of
what is new after some 100,000 updates.

The penalty's gradient, 2λ(θ − θ̄), is added after the backward and goes through the same optimizer step as the rest.
The losses that are logged do not contain the penalty. Its value is logged beside them, as `penalty_d` and `penalty_g`.
It shows in gradient norms, and gradient clipping sees it when clipping comes later in the recipe.

`strength` is λ, a number or a schedule. Neither the paper nor its code gives one. On the paper's two-parameter game 0.1
works. Networks sum the distance over all their weights, hence the default of 0.001. `players` restricts the trick to
one side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from gantricks import Context, Players, Schedule, Scheduled, Trick, hookimpl


@torch.no_grad()
def join_means_(means: list[Tensor], count: Tensor, parameters: list[Tensor], updated: Tensor) -> None:
    """Take θ_t into θ̄_{t−1} in place: t ← t + 1, θ̄ ← θ̄ + (θ − θ̄)/t, the mean of everything joined so far.

    `means` and `parameters` are P tensors each, shape by shape; `count` is t, 0-dim or (P,); `updated`, likewise, is 1,
    or 0 to leave mean and count as they are. Salimans et al. 2016, §3.3.
    """
    count.add_(updated)
    dtype = means[0].dtype
    shares = updated.to(dtype) / count.to(dtype)  # in the weights' type: float32 thirds would spoil a float64 mean
    torch._foreach_lerp_(means, parameters, [*shares.expand(len(means)).unbind()])


@torch.no_grad()
def add_gradient_(gradients: list[Tensor], parameters: list[Tensor], means: list[Tensor], strength: Tensor) -> None:
    """Add the gradient of `penalty`, 2λ(θ − θ̄) with θ̄ held constant, to `gradients` in place. `strength` is 0-dim."""
    pulls = torch._foreach_sub(parameters, means)
    torch._foreach_addcmul_(gradients, pulls, [strength + strength] * len(pulls))


def penalty(parameters: list[Tensor], means: list[Tensor], strength: Tensor) -> Tensor:
    """λ ‖θ − θ̄‖², 0-dim, over all tensors together."""
    distances = torch._foreach_norm(torch._foreach_sub(parameters, means))
    return strength * torch.stack(distances).square().sum()


@dataclass(eq=False)
class History:
    """A player's weights, which it shares with the network, their means θ̄ and the number of terms t of each."""

    parameters: dict[str, Tensor]
    means: dict[str, Tensor]
    count: Tensor
    no: Tensor

    def takes_part(self, updated: Tensor) -> Tensor:
        """`updated`, 0-dim, for every weight, or (P,) with 0 for those without a gradient.

        A weight without a gradient took no part in the loss: its history has not begun.
        """
        learns = [parameter.grad is not None for parameter in self.parameters.values()]
        return updated if all(learns) else torch.stack([updated if one else self.no for one in learns])


class HistoricalAveraging(Trick):
    """Historical averaging: each player's loss gains λ‖θ − θ̄‖², the distance of its weights to their mean so far.

    Players that chase each other on an orbit leave the mean of their weights near its centre. The pull towards the mean
    turns the orbit into a spiral that ends there.

    When it hurts: the mean remembers the initial weights, so the pull also works against learning. Adam scales by the
    size of gradients, so λ weighs differently late in a run. If samples stay behind, lower λ by a schedule.

    Source: Salimans et al. 2016, §3.3.
    """

    neutral = {"strength": 0.0}
    fault_safe = True
    strengths = {"strength": (1e-4, 1e-3, 1e-2)}

    class Config(Trick.Config):
        strength: Annotated[
            float | Schedule, Scheduled(0.0, 1e6), Field(description="weight λ of the penalty, a number or a schedule")
        ] = 0.001
        players: Annotated[Players, Field(description="whose weights are held")] = Players()

    config: Config

    @hookimpl
    def on_setup(self, ctx: Context) -> None:
        self.histories: dict[str, History] = {}
        self.phases: dict[str, list[str]] = {"d": [], "g": []}
        for role, phase in (("discriminator", "d"), ("generator", "g")):
            learners = ctx.learners(phase) if role in self.config.players else {}
            for player, network in learners.items():
                parameters: dict[str, Tensor] = dict(network.named_parameters())
                means = {name: parameter.detach().clone() for name, parameter in parameters.items()}
                count = torch.ones(len(means), device=ctx.device)
                self.histories[player] = History(parameters, means, count, no=torch.zeros((), device=ctx.device))
            self.phases[phase] += learners

    @hookimpl
    def after_d_backward(self, ctx: Context) -> None:
        self._pull("d", ctx)

    @hookimpl
    def after_g_backward(self, ctx: Context) -> None:
        self._pull("g", ctx)

    @hookimpl
    def after_d_step(self, ctx: Context) -> None:
        self._remember("d", ctx)

    @hookimpl
    def after_g_step(self, ctx: Context) -> None:
        self._remember("g", ctx)

    @hookimpl
    def log_scalars(self, ctx: Context) -> dict[str, Tensor]:
        strength = ctx.value(self.config.strength)
        return {
            f"penalty_{player}": penalty([*past.parameters.values()], [*past.means.values()], strength)
            for player, past in self.histories.items()
        }

    def tensors(self) -> dict[str, Tensor]:
        tensors = {}
        for player, past in self.histories.items():
            tensors[f"{player}.count"] = past.count
            tensors |= {f"{player}.mean.{name}": mean for name, mean in past.means.items()}
        return tensors

    def _pull(self, phase: str, ctx: Context) -> None:
        for player in self.phases[phase]:
            past = self.histories[player]
            used = {name: p for name, p in past.parameters.items() if p.grad is not None}
            gradients = [p.grad for p in used.values() if p.grad is not None]
            if used:
                means = [past.means[name] for name in used]
                add_gradient_(gradients, [*used.values()], means, ctx.value(self.config.strength))

    def _remember(self, phase: str, ctx: Context) -> None:
        for player in self.phases[phase]:
            past = self.histories[player]
            updated = past.takes_part(ctx.updated)
            join_means_([*past.means.values()], past.count, [*past.parameters.values()], updated)
