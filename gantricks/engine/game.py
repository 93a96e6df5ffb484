"""The game: the players, the state of the tricks, and the step that trains them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gantricks.data.base import Dataset
from gantricks.engine.dispatch import Hooks, collect, notify
from gantricks.engine.feed import Feed
from gantricks.engine.frame import Frame
from gantricks.engine.guard import NORM_OF, Guard, NonFinite
from gantricks.engine.players import Player
from gantricks.engine.schedules import Schedules
from gantricks.engine.step import Step
from gantricks.networks.base import Discriminator, Generator
from gantricks.planning.device import Placement
from gantricks.planning.plan import Plan
from gantricks.records import Companion
from gantricks.rng import Clock, Rng

Tensors = dict[str, Tensor]


@dataclass
class Snapshot:
    """A state that a trick can restore: its tensors by group and name, and its host numbers."""

    tensors: Tensors
    numbers: dict[str, Any]


class Game:
    """The whole state of one run. `gantricks.engine.start` builds it.

    `play` plays one step: the eager `Step`, unless a session has replaced it by a captured step. `snapshot` is the
    state that a trick has saved. `restored_step` is the step of the snapshot that was restored, or None; the number of
    finished steps does not go back.
    """

    generator: Generator
    discriminator: Discriminator
    step: Step
    play: Callable[[], None]

    def __init__(self, plan: Plan, dataset: Dataset, placement: Placement, budget: int | None = None) -> None:
        recipe = plan.recipe
        self.plan, self.dataset, self.placement = plan, dataset, placement
        self.seed, self.steps = recipe.seed, recipe.train.steps
        self.clock = Clock()
        self.guard = Guard(placement.device, placement.dtype)
        self.feed = Feed(dataset, recipe.seed, recipe.data.keys.batch_size, placement, plan.description.classes, budget)
        self.frame = Frame(self.guard.healthy)
        self.schedules = Schedules(recipe.train.length, placement.device, placement.dtype)
        self.hooks = Hooks()
        self.contexts: Mapping[str, Any] = {}
        self.companions: dict[str, Companion] = {}
        self.players: dict[str, Player] = {}
        self.learns_in: dict[str, str] = {}
        """The phase in which each player learns, known before its optimizer is."""
        self.trick_tensors: Tensors = {}
        self.restructurings = 0
        self.variants: dict[tuple[str, str], bool | int | str] = {}
        """The host values on which the step may branch, by trick and name."""
        self.stop_reason: str | None = None
        self.warnings: list[str] = []
        self.cursors: dict[int, int] = {}
        """The cursor of the data before each step since the last check for non-finite values."""
        self.remembered: dict[int, dict[Hashable, Any]] = {}
        """What metrics have computed of the data, by the seed of the evaluation."""
        self.snapshot: Snapshot | None = None
        self.restored_step: int | None = None

    def stream(self, name: str) -> Rng:
        """Return the random stream of this name."""
        return Rng(self.seed, name, self.clock, self.placement.device, self.placement.dtype)

    @property
    def finished(self) -> int:
        """The number of finished steps."""
        return self.schedules.finished

    @property
    def structure(self) -> tuple[int, ...]:
        """The settings that every captured step has frozen. Where they change, the step is captured anew."""
        return self.feed.batch_size, self.step.n_critic, self.restructurings

    @property
    def variant(self) -> tuple[Any, ...]:
        """The present choice of the tricks among forms of the step. A captured step is kept for each."""
        return tuple(sorted(self.variants.items()))

    def move_to(self, finished: int) -> None:
        """Set the number of finished steps."""
        self.clock.step = finished
        self.schedules.move_to(finished)
        self.guard.step.fill_(finished + 1)

    def restructured(self) -> None:
        """Collect the weights anew that are trained from the next step on."""
        self.restructurings += 1
        for player in self.players.values():
            player.take_part()

    # ------------------------------------------------------------------ playing

    @contextmanager
    def training(self) -> Iterator[None]:
        """Tell the tricks that training starts, and, however it ends, that it has ended."""
        starts = {ctx.name: hook for hook, ctx in self.hooks.on_run_start}
        ends = {ctx.name: hook for hook, ctx in self.hooks.on_run_end}
        self.clock.enter("boundary")
        with ExitStack() as stack:
            for name, ctx in self.contexts.items():
                if name in starts:
                    starts[name](ctx)
                if name in ends:  # a trick whose start has failed has not started
                    stack.callback(ends[name], ctx)
            stack.callback(self.clock.enter, "boundary")
            yield

    def advance(self) -> bool:
        """Play one step. Returns False where a trick has stopped the run before it."""
        if self.stop_reason:
            return False
        self.clock.enter("boundary")
        notify(self.hooks.on_boundary)
        if self.stop_reason:
            return False
        self.cursors[self.finished] = self.feed.cursor
        self.play()
        self.move_to(self.finished + 1)
        return True

    def measured(self, figures: Mapping[str, float]) -> None:
        """Tell the tricks the figures of the present state."""
        self.clock.enter("metrics")
        for hook, ctx in self.hooks.on_metrics:
            hook(dict(figures), ctx)

    def finish(self) -> None:
        """Tell the tricks that the last step is done, or that a trick has stopped the run."""
        self.clock.enter("boundary")
        notify(self.hooks.on_finish)

    # ------------------------------------------------------------------ reports

    def non_finite(self) -> NonFinite | None:
        """Return the first non-finite value so far. Waits for the device."""
        found = self.guard.report()[1]
        if not found:
            self.cursors.clear()
        return found

    def scalars(self) -> tuple[dict[str, float], NonFinite | None]:
        """Return the scalars of a log line, and the first non-finite value if there was one. Waits for the device."""
        terms, non_finite = self.guard.report()
        scalars: dict[str, float] = {}
        for player, values in terms.items():
            losses = {name: value for name, value in values.items() if name != "step" and not name.startswith(NORM_OF)}
            scalars[f"loss/{player}"] = sum(losses.values())
            scalars |= {f"loss/{player}.{name}": value for name, value in losses.items()}
        norms = {name: value for values in terms.values() for name, value in values.items() if name.startswith(NORM_OF)}
        for name, norm in norms.items():
            player = name.removeprefix(NORM_OF)
            scalars[name] = norm
            scalars[f"learning_rate/{player}"] = float(self.players[player].optimizer.param_groups[0]["lr"])
        for side, logits in self.frame.logits.items():
            scalars[f"logits/{side}"] = logits.mean().item()
        self.clock.enter("log")
        with torch.no_grad():
            scalars |= {name: float(value) for name, value in collect(self.hooks.log_scalars, "/").items()}
        if not non_finite:
            self.cursors.clear()
            for hook, ctx in self.hooks.on_log:
                hook(dict(scalars), ctx)
        return scalars, non_finite
