"""Minibatch discrimination: the discriminator sees how close each sample is to the rest of its batch.

D's last features are projected to `kernels` vectors of `dim` numbers each. For each kernel the similarities exp(-L1
distance) to the other samples of the batch are summed and appended to the features. A sample is not compared with
itself. A batch of 1 has similarity 0 and is refused. Reals and fakes are separate batches, so the trick needs
[tricks.separate_batches].

The scale of the projection is set on real samples so that pairs are 1 apart on average. A unit-normal projection would
start at similarity 0 and get no gradient. D's last layer keeps its weights, and those of the new features start at 0.
So D judges at the start as it would without the trick. List the trick after other surgery on D, so that the scale is
measured on the features that D will have.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gantricks import Context, Discriminator, Rng, Setting, Trick, hookimpl

CALIBRATION = 64
"""Number of real samples from which the initial scale of T is taken."""

WORKED_AT_ONCE = 2**19
"""How many numbers a working tensor holds, unless a single kernel has more pairs of samples than that.

Such tensors stay in the processor's cache, and the similarities of a large batch are most of what it takes.
"""


def _differences(m: Tensor) -> Iterator[Tensor]:
    """m_ic - m_jc for one c after the other, (K, B, B) of (K, B, C), each written over the one before."""
    room = m.new_empty((*m.shape[:2], m.shape[1]))
    # stacked, for torch.compile would read a transposed copy from m itself, and strided reads are many times as slow
    columns = torch.stack(m.unbind(2))
    for i, j in zip(columns[..., None], columns[:, :, None], strict=True):
        yield torch.sub(i, j, out=room)


@torch.no_grad()
def distances(m: Tensor) -> Tensor:
    """‖m_i - m_j‖₁ of all pairs of rows, without gradient: (K, B, B) of (K, B, C)."""
    total = m.new_zeros((*m.shape[:2], m.shape[1]))
    for difference in _differences(m):
        total += difference.abs_()
    return total


def _outer_sum(g: Tensor) -> Tensor:
    """g_i + g_j: (K, B, B) of (K, B)."""
    return g[:, :, None] + g[:, None]


def _pull(w: Tensor, m: Tensor) -> Tensor:
    """Σ_j w_ij sign(m_ic - m_jc), the gradient of ½ Σ_ij w_ij ‖m_i - m_j‖₁ for symmetric w (K, B, B): (K, B, C)."""
    return torch.stack([difference.sign_().mul_(w).sum(2) for difference in _differences(m)], 2)


def _gradient(s: Tensor, g: Tensor, m: Tensor) -> Tensor:
    """Of Σ_i g_i o_i by m: -Σ_j s_ij (g_i + g_j) sign(m_ic - m_jc)."""
    return _pull(_outer_sum(g).mul_(s).neg_(), m)


def _second_gradient(s: Tensor, g: Tensor, m: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Of Σ_ic v_ic gradient_ic by g and by m, s following from m.

    That sum is -½ Σ_ij s_ij (g_i + g_j) q_ij with q_ij = Σ_c (v_ic - v_jc) sign(m_ic - m_jc).
    """
    half = torch.zeros_like(s)
    for difference, column in zip(_differences(m), v.permute(2, 0, 1)[..., None], strict=True):
        half.addcmul_(difference.sign_(), column)
    sq = (half + half.mT).mul_(s)
    return -sq.sum(2), _pull(_outer_sum(g).mul_(sq), m)


def _parts(similarities: Sequence[Tensor], *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Kernels that are worked on at once: their similarities, and their share of each of the tensors (K, ...)."""
    sizes = [len(s) for s in similarities]
    return zip(similarities, *(tensor.split(sizes) for tensor in tensors), strict=True)


class _Similarity(torch.autograd.Function):
    """o_i = Σ_{j≠i} s_ij with s_ij = exp(-‖m_i - m_j‖₁), m (K, B, C) to o (K, B). Where numbers tie, sign(0) = 0.

    It can be differentiated twice, as gradient penalties need and `torch.cdist` cannot; m and s are all that either
    derivative keeps, where autograd would keep the signs of the differences too, C times as much.
    """

    @staticmethod
    def forward(ctx: Any, m: Tensor) -> Tensor:
        kernels = max(1, WORKED_AT_ONCE // m.shape[1] ** 2)
        similarities = [distances(part).neg_().exp_() for part in m.split(kernels)]
        for s in similarities:
            s.diagonal(dim1=1, dim2=2).zero_()
        ctx.save_for_backward(m, *similarities)
        return torch.cat([s.sum(2) for s in similarities])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        gradient: Tensor = _Gradient.apply(g, *ctx.saved_tensors)
        return gradient


class _Gradient(torch.autograd.Function):
    """The gradient of Σ_i g_i o_i by m: g (K, B), m (K, B, C) to (K, B, C). It is told s, which follows from m."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, m: Tensor, *similarities: Tensor) -> Tensor:
        ctx.save_for_backward(g, m, *similarities)
        return torch.cat([_gradient(*part) for part in _parts(similarities, g, m)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
        g, m, *similarities = ctx.saved_tensors
        by_g, by_m = zip(*(_second_gradient(*part) for part in _parts(similarities, g, m, v)), strict=True)
        return torch.cat(by_g), torch.cat(by_m), *[None] * len(similarities)


def _kernels_first(m: Tensor) -> Tensor:
    """(B, K, C) to (K, B, C), float32 at least."""
    return m.to(torch.promote_types(m.dtype, torch.float32)).transpose(0, 1)


def similarity(m: Tensor) -> Tensor:
    """o_k(x_i) = Σ_{j≠i} exp(-‖M_{i,k} - M_{j,k}‖₁) of projections M (B, K, C): (B, K), between 0 and B - 1.

    Float32 at least. Memory is O(B² K), whatever C, for the first and the second derivative too; a third is refused.

    Source: Salimans et al. 2016, §3.2; the sample itself is left out, as in the official code.
    """
    o: Tensor = _Similarity.apply(_kernels_first(m))
    return o.T


def initial_scale(m: Tensor) -> Tensor:
    """The 0-dim factor by which M (B, K, C) has its pairs of rows 1 apart on average; 1 where all rows coincide."""
    pairs = m.shape[0] * (m.shape[0] - 1) * m.shape[1]
    mean = distances(_kernels_first(m)).sum() / pairs
    return torch.where(mean > 0, 1 / mean, torch.ones_like(mean))


class Similarity(nn.Module):
    """Features f (B, A) to concat(f, o) (B, A + K), with M = f T and T the weight (A, K, C)."""

    mixes_samples = True

    def __init__(self, features: int, kernels: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(features, kernels, dim))

    def initialise(self, rng: Rng) -> None:
        self.weight.copy_(rng.normal(self.weight.shape))

    def project(self, features: Tensor) -> Tensor:
        """M: (B, K, C). Differences of M are what counts, and bfloat16 would round them away."""
        with torch.autocast(features.device.type, enabled=False):
            found: Tensor = torch.tensordot(features.to(self.weight.dtype), self.weight, 1)
            return found

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat([features, similarity(self.project(features)).to(features.dtype)], 1)


class Head(nn.Sequential):
    """Features (B, A) to logits (B, 1), by way of their similarities."""

    similarity: Similarity
    linear: nn.Linear

    def __init__(self, features: int, kernels: int, dim: int) -> None:
        similarity, linear = Similarity(features, kernels, dim), nn.Linear(features + kernels, 1)
        super().__init__(OrderedDict[str, nn.Module](similarity=similarity, linear=linear))


class MinibatchDiscrimination(Trick):
    """Minibatch discrimination: D is told, beside each sample's features, how many of its batch resemble it.

    A generator that collapses makes samples that are each plausible and all alike. A D that looks at one sample at a
    time cannot tell. Here each sample's similarities to the others of its batch are appended to its features.

    When it hurts: what D says of a sample depends on its batch, its size included. Gradient penalties lose their
    per-sample meaning. Memory grows with the batch size squared times `kernels`. It chases diversity and looks, not
    classes: with semi-supervised learning the paper reports that it does not work.

    Source: Salimans et al. 2016, §3.2; GAN hacks list, point 15.
    """

    needs = {"separate_passes"}
    replaces = {"d_head"}
    conflicts = {
        "semi_supervised": 'minibatch discrimination "does not work at all" for classifying (Salimans et al. 2016, §5)'
    }
    cautions = {
        "input_grad": "D's score of a sample depends on its batch, and the penalty takes it for the sample's own",
        "spectral_norm": "listed before it, spectral_norm does not reach D's new head; listed after it, it changes the "
        "features on which the head's scale was measured",
        "grow": "the head's scale is measured on the whole network, and the run starts on a smaller one, in whose "
        "features samples begin more alike",
    }
    strengths = {"kernels": (30, 100, 300)}

    class Config(Trick.Config):
        kernels: Annotated[int, Field(ge=1, le=4096, description="similarities appended to the features, K")] = 100
        dim: Annotated[int, Field(ge=1, le=256, description="numbers that are compared for each of them, C")] = 5

    config: Config

    def problems(self, setting: Setting) -> list[str]:
        one = setting.group  # what D judges at once is compared as one
        if one in setting.batch_sizes:
            return [
                f"in a batch of {one} there is no other sample to resemble; let batches hold {2 * one} samples or more"
            ]
        return []

    @hookimpl
    def transform_discriminator(self, network: Discriminator, ctx: Context) -> Discriminator:
        width, kernels, dim = network.feature_dim, self.config.kernels, self.config.dim
        head = ctx.build("head", lambda: Head(width, kernels, dim), like=network)
        with torch.no_grad():
            chosen = ctx.rng.permutation(ctx.data.count)[:CALIBRATION]
            chosen = chosen[: len(chosen) // network.group * network.group]
            # a copy: its batch norm statistics and its dropout are not the run's
            batch = ctx.data.take(chosen)
            if network.conditioned:  # features are those of images alone
                batch = batch._replace(condition=batch.images.new_zeros((batch.size, network.condition)))
            features = deepcopy(network)(*batch).features
            head.similarity.weight.mul_(initial_scale(head.similarity.project(features)))
            head.linear.weight[:, width:].zero_()
            if isinstance(network.head, nn.Linear):
                head.linear.weight[:, :width].copy_(network.head.weight)
                head.linear.bias.copy_(network.head.bias)
        network.head = head
        return network
