"""Paths between points of the latent space."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

_TINY = 1e-30
"""A norm below this number counts as 0."""


def slerp(a: Tensor, b: Tensor, t: float | Tensor) -> Tensor:
    """Return the point at the fraction `t` of the way from `a` to `b` along a great circle, with its norm interpolated.

    `a`, `b`: (…, D). `t`: a number or a tensor that broadcasts against (…, 1); at 0 and 1 the result is `a` and `b`
    exactly. Between vectors of the same direction, or where one is 0, the path is straight. Between opposite vectors no
    great circle is unique; the path goes over the axis with which `a` has the largest angle. Source: White 2016,
    "Sampling Generative Networks", §2.1.
    """
    wide = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    start, end = a.to(wide), b.to(wide)
    weight = torch.as_tensor(t, dtype=wide, device=a.device)
    u, v = normalize(start, dim=-1, eps=_TINY), normalize(end, dim=-1, eps=_TINY)
    cosine = (u * v).sum(-1, keepdim=True)
    # the part of v orthogonal to u: unlike sin ω it is precise near 0° and near 180°
    across = v - cosine * u
    sine = across.norm(dim=-1, keepdim=True)

    aligned = sine < math.sqrt(torch.finfo(wide).eps)
    axis = one_hot(u.abs().argmin(-1), u.shape[-1]).to(wide)
    across = torch.where(aligned, axis - (u * axis).sum(-1, keepdim=True) * u, across)

    turned = weight * torch.atan2(sine, cosine)
    direction = normalize(turned.cos() * u + turned.sin() * normalize(across, dim=-1, eps=_TINY), dim=-1, eps=_TINY)
    norm = torch.lerp(start.norm(dim=-1, keepdim=True), end.norm(dim=-1, keepdim=True), weight)
    between = torch.where(aligned & (cosine > 0), torch.lerp(start, end, weight), norm * direction)
    return torch.where(weight == 0, start, torch.where(weight == 1, end, between)).to(torch.result_type(a, b))


def paths(starts: Tensor, ends: Tensor, points: int) -> Tensor:
    """Return `points` latents along the great circle from each row of `starts` to the same row of `ends`, both
    included.

    `starts`, `ends`: (N, D). Returns (N, points, D).
    """
    shares = torch.linspace(0, 1, points, dtype=starts.dtype, device=starts.device)[:, None]
    return slerp(starts[:, None], ends[:, None], shares)
