"""The context of a trick: its view of the game."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Generic, TypeVar, overload

import torch
from torch import Tensor, nn

from gantricks.context import Context
from gantricks.engine import sampling, state, subject
from gantricks.engine.building import build_alone
from gantricks.engine.dispatch import fold
from gantricks.engine.feed import Data
from gantricks.engine.game import Game
from gantricks.engine.step import Start, means
from gantricks.errors import TrickError
from gantricks.metrics.base import Direction
from gantricks.networks.base import Discriminator, Generator, initialise
from gantricks.options import Schedule
from gantricks.records import Batch, Latents, Out
from gantricks.rng import Rng

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)


class _InStep(Generic[T]):
    """An entry of the step's frame. It can be read once the step has produced it."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, ctx: None, owner: type) -> _InStep[T]: ...
    @overload
    def __get__(self, ctx: TrickContext, owner: type) -> T: ...
    def __get__(self, ctx: TrickContext | None, owner: type) -> Any:
        if ctx is None:
            return self
        value = getattr(ctx._frame, self.name)
        if value is None:
            raise TrickError(
                f"{ctx.name}: ctx.{self.name} does not exist at this point of phase {ctx.phase!r}; "
                "gantricks.hooks says what each hook can read"
            )
        return value


class TrickContext(Context):
    """One trick's view of a game. Members are documented in `gantricks.context.Context`."""

    __slots__ = ("_frame", "_game", "name", "rng")

    def __init__(self, game: Game, name: str, rng: Rng) -> None:
        self._game, self._frame = game, game.frame
        self.name = name
        self.rng = rng

    fake = _InStep[Batch]()
    real_in = _InStep[Batch]()
    fake_in = _InStep[Batch]()
    fake_out = _InStep[Out]()
    real_labels = _InStep[Tensor]()
    fake_labels = _InStep[Tensor]()
    fake_latents = _InStep[Tensor]()

    @property
    def real(self) -> Batch:
        if self._frame.real is None and self.phase != "g":
            raise TrickError(f"{self.name}: ctx.real does not exist at this point of phase {self.phase!r}")
        return self._game.step.real_batch()

    @property
    def real_out(self) -> Out:
        if self._frame.real_out is None and self.phase != "g":
            raise TrickError(f"{self.name}: ctx.real_out does not exist at this point of phase {self.phase!r}")
        return self._game.step.real_out()

    @property
    def device(self) -> torch.device:
        return self._game.placement.device

    @property
    def dtype(self) -> torch.dtype:
        return self._game.placement.dtype

    @property
    def generator(self) -> Generator:
        return self._game.generator

    @property
    def discriminator(self) -> Discriminator:
        return self._game.discriminator

    @property
    def latent_dim(self) -> int:
        return self._game.generator.latent_dim

    @property
    def data(self) -> Data:
        return self._game.feed.data

    @property
    def undecided(self) -> float:
        undecided = self._game.step.loss.undecided
        if undecided is None:
            raise TrickError(
                f'{self.name}: the objective has no point between real and fake; declare needs = {{"decision"}}'
            )
        return undecided

    @property
    def healthy(self) -> Tensor:
        return self._game.guard.healthy

    @property
    def updated(self) -> Tensor:
        return self._frame.updated

    def updated_in_step(self, player: str) -> Tensor:
        healthy = self._game.guard.healthy
        return self._frame.updates.get(player, torch.zeros_like(healthy)) * healthy

    @property
    def phase(self) -> str:
        return self._game.clock.phase

    @property
    def step(self) -> int:
        return self._host("step", self._game.finished)

    @property
    def progress(self) -> float:
        return self._host("progress", self._game.schedules.progress)

    @property
    def elapsed(self) -> Tensor:
        return self._game.schedules.elapsed

    @property
    def images_seen(self) -> int:
        return self._host("images_seen", self._game.feed.cursor)

    def value(self, option: float | Schedule) -> Tensor:
        return self._game.schedules.value(option)

    def discriminate(self, batch: Batch, is_real: bool) -> Out:
        return self._game.step.discriminate(batch, is_real)

    def score(self, real: Batch, fake: Batch, weights: Mapping[str, Tensor]) -> tuple[Out, Out]:
        return self._game.step.score_by(weights, real, fake)

    def another_real(self) -> Batch:
        if self.phase not in ("d", "g"):
            raise TrickError(f"{self.name}: real batches are drawn in a step only, not in phase {self.phase!r}")
        return self._game.step.draw_real()

    def d_input(self, batch: Batch, is_real: bool) -> Batch:
        return fold(self._game.hooks.d_input, batch, is_real)

    def judge(self, batch: Batch) -> Out:
        return sampling.judge(self._game, batch)

    def d_loss(
        self, real: Out, fake: Out, real_labels: Tensor | None = None, fake_labels: Tensor | None = None
    ) -> Tensor:
        step, last = self._game.step, self._frame.targets or (None, None)
        ones, zeros = (
            _labels(given, known, out, value)
            for given, known, out, value in zip((real_labels, fake_labels), last, (real, fake), (1.0, 0.0), strict=True)
        )
        return _sum(means(step.loss.d_loss(real, fake, ones, zeros, step.loss_ctx), step.loss_ctx.name))

    def g_loss(self, fake: Out, labels: Tensor | None = None, real: Out | None = None) -> Tensor:
        step = self._game.step
        labels = _labels(labels, self._frame.fake_labels if self.phase == "g" else None, fake, 1.0)
        if step.rules.compares and real is None:
            real = self.real_out
        return _sum(means(step.loss.g_loss(real, fake, labels, step.loss_ctx), step.loss_ctx.name))

    def latents(self, count: int) -> Latents:
        return sampling.draw_latents(self._game, count, self.rng, self.rng)

    def build(self, name: str, make: Callable[[], M], like: nn.Module) -> M:
        with torch.device("meta"):
            module = make()
        module.to_empty(device=self.device).to(self.dtype)
        role = "generator" if isinstance(like, Generator) else "discriminator"
        initialise(module, self.rng.fork(f"initialise/{role}"), like, name)
        return module

    def build_network(self, role: str, name: str) -> Generator | Discriminator:
        return build_alone(self._game, role, self.rng.fork(f"initialise/{name}"))

    def stop(self, reason: str) -> None:
        self._game.stop_reason = f"{self.name}: {reason}"

    def warn(self, sentence: str) -> None:
        self._outside_the_step("warn")
        self._game.warnings.append(f"{self.name}: {sentence}")

    def set_n_critic(self, n: int) -> None:
        self._outside_the_step("set_n_critic")
        if n < 1:
            raise TrickError(f"{self.name}: a step has at least 1 D step, not {n}")
        self._game.step.n_critic = n

    @property
    def n_critic(self) -> int:
        return self._game.step.n_critic

    def set_variant(self, name: str, value: bool | int | str) -> None:
        self._outside_the_step("set_variant")
        self._game.variants[self.name, name] = value

    def variant(self, name: str) -> bool | int | str:
        if (self.name, name) not in self._game.variants:
            raise TrickError(f"{self.name}: ctx.variant({name!r}) is read before ctx.set_variant({name!r}, …)")
        return self._game.variants[self.name, name]

    def set_batch_size(self, n: int) -> None:
        self._outside_the_step("set_batch_size")
        if not 1 <= n <= self.data.count:
            raise TrickError(f"{self.name}: a batch holds 1 to {self.data.count} samples with this data, not {n}")
        self._game.feed.batch_size = n

    def evaluate(self, metric: str, own_samples: bool = False) -> float:
        self._outside_the_step("evaluate")
        return subject.evaluate(self._game, metric, self.name if own_samples else "")

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(planned.name for planned in self._game.plan.metrics)

    def better(self, metric: str) -> Direction:
        return subject.better(self._game, metric)

    def snapshot(self) -> None:
        self._outside_the_step("snapshot")
        state.snapshot(self._game, self.name)

    def restore(self) -> None:
        self._outside_the_step("restore")
        state.restore(self._game, self.name)

    def restructured(self) -> None:
        self._outside_the_step("restructured")
        self._game.restructured()

    def d_step(self, critic: int, share_fakes: bool = False, trial: bool = False, start: Start = None) -> None:
        self._game.step.d_step(critic, share_fakes=share_fakes, trial=trial, start=start)

    def g_step(self, number: int = 0, trial: bool = False, start: Start = None) -> None:
        self._game.step.g_step(number, trial=trial, start=start)

    def restoring(self, *players: str) -> AbstractContextManager[None]:
        return state.restoring([self._game.players[player] for player in players])

    def optimizer(self, player: str) -> torch.optim.Optimizer:
        return self._game.players[player].optimizer

    def learners(self, phase: str) -> Mapping[str, nn.Module]:
        own = self.generator if phase == "g" else self.discriminator
        companions = self._game.companions.items()
        return {phase: own} | {name: one.network for name, one in companions if one.learns_in == phase}

    def learns_in(self, player: str) -> str:
        return self._game.learns_in[player]

    def _outside_the_step(self, method: str) -> None:
        if self._game.clock.phase in ("d", "g"):
            raise TrickError(
                f"{self.name}: ctx.{method} acts on the host, and inside the step it would be lost when the step is "
                "captured; call it in on_boundary, on_log or on_metrics"
            )

    def _host(self, name: str, value: T) -> T:
        if self._game.clock.phase in ("d", "g"):
            raise TrickError(
                f"{self.name}: ctx.{name} is a host number, and reading it inside the step would freeze it there when "
                "the step is captured; use ctx.value(schedule), a tensor of your own, or on_boundary"
            )
        return value


def _labels(given: Tensor | None, known: Tensor | None, out: Out, value: float) -> Tensor:
    """Return the labels for the scores `out`: those given, those known if they are as many, or `value` for each."""
    if given is not None:
        return given
    if known is not None and known.shape == out.logits.shape:
        return known
    return torch.full_like(out.logits, value)


def _sum(terms: Mapping[str, Tensor]) -> Tensor:
    first, *others = terms.values()
    return sum(others, start=first)
