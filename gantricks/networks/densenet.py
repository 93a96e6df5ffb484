"""A discriminator of densely connected convolutions, for images of any size: the blocks of Huang et al. 2017."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from gantricks.networks.base import (
    Discriminator,
    GivenDiscriminator,
    Network,
    Shapes,
    given_capabilities,
)
from gantricks.networks.halving import Size, halvings, misfits
from gantricks.networks.resnet import pooling


class DenseNet(Network):
    """A discriminator whose layers see the maps of all layers before them in their block (Huang et al. 2017).

    Every layer is one concatenation away from its block's input and output, so gradients, those that G learns from
    included, pass many layers almost undiminished, with few parameters. A first convolution makes `channels` maps of
    the image. Each block then appends `growth` maps `layers` times, halves their number by a 1x1 convolution, and the
    image by pooling that rounds up; D judges the flattened last map. Layers are convolution, batch norm (off by
    default, and never in the first block), ReLU. Weights start from N(0, 2 / fan_in) (He et al. 2015). Conditional: D
    adds a projection of the class (Miyato & Koyama 2018). For G use another network.
    """

    class DiscriminatorConfig(GivenDiscriminator):
        channels: Annotated[int, Field(ge=1, le=1024, description="feature maps made of the image")] = 32
        growth: Annotated[int, Field(ge=1, le=256, description="feature maps that each layer appends")] = 16
        layers: Annotated[int, Field(ge=1, le=32, description="layers in each block")] = 4
        depth: Annotated[
            int | None,
            Field(ge=1, le=7, description="halvings of the image; left out: until the smaller side is at most 5"),
        ] = None
        batch_norm: Annotated[bool, Field(description="batch norm in every block but the first")] = False
        pool: Annotated[
            Literal["average", "max"], Field(description="what halves the maps: the mean of four pixels or the largest")
        ] = "average"

    @staticmethod
    def problems(role: str, config: Any, shapes: Shapes) -> list[str]:
        return misfits("densenet", config, shapes)

    @staticmethod
    def capabilities(role: str, config: Any, shapes: Shapes) -> set[str]:
        able = {"convolutions"}
        # the first block has no batch norm, and may be the only block
        blocks = len(halvings(shapes.sample[-2:], config.depth)) - 1 if len(shapes.sample) == 3 else 0
        if config.batch_norm and blocks > 1:
            able.add("batch_norm")
        if config.pool == "max":
            able.add("max_pool")
        return able | given_capabilities(config)

    @staticmethod
    def maps(role: str, config: Any, shapes: Shapes) -> list[Size]:
        height, width = shapes.sample[-2:]
        return halvings((height, width), config.depth)

    @staticmethod
    def discriminator(config: Any, shapes: Shapes) -> Discriminator:
        image_channels, height, width = shapes.sample
        sizes = halvings((height, width), config.depth)

        stem = _layer(image_channels, config.channels, 3, norm=False)
        blocks = OrderedDict[str, nn.Module](stem=nn.Sequential(stem))
        channels = config.channels
        for number in range(1, len(sizes)):
            norm = config.batch_norm and number > 1
            dense = Dense(channels, config.growth, config.layers, norm)
            outer = math.ceil((channels + config.growth * config.layers) / 2)
            transition = _layer(channels + config.growth * config.layers, outer, 1, norm, pooling(config.pool))
            blocks[f"down{number}"] = nn.Sequential(OrderedDict({"dense": dense} | transition))
            channels = outer
        blocks["flatten"] = nn.Flatten()

        network = Discriminator(shapes, channels * math.prod(sizes[-1]), config.conditional, config.conditioned)
        network.init_std = None
        network.body = nn.Sequential(blocks)
        network.head = nn.Linear(network.feature_dim, 1)
        return network


class Dense(nn.Sequential):
    """(B, C, H, W) to (B, C + layers · growth, H, W): the input, followed by each layer's maps, which are computed from
    all maps before them.
    """

    def __init__(self, channels: int, growth: int, layers: int, norm: bool) -> None:
        widths = [channels + number * growth for number in range(layers)]
        super().__init__(
            OrderedDict(
                (f"layer{number}", nn.Sequential(_layer(inner, growth, 3, norm)))
                for number, inner in enumerate(widths, start=1)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = torch.cat([x, layer(x)], 1)
        return x


def _layer(
    inner: int, outer: int, kernel: int, norm: bool, pool: nn.Module | None = None
) -> OrderedDict[str, nn.Module]:
    """Return convolution, pooling if given, batch norm if wanted, and ReLU."""
    layers = OrderedDict[str, nn.Module](conv=nn.Conv2d(inner, outer, kernel, padding=kernel // 2, bias=not norm))
    if pool is not None:
        layers["pool"] = pool
    if norm:
        layers["norm"] = nn.BatchNorm2d(outer)
    layers["activation"] = nn.ReLU()
    return layers
