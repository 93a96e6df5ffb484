"""What a trick sees of the run: its own `Context`, a view of the game."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

import torch
from torch import Tensor, nn

from gantricks.engine import sampling, state, subject
from gantricks.engine.feed import Data
from gantricks.engine.game import Game
from gantricks.errors import TrickError
from gantricks.metrics.base import Direction
from gantricks.networks.base import Discriminator, Generator, initialise
from gantricks.options import Schedule
from gantricks.records import Batch, Out
from gantricks.rng import Rng

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)


class _InStep(Generic[T]):
    """A part of the step's frame, readable from the moment the step has produced it."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, ctx: None, owner: type) -> _InStep[T]: ...
    @overload
    def __get__(self, ctx: Context, owner: type) -> T: ...
    def __get__(self, ctx: Context | None, owner: type) -> Any:
        if ctx is None:
            return self
        value = getattr(ctx._frame, self.name)
        if value is None:
            raise TrickError(
                f"{ctx.name}: ctx.{self.name} does not exist at this point of phase {ctx.phase!r}; "
                "gantricks.hooks says what each hook can read"
            )
        return value


class Context:
    """One trick's view of the run, passed to every hook as `ctx`.

    Always at hand: `name`, `device`, `generator`, `discriminator`, `latent_dim`, `data`, `rng`, `value(option)`,
    `undecided`, `healthy`, `elapsed`. In a step, each from the moment it exists: `phase`, `real`, `fake` (batches as
    drawn), `real_in`, `fake_in` (after `d_input`), `real_out`, `fake_out`, `real_labels`, `fake_labels`,
    `discriminate`, `updated`, `updated_in_step(player)`. Between steps, when logging, and at the start and end of a
    run: `step`, `progress`, `images_seen`.
    """

    __slots__ = ("_frame", "_game", "name", "rng")

    def __init__(self, game: Game, name: str, rng: Rng) -> None:
        self._game, self._frame = game, game.frame
        self.name = name
        self.rng = rng

    real: _InStep[Batch] = _InStep()
    """The real batch as drawn; in the G step, that of the last D step."""
    fake: _InStep[Batch] = _InStep()
    """The fakes: after `fake_batch` and detached in the D step, attached to G in the G step."""
    real_in: _InStep[Batch] = _InStep()
    """What D was shown of the reals. Leaves with gradient where a trick declares `needs = {"input_grad"}`."""
    fake_in: _InStep[Batch] = _InStep()
    """What D was shown of the fakes. In the D step, leaves with gradient as for `real_in`."""
    fake_out: _InStep[Out] = _InStep()
    """D's scores of the fakes."""
    real_labels: _InStep[Tensor] = _InStep()
    """D's targets for the reals, (B, 1)."""
    fake_labels: _InStep[Tensor] = _InStep()
    """D's targets for the fakes, (B, 1); in the G step, G's targets."""

    @property
    def real_out(self) -> Out:
        """D's scores of the reals. In the G step: the real batch through the updated D, without gradient, computed at
        the first reading and shared."""
        if self._frame.real_out is None and self.phase != "g":
            raise TrickError(f"{self.name}: ctx.real_out does not exist at this point of phase {self.phase!r}")
        return self._game.step.real_out()

    @property
    def device(self) -> torch.device:
        return self._game.placement.device

    @property
    def dtype(self) -> torch.dtype:
        """The run's floating-point type outside the networks: float32, or float64."""
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
        """The real data, to read: `data.take(indices)` gives those samples as a `Batch`, `data.subset(indices)` some of
        them to draw from in the step, `data.class_of_each` int64 (count,) or None; beside them `data.count`,
        `data.classes`, `data.batch_size` and `data.is_images`."""
        return self._game.feed.data

    @property
    def undecided(self) -> float:
        """The output of D that stands for as likely real as fake, as the objective of the recipe has it: 0 for logits
        of a probability. Above it, D takes a sample for real."""
        return self._game.step.loss.undecided

    @property
    def healthy(self) -> Tensor:
        """0-dim float32 on the device: 1, and 0 from the first non-finite loss or gradient on. A trick that scales
        each update of its state by it may declare `fault_safe = True`."""
        return self._game.guard.healthy

    @property
    def updated(self) -> Tensor:
        """0-dim float32 on the device: 1 where the phase's player was updated, 0 where a gate was closed or `healthy`
        is 0; for what follows a player in `after_d_step` and `after_g_step`."""
        return self._frame.updated

    def updated_in_step(self, player: str) -> Tensor:
        """0-dim float32 on the device: 1 where the last update of "d" or "g" in this step took place, 0 where a gate
        was closed, where there has been none yet, or where `healthy` is 0. For what follows a player in the other's
        phase: its statistics move there, too, and where its gate is closed they may be those of a stand-in."""
        healthy = self._game.guard.healthy
        return self._frame.updates.get(player, torch.zeros_like(healthy)) * healthy

    @property
    def phase(self) -> str:
        """ "d" or "g" in a step; "setup", "boundary", "log" or "sample" outside."""
        return self._game.clock.phase

    @property
    def step(self) -> int:
        """Number of finished steps, a host number."""
        return self._host("step", self._game.finished)

    @property
    def progress(self) -> float:
        """0 at the first step, 1 at the last and, where a run was lengthened, from the end of its schedules on; a host
        number."""
        return self._host("progress", self._game.schedules.progress)

    @property
    def elapsed(self) -> Tensor:
        """`progress` as a 0-dim tensor on the device, which the step may read."""
        return self._game.schedules.elapsed

    @property
    def images_seen(self) -> int:
        """Number of real samples drawn so far, a host number."""
        return self._host("images_seen", self._game.feed.cursor)

    def value(self, option: float | Schedule) -> Tensor:
        """A number or schedule of the trick's options as a 0-dim tensor on the device, at the present step."""
        return self._game.schedules.value(option)

    def discriminate(self, batch: Batch, is_real: bool) -> Out:
        """`d_input` and D, for a further batch. D must not mix these samples with others to be scored the same."""
        return self._game.step.discriminate(batch, is_real)

    def latents(self, count: int) -> tuple[Tensor, Tensor | None]:
        """Latents (count, latent_dim) as training draws them, and classes (count,) where G is conditional, both from
        this trick's own stream."""
        return sampling.draw_latents(self._game, count, self.rng, self.rng)

    def build(self, name: str, make: Callable[[], M], like: nn.Module) -> M:
        """A new module for the network `like`, to be its `name` (such as "head" or "body.extra"): laid out by `make`
        without drawing anything, put on the run's device, and initialised as `like` is, from a stream of its own."""
        with torch.device("meta"):
            module = make()
        module.to_empty(device=self.device).to(self.dtype)
        role = "generator" if isinstance(like, Generator) else "discriminator"
        initialise(module, self.rng.fork(f"initialise/{role}"), like, name)
        return module

    def stop(self, reason: str) -> None:
        """End the run before the next step; for `on_boundary`."""
        self._game.stop_reason = f"{self.name}: {reason}"

    def warn(self, sentence: str) -> None:
        """Tell the user, with the next log line; for `on_log`."""
        self._outside_the_step("warn")
        self._game.warnings.append(f"{self.name}: {sentence}")

    def set_n_critic(self, n: int) -> None:
        """The number of D steps in each step from the next one on; for `on_boundary`. Part of a checkpoint."""
        self._outside_the_step("set_n_critic")
        if n < 1:
            raise TrickError(f"{self.name}: a step has at least 1 D step, not {n}")
        self._game.step.n_critic = n

    def set_batch_size(self, n: int) -> None:
        """The number of samples in each batch from the next one on; for `on_boundary`. Part of a checkpoint."""
        self._outside_the_step("set_batch_size")
        if not 1 <= n <= self.data.count:
            raise TrickError(f"{self.name}: a batch holds 1 to {self.data.count} samples with this data, not {n}")
        self._game.feed.batch_size = n

    def evaluate(self, metric: str, own_samples: bool = False) -> float:
        """The main figure of a metric that the recipe names in `[evaluate]`, by its instance's name, for the present
        state; for `on_boundary`. Nothing of the run is changed by it: with the same figures, it goes on as without.

        `own_samples`: those of a stream of this trick's own, and not those that evaluation draws with the run's seed;
        for a trick that chooses by the figure, so that what is reported later is another one."""
        self._outside_the_step("evaluate")
        return subject.evaluate(self._game, metric, self.name if own_samples else "")

    def better(self, metric: str) -> Direction:
        """Which direction of that figure is better: "higher" or "lower"."""
        return subject.better(self._game, metric)

    def snapshot(self) -> None:
        """Keep a copy of the present state, in place of an earlier one: both networks and optimizers and the
        tensors of all other tricks; for `on_boundary` and `on_finish`. The copy is part of a checkpoint."""
        self._outside_the_step("snapshot")
        state.snapshot(self._game, self.name)

    def restore(self) -> None:
        """Make the state of the snapshot the present one, to the bit; this trick's own tensors and the number of steps
        done stay. For a run that ends: it does not go on from there as it did the first time."""
        self._outside_the_step("restore")
        state.restore(self._game, self.name)

    def restructured(self) -> None:
        """Say that other weights than before take part from the next step on, those with `requires_grad`; for
        `on_setup`, `on_load` and `on_boundary`. Optimizers keep the state of all weights, and start those that join
        from none."""
        self._outside_the_step("restructured")
        self._game.restructured()

    def d_step(self, critic: int) -> None:
        """One D step, for `play`. `critic` numbers the D steps within the step and keys their random draws."""
        self._game.step.d_step(critic)

    def g_step(self) -> None:
        """One G step, for `play`."""
        self._game.step.g_step()

    def _outside_the_step(self, method: str) -> None:
        if self._game.clock.phase in ("d", "g"):
            raise TrickError(
                f"{self.name}: ctx.{method} acts on the host, and inside the step it would be lost when the step is "
                "captured; call it in on_boundary or on_log"
            )

    def _host(self, name: str, value: T) -> T:
        if self._game.clock.phase in ("d", "g"):
            raise TrickError(
                f"{self.name}: ctx.{name} is a host number, and reading it inside the step would freeze it there when "
                "the step is captured; use ctx.value(schedule), a tensor of your own, or on_boundary"
            )
        return value
