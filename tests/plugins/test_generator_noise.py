"""Laws of noise in G: sigma = 0 is identity, mean and variance, a draw for each layer and pass, none in samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from gantricks import LayerNoise, Rng
from gantricks.engine import sampling
from gantricks.networks.base import mixes_samples
from gantricks.networks.noise import add_noise
from gantricks.plugins.generator_noise import GeneratorNoise
from gantricks.rng import Clock
from gantricks.testing import TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.host import differences, same_bits

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


@HOSTS
def test_weights_keep_their_names_and_start(host):
    with_it, plain = host.with_trick("generator_noise").game(), host.game()
    for role in ("discriminator", "generator"):
        a, b = getattr(with_it, role).state_dict(), getattr(plain, role).state_dict()
        assert list(a) == list(b)
        assert all(same_bits(a[name], b[name]) for name in a)


def test_layers_draw_from_streams_of_their_own():
    game = VECTORS.with_trick("generator_noise").game()
    game.clock.enter("d")
    zeros = torch.zeros(4, 8, dtype=torch.float64)
    first, second = [layer(zeros) for layer in noises(game.generator).values()]
    assert not same_bits(first, second)
    game.clock.enter("d")
    (_, alone) = noises(game.generator).values()
    assert same_bits(alone(zeros), second), "a layer's noise depends on the layers before it"


def test_two_instances_stay_apart():
    host = VECTORS.with_trick("generator_noise", "early", sigma=0.1).with_trick("generator_noise", "late", sigma=0.2)
    layers = noises(host.game().generator)
    assert {name: layer.sigma for name, layer in layers.items()} == {
        "body.hidden1.early_noise": 0.1,
        "body.hidden1.late_noise": 0.2,
        "body.hidden2.early_noise": 0.1,
        "body.hidden2.late_noise": 0.2,
    }
    assert len({layer.rng.name for layer in layers.values()}) == 4


# ---------------------------------------------------------------- in a run


@pytest.mark.parametrize("reuse", [True, False])
def test_every_pass_of_training_has_noise_of_its_own(reuse):
    game = IMAGES.but(reuse_fakes=reuse).with_trick("generator_noise").game()
    seen: list[tuple[str, torch.Tensor]] = []
    layer = game.generator.body.project.generator_noise_noise
    layer.register_forward_hook(lambda m, args, out: seen.append((game.clock.phase, (out - args[0]).detach())))
    game.advance()
    game.advance()
    assert [phase for phase, _ in seen] == (["d", "d"] if reuse else ["d", "g", "d", "g"])
    drawn = [noise for _, noise in seen]
    for i, a in enumerate(drawn):
        assert a.std().item() == pytest.approx(0.1, rel=0.25)
        assert all(not torch.allclose(a, b) for b in drawn[:i])


@HOSTS
def test_sampling_and_eval_are_without_noise(host):
    game, plain = host.with_trick("generator_noise", sigma=1.0).game(), host.game()
    assert np.array_equal(sampling.sample(game, 6, seed=3), sampling.sample(plain, 6, seed=3))
    z = latents(host)
    assert same_bits(game.generator.eval()(z), plain.generator.eval()(z))
    game.generator.train()
    assert not same_bits(game.generator(z), game.generator(z))


def test_noise_does_not_mix_samples():
    game = VECTORS.with_trick("generator_noise").game()
    assert not mixes_samples(game.generator)
    z = latents(VECTORS)
    other = z.clone()
    other[1:] += 1
    game.clock.enter("d")
    first = game.generator(z)[0]
    game.clock.enter("d")
    assert same_bits(first, game.generator(other)[0])


def test_a_neutral_run_is_the_plain_one():
    host = IMAGES.but(precision="fp32")
    neutral = host.with_trick("generator_noise", **GeneratorNoise.neutral).train(3)
    assert not differences(neutral.state, host.train(3).state)
    assert not noises(neutral.game.generator)


@pytest.mark.parametrize("wrong", [-0.1, 10.1, float("nan"), float("inf")])
def test_strengths_outside_their_bounds_are_refused(wrong):
    with pytest.raises(ValidationError):
        GeneratorNoise.Config(sigma=wrong)
