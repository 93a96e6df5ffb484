"""What an extractor of features is."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from gantricks.options import Options

if TYPE_CHECKING:
    from gantricks.metrics.base import Subject


class Extractor:
    """Base class of every extractor, found by name: one module in `gantricks/metrics/extractors`, or an entry point in
    the group `gantricks.extractors`. The docstring of a subclass is its card.
    """

    needs: ClassVar[Collection[str]] = frozenset()
    """What the data must have, in the words of `gantricks.metrics.base.NEEDS`."""

    class Config(Options):
        """The extractor's options."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def prepare(self, subject: Subject) -> None:
        """Whatever has to happen once, before the first features: loading weights, training a classifier."""

    def features(self, images: np.ndarray) -> np.ndarray:
        """Features float64 (n, A) of images float32 (n, C, H, W) in [-1, 1]."""
        raise NotImplementedError
