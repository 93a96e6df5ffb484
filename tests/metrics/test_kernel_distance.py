"""The kernel distance: its laws, and a reference with three loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gantricks.metrics.kernel_distance import KernelDistance, kernel_distance, polynomial_kernel, squared_mmd

seeds = st.integers(0, 2**32 - 1)
counts = st.integers(2, 9)


def reference(first, second):
    def kernel(x, y):
        return (float(x @ y) / len(x) + 1) ** 3

    def mean(pairs):
        values = [kernel(x, y) for x, y in pairs]
        return sum(values) / len(values)

    n, m = len(first), len(second)
    return (
        mean((first[i], first[j]) for i in range(n) for j in range(n) if i != j)
        + mean((second[i], second[j]) for i in range(m) for j in range(m) if i != j)
        - 2 * mean((x, y) for x in first for y in second)
    )


@given(seeds, counts, counts, st.integers(1, 5))
def test_the_reference(seed, n, m, dimension):
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(n, dimension)), rng.normal(1, 2, size=(m, dimension))
    assert squared_mmd(first, second) == pytest.approx(reference(first, second), rel=1e-9, abs=1e-9)


@given(seeds, counts, counts)
def test_symmetric_and_blind_to_order_and_rotation(seed, n, m):
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(n, 3)), rng.normal(1, 2, size=(m, 3))
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    found = squared_mmd(first, second)
    for other in ((second, first), (first[::-1], second), (first @ turn, second @ turn)):
        assert squared_mmd(*other) == pytest.approx(found, rel=1e-9, abs=1e-9)


def test_unbiased_where_the_distributions_agree():
    """The mean of 400 estimates of 0 lies within four of its standard errors; the biased estimate would not."""
    rng = np.random.default_rng(0)
    found = [squared_mmd(rng.normal(size=(8, 4)), rng.normal(size=(8, 4))) for _ in range(400)]
    error = np.std(found, ddof=1) / 20
    assert abs(np.mean(found)) < 4 * error
    diagonal = np.mean([polynomial_kernel(x, x).trace() / 64 for x in rng.normal(size=(50, 8, 4))])
    assert diagonal > 8 * error, "the test would not see the bias"


def test_its_expectation_is_the_same_at_any_number():
    rng = np.random.default_rng(1)
    means = []
    for size, repeats in ((4, 4000), (40, 400)):
        found = [squared_mmd(rng.normal(size=(size, 2)), rng.normal(0.5, 1, size=(size, 2))) for _ in range(repeats)]
        means.append((np.mean(found), np.std(found) / np.sqrt(repeats)))
    (few, few_error), (many, many_error) = means
    assert abs(few - many) < 4 * np.hypot(few_error, many_error)
    assert many > 4 * many_error


def test_blocks_are_disjoint_and_their_error_that_of_a_mean():
    rng = np.random.default_rng(2)
    first, second = rng.normal(size=(35, 3)), rng.normal(size=(32, 3))
    found = kernel_distance(first, second, 10)
    blocks = [squared_mmd(first[i : i + 10], second[i : i + 10]) for i in (0, 10, 20)]
    assert found.value == pytest.approx(np.mean(blocks))
    assert found.standard_error == pytest.approx(np.std(blocks, ddof=1) / np.sqrt(3))
    assert (found.blocks, found.block_size) == (3, 10)


def test_the_standard_error_is_the_spread_of_repeated_measurements():
    rng = np.random.default_rng(3)
    found = [kernel_distance(rng.normal(size=(200, 3)), rng.normal(size=(200, 3)), 20) for _ in range(200)]
    spread = np.std([each.value for each in found])
    assert np.mean([each.standard_error for each in found]) == pytest.approx(spread, rel=0.2)


@pytest.mark.parametrize(("count", "blocks", "size"), [(2500, 2, 1000), (1999, 2, 999), (7, 2, 3), (4, 2, 2)])
def test_few_samples_make_two_blocks(count, blocks, size):
    features = np.random.default_rng(0).normal(size=(count, 1))
    found = kernel_distance(features, features)
    assert (found.blocks, found.block_size) == (blocks, size)


def test_three_are_too_few():
    with pytest.raises(ValueError, match="two blocks"):
        kernel_distance(np.ones((3, 2)), np.ones((9, 2)))


def test_measured_with_its_error_and_its_floor(subject_of, clothes):
    metric = KernelDistance(
        KernelDistance.Config.model_validate({"extractor": {"name": "classifier", "steps": 30}, "block_size": 50})
    )
    fakes = np.random.default_rng(0).uniform(-1, 1, (200, 1, 12, 12)).astype(np.float32)
    subject = subject_of(clothes, fakes, ("a", "b"))
    found, floor = metric.measure(subject), metric.floor(subject)
    assert found.values["kernel_distance"] > 5 * found.facts["standard_error"] > 0
    assert abs(floor.values["kernel_distance"]) < 5 * floor.facts["standard_error"]
    assert (found.facts["blocks"], found.facts["block_size"]) == (4, 50)
    assert subject.calls.count(("generated", 200)) == 1
