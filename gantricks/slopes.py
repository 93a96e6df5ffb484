"""The slope of a discriminator, for penalties on it."""

from __future__ import annotations

import torch
from torch import Tensor


def squared_slopes(logits: Tensor, images: Tensor) -> Tensor:
    """Return ‖∇_x D(x)‖² of each logit, (N,): summed over all numbers of its input. It can be differentiated again.

    `logits`: (N, 1), computed from `images` (B, …), a tensor with gradient. Each logit must depend on its own B / N
    consecutive images only, because the gradient of the sum of all logits is taken.
    """
    (slopes,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return slopes.reshape(logits.shape[0], -1).square().sum(1)


def slope_distances(logits: Tensor, images: Tensor, target: float) -> Tensor:
    """Return (‖∇_x D(x)‖ - target)² of each logit, (N,), for `logits` and `images` as above.

    1e-12 inside the root keeps the gradient finite where D is flat. Gulrajani et al. 2017, eq. 3.
    """
    return ((squared_slopes(logits, images) + 1e-12).sqrt() - target).square()
