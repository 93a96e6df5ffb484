"""EMA of the generator: samples come from a moving average of its weights."""

from __future__ import annotations

import copy
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from gantricks import Context, Generator, Trick, hookimpl


def decay_at(count: Tensor, decay: Tensor, warmup: bool) -> Tensor:
    """The decay of the next update after `count` = t others, 0-dim: min(decay, (1 + t)/(10 + t)) with `warmup`.

    The warm-up is that of TensorFlow's `ExponentialMovingAverage(num_updates=…)`.
    """
    return torch.minimum(decay, (1 + count) / (10 + count)) if warmup else decay


@torch.no_grad()
def follow_(averages: list[Tensor], parameters: list[Tensor], weight: Tensor) -> None:
    """θ̄ ← θ̄ + weight · (θ − θ̄) in place, tensor by tensor; `weight` (0-dim) is 1 − decay.

    Exact at both ends: at 0 nothing moves, at 1 `averages` become `parameters` bit for bit.
    """
    torch._foreach_lerp_(averages, parameters, [weight] * len(averages))


@torch.no_grad()
def copy_where_(copies: list[Tensor], originals: list[Tensor], condition: Tensor) -> None:
    """Make `copies` equal to `originals`, of any type, in place, where `condition` (0-dim bool) holds."""
    for twin, original in zip(copies, originals, strict=True):
        # where, and not a product with 0: statistics that are no longer finite must not leak
        twin.copy_(torch.where(condition, original, twin))


class Ema(Trick):
    """EMA of the generator: sampling and evaluation use an exponential moving average of G's weights.

    After each step, θ̄ ← decay · θ̄ + (1 − decay) · θ. Weights that circle around a solution average out close to it,
    so samples improve and differ less from one checkpoint to the next. Training does not notice: G, D and their
    optimizers move exactly as without it.

    Only weights are averaged. Buffers (batch norm's statistics, spectral norm's u and v, counters) are copied: they
    belong together as they are, and an average of u is no singular vector. It costs one more copy of G.

    `decay` is near 1: about 1/(1 − decay) steps are averaged. `warmup` starts lower, at (1 + t)/(10 + t) in step t, so
    that the initial weights are soon forgotten. When it hurts: a run that is not much longer than the averaged
    window samples from a generator that lags behind; lower `decay`. Neutral at decay = 0.

    Source: Karras et al. 2018, appendix A.1 (decay 0.999); Yazıcı et al. 2019, The Unusual Effectiveness of Averaging
    in GAN Training.
    """

    neutral = {"decay": 0.0}
    replaces = {"generator_for_sampling"}
    fault_safe = True

    class Config(Trick.Config):
        decay: Annotated[float, Field(ge=0, lt=1, description="share of the average that each step keeps")] = 0.999
        warmup: Annotated[bool, Field(description="start from a lower decay: (1 + t) / (10 + t) in step t")] = True

    shadow: Generator
    weights: tuple[list[Tensor], list[Tensor]]
    buffers: tuple[list[Tensor], list[Tensor]]

    @hookimpl
    def on_run_start(self, ctx: Context) -> None:
        self.shadow = copy.deepcopy(ctx.generator).requires_grad_(False)
        self.count = torch.zeros((), device=ctx.device)
        # listed once: walking the modules takes longer than averaging a small network
        self.weights = [*self.shadow.parameters()], [*ctx.generator.parameters()]
        self.buffers = [*self.shadow.buffers()], [*ctx.generator.buffers()]

    @hookimpl
    def after_g_step(self, ctx: Context) -> None:
        decay = decay_at(self.count.to(ctx.dtype), ctx.value(self.config.decay), self.config.warmup)
        weight = (1 - decay) * ctx.updated.to(ctx.dtype)
        follow_(*self.weights, weight)
        copy_where_(*self.buffers, ctx.updated > 0)
        self.count.add_(ctx.updated)

    @hookimpl
    def sampling_generator(self) -> Generator:
        return self.shadow

    def tensors(self) -> dict[str, Tensor]:
        named = (*self.shadow.named_parameters(), *self.shadow.named_buffers())
        return {"count": self.count} | {f"shadow.{name}": tensor for name, tensor in named}
