"""What an extractor of features is."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from gantricks.data.base import Description
from gantricks.options import Options

if TYPE_CHECKING:
    from gantricks.metrics.base import Subject


class Extractor:
    """Base class of every extractor, found by name: one module in `gantricks/metrics/extractors`, or an entry point in
    the group `gantricks.extractors`. The docstring of a subclass is its card.
    """

    dimension: int
    """A, the number of features of an image."""
    needs: ClassVar[Collection[str]] = frozenset()
    """What the data must have, in the words of `gantricks.metrics.base.NEEDS`."""
    names: ClassVar[Mapping[str, str]] = {}
    """The published names of figures when they are computed from these features, such as {"frechet_distance": "FID"}.
    Figures of any other network are not comparable with those, and go by no such name."""
    paths: ClassVar[tuple[str, ...]] = ()
    """Names of the options that hold file system paths; a run's recipe keeps them absolute."""

    class Config(Options):
        """The extractor's options."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self.facts: dict[str, str | int | float] = {}
        """What its figures cannot be read without, such as the accuracy of a classifier; complete once prepared."""

    def problems(self, description: Description) -> list[str]:
        """Sentences saying why it cannot look at such data, or not on this machine, each with the hint."""
        return []

    def prepare(self, subject: Subject) -> None:
        """Whatever has to happen once, before the first features: loading weights, training a classifier.

        Raises UserError where the weights are missing or are not the right ones.
        """

    def features(self, images: np.ndarray) -> np.ndarray:
        """Features float64 (n, A) of images float32 (n, C, H, W) in [-1, 1]."""
        raise NotImplementedError

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Class probabilities float64 (n, K) of images float32 (n, C, H, W) in [-1, 1]; only where `classifies`."""
        raise NotImplementedError

    @classmethod
    def classifies(cls) -> bool:
        """Whether it gives probabilities."""
        return cls.probabilities is not Extractor.probabilities
