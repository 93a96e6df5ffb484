"""The ring and the grid are the mixtures of the published protocol."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gantricks.data.grid import Grid
from gantricks.data.ring import Ring

SOURCES = [Ring(Ring.Config()), Grid(Grid.Config())]


def by_mode(source):
    points = source.load().samples
    distances = np.linalg.norm(points[:, None] - source.centres(), axis=2)
    return points, distances.argmin(axis=1), distances.min(axis=1)


def test_the_ring_is_pacgans():
    source = Ring(Ring.Config())
    centres = source.centres()
    assert (len(centres), source.std, source.describe().count) == (8, 0.01, 100_000)
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1)
    np.testing.assert_allclose(centres[:3], [[1, 0], [0.5**0.5, 0.5**0.5], [0, 1]], atol=1e-12)


def test_the_grid_is_pacgans():
    source = Grid(Grid.Config())
    assert (source.std, source.describe().count) == (0.05, 100_000)
    wanted = {(x, y) for x in (-4, -2, 0, 2, 4) for y in (-4, -2, 0, 2, 4)}
    assert {tuple(centre) for centre in source.centres()} == wanted
    assert len(source.centres()) == 25


@pytest.mark.parametrize("source", SOURCES, ids=["ring", "grid"])
def test_each_mode_has_its_mean_its_deviation_and_an_equal_share(source):
    points, modes, _ = by_mode(source)
    share = len(points) / len(source.centres())
    for index, centre in enumerate(source.centres()):
        mine = points[modes == index].astype(np.float64)
        # five standard errors of each statistic
        np.testing.assert_allclose(mine.mean(axis=0), centre, atol=5 * source.std / share**0.5)
        np.testing.assert_allclose(mine.std(axis=0), source.std, rtol=5 / (2 * share) ** 0.5)
        assert abs(np.corrcoef(mine.T)[0, 1]) < 5 / share**0.5
        assert abs(len(mine) - share) < 5 * share**0.5


@pytest.mark.parametrize("source", SOURCES, ids=["ring", "grid"])
def test_modes_are_drawn_at_random_not_dealt_out(source):
    _, modes, _ = by_mode(source)
    counts = np.bincount(modes)
    expected = len(modes) / len(counts)
    assert 0.1 < ((counts - expected) ** 2 / expected).mean() < 3
    assert 0.5 < (modes[1:] == modes[:-1]).mean() * len(counts) < 1.5


@pytest.mark.parametrize("source", SOURCES, ids=["ring", "grid"])
def test_real_points_score_the_published_high_quality_share(source):
    _, _, distances = by_mode(source)
    assert abs((distances < 3 * source.std).mean() - 0.9889) < 0.002


@pytest.mark.parametrize("cls", [Ring, Grid])
def test_the_seed_alone_decides_the_sample(cls):
    np.random.seed(1)
    first = cls(cls.Config(samples=50, seed=3)).load().samples
    np.random.seed(2)
    np.testing.assert_array_equal(first, cls(cls.Config(samples=50, seed=3)).load().samples)
    assert not np.array_equal(first, cls(cls.Config(samples=50, seed=4)).load().samples)


@settings(max_examples=30, deadline=None)
@given(modes=st.integers(1, 40), radius=st.floats(0.1, 100), samples=st.integers(1, 50))
def test_a_ring_of_any_size_is_described_as_it_loads(modes, radius, samples):
    source = Ring(Ring.Config(modes=modes, radius=radius, samples=samples))
    dataset, description = source.load(), source.describe()
    assert dataset.samples.shape == (description.count, *description.shape) == (samples, 2)
    assert dataset.samples.dtype == np.float32
    assert dataset.classes is None
    assert description.class_names == ()
    assert not description.is_images
    np.testing.assert_allclose(np.linalg.norm(source.centres(), axis=1), radius)


@settings(max_examples=30, deadline=None)
@given(side=st.integers(1, 12), spacing=st.floats(0.1, 10))
def test_a_grid_of_any_size_is_centred_and_evenly_spaced(side, spacing):
    centres = Grid(Grid.Config(side=side, spacing=spacing)).centres()
    assert centres.shape == (side * side, 2)
    np.testing.assert_allclose(centres.mean(axis=0), 0, atol=1e-9)
    for axis in centres.T:
        steps = np.diff(np.unique(axis.round(9)))
        np.testing.assert_allclose(steps, [spacing] * (side - 1))
