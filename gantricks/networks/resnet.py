"""Residual blocks for images of any size: the architecture of Miyato et al. 2018."""

from __future__ import annotations

import math
from collections import OrderedDict
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor, nn

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

POOLS: dict[str, type[nn.Module]] = {"average": nn.AvgPool2d, "max": nn.MaxPool2d}


class ResNet(Network):
    """Residual blocks of 3x3 convolutions, for images of any size (Miyato et al. 2018, appendix B.4).

    The sum in each block gives gradients a path past the convolutions, so these networks can be deeper and wider than
    `dcgan` before they stall. The discriminator halves the image after every block, rounding up, by average or max
    pooling, and judges the flattened last map; the generator retraces exactly these sizes by repeating pixels. Two
    convolutions with a ReLU between them are added to the block's input (through a 1x1 convolution where the number of
    maps changes); the sum is divided by √2 so that its scale does not grow with depth. Unlike the paper's, a block
    ends in its norm and activation instead of starting with them, so that surgery finds the blocks of `dcgan`.
    Batch norm is on in G and off in D by default. Weights start from N(0, 2 / fan_in) (He et al. 2015). Spectral norm
    is a trick of its own. Conditional: G receives an embedding of the class beside the latents, D adds a projection
    of it (Miyato & Koyama 2018).
    """

    class GeneratorConfig(HalvingOptions, GivenGenerator):
        batch_norm: Annotated[bool, Field(description="batch norm in every block")] = True

    class DiscriminatorConfig(HalvingOptions, GivenDiscriminator):
        batch_norm: Annotated[bool, Field(description="batch norm in every block but the first")] = False
        pool: Annotated[
            Literal["average", "max"], Field(description="what halves the maps: the mean of four pixels or the largest")
        ] = "average"

    @staticmethod
    def problems(role: str, config: Any, shapes: Shapes) -> list[str]:
        return misfits("resnet", config, shapes)

    @staticmethod
    def capabilities(role: str, config: Any, shapes: Shapes) -> set[str]:
        able = {"convolutions"}
        # D's first block has no batch norm, and may be the only block
        blocks = len(halvings(shapes.sample[-2:], config.depth)) - 1 if len(shapes.sample) == 3 else 0
        if config.batch_norm and (role == "generator" or blocks > 1):
            able.add("batch_norm")
        if role == "discriminator" and config.pool == "max":
            able.add("max_pool")
        return able | given_capabilities(config)

    @staticmethod
    def maps(role: str, config: Any, shapes: Shapes) -> list[Size]:
        height, width = shapes.sample[-2:]
        return halvings((height, width), config.depth)

    @staticmethod
    def generator(config: Any, shapes: Shapes) -> Generator:
        network = Generator(shapes, config.conditional, config.embedding_dim, config.condition_dim * config.conditioned)
        network.init_std = None
        image_channels, height, width = shapes.sample
        sizes = halvings((height, width), config.depth)[::-1]
        widths = config.widths(len(sizes) - 1)[::-1]

        smallest = (widths[0], *sizes[0])
        norm = config.batch_norm
        project = {
            "linear": nn.Linear(network.input_dim, math.prod(smallest), bias=not norm),
            "unflatten": nn.Unflatten(1, smallest),
        }
        blocks = OrderedDict[str, nn.Module](project=_block(project, widths[0], norm))
        # the last block keeps its width at the full size of the image
        for number, (inner, outer) in enumerate(pairwise([*widths, widths[-1]]), start=1):
            up = {"upsample": nn.Upsample(size=sizes[number]), "residual": _residual(inner, outer, norm)}
            blocks[f"up{number}"] = _block(up, outer, norm)
        network.body = nn.Sequential(blocks)

        conv = nn.Conv2d(widths[-1], image_channels, 3, padding=1)
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
            # averaging after the sum equals averaging in each summand, as the paper does it
            down = {"residual": _residual(inner, outer, norm), "pool": pooling(config.pool)}
            blocks[f"down{number + 1}"] = _block(down, outer, norm)
        blocks["flatten"] = nn.Flatten()

        network = Discriminator(shapes, widths[-1] * math.prod(sizes[-1]), config.conditional, config.conditioned)
        network.init_std = None
        network.body = nn.Sequential(blocks)
        network.head = nn.Linear(network.feature_dim, 1)
        return network


class Residual(nn.Module):
    """(B, C, H, W) to (B, C', H, W): the sum of a branch and its input, or the `shortcut` of the input, over √2."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.branch, self.shortcut = branch, shortcut

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.branch(x) + self.shortcut(x)
        return added / math.sqrt(2)


def pooling(kind: str) -> nn.Module:
    """Return a pooling (B, C, H, W) to (B, C, ceil(H / 2), ceil(W / 2)). A window beyond the edge counts only the
    pixels inside.
    """
    return POOLS[kind](2, ceil_mode=True)


def _residual(inner: int, outer: int, norm: bool) -> Residual:
    """Return the residual part of a block: (B, inner, H, W) to (B, outer, H, W)."""
    branch = OrderedDict[str, nn.Module](conv1=nn.Conv2d(inner, outer, 3, padding=1, bias=not norm))
    if norm:
        branch["norm"] = nn.BatchNorm2d(outer)
    branch["activation"] = nn.ReLU()
    branch["conv2"] = nn.Conv2d(outer, outer, 3, padding=1, bias=not norm)
    shortcut = nn.Identity() if inner == outer else nn.Conv2d(inner, outer, 1, bias=False)
    return Residual(nn.Sequential(branch), shortcut)


def _block(layers: dict[str, nn.Module], channels: int, norm: bool) -> nn.Sequential:
    """Return a block of these layers, batch norm if wanted, and ReLU."""
    norms: dict[str, nn.Module] = {"norm": nn.BatchNorm2d(channels)} if norm else {}
    return nn.Sequential(OrderedDict(layers | norms | {"activation": nn.ReLU()}))
