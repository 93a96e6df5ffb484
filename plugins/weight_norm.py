"""Weight norm: the length and the direction of each unit's weights are learned apart.

Training and eval mode compute the same. The semi-supervised results of Salimans et al. rest on weight norm. In their
official code D is fitted to 500 samples and has `lengths = "heads"`.

Every linear and convolutional layer is treated, embeddings are not. `players` says whose layers they are, and
`layers = "heads"` takes the layers next to the output alone. The networks start as the functions they would be without
the trick, to rounding; with `start_length` every row has that length instead. The cost is one pass over the weights per
forward.

`data_init = n` starts from data instead: n real samples go through D, n latents through G. Lengths and biases are set
so that every unit has mean 0 and variance 1 over them, before its norm and activation. Where surgery has given a layer
further inputs (label_injection), the unit is the sum over all of them.

`lengths = "heads"` learns the lengths of the layers next to the output only. The others stay, so that no hidden layer
can grow and so drown noise that is added to it (discriminator_noise).

List the trick after surgery that adds or widens layers, or what is added stays plain. Layers whose weights another
trick computes (spectral norm) are refused. Moving averages and penalties on weights act on g and v.
"""

from __future__ import annotations

import copy
from typing import Annotated, Any, Literal

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
    Setting,
    SummedLayers,
    Trick,
    hookimpl,
    refuse_computed_weights,
    weighted_layers,
)

_Layer = nn.Linear | nn.modules.conv._ConvNd
_CONSTANT = 1e-6
"""A unit that deviates less than this from its mean gives the same everywhere."""


class LengthAndDirection(nn.Module):
    """g (a number for each row) and v, as large as the weight, to w = g · v / ‖v‖; rows lie along the axis `rows`."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, g: Tensor, v: Tensor) -> Tensor:
        # in plain operations: torch's own kernel lays w out otherwise than its description says, and what is compiled
        # from that description fails
        return v * (g / self.lengths(v))

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return self.lengths(weight), weight

    def lengths(self, weight: Tensor) -> Tensor:
        """The length of each row, in a shape that the weight can be divided by."""
        within = [axis for axis in range(weight.dim()) if axis != self.rows]
        found: Tensor = torch.linalg.vector_norm(weight, dim=within, keepdim=True)
        return found


def weight_norm(layer: _Layer, rng: Rng) -> None:
    """Give a linear or convolutional layer the weight w = g · v / ‖v‖, row by row, with parameters g and v.

    A row is what feeds one output channel: w (out, …), or w (in, out, …) in a transposed convolution. g starts as ‖w‖
    and v as w, so that w is what it was, to rounding. A row of zeros has no direction: its v is drawn ~ N(0, 1), and
    its g is 0. Source: Salimans & Kingma 2016, eq. 2.
    """
    transposed = isinstance(layer, nn.modules.conv._ConvTransposeNd)
    form = LengthAndDirection(1 if transposed else 0)
    empty = form.lengths(layer.weight.detach()) == 0
    parametrize.register_parametrization(layer, "weight", form)
    if empty.any():
        v = _parts(layer)[1]
        with torch.no_grad():
            v.copy_(torch.where(empty, rng.normal(v.shape).to(v.dtype), v))


@torch.no_grad()
def fit(network: nn.Module, *inputs: Tensor | None) -> None:
    """Set g and the biases of the layers with weight norm so that what each unit gives has mean 0 and variance 1.

    Means are over the samples of `inputs` and the places of a map. Layers are fitted in order, each to what the fitted
    layers before it give. Where layers are added up to one (`SummedLayers`), a unit gives their sum. A layer without a
    bias keeps its mean. A unit that gives the same everywhere keeps its length. Nothing else in `network` changes.

    Source: Salimans & Kingma 2016, §3.
    """
    twin = copy.deepcopy(network)  # its batch norm statistics are not the run's
    for name, layers in _units(network).items():

        def standardise(_: nn.Module, args: Any, out: Tensor, layers: list[Any] = layers) -> Tensor:
            axes = [axis for axis in range(out.dim()) if axis != 1]
            wide = out.to(torch.promote_types(out.dtype, torch.float32))
            std, mean = torch.std_mean(wide, axes, correction=0)
            scale = torch.where(std > _CONSTANT, 1 / std, 1)
            biases = [layer.bias for layer in layers if layer.bias is not None]
            for layer in layers:
                g = _parts(layer)[0]
                g.mul_(scale.reshape(g.shape))
            for bias in biases:
                bias.mul_(scale)
            if biases:
                biases[0].sub_(mean * scale)
                wide = wide - _per_unit(mean, out)
            return (wide * _per_unit(scale, out)).to(out.dtype)

        twin.get_submodule(name).register_forward_hook(standardise)
    twin(*inputs)


def _per_unit(values: Tensor, out: Tensor) -> Tensor:
    """Values (C,) for out (B, C, …)."""
    return values.reshape([1, -1, *[1] * (out.dim() - 2)])


def _units(network: nn.Module) -> dict[str, list[nn.Module]]:
    """The layers with weight norm that give a unit's output together, under the name of the module that gives it."""
    units: dict[str, list[nn.Module]] = {}
    known: set[nn.Module] = set()
    for name, module in network.named_modules():  # a sum comes before the sums and layers in it
        layers = [*module.summands()] if isinstance(module, SummedLayers) else [module]
        normed = [layer for layer in layers if parametrize.is_parametrized(layer, "weight") and layer not in known]
        if normed:
            units[name] = normed
            known.update(normed)
    return units


class WeightNorm(Trick):
    """Weight norm on G, D, or both: a unit's weights are w = g · v / ‖v‖, with length g and direction v learned apart.

    The gradient of v is orthogonal to v and shrinks as v grows. This tunes each unit's step size and makes training
    less sensitive to the learning rate. It gives part of what batch norm gives, without noise or looks at other
    samples.

    When it hurts: g is not bounded, so unlike spectral norm it does not limit how steep D gets. Scales of the maps are
    not controlled, so a deep network needs careful initialisation.

    Source: Salimans & Kingma 2016, §2 and §3 (`data_init`); Salimans et al. 2016, official code.
    """

    class Config(Trick.Config):
        players: Annotated[Players, Field(description="whose layers are treated")] = Players()
        data_init: Annotated[
            int,
            Field(ge=0, le=65_536, description="samples that lengths and biases are fitted to at the start; 0: none"),
        ] = 0
        lengths: Annotated[
            Literal["all", "heads"], Field(description="whose lengths are learned: all layers', or the last ones' only")
        ] = "all"
        layers: Annotated[
            Literal["all", "heads"], Field(description="which layers are treated: all, or the last ones")
        ] = "all"
        start_length: Annotated[
            float | None,
            Field(gt=0, le=1e3, description="the length of every row at the start; as drawn when left out"),
        ] = None

    config: Config

    @classmethod
    def facts(cls, config: Config) -> dict[str, Any]:
        conflicts = {}
        if config.lengths == "heads":
            conflicts["grow"] = "a block that joins would begin to learn its lengths"
        elif config.data_init:
            conflicts["grow"] = "a block that joins later is not there to be fitted to data"
        players = [player for player in ("generator", "discriminator") if player in config.players]
        return {"replaces": {f"{player}_weights" for player in players}, "conflicts": conflicts}

    def problems(self, setting: Setting) -> list[str]:
        if self.config.data_init and self.config.start_length is not None:
            return ["data_init sets every length, and start_length does nothing beside it; leave one of them out"]
        if self.config.data_init == 1:
            return ["one sample has no variance to be fitted to; write data_init = 2 or more, 500 for example"]
        return []

    @hookimpl
    def transform_generator(self, network: Generator, ctx: Context) -> Generator:
        if "generator" in self.config.players:
            self._apply(network, ctx)
            if self.config.data_init:
                fit(network, *ctx.latents(self.config.data_init))
        return network

    @hookimpl
    def transform_discriminator(self, network: Discriminator, ctx: Context) -> Discriminator:
        if "discriminator" in self.config.players:
            self._apply(network, ctx)
            if self.config.data_init:
                chosen = ctx.rng.permutation(ctx.data.count)[: self.config.data_init]
                batch = ctx.data.take(chosen)
                if network.conditioned and batch.condition is None:  # a trick gives D conditions: latents, say
                    batch = batch._replace(condition=ctx.rng.normal((batch.size, network.condition)))
                fit(network, *batch)
        return network

    def _apply(self, network: nn.Module, ctx: Context) -> None:
        what = "that could be given a length and a direction"
        layers: list[tuple[str, Any]] = weighted_layers(network, ctx.name, what)
        if self.config.layers == "heads":
            layers = [(name, layer) for name, layer in layers if not name.startswith("body.")]
        refuse_computed_weights(layers, ctx.name)
        for name, layer in layers:
            weight_norm(layer, ctx.rng.anew(name))
            if self.config.start_length is not None:
                with torch.no_grad():
                    _parts(layer)[0].fill_(self.config.start_length)
            if self.config.lengths == "heads" and name.startswith("body."):
                _parts(layer)[0].requires_grad_(False)


def _parts(layer: Any) -> tuple[nn.Parameter, nn.Parameter]:
    """The parameters g and v of a layer with weight norm."""
    return layer.parametrizations.weight.original0, layer.parametrizations.weight.original1
