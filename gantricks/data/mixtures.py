"""Mixtures of equally likely round Gaussians in the plane: the base of the ring and the grid."""

from __future__ import annotations

from typing import Annotated, Protocol, runtime_checkable

import numpy as np
from pydantic import Field

SampleCount = Annotated[int, Field(ge=1, le=10_000_000, description="number of points drawn")]
SampleSeed = Annotated[
    int, Field(ge=0, le=2**63 - 1, description="which sample of the distribution; apart from the run's seed")
]
Deviation = Annotated[
    float, Field(gt=0, le=1000, description="standard deviation of each mode, along each of the two axes")
]


@runtime_checkable
class Mixture(Protocol):
    """A data source of equally likely round Gaussians, with countable modes."""

    @property
    def std(self) -> float:
        """Standard deviation of each mode, along each axis."""

    def centres(self) -> np.ndarray:
        """The means of the modes, float64 (modes, D)."""


def draw(centres: np.ndarray, std: float, samples: int, seed: int) -> np.ndarray:
    """Draw float32 (samples, D), equally often around each of `centres`, (modes, D), from N(centre, std² I).

    The same arguments give the same points.
    """
    rng = np.random.default_rng(seed)
    modes = rng.integers(len(centres), size=samples)
    return (centres[modes] + std * rng.standard_normal((samples, centres.shape[1]))).astype(np.float32)
