"""What a metric is, and what it looks at. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from gantricks.data.base import Dataset, Description, Source
from gantricks.options import Options

if TYPE_CHECKING:
    import torch

Direction = Literal["higher", "lower"]
Samples = Iterator[tuple[np.ndarray, np.ndarray | None]]
"""Batches of samples and their classes: float32 (n, C, H, W) in [-1, 1] or (n, D), and int64 (n,) or None."""

NEEDS: dict[str, str] = {
    "images": "image data",
    "vectors": "data of points, not of images",
    "classes": "data with classes",
    "mixture": 'a mixture whose modes are known; the sources "ring" and "grid" are such',
    "held_out": "a part of the data that training never sees; an .npz archive with x_test and y_test has one",
    "class_logits": "a D that says which class it sees; add [tricks.auxiliary_classifier], for one",
}
"""What a metric can need, and what provides it."""


@dataclass(frozen=True)
class EvaluationFacts:
    """What is known before anything is generated, for `Metric.problems`.

    `samples` is the number of generated samples asked for, `provided` those of `NEEDS`, and of the capabilities of
    tricks and networks, that the recipe has.
    """

    samples: int
    source: Source
    description: Description
    provided: frozenset[str]


@dataclass(frozen=True)
class Measurement:
    """What a metric found: `values` by the name of the figure, and the `facts` that they cannot be read without."""

    values: dict[str, float]
    facts: dict[str, str | int | float] = field(default_factory=dict)


class Subject:
    """What is evaluated: a generator, a discriminator and the data that they play about, frozen at one state.

    `samples` is the number of generated samples asked for. Everything is a function of the state and of `seed`, and
    nothing of it changes the state.
    """

    seed: int
    samples: int
    device: torch.device
    source: Source
    description: Description
    dataset: Dataset

    @property
    def held_out(self) -> Dataset | None:
        """Samples that training never sees, or None."""
        raise NotImplementedError

    def generated(self, count: int) -> Samples:
        """`count` generated samples, in batches. Sample i depends on (state, seed, i) only.

        Raises UserError when a sample is not finite.
        """
        raise NotImplementedError

    def reals(self, count: int, which: int = 0) -> Samples:
        """`count` samples of the data, in batches, none of them twice, in an order that is a function of the seed.

        `which` = 1 takes them from the other end of that order: disjoint from those of `which` = 0 as long as the two
        counts together are at most the number of samples. Raises UserError when there are fewer than `count`.
        """
        raise NotImplementedError

    def classify(self, images: np.ndarray) -> np.ndarray:
        """Class logits, float32 (n, K), of the discriminator that evaluation uses, in eval mode; `images` as those of
        `generated`, any number of them. Raises UserError where D does not classify."""
        raise NotImplementedError

    def progress(self, what: str, done: int, total: int) -> None:
        """Tell whoever waits how far a longer piece of work is."""


class Metric:
    """Base class of every metric, found by name: one module in `gantricks/metrics`, or an entry point in the group
    `gantricks.metrics`. The docstring of a subclass is its card: what it measures, how, when it misleads, its source.
    """

    figures: ClassVar[Mapping[str, Direction]] = {}
    """Every figure it yields and which direction is better. The first is its main figure."""
    needs: ClassVar[Collection[str]] = frozenset()
    """What the data and the recipe must have, of `NEEDS`."""

    class Config(Options):
        """The metric's options: its keys in the recipe."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def problems(self, facts: EvaluationFacts) -> list[str]:
        """Sentences saying why it cannot be measured here, each with the hint; before anything is generated."""
        return []

    def measure(self, subject: Subject) -> Measurement:
        """Every figure of `figures`, for the state that `subject` holds."""
        raise NotImplementedError

    def floor(self, subject: Subject) -> Measurement | None:
        """The same figures for real samples in place of generated ones: what a perfect generator would score. None
        where that has no meaning."""
        return None


def obstacles(metric: Metric, facts: EvaluationFacts) -> list[str]:
    """Why `metric` cannot be measured, in sentences: what it needs and is not there, and what it says itself."""
    missing = sorted(set(metric.needs) - facts.provided)
    lacking = [f"it needs {need}: {NEEDS.get(need, 'no trick of this recipe provides it')}" for need in missing]
    return lacking or metric.problems(facts)


def as_generated(dataset: Dataset, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Those samples, and their classes, in the form of generated ones: images float32 (n, C, H, W) in [-1, 1]."""
    samples = dataset.samples[indices].astype(np.float32)
    if samples.ndim == 4:
        samples = np.ascontiguousarray(samples.transpose(0, 3, 1, 2)) / np.float32(127.5) - np.float32(1)
    return samples, None if dataset.classes is None else dataset.classes[indices]
