"""Measures a game at its present state: the subject that metrics see, and the main figure of a metric."""

from __future__ import annotations

import hashlib
import math
from functools import cached_property

import numpy as np
from torch import nn

from gantricks.data.base import Dataset, Progress, silent
from gantricks.engine import sampling
from gantricks.engine.game import Game
from gantricks.errors import Problem, TrickError, UserError
from gantricks.metrics.base import SEED, Direction, Metric, Samples, Subject, as_generated, halves, scalar_name
from gantricks.networks.base import Discriminator
from gantricks.planning.device import out_of_memory

BATCH = 256
"""The number of samples in a batch, where the metric does not choose it."""


class GameSubject(Subject):
    """A live game as the subject of metrics. The game must not be trained meanwhile, and is not changed.

    `dataset` is the data to compare with; the game's own data by default. Where the recipe says so, its source's
    held-out samples take the place of both.
    """

    def __init__(
        self, game: Game, samples: int, seed: int, progress: Progress = silent, dataset: Dataset | None = None
    ) -> None:
        self._game, self._progress = game, progress
        self.samples, self.seed = samples, seed
        self.device = game.placement.device
        self.source, self.description = game.plan.source, game.plan.description
        self.latent_dim = game.generator.latent_dim
        self.companions = tuple(game.companions)
        self._asked: dict[str, nn.Module] = {}
        # what follows from the game's own data holds for its later states too
        self._kept = game.remembered.setdefault(seed, {}) if dataset is None or dataset is game.dataset else {}
        self.dataset = self._lessons = dataset or game.dataset
        if game.plan.recipe.evaluate.reals == "held_out":
            self.dataset, self._lessons = self.once("halves", self._halves)

    @property
    def lessons(self) -> Dataset:
        return self._lessons

    @property
    def held_out(self) -> Dataset | None:
        return self.once("held_out", lambda: self.source.held_out(self._progress))

    def _halves(self) -> tuple[Dataset, Dataset]:
        held_out = self.held_out
        assert held_out is not None, "the recipe was checked"
        return halves(held_out)

    def generated(self, count: int) -> Samples:
        done = 0
        for images, classes in sampling.samples(self._game, count, self.seed):
            if not np.isfinite(images).all():
                raise UserError(
                    Problem(
                        f"the generator's samples are not finite (NaN or infinity) after {self._game.finished} steps",
                        hint="an earlier checkpoint may be sound: gantricks evaluate takes --step",
                    )
                )
            done += len(images)
            self.progress("generating", done, count)
            # the networks that ship end in tanh, but a network of a user may not
            yield images.clip(-1, 1) if self.description.is_images else images, classes

    def conditions(self, count: int) -> np.ndarray:
        there = self._game.feed.reference_conditions
        if there is None or not self._game.generator.conditioned:
            raise UserError(Problem("the generator is given no conditions", hint="set conditioned = true in it"))
        return there[np.arange(count) % len(there)]

    def generate(self, latents: np.ndarray, classes: np.ndarray | None = None) -> np.ndarray:
        images = sampling.made_of(self._game, latents, classes, self.seed)
        return images.clip(-1, 1) if self.description.is_images else images

    def reals(self, count: int, which: int = 0) -> Samples:
        there = len(self.dataset.samples)
        if count > there:
            raise UserError(
                Problem(f"{count:,} real samples are wanted, and the data holds {there:,}", hint=f"{there:,} at most")
            )
        order = self._order[:count] if which == 0 else self._order[::-1][:count]
        for start in range(0, count, BATCH):
            yield as_generated(self.dataset, order[start : start + BATCH])

    def classify(self, images: np.ndarray) -> np.ndarray:
        if self._discriminator.conditional:
            raise UserError(Problem("the discriminator is given the class, and cannot predict it"))
        if self._discriminator.conditioned:
            raise UserError(Problem("the discriminator judges pairs, and cannot classify images alone"))
        found = []
        for start in range(0, len(images), BATCH):
            logits = sampling.class_logits(self._game, self._discriminator, images[start : start + BATCH])
            if logits is None:
                raise UserError(Problem("the discriminator does not predict classes"))
            found.append(logits)
        return np.concatenate(found)

    def companion(self, name: str) -> nn.Module:
        if name not in self._game.companions:
            known = ", ".join(self._game.companions) or "none"
            raise UserError(Problem(f"the run has no companion {name!r}", hint=f"it has: {known}"))
        return sampling.evaluated_companion(self._game, name)

    def ask(self, name: str, images: np.ndarray) -> np.ndarray:
        if name not in self._asked:
            self._asked[name] = self.companion(name)
        network = self._asked[name]
        parts = (images[start : start + BATCH] for start in range(0, len(images), BATCH))
        return np.concatenate(
            [sampling.said_of(self._game, network, part).logits.float().cpu().numpy() for part in parts]
        )

    def progress(self, what: str, done: int, total: int) -> None:
        self._progress(what, done, total)

    @property
    def _order(self) -> np.ndarray:
        count = len(self.dataset.samples)
        return self.once("order", lambda: np.random.default_rng(self.seed).permutation(count))

    @cached_property
    def _discriminator(self) -> Discriminator:
        return sampling.evaluated_discriminator(self._game)


def measure(game: Game, progress: Progress = silent) -> tuple[dict[str, float], list[str]]:
    """Measure the metrics that the plan measures while it trains, for the present state.

    Returns every figure by its name among the scalars, the main one of each metric first, and a sentence for each
    metric that cannot be measured in this state; its figures are NaN.
    """
    subject = GameSubject(game, game.plan.recipe.evaluate.samples, SEED, progress)
    found: dict[str, float] = {}
    problems = []
    for planned in game.plan.measured:
        values = dict.fromkeys(planned.metric.figures, math.nan)
        try:
            values = planned.metric.measure(subject).values
        except UserError as error:
            problems.append(f"{planned.name} is not measured: {'; '.join(map(_sentence, error.problems))}")
        except (MemoryError, RuntimeError) as error:
            if out_of_memory(error) is None:
                raise
            problems.append(f"{planned.name} is not measured: the memory of {subject.device} does not suffice")
        found |= {scalar_name(planned.name, figure): float(values[figure]) for figure in planned.metric.figures}
    return found, problems


def _sentence(problem: Problem) -> str:
    place = f"{problem.where}: " if problem.where else ""
    advice = f" ({problem.hint})" if problem.hint else ""
    return f"{place}{problem.what}{advice}"


def evaluate(game: Game, metric: str, stream: str = "") -> float:
    """Return the main figure of one of the recipe's metrics for the present state.

    The samples are those of the run's seed, or, where `stream` is given, of a seed made of both. Raises TrickError
    where the recipe has no metric of that name, UserError where it cannot be measured.
    """
    measured = _metric(game, metric)
    seed = game.seed
    if stream:
        seed = int.from_bytes(hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=5).digest())
    subject = GameSubject(game, game.plan.recipe.evaluate.samples, seed)
    return measured.measure(subject).values[next(iter(measured.figures))]


def better(game: Game, metric: str) -> Direction:
    """Return which direction of the main figure is better. Raises TrickError as `evaluate` does."""
    return next(iter(_metric(game, metric).figures.values()))


def _metric(game: Game, name: str) -> Metric:
    for planned in game.plan.metrics:
        if planned.name == name:
            return planned.metric
    known = ", ".join(planned.name for planned in game.plan.metrics) or "none"
    raise TrickError(f"the recipe has no metric {name!r} in [evaluate]; it has: {known}")
