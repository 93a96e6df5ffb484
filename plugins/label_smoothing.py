"""One-sided label smoothing: the discriminator's target for reals is a little less than 1.

The option `real` is α. Only reals are smoothed. With a target β > 0 for fakes the optimal D is (α p_data + β
p_model) / (p_data + p_model). Where p_data is nearly 0, the fakes there would be rewarded for staying. For the same
reason G's target stays 1. Class labels are untouched.

The trick goes with label flipping in either order: α belongs to what is called real, whatever its origin. It does not
go with soft_labels, which chooses the same targets. Nor does it go with objectives that have no targets (hinge,
Wasserstein, relativistic).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from gantricks import Trick, hookimpl


def smooth(labels: Tensor, is_real: Tensor, real: float) -> Tensor:
    """`labels` (B, 1) with `real` where `is_real` (B, 1) bool, and as they are elsewhere.

    With fakes left at 0 the optimal D is real · p_data / (p_data + p_model) (Salimans et al. 2016, §3.4).
    """
    return labels.masked_fill(is_real, real)


class LabelSmoothing(Trick):
    """One-sided label smoothing: D's target for reals is 0.9 instead of 1; its target for fakes stays 0.

    A D that is asked for certainty drives its logits without end and grows brittle. With the target α the best logit is
    finite, log(α / (1 - α)). A D that overshoots it on reals is pulled back.

    When it hurts: it bounds how certain D can be: D's output is no longer a probability of being real.

    Source: Salimans et al. 2016, "Improved Techniques for Training GANs", §3.4; GAN hacks list, point 6.
    """

    needs = {"targets"}
    replaces = {"d_targets_of_reals"}
    conflicts = {
        "soft_labels": "both choose D's targets for reals, so the later one would erase the earlier; "
        "soft_labels with real = [0.9, 0.9] and fake = [0, 0] is one-sided smoothing"
    }
    neutral = {"real": 1.0}
    strengths = {"real": (0.95, 0.9, 0.7)}

    class Config(Trick.Config):
        real: Annotated[float, Field(gt=0.5, le=1, description="D's target for samples called real")] = 0.9

    config: Config

    @hookimpl
    def d_labels(self, labels: Tensor, is_real: Tensor) -> Tensor:
        return smooth(labels, is_real, self.config.real)
