"""The objective that a recipe plays when no trick chooses another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from gantricks.records import Out

if TYPE_CHECKING:
    from gantricks.context import Context


class AdversarialLoss(Protocol):
    """What the hook `adversarial_loss` returns: both players' losses as functions of what D says.

    Each returns named terms of one number a sample, (B,) or (B, 1); the core takes their means. Where D judges g
    samples at once, B / g in place of B. `real` and `fake` are D's scores, labels its targets, (B, 1); `ctx` is the
    context of the trick that provides the loss.

    `undecided` is the output of D that stands for as likely real as fake, between its optima for the two. `compares`
    says whether G's loss reads D's scores of reals, which are then computed for it, without gradient; otherwise `real`
    is None there.
    """

    undecided: float = 0.0
    compares: bool = False

    def d_loss(
        self, real: Out, fake: Out, real_labels: Tensor, fake_labels: Tensor, ctx: Context
    ) -> dict[str, Tensor]: ...

    def g_loss(self, real: Out | None, fake: Out, labels: Tensor, ctx: Context) -> dict[str, Tensor]: ...


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """BCE(s, t) = softplus(s) - t s, sample by sample: (B, 1). Targets may lie outside [0, 1]."""
    return binary_cross_entropy_with_logits(logits, targets, reduction="none")


class NonSaturating(AdversarialLoss):
    """Binary cross-entropy against targets; G maximises log D(G(z)) (Goodfellow et al. 2014, §3).

    D: BCE(s_real, t_real) and BCE(s_fake, t_fake). G: BCE(s_fake, t_g) with t_g = 1 by default.
    """

    provides = frozenset({"targets"})

    def d_loss(self, real: Out, fake: Out, real_labels: Tensor, fake_labels: Tensor, ctx: Context) -> dict[str, Tensor]:
        return {"real": cross_entropy(real.logits, real_labels), "fake": cross_entropy(fake.logits, fake_labels)}

    def g_loss(self, real: Out | None, fake: Out, labels: Tensor, ctx: Context) -> dict[str, Tensor]:
        return {"adversarial": cross_entropy(fake.logits, labels)}
