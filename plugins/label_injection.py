"""Labels at several layers: every block of G and D is given the class, not the first or last layer alone.

The embedding has `dim` numbers for each block. It is tiled to the height and width of the block's input. The first
convolution (or linear layer) of the block then reads C + E maps. The cost is E maps more in each block. What the
networks do with classes by themselves stays.

The weights for the C maps are the network's own. Those for the labels start as the network's other weights do, and the
embeddings start from N(0, 1). `players` says which networks are changed; each must be conditional.

The trick goes with all other surgery in either order. Weight norm and spectral norm treat the weights for the labels
apart from the others, and only where they are listed after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from gantricks import (
    Context,
    Discriminator,
    Generator,
    PassClasses,
    Players,
    Problem,
    Rng,
    SummedLayers,
    Trick,
    UserError,
    hookimpl,
)

Layer = nn.Linear | nn.Conv2d | nn.ConvTranspose2d


def label_maps(labels: Tensor, x: Tensor) -> Tensor:
    """Labels (B, E) as constant maps beside x: (B, E, H, W) for x (B, C, H, W), (B, E) for x (B, C); x's type."""
    tiled = labels.to(x.dtype).reshape(*labels.shape, *[1] * (x.dim() - 2))
    return tiled.expand(*labels.shape, *x.shape[2:])


def beside(layer: Layer, inputs: int) -> Layer:
    """A layer from `inputs` further inputs to the outputs of `layer`, without a bias of its own.

    Layers are linear, so `layer(x) + beside(m)` is one layer of C + E inputs on the concatenation of x (C) and m (E).
    """
    if isinstance(layer, nn.Linear):
        return nn.Linear(inputs, layer.out_features, bias=False)
    where: dict[str, Any] = {name: getattr(layer, name) for name in ("kernel_size", "stride", "padding", "dilation")}
    if isinstance(layer, nn.ConvTranspose2d):
        where["output_padding"] = layer.output_padding
    # not type(layer): a layer whose weights another trick computes has a class of its own
    kind = nn.ConvTranspose2d if isinstance(layer, nn.ConvTranspose2d) else nn.Conv2d
    return kind(inputs, layer.out_channels, bias=False, **where)


class LabelEmbedding(nn.Embedding):
    """Classes (B,) to labels (B, E), ~ N(0, 1) at the start."""

    def initialise(self, rng: Rng) -> None:
        self.weight.copy_(rng.normal(self.weight.shape))


class Labels(nn.Module):
    """What the class adds to the outputs of a layer."""

    def __init__(self, layer: Layer, count: int, dim: int, classes: PassClasses) -> None:
        super().__init__()
        self.embedding, self.layer, self.classes = LabelEmbedding(count, dim), beside(layer, dim), classes

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.layer(label_maps(self.embedding(self.classes.now), x))
        return added


class Labelled(SummedLayers):
    """`layer` on the concatenation of x and the label maps."""

    def __init__(self, layer: nn.Module, labels: Labels) -> None:
        super().__init__()
        self.layer, self.labels = layer, labels

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x) + self.labels(x)
        return y

    def summands(self) -> Iterator[nn.Module]:
        yield from self.layer.summands() if isinstance(self.layer, SummedLayers) else [self.layer]
        yield self.labels.layer


class LabelInjection(Trick):
    """Class labels at several layers: every block of G and of D receives the class beside its input.

    A G that is told the class in its first layer only must carry it through all others. A D that meets the class in its
    last layer must judge the image before it knows what it should show. Here a learned embedding of the class is
    concatenated to the input of every block.

    When it hurts: with many classes and few images of each, every block can learn a class by heart.

    Source: GAN hacks list, point 16; Reed et al. 2016, Generative Adversarial Text to Image Synthesis, §4.1 (tiling).
    """

    needs = {"classes", "generator_conditional", "discriminator_conditional"}
    strengths = {"dim": (4, 8, 32)}

    class Config(Trick.Config):
        dim: Annotated[int, Field(ge=1, le=256, description="numbers that stand for the class in each block, E")] = 8
        players: Annotated[Players, Field(description="whose blocks receive the class")] = Players()

    config: Config

    @classmethod
    def facts(cls, config: Config) -> dict[str, Any]:
        players = [player for player in ("generator", "discriminator") if player in config.players]
        return {"needs": {"classes", *(f"{player}_conditional" for player in players)}}

    @hookimpl
    def transform_generator(self, network: Generator, ctx: Context) -> Generator:
        if "generator" in self.config.players:
            inject(network, self.config.dim, ctx)
        return network

    @hookimpl
    def transform_discriminator(self, network: Discriminator, ctx: Context) -> Discriminator:
        if "discriminator" in self.config.players:
            inject(network, self.config.dim, ctx)
        return network


def inject(network: Generator | Discriminator, dim: int, ctx: Context) -> None:
    """Give the first layer of every block of `network` the class, in place."""
    layers = first_layers(network)
    if not layers:
        raise UserError(
            Problem(
                "this network has no linear or convolutional layer that the class could be put before",
                f"tricks.{ctx.name}",
                "name the other player alone in players, or choose another network",
            )
        )
    classes = PassClasses(network)
    for name, layer in layers:

        def make(layer: Layer = layer) -> Labels:
            return Labels(layer, network.classes, dim, classes)

        labels = ctx.build(f"{name}.labels", make, like=network)
        if network.init_std is None:
            # by its fan-in alone the label would weigh as much as all maps of x together
            inputs = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
            with torch.no_grad():
                labels.layer.weight.mul_((dim / (inputs + dim)) ** 0.5)
        network.set_submodule(name, Labelled(layer, labels))


def first_layers(network: Generator | Discriminator) -> list[tuple[str, Layer]]:
    """The first linear or convolutional layer of each block in the body, with its place in the network."""
    found = []
    for block_name, block in network.body.named_children():
        for name, module in block.named_modules(prefix=f"body.{block_name}"):
            if isinstance(block, nn.Sequential) and isinstance(module, Layer):
                found.append((name, module))
                break
    return found
