"""The classifier score: between 1 and the number of classes, and what it is blind to."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gantricks.metrics.classifier_score import ClassifierScore, classifier_score

seeds = st.integers(0, 2**32 - 1)


def draws(seed, n, k):
    return np.random.default_rng(seed).dirichlet(np.full(k, 0.5), size=n)


@given(seeds, st.integers(6, 30), st.integers(1, 8), st.integers(1, 3))
def test_from_1_to_the_number_of_classes(seed, n, k, splits):
    scores = classifier_score(draws(seed, n, k), splits)
    assert scores.shape == (splits,)
    assert (scores >= 1 - 1e-12).all()
    assert (scores <= k + 1e-9).all()


@given(st.integers(1, 9), st.integers(1, 4))
def test_sure_and_even_scores_the_number_of_classes(k, repeats):
    assert classifier_score(np.tile(np.eye(k), (repeats, 1)), 1) == pytest.approx(k)


@given(seeds, st.integers(2, 8))
def test_all_alike_scores_1(seed, k):
    assert classifier_score(np.tile(draws(seed, 1, k), (6, 1)), 2) == pytest.approx(1)


@given(seeds, st.integers(2, 6))
def test_the_reference(seed, k):
    probabilities = draws(seed, 12, k)
    marginal = probabilities.mean(0)
    divergences = [sum(p * np.log(p / q) for p, q in zip(row, marginal, strict=True)) for row in probabilities]
    assert classifier_score(probabilities, 1)[0] == pytest.approx(np.exp(np.mean(divergences)))


def test_each_part_has_a_marginal_of_its_own():
    sorted_by_class = np.eye(2).repeat(5, 0)
    assert classifier_score(sorted_by_class, 1) == pytest.approx(2)
    assert classifier_score(sorted_by_class, 2) == pytest.approx(1)


def test_real_images_of_two_classes_score_more_than_images_of_one(subject_of, clothes):
    metric = ClassifierScore(
        ClassifierScore.Config.model_validate({"extractor": {"name": "classifier", "steps": 30}, "splits": 4})
    )
    images = (clothes.samples.transpose(0, 3, 1, 2) / 127.5 - 1).astype(np.float32)
    subject = subject_of(clothes, images[clothes.classes == 0], ("a", "b"))
    found, floor = metric.measure(subject), metric.floor(subject)
    assert 1 <= found.values["classifier_score"] < floor.values["classifier_score"] <= 2
    assert found.facts["classes"] == 2
    assert found.facts["splits"] == 4
    assert floor.facts["samples"] == len(subject.fakes)
    assert "called" not in found.facts, "only Inception's is the Inception score"


def test_fewer_samples_than_parts_are_refused(subject_of, clothes):
    metric = ClassifierScore(ClassifierScore.Config.model_validate({}))
    subject = subject_of(clothes, np.zeros((9, 1, 12, 12), np.float32), ("a", "b"))
    assert "10 parts" in metric.problems(subject.facts())[0]
