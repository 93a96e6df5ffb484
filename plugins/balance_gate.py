"""Balance gate: a player that is right too often on average is not updated until the other has caught up.

D's accuracy is the share of samples whose origin it tells, the mean of reals and fakes. G's accuracy is the share of
its fakes that D takes for real. Each is averaged over the player's last `window` updates, the present one included. A D
above `discriminator` (90 %) stands still while G goes on learning against it. A G above `generator` stands still while
D goes on learning.

Losses and gradients are computed and logged all the same, so the gate saves no time. `open_d` and `open_g` in the log
tell whether the last update happened. Limits at which both players could be held at once are refused.

The gate goes with every objective that says where D is undecided ("decision"). It also goes with flipped and soft
labels, because accuracy is about the true origin.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field, model_validator
from torch import Tensor

from gantricks import Context, Probability, Trick, hookimpl


def share_told(real: Tensor, fake: Tensor, undecided: float) -> Tensor:
    """D's accuracy, 0-dim float32: the mean over both kinds of the share whose origin D tells.

    `real`, `fake`: D's outputs (B, 1), reals above and fakes below `undecided` where D is right.
    """
    return ((real > undecided).float().mean() + (fake < undecided).float().mean()) / 2


def share_fooled(fake: Tensor, undecided: float) -> Tensor:
    """G's accuracy, 0-dim float32: the share of fakes, D's outputs (B, 1), that D takes for real."""
    return (fake > undecided).float().mean()


def push_(recent: Tensor, filled: Tensor, value: Tensor) -> Tensor:
    """Append `value` (0-dim) to the last W values `recent` (W,), of which `filled` (0-dim) are there, in place.

    Returns their mean, 0-dim.
    """
    recent.copy_(recent.roll(-1))
    recent[-1].copy_(value)
    filled.add_(1).clamp_(max=len(recent))
    return recent.sum() / filled


class BalanceGate(Trick):
    """Balance gate: a player is not updated while its running accuracy is above its limit.

    A player that is right too often waits until the other has caught up. The gate is off unless a recipe names it, and
    there is reason to leave it off. GAN hacks list, point 11: "Don't balance loss via statistics (unless you have a
    good reason to)".

    When it hurts: a strong D is what G learns from, so holding D back can leave G without direction. A higher limit is
    milder.

    Source: practitioners' reports; against it, GAN hacks list, point 11.
    """

    needs = {"decision"}
    neutral = {"discriminator": 1.0, "generator": 1.0}
    trial = {"discriminator": 0.9, "generator": 0.2, "window": 2}
    strengths = {"discriminator": (0.95, 0.9, 0.8), "generator": (0.95, 0.9, 0.8)}

    class Config(Trick.Config):
        discriminator: Annotated[Probability, Field(description="running accuracy above which D is not updated")] = 0.9
        generator: Annotated[Probability, Field(description="running accuracy above which G is not updated")] = 0.9
        window: Annotated[int, Field(ge=1, le=10_000, description="updates over which accuracy is averaged")] = 50

        @model_validator(mode="after")
        def _one_player_is_always_free(self) -> Any:
            # of the same scores D's accuracy is at most 1 - ½ G's; with both above their limits nothing would move.
            # No accuracy is above 1
            if self.generator < 1 and self.discriminator + self.generator / 2 < 1:
                raise ValueError(
                    f"with limits of {self.discriminator} and {self.generator} both players can be held at once, for "
                    f"good; write discriminator = {1 - self.generator / 2} or more"
                )
            return self

    config: Config

    @hookimpl
    def on_setup(self, ctx: Context) -> None:
        self.recent = {player: torch.zeros(self.config.window, device=ctx.device) for player in ("d", "g")}
        self.filled = {player: torch.zeros((), device=ctx.device) for player in ("d", "g")}
        self.open = {player: torch.ones((), device=ctx.device) for player in ("d", "g")}

    @hookimpl
    def d_gate(self, open: Tensor, ctx: Context) -> Tensor:
        told = share_told(ctx.real_out.logits, ctx.fake_out.logits, ctx.undecided)
        return open * self._opened("d", told, ctx.value(self.config.discriminator))

    @hookimpl
    def g_gate(self, open: Tensor, ctx: Context) -> Tensor:
        fooled = share_fooled(ctx.fake_out.logits, ctx.undecided)
        return open * self._opened("g", fooled, ctx.value(self.config.generator))

    @hookimpl
    def log_scalars(self) -> dict[str, Tensor]:
        means = {f"accuracy_{player}": self.recent[player].sum() / self.filled[player] for player in ("d", "g")}
        return means | {f"open_{player}": self.open[player] for player in ("d", "g")}

    def tensors(self) -> dict[str, Tensor]:
        held = {"recent": self.recent, "filled": self.filled, "open": self.open}
        return {f"{name}_{player}": tensor for name, both in held.items() for player, tensor in both.items()}

    def _opened(self, player: str, value: Tensor, limit: Tensor) -> Tensor:
        mean = push_(self.recent[player], self.filled[player], value)
        # a mean of shares is a float's rounding away from the limit that it meets
        self.open[player].copy_(mean <= limit + 1e-5)
        return self.open[player]
