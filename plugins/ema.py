"""EMA: sampling and evaluation use a moving average of the weights of G, of D, or of both.

G, D and their optimizers move exactly as without the trick.

`decay` is near 1: about 1/(1 − decay) steps are averaged. `warmup` starts lower, at (1 + t)/(10 + t) in step t, so that
the initial weights are soon forgotten. `bias_correction` takes its place: it leaves the initial weights out from the
first step on, and averages all others as if the run had begun with them.

Only weights are averaged. Buffers (batch norm's statistics, spectral norm's u and v, counters) are copied at each
update of the average. They belong together as they are, and an average of u is no singular vector. The cost is one more
copy of G.

`players = ["discriminator"]` averages D instead, after each of its updates, and `players = "all"` averages both.
Evaluation then asks the averaged D, for classes above all (semi_supervised). A companion goes with the player that it
learns with.
"""

from __future__ import annotations

import copy
import math
from typing import Annotated, Any, Generic, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from gantricks import Context, Discriminator, Generator, Players, Trick, hookimpl

N = TypeVar("N", bound=nn.Module)


def share_at(count: Tensor, decay: float, warmup: bool, bias_correction: bool = False) -> Tensor:
    """The share of the newest weights in the average of t + 1, t = `count` of any shape and floating type.

    It is 1 - decay, and with `warmup` 1 - min(decay, (1 + t) / (10 + t)), the warm-up of TensorFlow's
    `ExponentialMovingAverage(num_updates=…)`. With `bias_correction` it is (1 - decay) / (1 - decay^(t+1)), and the
    average is Σ_i decay^(t-i) θ_i over Σ_i decay^(t-i), without the start: Adam's correction (Kingma & Ba 2015, §3) in
    one step.
    """
    # what is left to 1 is taken in float64, on the host: float32 has few digits of it next to 1
    share = 1 - decay
    if bias_correction:
        rate = math.log(decay) if decay else -math.inf
        return torch.where(count > 0, share / -torch.expm1((count + 1) * rate), 1)
    return (9 / (count + 10)).clamp(min=share) if warmup else torch.full_like(count, share)


@torch.no_grad()
def follow_(averages: list[Tensor], parameters: list[Tensor], weight: Tensor) -> None:
    """θ̄ ← θ̄ + weight · (θ − θ̄) in place, tensor by tensor; `weight` (0-dim) is the share of θ.

    Exact at both ends: at 0 nothing moves, at 1 `averages` become `parameters` bit for bit.
    """
    torch._foreach_lerp_(averages, parameters, [weight] * len(averages))


@torch.no_grad()
def copy_where_(copies: list[Tensor], originals: list[Tensor], condition: Tensor) -> None:
    """Make `copies` equal to `originals`, of any type, in place, where `condition` (0-dim bool) holds."""
    for twin, original in zip(copies, originals, strict=True):
        # where, and not a product with 0: statistics that are no longer finite must not leak
        twin.copy_(torch.where(condition, original, twin))


class Average(Generic[N]):
    """The moving average of one network: `shadow` is a copy of it with averaged weights, `count` (0-dim) the number of
    updates that it has followed.
    """

    def __init__(self, network: N, ctx: Context) -> None:
        self.shadow: N = copy.deepcopy(network).requires_grad_(False)
        self.count = torch.zeros((), device=ctx.device)
        # listed once: walking the modules takes longer than averaging a small network
        self.weights: tuple[list[Tensor], list[Tensor]] = [*self.shadow.parameters()], [*network.parameters()]
        self.buffers: tuple[list[Tensor], list[Tensor]] = [*self.shadow.buffers()], [*network.buffers()]

    def tensors(self) -> dict[str, Tensor]:
        named = (*self.shadow.named_parameters(), *self.shadow.named_buffers())
        return {"count": self.count} | {f"shadow.{name}": tensor for name, tensor in named}


class Ema(Trick):
    """EMA of the generator: sampling and evaluation use an exponential moving average of G's weights.

    After each step, θ̄ ← decay · θ̄ + (1 − decay) · θ. Weights that circle around a solution average out close to it.
    So samples improve, and differ less from one checkpoint to the next. Training is exactly what it is without the
    trick. `players` chooses G, D or both.

    When it hurts: in a run not much longer than the averaged window, samples come from a generator that lags behind.
    Lower `decay`.

    Source: Karras et al. 2018, appendix A.1 (decay 0.999); Yazıcı et al. 2019, The Unusual Effectiveness of Averaging
    in GAN Training; Salimans et al. 2016, official code (D, decay 0.9999).
    """

    neutral = {"decay": 0.0}
    replaces = {"generator_for_sampling"}
    fault_safe = True
    strengths = {"decay": (0.99, 0.999, 0.9999)}

    class Config(Trick.Config):
        decay: Annotated[float, Field(ge=0, lt=1, description="share of the average that each step keeps")] = 0.999
        warmup: Annotated[bool, Field(description="start from a lower decay: (1 + t) / (10 + t) in step t")] = True
        bias_correction: Annotated[
            bool, Field(description="weigh the initial weights with 0; takes the place of the warm-up")
        ] = False
        players: Annotated[Players, Field(description="whose weights are averaged")] = Players("generator")

    config: Config

    @classmethod
    def facts(cls, config: Config) -> dict[str, Any]:
        replaced = {"generator": "generator_for_sampling", "discriminator": "discriminator_for_evaluation"}
        return {"replaces": {part for player, part in replaced.items() if player in config.players}}

    @hookimpl
    def on_setup(self, ctx: Context) -> None:
        self.averages: dict[str, Average[Any]] = {}
        self.phases: dict[str, list[Average[Any]]] = {}
        for role, phase in (("generator", "g"), ("discriminator", "d")):
            learners = ctx.learners(phase) if role in self.config.players else {}
            # in files, the player itself goes by its role
            averages = {role if name == phase else name: Average(network, ctx) for name, network in learners.items()}
            self.averages |= averages
            self.phases[phase] = list(averages.values())

    @hookimpl
    def after_d_step(self, ctx: Context) -> None:
        self._follow("d", ctx)

    @hookimpl
    def after_g_step(self, ctx: Context) -> None:
        self._follow("g", ctx)
        for average in self.phases["d"]:  # its statistics have moved once more, with G's fakes
            copy_where_(*average.buffers, ctx.updated_in_step("d") > 0)

    def _follow(self, phase: str, ctx: Context) -> None:
        options, updated = self.config, ctx.updated.to(ctx.dtype)
        for average in self.phases[phase]:
            share = share_at(average.count.to(ctx.dtype), options.decay, options.warmup, options.bias_correction)
            follow_(*average.weights, share * updated)
            if average.buffers[0]:
                copy_where_(*average.buffers, ctx.updated > 0)
            average.count.add_(updated)

    @hookimpl
    def sampling_generator(self, network: Generator) -> Generator:
        return self.averages["generator"].shadow if "generator" in self.averages else network

    @hookimpl
    def evaluation_discriminator(self, network: Discriminator) -> Discriminator:
        return self.averages["discriminator"].shadow if "discriminator" in self.averages else network

    @hookimpl
    def evaluation_companion(self, network: nn.Module, name: str) -> nn.Module:
        return self.averages[name].shadow if name in self.averages else network

    def tensors(self) -> dict[str, Tensor]:
        return {
            f"{player}.{name}": tensor
            for player, average in self.averages.items()
            for name, tensor in average.tensors().items()
        }
