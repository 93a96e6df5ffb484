"""Pixel norm: in G, the maps at each pixel are brought to a mean square of 1.

It follows every activation in G's body, within residual branches too. In fully connected layers the numbers of a layer
stand for the maps at a pixel. The norm has no weights, and does in eval mode what it does in training.

It takes the place of batch norm. Where a batch norm was, before an activation, only its bias is kept: the convolution
has none of its own. G's last layer, which makes the image, is not normalised.

`latents = true` normalises G's latents too, as Karras et al. do, wherever they are drawn. This is the sphere of
spherical_latents.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from gantricks import Context, Generator, Problem, Trick, UserError, hookimpl

_BatchNorm = nn.modules.batchnorm._BatchNorm
EPSILON = 1e-8
"""Added to the mean square, as in the paper."""


def pixel_norm(x: Tensor) -> Tensor:
    """Maps (B, C, …) over the root of their mean square over C, pixel by pixel: b = a / √(mean_c a² + 1e-8).

    In float32 at least; the result has the maps' type. Source: Karras et al. 2018, Progressive Growing of GANs, §4.2.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (wide * torch.rsqrt(wide.square().mean(1, keepdim=True) + EPSILON)).to(x.dtype)


class PixelwiseNorm(nn.Module):
    """`pixel_norm` as a layer."""

    def forward(self, x: Tensor) -> Tensor:
        return pixel_norm(x)


class Bias(nn.Module):
    """Adds a bias (C,) to maps (B, C, …), the one that a batch norm had."""

    def __init__(self, bias: nn.Parameter) -> None:
        super().__init__()
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias.to(x.dtype).reshape(-1, *[1] * (x.dim() - 2))


class PixelNorm(Trick):
    """Pixel norm in G: after each hidden layer, the vector of maps at every pixel is given a mean square of 1.

    When G and D compete, the signals in G can grow without end. A norm of each pixel stops this, and, unlike batch
    norm, leaves every sample alone and has neither noise nor statistics to keep.

    When it hurts: it erases how strong a pixel is altogether, and keeps directions only. With few maps little is left.
    It does not bring maps to mean 0, so batch norm trains faster where batches are large.

    Source: Karras et al. 2018, Progressive Growing of GANs, §4.2.
    """

    replaces = {"generator_batch_norm"}

    class Config(Trick.Config):
        latents: Annotated[bool, Field(description="normalise the latents too")] = False

    config: Config

    @classmethod
    def facts(cls, config: Config) -> dict[str, Any]:
        return {"replaces": {*cls.replaces, *(["latent_distribution"] if config.latents else [])}}

    @hookimpl
    def latents(self, z: Tensor, ctx: Context) -> Tensor:
        return pixel_norm(z) if self.config.latents else z

    @hookimpl
    def transform_generator(self, network: Generator, ctx: Context) -> Generator:
        for place, norm in [(place, m) for place, m in network.named_modules() if isinstance(m, _BatchNorm)]:
            network.set_submodule(place, Bias(norm.bias) if norm.affine else nn.Identity())
        activations = [
            (place, module)
            for place, module in network.body.named_modules(remove_duplicate=False)
            if re.fullmatch(r"activation\d*", place.rpartition(".")[2])
        ]
        for place, activation in activations:
            layers = OrderedDict[str, nn.Module](activation=activation, pixel_norm=PixelwiseNorm())
            network.body.set_submodule(place, nn.Sequential(layers))
        if not activations:
            raise UserError(
                Problem(
                    "this generator has no activation in its body that a pixel norm could follow",
                    f"tricks.{ctx.name}",
                    'use a network whose blocks have one, such as network = "dcgan", or switch the trick off',
                )
            )
        return network
