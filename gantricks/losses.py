"""The objective that a recipe plays when no trick chooses another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

if TYPE_CHECKING:
    from gantricks.engine.context import Context


class AdversarialLoss(Protocol):
    """What the hook `adversarial_loss` returns: both players' losses as named scalar terms.

    `undecided` is the output of D that stands for as likely real as fake, between its optima for the two.
    """

    undecided: float

    def d_loss(self, ctx: Context) -> dict[str, Tensor]: ...

    def g_loss(self, ctx: Context) -> dict[str, Tensor]: ...


class NonSaturating:
    """Binary cross-entropy against targets; G maximises log D(G(z)) (Goodfellow et al. 2014, §3).

    D: mean BCE(s_real, t_real) + mean BCE(s_fake, t_fake). G: mean BCE(s_fake, t_g) with t_g = 1 by default. Targets
    may lie outside [0, 1]: BCE(s, t) = softplus(s) - t s.
    """

    provides = frozenset({"targets"})
    undecided = 0.0

    def d_loss(self, ctx: Context) -> dict[str, Tensor]:
        return {
            "real": binary_cross_entropy_with_logits(ctx.real_out.logits, ctx.real_labels),
            "fake": binary_cross_entropy_with_logits(ctx.fake_out.logits, ctx.fake_labels),
        }

    def g_loss(self, ctx: Context) -> dict[str, Tensor]:
        return {"adversarial": binary_cross_entropy_with_logits(ctx.fake_out.logits, ctx.fake_labels)}
