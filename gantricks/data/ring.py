"""The 2-D ring."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from gantricks.data import mixtures
from gantricks.data.base import Dataset, Description, Progress, Source, silent
from gantricks.options import Options


class Ring(Source):
    """Points in the plane from a ring of narrow Gaussians. The modes that a GAN covers can be counted.

    The modes sit evenly on a circle, the first at (radius, 0), and are equally likely. The defaults are the 2D-ring of
    PacGAN (Lin et al. 2018): 8 modes, radius 1, standard deviation 0.01, 100,000 points. There are no classes.
    """

    class Config(Options):
        modes: Annotated[int, Field(ge=1, le=1024, description="number of modes")] = 8
        radius: Annotated[float, Field(gt=0, le=1000, description="distance of the modes from the origin")] = 1.0
        std: mixtures.Deviation = 0.01
        samples: mixtures.SampleCount = 100_000
        seed: mixtures.SampleSeed = 0

    config: Config

    @property
    def std(self) -> float:
        """Standard deviation of each mode, along each axis."""
        return self.config.std

    def centres(self) -> np.ndarray:
        """Return the means of the modes, float64 (modes, 2), counter-clockwise."""
        angles = 2 * np.pi * np.arange(self.config.modes) / self.config.modes
        return self.config.radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)

    def describe(self) -> Description:
        return Description((2,), self.config.samples)

    def load(self, progress: Progress = silent) -> Dataset:
        return Dataset(mixtures.draw(self.centres(), self.std, self.config.samples, self.config.seed))
