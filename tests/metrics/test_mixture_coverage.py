"""Mode coverage is PacGAN's, against a reference written from its definition."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gantricks.data import mixtures
from gantricks.data.grid import Grid
from gantricks.data.ring import Ring
from gantricks.metrics.base import Subject
from gantricks.metrics.mixture_coverage import (
    MixtureCoverage,
    beyond,
    reverse_kl,
    sliced_wasserstein,
    tally,
    total_variation,
)

SOURCES = [Ring(Ring.Config()), Grid(Grid.Config())]


class Points(Subject):
    """A generator that has made these points."""

    seed = 0

    def __init__(self, source: Ring | Grid, points: np.ndarray, batch: int = 64) -> None:
        self.source, self.points, self.batch = source, points.astype(np.float32), batch
        self.samples = len(points)

    def generated(self, count: int) -> Iterator[tuple[np.ndarray, None]]:
        assert count == len(self.points)
        for start in range(0, count, self.batch):
            yield self.points[start : start + self.batch], None


def measured(source: Ring | Grid, points: np.ndarray, batch: int = 64) -> dict[str, float]:
    metric = MixtureCoverage(MixtureCoverage.Config(points=len(points)))
    return metric.measure(Points(source, points, batch)).values


def of_pacgan(source: Ring | Grid, points: np.ndarray, batch: int = 64) -> dict[str, float]:
    found = measured(source, points, batch)
    return {name: found[name] for name in ("modes", "high_quality", "reverse_kl")}


def by_hand(source: Ring | Grid, points: np.ndarray) -> dict[str, float]:
    """The three figures, a point and a mode at a time."""
    centres = source.centres()
    found = [0] * len(centres)
    for point in points.astype(np.float32):
        squares = [sum((float(p) - float(c)) ** 2 for p, c in zip(point, centre, strict=True)) for centre in centres]
        nearest = squares.index(min(squares))
        if math.sqrt(squares[nearest]) < 3 * source.std:
            found[nearest] += 1
    good = sum(found)
    shares = [count / good for count in found if count] if good else [1.0]
    entropy = -sum(share * math.log(share) for share in shares)
    return {
        "modes": sum(count > 0 for count in found),
        "high_quality": 100 * good / len(points),
        "reverse_kl": math.log(len(centres)) - entropy,
    }


@pytest.mark.parametrize("source", SOURCES, ids=["ring", "grid"])
@given(seed=st.integers(0, 10_000), spread=st.floats(0.2, 4.0), kept=st.integers(1, 8), batch=st.integers(1, 90))
def test_the_figures_are_those_of_the_definition(source, seed, spread, kept, batch):
    centres = source.centres()[:kept]
    points = mixtures.draw(centres, spread * source.std, 80, seed)
    assert of_pacgan(source, points, batch) == pytest.approx(by_hand(source, points), abs=1e-12)


@pytest.mark.parametrize("source", SOURCES, ids=["ring", "grid"])
def test_a_perfect_sampler_has_every_mode_and_the_published_share_of_high_quality(source):
    shares, divergences = [], []
    for seed in range(8):
        found = measured(source, mixtures.draw(source.centres(), source.std, 2500, 100 + seed))
        assert found["modes"] == len(source.centres())
        shares.append(found["high_quality"])
        divergences.append(found["reverse_kl"])
    expected = 1 - math.exp(-4.5)
    assert round(100 * expected, 1) == 98.9
    error = 100 * math.sqrt(expected * (1 - expected) / (8 * 2500))
    assert abs(np.mean(shares) - 100 * expected) < 4 * error
    # 2 n KL is chi-squared with K - 1 degrees of freedom
    degrees, points = len(source.centres()) - 1, 2500 * expected
    assert abs(np.mean(divergences) * 2 * points - degrees) < 4 * math.sqrt(2 * degrees / 8)


def test_the_floor_is_a_perfect_sampler_and_a_function_of_the_seed():
    source = SOURCES[0]
    metric = MixtureCoverage(MixtureCoverage.Config())
    subject = Points(source, np.zeros((1, 2)))
    first, again = metric.floor(subject), metric.floor(subject)
    assert first == again
    assert first.facts["samples"] == 2500
    assert first.values["modes"] == 8
    assert 98 < first.values["high_quality"] < 99.8
    subject.seed = 1
    assert metric.floor(subject).values != first.values


@pytest.mark.parametrize("source", SOURCES, ids=["ring", "grid"])
def test_one_mode_alone_is_the_worst_divergence_and_points_between_modes_are_in_none(source):
    modes = len(source.centres())
    assert of_pacgan(source, np.repeat(source.centres()[2:3], 50, axis=0)) == pytest.approx(
        {"modes": 1, "high_quality": 100, "reverse_kl": math.log(modes)}
    )
    between = np.repeat(source.centres()[:1] + 10 * source.std, 50, axis=0)
    assert of_pacgan(source, between) == pytest.approx({"modes": 0, "high_quality": 0, "reverse_kl": math.log(modes)})


def test_the_distance_is_euclidean_and_three_deviations_are_outside():
    source = SOURCES[0]
    directions = np.stack([np.cos(a := np.arange(0, 6.28, 0.3)), np.sin(a)], axis=1)
    # a square of half width 3 std would hold the farther ring of points on its diagonals
    for distance, share in ((2.999, 100.0), (3.001, 0.0)):
        points = source.centres()[:1] + distance * source.std * directions
        assert measured(source, points)["high_quality"] == share


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30), st.randoms())
def test_the_divergence_is_between_0_and_log_k_and_knows_no_order(counts, random):
    found = reverse_kl(np.array(counts))
    assert 0 <= found <= math.log(len(counts)) + 1e-12
    random.shuffle(counts)
    assert reverse_kl(np.array(counts)) == pytest.approx(found, abs=1e-12)
    assert reverse_kl(np.array([7] * len(counts))) == pytest.approx(0, abs=1e-12)


def test_only_points_of_high_quality_are_in_the_divergence():
    source = SOURCES[1]
    even = np.repeat(source.centres(), 4, axis=0)
    strays = np.repeat(source.centres()[:1] + 5 * source.std, 60, axis=0)
    assert measured(source, np.concatenate([even, strays]))["reverse_kl"] == pytest.approx(0, abs=1e-12)


def test_a_tally_counts_every_point():
    counts, total = tally([np.zeros((3, 2)), np.ones((4, 2))], np.zeros((1, 2)), 0.1)
    assert (counts.tolist(), total) == ([3], 7)


# ---------------------------------------------------------------- figures that nothing fools


@pytest.mark.parametrize("dimension", [1, 2, 3, 5, 8])
def test_the_share_beyond_is_that_of_the_normal_distribution(dimension):
    draws = np.linalg.norm(np.random.default_rng(0).standard_normal((200_000, dimension)), axis=1)
    for reach in (0.5, 1.5, 3.0):
        share = beyond(reach, dimension)
        error = math.sqrt(share * (1 - share) / len(draws))
        assert abs((draws >= reach).mean() - share) < 4.5 * error
    assert beyond(3.0, 2) == math.exp(-4.5)


@given(st.lists(st.integers(0, 30), min_size=2, max_size=9), st.integers(0, 40), st.floats(0.0, 0.5))
def test_total_variation_is_the_largest_difference_of_probabilities(counts, strays, outside):
    total = sum(counts) + strays
    if not total:
        return
    q = [*(count / total for count in counts), strays / total]
    p = [*[(1 - outside) / len(counts)] * len(counts), outside]
    # of any event: those outcomes that one has more of
    largest = sum(a - b for a, b in zip(q, p, strict=True) if a > b)
    assert total_variation(np.array(counts), total, outside) == pytest.approx(largest, abs=1e-12)


@pytest.mark.parametrize("source", SOURCES, ids=["ring", "grid"])
def test_noise_missing_modes_and_uneven_ones_are_told_from_a_sample(source):
    centres, rng = source.centres(), np.random.default_rng(1)
    sample = mixtures.draw(centres, source.std, 2500, 3)
    reach = np.abs(centres).max() + source.std
    others = {
        "noise": rng.uniform(-reach, reach, (2500, 2)),
        "half of the modes": mixtures.draw(centres[::2], source.std, 2500, 3),
        "uneven modes": centres[rng.integers(len(centres), size=2500) // 2]
        + source.std * rng.standard_normal((2500, 2)),
        "modes too wide": mixtures.draw(centres, 3 * source.std, 2500, 3),
    }
    right = measured(source, sample)
    assert right["total_variation"] < 0.08
    for name, points in others.items():
        wrong = measured(source, points)
        assert wrong["total_variation"] > 3 * right["total_variation"], name
    points = np.repeat(centres, 100, axis=0)
    assert measured(source, points)["total_variation"] == pytest.approx(math.exp(-4.5))
    # only where the points lie tells this one: an unlucky sample can still differ by more
    assert sliced_wasserstein(points, centres, source.std, 0) == pytest.approx(source.std, rel=0.1)


@pytest.mark.parametrize("source", SOURCES, ids=["ring", "grid"])
def test_the_sliced_distance_is_that_of_the_sorted_projections(source):
    centres, std = source.centres(), source.std
    points = mixtures.draw(centres, 2 * std, 4 * len(centres), 5)
    fresh = np.repeat(centres, 4, axis=0)
    fresh = fresh + std * np.random.default_rng([7, len(centres)]).standard_normal(fresh.shape)
    squares = []
    for number in range(32):
        angle = math.pi * (number + 0.5) / 32
        one, other = (
            sorted(x * math.cos(angle) + y * math.sin(angle) for x, y in at.tolist()) for at in (points, fresh)
        )
        squares.append(sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) / len(one))
    expected = math.sqrt(sum(squares) / len(squares))
    assert sliced_wasserstein(points, centres, std, 7) == pytest.approx(expected, rel=1e-9)


def test_moving_every_point_moves_the_sliced_distance_by_the_mean_projection():
    centres = np.zeros((1, 2))
    for count in (1000, 1001):
        points = mixtures.draw(centres, 0.01, count, 0)
        # the mean over angles of (t cos)² is t² / 2
        assert sliced_wasserstein(points + np.array([3.0, 4.0]), centres, 0.01, 1) == pytest.approx(
            5 / math.sqrt(2), rel=1e-2
        )
    assert sliced_wasserstein(np.ones((500, 3)), np.zeros((1, 3)), 1e-9, 0) == pytest.approx(1.0, rel=0.2)
