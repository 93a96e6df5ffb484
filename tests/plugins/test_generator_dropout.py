"""Laws of dropout in G: p = 0 is identity, the mean is kept, eval drops too, one seed gives one set of samples."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from test_dropout_and_noise import drops
from torch import nn

from gantricks import Rng
from gantricks.engine import sampling, state
from gantricks.plugins.generator_dropout import AlwaysDropout
from gantricks.rng import Clock
from gantricks.testing import CONDITIONAL, Mistake, Played, Settings, TrickHost
from gantricks.testing.measure import block_ends, surgery
from gantricks.testing.record import same_bits

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({}, {}),
    "conditional": ({"p": 0.2}, CONDITIONAL | {"reuse_fakes": False}),
}
REFUSED: dict[str, str] = {}

MISTAKES = {
    "masks come from the global generator": Mistake(
        old="x * rng.bernoulli_like(x, 1 - p) / (1 - p)",
        new="nn.functional.dropout(x, p)",
        caught_by="stream",
    ),
    "off in eval": Mistake(
        old="drop(x, self.p, self.rng)",
        new="drop(x, self.p, self.rng) if self.training else x",
        caught_by=("test_g_stays_stochastic_in_eval", "trace_law"),
    ),
}


def trace_law(played: Played, name: str) -> None:
    """The last thing in each block zeroes a share p and scales the rest, in training and when sampling alike."""
    p = played.trick(name).config.p
    layers = block_ends(surgery(played, name, "generator"))
    for training in (True, False):
        drops(played, "generator", dict.fromkeys(layers, p), training)


IMAGES = TrickHost(sample=(1, 8, 8), generator={"batch_norm": True}, discriminator={"batch_norm": False})
VECTORS = TrickHost()
HOSTS = pytest.mark.parametrize("host", [IMAGES, VECTORS], ids=["dcgan", "mlp"])


def dropouts(network: nn.Module) -> dict[str, AlwaysDropout]:
    return {name: module for name, module in network.named_modules() if isinstance(module, AlwaysDropout)}


def latents(host: TrickHost, size: int = 6) -> torch.Tensor:
    return Rng(0, "latents", Clock(), dtype=torch.float64).normal((size, host.latent_dim))


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


# ---------------------------------------------------------------- in a run


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
