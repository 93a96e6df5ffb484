"""Halving and doubling of maps through a low-pass filter, for maps of any size.

The filter is the binomial kernel [1, 3, 3, 1] of StyleGAN2 (Karras et al. 2020, official code). Repeating pixels, or
averaging pairs of them, is the box [1, 1], and [1, 3, 3, 1] is that box after the kernel [1, 2, 1]. The latter is two
boxes of stride 1. Pooling is therefore all that is needed: no tensor has to be kept, and gradients sum in a fixed order
on every device.

A doubled map is bilinear interpolation. At an edge, both repeat the pixels there.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from gantricks.networks.halving import Size


def blur(x: Tensor) -> Tensor:
    """Return maps (B, C, H, W) under the kernel [1, 2, 1] / 4 along both axes, with the pixels at an edge beyond it."""
    pairs = avg_pool2d(x, 2, stride=1, padding=1, count_include_pad=False)
    return avg_pool2d(pairs, 2, stride=1)


def doubled(x: Tensor, size: Size) -> Tensor:
    """Return maps (B, C, ceil(H / 2), ceil(W / 2)) at `size`, (H, W), by bilinear interpolation."""
    height, width = x.shape[-2:]
    repeated = interpolate(x, size=(2 * height, 2 * width))
    return blur(repeated)[..., : size[0], : size[1]]


def halved(x: Tensor) -> Tensor:
    """Return maps (B, C, H, W) at (ceil(H / 2), ceil(W / 2)), under [1, 3, 3, 1] / 8 along both axes."""
    return avg_pool2d(blur(x), 2, ceil_mode=True)


class Double(nn.Module):
    """`doubled` as a layer."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return doubled(x, self.size)

    def extra_repr(self) -> str:
        return f"size={self.size}"


class Halve(nn.Module):
    """`halved` as a layer."""

    def forward(self, x: Tensor) -> Tensor:
        return halved(x)
