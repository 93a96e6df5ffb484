"""Weight norm: the length and the direction of each unit's weights are learned apart."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from gantricks import Context, Discriminator, Generator, Problem, Trick, UserError, hookimpl

_Layer = nn.Linear | nn.modules.conv._ConvNd


def weight_norm(layer: _Layer) -> None:
    """Give a linear or convolutional layer the weight w = g · v / ‖v‖, row by row, with parameters g and v.

    A row is what feeds one output channel: w (out, …), or w (in, out, …) in a transposed convolution. g starts as ‖w‖
    and v as w, so that w is what it was, to rounding. Source: Salimans & Kingma 2016, eq. 2.
    """
    transposed = isinstance(layer, nn.modules.conv._ConvTransposeNd)
    parametrizations.weight_norm(layer, dim=1 if transposed else 0)


class WeightNorm(Trick):
    """Weight norm on G, D, or both: a unit's weights are w = g · v / ‖v‖, with length g and direction v learned apart.

    The gradient of v is orthogonal to v and shrinks as v grows, which tunes the step size of each unit by itself and
    makes training less sensitive to the learning rate. It gives part of what batch norm gives with no noise and no
    look at other samples, in training and eval alike; the semi-supervised results of Salimans et al. rest on it.

    Every linear and convolutional layer is treated, embeddings are not. The networks start as the functions they would
    be without it, to rounding. `players` says whose layers: "generator", "discriminator" or "both".

    When it hurts: g is not bounded, so unlike spectral norm it does not limit how steep D gets; scales of the maps are
    not controlled, so a deep network wants a careful initialisation. Costs one pass over the weights per forward.

    List it after surgery that adds or widens layers, or what is added stays plain. Refuses layers whose weights
    another trick computes (spectral norm). Moving averages and penalties on weights act on g and v.

    Source: Salimans & Kingma 2016, §2; Salimans et al. 2016, official code.
    """

    conflicts = {
        "spectral_norm": "both compute the layers' weights, and the length that one learns the other divides out"
    }

    class Config(Trick.Config):
        players: Annotated[
            Literal["both", "generator", "discriminator"], Field(description="whose layers are treated")
        ] = "both"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        players = ("generator", "discriminator") if config.players == "both" else (config.players,)
        self.replaces = {f"{player}_weights" for player in players}

    @hookimpl
    def transform_generator(self, network: Generator, ctx: Context) -> Generator:
        if self.config.players != "discriminator":
            _apply(network, ctx.name)
        return network

    @hookimpl
    def transform_discriminator(self, network: Discriminator, ctx: Context) -> Discriminator:
        if self.config.players != "generator":
            _apply(network, ctx.name)
        return network


def _apply(network: nn.Module, trick: str) -> None:
    for name, layer in [(name, m) for name, m in network.named_modules() if isinstance(m, _Layer)]:
        if parametrize.is_parametrized(layer, "weight"):
            raise UserError(
                Problem(
                    f"another trick computes the weights of {name} already",
                    f"tricks.{trick}",
                    "switch one of them off, or let each have a player of its own",
                )
            )
        weight_norm(layer)
