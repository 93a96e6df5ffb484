"""Strided convolutions for images of any size: the architecture of Radford et al. 2015."""

from __future__ import annotations

import math
from collections import OrderedDict
from itertools import pairwise
from typing import Annotated, Any

from pydantic import Field
from torch import nn

from gantricks.networks.base import (
    Discriminator,
    Generator,
    GivenDiscriminator,
    GivenGenerator,
    Network,
    Shapes,
    given_capabilities,
)
from gantricks.networks.halving import HalvingOptions, Size, halvings, misfits


class Layout(HalvingOptions):
    """Options of either player."""

    kernel: Annotated[int, Field(ge=3, le=5, description="height and width of every convolution")] = 4
    batch_norm: Annotated[bool, Field(description="batch norm after all but G's output and D's first convolution")] = (
        True
    )


class DCGAN(Network):
    """Strided convolutions with batch norm, for images of any size (Radford et al. 2015).

    The discriminator halves the image with stride 2, rounding up (150 → 75 → 38 → 19 → 10 → 5), and judges
    the flattened last map; the generator retraces exactly these sizes, from a projection of the latents to
    the image. Batch norm follows every layer but G's output and D's first; G uses ReLU and ends in tanh, D
    uses LeakyReLU (§3). Weights start from N(0, 0.02²) (§4). Kernels are 4 wide by default, as in the
    authors' Torch code: multiples of the stride weigh every pixel alike, which spares G checkerboards.
    Conditional: G receives an embedding of the class beside the latents, D adds a projection of it (Miyato
    & Koyama 2018).
    """

    class GeneratorConfig(Layout, GivenGenerator):
        """Options of G."""

    class DiscriminatorConfig(Layout, GivenDiscriminator):
        slope: Annotated[float, Field(ge=0, le=1, description="slope of LeakyReLU below zero")] = 0.2

    @staticmethod
    def problems(role: str, config: Any, shapes: Shapes) -> list[str]:
        return misfits("dcgan", config, shapes)

    @staticmethod
    def capabilities(role: str, config: Any, shapes: Shapes) -> set[str]:
        able = {"convolutions"}
        # D's first block has no batch norm, and may be the only block
        blocks = len(halvings(shapes.sample[-2:], config.depth)) - 1 if len(shapes.sample) == 3 else 0
        if config.batch_norm and (role == "generator" or blocks > 1):
            able.add("batch_norm")
        return able | given_capabilities(config)

    @staticmethod
    def maps(role: str, config: Any, shapes: Shapes) -> list[Size]:
        height, width = shapes.sample[-2:]
        return halvings((height, width), config.depth)

    @staticmethod
    def generator(config: Any, shapes: Shapes) -> Generator:
        network = Generator(shapes, config.conditional, config.embedding_dim, config.condition_dim * config.conditioned)
        image_channels, height, width = shapes.sample
        sizes = halvings((height, width), config.depth)[::-1]
        widths = config.widths(len(sizes) - 1)[::-1]
        bias = not config.batch_norm

        smallest = (widths[0], *sizes[0])
        project = {
            "linear": nn.Linear(network.input_dim, math.prod(smallest), bias=bias),
            "unflatten": nn.Unflatten(1, smallest),
        }
        blocks = {"project": _block(project, widths[0], config.batch_norm, nn.ReLU())}
        for number, (inner, outer) in enumerate(pairwise(widths)):
            conv = doubling(inner, outer, config.kernel, sizes[number], sizes[number + 1], bias)
            blocks[f"up{number + 1}"] = _block({"conv": conv}, outer, config.batch_norm, nn.ReLU())
        network.body = nn.Sequential(OrderedDict[str, nn.Module](blocks))

        conv = doubling(widths[-1], image_channels, config.kernel, sizes[-2], sizes[-1], bias=True)
        network.head = nn.Sequential(OrderedDict[str, nn.Module](conv=conv, activation=nn.Tanh()))
        return network

    @staticmethod
    def discriminator(config: Any, shapes: Shapes) -> Discriminator:
        image_channels, height, width = shapes.sample
        sizes = halvings((height, width), config.depth)
        widths = [image_channels, *config.widths(len(sizes) - 1)]

        blocks = OrderedDict[str, nn.Module]()
        for number, (inner, outer) in enumerate(pairwise(widths)):
            norm = config.batch_norm and number > 0
            conv = halving(inner, outer, config.kernel, sizes[number], bias=not norm)
            blocks[f"down{number + 1}"] = _block({"conv": conv}, outer, norm, nn.LeakyReLU(config.slope))
        blocks["flatten"] = nn.Flatten()

        network = Discriminator(shapes, widths[-1] * math.prod(sizes[-1]), config.conditional, config.conditioned)
        network.body = nn.Sequential(blocks)
        network.head = nn.Linear(network.feature_dim, 1)
        return network


def _padding(kernel: int, size: Size) -> Size:
    """Return the padding with which stride 2 takes a side n to ceil(n / 2). An even kernel needs one more where n is
    odd.
    """
    height, width = ((kernel - 1 + side % 2) // 2 for side in size)
    return height, width


def halving(inner: int, outer: int, kernel: int, size: Size, bias: bool) -> nn.Conv2d:
    """Return a convolution (B, inner, H, W) to (B, outer, ceil(H / 2), ceil(W / 2)), (H, W) = `size`."""
    return nn.Conv2d(inner, outer, kernel, stride=2, padding=_padding(kernel, size), bias=bias)


def doubling(inner: int, outer: int, kernel: int, size: Size, target: Size, bias: bool) -> nn.ConvTranspose2d:
    """Return a transposed convolution (B, inner, *size) to (B, outer, *target), the adjoint of the halving of `target`
    to `size`.
    """
    padding = _padding(kernel, target)
    # the difference to the plain formula (n - 1) · 2 - 2 · padding + kernel
    height, width = (t - (2 * (s - 1) - 2 * p + kernel) for s, t, p in zip(size, target, padding, strict=True))
    return nn.ConvTranspose2d(
        inner, outer, kernel, stride=2, padding=padding, output_padding=(height, width), bias=bias
    )


def _block(layers: dict[str, nn.Module], channels: int, norm: bool, activation: nn.Module) -> nn.Sequential:
    """Return a block of these layers, batch norm if wanted, and the activation."""
    norms: dict[str, nn.Module] = {"norm": nn.BatchNorm2d(channels)} if norm else {}
    return nn.Sequential(OrderedDict(layers | norms | {"activation": activation}))
