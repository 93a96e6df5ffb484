"""Spherical latents: the generator draws from a sphere, a Gaussian or a cube.

With n dimensions the radius of the sphere is √n. A straight line between two latents passes where G was never trained;
a great circle does not.

`distribution` has four values. "sphere" is the default; one dimension is refused with it. "uniform" draws from the cube
[-1, 1]^n, as many early GANs did. "unit_uniform" draws from [0, 1]^n, as the official code of Salimans et al. 2016
does. The GAN hacks list advises against cubes. "normal" is the baseline.

Latents are a function of the Gaussian ones, wherever those are drawn. So seeds keep their meaning in training and in
sampling. What follows the trick in the recipe sees its latents.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from gantricks import Context, Setting, Trick, hookimpl


def to_sphere(z: Tensor) -> Tensor:
    """N(0, 1) draws (B, D) moved along their rays to the sphere of radius √D, where almost all of them are near."""
    return normalize(z, dim=1) * math.sqrt(z.shape[1])


def to_cube(z: Tensor) -> Tensor:
    """N(0, 1) draws (any shape) to U(-1, 1), number by number, through the normal distribution function: 2 Φ(z) - 1."""
    return torch.erf(z / math.sqrt(2))


def to_unit_cube(z: Tensor) -> Tensor:
    """N(0, 1) draws (any shape) to U(0, 1), number by number, through the normal distribution function: Φ(z)."""
    return (1 + torch.erf(z / math.sqrt(2))) / 2


class SphericalLatents(Trick):
    """Spherical latents: G's input is drawn from a sphere, or from a cube, instead of a Gaussian.

    In many dimensions nearly all of a Gaussian lies close to a sphere. Drawn on that sphere itself, no latent is
    unlikely because of its length, and G meets no outliers. Every point of a great circle between two latents
    (`gantricks.slerp`) is as likely as they are.

    When it hurts: with few dimensions a sphere is a thin thing. With 2 it is a circle, so G has one degree of freedom
    less. Truncation, which shortens latents, means nothing on a sphere.

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

    config: Config

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
