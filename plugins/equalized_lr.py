"""Equalized learning rate: weights are stored at one scale, and each layer multiplies its own by a constant when used.

Every linear and convolutional layer of the chosen players is treated, embeddings are not. Its weights are drawn anew, W
~ N(0, 1), and it computes with c W. c is the constant of He's start: √(2 / fan_in) in a network's body, where
rectifiers halve the signal, and √(1 / fan_in) elsewhere. Biases start at 0 and are not scaled. So the players start
like plain ones with `init_std` left out, whatever their start was. Weights that start at 0 stay there: a branch that is
to begin as the identity does.

Adam moves each stored weight by about the learning rate, and so a weight in use by c times as much, the same share of
its size in every layer. Plain SGD moves it by c² times as much. A rate that suits plain weights of size 0.02 is small
here: Karras et al. take 0.001 for long runs. Decay and averages act on W, and averaging commutes with c.

List the trick after surgery that adds or widens layers, or what is added stays plain. Layers whose weights another
trick computes are refused. `style` has equalized rates of its own.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gantricks import (
    Context,
    Discriminator,
    Generator,
    Players,
    Rng,
    Trick,
    fan_in,
    hookimpl,
    refuse_computed_weights,
    weighted_layers,
)

_Layer = nn.Linear | nn.modules.conv._ConvNd


class Scaled(nn.Module):
    """W to c W."""

    def __init__(self, c: float) -> None:
        super().__init__()
        self.c = c

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.c

    def extra_repr(self) -> str:
        return f"c={self.c:.4g}"


def equalize(layer: _Layer, rng: Rng, gain: float) -> None:
    """Give a linear or convolutional layer the weight c W, with W ~ N(0, 1) its parameter, and a bias of 0.

    C = √(gain / fan_in), with gain 2 before a rectifier. Where the weight was 0, W is 0. Source: Karras et al. 2018,
    §4.1; He et al. 2015, eq. 10.
    """
    with torch.no_grad():
        drawn = rng.normal(layer.weight.shape).to(layer.weight)
        layer.weight.copy_(torch.where(layer.weight == 0, 0, drawn))
        if layer.bias is not None:
            layer.bias.zero_()
    parametrize.register_parametrization(layer, "weight", Scaled(math.sqrt(gain / fan_in(layer))))


class EqualizedLr(Trick):
    """Equalized learning rate: weights are N(0, 1) at the start, and each layer scales its own by a constant in use.

    Adam moves every weight by about the learning rate, whatever its size. Where layers differ in size, a rate that is
    right for one is too large for another. Here all are of one size, so all layers learn at one relative speed.

    When it hurts: the recipe's rates mean something else. Relative to weights in use, steps are smaller than in a plain
    network whose weights start at 0.02; raise the rates, to 0.001 or more. The networks' own start is lost.

    Source: Karras et al. 2018, Progressive Growing of GANs, §4.1.
    """

    conflicts = {
        "generator_styles": 'network = "style" has equalized rates of its own; leave G out of players',
        "orthogonal_init": "it draws the weights anew, ~ N(0, 1)",
    }
    cautions = {
        "minibatch_discrimination": "listed before it, equalized_lr does not reach D's new head; listed after it, it "
        "changes the features on which the head's scale was measured"
    }

    class Config(Trick.Config):
        players: Annotated[Players, Field(description="whose layers are treated")] = Players()

    config: Config

    @classmethod
    def facts(cls, config: Config) -> dict[str, Any]:
        players = [player for player in ("generator", "discriminator") if player in config.players]
        return {
            "replaces": {f"{player}_weights" for player in players},
            "conflicts": {
                name: why for name, why in cls.conflicts.items() if "generator" in players or name != "generator_styles"
            },
        }

    @hookimpl
    def transform_generator(self, network: Generator, ctx: Context) -> Generator:
        if "generator" in self.config.players:
            self._apply(network, ctx)
        return network

    @hookimpl
    def transform_discriminator(self, network: Discriminator, ctx: Context) -> Discriminator:
        if "discriminator" in self.config.players:
            self._apply(network, ctx)
        return network

    def _apply(self, network: nn.Module, ctx: Context) -> None:
        layers: list[tuple[str, Any]] = weighted_layers(network, ctx.name, "whose weights could be scaled")
        refuse_computed_weights(layers, ctx.name)
        for name, layer in layers:
            equalize(layer, ctx.rng.anew(name), 2 if name.startswith("body.") else 1)
