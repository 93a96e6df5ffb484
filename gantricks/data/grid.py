"""The 2-D grid."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from gantricks.data import mixtures
from gantricks.data.base import Dataset, Description, Progress, Source, silent
from gantricks.options import Options


class Grid(Source):
    """Points in the plane from a square grid of narrow Gaussians, with more modes than the ring.

    The grid is centred on the origin and its modes are equally likely. The defaults are the 2D-grid of PacGAN (Lin et
    al. 2018): centres {−4, −2, 0, 2, 4}², standard deviation 0.05, 100,000 points. There are no classes.
    """

    class Config(Options):
        side: Annotated[int, Field(ge=1, le=64, description="number of modes along each axis")] = 5
        spacing: Annotated[float, Field(gt=0, le=1000, description="distance of neighbouring modes")] = 2.0
        std: mixtures.Deviation = 0.05
        samples: mixtures.SampleCount = 100_000
        seed: mixtures.SampleSeed = 0

    config: Config

    @property
    def std(self) -> float:
        """Standard deviation of each mode, along each axis."""
        return self.config.std

    def centres(self) -> np.ndarray:
        """Return the means of the modes, float64 (side², 2), row by row from the lower left."""
        along = (np.arange(self.config.side) - (self.config.side - 1) / 2) * self.config.spacing
        x, y = np.meshgrid(along, along)
        return np.stack([x.ravel(), y.ravel()], axis=1)

    def describe(self) -> Description:
        return Description((2,), self.config.samples)

    def load(self, progress: Progress = silent) -> Dataset:
        return Dataset(mixtures.draw(self.centres(), self.std, self.config.samples, self.config.seed))
