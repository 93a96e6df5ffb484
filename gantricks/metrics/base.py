"""The base class of metrics, and the subject that they measure. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import numpy as np

from gantricks.data.base import Dataset, Description, Source
from gantricks.options import Options

if TYPE_CHECKING:
    import torch
    from torch import nn

T = TypeVar("T")
Direction = Literal["higher", "lower"]
Samples = Iterator[tuple[np.ndarray, np.ndarray | None]]
"""Batches of samples and their classes: float32 (n, C, H, W) in [-1, 1] or (n, D), and int64 (n,) or None."""

NEEDS: dict[str, str] = {
    "images": "image data",
    "vectors": "data of points, not of images",
    "classes": "data with classes",
    "conditions": "data whose samples have conditions, such as captions",
    "generator_conditioned": "a generator that is given conditions; set conditioned = true in [generator]",
    "mixture": 'a mixture whose modes are known; the sources "ring" and "grid" are such',
    "held_out": "a part of the data that training never sees; an .npz archive with x_test and y_test has one",
    "class_logits": "a D that predicts classes; add [tricks.auxiliary_classifier], for one",
}
"""What a metric can need, and how to provide it."""

SEED = 0
"""The seed of an evaluation, unless another one is asked for."""


@dataclass(frozen=True)
class EvaluationFacts:
    """Facts that are known before anything is generated, for `Metric.problems`.

    `samples` is the number of generated samples. `description` is that of the samples to compare with; with `held_out`,
    they are half of those that training never sees. `provided` are those of `NEEDS`, and of the capabilities of tricks
    and networks, that the recipe has.
    """

    samples: int
    source: Source
    description: Description
    provided: frozenset[str]
    held_out: bool = False


@dataclass(frozen=True)
class Measurement:
    """The result of a metric: `values` by the name of the figure, and `facts` that are needed to interpret them."""

    values: dict[str, float]
    facts: dict[str, str | int | float] = field(default_factory=dict)


class Subject:
    """The object of an evaluation: a generator, a discriminator and their data, at one fixed state.

    `samples` is the number of generated samples, `latent_dim` the length of the generator's latents, `companions` the
    names of further players. `dataset` holds the samples to compare with. All methods but `once` are functions of the
    state and of `seed`, and none changes the state.
    """

    seed: int
    samples: int
    device: torch.device
    source: Source
    description: Description
    dataset: Dataset
    latent_dim: int
    companions: tuple[str, ...]

    @property
    def lessons(self) -> Dataset:
        """The samples that may teach a network: the data of training, or, where samples are compared with half of what
        it holds out, the other half.
        """
        return self.dataset

    @property
    def held_out(self) -> Dataset | None:
        """Samples that training never sees, or None."""
        raise NotImplementedError

    def generated(self, count: int) -> Samples:
        """Yield `count` generated samples, in batches. Sample i depends on (state, seed, i) only.

        Raises UserError when a sample is not finite.
        """
        raise NotImplementedError

    def conditions(self, count: int) -> np.ndarray:
        """Return the conditions for which `generated` makes `count` samples, float32 (count, E).

        Raises UserError where the generator is given none.
        """
        raise NotImplementedError

    def generate(self, latents: np.ndarray, classes: np.ndarray | None = None) -> np.ndarray:
        """Return what the generator makes of these latents, (n, latent_dim), in the form of `generated`.

        The latents are taken as they are, without the hook `latents`. `classes`, int64 (n,), are read where it is
        conditional.
        """
        raise NotImplementedError

    def reals(self, count: int, which: int = 0) -> Samples:
        """Yield `count` distinct samples of the data, in batches, in an order that is a function of the seed.

        `which` = 1 takes them from the other end of that order: they are disjoint from those of `which` = 0 as long as
        both counts together are at most the number of samples. Raises UserError when there are fewer than `count`.
        """
        raise NotImplementedError

    def classify(self, images: np.ndarray) -> np.ndarray:
        """Return class logits, float32 (n, K), of the discriminator for evaluation, in eval mode.

        `images` have the form of those of `generated`, any number of them. Raises UserError where D does not classify.
        """
        raise NotImplementedError

    def companion(self, name: str) -> nn.Module:
        """Return the further player `name`, "<trick>.<name>", for evaluation: a copy in eval mode,
        without gradients. Raises UserError where the run has none of that name.
        """
        raise NotImplementedError

    def ask(self, name: str, images: np.ndarray) -> np.ndarray:
        """Return what the companion `name` says of images, the logits of its head: float32 (n, F), in eval mode.

        `images` are as for `classify`. Raises UserError where the run has no companion of that name.
        """
        raise NotImplementedError

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return what `compute` has returned for this key before, or returns now.

        It is for what follows from the data, the seed and the key, and not from the state: features of reals, a network
        that the data has taught. A run that is measured again and again computes it for the first measurement only. A
        key begins with a name that no other metric uses.
        """
        kept = self.__dict__.setdefault("_kept", {})  # a subclass need not call __init__
        if key not in kept:
            kept[key] = compute()
        found: T = kept[key]
        return found

    def progress(self, what: str, done: int, total: int) -> None:
        """Report the progress of a longer computation to the user. A run that is asked to end ends here."""


class Metric:
    """Base class of every metric, found by name: one module in `gantricks/metrics`, or an entry point in the group
    `gantricks.metrics`. The docstring of a subclass is its card: what it measures, how, when it misleads, its source.
    """

    figures: ClassVar[Mapping[str, Direction]] = {}
    """The figures and their better directions. The first is the main figure."""
    ratios: ClassVar[Collection[str]] = frozenset()
    """Those of the figures that are always above 0. A study compares them as ratios, the others by differences."""
    needs: Collection[str] = frozenset()
    """What the data and the recipe must provide, from `NEEDS`. An instance may need other things by its options."""

    class Config(Options):
        """The metric's options: its keys in the recipe."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def problems(self, facts: EvaluationFacts) -> list[str]:
        """Return sentences saying why it cannot be measured here, each with the hint. Called before anything is
        generated.
        """
        return []

    def measure(self, subject: Subject) -> Measurement:
        """Return every figure of `figures` for the state of `subject`."""
        raise NotImplementedError

    def floor(self, subject: Subject) -> Measurement | None:
        """Return the figures of real samples in place of generated ones: those of a perfect generator. None where that
        has no meaning.
        """
        return None


FIGURE = "metric/"
"""The beginning of the names of figures among the scalars of a run."""


def scalar_name(metric: str, figure: str) -> str:
    """Return the name of a figure among the scalars of a run, "metric/<metric>/<figure>". `metric` is an instance."""
    return f"{FIGURE}{metric}/{figure}"


def figure_of(scalar: str) -> tuple[str, str] | None:
    """Return the metric and the figure that a scalar of a run is named for, or None where it is no figure."""
    if not scalar.startswith(FIGURE):
        return None
    metric, _, figure = scalar.removeprefix(FIGURE).partition("/")
    return metric, figure


def compared(description: Description, held_out: bool) -> Description:
    """Return the description of the samples to compare with."""
    return replace(description, count=description.held_out // 2) if held_out else description


def halves(dataset: Dataset) -> tuple[Dataset, Dataset]:
    """Return the two halves of what is held out: the samples to compare with, and those that teach. Where their number
    is odd, the second has one more. Which sample is where depends on their number alone.
    """
    count = len(dataset.samples)
    order = np.random.default_rng(0).permutation(count)
    parts = np.sort(order[: count // 2]), np.sort(order[count // 2 :])
    one, other = (
        replace(
            dataset,
            samples=dataset.samples[part],
            classes=None if dataset.classes is None else dataset.classes[part],
            conditions=None if dataset.conditions is None else dataset.conditions[part],
        )
        for part in parts
    )
    return one, other


def obstacles(metric: Metric, facts: EvaluationFacts) -> list[str]:
    """Return sentences saying why `metric` cannot be measured: its unmet needs, and its own `problems`."""
    missing = sorted(set(metric.needs) - facts.provided)
    lacking = [f"it needs {need}: {NEEDS.get(need, 'no trick of this recipe provides it')}" for need in missing]
    return lacking or metric.problems(facts)


def as_generated(dataset: Dataset, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return these samples and their classes in the form of generated ones: images float32 (n, C, H, W) in [-1, 1]."""
    samples = dataset.samples[indices].astype(np.float32)
    if samples.ndim == 4:
        samples = np.ascontiguousarray(samples.transpose(0, 3, 1, 2)) / np.float32(127.5) - np.float32(1)
    return samples, None if dataset.classes is None else dataset.classes[indices]
