"""The Fréchet distance: its laws, known values, and a reference by the matrix square root."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gantricks.metrics.frechet_distance import FrechetDistance, distance_of_moments, frechet_distance, moments

dimensions = st.integers(1, 6)
seeds = st.integers(0, 2**32 - 1)


def sample(seed, count, dimension, far=3.0):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(dimension, dimension))
    return rng.normal(size=(count, dimension)) @ mixing + far * rng.normal(size=dimension)


@given(seeds, dimensions)
def test_zero_on_equal_sets(seed, dimension):
    features = sample(seed, 40, dimension)
    assert abs(frechet_distance(features, features[::-1])) < 1e-9 * max(1, np.trace(np.atleast_2d(np.cov(features.T))))


@given(seeds, dimensions)
def test_symmetric_and_not_negative(seed, dimension):
    first, second = sample(seed, 40, dimension), sample(seed + 1, 30, dimension)
    one, other = frechet_distance(first, second), frechet_distance(second, first)
    assert one == pytest.approx(other, rel=1e-9)
    assert one > 0


@given(seeds, dimensions)
def test_a_rotation_and_a_shift_of_both_change_nothing(seed, dimension):
    first, second = sample(seed, 40, dimension), sample(seed + 1, 30, dimension)
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.normal(size=(dimension, dimension)))
    shift = rng.normal(size=dimension)
    turned = frechet_distance(first @ turn + shift, second @ turn + shift)
    assert turned == pytest.approx(frechet_distance(first, second), rel=1e-8)


@given(seeds, dimensions, st.floats(0.1, 10))
def test_scaling_both_scales_it_by_the_square(seed, dimension, factor):
    first, second = sample(seed, 40, dimension), sample(seed + 1, 30, dimension)
    assert frechet_distance(factor * first, factor * second) == pytest.approx(
        factor**2 * frechet_distance(first, second), rel=1e-8
    )


@given(seeds, dimensions)
def test_a_shift_alone_gives_its_squared_length(seed, dimension):
    features, shift = sample(seed, 40, dimension), np.random.default_rng(seed).normal(size=dimension)
    assert frechet_distance(features, features + shift) == pytest.approx(shift @ shift, rel=1e-6, abs=1e-8)


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 5)), min_size=1, max_size=6))
def test_axis_aligned_gaussians_differ_by_their_deviations(deviations):
    """For commuting covariances it is Σ (σ₁ − σ₂)², also where some σ is 0."""
    one, other = np.array(deviations).T
    template = moments([np.eye(len(one) + 1)[:, : len(one)]])

    def gaussian(deviation):
        return type(template)(9, np.zeros(len(deviation)), np.diag(deviation**2))

    assert distance_of_moments(gaussian(one), gaussian(other)) == pytest.approx(
        ((one - other) ** 2).sum(), rel=1e-9, abs=1e-9
    )


@given(seeds, dimensions, st.lists(st.integers(1, 20), min_size=2, max_size=6), st.sampled_from([0.0, 1e6]))
def test_batches_give_the_moments_of_the_whole(seed, dimension, sizes, far):
    features = sample(seed, sum(sizes), dimension) + far
    found = moments(np.split(features, np.cumsum(sizes)[:-1]))
    np.testing.assert_allclose(found.mean, features.mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.covariance, np.atleast_2d(np.cov(features.T)), rtol=1e-6, atol=1e-7)
    assert found.count == sum(sizes)


def test_float32_features_are_summed_in_float64():
    features = (sample(0, 3000, 4) + 1000).astype(np.float32)
    np.testing.assert_allclose(moments([features]).covariance, np.cov(features.astype(np.float64).T), rtol=1e-9)


@pytest.mark.parametrize("rank", [5, 64])
def test_the_reference_by_the_matrix_square_root(rank):
    linalg = pytest.importorskip("scipy.linalg")
    rng = np.random.default_rng(1)
    first, second = (rng.normal(size=(200, rank)) @ rng.normal(size=(rank, 64)) + rng.normal(size=64) for _ in "ab")
    covariances = np.cov(first.T), np.cov(second.T)
    # the usual cure of the reference where a covariance is singular
    jitter = 1e-9 * np.eye(64)
    root = linalg.sqrtm((covariances[0] + jitter) @ (covariances[1] + jitter)).real
    shift = first.mean(0) - second.mean(0)
    reference = shift @ shift + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert frechet_distance(first, second) == pytest.approx(reference, rel=1e-4)


def test_one_vector_has_no_covariance():
    with pytest.raises(ValueError, match="two vectors"):
        frechet_distance(np.ones((1, 3)), np.ones((5, 3)))


def images(clothes, part=slice(None)):
    return (clothes.samples[part].transpose(0, 3, 1, 2) / 127.5 - 1).astype(np.float32)


def metric(**options):
    return FrechetDistance(FrechetDistance.Config.model_validate(options))


def test_measured_worse_for_noise_than_for_images(subject_of, clothes):
    extractor = {"name": "classifier", "steps": 30}
    known = subject_of(clothes, images(clothes), ("a", "b"))
    noise = subject_of(
        clothes, np.random.default_rng(0).uniform(-1, 1, (400, 1, 12, 12)).astype(np.float32), ("a", "b")
    )
    same, worse = (metric(extractor=extractor).measure(subject) for subject in (known, noise))
    floor = metric(extractor=extractor).floor(known)
    assert same.values["frechet_distance"] == pytest.approx(0, abs=1e-6)
    assert worse.values["frechet_distance"] > 10 * floor.values["frechet_distance"] > 0
    assert floor.facts["samples"] == floor.facts["reals"] == 200
    assert ("reals", 200, 1) in known.calls
    assert worse.facts["samples"] == worse.facts["reals"] == 400
    assert worse.facts["extractor"] == "classifier"
    assert 0.5 < worse.facts["accuracy"] <= 1
    assert worse.facts["held_out"] == 40
    assert "called" not in worse.facts, "only Inception's is FID"


def test_too_few_samples_for_the_covariance_are_refused_with_the_number(subject_of, clothes):
    subject = subject_of(clothes, images(clothes, slice(128)), ("a", "b"))
    (said,) = metric().problems(subject.facts())
    assert "128 samples" in said
    assert "129" in said
    assert metric().problems(subject_of(clothes, images(clothes, slice(129)), ("a", "b")).facts()) == []


def test_too_few_reals_are_refused_and_half_of_them_give_no_floor(subject_of, clothes):
    few = type(clothes)(clothes.samples[:128], clothes.classes[:128])
    (said,) = metric().problems(subject_of(few, images(clothes), ("a", "b")).facts())
    assert "128 real images" in said
    some = type(clothes)(clothes.samples[:200], clothes.classes[:200])
    assert metric().floor(subject_of(some, images(clothes), ("a", "b"))) is None


def test_what_the_extractor_needs_is_needed(subject_of, clothes):
    (said,) = metric().problems(subject_of(clothes, images(clothes)).facts(("images",)))
    assert "classes" in said
