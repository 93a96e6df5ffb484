"""Laws of Langevin sampling: the chain step by step, its stationary distribution, and what it leaves alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gantricks import Latents
from gantricks.engine import sampling
from gantricks.plugins.langevin_sampling import LangevinSampling, langevin, latent_energy
from gantricks.rng import Clock, Rng
from gantricks.testing import CONDITIONAL, MIXING, Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import close
from gantricks.testing.record import differences, snapshot

# ---------------------------------------------------------------- what the generic suites are told

NO_RATIO = "langevin_sampling needs log_ratio"
SETTINGS: Settings = {
    "": ({"steps": 3, "rate": 0.2}, {}),
    "classes": ({"steps": 2, "rate": 0.1}, CONDITIONAL),
    "mixing": ({"steps": 2, "rate": 0.1}, MIXING),
}
REFUSED: dict[str, str] = {
    "hinge": NO_RATIO,
    "least_squares": NO_RATIO,
    "relativistic": NO_RATIO,
    "wasserstein": NO_RATIO,
    "minibatch_discrimination": "depends on the rest of its batch",
    "minibatch_stddev": "depends on the rest of its batch",
    "packing": "says nothing of one",
    "rejection_sampling": "twice",
    "spherical_latents": "Gaussian latents",
    "truncation": "leaves the truncated latents",
}

MISTAKES = {
    "a whole ε along the slope": Mistake(
        old="rate / 2 * slope",
        new="rate * slope",
        caught_by=("test_each_step_is_that_of_the_formula", "test_the_chain_forgets_its_start", "trace_law"),
    ),
    "noise of size ε": Mistake(
        old="math.sqrt(rate) * noise()",
        new="rate * noise()",
        caught_by=("test_each_step_is_that_of_the_formula", "test_the_chain_forgets_its_start", "trace_law"),
    ),
    "uphill": Mistake(
        old="z.detach() - rate / 2 * slope",
        new="z.detach() + rate / 2 * slope",
        caught_by=("test_each_step_is_that_of_the_formula", "trace_law"),
    ),
    "D's logit has the wrong sign": Mistake(
        old="z.square().sum(1) / 2 - logits",
        new="z.square().sum(1) / 2 + logits",
        caught_by=("test_the_chain_of_a_linear_d_has_its_mean", "trace_law"),
    ),
    "the prior is left out": Mistake(
        old="z.square().sum(1) / 2 - logits",
        new="-logits",
        caught_by=("test_the_chain_of_a_linear_d_has_its_mean", "trace_law"),
    ),
    "the mean over the batch: chains slow down with its size": Mistake(
        old="energy(z).sum()",
        new="energy(z).mean()",
        caught_by=("test_each_step_is_that_of_the_formula", "trace_law"),
    ),
    "noise from torch's generator": Mistake(
        old="ctx.rng.normal(start.shape)",
        new="torch.randn_like(start)",
        caught_by="evaluation",
    ),
    "D judges in training mode": Mistake(
        old="ctx.judge(Batch(images, classes, condition))",
        new="ctx.discriminator(images, classes, condition)",
        caught_by="trace_law[mixing]",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """A sample is G(z) after k steps z - ε/2 (z - ∇D(G(z))) + √ε n, with noise of the trick's stream."""
    game, config = played.game, played.trick(name).config
    ((hook, ctx),) = [(hook, ctx) for hook, ctx in game.hooks.sampler if ctx.name == name]
    network = sampling.sampling_generator(game, 3)
    judge = sampling.evaluated_discriminator(game)
    rng = Rng(1, "given", Clock(), dtype=game.placement.dtype)
    given = Latents(
        rng.normal((5, network.latent_dim)),
        rng.randint(5, network.classes) if network.conditional else None,
        rng.normal((5, network.condition)) if network.conditioned else None,
    )

    def plain(given: Latents) -> torch.Tensor:
        images: torch.Tensor = network(*given)
        return images

    with sampling.aside(game, 3, 1), sampling.eval_mode(network):
        found = hook(plain, ctx)(given)
    assert not found.requires_grad
    z = given.z
    with sampling.aside(game, 3, 1), sampling.eval_mode(network), sampling.eval_mode(judge):
        for _ in range(config.steps):
            with torch.enable_grad():
                start = z.clone().requires_grad_()
                judge(network(start, *given[1:]), *given[1:]).logits.sum().backward(inputs=[start])
            n = ctx.rng.normal(z.shape)
            z = (1 - config.rate / 2) * z + config.rate / 2 * start.grad + config.rate**0.5 * n
        expected = network(z, *given[1:])
    close(found, expected, "a sample", rtol=1e-8, atol=1e-9)


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return Rng(seed, "chain", Clock(), dtype=torch.float64).normal(shape)


def chain(energy: Any, start: torch.Tensor, rate: float, steps: int) -> torch.Tensor:
    rng = Rng(1, "noise", Clock(), dtype=torch.float64)
    # streams differ between draws of one phase, so no noise comes twice
    return langevin(start, energy, rate, steps, lambda: rng.normal(start.shape))


# ---------------------------------------------------------------- the chain


@given(gs.tensors((4, 3)), gs.tensors((3, 3)), gs.tensors((2, 4, 3)), st.floats(0.01, 1))
def test_each_step_is_that_of_the_formula(z, a, noise, rate):
    a = a @ a.T
    given_noise = iter(noise)
    found = langevin(z, lambda x: ((x @ a) * x).sum(1) / 2 + x.sum(1), rate, 2, lambda: next(given_noise))
    expected = z.numpy()
    for n in noise.numpy():
        expected = expected - rate / 2 * (expected @ a.numpy() + 1) + math.sqrt(rate) * n
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max() + 1e-12)


def test_no_step_is_no_change():
    z = draws(5, 3)
    assert langevin(z, lambda x: x.sum(1), 0.1, 0, lambda: z) is z
    trick = LangevinSampling(LangevinSampling.Config(steps=0))

    def sampler(given: Latents) -> torch.Tensor:
        return given.z

    assert trick.sampler(sampler, None) is sampler


@pytest.mark.parametrize(("stiffness", "rate"), [(1.0, 0.5), (2.0, 0.3), (0.5, 1.0)])
def test_the_chain_forgets_its_start(stiffness, rate):
    # E = a z²/2: z' = (1 - εa/2) z + √ε n is stationary with the variance 1 / (a (1 - εa/4))
    steps = math.ceil(-20 / math.log(abs(1 - rate * stiffness / 2)))
    found = chain(lambda z: stiffness * z.square().sum(1) / 2, draws(20_000, 1) + 3, rate, steps)
    variance = 1 / (stiffness * (1 - rate * stiffness / 4))
    assert abs(found.mean()) < 5 * math.sqrt(variance / 20_000)
    assert abs(found.var() / variance - 1) < 5 * math.sqrt(2 / 20_000)


def test_the_chain_of_a_linear_d_has_its_mean():
    # a linear G and a linear D: D(G(z)) = ⟨b, z⟩, and E is least at b, where it has the curvature of the prior
    b, rate = torch.tensor([0.5, -2.0], dtype=torch.float64), 0.4
    found = chain(lambda z: latent_energy(z, z @ b), draws(20_000, 2), rate, 120)
    variance = 1 / (1 - rate / 4)
    assert ((found.mean(0) - b).abs() < 5 * math.sqrt(variance / 20_000)).all()
    assert ((found.var(0) / variance - 1).abs() < 5 * math.sqrt(2 / 20_000)).all()


# ---------------------------------------------------------------- in a run


def test_training_is_what_it_is_without_the_trick_and_nothing_is_left_behind():
    host = TrickHost(sample=(1, 8, 8), generator={"batch_norm": True})
    plain, beside = host.train(3), host.with_trick("langevin_sampling", steps=4, rate=0.5).train(3)
    assert not differences(plain.state, beside.state)
    game, before = beside.game, snapshot(beside.game)
    for player in game.players.values():
        for parameter in player.parameters:
            parameter.grad = None
    assert not np.array_equal(sampling.sample(game, 4, 0), sampling.sample(plain.game, 4, 0))
    assert not differences(before, snapshot(game))
    assert all(p.grad is None for player in game.players.values() for p in player.parameters)


def test_samplers_may_have_switched_gradients_off_for_good():
    game = TrickHost(sample=(1, 8, 8), classes=3, generator={"conditional": True}, discriminator={"conditional": True})
    game = game.with_trick("langevin_sampling", steps=2, rate=0.1).game()
    expected = sampling.sample(game, 5, 0)
    with torch.inference_mode():
        assert np.array_equal(sampling.sample(game, 5, 0), expected)


def test_longer_chains_are_taken_for_real_more_often():
    def logit(steps: int) -> float:
        game = TrickHost().with_trick("langevin_sampling", steps=steps, rate=0.2).train(8).game
        with torch.no_grad():
            game.discriminator.head.weight.mul_(30)  # a D that is sure of something
        images = torch.from_numpy(sampling.sample(game, 512, 0)).to(game.placement.dtype)
        with torch.no_grad():
            return float(game.discriminator(images).logits.mean())

    assert logit(20) > logit(0)


def test_a_walk_is_left_alone():
    host = TrickHost()
    plain, game = host.game(), host.with_trick("langevin_sampling", steps=3, rate=0.5).game()
    assert np.array_equal(sampling.walk(game, 2, 5, 0), sampling.walk(plain, 2, 5, 0))
    assert np.array_equal(sampling.sample(game, 100, 1)[:70], sampling.sample(game, 70, 1))


def test_it_moves_the_network_with_averaged_weights_wherever_the_average_stands():
    own, average = ("langevin_sampling", {"steps": 2, "rate": 0.3}), ("ema", {"decay": 0.9, "players": "all"})
    drawn = []
    for tricks in ((own, average), (average, own)):
        host = TrickHost()
        for name, options in tricks:
            host = host.with_trick(name, **options)
        drawn.append(sampling.sample(host.train(4).game, 10, 0))
    assert np.array_equal(*drawn)


@pytest.mark.parametrize("rate", [0.0, -0.1, 4.5])
def test_a_chain_that_stands_or_diverges_is_refused(rate):
    with pytest.raises(ValidationError):
        LangevinSampling.Config(rate=rate)
