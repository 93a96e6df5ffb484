"""The space that the generator draws from: ways between two of its points."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

_TINY = 1e-30
"""Norms below this count as 0."""


def slerp(a: Tensor, b: Tensor, t: float | Tensor) -> Tensor:
    """The point a share `t` of the way from `a` to `b` along a great circle, its norm as far between theirs.

    `a`, `b`: (…, D). `t`: a number or a tensor that broadcasts against (…, 1); at 0 and 1 the result is `a` and `b`
    exactly. Between vectors that point the same way, or to or from 0, the way is straight. Opposite ones have no great
    circle of their own, and the way goes over the axis from which `a` is furthest. Source: White 2016, "Sampling
    Generative Networks", §2.1.
    """
    wide = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    start, end = a.to(wide), b.to(wide)
    weight = torch.as_tensor(t, dtype=wide, device=a.device)
    u, v = normalize(start, dim=-1, eps=_TINY), normalize(end, dim=-1, eps=_TINY)
    cosine = (u * v).sum(-1, keepdim=True)
    # the part of v across u: unlike sin ω it keeps its direction, and its digits, near 0° and near 180°
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
    """`points` latents along the great circle from each of `starts` to that of `ends`, both included.

    `starts`, `ends`: (N, D). Returns (N, points, D).
    """
    shares = torch.linspace(0, 1, points, dtype=starts.dtype, device=starts.device)[:, None]
    return slerp(starts[:, None], ends[:, None], shares)
