"""Laws of LeakyReLU: slope 0 is ReLU bit for bit, every ReLU is found, nothing else moves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from gantricks import Players, UserError
from gantricks.engine import state
from gantricks.plugins.leaky_relu import LeakyRelu, leak
from gantricks.testing import Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import ROLES, flows, roles_of, surgery
from gantricks.testing.record import differences, same_bits

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({"slope": 0.3}, {}),
    "generator": ({"players": ["generator"]}, {"sample": (1, 8, 8)}),
}
REFUSED: dict[str, str] = {}

MISTAKES = {
    "only units at the top of the network leak": Mistake(
        old="network.named_modules(remove_duplicate=False)",
        new="network.named_children()",
        caught_by="test_every_relu_is_found_however_deep_and_wherever_it_stands",
    ),
    "the slope is the default of the layer": Mistake(
        old="nn.LeakyReLU(slope, relu.inplace)",
        new="nn.LeakyReLU(0.01, relu.inplace)",
        caught_by="trace_law",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """Where a ReLU was there is x for x > 0 and slope · x below, and nothing else changed."""
    config = played.trick(name).config
    count = 0
    for role in ROLES.values():
        done = surgery(played, name, role)
        relus = {place for place, module in done.before.items() if isinstance(module, nn.ReLU)}
        assert not done.added
        assert done.replaced.keys() == (relus if role in roles_of(config) else set())
        for _, x, y in flows(played, role, [new for _, new in done.replaced.values()]):
            assert torch.equal(y, torch.where(x > 0, x, config.slope * x))
            count += 1
    assert count, "no unit leaks"


VECTORS = TrickHost()
IMAGES = TrickHost(sample=(1, 8, 8))
RESNET = {"network": "resnet", "channels": 4}


def relus(network: nn.Module) -> list[str]:
    return [name for name, module in network.named_modules() if isinstance(module, nn.ReLU)]


def leaks(network: nn.Module) -> dict[str, float]:
    return {name: m.negative_slope for name, m in network.named_modules() if isinstance(m, nn.LeakyReLU)}


@given(gs.tensors((6, 5), scale=3.0), st.floats(0.001, 1))
def test_below_zero_the_slope_is_what_was_asked_for_and_above_it_is_one(x, slope):
    x = torch.cat([x, torch.zeros(1, 5, dtype=torch.float64), -torch.zeros(1, 5, dtype=torch.float64)]).requires_grad_()
    network = nn.Sequential(nn.ReLU())
    assert leak(network, slope) == 1
    out = network(x)
    out.sum().backward()
    values = x.detach().numpy()
    np.testing.assert_array_equal(out.detach().numpy(), np.where(values > 0, values, slope * values))
    np.testing.assert_array_equal(x.grad.numpy(), np.where(values > 0, 1.0, slope))


def test_every_relu_is_found_however_deep_and_wherever_it_stands():
    shared = nn.ReLU()
    network = nn.Sequential(
        nn.ReLU(inplace=True), nn.Sequential(nn.Linear(2, 2), nn.ModuleDict({"a": shared})), shared, nn.Tanh()
    )
    assert leak(network, 0.3) == 3
    assert not relus(network)
    assert isinstance(network[2], nn.LeakyReLU)
    assert isinstance(network[3], nn.Tanh)
    assert network[0].inplace
    assert not network[2].inplace


@pytest.mark.parametrize(
    "host",
    [VECTORS, IMAGES.but(discriminator=RESNET, generator=RESNET)],
    ids=["mlp", "resnet"],
)
@pytest.mark.parametrize("players", [Players(), Players("generator"), Players("discriminator")])
def test_the_chosen_players_units_leak_and_the_others_stay(host, players):
    game, plain = host.with_trick("leaky_relu", slope=0.3, players=players.written()).game(), host.game()
    for role in ("generator", "discriminator"):
        network, before = getattr(game, role), relus(getattr(plain, role))
        assert before
        if role in players:
            assert leaks(network) == dict.fromkeys(before, 0.3)
            assert not relus(network)
        else:
            assert relus(network) == before
            assert not leaks(network)


def test_what_leaks_already_keeps_its_slope():
    game = IMAGES.but(discriminator={"slope": 0.4}).with_trick("leaky_relu", slope=0.3).game()
    assert set(leaks(game.discriminator).values()) == {0.4}
    assert set(leaks(game.generator).values()) == {0.3}


def test_no_weight_moves_at_the_start():
    game, plain = VECTORS.with_trick("leaky_relu").game(), VECTORS.game()
    assert not differences(state.tensors(game), state.tensors(plain))


def test_a_unit_that_is_off_everywhere_still_learns():
    for name, expected in (("plain", False), ("leaky", True)):
        host = VECTORS.with_trick("leaky_relu") if name == "leaky" else VECTORS
        game = host.game()
        with torch.no_grad():
            game.discriminator.body.hidden1.linear.bias.fill_(-1e3)
        game.discriminator(torch.ones(4, 2, dtype=torch.float64)).logits.sum().backward()
        assert bool(game.discriminator.body.hidden1.linear.weight.grad.any()) == expected


@pytest.mark.parametrize("players", [Players(), Players("generator"), Players("discriminator")])
def test_slope_zero_is_relu_bit_for_bit(players):
    game = VECTORS.with_trick("leaky_relu", slope=0.0, players=players.written()).game()
    plain = VECTORS.game()
    special = torch.tensor([0.0, -0.0, -1e-320, -float("inf"), float("inf"), 2.0, -2.0], dtype=torch.float64)
    for role in ("generator", "discriminator"):
        ours, theirs = getattr(game, role).body.hidden1.activation, getattr(plain, role).body.hidden1.activation
        grads = []
        for layer in (ours, theirs):
            x = special.clone().requires_grad_()
            out = layer(x)
            out.sum().backward()
            grads.append((out.detach(), torch.signbit(out.detach()), x.grad))
        assert all(same_bits(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("slope", [0.2, 1.0])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_plays_in_other_precisions(slope, precision):
    played = IMAGES.but(precision=precision).with_trick("leaky_relu", slope=slope).train(2)
    assert played.game.non_finite() is None


def test_no_relu_to_replace_is_told():
    host = IMAGES.with_trick("leaky_relu", players=["discriminator"])
    with pytest.raises(UserError, match="no ReLU"):
        host.game()
    smooth = {"activation": "tanh"}
    with pytest.raises(UserError, match="no ReLU"):
        VECTORS.but(generator=smooth, discriminator=smooth).with_trick("leaky_relu").game()


@pytest.mark.parametrize("wrong", [{"slope": -0.1}, {"slope": 1.1}, {"slope": True}, {"players": "nobody"}])
def test_options_out_of_bounds_are_refused(wrong):
    with pytest.raises(ValidationError):
        LeakyRelu.Config(**wrong)
