"""LeCam: the discriminator's scores are held near running means of the other side's scores.

α_R and α_F are running means of D's mean logit on reals and on fakes. The penalty takes those from before the present D
step, as constants. They are exponential moving averages without bias towards their start, as in the authors' StyleGAN2
code: the first D step has no past, and no penalty. A D step that is skipped does not enter them.

The paper's formula has squares, and the authors' code squares of a rectifier, as here: reals pay only above α_F, fakes
only below α_R. Once D tells the sides apart, the two agree. The code reads the running means after the present step
has entered them; here they are those before it. Some published code begins after a number of steps: let `weight` rise
from 0 for that.

`weight` is λ, a number or a schedule; a good one depends on the network and the objective. In the authors' scripts it
is 0.3 for BigGAN with the hinge loss on CIFAR, and from 3e-7 to 1e-6 for StyleGAN2. `decay` is that of their StyleGAN2
code.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import relu

from gantricks import Context, Schedule, Scheduled, Trick, hookimpl


def lecam_penalty(real: Tensor, fake: Tensor, real_mean: Tensor, fake_mean: Tensor) -> Tensor:
    """E[relu(r - α_F)²] + E[relu(α_R - f)²], 0-dim.

    `real` r and `fake` f are D's logits (B, 1); `real_mean` α_R and `fake_mean` α_F, 0-dim, are constants. Tseng et al.
    2021, §3, and official code.
    """
    return relu(real - fake_mean).square().mean() + relu(real_mean - fake).square().mean()


@torch.no_grad()
def join_(average: Tensor, value: Tensor, decay: float, updated: Tensor) -> None:
    """Take values into their averages in place, a ← decay a + (1 - decay) v, both of one shape. They stay where
    `updated`, 0-dim, is 0.
    """
    # chosen, not multiplied: a value that is not finite times 0 is not 0
    average.lerp_(torch.where(updated > 0, value.to(average.dtype), average), 1 - decay)


class Lecam(Trick):
    """LeCam: D pays for scores of reals above the running mean of fakes' scores, and of fakes below that of reals.

    With little data D learns it by heart, and its scores of reals and fakes drift apart. The penalty draws each side
    towards the other and so limits the gap. With it, the objective of WGAN is close to the LeCam divergence, which is
    more robust where data is scarce. It works beside augmentation.

    When it hurts: with much data it holds D back. Where scores move fast, the running means lag behind. If D stays
    undecided, lower the weight.

    Source: Tseng et al. 2021, Regularizing Generative Adversarial Networks under Limited Data, §3, and official code.
    """

    neutral = {"weight": 0.0}
    fault_safe = True
    strengths = {"weight": (0.1, 0.3, 1.0)}

    class Config(Trick.Config):
        weight: Annotated[float | Schedule, Scheduled(0.0, 1e6), Field(description="λ, a number or a schedule")] = 0.3
        decay: Annotated[float, Field(ge=0, lt=1, description="share of the past in the running means")] = 0.99

    config: Config

    @hookimpl
    def on_setup(self, ctx: Context) -> None:
        # of the mean logit on reals, of that on fakes, and of 1: the share that is not their start
        self.averages = torch.zeros(3, dtype=ctx.dtype, device=ctx.device)

    @hookimpl
    def d_loss_terms(self, ctx: Context) -> dict[str, Tensor]:
        real_mean, fake_mean = self._means()
        weight = ctx.value(self.config.weight) * (self.averages[2] > 0)
        return {"penalty": weight * lecam_penalty(ctx.real_out.logits, ctx.fake_out.logits, real_mean, fake_mean)}

    @hookimpl
    def after_d_step(self, ctx: Context) -> None:
        means = ctx.real_out.logits.mean(), ctx.fake_out.logits.mean()
        values = torch.stack([*means, torch.ones_like(means[0])])
        join_(self.averages, values, self.config.decay, ctx.updated)

    @hookimpl
    def log_scalars(self) -> dict[str, Tensor]:
        real_mean, fake_mean = self._means()
        return {"real_mean": real_mean, "fake_mean": fake_mean}

    def tensors(self) -> dict[str, Tensor]:
        return {"averages": self.averages}

    def _means(self) -> tuple[Tensor, Tensor]:
        real, fake, joined = self.averages.clone().unbind()
        share = joined.clamp(min=1e-30)
        return real / share, fake / share
