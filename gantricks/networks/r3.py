"""Grouped residual blocks without norms, for images of any size: the architecture of Huang et al. 2024 (R3GAN)."""

from __future__ import annotations

import math
from collections import OrderedDict
from itertools import pairwise
from typing import Annotated, Any

import torch
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
from gantricks.networks.resample import Double, Halve
from gantricks.rng import Rng

SLOPE = 0.2


class _Layout(HalvingOptions):
    """Options of either player."""

    channels: Annotated[int, Field(ge=1, le=1024, description="feature maps at the full size of the image")] = 32
    blocks: Annotated[int, Field(ge=1, le=8, description="residual blocks at each size")] = 2
    expansion: Annotated[int, Field(ge=1, le=8, description="how many times wider a block is inside")] = 2
    group_size: Annotated[
        int,
        Field(
            ge=1,
            le=1024,
            description="maps in each group of the 3x3 convolutions; fewer where the width is no multiple of it",
        ),
    ] = 16


class R3(Network):
    """Grouped residual blocks without norms, for images of any size (Huang et al. 2024, R3GAN).

    Each block adds to its input a 1x1 convolution to `expansion` times as many maps, a grouped 3x3 convolution, and a
    1x1 convolution back, with biases and LeakyReLU between them. Nothing normalises: the last convolution of a block
    starts at 0, and the others get smaller with the number of blocks, so that the network starts as a shallow one. Maps
    are halved and doubled through the kernel [1, 3, 3, 1], as in the authors' code. G starts from a learned smallest
    map whose channels the latents weigh, D ends by weighing each channel of its smallest map with another. G's output
    is linear. The authors train it with relativistic pairs, R1 and R2. Conditional: G receives an embedding of the
    class beside the latents, D adds a projection of it (Miyato & Koyama 2018).
    """

    class GeneratorConfig(_Layout, GivenGenerator):
        """Options of G."""

    class DiscriminatorConfig(_Layout, GivenDiscriminator):
        """Options of D."""

    @staticmethod
    def problems(role: str, config: Any, shapes: Shapes) -> list[str]:
        return misfits("r3", config, shapes)

    @staticmethod
    def capabilities(role: str, config: Any, shapes: Shapes) -> set[str]:
        return {"convolutions"} | given_capabilities(config)

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
        widths = config.widths(len(sizes))[::-1]
        residuals = config.blocks * len(sizes)

        basis = OrderedDict[str, nn.Module](
            linear=ScaledLinear(network.input_dim, widths[0]), basis=GenerativeBasis(widths[0], sizes[0])
        )
        blocks = OrderedDict[str, nn.Module](project=nn.Sequential(basis | _residuals(config, widths[0], residuals)))
        for number, (inner, outer) in enumerate(pairwise(widths), start=1):
            up = _change(inner, outer) | {"upsample": Double(sizes[number])} | _residuals(config, outer, residuals)
            blocks[f"up{number}"] = nn.Sequential(OrderedDict(up))
        network.body = nn.Sequential(blocks)
        network.head = nn.Sequential(OrderedDict(conv=ScaledConv2d(widths[-1], image_channels, 1, bias=False)))
        return network

    @staticmethod
    def discriminator(config: Any, shapes: Shapes) -> Discriminator:
        image_channels, height, width = shapes.sample
        sizes = halvings((height, width), config.depth)
        widths = config.widths(len(sizes))
        residuals = config.blocks * len(sizes)

        entry: dict[str, nn.Module] = {"from_image": ScaledConv2d(image_channels, widths[0], 1, bias=False)}
        blocks = OrderedDict[str, nn.Module]()
        for number, (inner, outer) in enumerate(pairwise(widths), start=1):
            pool = {"pool": Halve(sizes[number - 1])}
            down = entry | _residuals(config, inner, residuals) | pool | _change(inner, outer)
            blocks[f"down{number}"] = nn.Sequential(OrderedDict(down))
            entry = {}
        # a kernel as large as the map, one for each channel: the counterpart of G's basis
        weigh = ScaledConv2d(widths[-1], widths[-1], sizes[-1], groups=widths[-1], bias=False)
        last = _residuals(config, widths[-1], residuals) | {"basis": weigh}
        blocks["weigh"] = nn.Sequential(OrderedDict(last))
        blocks["flatten"] = nn.Flatten()

        network = Discriminator(shapes, widths[-1], config.conditional, config.conditioned)
        network.init_std = None
        network.body = nn.Sequential(blocks)
        network.head = nn.Linear(network.feature_dim, 1, bias=False)
        return network


class ScaledConv2d(nn.Conv2d):
    """A convolution whose weights start ~ N(0, gain² / fan_in), and its biases at 0."""

    def __init__(self, *args: Any, gain: float = 1, **options: Any) -> None:
        super().__init__(*args, **options)
        self.gain = gain

    def initialise(self, rng: Rng) -> None:
        _start(self, self.gain, rng)


class ScaledLinear(nn.Linear):
    """A linear layer without bias, whose weights start ~ N(0, 1 / fan_in)."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__(inner, outer, bias=False)

    def initialise(self, rng: Rng) -> None:
        _start(self, 1, rng)


class GenerativeBasis(nn.Module):
    """Weights (B, C) to maps (B, C, H, W): each weighs one learned map of `size`, which starts ~ N(0, 1)."""

    def __init__(self, channels: int, size: Size) -> None:
        super().__init__()
        self.basis = nn.Parameter(torch.empty(channels, *size))

    def initialise(self, rng: Rng) -> None:
        self.basis.copy_(rng.normal(self.basis.shape))

    def forward(self, weights: Tensor) -> Tensor:
        return weights[:, :, None, None] * self.basis


class Added(nn.Sequential):
    """Layers in turn whose result is added to their input."""

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = super().forward(x)
        return x + branch


def _change(inner: int, outer: int) -> dict[str, nn.Module]:
    """Return the layer that changes the number of maps, where it changes."""
    return {} if inner == outer else {"conv": ScaledConv2d(inner, outer, 1, bias=False)}


def _residuals(config: Any, channels: int, residuals: int) -> dict[str, nn.Module]:
    """Return the residual blocks of one size. `residuals` is the number of all those of the network."""
    return {f"residual{number}": _residual(config, channels, residuals) for number in range(1, config.blocks + 1)}


def _residual(config: Any, channels: int, residuals: int) -> Added:
    """Return one residual block. Fixup's rule for m = 3 layers in a branch: L^(-1 / (2m - 2)) times He's start, for L
    branches, and 0 in the last layer (Zhang et al. 2019, Fixup Initialization).
    """
    gain = math.sqrt(2 / (1 + SLOPE**2)) * residuals ** (-1 / 4)
    inside = channels * config.expansion
    groups = inside // math.gcd(inside, config.group_size)
    return Added(
        OrderedDict[str, nn.Module](
            conv1=ScaledConv2d(channels, inside, 1, gain=gain),
            activation1=nn.LeakyReLU(SLOPE),
            conv2=ScaledConv2d(inside, inside, 3, padding=1, groups=groups, gain=gain),
            activation2=nn.LeakyReLU(SLOPE),
            conv3=ScaledConv2d(inside, channels, 1, bias=False, gain=0),
        )
    )


def _start(layer: nn.Conv2d | nn.Linear, gain: float, rng: Rng) -> None:
    layer.weight.copy_(rng.normal(layer.weight.shape) * (gain / math.sqrt(layer.weight[0].numel())))
    if layer.bias is not None:
        layer.bias.zero_()
