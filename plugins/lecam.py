"""LeCam: the discriminator's scores are held near running means of the other side's scores.

α_R and α_F are running means of D's mean logit on reals and on fakes. The penalty takes those from before the present D
step, as constants. They are exponential moving averages without bias towards their start, as in the authors' StyleGAN2
code: the first D step has no past, and no penalty. A D step that is skipped does not enter them.

The paper's formula has squares, and the authors' code squares of a rectifier, as here: reals pay only above α_F, fakes
only below α_R. Once D tells the sides apart, the two agree. The code reads the running means after the present step
has entered them; here they are those before it. Some published code begins after a number of steps: let `weight` rise
from 0 for that.

`weight` is λ, a number or a schedule; a good one depends on the network and the objective. `decay` is that of the
authors.
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
    2021, eq. 4 and official code.
    """
    return relu(real - fake_mean).square().mean() + relu(real_mean - fake).square().mean()


@torch.no_grad()
def join_(average: Tensor, value: Tensor, decay: float, updated: Tensor) -> None:
    """Take a value into an average in place, a ← decay a + (1 - decay) v; where `updated` is 0 it stays. All 0-dim."""
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

    class Config(Trick.Config):
        weight: Annotated[float | Schedule, Scheduled(0.0, 1e6), Field(description="λ, a number or a schedule")] = 0.3
        decay: Annotated[float, Field(ge=0, lt=1, description="share of the past in the running means")] = 0.99

    config: Config

    @hookimpl
    def on_setup(self, ctx: Context) -> None:
        self.real, self.fake, self.joined = (torch.zeros((), device=ctx.device) for _ in range(3))

    @hookimpl
    def d_loss_terms(self, ctx: Context) -> dict[str, Tensor]:
        real, fake = ctx.real_out.logits, ctx.fake_out.logits
        share = self.joined.clamp(min=1e-30)  # of the averages that is not their start
        means = ((average / share).to(real.dtype) for average in (self.real, self.fake))
        weight = ctx.value(self.config.weight) * (self.joined > 0)
        return {"penalty": weight * lecam_penalty(real, fake, *means)}

    @hookimpl
    def after_d_step(self, ctx: Context) -> None:
        decay, updated = self.config.decay, ctx.updated
        join_(self.real, ctx.real_out.logits.mean(), decay, updated)
        join_(self.fake, ctx.fake_out.logits.mean(), decay, updated)
        join_(self.joined, torch.ones_like(self.joined), decay, updated)

    @hookimpl
    def log_scalars(self, ctx: Context) -> dict[str, Tensor]:
        share = self.joined.clamp(min=1e-30)
        return {"real_mean": self.real / share, "fake_mean": self.fake / share}

    def tensors(self) -> dict[str, Tensor]:
        return {"real": self.real, "fake": self.fake, "joined": self.joined}
