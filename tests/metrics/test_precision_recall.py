"""Precision, recall, density and coverage: a brute-force reference, and the traps that publications name."""

from __future__ import annotations

import operator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gantricks.metrics import precision_recall as module
from gantricks.metrics.precision_recall import PrecisionRecall, neighbour_radii, precision_recall

seeds = st.integers(0, 2**32 - 1)


def distance(x, y):
    return np.sqrt(((x - y) ** 2).sum())


def radius(features, index, k):
    others = [distance(features[index], other) for j, other in enumerate(features) if j != index]
    return sorted(others)[k - 1]


def reference(reals, fakes, k, density_k):
    """Closed balls for precision and recall, open ones for density and coverage, as the papers' own code has them."""

    def within(points, centres, k, inside):
        return np.array(
            [[inside(distance(p, c), radius(centres, i, k)) for i, c in enumerate(centres)] for p in points], dtype=bool
        )

    precision = within(fakes, reals, k, operator.le).any(1).mean()
    recall = within(reals, fakes, k, operator.le).any(1).mean()
    inside = within(fakes, reals, density_k, operator.lt)
    return precision, recall, inside.sum() / (density_k * len(fakes)), inside.any(0).mean()


@given(seeds, st.integers(5, 12), st.integers(5, 12), st.integers(1, 4), st.integers(1, 4), st.sampled_from([0, 1]))
def test_the_reference(seed, n, m, k, density_k, digits):
    """On a coarse lattice too, where points coincide and many lie on the edge of a ball."""
    rng = np.random.default_rng(seed)
    reals, fakes = rng.normal(size=(n, 2)), rng.normal(0.5, 1.5, size=(m, 2))
    if digits == 0:
        reals, fakes = reals.round(), fakes.round()
    assert precision_recall(reals, fakes, k, density_k) == pytest.approx(reference(reals, fakes, k, density_k))


@given(seeds, st.integers(6, 12), st.integers(1, 4), st.sampled_from([0.0, 1e-12, 1e-7]))
def test_copies_and_near_copies_of_the_data_follow_the_reference(seed, n, density_k, nudge):
    """Samples at, within and beyond the edge of a ball by the last bits that a number has."""
    rng = np.random.default_rng(seed)
    reals = rng.normal(size=(n, 3))
    fakes = reals[rng.integers(n, size=15)] * (1 + nudge * rng.choice([-1, 0, 1], size=(15, 3)))
    found = precision_recall(reals, fakes, 3, density_k)
    assert found == pytest.approx(reference(reals, fakes, 3, density_k))


@given(seeds, st.integers(6, 12), st.integers(1, 4))
def test_float32_features_are_measured_in_float64(seed, n, density_k):
    k = 3
    reals = (1000 + np.random.default_rng(seed).normal(size=(n, 3))).astype(np.float32)
    fakes = reals[::-1]
    wide = reference(reals.astype(np.float64), fakes.astype(np.float64), k, density_k)
    assert precision_recall(reals, fakes, k, density_k) == pytest.approx(wide)


@given(seeds, st.integers(1, 5))
def test_a_copy_of_the_data_has_all_of_it(seed, k):
    features = np.random.default_rng(seed).normal(size=(20, 3))
    found = precision_recall(features, features[::-1], k, k)
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)
    assert found.density == pytest.approx(1), "each ball holds its centre and k − 1 neighbours, the edge excluded"


@given(seeds)
def test_swapping_the_sets_swaps_precision_and_recall(seed):
    rng = np.random.default_rng(seed)
    reals, fakes = rng.normal(size=(15, 2)), rng.normal(1, 1, size=(12, 2))
    there, back = precision_recall(reals, fakes), precision_recall(fakes, reals)
    assert (there.precision, there.recall) == (back.recall, back.precision)


@given(seeds)
def test_the_kth_neighbour_is_another_one(seed):
    features = np.random.default_rng(seed).normal(size=(10, 2))
    radii = neighbour_radii(features, (1, 3))
    assert (radii[0] > 0).all()
    assert radii == pytest.approx(np.array([[radius(features, i, k) for i in range(10)] for k in (1, 3)]))


def test_copies_within_a_set_are_neighbours_of_each_other():
    features = np.array([[0.0], [0.0], [5.0]])
    assert neighbour_radii(features, (1, 2)).tolist() == [[0, 0, 5], [5, 5, 5]]


@pytest.mark.parametrize("block", [1, 7, 40])
def test_blocks_change_nothing(block, monkeypatch):
    rng = np.random.default_rng(0)
    reals, fakes = rng.normal(size=(30, 4)), rng.normal(size=(25, 4))
    whole = precision_recall(reals, fakes)
    monkeypatch.setattr(module, "_BLOCK", block)
    assert precision_recall(reals, fakes) == whole


def test_a_collapsed_generator_is_precise_and_covers_little():
    rng = np.random.default_rng(0)
    reals = rng.normal(size=(200, 2))
    found = precision_recall(reals, 0.05 * rng.normal(size=(200, 2)))
    assert found.precision > 0.95
    assert found.recall < 0.2
    assert found.coverage < 0.3


def test_a_single_outlier_spoils_precision_and_not_density():
    rng = np.random.default_rng(0)
    reals = np.concatenate([rng.normal(size=(200, 2)), [[300.0, 0.0]]])
    fakes = np.stack([rng.uniform(5, 60, 200), rng.normal(size=200)], axis=1)
    found = precision_recall(reals, fakes)
    assert found.precision > 0.9
    assert found.density < 0.5


def test_far_from_the_origin_near_pairs_keep_their_distance():
    features = np.random.default_rng(0).normal(size=(20, 3))
    far = neighbour_radii(features + 1e6, (2,))
    np.testing.assert_allclose(far, neighbour_radii(features, (2,)), rtol=1e-6)


def test_as_many_features_as_neighbours_are_too_few():
    with pytest.raises(ValueError, match="3-th neighbour"):
        neighbour_radii(np.ones((3, 1)), (3,))


def test_measured_at_the_ends_and_refused_where_too_few(subject_of, clothes):
    metric = PrecisionRecall(
        PrecisionRecall.Config.model_validate({"extractor": {"name": "classifier", "steps": 30}, "k": 4})
    )
    copies = (clothes.samples.transpose(0, 3, 1, 2) / 127.5 - 1).astype(np.float32)
    same = metric.measure(subject_of(clothes, copies, ("a", "b")))
    assert list(same.values) == list(PrecisionRecall.figures)
    assert same.values["coverage"] == same.values["precision"] == same.values["recall"] == 1
    assert same.facts["k"] == 4
    assert same.facts["density_k"] == 5
    floor = metric.floor(subject_of(clothes, copies, ("a", "b")))
    assert 0.3 < floor.values["coverage"] < 1
    assert floor.facts["reals"] == 200
    (said,) = metric.problems(subject_of(clothes, copies[:5], ("a", "b")).facts())
    assert "6 or more" in said
