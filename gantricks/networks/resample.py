"""Halving and doubling of maps through a low-pass filter, for maps of any size.

The filter is the binomial kernel [1, 3, 3, 1] of StyleGAN2 (Karras et al. 2020, official code). Repeating pixels, or
averaging pairs of them, is the box [1, 1], and [1, 3, 3, 1] is that box after the kernel [1, 2, 1], which takes the
pixels at an edge beyond it. A doubled map is bilinear interpolation.

Each is a linear map of the rows and one of the columns, and is played as two products with small matrices: several
times as fast on a CPU as pooling, and products can be differentiated and compiled as often as a penalty asks.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gantricks.networks.halving import Size
from gantricks.rng import Rng


def smoothing(side: int) -> Tensor:
    """Return the matrix (n, n) of the kernel [1, 2, 1] / 4 on n pixels, with the pixels at an edge beyond it."""
    matrix = torch.zeros(side, side, dtype=torch.float64, device="cpu")
    for row in range(side):
        for offset, weight in ((-1, 0.25), (0, 0.5), (1, 0.25)):
            matrix[row, min(max(row + offset, 0), side - 1)] += weight
    return matrix


def doubling(side: int) -> Tensor:
    """Return the matrix (n, ceil(n / 2)) that interpolates n pixels from half as many."""
    half = -(-side // 2)
    return (smoothing(2 * half) @ torch.eye(half, dtype=torch.float64, device="cpu").repeat_interleave(2, 0))[:side]


def halving(side: int) -> Tensor:
    """Return the matrix (ceil(n / 2), n) of the kernel [1, 3, 3, 1] / 8 at every second of n pixels."""
    half = -(-side // 2)
    pairs = torch.eye(half, dtype=torch.float64, device="cpu").repeat_interleave(2, 1)[:, :side]
    return pairs / pairs.sum(1, keepdim=True) @ smoothing(side)


class _Resample(nn.Module):
    """Maps (B, C, H, W) under `matrix` of H along their columns and of W along their rows."""

    matrix: Callable[[int], Tensor]
    rows: Tensor
    columns: Tensor

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size
        # no part of a checkpoint: the size gives them
        for name, side in zip(("rows", "columns"), size, strict=True):
            self.register_buffer(name, torch.empty(type(self).matrix(side).shape), persistent=False)

    def initialise(self, rng: Rng) -> None:
        for held, side in zip((self.rows, self.columns), self.size, strict=True):
            held.copy_(type(self).matrix(side))

    def forward(self, x: Tensor) -> Tensor:
        return self.rows.to(x.dtype) @ (x @ self.columns.t().to(x.dtype))

    def extra_repr(self) -> str:
        return f"size={self.size}"


class Double(_Resample):
    """Takes maps (B, C, ceil(H / 2), ceil(W / 2)) to `size`, (H, W), by bilinear interpolation."""

    matrix = staticmethod(doubling)


class Halve(_Resample):
    """Takes maps (B, C, H, W) of `size`, (H, W), to (ceil(H / 2), ceil(W / 2)), by [1, 3, 3, 1] / 8 along both axes."""

    matrix = staticmethod(halving)
