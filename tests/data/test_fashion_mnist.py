"""The embedded images."""

import subprocess
import sys

import numpy as np
import pytest

from gantricks.data import fashion_mnist
from gantricks.data.fashion_mnist import FashionMnist


def load(size=28):
    return FashionMnist(FashionMnist.Config(image_size=size)).load()


def test_the_description_is_true_and_needs_no_file(monkeypatch):
    dataset = load()
    monkeypatch.setattr(fashion_mnist, "_FILE", None)
    description = FashionMnist(FashionMnist.Config()).describe()
    assert description.count == len(dataset.samples) == len(dataset.classes)
    assert description.shape == (1, 28, 28) == (dataset.samples.shape[3], *dataset.samples.shape[1:3])
    assert np.bincount(dataset.classes).tolist() == [500] * description.classes
    assert dataset.samples.dtype == np.uint8
    assert dataset.classes.dtype == np.int64


def test_the_class_names_fit_the_images():
    dataset, names = load(), FashionMnist(FashionMnist.Config()).describe().class_names
    outlines = {name: dataset.samples[dataset.classes == index].mean(axis=0) for index, name in enumerate(names)}
    legs = outlines["trouser"][20:, :, 0]
    assert legs[:, 13:15].mean() < legs[:, 10:12].mean()  # a gap between the legs
    for shoe in ("sandal", "sneaker", "ankle boot"):
        assert outlines[shoe][:5].mean() < 0.5 * outlines["coat"][:5].mean()  # shoes leave the top dark
    assert outlines["ankle boot"].mean() > outlines["sneaker"].mean()


@pytest.mark.parametrize("size", [8, 32])
def test_resizing_keeps_the_picture(size):
    small, original = load(size).samples, load().samples
    assert small.shape == (5000, size, size, 1)
    np.testing.assert_allclose(small.mean(axis=(1, 2, 3)), original.mean(axis=(1, 2, 3)), atol=8)


def test_data_sources_do_not_import_torch():
    script = "import sys, gantricks.data.{0}; sys.exit('torch' in sys.modules)"
    modules = "fashion_mnist, gantricks.data.folder, gantricks.data.npz, gantricks.data.ring, gantricks.data.grid"
    assert subprocess.run([sys.executable, "-c", script.format(modules)], check=False).returncode == 0
