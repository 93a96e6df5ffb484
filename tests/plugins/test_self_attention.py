"""Laws of self-attention: the formula place by place, no place is special, nothing changes until the gain moves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from gantricks import Generator, Players, Trick, UserError, hookimpl
from gantricks.engine.capture import INDUCTOR, CapturedStep
from gantricks.networks.base import initialise, mixes_samples
from gantricks.plugins.self_attention import Attention, SelfAttention, attention, fitting
from gantricks.rng import Clock, Rng
from gantricks.testing import CONDITIONAL, Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.instruments import boundary
from gantricks.testing.measure import close, flows, roles_of, samples, surgery
from gantricks.testing.record import same_bits

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({}, {}),
    "conditional": ({"resolution": 4, "players": ["generator"]}, CONDITIONAL | {"n_critic": 2}),
    "wide": ({"players": ["discriminator"]}, {"sample": (3, 9, 12), "discriminator": {"depth": 2, "channels": 16}}),
}
REFUSED: dict[str, str] = {}

MISTAKES = {
    "weights of the places that look sum to 1, not those of the places looked at": Mistake(
        old="(queries.to(wide).transpose(1, 2) @ keys.to(wide)).softmax(2)",
        new="(queries.to(wide).transpose(1, 2) @ keys.to(wide)).softmax(1)",
        caught_by=("test_the_weights_of_each_place_sum_to_one", "test_the_block_is_the_definition", "trace_law"),
    ),
    "the gain starts at 1": Mistake(
        old="self.gain.zero_()",
        new="self.gain.fill_(1)",
        caught_by=("test_the_start_is_the_network_without_it_to_the_bit", "trace_law"),
    ),
    "the map itself is not added": Mistake(
        old="x + added.to(x.dtype)",
        new="added.to(x.dtype)",
        caught_by=("test_the_block_is_the_definition", "trace_law"),
    ),
    "samples attend to each other": Mistake(
        old="queries, keys, values = (layer(x).flatten(2) for layer in (self.query, self.key, self.value))",
        new="""
            queries, keys, values = (layer(x).flatten(2) for layer in (self.query, self.key, self.value))
            keys, values = (
                part.transpose(0, 1).flatten(1).expand(len(x), -1, -1) for part in (keys, values)
            )
        """,
        caught_by=("test_each_sample_is_alone", "trace_law"),
    ),
    "products are scaled": Mistake(
        old="queries.to(wide).transpose(1, 2) @ keys.to(wide)",
        new="queries.to(wide).transpose(1, 2) @ keys.to(wide) / queries.shape[1] ** 0.5",
        caught_by=("test_the_weights_are_the_definition", "trace_law[wide]"),
    ),
}


def explicit(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """What each place is given, place by place: q and k (B, E, N), v (B, F, N) to (B, F, N)."""
    out = np.zeros_like(v)
    for sample, place in np.ndindex(len(q), q.shape[2]):
        products = np.array([q[sample, :, place] @ k[sample, :, other] for other in range(k.shape[2])])
        share = np.exp(products - products.max())
        for other, weight in enumerate(share / share.sum()):
            out[sample, :, place] += weight * v[sample, :, other]
    return out


@torch.no_grad()
def trace_law(played: Played, name: str) -> None:
    """One block ends in x + γ · o(values weighed by softmax of query · key), with γ = 0 at the start."""
    for role in roles_of(played.trick(name).config):
        done = surgery(played, name, role)
        (place,) = [added for added, module in done.added.items() if hasattr(module, "gain")]
        assert not done.replaced
        assert all(added.startswith(place) for added in done.added)
        starts = [t for weight, t in played.start[role].items() if weight.endswith(f"{name}_block.gain")]
        assert len(starts) == 1
        assert not starts[0].any(), "the gain does not start at 0"
        block: Any = done.after[place]
        parts = [block.query, block.key, block.value, block.output]
        assert all(part.kernel_size == (1, 1) and part.bias is None for part in parts)
        whole, *inner = flows(played, role, [block, *parts])
        assert all(same_bits(part.given, whole.given) for part in inner[:3])
        q, k, v = (part.result.flatten(2).numpy() for part in inner[:3])
        channels = whole.given.shape[1]
        assert [q.shape[1], k.shape[1], v.shape[1]] == [max(channels // 8, 1)] * 2 + [max(channels // 2, 1)]
        seen = torch.from_numpy(explicit(q, k, v)).reshape(inner[3].given.shape)
        close(inner[3].given, seen, "the weighed values")
        close(whole.result, whole.given + block.gain * inner[3].result, "the map")


SIDES = {"generator": {"depth": 2, "batch_norm": False}, "discriminator": {"depth": 2, "batch_norm": False}}
IMAGES = TrickHost(sample=(1, 8, 8), **SIDES)
NETWORKS = {
    "dcgan": IMAGES,
    "batch-norm": IMAGES.but(**{role: {"depth": 2, "batch_norm": True} for role in SIDES}),
    "resnet": IMAGES.but(**{role: {"depth": 2, "network": "resnet"} for role in SIDES}),
    "densenet": IMAGES.but(discriminator={"depth": 2, "network": "densenet", "channels": 8, "growth": 4}),
    "r3": IMAGES.but(**{role: {"depth": 2, "network": "r3"} for role in SIDES}),
    "style": IMAGES.but(generator={"depth": 2, "network": "style", "style_dim": 4, "mapping_layers": 2}),
}
HOSTS = pytest.mark.parametrize("host", NETWORKS.values(), ids=NETWORKS)
ROLES = ("generator", "discriminator")


def blocks(network: nn.Module) -> dict[str, Attention]:
    return {name: module for name, module in network.named_modules() if isinstance(module, Attention)}


def attending(channels: int, gain: float = 0.7, like: nn.Module | None = None) -> Attention:
    """A block in float64 with random weights."""
    block = Attention(channels).double()
    initialise(block, Rng(1, "block", Clock(), dtype=torch.float64), like)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.mul_(50)
        block.gain.fill_(gain)
    return block


SIZES = st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 4), st.integers(1, 4))


# ---------------------------------------------------------------- the formula


@given(SIZES, st.sampled_from([0.1, 1.0, 30.0]), st.data())
def test_the_weights_of_each_place_sum_to_one(sizes, scale, data):
    batch, width, places, others = sizes
    q = data.draw(gs.tensors((batch, width, places), scale=scale))
    k = data.draw(gs.tensors((batch, width, others), scale=scale))
    weights = attention(q, k)
    assert weights.shape == (batch, places, others)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(2), torch.ones(batch, places, dtype=torch.float64))


@given(SIZES, st.data())
def test_the_weights_are_the_definition(sizes, data):
    batch, width, places, others = sizes
    q, k = (data.draw(gs.tensors((batch, width, n), scale=2.0)).numpy() for n in (places, others))
    one_hot = np.broadcast_to(np.eye(others), (batch, others, others))
    expected = explicit_weights(q, k, one_hot)
    np.testing.assert_allclose(attention(torch.from_numpy(q), torch.from_numpy(k)).numpy(), expected, rtol=1e-9)


def explicit_weights(q: np.ndarray, k: np.ndarray, one_hot: np.ndarray) -> np.ndarray:
    """exp(q_i · k_j) over its sum over j, as Zhang et al. 2019, eq. 1 has it."""
    powers = np.exp(np.einsum("bei,bej->bij", q, k) @ one_hot)
    return powers / powers.sum(2, keepdims=True)


@given(SIZES, st.data())
def test_the_block_is_the_definition(sizes, data):
    batch, channels, height, width = sizes
    block = attending(channels)
    x = data.draw(gs.tensors((batch, channels, height, width)))
    weights = {n: p.detach().numpy() for n, p in block.named_parameters()}

    def project(name: str, maps: np.ndarray) -> np.ndarray:
        return np.einsum("oi,bin->bon", weights[f"{name}.weight"][:, :, 0, 0], maps)

    maps = x.flatten(2).numpy()
    seen = explicit(project("query", maps), project("key", maps), project("value", maps))
    expected = maps + 0.7 * project("output", seen)
    np.testing.assert_allclose(block(x).flatten(2).detach().numpy(), expected, rtol=1e-8, atol=1e-10)


@given(st.integers(1, 3), st.randoms(use_true_random=False), st.data())
def test_no_place_is_special(batch, random, data):
    """Pixels in another order give the same pixels in that order."""
    x = data.draw(gs.tensors((batch, 8, 3, 4)))
    order = list(range(12))
    random.shuffle(order)
    block = attending(8)
    shuffled = block(x.flatten(2)[:, :, order].reshape(x.shape)).flatten(2)
    torch.testing.assert_close(shuffled, block(x).flatten(2)[:, :, order])


def test_each_sample_is_alone():
    block, x = attending(8), torch.randn((4, 8, 3, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    other = x + 1
    other[2] = x[2]
    torch.testing.assert_close(block(other)[2], block(x)[2], rtol=0, atol=1e-12)
    torch.testing.assert_close(block(x[2:3])[0], block(x)[2], rtol=0, atol=1e-12)


def test_each_place_draws_on_every_other():
    x = torch.randn((1, 8, 3, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    block = attending(8)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.mul_(0.2)
    block(x)[0, :, 0, 0].sum().backward()
    assert x.grad.abs().sum((0, 1)).min() > 0


def test_values_are_the_maps_mean_where_all_places_look_alike():
    block = attending(4, gain=1.0)
    with torch.no_grad():
        block.query.weight.zero_()
    x = torch.randn((2, 4, 3, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    added = block.output(block.value(x.mean((2, 3), keepdim=True)))
    torch.testing.assert_close(block(x), x + added)


def test_gradients_check_and_can_be_differentiated():
    x = torch.randn((2, 3, 2, 2), generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    block = attending(3)
    assert torch.autograd.gradcheck(block, (x,))
    assert torch.autograd.gradgradcheck(block, (x,))


def test_weights_of_bfloat16_are_wider():
    draw = torch.Generator().manual_seed(0)
    q, k = ((5 * torch.randn((2, 8, 64), generator=draw)).bfloat16() for _ in range(2))
    with torch.autocast("cpu", torch.bfloat16):
        weights = attention(q, k)
    assert weights.dtype == torch.float32
    expected = attention(q.double(), k.double())
    torch.testing.assert_close(weights.double(), expected, rtol=1e-4, atol=1e-6)


def test_large_products_do_not_overflow():
    q = torch.full((1, 1, 2), 1e4)
    weights = attention(q, q * torch.tensor([1.0, -1.0]))
    torch.testing.assert_close(weights, torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]))


# ---------------------------------------------------------------- in the networks


@HOSTS
def test_the_start_is_the_network_without_it_to_the_bit(host):
    game, plain = host.with_trick("self_attention").train(0), host.train(0)
    for role in ROLES:
        network, before = getattr(game.game, role), getattr(plain.game, role)
        assert len(blocks(network)) == 1
        assert not next(iter(blocks(network).values())).gain.any()
        for training in (True, False):
            outs = [net.train(training)(*samples(plain, role)) for net in (network, before)]
            a, b = (out if isinstance(out, torch.Tensor) else out.logits for out in outs)
            assert same_bits(a, b)


@HOSTS
def test_at_the_start_only_the_gain_is_pulled(host):
    played = host.with_trick("self_attention").train(1)
    for player, role in (("d", "discriminator"), ("g", "generator")):
        (name,) = blocks(getattr(played.game, role))
        pulled = {n: g for n, g in played.steps_of(player)[0].gradients.items() if n.startswith(name)}
        assert pulled[f"{name}.gain"].abs() > 0
        assert not any(g.any() for n, g in pulled.items() if n != f"{name}.gain")


@HOSTS
def test_all_weights_of_the_block_learn_once_the_gain_has_moved(host):
    played = host.with_trick("self_attention").train(3)
    for role in ROLES:
        ((name, block),) = blocks(getattr(played.game, role)).items()
        for weight, value in block.named_parameters():
            assert not same_bits(value, played.start[role][f"{name}.{weight}"]), f"{role}: {weight}"
    assert played.game.non_finite() is None


@HOSTS
@pytest.mark.parametrize("players", [Players(), Players("generator"), Players("discriminator")])
@pytest.mark.parametrize("resolution", [None, 2, 4])
def test_the_map_that_attends_has_the_resolution(host, players, resolution):
    played = host.with_trick("self_attention", resolution=resolution, players=players.written()).train(0)
    for role in ROLES:
        found = blocks(getattr(played.game, role))
        assert len(found) == (role in players)
        for flow in flows(played, role, found.values()):
            assert flow.given.shape[2:] == (resolution or 4,) * 2
            assert flow.result.shape == flow.given.shape
        assert not any(mixes_samples(block) for block in found.values())


def test_it_is_the_last_in_its_block():
    game = IMAGES.with_trick("self_attention").game()
    for role, block in (("generator", "up1"), ("discriminator", "down1")):
        assert [*getattr(game, role).body.get_submodule(block)._modules] == [
            "conv",
            "activation",
            "self_attention_block",
        ]


@pytest.mark.parametrize(
    ("sizes", "side"),
    [
        ([(64, 64), (32, 32), (16, 16)], 32),
        ([(32, 32), (16, 16), (8, 8)], 32),
        ([(14, 14), (7, 7)], 14),
        ([(75, 75), (38, 38), (19, 19), (10, 10)], 19),
        ([(64, 64)], 64),
        ([(128, 256), (64, 128)], 64),
        ([(16, 40), (8, 20)], 8),
    ],
)
def test_the_chosen_map_is_the_largest_of_at_most_32_pixels(sizes, side):
    assert fitting(sizes) == side
    assert fitting(sizes[::-1]) == side


def test_two_resolutions_attend_where_the_trick_is_listed_twice():
    host = IMAGES.with_trick("self_attention").with_trick("self_attention", "small", resolution=2)
    game = host.train(2).game
    for role in ROLES:
        assert [name.rpartition(".")[2] for name in blocks(getattr(game, role))].count("small_block") == 1
        assert len(blocks(getattr(game, role))) == 2


@pytest.mark.parametrize("first", ["grow", "self_attention"])
def test_it_grows_with_its_block(first):
    second = "self_attention" if first == "grow" else "grow"
    host = TrickHost(sample=(1, 16, 16), steps=12).with_trick(first).with_trick(second)
    (waiting,) = blocks(host.game().discriminator).values()  # in D's outermost block, which joins last
    assert not any(p.requires_grad for p in waiting.parameters())
    played = host.train()
    assert played.game.non_finite() is None
    for role in ROLES:
        (block,) = blocks(getattr(played.game, role)).values()
        assert all(p.requires_grad for p in block.parameters())
        assert block.gain != 0


def test_penalties_on_the_slope_reach_its_weights():
    for penalty in ("r1", "gradient_penalty"):
        played = IMAGES.with_trick(penalty).with_trick("self_attention").train(4)
        assert played.game.non_finite() is None


@pytest.mark.parametrize("host", [IMAGES, NETWORKS["resnet"], NETWORKS["r3"]], ids=["dcgan", "resnet", "r3"])
def test_it_plays_in_bfloat16(host):
    assert host.but(precision="bf16").with_trick("self_attention").train(3).game.non_finite() is None


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_step_compiles(precision):
    host = IMAGES.but(precision=precision).with_trick("r1").with_trick("self_attention")
    game = host.game()
    boundary(game)  # where r1 says whether it is due
    CapturedStep(game, INDUCTOR)()


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("role", ROLES)
def test_a_resolution_that_is_not_there_is_refused_with_those_that_are(role):
    host = IMAGES.with_trick("self_attention", resolution=8, players=[role])
    with pytest.raises(UserError, match=f"no map of the {role} has resolution = 8; write 2 or 4"):
        host.plan()


def test_vectors_and_networks_without_maps_are_refused():
    with pytest.raises(UserError, match="needs images"):
        TrickHost().with_trick("self_attention").plan()
    connected = {"network": "mlp", "hidden": [8]}
    host = TrickHost(sample=(1, 8, 8), generator=connected)
    with pytest.raises(UserError, match="the generator has no maps"):
        host.with_trick("self_attention").plan()
    host.with_trick("self_attention", players=["discriminator"]).game()


class Bare(Trick):
    @hookimpl
    def transform_generator(self, network: Generator) -> Generator:
        network.body = nn.Sequential(*(layer for block in network.body for layer in block))
        return network


def test_surgery_that_leaves_no_block_is_told():
    with pytest.raises(UserError, match="the generator has no maps"):
        IMAGES.with_trick(Bare).with_trick("self_attention").game()


@pytest.mark.parametrize("wrong", [{"resolution": 0}, {"resolution": 4.5}, {"players": "nobody"}])
def test_options_out_of_bounds_are_refused(wrong):
    with pytest.raises(ValidationError):
        SelfAttention.Config(**wrong)
