"""Laws of noise in D: 0 is identity, a draw for each layer and pass, features without the last one, none in eval."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from gantricks import LayerNoise, Rng
from gantricks.networks.base import mixes_samples
from gantricks.plugins.discriminator_noise import DiscriminatorNoise
from gantricks.rng import Clock
from gantricks.testing import TrickHost
from gantricks.testing.host import differences, same_bits

IMAGES = TrickHost(sample=(1, 8, 8), discriminator={"depth": 2, "batch_norm": False})
VECTORS = TrickHost()
HOSTS = pytest.mark.parametrize("host", [IMAGES, VECTORS], ids=["dcgan", "mlp"])


def noises(network: nn.Module) -> dict[str, LayerNoise]:
    return {name: module for name, module in network.named_modules() if isinstance(module, LayerNoise)}


def images(host: TrickHost, size: int = 6) -> torch.Tensor:
    return torch.tanh(Rng(0, "images", Clock(), dtype=torch.float64).normal((size, *host.sample)))


def test_noise_meets_the_input_and_follows_every_block_of_a_convolutional_d():
    network = IMAGES.with_trick("discriminator_noise", input=0.2, hidden=0.4).game().discriminator
    layers = noises(network)
    assert {name: layer.sigma for name, layer in layers.items()} == {
        "body.discriminator_noise_input": 0.2,
        "body.down1.discriminator_noise_noise": 0.4,
        "neck.discriminator_noise_noise": 0.4,
    }
    assert next(iter(network.body.children())) is layers["body.discriminator_noise_input"]


def test_noise_follows_every_hidden_layer_of_an_mlp():
    layers = noises(VECTORS.with_trick("discriminator_noise").game().discriminator)
    assert {name: layer.sigma for name, layer in layers.items()} == {
        "body.discriminator_noise_input": 0.6,
        "body.hidden1.discriminator_noise_noise": 0.5,
        "neck.discriminator_noise_noise": 0.5,
    }
    assert len({layer.rng.name for layer in layers.values()}) == 3


@HOSTS
def test_each_part_alone(host):
    only_input = noises(host.with_trick("discriminator_noise", hidden=0.0).game().discriminator)
    assert list(only_input) == ["body.discriminator_noise_input"]
    only_hidden = noises(host.with_trick("discriminator_noise", input=0.0).game().discriminator)
    assert not any(name.endswith("_input") for name in only_hidden)
    assert len(only_hidden) == 2


@HOSTS
def test_features_are_without_the_last_noise_and_the_heads_see_it(host):
    network = host.with_trick("discriminator_noise", input=0.0, hidden=0.5).game().discriminator
    *before, _ = [f"body.{name}." for name, block in network.body.named_children() if isinstance(block, nn.Sequential)]
    for name, layer in noises(network).items():
        if name.startswith(tuple(before)):
            layer.sigma = 0.0
    x = images(host)
    first, second = network(x), network(x)
    assert same_bits(first.features, second.features)
    assert not torch.allclose(first.logits, second.logits)
    network.eval()
    assert same_bits(network(x).features, first.features)


def test_every_head_sees_the_same_noise():
    host = TrickHost(classes=3).with_trick("separate_batches").with_trick("semi_supervised", labels=6)
    for order in (("semi_supervised", "discriminator_noise"), ("discriminator_noise", "semi_supervised")):
        both = TrickHost(classes=3).with_trick("separate_batches")
        for trick in order:
            both = both.with_trick(trick, **({"labels": 6} if trick == "semi_supervised" else {}))
        out = both.game().discriminator(images(host))
        torch.testing.assert_close(out.logits, out.class_logits.logsumexp(1, keepdim=True))


@HOSTS
def test_weights_keep_their_names_and_start(host):
    with_it, plain = host.with_trick("discriminator_noise").game(), host.game()
    for role in ("discriminator", "generator"):
        a, b = getattr(with_it, role).state_dict(), getattr(plain, role).state_dict()
        assert list(a) == list(b)
        assert all(same_bits(a[name], b[name]) for name in a)


@HOSTS
def test_every_pass_of_both_steps_has_noise_of_its_own(host):
    game = host.with_trick("discriminator_noise").with_trick("separate_batches").game()
    seen: list[tuple[str, torch.Tensor]] = []
    layer = noises(game.discriminator)["body.discriminator_noise_input"]
    layer.register_forward_hook(lambda m, args, out: seen.append((game.clock.phase, (out - args[0]).detach())))
    game.advance()
    game.advance()
    assert [phase for phase, _ in seen] == ["d", "d", "g"] * 2
    for i, (_, a) in enumerate(seen):
        assert all(not torch.allclose(a, b) for _, b in seen[:i])


@HOSTS
def test_eval_is_without_noise(host):
    game, plain = host.with_trick("discriminator_noise").game(), host.game()
    x = images(host)
    assert same_bits(game.discriminator.eval()(x).logits, plain.discriminator.eval()(x).logits)
    game.discriminator.train()
    assert not same_bits(game.discriminator(x).logits, game.discriminator(x).logits)
    assert not mixes_samples(game.discriminator.body)


def test_two_instances_stay_apart():
    host = VECTORS.with_trick("discriminator_noise", "early").with_trick("discriminator_noise", "late", hidden=0.1)
    layers = noises(host.game().discriminator)
    assert len(layers) == len({layer.rng.name for layer in layers.values()}) == 6


def test_a_neutral_run_is_the_plain_one():
    host = IMAGES.but(precision="fp32")
    neutral = host.with_trick("discriminator_noise", **DiscriminatorNoise.neutral).train(3)
    assert not differences(neutral.state, host.train(3).state)
    assert not noises(neutral.game.discriminator)


@pytest.mark.parametrize("wrong", [-0.1, 10.1, float("nan")])
@pytest.mark.parametrize("option", ["input", "hidden"])
def test_strengths_outside_their_bounds_are_refused(option, wrong):
    with pytest.raises(ValidationError):
        DiscriminatorNoise.Config(**{option: wrong})
