"""Least squares: the discriminator's output is a number to be brought to its target, not a probability."""

from __future__ import annotations

from torch import Tensor

from gantricks import AdversarialLoss, Context, Out, Trick, hookimpl


def least_squares_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """½ (s - t)², sample by sample: `outputs` s, `targets` t and the result are (B, 1). Mao et al. 2017, eq. 2."""
    return 0.5 * (outputs - targets).square()


class Objective(AdversarialLoss):
    """Both players' losses."""

    undecided = 0.5  # half-way between the targets

    def d_loss(self, real: Out, fake: Out, real_labels: Tensor, fake_labels: Tensor, ctx: Context) -> dict[str, Tensor]:
        return {
            "real": least_squares_loss(real.logits, real_labels),
            "fake": least_squares_loss(fake.logits, fake_labels),
        }

    def g_loss(self, real: Out | None, fake: Out, labels: Tensor, ctx: Context) -> dict[str, Tensor]:
        return {"adversarial": least_squares_loss(fake.logits, labels)}


class LeastSquares(Trick):
    """Least squares objective (LSGAN): squared distance of D's output to its target, for D and for G.

    D brings its raw output to 1 on reals and to 0 on fakes, G brings it to 1 on fakes. A fake on the right side of the
    decision but far from it is still pulled back, where a sigmoid would be flat, so gradients do not vanish when
    D is sure. The targets are the labels (the paper's a = 0, b = c = 1), and label tricks change them as usual; for
    the paper's Pearson divergence, a = -1, b = 1, c = 0, G's label has to be changed too.

    When it hurts: the gradient grows with the distance, so a D without bounds on its output, or a high learning
    rate, makes it jump; outputs are no logits any more, and a probability must not be read off them.

    Source: Mao et al. 2017, Least Squares Generative Adversarial Networks, eq. 2 and 9.
    """

    provides = {"targets"}

    @hookimpl
    def adversarial_loss(self) -> AdversarialLoss:
        return Objective()
