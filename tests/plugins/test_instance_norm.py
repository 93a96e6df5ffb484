"""Laws of instance norm: the definition, each sample alone, training is eval, every batch norm is found."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from gantricks import Players, Trick, UserError, hookimpl
from gantricks.networks.base import Generator, mixes_samples
from gantricks.plugins.instance_norm import InstanceNorm, instance_norm_like
from gantricks.testing import MIXING, Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import close, flows, per_channel_affine, roles_of, surgery
from gantricks.testing.record import same_bits

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({}, {}),
    "discriminator": ({"players": ["discriminator"]}, MIXING),
}
REFUSED: dict[str, str] = {}

MISTAKES = {
    "statistics across channels": Mistake(
        old="nn.InstanceNorm2d(norm.num_features, norm.eps, affine=norm.affine)",
        new="nn.GroupNorm(1, norm.num_features, norm.eps, affine=norm.affine)",
        caught_by="test_each_map_is_normalised_by_the_definition",
    ),
    "the norm's own weight is lost": Mistake(
        old="norm.weight, norm.bias",
        new="nn.Parameter(torch.ones_like(norm.weight)), norm.bias",
        caught_by="trace_law",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """Where a batch norm was, each map of each sample is normalised by itself, with the weight and bias it had."""
    for role in roles_of(played.trick(name).config):
        done = surgery(played, name, role)
        norms = {place: module for place, module in done.before.items() if isinstance(module, _BatchNorm)}
        assert norms, f"the {role} had no batch norm"
        assert done.replaced.keys() == norms.keys()
        assert not done.added
        new = [done.after[place] for place in norms]
        for (_, x, y), norm in zip(flows(played, role, new), norms.values(), strict=True):
            centred = x - x.mean((2, 3), keepdim=True)
            scale = (centred.square().mean((2, 3), keepdim=True) + norm.eps).sqrt()
            close(y, per_channel_affine(centred / scale, norm), "normalised maps")


BOTH = {"generator": {"batch_norm": True, "depth": 2}, "discriminator": {"batch_norm": True, "depth": 2}}
IMAGES = TrickHost(sample=(1, 8, 8), **BOTH)
RESNET = IMAGES.but(**{role: {"network": "resnet", **options} for role, options in BOTH.items()})
HOSTS = pytest.mark.parametrize("host", [IMAGES, RESNET], ids=["dcgan", "resnet"])
PLAYERS = pytest.mark.parametrize("players", [Players(), Players("generator"), Players("discriminator")])
ROLES = ("generator", "discriminator")


def explicit(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float) -> np.ndarray:
    """The definition, map by map."""
    out = np.empty_like(x)
    for sample, channel in np.ndindex(*x.shape[:2]):
        m = x[sample, channel]
        out[sample, channel] = (m - m.mean()) / np.sqrt(m.var() + eps) * weight[channel] + bias[channel]
    return out


@st.composite
def norms(draw):
    """A batch norm in float64 with random weight and bias."""
    norm = nn.BatchNorm2d(draw(st.integers(1, 4)), eps=draw(st.sampled_from([1e-5, 1e-2]))).double()
    with torch.no_grad():
        norm.weight.copy_(draw(gs.tensors(norm.weight.shape)))
        norm.bias.copy_(draw(gs.tensors(norm.bias.shape)))
    return norm


@given(norms(), st.integers(1, 4), st.sampled_from([(2, 2), (3, 5), (1, 4)]), st.booleans(), st.data())
def test_each_map_is_normalised_by_the_definition(norm, batch, size, training, data):
    x = data.draw(gs.tensors((batch, norm.num_features, *size), scale=3.0)) + 1
    out = instance_norm_like(norm).train(training)(x)
    expected = explicit(x.numpy(), norm.weight.detach().numpy(), norm.bias.detach().numpy(), norm.eps)
    np.testing.assert_allclose(out.detach().numpy(), expected, rtol=0, atol=1e-9)


@given(norms())
def test_weight_and_bias_are_the_batch_norms_own(norm):
    instance = instance_norm_like(norm)
    assert instance.weight is norm.weight
    assert instance.bias is norm.bias
    assert instance.eps == norm.eps
    assert not [*instance.buffers()]


def test_a_norm_without_weights_has_none_after():
    instance = instance_norm_like(nn.BatchNorm2d(3, affine=False))
    assert not [*instance.parameters()]
    assert not instance.affine
    assert instance(torch.ones(2, 3, 2, 2)).shape == (2, 3, 2, 2)


def test_the_scale_and_offset_of_a_map_are_erased():
    x = torch.randn((2, 3, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    norm = instance_norm_like(nn.BatchNorm2d(3, eps=1e-12).double())
    torch.testing.assert_close(norm(7 * x + 3), norm(x), rtol=0, atol=1e-9)


def test_gradients_check():
    x = torch.randn((2, 2, 2, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    norm = instance_norm_like(nn.BatchNorm2d(2, eps=1e-2).double())
    assert torch.autograd.gradcheck(norm, (x,))
    assert torch.autograd.gradgradcheck(norm, (x,))


def test_statistics_of_bfloat16_are_wider():
    x = torch.randn((3, 2, 16, 16), generator=torch.Generator().manual_seed(0)) + 20
    norm = instance_norm_like(nn.BatchNorm2d(2))
    narrow = x.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        out = norm(narrow)
    expected = explicit(narrow.double().numpy(), np.ones(2), np.zeros(2), norm.eps)
    assert np.abs(out.detach().double().numpy() - expected).max() < 0.02


@HOSTS
@PLAYERS
def test_every_norm_of_the_chosen_players_is_replaced_and_the_others_stay(host, players):
    game, plain = host.with_trick("instance_norm", players=players.written()).game(), host.game()
    for role in ROLES:
        network, before = getattr(game, role), getattr(plain, role)
        places = [name for name, m in before.named_modules() if isinstance(m, nn.BatchNorm2d)]
        kind = nn.InstanceNorm2d if role in players else nn.BatchNorm2d
        assert places
        assert [name for name, m in network.named_modules() if isinstance(m, kind)] == places
        assert mixes_samples(network) == (kind is nn.BatchNorm2d)
        for (name, a), (other, b) in zip(network.named_parameters(), before.named_parameters(), strict=True):
            assert name == other
            assert same_bits(a, b)


@HOSTS
def test_a_sample_is_made_and_judged_alone_and_eval_is_training(host):
    game = host.with_trick("instance_norm").train(2).game
    generator = torch.Generator().manual_seed(1)
    z = torch.randn((4, 4), generator=generator, dtype=torch.float64)
    for network, x in ((game.generator, z), (game.discriminator, game.generator(z).detach())):

        def run(x, network=network):
            out = network(x)
            return out if isinstance(out, torch.Tensor) else out.logits

        other = x + 1
        other[2] = x[2]
        torch.testing.assert_close(run(x)[2], run(other)[2], rtol=0, atol=1e-12)
        torch.testing.assert_close(run(x[2:3])[0], run(x)[2], rtol=0, atol=1e-12)
        trained = run(x)
        assert same_bits(trained, (network.eval(), run(x))[1])
        network.train()


@HOSTS
def test_batches_of_one_play(host):
    assert host.but(batch_size=1).with_trick("instance_norm").train(3).game.non_finite() is None


@PLAYERS
@pytest.mark.parametrize("without", ROLES)
def test_batch_norm_is_needed_where_it_is_replaced_and_nowhere_else(players, without):
    host = IMAGES.but(**{without: {"batch_norm": False, "depth": 2}}).with_trick(
        "instance_norm", players=players.written()
    )
    if without in players:
        with pytest.raises(UserError, match=f"{without}_batch_norm"):
            host.plan()
    else:
        host.game()


@PLAYERS
def test_it_does_not_stack_on_virtual_batch_norm_in_the_same_network(players):
    host = IMAGES.with_trick("virtual_batch_norm", reference=4).with_trick("instance_norm", players=players.written())
    if "generator" not in players:
        host.game()
    else:
        with pytest.raises(UserError, match="replace the same part"):
            host.plan()


def test_vectors_are_refused_when_the_recipe_is_checked():
    norm = {"batch_norm": True}
    with pytest.raises(UserError, match="generator_convolutions"):
        TrickHost(generator=norm, discriminator=norm).with_trick("instance_norm").plan()


class VectorNorm(Trick):
    @hookimpl
    def transform_generator(self, network: Generator) -> Generator:
        network.body = nn.Sequential(nn.BatchNorm1d(4), *network.body)
        return network


def test_a_norm_over_vectors_among_convolutions_is_named():
    with pytest.raises(UserError, match="no height and width"):
        IMAGES.with_trick(VectorNorm).with_trick("instance_norm").game()


def test_unknown_players_are_refused():
    with pytest.raises(ValidationError):
        InstanceNorm.Config(players="nobody")
