"""The base class of feature extractors."""

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
    """What the data must provide, from `gantricks.metrics.base.NEEDS`."""
    names: ClassVar[Mapping[str, str]] = {}
    """The published names of figures that use these features, such as {"frechet_distance": "FID"}. Figures of any other
    network are not comparable with those, and do not have these names.
    """
    paths: ClassVar[tuple[str, ...]] = ()
    """Names of the options that hold file system paths; a run's recipe keeps them absolute."""

    class Config(Options):
        """The extractor's options."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self.facts: dict[str, str | int | float] = {}
        """Facts needed to interpret its figures, such as the accuracy of a classifier; complete after `prepare`."""

    def problems(self, description: Description) -> list[str]:
        """Return sentences saying why it cannot process such data, or cannot run on this machine, each with the
        hint.
        """
        return []

    def prepare(self, subject: Subject) -> None:
        """Do what is needed once before the first features: load weights, train a classifier.

        Raises UserError where the weights are missing or wrong.
        """

    def features(self, images: np.ndarray) -> np.ndarray:
        """Return features float64 (n, A) of images float32 (n, C, H, W) in [-1, 1]."""
        raise NotImplementedError

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Return class probabilities float64 (n, K) of images float32 (n, C, H, W) in [-1, 1]. Only where `classifies`
        is true.
        """
        raise NotImplementedError

    @classmethod
    def classifies(cls) -> bool:
        """Return whether it gives class probabilities."""
        return cls.probabilities is not Extractor.probabilities
