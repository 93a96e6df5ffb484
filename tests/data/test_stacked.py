"""Stacked digits: what is stacked where, the same each time, and what is no archive of digits."""

from __future__ import annotations

import numpy as np
import pytest

from gantricks.data.stacked import Stacked
from gantricks.errors import UserError


@pytest.fixture
def archive(tmp_path):
    """Sixty digits; every pixel of number i shows the level i, so that a stack tells what it is made of."""

    def write(labels=np.arange(60) % 10, shape=(28, 28), names=("images", "labels")):
        images = np.arange(len(labels), dtype=np.uint8).reshape(-1, *[1] * len(shape)) * np.ones(shape, np.uint8)
        path = tmp_path / "digits.npz"
        np.savez(path, **{names[0]: images, names[1]: labels})
        return path

    return write


def stacked(path, **options):
    return Stacked(Stacked.Config(path=str(path), **options))


@pytest.mark.parametrize("names", [("images", "labels"), ("x_train", "y_train")])
def test_a_class_is_the_three_digits_of_its_channels(archive, names):
    source = stacked(archive(names=names), count=5000)
    dataset, description = source.load(), source.describe()
    assert dataset.samples.shape == (5000, 28, 28, 3)
    assert dataset.samples.dtype == np.uint8
    assert dataset.classes.dtype == np.int64
    assert description.shape == (3, 28, 28)
    assert description.count == 5000
    assert description.class_names[42] == "042"
    assert description.classes == 1000
    assert (dataset.samples == dataset.samples[:, :1, :1]).all(), "a digit is laid down as it is"
    a, b, c = dataset.samples[:, 0, 0].T.astype(int) % 10
    np.testing.assert_array_equal(dataset.classes, 100 * a + 10 * b + c)


def test_every_digit_comes_in_every_channel_independently(archive):
    dataset = stacked(archive(), count=20_000).load()
    numbers = dataset.samples[:, 0, 0]
    assert all(len(np.unique(channel)) == 60 for channel in numbers.T)
    assert len(np.unique(dataset.classes)) == 1000
    assert np.abs(np.corrcoef(numbers.T.astype(float)) - np.eye(3)).max() < 0.05


def test_the_same_seed_gives_the_same_stacks_and_another_one_others(archive):
    path = archive()
    one, again, other = (stacked(path, count=50, seed=seed).load() for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.samples, again.samples)
    np.testing.assert_array_equal(one.classes, again.classes)
    assert (one.classes != other.classes).any()


def test_other_sizes_are_resized(archive):
    assert stacked(archive(shape=(16, 16)), count=3).load().samples.shape == (3, 28, 28, 3)


@pytest.mark.parametrize(
    ("labels", "shape", "said"),
    [
        (np.arange(60) % 9, (28, 28), "go from 0 to 8"),
        (np.arange(60) % 11, (28, 28), "go from 0 to 10"),
        (np.arange(60) % 10, (28, 28, 3), "colour"),
    ],
)
def test_what_is_no_archive_of_digits_is_refused(archive, labels, shape, said):
    path = archive(labels, shape)
    with pytest.raises(UserError) as caught:
        stacked(path).describe()
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_digit_is_named(archive):
    labels = np.arange(60) % 10
    labels[labels == 4] = 5
    with pytest.raises(UserError, match="no image shows 4"):
        stacked(archive(labels), count=3).load()


def test_a_missing_archive_is_named(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        stacked(tmp_path / "nowhere.npz").describe()
