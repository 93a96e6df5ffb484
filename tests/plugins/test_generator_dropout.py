"""Laws of dropout in G: p = 0 is identity, the mean is kept, eval drops too, one seed gives one set of samples."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from gantricks import Rng
from gantricks.engine import sampling, state
from gantricks.networks.base import mixes_samples
from gantricks.plugins.generator_dropout import AlwaysDropout, GeneratorDropout, drop
from gantricks.rng import Clock
from gantricks.testing import TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.host import differences, same_bits

IMAGES = TrickHost(sample=(1, 8, 8), generator={"batch_norm": True}, discriminator={"batch_norm": False})
VECTORS = TrickHost()
HOSTS = pytest.mark.parametrize("host", [IMAGES, VECTORS], ids=["dcgan", "mlp"])


def stream(seed: int = 0) -> tuple[Clock, Rng]:
    clock = Clock()
    return clock, Rng(seed, "tricks/dropout/up1", clock, dtype=torch.float64)


def dropouts(network: nn.Module) -> dict[str, AlwaysDropout]:
    return {name: module for name, module in network.named_modules() if isinstance(module, AlwaysDropout)}


def latents(host: TrickHost, size: int = 6) -> torch.Tensor:
    return Rng(0, "latents", Clock(), dtype=torch.float64).normal((size, host.latent_dim))


# ---------------------------------------------------------------- the formula


@given(gs.batches(), st.floats(0, 0.95), gs.rng())
def test_each_number_is_dropped_or_scaled_up(batch, p, rng):
    x = batch.images
    out = drop(x, p, rng)
    assert out.shape == x.shape
    assert out.dtype == x.dtype
    kept = (out != 0).numpy()
    np.testing.assert_allclose(out.numpy()[kept], x.numpy()[kept] / (1 - p), rtol=1e-14)


@given(gs.batches(), gs.rng())
def test_p_zero_is_identity_bit_for_bit(batch, rng):
    for x in (batch.images, batch.images.float(), batch.images.bfloat16()):
        assert same_bits(drop(x, 0.0, rng), x)


@pytest.mark.parametrize("p", [0.2, 0.5, 0.95])
def test_expectation_is_kept(p):
    _, rng = stream()
    draws = 200_000
    out = drop(torch.ones(draws, dtype=torch.float64), p, rng)
    deviation = np.sqrt(p / (1 - p) / draws)  # of the mean of draws that are 1 / (1 - p) with probability 1 - p
    assert abs(out.mean().item() - 1) < 5.5 * deviation
    share = (out == 0).double().mean().item()
    assert abs(share - p) < 5.5 * np.sqrt(p * (1 - p) / draws)


def test_masks_are_drawn_for_every_number_and_pass():
    clock, rng = stream()
    ones = torch.ones(64, 8, 4, 4, dtype=torch.float64)
    clock.enter("d")
    first, second = drop(ones, 0.5, rng) != 0, drop(ones, 0.5, rng) != 0
    clock.enter("g")
    third = drop(ones, 0.5, rng) != 0
    # 8192 fair coins agree in half of the places, give or take six deviations of 1 / (2 √8192)
    for a, b in ((first, second), (first, third), (second, third)):
        assert abs((a == b).double().mean().item() - 0.5) < 6 / (2 * np.sqrt(8192))
    for axis in range(4):  # nothing is shared along samples, channels, rows or columns
        rolled = first.roll(1, axis)
        assert abs((first == rolled).double().mean().item() - 0.5) < 6 / (2 * np.sqrt(8192)) * 1.5


def test_gradient_goes_where_the_numbers_went():
    _, rng = stream()
    x = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    out = drop(x, 0.3, rng)
    out.sum().backward()
    expected = np.where(out.detach().numpy() != 0, 1 / 0.7, 0)
    np.testing.assert_allclose(x.grad.numpy(), expected, rtol=1e-14)


# ---------------------------------------------------------------- the surgery


def test_dropout_follows_every_block_of_a_convolutional_g():
    network = IMAGES.but(sample=(3, 16, 16)).with_trick("generator_dropout", p=0.4).game().generator
    assert list(dropouts(network)) == [f"body.{block}.generator_dropout_dropout" for block in ("project", "up1")]
    assert all([*block.children()][-1] in dropouts(network).values() for block in network.body)
    assert [module.p for module in dropouts(network).values()] == [0.4, 0.4]


def test_dropout_follows_every_hidden_layer_of_an_mlp():
    network = VECTORS.with_trick("generator_dropout").game().generator
    assert list(dropouts(network)) == [f"body.{block}.generator_dropout_dropout" for block in ("hidden1", "hidden2")]
    assert [module.p for module in dropouts(network).values()] == [0.5, 0.5]


@HOSTS
def test_weights_keep_their_names_and_start(host):
    with_it, plain = host.with_trick("generator_dropout").game(), host.game()
    for role in ("discriminator", "generator"):
        a, b = getattr(with_it, role).state_dict(), getattr(plain, role).state_dict()
        assert list(a) == list(b)
        assert all(same_bits(a[name], b[name]) for name in a)


def test_layers_draw_from_streams_of_their_own():
    game = VECTORS.with_trick("generator_dropout").game()
    game.clock.enter("d")
    ones = torch.ones(4, 8, dtype=torch.float64)
    first, second = [layer(ones) for layer in dropouts(game.generator).values()]
    assert not same_bits(first, second)
    game.clock.enter("d")
    (_, alone) = dropouts(game.generator).values()
    assert same_bits(alone(ones), second), "a layer's mask depends on the layers before it"


def test_two_instances_stay_apart():
    host = VECTORS.with_trick("generator_dropout", "early", p=0.1).with_trick("generator_dropout", "late", p=0.2)
    layers = dropouts(host.game().generator)
    assert {name: layer.p for name, layer in layers.items()} == {
        "body.hidden1.early_dropout": 0.1,
        "body.hidden1.late_dropout": 0.2,
        "body.hidden2.early_dropout": 0.1,
        "body.hidden2.late_dropout": 0.2,
    }
    assert len({layer.rng.name for layer in layers.values()}) == 4


# ---------------------------------------------------------------- in a run


@pytest.mark.parametrize("reuse", [True, False])
def test_every_pass_of_training_has_a_mask_of_its_own(reuse):
    game = IMAGES.but(reuse_fakes=reuse).with_trick("generator_dropout").game()
    seen: list[tuple[str, torch.Tensor]] = []
    layer = game.generator.body.project.generator_dropout_dropout
    layer.register_forward_hook(lambda m, args, out: seen.append((game.clock.phase, (out == 0).detach())))
    game.advance()
    game.advance()
    assert [phase for phase, _ in seen] == (["d", "d"] if reuse else ["d", "g", "d", "g"])
    masks = [mask for _, mask in seen]
    for i, a in enumerate(masks):
        assert all(not torch.equal(a, b) for b in masks[:i])


@HOSTS
def test_g_stays_stochastic_in_eval(host):
    game = host.with_trick("generator_dropout").game()
    z = latents(host)
    network = game.generator.eval()
    first, second = network(z), network(z)
    assert not same_bits(first, second)
    plain = host.game().generator.eval()
    assert same_bits(plain(z), plain(z))


@HOSTS
def test_sampling_drops_the_declared_share(host):
    game = host.with_trick("generator_dropout", p=0.5).game()
    shares = []
    layer = next(iter(dropouts(game.generator).values()))
    layer.register_forward_hook(lambda m, args, out: shares.append((out[args[0] != 0] == 0).double().mean().item()))
    sampling.sample(game, 200, seed=0)
    assert shares
    assert all(share == pytest.approx(0.5, abs=0.1) for share in shares)


@HOSTS
def test_one_seed_at_one_step_gives_one_set_of_samples(host):
    game = host.with_trick("generator_dropout").game()
    game.advance()
    first = sampling.sample(game, 6, seed=3)
    assert np.array_equal(first, sampling.sample(game, 6, seed=3))
    assert not np.array_equal(first, sampling.sample(game, 6, seed=4))
    resumed = host.with_trick("generator_dropout").game()
    state.load(resumed, state.tensors(game), state.counters(game))
    assert np.array_equal(first, sampling.sample(resumed, 6, seed=3))


def test_one_latent_gives_many_samples():
    game = VECTORS.with_trick("generator_dropout").game()
    out = game.generator.eval()(latents(VECTORS, 1).expand(50, -1))
    assert len({tuple(row) for row in out.tolist()}) > 20


def test_a_copied_g_such_as_ema_s_draws_from_the_same_streams():
    game = VECTORS.with_trick("generator_dropout").game()
    copy, z = deepcopy(game.generator), latents(VECTORS)
    game.clock.enter("sample")
    first = game.generator(z)
    game.clock.enter("sample")
    assert same_bits(copy(z), first)
    assert not same_bits(copy(z), first)


def test_dropout_does_not_mix_samples():
    game = VECTORS.with_trick("generator_dropout").game()
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
    neutral = host.with_trick("generator_dropout", **GeneratorDropout.neutral).train(3)
    assert not differences(neutral.state, host.train(3).state)
    assert not dropouts(neutral.game.generator)


@pytest.mark.parametrize("wrong", [-0.1, 0.96, 1.0, float("nan")])
def test_shares_outside_their_bounds_are_refused(wrong):
    with pytest.raises(ValidationError):
        GeneratorDropout.Config(p=wrong)
