"""Gaussian noise as a layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gantricks.rng import Rng


def add_noise(x: Tensor, sigma: float, rng: Rng) -> Tensor:
    """Return x + sigma · ε with fresh ε ~ N(0, 1) for every number (any shape)."""
    return torch.add(x, rng.normal_like(x).to(x.dtype), alpha=sigma)


class LayerNoise(nn.Module):
    """`add_noise` in training mode, the identity in eval mode."""

    def __init__(self, sigma: float, rng: Rng) -> None:
        super().__init__()
        self.sigma, self.rng = sigma, rng

    def forward(self, x: Tensor) -> Tensor:
        return add_noise(x, self.sigma, self.rng) if self.training else x

    def extra_repr(self) -> str:
        return f"sigma={self.sigma}"
