"""Least squares: the discriminator's output is a number to be brought to its target, not a probability.

The targets are the labels (the paper's a = 0, b = c = 1), and label tricks change them as usual. The paper's Pearson
divergence has a = -1, b = 1, c = 0. For it, G's label has to be changed too.
"""

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
    """Least squares objective (LSGAN): both players minimise the squared distance of D's output to its target.

    D brings its raw output to 1 on reals and to 0 on fakes. G brings it to 1 on fakes. A fake on the right side of the
    decision but far from it is still pulled back, where a sigmoid would be flat. Gradients do not vanish when D is
    sure.

    When it hurts: the gradient grows with the distance. The output jumps where nothing bounds it, or with a high
    learning rate. Outputs are no logits: a probability must not be read off them.

    Source: Mao et al. 2017, Least Squares Generative Adversarial Networks, eq. 2 and 9.
    """

    provides = {"targets", "decision"}

    @hookimpl
    def adversarial_loss(self) -> AdversarialLoss:
        return Objective()
