"""The test error is the count of wrong answers over all held-out samples."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gantricks import UserError
from gantricks.catalogue.registry import Registry
from gantricks.data.base import Dataset
from gantricks.engine.subject import GameSubject
from gantricks.metrics.base import Subject, obstacles
from gantricks.testing import TrickHost

METRIC: Any = Registry(installed=False).load("metrics", "held_out_error").cls


class Answers(Subject):
    """A discriminator whose class logits stand in each image's pixels."""

    def __init__(self, logits: np.ndarray, classes: np.ndarray) -> None:
        self.logits, self.progressed = logits, []
        numbers = np.arange(len(logits), dtype=np.uint32)
        # the image of sample i says its number, so that a shuffled batch would be noticed
        self._held_out = Dataset(numbers.view(np.uint8).reshape(-1, 2, 2, 1), classes)

    @property
    def held_out(self) -> Dataset:
        return self._held_out

    def classify(self, images: np.ndarray) -> np.ndarray:
        assert images.dtype == np.float32
        assert abs(images).max() <= 1
        pixels = np.rint((images + 1) * 127.5).astype(np.uint8)
        numbers = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)).reshape(-1, 4).view(np.uint32).ravel()
        return self.logits[numbers]

    def ask(self, name: str, images: np.ndarray) -> np.ndarray:
        assert name == "triple_gan.classifier"
        return -self.classify(images)

    def progress(self, what: str, done: int, total: int) -> None:
        self.progressed.append((what, done, total))


@given(count=st.integers(1, 700), classes=st.integers(2, 5), seed=st.integers(0, 1000))
def test_it_counts_every_held_out_sample_once(count, classes, seed):
    draw = np.random.default_rng(seed)
    logits, right = draw.standard_normal((count, classes)), draw.integers(0, classes, count)
    subject = Answers(logits, right)
    found = METRIC(METRIC.Config()).measure(subject)
    wrong = sum(max(range(classes), key=lambda k, i=i: logits[i, k]) != right[i] for i in range(count))
    assert found.values == {"error": pytest.approx(100 * wrong / count)}
    p = wrong / count
    assert found.facts == {
        "wrong": wrong,
        "reals": count,
        "standard_error": pytest.approx(100 * math.sqrt(p * (1 - p) / count)),
    }
    assert subject.progressed[-1] == ("classifying", count, count)


def test_it_has_no_floor():
    assert METRIC(METRIC.Config()).floor(Answers(np.zeros((1, 2)), np.zeros(1, int))) is None


def test_it_is_refused_where_d_does_not_classify_is_told_the_class_or_nothing_is_held_out():
    metric = METRIC(METRIC.Config())
    facts = TrickHost(sample=(1, 8, 8), classes=3).plan().facts
    said = " ".join(obstacles(metric, facts))
    assert "it needs class_logits" in said
    assert "it needs held_out" in said
    able = replace(facts, provided=facts.provided | {"class_logits", "held_out"})
    assert obstacles(metric, able) == []
    told = replace(able, provided=able.provided | {"discriminator_conditional"})
    assert "set conditional = false" in obstacles(metric, told)[0]
    pairs = replace(able, provided=able.provided | {"discriminator_conditioned"})
    assert "name a companion" in obstacles(metric, pairs)[0]


def test_a_d_that_judges_pairs_classifies_no_images_alone():
    host = TrickHost(classes=3, generator={"conditional": True}).with_trick("auxiliary_classifier").with_trick("bigan")
    with pytest.raises(UserError, match="judges pairs"):
        GameSubject(host.game(), 4, 0).classify(np.zeros((2, 2), np.float32))


def test_a_companion_can_be_asked_in_ds_place():
    logits, right = np.array([[0.0, 1.0], [2.0, 0.0], [0.0, 3.0]]), np.array([0, 0, 0])
    config = METRIC.Config(classifier="triple_gan.classifier")
    found = METRIC(config).measure(Answers(logits, right))
    assert found.facts["wrong"] == 1  # its logits are minus those of D, which is wrong twice
    assert METRIC(METRIC.Config()).measure(Answers(logits, right)).facts["wrong"] == 2
    given = TrickHost(classes=3, generator={"conditional": True}, discriminator={"conditional": True})
    facts = given.plan().facts
    able = replace(facts, provided=facts.provided | {"held_out"})
    assert obstacles(METRIC(config), able) == []
    assert "it needs class_logits" in " ".join(obstacles(METRIC(METRIC.Config()), able))


@pytest.mark.parametrize("changes", [{}, {"sample": (1, 8, 8)}])
def test_what_a_companion_says_in_a_run_is_what_its_averaged_weights_say(changes):
    given = TrickHost(classes=3, generator={"conditional": True}, discriminator={"conditional": True}, **changes)
    averaged = {"decay": 0.5, "warmup": False, "players": ["discriminator"]}
    game = given.with_trick("triple_gan", labels=6).with_trick("ema", **averaged).game()
    for _ in range(2):
        game.advance()
    subject = GameSubject(game, 4, 0)
    images = game.feed.take(torch.arange(game.feed.count)).images
    network = subject.companion("triple_gan.classifier")
    said = subject.ask("triple_gan.classifier", images.numpy().astype(np.float32))
    assert said.shape == (40, 3)
    np.testing.assert_allclose(said, network(images).logits, rtol=1e-4, atol=1e-6)
    live = game.companions["triple_gan.classifier"].network(images).logits
    assert abs(said - live.detach().numpy()).max() > 1e-5
