"""Spectral norm: the weights of a layer are divided by their largest singular value σ.

Every linear and convolutional layer of the chosen players is treated, and the embedding of classes in D's projection.
The weight of a convolution is the matrix (outputs, inputs · k · k), also in a transposed and in a grouped one.

σ is followed by power iteration: v ← Wᵀu / ‖Wᵀu‖, u ← Wv / ‖Wv‖, σ = uᵀWv. Each training pass of a layer makes
`iterations` of these, whoever learns from it, and a pass in eval mode makes none. u and v are buffers: they are saved,
`ema` copies them, and no gradient flows through them. At the start they come from 30 iterations.

`players` is D alone by default, as in Miyato et al., and "all" treats G too, as in the self-attention GANs of Zhang et
al. The cost is two products of a matrix and a vector for each layer and pass, and one more pass over the weights.

Where W is all zeros there is nothing to divide by: the layer stays 0, and its gradient is that of a plain layer. From
the first update on, its σ is 1 like that of any other.

List the trick after surgery that adds or widens layers, or what is added stays plain. Layers whose weights another
trick computes are refused. Moving averages and penalties on weights act on W, before the division. Where `ema` samples,
σ is uᵀW̄v, with the average W̄ and the latest u and v.
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
    Rng,
    Trick,
    hookimpl,
    refuse_computed_weights,
    weighted_layers,
)

_Layer = nn.Linear | nn.modules.conv._ConvNd | nn.Embedding
_WARM_UP = 30
"""Iterations that take a random u to within a few percent of σ, whatever the size of the matrix."""
_SMALLEST = 1e-12
"""A σ below this is that of a matrix of zeros."""


def matrix_of(weight: Tensor, transposed: bool = False) -> Tensor:
    """Return the matrix (outputs, the rest) of a weight (outputs, …), or (inputs, outputs, …) where `transposed`.

    Its columns are in the order in which the weights of image networks lie in memory, so that it is a view of them: (k,
    k, inputs), or (inputs, k, k) where `transposed`. The order does not change singular values.
    """
    channels_last = weight.movedim(1, -1)
    return channels_last.flatten(0, -2).t() if transposed else channels_last.flatten(1)


def iterate(matrix: Tensor, u: Tensor, v: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return u, v and W v after `count` power iterations with the matrix W (M, N): (M,), (N,) and (M,).

    u and v are constants to the gradient, W v is not: its product with u is σ, whose gradient is u vᵀ. A vector whose
    successor would be 0 stays as it is. Source: Miyato et al. 2018, algorithm 1.
    """
    with torch.no_grad():
        for _ in range(count - 1):
            v = _unit(torch.mv(matrix.t(), u), v)
            u = _unit(torch.mv(matrix, v), u)
        v = _unit(torch.mv(matrix.t(), u), v)
    product = torch.mv(matrix, v)
    return _unit(product.detach(), u), v, product


def _unit(vector: Tensor, before: Tensor) -> Tensor:
    # plus next to nothing of what it was, which is all that is left where the vector is 0
    vector = torch.add(vector, before, alpha=_SMALLEST)
    unit: Tensor = vector / torch.linalg.vector_norm(vector)
    return unit


class OverSpectralNorm(nn.Module):
    """W to W / σ, which advances u (M,) and v (N,) in training mode."""

    u: Tensor
    v: Tensor

    def __init__(self, weight: Tensor, transposed: bool, iterations: int, rng: Rng) -> None:
        super().__init__()
        self.transposed, self.iterations = transposed, iterations
        matrix = matrix_of(weight.detach(), transposed)
        u, v = (rng.normal(size).to(matrix) for size in matrix.shape)
        u, v, _ = iterate(matrix, u / torch.linalg.vector_norm(u), v / torch.linalg.vector_norm(v), _WARM_UP)
        self.register_buffer("u", u)
        self.register_buffer("v", v)

    def forward(self, weight: Tensor) -> Tensor:
        matrix = matrix_of(weight, self.transposed)
        with torch.autocast(weight.device.type, enabled=False):  # in bf16, products would follow σ to two digits only
            if self.training:
                u, v, product = iterate(matrix, self.u, self.v, self.iterations)
                with torch.no_grad():
                    self.u.copy_(u)
                    self.v.copy_(v)
            else:
                # copies: a training pass may come before this one's backward, and moves the buffers
                u, v = self.u.clone(), self.v.clone()
                product = torch.mv(matrix, v)
            sigma = torch.dot(u, product)
        return weight / torch.where(sigma > _SMALLEST, sigma, 1)

    @torch.no_grad()
    def right_inverse(self, weight: Tensor) -> Tensor:
        """Take `weight` as W, with u and v that fit it."""
        u, v, _ = iterate(matrix_of(weight.detach(), self.transposed), self.u, self.v, _WARM_UP)
        self.u.copy_(u)
        self.v.copy_(v)
        return weight

    def extra_repr(self) -> str:
        return f"rows={len(self.u)}, columns={len(self.v)}, iterations={self.iterations}"


def spectral_norm(layer: _Layer, rng: Rng, iterations: int = 1) -> None:
    """Give a linear, convolutional or embedding layer the weight W / σ(W), with W its parameter and σ = uᵀWv.

    `iterations` are made in each training pass; u and v start from `rng`, ~ N(0, 1), and warm up. Source: Miyato et al.
    2018, eq. 8 and algorithm 1; Miyato & Koyama 2018, official code (embeddings).
    """
    transposed = isinstance(layer, nn.modules.conv._ConvTransposeNd)
    form = OverSpectralNorm(layer.weight, transposed, iterations, rng)
    parametrize.register_parametrization(
        layer, "weight", form, unsafe=True
    )  # the check of shapes would advance u and v


class SpectralNorm(Trick):
    """Spectral norm on D, G, or both: each layer's weights are divided by their largest singular value.

    No layer then stretches any direction of its input by more than 1, which bounds how steep D can get, everywhere and
    not only at samples. G keeps useful gradients. `players` is D alone unless set: D's slope is what must be bounded.
    On G too it steadies training (Zhang et al.).

    When it hurts: D is weaker, so gradients can get small in deep networks. Batch norm in D undoes the bound. For
    convolutions it bounds the matrix of the kernel, not the operator.

    Source: Miyato et al. 2018, Spectral Normalization for Generative Adversarial Networks; Zhang et al. 2019, §4.1.
    """

    class Config(Trick.Config):
        players: Annotated[Players, Field(description="whose layers are treated")] = Players("discriminator")
        iterations: Annotated[int, Field(ge=1, le=100, description="power iterations in each training pass")] = 1

    config: Config

    @classmethod
    def facts(cls, config: Config) -> dict[str, Any]:
        players = [player for player in ("generator", "discriminator") if player in config.players]
        conflicts, cautions = {}, {}
        if "generator" in players:
            conflicts["generator_styles"] = 'network = "style" divides the length of its weights out already'
        if "discriminator" in players:
            cautions["discriminator_batch_norm"] = (
                "batch norm scales D's maps again, so that its slope has no bound; set batch_norm = false in "
                "[discriminator]"
            )
        return {
            "replaces": {f"{player}_weights" for player in players},
            "conflicts": conflicts,
            "cautions": cautions,
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

    def _apply(self, network: Generator | Discriminator, ctx: Context) -> None:
        layers: list[tuple[str, Any]] = weighted_layers(network, ctx.name, "whose weights could be divided")
        if (projection := getattr(network, "projection", None)) is not None:
            layers.append(("projection", projection))
        refuse_computed_weights(layers, ctx.name)
        for name, layer in layers:
            spectral_norm(layer, ctx.rng.anew(name), self.config.iterations)
