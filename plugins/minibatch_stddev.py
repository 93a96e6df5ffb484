"""Minibatch standard deviation: the discriminator sees how much the samples of its batch vary.

The batch is split into groups of `group`. The standard deviation of each of D's last features over a group is averaged
to one number, which is appended to the features of the group's members. The weight of this number in D's last layer
starts at 0, and the other weights are kept. So D judges at the start as it would without the trick. Karras et al.
append the number as a constant map before the last convolution. D's last layer here sees a vector.

Reals and fakes are separate batches, so the trick needs [tricks.separate_batches]. The batch size must be a multiple of
`group`, or smaller than it: then the batch is one group. A batch of 1 does not vary and is refused. The trick replaces
D's head, as minibatch discrimination does.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from gantricks import Context, Discriminator, Setting, Trick, hookimpl

EPSILON = 1e-8
"""Added to the variance, as in the official code: it bounds the square root's slope where all samples agree."""


def deviation(features: Tensor, group: int) -> Tensor:
    """How much each sample's group varies: (B, A) to (B, 1), float32 at least.

    The batch is split into B / `group` groups, sample i into number i mod (B / `group`); the standard deviation of each
    feature over a group, averaged over the features, goes to every member. Source: Karras et al. 2018, §3, and official
    code.

    Raises ValueError where `group` does not divide B.
    """
    size, width = features.shape
    if size % group:
        raise ValueError(f"a batch of {size} cannot be split into groups of {group}")
    grouped = features.to(torch.promote_types(features.dtype, torch.float32)).reshape(group, -1, width)
    variance = (grouped - grouped.mean(0)).square().mean(0)
    return (variance + EPSILON).sqrt().mean(1, keepdim=True).repeat(group, 1)


class Deviation(nn.Module):
    """Features f (B, A) to concat(f, deviation) (B, A + 1); a batch smaller than `group` is one group."""

    mixes_samples = True

    def __init__(self, group: int) -> None:
        super().__init__()
        self.group = group

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            appended = deviation(features, min(self.group, len(features)))
        return torch.cat([features, appended.to(features.dtype)], 1)

    def extra_repr(self) -> str:
        return f"group={self.group}"


class Head(nn.Sequential):
    """Features (B, A) to logits (B, 1), by way of their deviation."""

    linear: nn.Linear

    def __init__(self, features: int, group: int) -> None:
        super().__init__(OrderedDict[str, nn.Module](deviation=Deviation(group), linear=nn.Linear(features + 1, 1)))


class MinibatchStddev(Trick):
    """Minibatch standard deviation: D is told, beside each sample's features, how much the samples around it vary.

    A generator that collapses makes batches that vary less than real ones. A D that looks at one sample at a time
    cannot tell. The trick is the cheap sibling of minibatch discrimination: one number instead of a hundred, and no
    weights but its own in D's last layer.

    When it hurts: what D says of a sample depends on its group. Gradient penalties lose their per-sample meaning. One
    average over all features shows that variation is missing, not where.

    Source: Karras et al. 2018, "Progressive Growing of GANs", §3, and official code.
    """

    needs = {"separate_passes"}
    replaces = {"d_head"}
    cautions = {
        "input_grad": "D's score of a sample depends on its group, and the penalty takes it for the sample's own",
        "spectral_norm": "listed before it, spectral_norm does not reach D's new head; list it after",
    }

    class Config(Trick.Config):
        group: Annotated[int, Field(ge=2, le=4096, description="samples whose variation is measured together")] = 4

    config: Config

    def problems(self, setting: Setting) -> list[str]:
        return [sentence for size in setting.batch_sizes for sentence in self._problems(size, setting.group)]

    def _problems(self, size: int, pack: int) -> list[str]:
        # of what D judges at once, each varies as one
        group, packs = self.config.group, size // pack
        if packs == 1:
            return [f"a batch of {size} does not vary; let batches hold {2 * pack} samples or more"]
        if packs > group and packs % group:
            below, above = packs // group * group * pack, (packs // group + 1) * group * pack
            return [
                f"a batch of {size} cannot be split into groups of {group * pack}; "
                f"let batches hold {below} or {above}, or write a group that divides it"
            ]
        return []

    @hookimpl
    def transform_discriminator(self, network: Discriminator, ctx: Context) -> Discriminator:
        width, group = network.feature_dim, self.config.group
        head = ctx.build("head", lambda: Head(width, group), like=network)
        with torch.no_grad():
            head.linear.weight[:, width:].zero_()
            if isinstance(network.head, nn.Linear):
                head.linear.weight[:, :width].copy_(network.head.weight)
                head.linear.bias.copy_(network.head.bias)
        network.head = head
        return network
