"""Soft and noisy labels: the discriminator's targets are random numbers near 1 and 0.

BCE is linear in the target. So in expectation this is label smoothing at the means of the intervals, on both sides. The
noise comes on top. Intervals whose mean lies outside [0, 1] are refused without `clip = true`. Gentler intervals such
as [0.9, 0.99] and [0.01, 0.1] are common in practice.

Targets follow the assigned class, so the trick composes with label flipping in either order. G's targets and class
labels are untouched.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field, model_validator
from torch import Tensor

from gantricks import Context, Interval, Rng, Trick, hookimpl


def soften(labels: Tensor, is_real: Tensor, real: Interval, fake: Interval, rng: Rng, clip: bool = False) -> Tensor:
    """Targets drawn uniformly, afresh for each sample: from `real` where `is_real`, from `fake` elsewhere.

    `labels` (B, 1) gives shape and type, `is_real` (B, 1) bool chooses the interval. `clip` bounds draws to [0, 1].
    """
    low = torch.full_like(labels, fake.low).masked_fill(is_real, real.low)
    high = torch.full_like(labels, fake.high).masked_fill(is_real, real.high)
    # lerp stays within its ends where low + u · (high - low) can round past them
    targets = torch.lerp(low, high, rng.uniform(labels.shape).to(labels.dtype))
    return targets.clamp(0, 1) if clip else targets


class SoftLabels(Trick):
    """Soft and noisy labels: D's targets are drawn near 1 for reals and near 0 for fakes, afresh for every image.

    Each target that is called real is drawn from U(0.7, 1.2), each one called fake from U(0.0, 0.3). This keeps D from
    growing certain, so its gradient stays useful to G.

    When it hurts: the fake side rewards G a little for staying where it is. A draw above 1 makes that one image's loss
    unbounded below; the mean, 0.95, keeps the optimum finite. `clip = true` bounds draws to [0, 1].

    Source: GAN hacks list, point 6; the smoothing behind it is Salimans et al. 2016, §3.4.
    """

    needs = {"targets"}
    replaces = {"d_targets"}
    neutral = {"real": (1.0, 1.0), "fake": (0.0, 0.0)}
    strengths = {
        "real": (Interval(0.9, 1.1), Interval(0.7, 1.2), Interval(0.5, 1.2)),
        "fake": (Interval(0.0, 0.1), Interval(0.0, 0.3), Interval(0.0, 0.5)),
    }

    class Config(Trick.Config):
        real: Annotated[Interval, Field(description="targets of samples called real")] = Interval(0.7, 1.2)
        fake: Annotated[Interval, Field(description="targets of samples called fake")] = Interval(0.0, 0.3)
        clip: Annotated[bool, Field(description="bound the draws to [0, 1]")] = False

        @model_validator(mode="after")
        def _optimum_is_finite(self) -> Any:
            for name, (low, high) in {"real": self.real, "fake": self.fake}.items():
                if low < -1 or high > 2:
                    raise ValueError(f"{name} = [{low:g}, {high:g}] is out of range: write ends within [-1, 2]")
            # BCE(s, t) = softplus(s) - t s has no minimum in s where t is above 1 or below 0
            if not self.clip and (sum(self.real) > 2 or sum(self.fake) < 0):
                raise ValueError(
                    "targets whose mean is outside [0, 1] give D's loss no minimum; "
                    "move the interval or set clip = true"
                )
            if sum(self.fake) >= sum(self.real):
                raise ValueError("fake targets must lie below real ones on average; to swap them use label_flipping")
            return self

    config: Config

    @hookimpl
    def d_labels(self, labels: Tensor, is_real: Tensor, ctx: Context) -> Tensor:
        return soften(labels, is_real, self.config.real, self.config.fake, ctx.rng, self.config.clip)
