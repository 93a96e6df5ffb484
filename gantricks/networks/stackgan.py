"""A generator in two stages: the second draws again what the first has drawn at half the size (StackGAN)."""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from gantricks.networks.base import (
    Generator,
    GivenGenerator,
    Network,
    Shapes,
    TwoStageGenerator,
    given_capabilities,
    given_problems,
)
from gantricks.networks.dcgan import DCGAN, Layout, doubling, halving
from gantricks.networks.halving import Size, halvings
from gantricks.networks.resnet import Residual
from gantricks.options import Options

_SLOPE = 0.2


class StackGAN(Network):
    """A generator in two stages (Zhang et al. 2017); the discriminator is that of any other network.

    The first stage is a `dcgan` generator of images of half the size, rounded up, with the options in `first`. The
    second sees its image, not the latents: it halves that once, joins it with what stands for the condition, tiled over
    the map, passes both through residual blocks, and doubles twice. It corrects what the first stage has drawn, and
    adds what it left out. Each stage reads the condition, or the class, with a layer of its own.

    The authors train the first stage alone, as a run of its own with network = "dcgan" on images of half the size, and
    then keep it as it is: the trick `first_stage` takes it over and freezes it. Without that trick both stages are
    trained as one network.
    """

    class GeneratorConfig(GivenGenerator):
        channels: Annotated[int, Field(ge=2, le=1024, description="feature maps at half the size of the image")] = 64
        blocks: Annotated[int, Field(ge=1, le=16, description="residual blocks at a quarter of the size")] = 2
        kernel: Annotated[int, Field(ge=3, le=5, description="height and width of convolutions that double maps")] = 4
        batch_norm: Annotated[bool, Field(description="batch norm in the second stage, after all but its output")] = (
            True
        )
        first: Annotated[Layout, Field(description="the first stage: options of a dcgan generator")] = Layout()

    @staticmethod
    def problems(role: str, config: Any, shapes: Shapes) -> list[str]:
        if len(shapes.sample) != 3:
            return ['stackgan needs images, and these data are vectors; use network = "mlp"']
        if min(shapes.sample[1:]) < 8:
            height, width = shapes.sample[1:]
            return [f"stackgan cannot halve images of {height}x{width} twice and more; each side needs 8 pixels"]
        found = DCGAN.problems(role, _first(config), _halved(shapes))
        return [f"first: {sentence}" for sentence in found] or given_problems(config, shapes)

    @staticmethod
    def capabilities(role: str, config: Any, shapes: Shapes) -> set[str]:
        able = {"convolutions", "two_stages"} | given_capabilities(config)
        return able | {"batch_norm"} if config.batch_norm else able

    @staticmethod
    def maps(role: str, config: Any, shapes: Shapes) -> list[Size]:
        height, width = shapes.sample[-2:]
        return halvings((height, width), 2)

    @staticmethod
    def generator(config: Any, shapes: Shapes) -> Generator:
        first = DCGAN.generator(_first(config), _halved(shapes))
        network = StackedGenerator(shapes, config, first)
        image_channels, height, width = shapes.sample
        full, half, quarter = halvings((height, width), 2)
        norm, channels = config.batch_norm, config.channels
        bias = not norm

        network.encoder = nn.Sequential(
            OrderedDict[str, nn.Module](
                conv1=nn.Conv2d(image_channels, channels, 3, padding=1),
                activation1=nn.LeakyReLU(_SLOPE),
                conv2=halving(channels, 2 * channels, config.kernel, half, bias=True),
                activation2=nn.LeakyReLU(_SLOPE),
            )
        )
        wide = 2 * channels
        join = nn.Conv2d(wide + network.given_dim, wide, 3, padding=1, bias=bias)
        blocks = OrderedDict[str, nn.Module](join=_block({"conv": join}, wide, norm))
        for number in range(1, config.blocks + 1):
            blocks[f"residual{number}"] = _block({"residual": _residual(wide, norm)}, wide, norm)
        up1 = doubling(wide, channels, config.kernel, quarter, half, bias)
        blocks["up1"] = _block({"conv": up1}, channels, norm)
        up2 = doubling(channels, channels // 2, config.kernel, half, full, bias)
        blocks["up2"] = _block({"conv": up2}, channels // 2, norm)
        network.body = nn.Sequential(blocks)
        last = nn.Conv2d(channels // 2, image_channels, 3, padding=1)
        network.head = nn.Sequential(OrderedDict[str, nn.Module](conv=last, activation=nn.Tanh()))
        return network


class StackedGenerator(TwoStageGenerator):
    """Two stages: `first`, then `encoder`, `body` and `head`, which see the first one's image."""

    encoder: nn.Sequential

    def __init__(self, shapes: Shapes, config: Any, first: Generator) -> None:
        conditioned = config.condition_dim * config.conditioned
        super().__init__(shapes, config.conditional, config.embedding_dim, conditioned)
        self.given_dim = self.input_dim - shapes.latent_dim
        self.first = first

    def inputs(self, latents: Tensor, classes: Tensor | None, condition: Tensor | None = None) -> Tensor:
        maps: Tensor = self.encoder(self.first(latents, classes, condition))
        if not self.given_dim:
            return maps
        given = super().inputs(latents[:, :0], classes, condition)
        tiled = given.to(maps.dtype)[:, :, None, None].expand(-1, -1, *maps.shape[2:])
        return torch.cat([maps, tiled], 1)


def _first(config: Any) -> Options:
    """Return the first stage's options as those of a dcgan generator. It is given what the second is given."""
    given = {key: getattr(config, key) for key in GivenGenerator.model_fields}
    return DCGAN.GeneratorConfig(**config.first.model_dump(), **given)


def _halved(shapes: Shapes) -> Shapes:
    channels, height, width = shapes.sample
    return Shapes((channels, -(-height // 2), -(-width // 2)), shapes.latent_dim, shapes.classes, shapes.condition)


def _residual(channels: int, norm: bool) -> Residual:
    layers = OrderedDict[str, nn.Module](conv1=nn.Conv2d(channels, channels, 3, padding=1, bias=not norm))
    if norm:
        layers["norm"] = nn.BatchNorm2d(channels)
    layers["activation"] = nn.ReLU()
    layers["conv2"] = nn.Conv2d(channels, channels, 3, padding=1, bias=not norm)
    return Residual(nn.Sequential(layers), nn.Identity())


def _block(layers: dict[str, nn.Module], channels: int, norm: bool) -> nn.Sequential:
    norms: dict[str, nn.Module] = {"norm": nn.BatchNorm2d(channels)} if norm else {}
    return nn.Sequential(OrderedDict(layers | norms | {"activation": nn.ReLU()}))
