"""Minimax: the generator minimises what the discriminator maximises, as in the first GAN objective."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from gantricks import AdversarialLoss, Context, Trick, hookimpl


def discriminator_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean of BCE(s, t) = softplus(s) - t s over `logits` s and `targets` t, both (B, 1); 0-dim."""
    return binary_cross_entropy_with_logits(logits, targets)


def generator_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean of -BCE(s, 1 - t) over `logits` s and G's `targets` t, both (B, 1); 0-dim.

    At t = 1 that is log(1 - D(G(z))) = -softplus(s). BCE(s, 1 - t) is what D would minimise
    on these samples: 1 - t is the target of someone who wants the opposite.

    Source: Goodfellow et al. 2014, eq. 1.
    """
    return -binary_cross_entropy_with_logits(logits, 1 - targets)


class Objective:
    """Both players' losses."""

    undecided = 0.0

    def d_loss(self, ctx: Context) -> dict[str, Tensor]:
        return {
            "real": discriminator_loss(ctx.real_out.logits, ctx.real_labels),
            "fake": discriminator_loss(ctx.fake_out.logits, ctx.fake_labels),
        }

    def g_loss(self, ctx: Context) -> dict[str, Tensor]:
        return {"adversarial": generator_loss(ctx.fake_out.logits, ctx.fake_labels)}


class Minimax(Trick):
    """Minimax objective: D minimises binary cross-entropy and G minimises log(1 - D(G(z))), the original zero-sum game.

    It is the game of the theory: at the best D, G minimises the Jensen-Shannon divergence. It is here to compare with
    and for small problems. When it hurts: G's gradient in the logit is -D(G(z)), so it vanishes where D rejects G's
    samples, which is how every run starts. The default objective, non-saturating, has the same fixed point and its
    strongest gradient there (GAN hacks list, point 2).

    Label tricks act on D's targets as with the default. G's targets t, 1 unless a trick changes them, enter as
    -BCE(s, 1 - t). G's loss is negative, and falls without bound as D is fooled.

    Source: Goodfellow et al. 2014, eq. 1.
    """

    provides = {"targets"}

    @hookimpl
    def adversarial_loss(self) -> AdversarialLoss:
        return Objective()
