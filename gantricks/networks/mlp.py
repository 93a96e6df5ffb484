"""Fully connected layers, for vectors and small images."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from gantricks.networks.base import (
    Discriminator,
    Generator,
    GivenDiscriminator,
    GivenGenerator,
    Network,
    Shapes,
    given_capabilities,
    given_problems,
)
from gantricks.options import Options

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky": partial(nn.LeakyReLU, 0.2),
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
}
"""Elementwise activations. "maxout" is not elementwise."""


class Maxout(nn.Module):
    """The maximum of each group of `pieces` consecutive numbers, (B, A · pieces) to (B, A): Goodfellow et al.
    2013, §3.
    """

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = x.unflatten(1, (-1, self.pieces)).amax(2)
        return found

    def extra_repr(self) -> str:
        return f"pieces={self.pieces}"


class _Layout(Options):
    """Options of either player."""

    hidden: Annotated[
        tuple[Annotated[int, Field(ge=1, le=8192)], ...],
        Field(min_length=1, max_length=16, description="width of each hidden layer, first to last"),
    ] = (128, 128)
    activation: Annotated[
        Literal["relu", "leaky", "tanh", "softplus", "maxout"],
        Field(description="after each hidden layer; leaky is LeakyReLU with slope 0.2"),
    ] = "relu"
    pieces: Annotated[
        int, Field(ge=2, le=64, description="linear maps of which maxout takes the largest, for each number")
    ] = 5
    init_std: Annotated[
        float | None,
        Field(
            gt=0, le=10, description="standard deviation of the weights at the start; N(0, 2 / fan_in) when left out"
        ),
    ] = None
    batch_norm: Annotated[bool, Field(description="batch norm in every hidden layer but D's first")] = False
    batch_norm_gain: Annotated[bool, Field(description="whether batch norm learns a gain beside its bias")] = True

    @model_validator(mode="after")
    def _all_matters(self) -> Any:
        if self.activation != "maxout" and self.pieces != type(self).model_fields["pieces"].default:
            raise ValueError(f'pieces does nothing with activation = "{self.activation}"; remove it')
        if not (self.batch_norm or self.batch_norm_gain):
            raise ValueError("batch_norm_gain does nothing without batch_norm = true; remove it")
        return self


class MLP(Network):
    """Fully connected layers, for vectors such as points of the plane and for small images.

    The first GANs were of this kind (Goodfellow et al. 2014, §5), and experiments on rings and grids of
    Gaussians still are (Lin et al. 2018). Vectors leave the generator as they are; images are reshaped and
    pass through tanh, or through a sigmoid brought from [0, 1] to [-1, 1], tanh(x / 2). Batch norm
    spares G's output and D's first layer, as in Radford et al. 2015 (§3), or D would be blind to the mean of
    a batch. Weights start from N(0, 2 / fan_in) (He et al. 2015), which suits layers of every width, or from
    N(0, `init_std`²). With maxout (Goodfellow et al. 2013) each number of a hidden layer is the largest of
    `pieces` linear maps. Conditional: G receives an embedding of the class beside the latents, D adds a
    projection of it (Miyato & Koyama 2018).
    """

    class GeneratorConfig(_Layout, GivenGenerator):
        output: Annotated[
            Literal["tanh", "sigmoid"],
            Field(description="what images pass through last; a sigmoid's are brought from [0, 1] to [-1, 1]"),
        ] = "tanh"

    class DiscriminatorConfig(_Layout, GivenDiscriminator):
        unit_range: Annotated[
            bool, Field(description="bring samples from [-1, 1] to [0, 1] first, so that black pixels are zeros")
        ] = False

    @staticmethod
    def problems(role: str, config: Any, shapes: Shapes) -> list[str]:
        return given_problems(config, shapes)

    @staticmethod
    def capabilities(role: str, config: Any, shapes: Shapes) -> set[str]:
        able = set()
        if config.batch_norm and (role == "generator" or len(config.hidden) > 1):
            able.add("batch_norm")
        return able | given_capabilities(config)

    @staticmethod
    def generator(config: Any, shapes: Shapes) -> Generator:
        network = Generator(shapes, config.conditional, config.embedding_dim, config.condition_dim * config.conditioned)
        network.init_std = config.init_std
        network.body = nn.Sequential(_blocks(network.input_dim, config, first_norm=config.batch_norm))
        head = OrderedDict[str, nn.Module](linear=nn.Linear(config.hidden[-1], math.prod(shapes.sample)))
        if len(shapes.sample) == 3:
            activation = nn.Tanh() if config.output == "tanh" else FullRangeSigmoid()
            head.update(unflatten=nn.Unflatten(1, shapes.sample), activation=activation)
        network.head = nn.Sequential(head)
        return network

    @staticmethod
    def discriminator(config: Any, shapes: Shapes) -> Discriminator:
        network = Discriminator(shapes, config.hidden[-1], config.conditional, config.conditioned)
        network.init_std = config.init_std
        first = OrderedDict[str, nn.Module](flatten=nn.Flatten())
        if config.unit_range:
            first["unit_range"] = UnitRange()
        network.body = nn.Sequential(first | _blocks(math.prod(shapes.sample), config, first_norm=False))
        network.head = nn.Linear(network.feature_dim, 1)
        return network


class FullRangeSigmoid(nn.Module):
    """A sigmoid scaled from [0, 1] to [-1, 1]: 2 σ(x) - 1 = tanh(x / 2), half as steep as tanh (any shape)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 2)


class UnitRange(nn.Module):
    """Maps numbers in [-1, 1] to [0, 1]: (x + 1) / 2 (any shape)."""

    def forward(self, x: Tensor) -> Tensor:
        return (x + 1) / 2


def _blocks(inputs: int, config: _Layout, first_norm: bool) -> OrderedDict[str, nn.Module]:
    """Return the hidden layers, (B, inputs) to (B, hidden[-1])."""
    blocks = OrderedDict[str, nn.Module]()
    maxout = config.activation == "maxout"
    for number, (inner, outer) in enumerate(pairwise((inputs, *config.hidden))):
        norm = config.batch_norm if number else first_norm
        maps = outer * config.pieces if maxout else outer
        block = OrderedDict[str, nn.Module](linear=nn.Linear(inner, maps, bias=not norm))
        if norm:
            block["norm"] = nn.BatchNorm1d(maps)
            block["norm"].weight.requires_grad_(config.batch_norm_gain)
        block["activation"] = Maxout(config.pieces) if maxout else ACTIVATIONS[config.activation]()
        blocks[f"hidden{number + 1}"] = nn.Sequential(block)
    return blocks
