"""Spherical latents: the generator draws from a sphere, a Gaussian or a cube, and interpolates along great circles."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from gantricks import Context, Setting, Trick, hookimpl

_TINY = 1e-30
"""Norms below this count as 0."""


def to_sphere(z: Tensor) -> Tensor:
    """N(0, 1) draws (B, D) moved along their rays to the sphere of radius √D, where almost all of them are near."""
    return normalize(z, dim=1) * math.sqrt(z.shape[1])


def to_cube(z: Tensor) -> Tensor:
    """N(0, 1) draws (any shape) to U(-1, 1), number by number, through the normal distribution function: 2 Φ(z) - 1."""
    return torch.erf(z / math.sqrt(2))


def to_unit_cube(z: Tensor) -> Tensor:
    """N(0, 1) draws (any shape) to U(0, 1), number by number, through the normal distribution function: Φ(z)."""
    return (1 + torch.erf(z / math.sqrt(2))) / 2


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


class SphericalLatents(Trick):
    """Spherical latents: G's input is drawn from a sphere, or from a cube, instead of a Gaussian.

    In many dimensions nearly all of a Gaussian lies close to a sphere of radius √D. Drawn on that sphere itself (the
    default, `distribution = "sphere"`), no latent is unlikely because of its length, G meets no outliers, and every
    point of a great circle between two latents (`slerp`) is as likely as they are; a straight line between them passes
    where G was never trained. `"uniform"` draws from the cube [-1, 1]^D, as many early GANs did, and `"unit_uniform"`
    from [0, 1]^D, as the official code of Salimans et al. 2016; the list advises against cubes. `"normal"` is the
    baseline.

    When it hurts: with few dimensions a sphere is a thin thing (D = 2: a circle, so G has one degree of freedom less),
    and one dimension is refused. Truncation, which shortens latents, means nothing on a sphere.

    Latents are a function of the Gaussian ones, wherever those are drawn, so seeds keep their meaning in training and
    in sampling. What follows it in the recipe sees its latents. Neutral at distribution = "normal".

    Source: GAN hacks list, point 3; White 2016, "Sampling Generative Networks", §2.1 (slerp).
    """

    neutral = {"distribution": "normal"}
    replaces = {"latent_distribution"}

    class Config(Trick.Config):
        distribution: Annotated[
            Literal["sphere", "normal", "uniform", "unit_uniform"],
            Field(
                description='"sphere": of radius √D; "normal": N(0, 1); "uniform": on [-1, 1], "unit_uniform": on '
                "[0, 1], number by number"
            ),
        ] = "sphere"

    def problems(self, setting: Setting) -> list[str]:
        if setting.latent_dim == 1 and self.config.distribution == "sphere":
            return ["with latent_dim = 1 the sphere is two points; write a larger latent_dim in [generator]"]
        return []

    @hookimpl
    def latents(self, z: Tensor, ctx: Context) -> Tensor:
        return _DISTRIBUTIONS[self.config.distribution](z)


_DISTRIBUTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sphere": to_sphere,
    "normal": lambda z: z,
    "uniform": to_cube,
    "unit_uniform": to_unit_cube,
}
