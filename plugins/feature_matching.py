"""Feature matching: the generator matches the mean of the discriminator's features instead of its verdict.

`norm` is the distance of the means. With "l2" it is the mean over features of squared differences (the official code on
MNIST). With "l1" it is the mean of absolute differences (CIFAR-10 and SVHN).

D's verdict does not enter G's loss, so tricks on G's labels have no effect.

The real batch goes through the updated D once more in the G step, without gradient. Where D mixes samples and scores
reals and fakes jointly, the G step does so already, and nothing is added.

`fresh = true` takes a further real batch for G, which D has not just been trained on, as the official code does. D then
scores it alone, also where it mixes samples, and an epoch has half as many steps.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from gantricks import Context, Trick, hookimpl

Norm = Literal["l2", "l1"]


def feature_distance(real: Tensor, fake: Tensor, norm: Norm = "l2") -> Tensor:
    """Mean over features of (E f(x) - E f(G(z)))², or of its absolute value for "l1"; 0-dim, float32 at least.

    `real` (B, A) and `fake` (B', A) are features; the expectations are over each batch by itself, so the batches need
    not be of one size. No gradient flows to `real`.

    Source: Salimans et al. 2016, §3.1; the mean over features and "l1" are those of the official code.
    """
    dtype = torch.promote_types(fake.dtype, torch.float32)
    gap = real.detach().to(dtype).mean(0) - fake.to(dtype).mean(0)
    return gap.square().mean() if norm == "l2" else gap.abs().mean()


class FeatureMatching(Trick):
    """Feature matching: G makes the mean features of its samples equal those of real ones; D trains as before.

    The features are those of D's last layer before its head. G no longer maximises D's output, which it can do by
    overtraining on the present D. It reproduces statistics that D, by its own training, has found to tell real from
    fake. That is stable, and the paper's choice for semi-supervised classification.

    When it hurts: means say nothing of the variety within a batch. Where looks count and not classification, the paper
    found samples better with minibatch discrimination.

    Source: Salimans et al. 2016, §3.1 and official code.
    """

    forwards = {"d": 1}

    cautions = {"minimax": "it differs from the default in G's loss only, which feature matching replaces"}

    class Config(Trick.Config):
        norm: Annotated[Norm, Field(description="mean squared (l2) or mean absolute (l1) difference of the means")] = (
            "l2"
        )
        fresh: Annotated[bool, Field(description="match a real batch of its own, not that of D's step")] = False

    config: Config

    @hookimpl
    def g_objective(self, ctx: Context) -> dict[str, Tensor]:
        real = self._of_another(ctx) if self.config.fresh else ctx.real_out.features
        return {"distance": feature_distance(real, ctx.fake_out.features, self.config.norm)}

    @staticmethod
    @torch.no_grad()
    def _of_another(ctx: Context) -> Tensor:
        features: Tensor = ctx.discriminator(*ctx.d_input(ctx.another_real(), True)).features
        return features
