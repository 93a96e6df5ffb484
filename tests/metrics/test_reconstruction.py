"""Reconstruction is the mean squared error of G(E(x)) over all numbers of held-out samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from gantricks import UserError
from gantricks.catalogue.registry import Registry
from gantricks.data.base import Dataset
from gantricks.engine.subject import GameSubject
from gantricks.metrics.base import Subject
from gantricks.testing import TrickHost
from gantricks.testing.record import differences, snapshot

METRIC: Any = Registry(installed=False).load("metrics", "reconstruction").cls


class Doubling(Subject):
    """G(z) = 2 z, 600 held-out points."""

    def __init__(self, shift: float) -> None:
        self.latent_dim, self.shift = 2, shift
        self.points = np.random.default_rng(0).standard_normal((600, 2)).astype(np.float32)

    @property
    def held_out(self) -> Dataset:
        return Dataset(self.points)

    def ask(self, name, images):
        """An encoder z = x + shift, with two numbers more than there are latents."""
        assert name == "other.encoder"
        return np.concatenate([images + self.shift, images], 1)

    def generate(self, latents, classes=None):
        return 2 * latents


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_it_is_the_mean_over_all_held_out_numbers(shift) -> None:
    subject = Doubling(shift)
    found = METRIC(METRIC.Config(encoder="other.encoder")).measure(subject)
    x = subject.points.astype(np.float64)
    assert found.values == {"error": pytest.approx(np.mean((2 * (x + shift) - x) ** 2), rel=1e-5)}
    assert found.facts["variance"] == pytest.approx(x.var(0).mean())
    assert found.facts["reals"] == 600
    assert found.facts["held_out"] == 1


@pytest.mark.parametrize("changes", [{}, {"sample": (1, 8, 8)}, {"classes": 3, "generator": {"conditional": True}}])
def test_in_a_run_the_encoder_is_asked_of_real_samples_and_nothing_changes(changes) -> None:
    host = TrickHost(**changes).with_trick("bigan").with_trick("ema", decay=0.5)
    game = host.game()
    for _ in range(2):
        game.advance()
    before = snapshot(game)
    found = METRIC(METRIC.Config()).measure(GameSubject(game, 1000, 0))
    assert not differences(before, snapshot(game))
    every = game.feed.take(torch.arange(game.feed.count))
    averaged = game.plan.tricks[-1].trick
    encoder = GameSubject(game, 4, 0).companion("bigan.encoder")
    with torch.no_grad():
        latents = encoder(every.images).logits
        given = () if every.classes is None else (every.classes,)
        again = averaged.sampling_generator(game.generator).eval()(latents, *given)
    expected = (again - every.images).square().mean().item()
    assert found.values["error"] == pytest.approx(expected, rel=1e-5)
    assert found.facts["reals"] == 40
    assert found.facts["held_out"] == 0


def test_a_run_without_that_encoder_says_which_it_has() -> None:
    game = TrickHost().with_trick("bigan").game()
    with pytest.raises(UserError, match=r"no companion 'vae_gan.encoder'\n +it has: bigan.encoder"):
        METRIC(METRIC.Config(encoder="vae_gan.encoder")).measure(GameSubject(game, 10, 0))


def test_without_an_encoder_or_with_several_one_must_be_named() -> None:
    with pytest.raises(UserError, match="the run has none"):
        METRIC(METRIC.Config()).measure(GameSubject(TrickHost().game(), 10, 0))
    several = TrickHost().with_trick("vae_gan", "first").with_trick("vae_gan", "second").game()
    with pytest.raises(UserError, match=r"several\n +name a companion in .*: first.encoder, second.encoder"):
        METRIC(METRIC.Config()).measure(GameSubject(several, 10, 0))
