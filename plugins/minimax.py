"""Minimax: the generator minimises what the discriminator maximises, as in the first GAN objective.

Label tricks act on D's targets as with the default objective. G's targets t, 1 unless a trick changes them, enter as
-BCE(s, 1 - t), where s are the logits. G's loss is negative. It falls without bound as D is fooled.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from gantricks import AdversarialLoss, Context, Out, Trick, hookimpl


def discriminator_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """BCE(s, t) = softplus(s) - t s, sample by sample: `logits` s, `targets` t and the result are (B, 1)."""
    return binary_cross_entropy_with_logits(logits, targets, reduction="none")


def generator_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """-BCE(s, 1 - t), sample by sample: `logits` s, G's `targets` t and the result are (B, 1).

    At t = 1 that is log(1 - D(G(z))) = -softplus(s). BCE(s, 1 - t) is what D would minimise
    on these samples: 1 - t is the target of someone who wants the opposite.

    Source: Goodfellow et al. 2014, eq. 1.
    """
    return -binary_cross_entropy_with_logits(logits, 1 - targets, reduction="none")


class Objective(AdversarialLoss):
    """Both players' losses."""

    def d_loss(self, real: Out, fake: Out, real_labels: Tensor, fake_labels: Tensor, ctx: Context) -> dict[str, Tensor]:
        return {
            "real": discriminator_loss(real.logits, real_labels),
            "fake": discriminator_loss(fake.logits, fake_labels),
        }

    def g_loss(self, real: Out | None, fake: Out, labels: Tensor, ctx: Context) -> dict[str, Tensor]:
        return {"adversarial": generator_loss(fake.logits, labels)}


class Minimax(Trick):
    """Minimax objective: D minimises binary cross-entropy and G minimises log(1 - D(G(z))), the original zero-sum game.

    It is the game of the theory: at the best D, G minimises the Jensen-Shannon divergence. It is here to compare with,
    and for small problems.

    When it hurts: G's gradient in the logit is -D(G(z)). It vanishes where D rejects G's samples, which is how every
    run starts. The default objective, non-saturating, has the same fixed point and its strongest gradient where D
    rejects (GAN hacks list, point 2).

    Source: Goodfellow et al. 2014, eq. 1.
    """

    provides = {"targets", "decision", "log_ratio"}

    @hookimpl
    def adversarial_loss(self) -> AdversarialLoss:
        return Objective()
