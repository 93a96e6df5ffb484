"""Convolutions steered by styles, for images of any size: the generator of Karras et al. 2020 (StyleGAN2).

Weights are stored ~ N(0, 1) and scaled when they are used, by 1 / √fan_in, so that Adam's steps are of one relative
size in all layers (Karras et al. 2018, §4.1). In the mapping, stored weights are 100 times as large and are scaled down
by as much: it learns at a hundredth of the rate.

Sampling is without the noise inputs: a sample is a function of its latents. Noise is drawn in training alone.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import conv2d, leaky_relu, linear

from gantricks.networks.base import (
    GivenGenerator,
    Network,
    Shapes,
    StyleGenerator,
    given_capabilities,
    precision,
)
from gantricks.networks.halving import HalvingOptions, Size, halvings, misfits
from gantricks.networks.resample import Double
from gantricks.rng import Rng

SLOPE = 0.2
GAIN = math.sqrt(2)
MAPPING_RATE = 0.01
EPS = 1e-8


class Style(Network):
    """A generator whose every convolution is steered by a style (Karras et al. 2019, 2020, StyleGAN2).

    A mapping of `mapping_layers` linear layers makes a style of the latents. An affine layer makes a scale of it for
    each input map of a convolution; the convolution's weights are scaled by these and divided, for each output map, by
    the root of the sum of their squares. The first map is learned, noise is added to every map with a learned strength
    that starts at 0 (in training only), and the image is the sum of images made at every size, doubled through the
    kernel [1, 3, 3, 1]. Its output is linear. There is no discriminator of this name: `r3` or `resnet` stand opposite
    it. Tricks can act on its styles. Conditional: an embedding of the class is mapped beside the latents.
    """

    class GeneratorConfig(HalvingOptions, GivenGenerator):
        channels: Annotated[int, Field(ge=1, le=1024, description="feature maps at the full size of the image")] = 32
        style_dim: Annotated[int, Field(ge=1, le=1024, description="length of a style and width of the mapping")] = 64
        mapping_layers: Annotated[int, Field(ge=1, le=16, description="layers from the latents to a style")] = 4

    @staticmethod
    def problems(role: str, config: Any, shapes: Shapes) -> list[str]:
        return misfits("style", config, shapes)

    @staticmethod
    def capabilities(role: str, config: Any, shapes: Shapes) -> set[str]:
        # not "convolutions": surgery on plain convolutions finds none here
        return {"styles"} | given_capabilities(config)

    @staticmethod
    def maps(role: str, config: Any, shapes: Shapes) -> list[Size]:
        height, width = shapes.sample[-2:]
        return halvings((height, width), config.depth)

    @staticmethod
    def generator(config: Any, shapes: Shapes) -> StyledImages:
        return StyledImages(config, shapes)


class StyledImages(StyleGenerator):
    """The generator of `Style`.

    `body` has a block for each size, the smallest first. Its children are run in turn; those that are `Styled` take the
    next style as well. `head` has a layer for each block that makes an image of its maps. Such a layer takes the style
    of the convolution after it, as in the authors' code, so that there is one style more than there are convolutions.
    """

    head: nn.ModuleList

    def __init__(self, config: Any, shapes: Shapes) -> None:
        super().__init__(shapes, config.conditional, config.embedding_dim, config.condition_dim * config.conditioned)
        self.init_std = None
        image_channels, height, width = shapes.sample
        self.sizes = halvings((height, width), config.depth)[::-1]
        widths = config.widths(len(self.sizes))[::-1]
        self.style_dim = config.style_dim
        self.style_count = 2 * len(self.sizes)

        inputs = [self.input_dim] + [config.style_dim] * (config.mapping_layers - 1)
        self.mapping = nn.Sequential(*(MappingLayer(inner, config.style_dim) for inner in inputs))
        self.first = LearnedMap(widths[0], self.sizes[0])
        blocks = {}
        for number, (size, outer) in enumerate(zip(self.sizes, widths, strict=True)):
            layers = _layer(1, widths[number - 1], outer, config.style_dim, size) if number else {}
            layers |= _layer(2, outer, outer, config.style_dim)
            blocks[f"up{number}" if number else "start"] = nn.Sequential(OrderedDict(layers))
        self.body = nn.Sequential(OrderedDict[str, nn.Module](blocks))
        self.head = nn.ModuleList(Styled(inner, image_channels, 1, config.style_dim, norm=False) for inner in widths)
        self.larger = nn.ModuleList(Double(size) for size in self.sizes[1:])

    def inputs(self, latents: Tensor, classes: Tensor | None, condition: Tensor | None = None) -> Tensor:
        """Return what the mapping starts from, (B, `input_dim`): the latents, and the embedded class or condition, over
        their root mean squares.
        """
        parts = [latents]
        if self.embedding is not None:
            parts.append(self.embedding(classes))
        if self.conditioning is not None:
            parts.append(self.conditioning(condition))
        return torch.cat([normalised(part) for part in parts], 1)

    def styles(self, latents: Tensor, classes: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        # in full precision: this costs little, and every layer depends on it
        style: Tensor = self.mapping(self.inputs(latents, classes, condition))
        return style[:, None].expand(-1, self.style_count, -1)

    def synthesise(self, styles: Tensor) -> Tensor:
        with precision(styles, self.autocast):
            image = self._image(styles)
        return image.to(styles.dtype)

    def _image(self, styles: Tensor) -> Tensor:
        used, x = 0, self.first(len(styles))
        image: Tensor | None = None
        for block, to_image, double in zip(self.body, self.head, [None, *self.larger], strict=True):
            for layer in block.children():
                if isinstance(layer, Styled):
                    x = layer(x, styles[:, used])
                    used += 1
                else:
                    x = layer(x)
            made = to_image(x, styles[:, used])
            image = made if double is None else double(image) + made
        assert image is not None
        return image


def normalised(z: Tensor) -> Tensor:
    """Return z (B, D) over the root of the mean of its squares, row by row."""
    return z * torch.rsqrt(z.square().mean(1, keepdim=True) + EPS)


def modulated(x: Tensor, weight: Tensor, scales: Tensor, norm: bool = True) -> Tensor:
    """Return maps x (B, I, H, W) under the weights w'_oik = s_i w_oik of each sample, (B, O, H, W), without a bias.

    `weight` is (O, I, k, k) with odd k, `scales` s (B, I). With `norm`, w' is divided by √(Σ_ik w'² + 1e-8), so that
    independent inputs of variance 1 give outputs of variance 1. Scaling x, and what comes out, is the same and takes
    one convolution for all samples. Source: Karras et al. 2020, eq. 1 to 3.
    """
    y = conv2d(x * scales[:, :, None, None].to(x.dtype), weight, padding=weight.shape[-1] // 2)
    if not norm:
        return y
    squares = (scales.square()[:, None] * weight.square().sum((2, 3))).sum(2)
    return y * torch.rsqrt(squares + EPS)[:, :, None, None].to(y.dtype)


class MappingLayer(nn.Module):
    """A linear layer, LeakyReLU and a factor of √2, that learns at a hundredth of the rate: (B, I) to (B, O)."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outer, inner))
        self.bias = nn.Parameter(torch.empty(outer))

    def initialise(self, rng: Rng) -> None:
        self.weight.copy_(rng.normal(self.weight.shape) / MAPPING_RATE)
        self.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * (MAPPING_RATE / math.sqrt(x.shape[1]))
        return GAIN * leaky_relu(linear(x, weight, self.bias * MAPPING_RATE), SLOPE)


class Styled(nn.Module):
    """`modulated` by an affine function of a style, plus a bias: (B, I, H, W) and (B, d) to (B, O, H, W).

    The maps are doubled to `size` before, where that is given.
    """

    def __init__(
        self, inner: int, outer: int, kernel: int, style_dim: int, norm: bool = True, size: Size | None = None
    ) -> None:
        super().__init__()
        self.norm, self.size = norm, size
        self.enlarge = Double(size) if size else None
        self.weight = nn.Parameter(torch.empty(outer, inner, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(outer))
        self.affine_weight = nn.Parameter(torch.empty(inner, style_dim))
        self.affine_bias = nn.Parameter(torch.empty(inner))

    def initialise(self, rng: Rng) -> None:
        self.weight.copy_(rng.normal(self.weight.shape))
        self.affine_weight.copy_(rng.normal(self.affine_weight.shape))
        self.bias.zero_()
        self.affine_bias.fill_(1)

    def scales(self, style: Tensor) -> Tensor:
        """Return the factors (B, I) of the input maps for styles (B, d)."""
        return linear(style, self.affine_weight / math.sqrt(style.shape[1]), self.affine_bias)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        if self.enlarge is not None:
            x = self.enlarge(x)
        weight = self.weight / math.sqrt(self.weight[0].numel())
        y = modulated(x, weight, self.scales(style), self.norm)
        return y + self.bias[:, None, None].to(y.dtype)

    def extra_repr(self) -> str:
        outer, inner, kernel, _ = self.weight.shape
        return f"{inner}, {outer}, kernel={kernel}, norm={self.norm}, size={self.size}"


class NoiseInput(nn.Module):
    """Adds noise of a learned strength, which starts at 0: one N(0, 1) for each sample and place, shared by all maps.

    Eval mode adds none.
    """

    rng: Rng

    def __init__(self) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.empty(1))

    def initialise(self, rng: Rng) -> None:
        self.strength.zero_()

    def draw_from(self, rng: Rng) -> None:
        self.rng = rng

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        noise = self.rng.normal((len(x), 1, *x.shape[2:]))
        return x + (self.strength * noise).to(x.dtype)


class ScaledLeakyReLU(nn.Module):
    """LeakyReLU and a factor of √2, which keeps the scale of the maps."""

    def forward(self, x: Tensor) -> Tensor:
        return GAIN * leaky_relu(x, SLOPE)


class LearnedMap(nn.Module):
    """The map (B, C, H, W) from which every image starts, learned; it starts ~ N(0, 1)."""

    def __init__(self, channels: int, size: Size) -> None:
        super().__init__()
        self.map = nn.Parameter(torch.empty(channels, *size))

    def initialise(self, rng: Rng) -> None:
        self.map.copy_(rng.normal(self.map.shape))

    def forward(self, count: int) -> Tensor:
        return self.map.expand(count, -1, -1, -1)


def _layer(number: int, inner: int, outer: int, style_dim: int, size: Size | None = None) -> dict[str, nn.Module]:
    return {
        f"conv{number}": Styled(inner, outer, 3, style_dim, size=size),
        f"noise{number}": NoiseInput(),
        f"activation{number}": ScaledLeakyReLU(),
    }
