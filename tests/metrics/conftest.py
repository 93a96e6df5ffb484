"""A subject of arrays, so that metrics can be measured without a run."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from gantricks.data.base import Dataset, Description, Source
from gantricks.data.fashion_mnist import FashionMnist
from gantricks.metrics.base import EvaluationFacts, Samples, Subject, as_generated


class ArraySubject(Subject):
    """`fakes` float32 (N, C, H, W) in [-1, 1], or a function of how many are wanted."""

    def __init__(
        self, dataset: Dataset, fakes: np.ndarray, class_names: tuple[str, ...] = (), source: Source | None = None
    ) -> None:
        self.seed, self.samples, self.device = 3, len(fakes), torch.device("cpu")
        self.dataset, self.fakes = dataset, fakes
        self.source = source  # type: ignore[assignment]
        count, height, width, channels = dataset.samples.shape
        self.description = Description((channels, height, width), count, class_names)
        self.calls: list[tuple[object, ...]] = []

    def generated(self, count: int) -> Samples:
        self.calls.append(("generated", count))
        assert count <= len(self.fakes)
        for start in range(0, count, 64):
            yield self.fakes[start : min(start + 64, count)], None

    def reals(self, count: int, which: int = 0) -> Samples:
        self.calls.append(("reals", count, which))
        order = np.random.default_rng(self.seed).permutation(len(self.dataset.samples))
        assert count <= len(order)
        order = order[:count] if which == 0 else order[::-1][:count]
        for start in range(0, count, 100):
            yield as_generated(self.dataset, order[start : start + 100])

    def facts(self, provided: tuple[str, ...] = ("images", "classes")) -> EvaluationFacts:
        return EvaluationFacts(self.samples, self.source, self.description, frozenset(provided))


@pytest.fixture
def subject_of() -> Callable[..., ArraySubject]:
    return ArraySubject


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANTRICKS_CACHE", str(tmp_path_factory.getbasetemp() / "metrics-cache"))


@pytest.fixture(scope="session")
def clothes() -> Dataset:
    """Four hundred of the embedded images, at 12×12, of two classes: learnt in a second."""
    everything = FashionMnist(FashionMnist.Config(image_size=12)).load()
    assert everything.classes is not None
    chosen = np.flatnonzero(everything.classes < 2)[:400]
    return Dataset(everything.samples[chosen], everything.classes[chosen])
