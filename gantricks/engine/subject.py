"""Measures a game at its present state: the subject that metrics see, and the main figure of a metric."""

from __future__ import annotations

import hashlib
from functools import cached_property

import numpy as np
from torch import nn

from gantricks.data.base import Dataset, Progress, silent
from gantricks.engine import sampling
from gantricks.engine.game import Game
from gantricks.errors import Problem, TrickError, UserError
from gantricks.metrics.base import Direction, Metric, Samples, Subject, as_generated
from gantricks.networks.base import Discriminator

BATCH = 256
"""The number of samples in a batch, where the metric does not choose it."""


class GameSubject(Subject):
    """A live game as the subject of metrics. The game must not be trained meanwhile, and is not changed.

    `dataset` is the data to compare with; the game's own data by default.
    """

    def __init__(
        self, game: Game, samples: int, seed: int, progress: Progress = silent, dataset: Dataset | None = None
    ) -> None:
        self._game, self._progress = game, progress
        self.samples, self.seed = samples, seed
        self.device = game.placement.device
        self.source, self.description = game.plan.source, game.plan.description
        self.dataset = dataset or game.dataset
        self.latent_dim = game.generator.latent_dim
        self.companions = tuple(game.companions)
        self._asked: dict[str, nn.Module] = {}

    @cached_property
    def held_out(self) -> Dataset | None:
        return self.source.held_out(self._progress)

    def generated(self, count: int) -> Samples:
        done = 0
        for images, classes in sampling.samples(self._game, count, self.seed):
            if not np.isfinite(images).all():
                raise UserError(
                    Problem(
                        f"the generator's samples are not finite (NaN or infinity) after {self._game.finished} steps",
                        hint="an earlier checkpoint may be sound: --step says which",
                    )
                )
            done += len(images)
            self.progress("generating", done, count)
            # the networks that ship end in tanh, but a network of a user may not
            yield images.clip(-1, 1) if self.description.is_images else images, classes

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

    @cached_property
    def _order(self) -> np.ndarray:
        return np.random.default_rng(self.seed).permutation(len(self.dataset.samples))

    @cached_property
    def _discriminator(self) -> Discriminator:
        return sampling.evaluated_discriminator(self._game)


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
