"""Made-up samples in place of data that is not opened."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import as_strided

from gantricks.data.base import Dataset, Description

POINTS = 2500
"""The number of points of each distribution in a scatter plot, and of conditions that samples are made for."""


@dataclass(frozen=True)
class StandIn(Dataset):
    """Made-up samples, not for training. `points` are the first real ones (n, D), where the data is vectors. There may
    be fewer `conditions` than samples, which then share them.
    """

    points: np.ndarray | None = None


def stand_in(
    description: Description, points: np.ndarray | None = None, conditions: np.ndarray | None = None
) -> StandIn:
    """Return as many samples as the data has, of its shape and with its classes in turn. Conditions that are left out
    are made up too.

    They take hardly any memory: each is a view of one row of random numbers. Give `Game` a budget of 0 with them, or it
    copies them.
    """
    count, shape = description.count, description.shape
    draw, length = np.random.default_rng(0), count + int(np.prod(shape)) - 1
    if description.is_images:
        channels, height, width = shape
        shape = (height, width, channels)
        row: np.ndarray = draw.integers(0, 256, length, dtype=np.uint8)
    else:
        row = draw.standard_normal(length, dtype=np.float32)
    within = np.empty(shape, np.bool_).strides
    strides = (row.itemsize, *(row.itemsize * stride for stride in within))
    samples = as_strided(row, (count, *shape), strides, writeable=False)
    classes = np.arange(count) % description.classes if description.classes else None
    if conditions is None and description.condition:
        conditions = draw.standard_normal((min(count, POINTS), description.condition), dtype=np.float32)
    return StandIn(samples, classes, conditions=conditions, points=points)


def reference_points(dataset: Dataset) -> np.ndarray | None:
    """Return the real points (n, D) in the background of pictures of vectors."""
    if isinstance(dataset, StandIn):
        return dataset.points
    return np.asarray(dataset.samples[:POINTS])


def reference_conditions(dataset: Dataset) -> np.ndarray | None:
    """Return conditions (n, E) spread over the data, for which samples are made, or None where it has none."""
    if dataset.conditions is None or isinstance(dataset, StandIn):
        return dataset.conditions
    count = len(dataset.samples)
    few = min(count, POINTS)
    return np.asarray(dataset.conditions[np.arange(few) * count // few])
