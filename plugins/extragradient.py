"""Extragradient: both players look ahead by one update, and learn from where that would take them both.

A step has two D phases and two G phases. First each player is updated against the other's old weights. From there, θ½,
both gradients are taken again, and the old weights move by the updates that follow from these. Adam's averages take in
both gradients (ExtraAdam). Each phase draws its own samples, so a step sees two batches of reals and costs twice.

Weight decay acts at θ½. Where an update is skipped (a closed gate, a value that is not finite), its part of the move is
0: a player held in the second phase ends at its old weights. Tricks that follow a player after its update (`ema`) see
θ½, and θ½ plus the last update.

Both players move at once, so `n_critic` must be 1. `optimistic` is the form that reuses the last gradient and costs one
phase less (extrapolation from the past); the two are not combined.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gantricks import Context, Setting, Trick, hookimpl


def moved(old: list[Tensor], half: list[Tensor], after: list[Tensor]) -> list[Tensor]:
    """The old weights θ plus the update that was made at θ½: θ + (`after` − θ½), tensor by tensor.

    Where no update was made, `after` is θ½ to the bit, and so is the result `old`. Gidel et al. 2019, eq. 10 and 11.
    """
    return [*torch._foreach_add(old, torch._foreach_sub(after, half))]


class Extragradient(Trick):
    """Extragradient: both players take a trial step, and then move from where they were by the gradients found there.

    A gradient at the present point leads players that circle outwards. The gradient one step ahead points inwards. So
    the game converges with steps at which plain ones drift away, and both players are treated alike.

    When it hurts: a step costs twice as much and sees two batches. With noisy gradients of small batches the trial step
    goes in a direction of chance. Lower the learning rate then.

    Source: Korpelevich 1976; Gidel et al. 2019, A Variational Inequality Perspective on GANs, algorithms 2 and 4.
    """

    conflicts = {
        "n_critic_schedule": "both players move at once, so there is one D step for each of G's",
        "network_swap": "both put other weights in a player's place for a while",
        "optimistic": "both look ahead, and the last change would be that of the trial step",
    }

    def problems(self, setting: Setting) -> list[str]:
        if setting.n_critic == 1:
            return []
        return [f"both players move at once, and n_critic = {setting.n_critic} has no meaning; write n_critic = 1"]

    @hookimpl
    def play(self, ctx: Context) -> None:
        d, g = [*ctx.discriminator.parameters()], [*ctx.generator.parameters()]
        d_old, g_old = copies(d), copies(g)
        ctx.d_step(0)
        d_half = copies(d)
        put_(d, d_old)
        ctx.g_step(0)
        g_half = copies(g)
        put_(d, d_half)
        ctx.d_step(1)
        d_new = moved(d_old, d_half, copies(d))
        put_(d, d_half)  # G's second gradient is that against the D that looks ahead, too
        ctx.g_step(1)
        put_(d, d_new)
        put_(g, moved(g_old, g_half, copies(g)))


def copies(weights: list[torch.nn.Parameter]) -> list[Tensor]:
    return [weight.detach().clone() for weight in weights]


@torch.no_grad()
def put_(weights: list[torch.nn.Parameter], values: list[Tensor]) -> None:
    """Give the weights these values, in place."""
    torch._foreach_copy_([*weights], values)
