"""What a trick sees of the run: its own `Context`, a view of the one `Frame` that the step writes into."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import torch
from torch import Tensor, nn

from gantricks.errors import TrickError
from gantricks.networks.base import Discriminator, Generator, initialise
from gantricks.options import Schedule
from gantricks.planning.plan import Hooks, fold
from gantricks.records import Batch, Out
from gantricks.rng import Clock, Rng

if TYPE_CHECKING:
    from gantricks.engine.feed import Feed
    from gantricks.engine.guard import Guard
    from gantricks.engine.step import Step
    from gantricks.metrics.base import Direction

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)


class Frame:
    """What the run is made of and what the present step has produced so far. Written by the core alone."""

    __slots__ = (
        "_constants",
        "_scheduled",
        "better",
        "bring_back",
        "clock",
        "device",
        "discriminator",
        "dtype",
        "evaluate",
        "fake",
        "fake_in",
        "fake_labels",
        "fake_out",
        "feed",
        "finished",
        "generator",
        "guard",
        "hooks",
        "keep",
        "progress",
        "progress_tensor",
        "real",
        "real_in",
        "real_labels",
        "real_out",
        "restructured",
        "step",
        "stop_reason",
        "updated",
        "updates",
        "warnings",
    )

    generator: Generator
    discriminator: Discriminator
    hooks: Hooks
    step: Step
    restructured: Callable[[], None]
    evaluate: Callable[..., float]
    better: Callable[[str], Direction]
    keep: Callable[[str], None]
    bring_back: Callable[[str], None]
    real: Batch | None
    fake: Batch | None
    real_in: Batch | None
    fake_in: Batch | None
    real_out: Out | None
    fake_out: Out | None
    real_labels: Tensor | None
    fake_labels: Tensor | None

    def __init__(self, clock: Clock, feed: Feed, guard: Guard, device: torch.device, dtype: torch.dtype) -> None:
        self.clock = clock
        self.feed = feed
        self.guard = guard
        self.device = device
        self.dtype = dtype
        self.finished = 0
        self.progress = 0.0
        self.progress_tensor = torch.zeros((), device=device, dtype=dtype)
        self.updated = guard.healthy
        self.updates: dict[str, Tensor] = {}
        self.stop_reason: str | None = None
        self.warnings: list[str] = []
        self._constants: dict[float, Tensor] = {}
        self._scheduled: dict[Schedule, Tensor] = {}
        self.clear()

    def clear(self) -> None:
        """Forget the step's tensors: what a phase has not produced yet cannot be read in it."""
        self.real = None
        self.forget_all_but_real()

    def forget_all_but_real(self) -> None:
        self.fake = None
        self.real_in = None
        self.fake_in = None
        self.real_out = None
        self.fake_out = None
        self.real_labels = None
        self.fake_labels = None

    SHOWN = ("real", "fake", "real_in", "fake_in", "real_out", "fake_out", "real_labels", "fake_labels", "updated")

    def shown(self) -> tuple[Any, ...]:
        """What a step leaves to be looked at."""
        return tuple(getattr(self, name) for name in self.SHOWN), self.step.judged

    def show(self, values: tuple[Any, ...]) -> None:
        """Take the place of a step that has left these."""
        shown, self.step.judged = values
        for name, value in zip(self.SHOWN, shown, strict=True):
            setattr(self, name, value)

    def at(self, finished: int, steps: int) -> None:
        """`finished` steps are done; progress is 0 in the first step and exactly 1 in step number `steps` and after."""
        self.finished = self.clock.step = finished
        self.progress = min(finished / (steps - 1), 1.0) if steps > 1 else 1.0
        self.progress_tensor.fill_(self.progress)
        self._scheduled.clear()

    def value(self, option: float | Schedule) -> Tensor:
        if isinstance(option, Schedule):
            if option not in self._scheduled:
                weight = self.progress_tensor  # never above 1
                if option.until < 1:
                    # tensors on both sides: torch takes longer to wrap a number than to divide
                    weight = torch.minimum(weight / self._constant(option.until), self._constant(1.0))
                # lerp meets both ends exactly
                self._scheduled[option] = torch.lerp(self._constant(option.start), self._constant(option.end), weight)
            return self._scheduled[option]
        return self._constant(option)

    def prepare(self, options: Iterable[object]) -> None:
        """Bring the tricks' numbers to the device now: the step copies nothing from the host."""
        for option in options:
            if isinstance(option, Schedule):
                for number in (option.start, option.end, option.until, 1.0):
                    self._constant(number)
            elif isinstance(option, float):
                self._constant(option)

    def draw_latents(self, count: int, rng: Rng, class_rng: Rng) -> tuple[Tensor, Tensor | None]:
        """Z ~ N(0, I) through the `latents` hook, and uniform classes for a conditional G."""
        z = fold(self.hooks.latents, rng.normal((count, self.generator.latent_dim)))
        classes = class_rng.randint(count, self.generator.classes) if self.generator.conditional else None
        return z, classes

    def _constant(self, number: float) -> Tensor:
        if number not in self._constants:
            self._constants[number] = torch.tensor(number, device=self.device, dtype=self.dtype)
        return self._constants[number]


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
    `undecided`, `healthy`. In a step, each from the moment it exists: `phase`, `real`, `fake` (batches as drawn),
    `real_in`, `fake_in` (after `d_input`), `real_out`, `fake_out`, `real_labels`, `fake_labels`, `discriminate`,
    `updated`, `updated_in_step(player)`. Between steps, when logging, and at the start and end of a run: `step`,
    `progress`, `images_seen`.
    """

    __slots__ = ("_frame", "name", "rng")

    def __init__(self, frame: Frame, name: str, rng: Rng) -> None:
        self._frame = frame
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
        frame = self._frame
        if frame.real_out is None:
            if frame.clock.phase != "g":
                raise TrickError(f"{self.name}: ctx.real_out does not exist at this point of phase {self.phase!r}")
            frame.real_out = frame.step.score_reals_again()
        return frame.real_out

    @property
    def device(self) -> torch.device:
        return self._frame.device

    @property
    def dtype(self) -> torch.dtype:
        """The run's floating-point type outside the networks: float32, or float64."""
        return self._frame.dtype

    @property
    def generator(self) -> Generator:
        return self._frame.generator

    @property
    def discriminator(self) -> Discriminator:
        return self._frame.discriminator

    @property
    def latent_dim(self) -> int:
        return self._frame.generator.latent_dim

    @property
    def data(self) -> Feed:
        """The real data: `data.take(indices)` gives those samples as a `Batch`, `data.count` how many there are,
        `data.subset(indices)` some of them to draw from in the step, `data.class_of_each` int64 (count,) or None."""
        return self._frame.feed

    @property
    def undecided(self) -> float:
        """The output of D that stands for as likely real as fake, as the objective of the recipe has it: 0 for logits
        of a probability. Above it, D takes a sample for real."""
        return self._frame.step.loss.undecided

    @property
    def healthy(self) -> Tensor:
        """0-dim float32 on the device: 1, and 0 from the first non-finite loss or gradient on. A trick that scales
        each update of its state by it may declare `fault_safe = True`."""
        return self._frame.guard.healthy

    @property
    def updated(self) -> Tensor:
        """0-dim float32 on the device: 1 where the phase's player was updated, 0 where a gate was closed or `healthy`
        is 0; for what follows a player in `after_d_step` and `after_g_step`."""
        return self._frame.updated

    def updated_in_step(self, player: str) -> Tensor:
        """0-dim float32 on the device: 1 where the last update of "d" or "g" in this step took place, 0 where a gate
        was closed, where there has been none yet, or where `healthy` is 0. For what follows a player in the other's
        phase: its statistics move there, too, and where its gate is closed they may be those of a stand-in."""
        healthy = self._frame.guard.healthy
        return self._frame.updates.get(player, torch.zeros_like(healthy)) * healthy

    @property
    def phase(self) -> str:
        """ "d" or "g" in a step; "setup", "boundary", "log" or "sample" outside."""
        return self._frame.clock.phase

    @property
    def step(self) -> int:
        """Number of finished steps, a host number."""
        return self._host("step", self._frame.finished)

    @property
    def progress(self) -> float:
        """0 at the first step, 1 at the last and, where a run was lengthened, from the end of its schedules on; a host
        number."""
        return self._host("progress", self._frame.progress)

    @property
    def images_seen(self) -> int:
        """Number of real samples drawn so far, a host number."""
        return self._host("images_seen", self._frame.feed.cursor)

    def value(self, option: float | Schedule) -> Tensor:
        """A number or schedule of the trick's options as a 0-dim tensor on the device, at the present step."""
        return self._frame.value(option)

    def discriminate(self, batch: Batch, is_real: bool) -> Out:
        """`d_input` and D, for a further batch. D must not mix these samples with others to be scored the same."""
        return self._frame.step.discriminate(batch, is_real)

    def latents(self, count: int) -> tuple[Tensor, Tensor | None]:
        """Latents (count, latent_dim) as training draws them, and classes (count,) where G is conditional, both from
        this trick's own stream."""
        return self._frame.draw_latents(count, self.rng, self.rng)

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
        self._frame.stop_reason = f"{self.name}: {reason}"

    def warn(self, sentence: str) -> None:
        """Tell the user, with the next log line; for `on_log`."""
        self._outside_the_step("warn")
        self._frame.warnings.append(f"{self.name}: {sentence}")

    def set_n_critic(self, n: int) -> None:
        """The number of D steps in each step from the next one on; for `on_boundary`. Part of a checkpoint."""
        self._outside_the_step("set_n_critic")
        if n < 1:
            raise TrickError(f"{self.name}: a step has at least 1 D step, not {n}")
        self._frame.step.n_critic = n

    def set_batch_size(self, n: int) -> None:
        """The number of samples in each batch from the next one on; for `on_boundary`. Part of a checkpoint."""
        self._outside_the_step("set_batch_size")
        if not 1 <= n <= self.data.count:
            raise TrickError(f"{self.name}: a batch holds 1 to {self.data.count} samples with this data, not {n}")
        self._frame.feed.batch_size = n

    def evaluate(self, metric: str, own_samples: bool = False) -> float:
        """The main figure of a metric that the recipe names in `[evaluate]`, by its instance's name, for the present
        state; for `on_boundary`. Nothing of the run is changed by it: with the same figures, it goes on as without.

        `own_samples`: those of a stream of this trick's own, and not those that evaluation draws with the run's seed;
        for a trick that chooses by the figure, so that what is reported later is another one."""
        self._outside_the_step("evaluate")
        return self._frame.evaluate(metric, self.name) if own_samples else self._frame.evaluate(metric)

    def better(self, metric: str) -> Direction:
        """Which direction of that figure is better: "higher" or "lower"."""
        return self._frame.better(metric)

    def keep(self) -> None:
        """Keep a copy of the present state, in place of the one kept before: both networks and optimizers and the
        tensors of all other tricks; for `on_boundary` and `on_finish`. The copy is part of a checkpoint."""
        self._outside_the_step("keep")
        self._frame.keep(self.name)

    def bring_back(self) -> None:
        """Make the state that was kept the present one, to the bit; this trick's own tensors and the number of steps
        done stay. For a run that ends: it does not go on from there as it did the first time."""
        self._outside_the_step("bring_back")
        self._frame.bring_back(self.name)

    def restructured(self) -> None:
        """Say that other weights than before take part from the next step on, those with `requires_grad`; for
        `on_setup`, `on_load` and `on_boundary`. Optimizers keep the state of all weights, and start those that join
        from none."""
        self._outside_the_step("restructured")
        self._frame.restructured()

    def d_step(self, critic: int) -> None:
        """One D step, for `play`. `critic` numbers the D steps within the step and keys their random draws."""
        self._frame.step.d_step(critic)

    def g_step(self) -> None:
        """One G step, for `play`."""
        self._frame.step.g_step()

    def _outside_the_step(self, method: str) -> None:
        if self._frame.clock.phase in ("d", "g"):
            raise TrickError(
                f"{self.name}: ctx.{method} acts on the host, and inside the step it would be lost when the step is "
                "captured; call it in on_boundary or on_log"
            )

    def _host(self, name: str, value: T) -> T:
        if self._frame.clock.phase in ("d", "g"):
            raise TrickError(
                f"{self.name}: ctx.{name} is a host number, and reading it inside the step would freeze it there when "
                "the step is captured; use ctx.value(schedule), a tensor of your own, or on_boundary"
            )
        return value
