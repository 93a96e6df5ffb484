"""Hinge: the discriminator learns from samples inside its margin alone, and the generator raises its output.

D's loss is relu(1 - r) on reals and relu(1 + f) on fakes, where r and f are its outputs. A real above 1 and a fake
below -1 add nothing. G's loss is -f: it has no hinge, so G learns from every fake.

There are no targets. Label tricks (label_smoothing, soft_labels, label_flipping) are refused beside it.
"""

from __future__ import annotations

from torch import Tensor

from gantricks import AdversarialLoss, Context, Out, Trick, hookimpl


def margin_loss(outputs: Tensor, side: float) -> Tensor:
    """relu(1 - side · s), sample by sample: `outputs` s and the result are (B, 1); `side` is 1 for reals, -1 for fakes.

    Lim & Ye 2017; Miyato et al. 2018, §4.
    """
    return (1 - side * outputs).relu()


class Objective(AdversarialLoss):
    """Both players' losses."""

    def d_loss(self, real: Out, fake: Out, real_labels: Tensor, fake_labels: Tensor, ctx: Context) -> dict[str, Tensor]:
        return {"real": margin_loss(real.logits, 1.0), "fake": margin_loss(fake.logits, -1.0)}

    def g_loss(self, real: Out | None, fake: Out, labels: Tensor, ctx: Context) -> dict[str, Tensor]:
        return {"adversarial": -fake.logits}


class Hinge(Trick):
    """Hinge objective: D raises reals to 1 and lowers fakes to -1, and no further. G raises its fakes.

    D spends its gradient on samples that it has not told apart yet. G's gradient has the same strength for every fake,
    however sure D is. It is the objective of SNGAN, SAGAN and BigGAN, and goes well with spectral norm.

    When it hurts: nothing but D's weights bounds its slope, and G follows that slope. A D without normalisation or
    penalty can make G's steps wild. A D that has all samples outside the margin learns nothing until G moves.

    Source: Lim & Ye 2017, Geometric GAN; Miyato et al. 2018, Spectral Normalization, §4.
    """

    provides = {"decision"}

    @hookimpl
    def adversarial_loss(self) -> AdversarialLoss:
        return Objective()
