"""Laws of noise in G: sigma = 0 is identity, mean and variance, a draw for each layer and pass, none in samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gantricks import LayerNoise, Rng
from gantricks.engine import sampling
from gantricks.networks.noise import add_noise
from gantricks.rng import Clock
from gantricks.testing import CONDITIONAL, Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import block_ends, flows, standard_normal, surgery
from gantricks.testing.record import same_bits

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({}, {}),
    "conditional": ({"sigma": 0.5}, CONDITIONAL | {"reuse_fakes": False}),
}
REFUSED: dict[str, str] = {}

MISTAKES = {
    "sigma is squared": Mistake(
        old="LayerNoise(self.config.sigma, ctx.rng.fork(name))",
        new="LayerNoise(self.config.sigma**2, ctx.rng.fork(name))",
        caught_by="trace_law",
    ),
    "every layer has the same noise": Mistake(
        old="LayerNoise(self.config.sigma, ctx.rng.fork(name))",
        new="LayerNoise(self.config.sigma, ctx.rng.seeded(0))",
        caught_by="trace_law",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """The last thing in each block adds N(0, σ²), drawn afresh, in training; nothing when sampling."""
    sigma = played.trick(name).config.sigma
    layers = block_ends(surgery(played, name, "generator"))
    passes = [flows(played, "generator", layers, phase=phase) for phase in ("d", "g")]
    standard_normal(torch.cat([((y - x) / sigma).flatten() for flow in passes for _, x, y in flow]), "noise in G")
    for _, x, y in flows(played, "generator", layers, training=False):
        assert torch.equal(x, y), "noise when sampling"


IMAGES = TrickHost(sample=(1, 8, 8), generator={"batch_norm": True}, discriminator={"batch_norm": False})
VECTORS = TrickHost()
HOSTS = pytest.mark.parametrize("host", [IMAGES, VECTORS], ids=["dcgan", "mlp"])


def noises(network: nn.Module) -> dict[str, LayerNoise]:
    return {name: module for name, module in network.named_modules() if isinstance(module, LayerNoise)}


def latents(host: TrickHost, size: int = 6) -> torch.Tensor:
    return Rng(0, "latents", Clock(), dtype=torch.float64).normal((size, host.latent_dim))


# ---------------------------------------------------------------- the formula


@pytest.mark.parametrize("sigma", [0.1, 2.0])
@pytest.mark.parametrize("value", [-1.0, 0.0, 3.0])
def test_mean_is_the_activation_and_variance_sigma_squared(sigma, value):
    x = torch.full((400, 3, 16, 16), value, dtype=torch.float64)
    noisy = add_noise(x, sigma, Rng(0, "tricks/a", Clock(), dtype=torch.float64))
    e, n = (noisy - x) / sigma, x.numel()
    assert abs(e.mean().item()) < 5.5 / math.sqrt(n)
    assert abs(e.var().item() - 1) < 5.5 * math.sqrt(2 / n)
    assert abs((e**3).mean().item()) < 5.5 * math.sqrt(15 / n)
    assert abs((e**4).mean().item() - 3) < 5.5 * math.sqrt(96 / n)


def test_noise_is_drawn_for_every_number():
    x = torch.zeros((64, 8, 4, 4), dtype=torch.float64)
    e = add_noise(x, 1.0, Rng(0, "tricks/a", Clock(), dtype=torch.float64))
    for axis in range(4):  # nothing is shared along samples, channels, rows or columns
        correlation = (e * e.roll(1, axis)).mean().item()
        assert abs(correlation) < 6 / math.sqrt(x.numel())


@given(gs.batches(), gs.rng())
def test_sigma_zero_is_identity(batch, rng):
    for x in (batch.images, batch.images.float(), batch.images.bfloat16()):
        assert same_bits(add_noise(x, 0.0, rng), x)


@given(gs.batches(), gs.rng(), st.floats(0, 10))
def test_the_gradient_passes_unchanged(batch, rng, sigma):
    x = batch.images.clone().requires_grad_()
    weights = torch.arange(1, x.numel() + 1, dtype=torch.float64).reshape(x.shape)
    (weights * add_noise(x, sigma, rng)).sum().backward()
    assert torch.equal(x.grad, weights)


@given(gs.rng(), st.sampled_from([torch.float64, torch.float32, torch.bfloat16]))
def test_the_type_is_kept_and_the_input_untouched(rng, dtype):
    x = torch.zeros((2, 1, 4, 4), dtype=dtype)
    out = add_noise(x, 0.1, rng)
    assert out.dtype == dtype
    assert out.any()
    assert not x.any()


# ---------------------------------------------------------------- the surgery


def test_noise_follows_every_block_of_a_convolutional_g():
    network = IMAGES.but(sample=(3, 16, 16)).with_trick("generator_noise", sigma=0.4).game().generator
    assert list(noises(network)) == [f"body.{block}.generator_noise_noise" for block in ("project", "up1")]
    assert all([*block.children()][-1] in noises(network).values() for block in network.body)
    assert [module.sigma for module in noises(network).values()] == [0.4, 0.4]


def test_noise_follows_every_hidden_layer_of_an_mlp():
    network = VECTORS.with_trick("generator_noise").game().generator
    assert list(noises(network)) == [f"body.{block}.generator_noise_noise" for block in ("hidden1", "hidden2")]
    assert [module.sigma for module in noises(network).values()] == [0.1, 0.1]


# ---------------------------------------------------------------- in a run


@HOSTS
def test_sampling_and_eval_are_without_noise(host):
    game, plain = host.with_trick("generator_noise", sigma=1.0).game(), host.game()
    assert np.array_equal(sampling.sample(game, 6, seed=3), sampling.sample(plain, 6, seed=3))
    z = latents(host)
    assert same_bits(game.generator.eval()(z), plain.generator.eval()(z))
    game.generator.train()
    assert not same_bits(game.generator(z), game.generator(z))
