"""Minibatch discrimination: the discriminator sees how close each sample is to the rest of its batch."""

from __future__ import annotations

from collections import OrderedDict
from copy import deepcopy
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from gantricks import Context, Discriminator, Rng, Trick, hookimpl

CALIBRATION = 64
"""Number of real samples from which the initial scale of T is taken."""


class _Distances(torch.autograd.Function):
    """‖m_i - m_j‖₁ for all pairs of rows: (K, B, C) to (K, B, B). Where rows coincide the gradient is 0.

    `torch.cdist` has no second derivative, which gradient penalties need, and sums of absolute differences would keep
    C tensors of the result's size for the backward.
    """

    @staticmethod
    def forward(ctx: Any, m: Tensor) -> Tensor:
        m = m.contiguous()
        ctx.save_for_backward(m)
        return torch.cdist(m, m, p=1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (m,) = ctx.saved_tensors
        both = grad + grad.transpose(1, 2)
        if not torch.is_grad_enabled():
            pulled: Tensor = torch.ops.aten._cdist_backward(both.contiguous(), m, m, 1.0, both)
            return pulled
        columns = m.detach().unbind(2)
        return torch.stack([(both * (c[:, :, None] - c[:, None, :]).sign()).sum(2) for c in columns], 2)


def distances(m: Tensor) -> Tensor:
    """‖M_{i,k} - M_{j,k}‖₁ of projections M (B, K, C): (K, B, B), float32 at least, in memory O(B² K)."""
    result: Tensor = _Distances.apply(m.to(torch.promote_types(m.dtype, torch.float32)).transpose(0, 1))
    return result


def similarity(m: Tensor) -> Tensor:
    """o_k(x_i) = Σ_{j≠i} exp(-‖M_{i,k} - M_{j,k}‖₁) of projections M (B, K, C): (B, K), between 0 and B - 1.

    Source: Salimans et al. 2016, §3.2; the sample itself is left out, as in the official code.
    """
    return torch.exp(-distances(m)).sum(2).T - 1


def initial_scale(m: Tensor) -> Tensor:
    """The 0-dim factor by which M (B, K, C) has its pairs of rows 1 apart on average; 1 where all rows coincide."""
    pairs = m.shape[0] * (m.shape[0] - 1) * m.shape[1]
    mean = distances(m).sum() / pairs
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
            return torch.tensordot(features.to(self.weight.dtype), self.weight, 1)

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

    A generator that collapses makes samples that are each plausible and all alike, and a D that looks at one sample at
    a time cannot tell. Here D's last features are projected to `kernels` vectors of `dim` numbers each; for each kernel
    the similarities exp(-L1 distance) to the other samples of the batch are summed and appended to the features. Reals
    and fakes are separate batches, so this needs [tricks.separate_batches]; a sample is not compared with itself.

    The projection's scale is set on real samples so that pairs are 1 apart on average (a unit-normal one would start
    at similarity 0 and get no gradient). D's last layer keeps its weights, those of the new features start at 0, so D
    judges at the start as it would without the trick. List it after other surgery on D, so that the scale is measured
    on the features that D will have.

    When it hurts: what D says of a sample depends on its batch, its size included (a batch of 1 has similarity 0);
    gradient penalties lose their per-sample meaning; memory grows with the batch size squared times `kernels`. It
    chases diversity and looks, not classes: with semi-supervised learning the paper reports that it does not work.

    Source: Salimans et al. 2016, §3.2; GAN hacks list, point 15.
    """

    needs = {"separate_passes"}
    replaces = {"d_head"}
    conflicts = {
        "semi_supervised": 'minibatch discrimination "does not work at all" for classifying (Salimans et al. 2016, §5)'
    }
    cautions = {
        "gradient_penalty": "D's score of a sample depends on its batch, and the penalty takes it for the sample's own",
        "spectral_norm": "listed before it, spectral_norm does not reach D's new head; listed after it, it changes the "
        "features on which the head's scale was measured",
    }

    class Config(Trick.Config):
        kernels: Annotated[int, Field(ge=1, le=4096, description="similarities appended to the features, K")] = 100
        dim: Annotated[int, Field(ge=1, le=256, description="numbers that are compared for each of them, C")] = 5

    @hookimpl
    def transform_discriminator(self, network: Discriminator, ctx: Context) -> Discriminator:
        width, kernels, dim = network.feature_dim, self.config.kernels, self.config.dim
        head = ctx.build("head", lambda: Head(width, kernels, dim), like=network)
        with torch.no_grad():
            chosen = ctx.rng.permutation(ctx.data.count)[:CALIBRATION]
            # a copy: its batch norm statistics and its dropout are not the run's
            features = deepcopy(network)(*ctx.data.take(chosen)).features
            head.similarity.weight.mul_(initial_scale(head.similarity.project(features)))
            head.linear.weight[:, width:].zero_()
            if isinstance(network.head, nn.Linear):
                head.linear.weight[:, :width].copy_(network.head.weight)
                head.linear.bias.copy_(network.head.bias)
        network.head = head
        return network
