"""Stacked digits: images with a thousand modes that can be counted."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from gantricks.data.base import Dataset, Description, Progress, Source, silent
from gantricks.data.images import PathText
from gantricks.data.npz import Npz
from gantricks.errors import Problem, UserError
from gantricks.options import Options

MODES = 1000
_SIDE = 28
_BLOCK = 4096


class Stacked(Source):
    """Three random digits, one on each colour channel, 28×28: a thousand classes, 100 a + 10 b + c for the digits a, b,
    c in red, green and blue. How many of them a GAN produces can be counted (`stacked_modes`).

    The digits are those of an archive that the source `npz` reads: grey images with labels from 0 to 9, such as
    MNIST's (`x_train`, `y_train`, or `images`, `labels`). Each stack draws its three from all of them, with
    replacement. The default is the 128,000 stacks of PacGAN (Lin et al. 2018), which take 300 MB.

    Source: Metz et al. 2017, Unrolled Generative Adversarial Networks, section 3.3.1.
    """

    paths = ("path",)

    class Config(Options):
        path: Annotated[PathText, Field(description="the .npz file of digits")]
        count: Annotated[int, Field(ge=1, le=1_000_000, description="number of stacks drawn")] = 128_000
        seed: Annotated[
            int, Field(ge=0, le=2**63 - 1, description="which stacks are drawn; apart from the run's seed")
        ] = 0

    config: Config

    def describe(self) -> Description:
        """Read the archive's headers and labels.

        Raises `UserError` with everything that is wrong with the file, or when its digits are not grey images of ten
        classes.
        """
        digits = self._npz.describe()
        problems = []
        if digits.shape[0] != 1:
            problems.append("digits are grey images, and these are in colour")
        if digits.classes != 10:
            found = f"go from 0 to {digits.classes - 1}" if digits.classes else "are missing"
            problems.append(f"digits are labelled from 0 to 9; here the labels {found}")
        if problems:
            raise UserError(
                *(Problem(each, self.config.path, "set data.path to an archive of digits") for each in problems)
            )
        names = tuple(f"{number:03}" for number in range(MODES))
        return Description((3, _SIDE, _SIDE), self.config.count, names)

    def load(self, progress: Progress = silent) -> Dataset:
        """Stack the digits. The same archive, count and seed give the same stacks."""
        digits = self.digits(progress)
        assert digits.classes is not None
        chosen = np.random.default_rng(self.config.seed).integers(len(digits.samples), size=(self.config.count, 3))
        samples = np.empty((len(chosen), _SIDE, _SIDE, 3), np.uint8)
        for start in range(0, len(chosen), _BLOCK):
            block = chosen[start : start + _BLOCK]
            samples[start : start + _BLOCK] = np.moveaxis(digits.samples[block][..., 0], 1, -1)
            progress("stacking", start + len(block), len(chosen))
        return Dataset(samples, digits.classes[chosen] @ np.array([100, 10, 1]))

    def digits(self, progress: Progress = silent) -> Dataset:
        """Return the single digits: uint8 (N, 28, 28, 1), classes 0 to 9.

        Raises `UserError` as `describe` does, and where one of the ten is missing.
        """
        self.describe()
        digits = self._npz.load(progress)
        assert digits.classes is not None
        missing = sorted(set(range(10)) - set(np.unique(digits.classes).tolist()))
        if missing:
            what = f"no image shows {', '.join(map(str, missing))}: not every mode can be stacked"
            raise UserError(Problem(what, self.config.path, "set data.path to an archive of all ten digits"))
        return digits

    @property
    def _npz(self) -> Npz:
        return Npz(Npz.Config(path=self.config.path, image_size=_SIDE))
