"""Modes of stacked digits: counting, evenness, and a reader of digits that is taught by the digits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gantricks.data.stacked import Stacked
from gantricks.metrics.stacked_modes import StackedModes, divergence_from_uniform, modes_covered

modes = st.lists(st.integers(0, 9), min_size=1, max_size=50).map(np.array)


@given(modes, st.integers(1, 4))
def test_repeating_samples_changes_nothing(found, times):
    assert modes_covered(np.tile(found, times)) == modes_covered(found) == len(set(found.tolist()))
    assert divergence_from_uniform(np.tile(found, times), 10) == pytest.approx(divergence_from_uniform(found, 10))


@given(modes, st.permutations(range(10)))
def test_renaming_modes_changes_nothing(found, names):
    assert divergence_from_uniform(np.array(names)[found], 10) == pytest.approx(divergence_from_uniform(found, 10))


@given(modes)
def test_between_0_and_the_logarithm_of_the_number_of_modes(found):
    assert -1e-12 <= divergence_from_uniform(found, 10) <= np.log(10) + 1e-12


@given(st.integers(1, 10), st.integers(1, 5))
def test_even_over_some_modes_is_the_logarithm_of_how_many_are_missing(covered, times):
    found = np.arange(covered).repeat(times)
    assert divergence_from_uniform(found, 10) == pytest.approx(np.log(10 / covered))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Ten coarse patterns stand in for digits: learnt within few steps."""
    rng = np.random.default_rng(0)
    labels = np.arange(600) % 10
    patterns = np.kron(rng.integers(0, 2, (10, 4, 4)), np.ones((7, 7)))
    images = (195 * patterns[labels] + rng.integers(0, 60, (600, 28, 28))).astype(np.uint8)
    path = tmp_path_factory.mktemp("digits") / "digits.npz"
    np.savez(path, images=images, labels=labels)
    return Stacked(Stacked.Config(path=str(path), count=4000))


def measured(subject_of, source, chosen, **options):
    dataset = source.load()
    fakes = (dataset.samples[chosen].transpose(0, 3, 1, 2) / 127.5 - 1).astype(np.float32)
    subject = subject_of(dataset, fakes, source.describe().class_names, source)
    metric = StackedModes(StackedModes.Config(samples=len(fakes), steps=60, **options))
    assert metric.problems(subject.facts()) == []
    return metric.measure(subject), metric.floor(subject)


def test_the_modes_of_real_stacks_are_those_of_their_labels(subject_of, source):
    classes = source.load().classes
    found, floor = measured(subject_of, source, np.arange(1000))
    assert found.facts["accuracy"] > 0.98
    assert found.facts["held_out"] == 60
    assert found.facts["samples"] == floor.facts["samples"] == 1000
    assert found.values["modes"] == pytest.approx(modes_covered(classes[:1000]), rel=0.03)
    assert found.values["divergence"] == pytest.approx(divergence_from_uniform(classes[:1000], 1000), rel=0.05)
    assert floor.values["modes"] == pytest.approx(found.values["modes"], rel=0.1)


def test_a_collapsed_generator_covers_few(subject_of, source):
    chosen = np.flatnonzero(source.load().classes < 100)  # nothing but 0 on the red channel
    found, floor = measured(subject_of, source, chosen)
    assert found.values["modes"] <= 100 < floor.values["modes"]
    assert found.values["divergence"] > np.log(10) > floor.values["divergence"]


def test_another_source_is_refused(subject_of, clothes):
    subject = subject_of(clothes, np.zeros((4, 1, 12, 12), np.float32), ("a", "b"))
    assert '"stacked"' in StackedModes(StackedModes.Config()).problems(subject.facts())[0]
