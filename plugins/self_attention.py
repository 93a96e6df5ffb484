"""Self-attention: every place of one map sees every other place of it.

Queries and keys are 1x1 convolutions to C / 8 maps (at least 1), values one to C / 2 maps. The weights of a place are
the softmax, over all places, of the products of its query with their keys, which are not scaled. A 1x1 convolution of
the weighed values back to C maps, times the gain γ, is added to the map. There are no biases. γ is learned and starts
at 0, so that the networks start as they would be without the trick.

The block follows the block of the body whose map has the `resolution`: the smaller side, in pixels. Left out, it is the
largest map that is smaller than the image and at most 32 pixels wide and high, or the smallest where there is none. For
images of 128 x 128 that is 32, where Zhang et al. have it. `players` says whose maps attend.

Keys and values are those of all places, as in the paper's equations. The official code takes the maximum of each
2 x 2 of them. That saves memory, which grows with the square of the number of places, and costs the exact place.

List the trick before tricks that treat every layer, such as weight norm.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from gantricks import (
    Context,
    Discriminator,
    Generator,
    Players,
    Problem,
    Rng,
    Setting,
    Trick,
    UserError,
    block_shapes,
    hookimpl,
)

MOST = 32
"""The largest side, in pixels, of a map that is chosen where no resolution is given."""


def attention(queries: Tensor, keys: Tensor) -> Tensor:
    """The weights (B, N, M) of M places for each of N: softmax over the M of the products of queries (B, E, N) with
    keys (B, E, M), float32 at least.

    Source: Zhang et al. 2019, Self-Attention Generative Adversarial Networks, eq. 1.
    """
    wide = torch.promote_types(queries.dtype, torch.float32)
    with torch.autocast(queries.device.type, enabled=False):
        return (queries.to(wide).transpose(1, 2) @ keys.to(wide)).softmax(2)


class Attention(nn.Module):
    """Maps x (B, C, H, W) to x + γ · o(values that each place attends to), their like. Zhang et al. 2019, eq. 2, 3.

    In plain operations: torch's fused attention cannot be differentiated twice, which penalties on slopes need.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow, half = max(channels // 8, 1), max(channels // 2, 1)
        self.query = nn.Conv2d(channels, narrow, 1, bias=False)
        self.key = nn.Conv2d(channels, narrow, 1, bias=False)
        self.value = nn.Conv2d(channels, half, 1, bias=False)
        self.output = nn.Conv2d(half, channels, 1, bias=False)
        self.gain = nn.Parameter(torch.empty(1))  # not 0-dim: averages of it would be scalars, which are float32

    def initialise(self, rng: Rng) -> None:
        self.gain.zero_()

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values = (layer(x).flatten(2) for layer in (self.query, self.key, self.value))
        weights = attention(queries, keys).to(values.dtype)
        seen = (values @ weights.transpose(1, 2)).unflatten(2, x.shape[2:])
        added: Tensor = self.gain * self.output(seen)
        return x + added.to(x.dtype)


class SelfAttention(Trick):
    """Self-attention: in one layer of G and of D, every place of the map draws on all places that look related.

    A convolution sees a few pixels, so parts that belong together but lie apart, such as two legs, meet only after
    many layers. With attention G can fit distant parts to each other, and D can check that they do.

    When it hurts: memory and time grow with the fourth power of the `resolution`. On small maps, whose convolutions
    reach everywhere, it adds little. Weights may become one-hot, since products of queries and keys are not scaled.

    Source: Zhang et al. 2019, Self-Attention Generative Adversarial Networks, §3, and official code.
    """

    needs = {"images"}

    class Config(Trick.Config):
        resolution: Annotated[
            int | None,
            Field(ge=1, le=512, description="smaller side, in pixels, of the map that attends; left out: 32 or less"),
        ] = None
        players: Annotated[Players, Field(description="whose maps attend")] = Players()

    config: Config

    def problems(self, setting: Setting) -> list[str]:
        found = []
        for player, maps in (("generator", setting.generator_maps), ("discriminator", setting.discriminator_maps)):
            if player in self.config.players and len(setting.shape) == 3:
                found += self._misfit(player, maps[1:])
        return found

    def _misfit(self, player: str, sizes: Collection[tuple[int, ...]]) -> list[str]:
        if not sizes:
            return [f'the {player} has no maps that could attend; use a convolutional one, such as network = "dcgan"']
        there = sorted({min(size) for size in sizes})
        if self.config.resolution in (None, *there):
            return []
        return [
            f"no map of the {player} has resolution = {self.config.resolution}; "
            f"write {' or '.join(map(str, there))}, or leave it out"
        ]

    @hookimpl
    def transform_generator(self, network: Generator, ctx: Context) -> Generator:
        if "generator" in self.config.players:
            self._insert(network, "generator", ctx)
        return network

    @hookimpl
    def transform_discriminator(self, network: Discriminator, ctx: Context) -> Discriminator:
        if "discriminator" in self.config.players:
            self._insert(network, "discriminator", ctx)
        return network

    def _insert(self, network: Generator | Discriminator, player: str, ctx: Context) -> None:
        made = {name: out for name, (_, out) in block_shapes(network).items() if len(out) == 3}
        smaller = {name: out for name, out in made.items() if 1 < min(out[1:]) < min(network.shape[1:])}
        for sentence in self._misfit(player, [out[1:] for out in smaller.values()]):
            raise UserError(Problem(sentence, f"tricks.{ctx.name}"))
        side = self.config.resolution or fitting([(height, width) for _, height, width in smaller.values()])
        # the last one, where several blocks have maps of this size
        name, (channels, *_) = [(name, out) for name, out in smaller.items() if min(out[1:]) == side][-1]
        added = f"{ctx.name}_block"
        block = ctx.build(f"body.{name}.{added}", lambda: Attention(channels), like=network)
        # within the block, so that what treats blocks as wholes, such as growing, takes it along
        network.body.get_submodule(name).add_module(added, block)


def fitting(sizes: Collection[tuple[int, int]]) -> int:
    """The smaller side of the largest of these sizes (H, W) that has no side above 32, or of the smallest of all."""
    return min(max((size for size in sizes if max(size) <= MOST), default=min(sizes)))
