"""The base class of data sources: options, a quick description, and the samples. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gantricks.options import Options

Progress = Callable[[str, int, int], None]
"""A function called as progress(what, done, total) while a source scans or decodes."""


def silent(what: str, done: int, total: int) -> None:
    """A `Progress` that shows nothing."""


@dataclass(frozen=True)
class Description:
    """Facts about a data set that are known before its samples are read.

    `shape`: of one sample, (C, H, W) for images or (D,) for vectors. `count`: number of samples. `class_names`: one
    name per class, empty when there are no classes. `notes`: sentences for the user (skipped files …). `held_out`:
    number of samples that training never sees. `condition`: the numbers that describe each sample, 0 when there are
    none. `words`: the words of the captions that these numbers stand for, sorted, empty when they are no captions.
    """

    shape: tuple[int, ...]
    count: int
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    held_out: int = 0
    condition: int = 0
    words: tuple[str, ...] = ()

    @property
    def classes(self) -> int:
        return len(self.class_names)

    @property
    def is_images(self) -> bool:
        return len(self.shape) == 3


@dataclass(frozen=True)
class Dataset:
    """The samples, and what belongs to each.

    `samples`: uint8 (N, H, W, C) for images, float32 (N, D) for vectors; may be a read-only memory map. `classes`:
    int64 (N,) or None, numbered in the order of `Description.class_names`. `notes`: sentences for the user about what
    reading has found. `conditions`: float32 (N, E) or None, E = `Description.condition`.
    """

    samples: np.ndarray
    classes: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    conditions: np.ndarray | None = None


class Source:
    """A data source, found by name: one module in `gantricks/data`, or an entry point in the group `gantricks.data`.

    The class docstring is its card. Its methods raise `UserError` naming the file and the hint.
    """

    class Config(Options):
        """The source's keys in `[data]`, beside the core's own (`source`, `batch_size`)."""

    paths: ClassVar[tuple[str, ...]] = ()
    """Names of the options that hold file system paths; a run's recipe keeps them absolute."""

    def __init__(self, config: Options) -> None:
        self.config = config

    def describe(self) -> Description:
        """Describe the data without decoding it. `gantricks check` calls this."""
        raise NotImplementedError

    def load(self, progress: Progress = silent) -> Dataset:
        """Read all samples for training."""
        raise NotImplementedError

    def held_out(self, progress: Progress = silent) -> Dataset | None:
        """Return samples that training never sees, as many as `Description.held_out` says; None where there are none.
        They have classes where the training data has.
        """
        return None

    def embed(self, texts: Sequence[str]) -> np.ndarray | None:
        """Return the conditions that stand for these texts, float32 (n, E), without reading the data; None where
        conditions are no captions, or were made elsewhere.
        """
        return None
