"""Relativistic: the discriminator judges differences between reals and fakes, never a sample alone.

`mode` = "paired" (RpGAN): the i-th real of the batch meets the i-th fake. D minimises softplus(-(r - f)) and G
softplus(-(f - r)), where r and f are D's outputs.

`mode` = "average" (RaGAN): each output meets the mean output of the other side. D minimises softplus(-(r - E f)) +
softplus(f - E r), and G the same with reals and fakes exchanged. The paper writes the sum. Its code halves it, which is
half the learning rate under SGD and nothing under Adam.

In both modes G's loss has the reals in it. D scores the real batch of the last D step again, after its update and
without gradient. Only differences of outputs mean anything, so no output is half-way between real and fake.

R3GAN is the paired mode with [tricks.r1] and [tricks.r2] on every step. There are no targets. Label tricks
(label_smoothing, soft_labels, label_flipping) are refused beside it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from gantricks import AdversarialLoss, Context, Out, Trick, hookimpl


def paired_loss(above: Tensor, below: Tensor) -> Tensor:
    """softplus(-(a - b)) = -log σ(a - b), row by row: `above` a, `below` b and the result are (B, 1).

    It falls as a rises over b. Jolicoeur-Martineau 2019, RSGAN; Huang et al. 2024, §2.
    """
    # torch's softplus is a straight line above 20; this is exact
    return -logsigmoid(above - below)


def average_losses(above: Tensor, below: Tensor) -> tuple[Tensor, Tensor]:
    """softplus(-(a - E b)) and softplus(b - E a), row by row: `above` a, `below` b and both results are (B, 1).

    Jolicoeur-Martineau 2019, RaSGAN.
    """
    return -logsigmoid(above - below.mean()), -logsigmoid(above.mean() - below)


class Paired(AdversarialLoss):
    """Both players' losses, each real against one fake."""

    undecided = None
    compares = True

    def d_loss(self, real: Out, fake: Out, real_labels: Tensor, fake_labels: Tensor, ctx: Context) -> dict[str, Tensor]:
        return {"pairs": paired_loss(real.logits, fake.logits)}

    def g_loss(self, real: Out | None, fake: Out, labels: Tensor, ctx: Context) -> dict[str, Tensor]:
        assert real is not None
        return {"adversarial": paired_loss(fake.logits, real.logits)}


class Average(AdversarialLoss):
    """Both players' losses, each sample against the mean of the other side."""

    undecided = None
    compares = True

    def d_loss(self, real: Out, fake: Out, real_labels: Tensor, fake_labels: Tensor, ctx: Context) -> dict[str, Tensor]:
        of_reals, of_fakes = average_losses(real.logits, fake.logits)
        return {"real": of_reals, "fake": of_fakes}

    def g_loss(self, real: Out | None, fake: Out, labels: Tensor, ctx: Context) -> dict[str, Tensor]:
        assert real is not None
        of_fakes, of_reals = average_losses(fake.logits, real.logits)
        return {"adversarial": of_fakes, "real": of_reals}


OBJECTIVES = {"paired": Paired, "average": Average}


class Relativistic(Trick):
    """Relativistic objective: D tells how much more real a real is than a fake, and G turns the difference around.

    A fake is judged beside a real, so D cannot drop all fakes behind one threshold. The paired form has no bad basins
    in which modes are missing (Sun et al. 2020). R3GAN has it beside [tricks.r1] and [tricks.r2]: alone it does not
    converge.

    When it hurts: a logit by itself means nothing, so tricks that read D's accuracy are refused. G's step scores a real
    batch more. Small batches make the mean of `mode` = "average" noisy.

    Source: Jolicoeur-Martineau 2019, The Relativistic Discriminator; Huang et al. 2024, The GAN is Dead; Long Live the
    GAN!
    """

    forwards = {"d": 1}

    class Config(Trick.Config):
        mode: Annotated[
            Literal["paired", "average"],
            Field(description="what a sample is compared with: one of the other side, or the mean of that side"),
        ] = "paired"

    config: Config

    @classmethod
    def facts(cls, config: Config) -> dict[str, Any]:
        left_out = "the mean that each real is compared with would still have the fakes that it leaves out"
        return {"conflicts": {"top_k": left_out}} if config.mode == "average" else {}

    @hookimpl
    def adversarial_loss(self) -> AdversarialLoss:
        return OBJECTIVES[self.config.mode]()
