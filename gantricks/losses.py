"""The objective of the game, and the default one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from gantricks.records import Out

if TYPE_CHECKING:
    from gantricks.context import Context


class AdversarialLoss(Protocol):
    """The return value of the hook `adversarial_loss`: both players' losses as functions of D's outputs.

    Each method returns named terms of one number a sample, (B,) or (B, 1), and the core takes their means. Where D
    judges g samples at once, it is B / g in place of B. `real` and `fake` are D's scores, labels the targets, (B, 1);
    `ctx` is the context of the trick that provides the loss. `undecided` is the output of D that means "as likely real
    as fake"; it lies between D's optima for the two. It is None where no output means that, because the loss depends on
    differences of outputs alone. The trick that provides another objective says so in `provides`: "decision".
    `compares` says whether G's loss uses D's scores of reals. If so, they are computed for it without gradient;
    otherwise `real` is None.
    """

    undecided: float | None = 0.0
    compares: bool = False

    def d_loss(
        self, real: Out, fake: Out, real_labels: Tensor, fake_labels: Tensor, ctx: Context
    ) -> dict[str, Tensor]: ...

    def g_loss(self, real: Out | None, fake: Out, labels: Tensor, ctx: Context) -> dict[str, Tensor]: ...


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return BCE(s, t) = softplus(s) - t s for each sample, (B, 1). Targets may lie outside [0, 1]."""
    return binary_cross_entropy_with_logits(logits, targets, reduction="none")


class NonSaturating(AdversarialLoss):
    """Binary cross-entropy against targets; G maximises log D(G(z)) (Goodfellow et al. 2014, §3).

    D: BCE(s_real, t_real) and BCE(s_fake, t_fake). G: BCE(s_fake, t_g) with t_g = 1 by default.
    """

    provides = frozenset({"targets", "decision", "log_ratio"})

    def d_loss(self, real: Out, fake: Out, real_labels: Tensor, fake_labels: Tensor, ctx: Context) -> dict[str, Tensor]:
        return {"real": cross_entropy(real.logits, real_labels), "fake": cross_entropy(fake.logits, fake_labels)}

    def g_loss(self, real: Out | None, fake: Out, labels: Tensor, ctx: Context) -> dict[str, Tensor]:
        return {"adversarial": cross_entropy(fake.logits, labels)}
