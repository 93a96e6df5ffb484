"""Top-k: the generator learns from the fakes of a batch that the discriminator finds most real.

`share` is k / B, a number or a schedule. The default falls from all fakes to the better half over the run. k is share ·
B to the nearest whole number, and at least 1. The paper lowers k by a factor in each epoch. In public code the factor
is 0.99, until k is B / 2.

D learns from all fakes. Only G's adversarial loss leaves some out. Terms that other tricks add to G's loss still have
all of them. Of equal outputs the earlier one in the batch counts as better.

With packing, k counts what D judges at once. D's output is read as the realness of a sample, which it is for a logit,
a critic's value and an output with a target alike.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from gantricks import Context, Schedule, Scheduled, Trick, hookimpl


def best(outputs: Tensor, share: Tensor) -> Tensor:
    """1 for the k largest of D's outputs and 0 for the others, (B, 1) as `outputs`; k = share · B, rounded, at least 1.

    `share` is 0-dim. Of equal outputs the earlier ones come first. Sinha et al. 2020, §3.
    """
    count = (share * len(outputs)).round().clamp(min=1)
    # ranks, and not torch.topk: its k would have to be a host number
    order = outputs.detach().flatten().argsort(descending=True, stable=True)
    ranks = order.argsort()
    return (ranks < count).to(outputs.dtype).view_as(outputs)


class TopK(Trick):
    """Top-k training: G's loss counts only the fakes of its batch that D takes for the most real.

    D's gradient points a good fake towards the data. At a bad one it may point anywhere, or away from the nearest mode.
    Leaving these out costs nothing.

    When it hurts: G must be good and D must know it, so the share starts at 1. From a small share G learns the modes
    that D likes best and loses the others. Small batches leave few samples: G's gradient becomes noisy.

    Source: Sinha et al. 2020, Top-k Training of GANs, §3.
    """

    neutral = {"share": 1.0}
    trial = {"share": 0.5}
    cautions = {"feature_matching": "G has no adversarial loss there, so no fake is left out"}
    strengths = {"share": (Schedule(start=1.0, end=0.75), Schedule(start=1.0, end=0.5), Schedule(start=1.0, end=0.25))}

    class Config(Trick.Config):
        share: Annotated[
            float | Schedule,
            Scheduled(0.0, 1.0),
            Field(description="share of the fakes that G learns from, a number or a schedule"),
        ] = Schedule(start=1.0, end=0.5)

    config: Config

    @hookimpl
    def g_weights(self, weights: Tensor, ctx: Context) -> Tensor:
        return weights * best(ctx.fake_out.logits, ctx.value(self.config.share))
