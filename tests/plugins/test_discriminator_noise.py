"""Laws of noise in D: 0 is identity, a draw for each layer and pass, features without the last one, none in eval."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gantricks import LayerNoise, Rng
from gantricks.networks.base import mixes_samples
from gantricks.rng import Clock
from gantricks.testing import MIXING, Mistake, Played, Settings, TrickHost
from gantricks.testing.measure import flows, standard_normal, surgery
from gantricks.testing.record import same_bits

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({}, {}),
    "mixing": ({"input": 0.2, "hidden": 0.3}, MIXING),
}
REFUSED: dict[str, str] = {}

MISTAKES = {
    "the features are noisy": Mistake(
        old="blocks[:-1]",
        new="blocks",
        caught_by=("test_features_are_without_the_last_noise_and_the_heads_see_it", "trace_law"),
    ),
    "the input has three times its noise": Mistake(
        old='LayerNoise(self.config.input, ctx.rng.fork("input"))',
        new='LayerNoise(3 * self.config.input, ctx.rng.fork("input"))',
        caught_by="trace_law",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """N(0, σ²) is added to D's input, after each block but the last, and to D's features on their way to the heads,
    drawn afresh, in training; nothing in eval."""
    config = played.trick(name).config
    done = surgery(played, name, "discriminator")
    first = next(place for place in done.after if place.startswith("body."))
    assert first in done.added, f"D's input goes to {first}"
    *inner, _ = done.blocks().values()
    ends = [children[-1] for children in inner]
    (neck,) = [place for place in done.added if place.startswith("neck.")]
    assert {place for place, _ in ends} == done.added.keys() - {first, neck}, f"added: {list(done.added)}"
    layers = {done.added[first]: config.input, done.added[neck]: config.hidden}
    layers |= dict.fromkeys((module for _, module in ends), config.hidden)
    passes = [flows(played, "discriminator", layers, phase=phase) for phase in ("d", "g")]
    drawn = torch.cat([((y - x) / layers[layer]).flatten() for flow in passes for layer, x, y in flow])
    standard_normal(drawn, "noise in D")
    for _, x, y in flows(played, "discriminator", layers, training=False):
        assert torch.equal(x, y), "noise in eval mode"


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
def test_eval_is_without_noise(host):
    game, plain = host.with_trick("discriminator_noise").game(), host.game()
    x = images(host)
    assert same_bits(game.discriminator.eval()(x).logits, plain.discriminator.eval()(x).logits)
    game.discriminator.train()
    assert not same_bits(game.discriminator(x).logits, game.discriminator(x).logits)
    assert not mixes_samples(game.discriminator.body)
