"""Extragradient: both players look ahead by one update, and learn from where that would take them both.

A step has two D phases and two G phases. First each player is updated against the other's old weights. From there, θ½,
both gradients are taken again, and the old weights are updated with these. Adam's averages take in both gradients
(ExtraAdam). Each phase draws its own samples, so a step sees two batches of reals and costs twice.

A player whose second update is skipped (a closed gate, a value that is not finite) is left with its old weights. Tricks
that follow a player after its update (`ema`) see the new weights alone. Companions look ahead with the player that they
learn with.

Both players move at once, so `n_critic` must be 1. `optimistic` is the form that reuses the last gradient and costs one
phase less (extrapolation from the past); the two are not combined.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gantricks import Context, Setting, Trick, hookimpl


class Extragradient(Trick):
    """Extragradient: both players take a trial step, and then move from where they were by the gradients found there.

    A gradient at the present point leads players that circle outwards. The gradient one step ahead points inwards. So
    the game converges with steps at which plain ones drift away, and both players are treated alike.

    When it hurts: a step costs twice as much and sees two batches. With noisy gradients of small batches the trial step
    goes in a direction of chance. Lower the learning rate then.

    Source: Korpelevich 1976; Gidel et al. 2019, A Variational Inequality Perspective on GANs (ExtraSGD and ExtraAdam),
    and official code.
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
        d, g = ctx.learners("d"), ctx.learners("g")
        d_old, g_old = copies(d), copies(g)
        ctx.d_step(0, trial=True)
        d_half = copies(d)
        put_(d, d_old)  # G looks ahead against the old D
        ctx.g_step(0, trial=True)
        put_(d, d_half)
        ctx.d_step(1, start=d_old)
        d_new = copies(d)
        put_(d, d_half)  # and its second gradient is that against the D that has looked ahead
        ctx.g_step(1, start=g_old)
        put_(d, d_new)


def copies(networks: Mapping[str, nn.Module]) -> dict[str, list[Tensor]]:
    """Copies of the weights of each network."""
    return {name: [p.detach().clone() for p in network.parameters()] for name, network in networks.items()}


@torch.no_grad()
def put_(networks: Mapping[str, nn.Module], weights: Mapping[str, list[Tensor]]) -> None:
    """Give the networks these weights, in place."""
    for name, network in networks.items():
        torch._foreach_copy_([*network.parameters()], weights[name])
