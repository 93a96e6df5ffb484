"""Orthogonal start: the weights of each layer are redrawn as a random orthogonal matrix, times a gain.

Every linear and convolutional layer and every embedding is redrawn. `players` says whose they are. The matrix of a
layer has a row for each output and a column for each number that the output is a sum of: (out, in · k · k), also in a
transposed convolution. A grouped convolution has a matrix for each group. If the matrix is wide, its rows are
orthogonal and of length `gain`; if it is tall, its columns are. It is uniformly distributed among all such matrices.

`gain` = 1 suits networks with norms. In networks without, √2 makes up for rectifiers.

What starts at 0 on purpose stays 0: layers all of whose weights do, such as the last one of each residual block of
`r3`, and single columns, such as minibatch_stddev's in D's head. Biases, norms and weights of other kinds keep their
start.

List the trick after surgery that adds layers, or what is added starts as the network's own layers do. Where another
trick computes the weights (weight norm), what they are computed from is set so that they are orthogonal.
"""

from __future__ import annotations

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
    Problem,
    Rng,
    Trick,
    UserError,
    hookimpl,
    weighted_layers,
)

_Layer = nn.Linear | nn.Embedding | nn.modules.conv._ConvNd


def orthogonal(rows: int, columns: int, rng: Rng) -> Tensor:
    """A matrix (rows, columns), float64 on the CPU, with orthonormal rows, or columns where there are fewer of these.

    It is uniformly distributed (by Haar's measure): the Q of a Gaussian matrix, with the signs that make the diagonal
    of R positive. Sources: Saxe et al. 2014; Mezzadri 2007, How to Generate Random Matrices from the Classical Compact
    Groups, §5.
    """
    draws = rng.normal((max(rows, columns), min(rows, columns)))
    q, r = torch.linalg.qr(draws.to("cpu", torch.float64))
    q = torch.where(r.diagonal() < 0, -q, q)
    return q if rows >= columns else q.T


def redrawn(layer: _Layer, gain: float, rng: Rng) -> Tensor:
    """A weight for `layer`, of the present one's shape, whose matrix (out, in · k · k), group by group, is `gain` times
    an orthogonal one. Columns that are 0 stay so, and the others are orthogonal among themselves.
    """
    transposed = isinstance(layer, nn.modules.conv._ConvTransposeNd)
    weight = layer.weight.detach().clone()
    for group in weight.chunk(getattr(layer, "groups", 1)):
        part = group.transpose(0, 1) if transposed else group
        matrix = part.flatten(1)
        used = matrix.any(0)
        if used.any():
            drawn = gain * orthogonal(len(matrix), int(used.sum()), rng)
            matrix = torch.zeros_like(matrix)
            matrix[:, used] = drawn.to(matrix)
            part.copy_(matrix.reshape(part.shape))
    return weight


class OrthogonalInit(Trick):
    """Orthogonal start: each layer of G and of D begins as a random orthogonal matrix instead of independent numbers.

    A product of Gaussian matrices squeezes most directions and stretches a few, the more so the more layers there are.
    An orthogonal one turns its input and keeps all lengths, so that signals and gradients pass deep networks, and no
    two units of a layer start alike.

    When it hurts: scales that a network chooses for itself (`r3`, for instance) are lost. With batch norm, which sets
    the scale anyway, or few layers it changes little.

    Source: Saxe et al. 2014, Exact Solutions to the Nonlinear Dynamics of Learning; Brock et al. 2019, §3 (in GANs).
    """

    conflicts = {"generator_styles": "its layers keep their weights at another scale than they use"}
    cautions = {
        "minibatch_discrimination": "listed after it, orthogonal_init changes the features on which the head's scale "
        "was measured; list it before",
        "weight_norm": "listed after it, orthogonal_init undoes a start from data (data_init); list it before",
    }
    strengths = {"gain": (0.5, 1.0, 2.0)}

    class Config(Trick.Config):
        gain: Annotated[float, Field(gt=0, le=10, description="length of the orthogonal rows or columns")] = 1.0
        players: Annotated[Players, Field(description="whose weights are redrawn")] = Players()

    config: Config

    @classmethod
    def facts(cls, config: Config) -> dict[str, Any]:
        return {} if "generator" in config.players else {"conflicts": {}}

    @hookimpl
    def transform_generator(self, network: Generator, ctx: Context) -> Generator:
        if "generator" in self.config.players:
            self._redraw(network, "generator", ctx)
        return network

    @hookimpl
    def transform_discriminator(self, network: Discriminator, ctx: Context) -> Discriminator:
        if "discriminator" in self.config.players:
            self._redraw(network, "discriminator", ctx)
        return network

    @torch.no_grad()
    def _redraw(self, network: nn.Module, player: str, ctx: Context) -> None:
        layers: list[tuple[str, Any]] = weighted_layers(network, ctx.name, "that could be redrawn", True)
        for name, layer in layers:
            weight = redrawn(layer, self.config.gain, ctx.rng.anew(f"{player}.{name}"))
            if not weight.any():
                continue
            if not parametrize.is_parametrized(layer, "weight"):
                layer.weight.copy_(weight)
                continue
            computed: Any = layer.parametrizations
            if not all(hasattr(step, "right_inverse") for step in computed.weight):
                raise UserError(
                    Problem(
                        f"another trick computes the weights of the {player}'s {name}, and not so that they could be "
                        "given a start",
                        f"tricks.{ctx.name}",
                        "list it after this trick",
                    )
                )
            layer.weight = weight
