"""A small set of real images that comes with the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gantricks.data import images
from gantricks.data.base import Dataset, Description, Progress, Source, silent
from gantricks.data.images import ImageSize
from gantricks.options import Options

_FILE = Path(__file__).with_name("fashion_mnist_5k.npz")
_COUNT = 5000
_SIDE = 28
_CLASS_NAMES = (
    "t-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


class FashionMnist(Source):
    """Five thousand real images of clothes, grey, 28×28, ten classes of 500; they come with the package.

    A subset of Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017; MIT licence), light on dark. Sizes other than
    28 are resized from it with an antialiasing filter.
    """

    class Config(Options):
        image_size: ImageSize = _SIDE

    config: Config

    def describe(self) -> Description:
        """Describe the images without opening the file."""
        return Description((1, self.config.image_size, self.config.image_size), _COUNT, _CLASS_NAMES)

    def load(self, progress: Progress = silent) -> Dataset:
        """Read the images, and resize them to another size if wanted."""
        with np.load(_FILE, allow_pickle=False) as stored:
            samples, classes = stored["images"][..., None], stored["labels"].astype(np.int64)
        size = self.config.image_size
        if size != _SIDE:
            resized = np.empty((_COUNT, size, size, 1), np.uint8)
            for index, picture in enumerate(samples):
                resized[index] = images.resize(picture, size)
                if (index + 1) % 500 == 0:
                    progress("resizing", index + 1, _COUNT)
            samples = resized
        return Dataset(samples, classes)
