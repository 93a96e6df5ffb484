"""Laws of weight norm: rows of length g, gradients orthogonal to v, the same function at the start."""

from __future__ import annotations

import contextlib
import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn
from torch.nn.utils import parametrize

from gantricks import Players, SummedLayers, Trick, UserError, hookimpl
from gantricks.catalogue.index import index
from gantricks.engine import sampling, state
from gantricks.engine.capture import INDUCTOR, CapturedStep
from gantricks.networks.base import Discriminator
from gantricks.plugins import weight_norm as module
from gantricks.plugins.weight_norm import WeightNorm, fit, weight_norm
from gantricks.rng import Clock, Rng
from gantricks.testing import CONDITIONAL, Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import close, roles_of, surgery
from gantricks.testing.record import differences, same_bits

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({}, {}),
    "conditional": ({}, CONDITIONAL),
    "data": ({"data_init": 20, "lengths": "heads"}, {"sample": (1, 8, 8), "n_critic": 2}),
    "last": ({"layers": "heads", "start_length": 1.5, "players": ["generator"]}, {}),
}
OVERRIDES = {"": ["tricks.weight_norm.data_init=4"]}
REFUSED: dict[str, str] = {}

DRAWS = Rng(0, "tricks/a", Clock(), dtype=torch.float64)

MISTAKES = {
    "g and v along the inputs of a transposed convolution": Mistake(
        old="1 if transposed else 0",
        new="0",
        caught_by=("test_the_weight_is_g_times_the_direction_of_v", "trace_law[conditional]"),
    ),
    "g starts at 1: the network is not what it was": Mistake(
        old="return self.lengths(weight), weight",
        new="return torch.ones_like(self.lengths(weight)), weight",
        caught_by="test_the_start_is_the_plain_layer_to_rounding",
    ),
    "data are fitted to after each layer's own start, not layer after layer": Mistake(
        old="(wide * _per_unit(scale, out)).to(out.dtype)",
        new="out",
        caught_by="test_every_unit_has_mean_0_and_variance_1_over_the_samples_that_d_was_fitted_to",
    ),
    "the mean stays": Mistake(
        old="biases[0].sub_(mean * scale)",
        new="pass",
        caught_by="test_every_unit_has_mean_0_and_variance_1_over_the_samples_that_d_was_fitted_to",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """Every layer that was there has w = g v / ‖v‖, row by row, with g and v its weights."""
    for role in roles_of(played.trick(name).config):
        layers = {
            place: module
            for place, module in surgery(played, name, role).before.items()
            if isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
        }
        if played.trick(name).config.layers == "heads":
            layers = {place: layer for place, layer in layers.items() if not place.startswith("body.")}
        assert layers
        network: Any = getattr(played.game, role)
        trained = {id(weight) for weight in network.parameters()}
        for place, layer in layers.items():
            assert parametrize.is_parametrized(layer, "weight"), f"{place} of the {role} is plain"
            length, direction = layer.parametrizations.weight.original0, layer.parametrizations.weight.original1
            rows = direction.movedim(1 if isinstance(layer, nn.modules.conv._ConvTransposeNd) else 0, 0).flatten(1)
            assert length.numel() == len(rows), f"{place} has {length.numel()} lengths for {len(rows)} rows"
            norms = rows.square().sum(1).sqrt().reshape(length.shape)
            close(layer.weight, direction * (length / norms), f"the weight of {place}")
            if layer in set(network.modules()):  # later surgery may have put another in its place
                assert {id(length), id(direction)} <= trained


VECTORS = TrickHost()
IMAGES = TrickHost(sample=(1, 8, 8), generator={"batch_norm": False}, discriminator={"batch_norm": False, "depth": 2})
CONDITIONAL_HOST = IMAGES.but(
    classes=3,
    generator={"network": "resnet", "channels": 4, "conditional": True},
    discriminator={"network": "resnet", "channels": 4, "conditional": True},
)
HOSTS = pytest.mark.parametrize("host", [VECTORS, IMAGES, CONDITIONAL_HOST], ids=["mlp", "dcgan", "resnet-conditional"])
PLAYERS = pytest.mark.parametrize("players", [Players(), Players("generator"), Players("discriminator")])
LAYERS = {
    "linear": (lambda: nn.Linear(5, 3), (5,), 0),
    "conv": (lambda: nn.Conv2d(3, 4, (3, 2)), (3, 6, 6), 0),
    "transposed": (lambda: nn.ConvTranspose2d(3, 4, 3, stride=2), (3, 4, 4), 1),
}


def layer_of(kind: str, draw=None):
    make, shape, outputs = LAYERS[kind]
    layer = make().double()
    if draw is not None:
        with torch.no_grad():
            layer.weight.copy_(draw(gs.tensors(layer.weight.shape)))
    return layer, shape, outputs


def parts(layer):
    return layer.parametrizations.weight.original0, layer.parametrizations.weight.original1


def rows(weight: torch.Tensor, outputs: int) -> np.ndarray:
    """One row per output channel."""
    return np.moveaxis(weight.detach().numpy(), outputs, 0).reshape(weight.shape[outputs], -1)


def treated(network: nn.Module) -> list[str]:
    return [name for name, m in network.named_modules() if isinstance(m, nn.utils.parametrize.ParametrizationList)]


@given(st.sampled_from(sorted(LAYERS)), st.data())
def test_the_weight_is_g_times_the_direction_of_v(kind, data):
    layer, _, outputs = layer_of(kind, data.draw)
    weight_norm(layer, DRAWS)
    g, v = parts(layer)
    with torch.no_grad():
        g.copy_(data.draw(gs.tensors(g.shape)))
        v.copy_(data.draw(gs.tensors(v.shape)))
    assert g.numel() == v.shape[outputs]
    of_v = rows(v, outputs)
    expected = g.detach().numpy().reshape(-1, 1) * of_v / np.sqrt((of_v**2).sum(1, keepdims=True))
    np.testing.assert_allclose(rows(layer.weight, outputs), expected, rtol=1e-12)
    lengths = np.sqrt((rows(layer.weight, outputs) ** 2).sum(1))
    np.testing.assert_allclose(lengths, np.abs(g.detach().numpy().ravel()), rtol=1e-12)


@given(st.sampled_from(sorted(LAYERS)), st.data())
def test_the_start_is_the_plain_layer_to_rounding(kind, data):
    layer, shape, outputs = layer_of(kind, data.draw)
    x, before, weight = data.draw(gs.tensors((2, *shape))), copy.deepcopy(layer), layer.weight.detach().clone()
    weight_norm(layer, DRAWS)
    g, v = parts(layer)
    assert same_bits(v, weight)
    np.testing.assert_allclose(g.detach().numpy().ravel(), np.sqrt((rows(weight, outputs) ** 2).sum(1)), rtol=1e-12)
    torch.testing.assert_close(layer(x), before(x), rtol=0, atol=1e-12)


@given(st.sampled_from(sorted(LAYERS)), st.data())
def test_the_gradient_of_v_is_orthogonal_to_v_and_that_of_g_is_along_it(kind, data):
    layer, shape, outputs = layer_of(kind, data.draw)
    weight_norm(layer, DRAWS)
    g, v = parts(layer)
    with torch.no_grad():
        g.copy_(data.draw(gs.tensors(g.shape)) + 3)
    x = data.draw(gs.tensors((2, *shape)))
    weight = layer.weight
    weight.retain_grad()
    functional = {"linear": nn.functional.linear, "conv": nn.functional.conv2d}
    out = functional[kind](x, weight) if kind in functional else nn.functional.conv_transpose2d(x, weight, stride=2)
    out.sin().sum().backward()
    of_w, of_v = rows(weight.grad, outputs), rows(v, outputs)
    direction = of_v / np.sqrt((of_v**2).sum(1, keepdims=True))
    np.testing.assert_allclose((rows(v.grad, outputs) * of_v).sum(1), 0, atol=1e-10)
    # Salimans & Kingma 2016, eq. 3
    along = (of_w * direction).sum(1, keepdims=True)
    scale = g.detach().numpy().reshape(-1, 1) / np.sqrt((of_v**2).sum(1, keepdims=True))
    np.testing.assert_allclose(g.grad.numpy().ravel(), along.ravel(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(rows(v.grad, outputs), scale * (of_w - along * direction), rtol=1e-9, atol=1e-10)


@given(st.floats(0.1, 50))
def test_the_length_of_v_does_not_matter(factor):
    layer, shape, _ = layer_of("conv")
    weight_norm(layer, DRAWS)
    x = torch.ones((1, *shape), dtype=torch.float64)
    before = layer(x)
    with torch.no_grad():
        parts(layer)[1].mul_(factor)
    torch.testing.assert_close(layer(x), before, rtol=0, atol=1e-12)


@HOSTS
@PLAYERS
def test_every_layer_of_the_chosen_players_is_treated_and_the_others_stay(host, players):
    game, plain = host.with_trick("weight_norm", players=players.written()).game(), host.game()
    for role in ("generator", "discriminator"):
        network, before = getattr(game, role), getattr(plain, role)
        layers = [n for n, m in before.named_modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)]
        expected = [f"{name}.parametrizations.weight" for name in layers] if role in players else []
        assert treated(network) == expected
        inputs = torch.randn((3, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        classes = torch.arange(3) if host.classes else None
        if role == "discriminator":
            inputs = torch.tanh(inputs.repeat(1, 16).view(3, 1, 8, 8)) if len(host.sample) == 3 else inputs[:, :2]
            out, expected_out = network(inputs, classes).logits, before(inputs, classes).logits
        else:
            out, expected_out = network(inputs, classes), before(inputs, classes)
        torch.testing.assert_close(out, expected_out, rtol=0, atol=1e-10)


@HOSTS
def test_lengths_and_directions_reach_the_optimizer_and_both_move(host):
    game = host.with_trick("weight_norm").game()
    for player in game.players.values():
        held = {id(p) for group in player.optimizer.param_groups for p in group["params"]}
        named = {n: p for n, p in player.network.named_parameters() if ".parametrizations." in n}
        assert any(name.endswith("original0") for name in named)
        assert all(id(p) in held for p in named.values())
        assert not [n for n, _ in player.network.named_parameters() if n.endswith((".linear.weight", ".conv.weight"))]
    before = {k: {n: t.clone() for n, t in state.tensors(game)[k].items()} for k in ("generator", "discriminator")}
    for _ in range(2):
        game.advance()
    for role, tensors in before.items():
        for name, tensor in tensors.items():
            if ".parametrizations." in name:
                assert not same_bits(tensor, state.tensors(game)[role][name]), name


@HOSTS
def test_a_copy_of_the_network_is_independent_and_equal(host):
    network = host.with_trick("weight_norm").game().discriminator
    twin = copy.deepcopy(network)
    images = torch.ones((2, *host.sample), dtype=torch.float64)
    classes = torch.arange(2) if host.classes else None
    assert same_bits(twin(images, classes).logits, network(images, classes).logits)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1)
    assert not same_bits(twin(images, classes).logits, network(images, classes).logits)


def test_an_average_of_the_generator_samples_from_averaged_parts():
    host = IMAGES.with_trick("weight_norm").with_trick("ema", decay=0.5, warmup=False)
    game = host.train(3).game
    shadow = next(planned.trick for planned in game.plan.tricks if planned.name == "ema").averages["generator"].shadow
    assert treated(shadow) == treated(game.generator)
    assert torch.isfinite(torch.from_numpy(sampling.sample(game, 4, 0))).all()
    assert not same_bits(shadow.head.conv.weight, game.generator.head.conv.weight)


def test_state_survives_a_round_trip():
    host = IMAGES.with_trick("weight_norm")
    game = host.train(3).game
    other = host.but(seed=5).game()
    saved = {
        group: {n: t.detach().clone() for n, t in tensors.items()} for group, tensors in state.tensors(game).items()
    }
    state.load(other, saved, state.counters(game))
    z = torch.ones((2, 4), dtype=torch.float64)
    assert same_bits(other.generator(z), game.generator(z))


class Computed(Trick):
    @hookimpl
    def transform_discriminator(self, network: Discriminator) -> Discriminator:
        nn.utils.parametrizations.orthogonal(network.body.hidden1.linear)
        return network


def test_a_layer_whose_weights_are_computed_already_is_refused_by_name():
    with pytest.raises(UserError, match=r"body\.hidden1\.linear already"):
        VECTORS.with_trick(Computed).with_trick("weight_norm").game()
    VECTORS.with_trick(Computed).with_trick("weight_norm", players=["generator"]).game()
    with pytest.raises(UserError, match="replace the same part, generator_weights"):
        VECTORS.with_trick("weight_norm").with_trick("weight_norm", "again").game()


def test_unknown_players_are_refused():
    with pytest.raises(ValidationError):
        WeightNorm.Config(players="nobody")


# ---------------------------------------------------------------- the start from data


def outputs_of(network: nn.Module, *inputs) -> dict[str, torch.Tensor]:
    """What every layer gives before its activation, (n, units): all samples and places of each unit."""
    seen: dict[str, torch.Tensor] = {}
    for name in treated(network):
        layer = name.removesuffix(".parametrizations.weight")

        def note(_: nn.Module, args: object, out: torch.Tensor, layer: str = layer) -> None:
            seen[layer] = out.detach().movedim(1, -1).reshape(-1, out.shape[1])

        network.get_submodule(layer).register_forward_hook(note)
    network(*inputs)
    return seen


PLAIN = [
    VECTORS.but(count=60),
    IMAGES.but(count=30),
    CONDITIONAL_HOST.but(generator={**CONDITIONAL_HOST.generator, "batch_norm": False}),
]


@pytest.mark.parametrize("host", PLAIN, ids=["mlp", "dcgan", "resnet-conditional"])
def test_every_unit_has_mean_0_and_variance_1_over_the_samples_that_d_was_fitted_to(host):
    game = host.with_trick("weight_norm", data_init=20).game()
    everything = host.with_trick("weight_norm", data_init=host.count).game()
    network, real = everything.discriminator, everything.feed.take(torch.arange(host.count))
    for name, a in outputs_of(network, *real).items():
        bias = network.get_submodule(name).bias is not None
        if bias:
            np.testing.assert_allclose(a.mean(0).numpy(), 0, atol=1e-9, err_msg=name)
        std = a.std(0, correction=0).numpy()
        # a unit may give the same everywhere behind a rectifier
        np.testing.assert_allclose(std[std > 1e-5], 1, rtol=1e-9, err_msg=name)
        assert (std > 1e-5).mean() > 0.5
    assert not same_bits(network.head.bias, game.discriminator.head.bias), "not all of the samples are used"


@pytest.mark.parametrize("host", PLAIN, ids=["mlp", "dcgan", "resnet-conditional"])
def test_every_unit_of_g_has_mean_0_and_variance_1_over_the_latents_that_it_was_fitted_to(host):
    game = host.with_trick("weight_norm", data_init=50).game()
    game.clock.enter("setup")  # where the same latents are drawn again
    for name, a in outputs_of(game.generator, *game.contexts["weight_norm"].latents(50)).items():
        if game.generator.get_submodule(name).bias is not None:
            np.testing.assert_allclose(a.mean(0).numpy(), 0, atol=1e-9, err_msg=name)
        np.testing.assert_allclose(a.std(0, correction=0).numpy(), 1, rtol=1e-9, err_msg=name)


def test_beside_batch_norm_lengths_are_fitted_and_its_statistics_are_not_touched():
    host = IMAGES.but(generator={"batch_norm": True}, discriminator={"batch_norm": True, "depth": 2})
    fitted, plain = (host.with_trick("weight_norm", data_init=n).game() for n in (20, 0))
    for role in ("generator", "discriminator"):
        a, b = dict(getattr(fitted, role).named_buffers()), dict(getattr(plain, role).named_buffers())
        assert a
        assert all(same_bits(a[name], b[name]) for name in a)
    game = host.with_trick("weight_norm", data_init=host.count).game()
    for name, out in outputs_of(game.discriminator, *game.feed.take(torch.arange(host.count))).items():
        np.testing.assert_allclose(out.std(0, correction=0).numpy(), 1, rtol=1e-9, err_msg=name)


CARDS = index()["tricks"]
SURGERY = sorted(
    {n for n, c in CARDS.items() if {"transform_generator", "transform_discriminator", "d_stem"} & {*c["hooks"]}}
    - {"weight_norm", "grow"}  # refused: below
)


def of_network(name: str, batch_norm: bool) -> TrickHost:
    """A conditional host whose D is of this network, and G too, where there is such a G."""
    sides: dict[str, dict] = {"generator": {}, "discriminator": {}}
    for role, side in sides.items():
        network = "dcgan" if (name, role) == ("densenet", "generator") else name
        size = {"hidden": [8, 8]} if name == "mlp" else {"channels": 4, "depth": 2}
        side |= {"network": network, "batch_norm": batch_norm, **size}
    if name in ("resnet", "densenet"):
        sides["discriminator"]["pool"] = "max"
    return TrickHost(count=40, classes=3, sample=(2,) if name == "mlp" else (1, 8, 8), **sides)


def conditional(host: TrickHost) -> TrickHost:
    return host.but(**{role: {**getattr(host, role), "conditional": True} for role in ("generator", "discriminator")})


@pytest.mark.parametrize("batch_norm", [False, True], ids=["plain", "batch-norm"])
@pytest.mark.parametrize("network", ["mlp", "dcgan", "resnet", "densenet"])
@pytest.mark.parametrize("surgery", SURGERY)
def test_beside_any_surgery_every_unit_starts_with_mean_0_and_variance_1(surgery, network, batch_norm, monkeypatch):
    fitted = []
    monkeypatch.setattr(module, "fit", lambda *given: (fitted.append(given), fit(*given)))
    plain = of_network(network, batch_norm)
    for host in (plain, conditional(plain)):
        host = host.with_trick(surgery, **CARDS[surgery].get("trial", {})).with_trick("weight_norm", data_init=40)
        with contextlib.suppress(UserError):
            game = host.game()
            break
    else:
        pytest.skip("it does not go with this network")
    assert len(fitted) == 2
    for player, *inputs in fitted:
        game.clock.enter("setup")  # noise and masks are drawn again as they were in the fit
        with torch.no_grad():
            found = unit_outputs(player, *inputs)
        assert {name for layers, _ in found.values() for name in layers} == {
            name.removesuffix(".parametrizations.weight") for name in treated(player)
        } - {"rotation_head"}  # a head that the trick alone calls
        for unit, (layers, out) in found.items():
            std = out.std(0, correction=0).numpy()
            np.testing.assert_allclose(std[std > 1e-5], 1, rtol=1e-6, err_msg=unit)
            if any(player.get_submodule(name).bias is not None for name in layers):
                np.testing.assert_allclose(out.mean(0).numpy(), 0, atol=1e-6, err_msg=unit)


def unit_outputs(network: nn.Module, *inputs) -> dict[str, tuple[list[str], torch.Tensor]]:
    """What units give before norm and activation, (n, units), where several layers are added up their sum, by the name
    of what gives it, with the layers that take part.
    """
    seen: dict[str, tuple[list[str], torch.Tensor]] = {}
    layers: dict[str, list[str]] = {}
    for weight in treated(network):
        layer = weight.removesuffix(".parametrizations.weight")
        parts = layer.split(".")
        around = [".".join(parts[:n]) for n in range(1, len(parts))]
        sums = [name for name in around if isinstance(network.get_submodule(name), SummedLayers)]
        layers.setdefault((sums or [layer])[0], []).append(layer)
    for name in layers:

        def note(_: nn.Module, args: object, out: torch.Tensor, name: str = name) -> None:
            seen[name] = layers[name], out.movedim(1, -1).reshape(-1, out.shape[1])

        network.get_submodule(name).register_forward_hook(note)
    network(*inputs)
    return seen


def test_where_labels_are_injected_twice_the_units_are_the_sums_of_all_three_layers():
    host = conditional(of_network("dcgan", batch_norm=False)).with_trick("label_injection")
    host = host.with_trick("label_injection", "again", dim=3).with_trick("weight_norm", data_init=40)
    game = host.game()
    found = unit_outputs(game.discriminator, *game.feed.take(torch.arange(40)))
    assert [len(layers) for layers, _ in found.values()] == [3, 3, 1]
    for unit, (_, out) in found.items():
        np.testing.assert_allclose(out.std(0, correction=0).detach().numpy(), 1, rtol=1e-9, err_msg=unit)
        np.testing.assert_allclose(out.mean(0).detach().numpy(), 0, atol=1e-9, err_msg=unit)


def test_a_start_from_data_is_refused_beside_growing():
    with pytest.raises(UserError, match="is not there to be fitted to data"):
        TrickHost(sample=(1, 16, 16)).with_trick("grow").with_trick("weight_norm", data_init=8).plan()


@pytest.mark.slow
@pytest.mark.parametrize("network", ["dcgan", "resnet"])
def test_the_step_compiles(network):
    game = of_network(network, batch_norm=True).but(precision="fp32").with_trick("weight_norm").game()
    CapturedStep(game, INDUCTOR)()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_weights_keep_the_layout_of_v(layout):
    layer = nn.Conv2d(3, 4, 3).to(memory_format=layout)
    weight_norm(layer, DRAWS)
    assert layer.weight.is_contiguous(memory_format=layout)
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as fake:
        described = module.LengthAndDirection(0)(*(fake.from_tensor(part.detach()) for part in parts(layer)))
    assert described.stride() == layer.weight.stride()


def test_a_unit_that_never_varies_keeps_its_length():
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    with torch.no_grad():
        network[0].bias.fill_(-100)  # every unit is dead
    for layer in (network[0], network[2]):
        weight_norm(layer, DRAWS)
    lengths = parts(network[2])[0].clone()
    network[0].bias.requires_grad_(False)
    fit(network, torch.zeros((5, 3), dtype=torch.float64))
    assert same_bits(parts(network[2])[0], lengths)
    assert all(parameter.isfinite().all() for parameter in network.parameters())


def test_directions_and_everything_else_stay_where_they_start():
    host = IMAGES.but(count=30)
    fitted, plain = (host.with_trick("weight_norm", data_init=n).game() for n in (20, 0))
    for role in ("generator", "discriminator"):
        a, b = getattr(fitted, role).state_dict(), getattr(plain, role).state_dict()
        moved = {name for name in a if not same_bits(a[name], b[name])}
        assert moved
        assert all(name.endswith((".original0", ".bias")) for name in moved), moved


def test_only_the_chosen_player_is_fitted():
    host = VECTORS.with_trick("weight_norm", data_init=20, players=["discriminator"])
    plain = VECTORS.with_trick("weight_norm", players=["discriminator"]).game()
    assert not differences({"g": host.game().generator.state_dict()}, {"g": plain.generator.state_dict()})


def test_noise_in_d_is_there_while_it_is_fitted():
    host = VECTORS.but(count=400).with_trick("discriminator_noise", input=3.0, hidden=0.0)
    with_noise = host.with_trick("weight_norm", data_init=400, players=["discriminator"]).game()
    without = VECTORS.but(count=400).with_trick("weight_norm", data_init=400, players=["discriminator"]).game()
    g, plain = (parts(game.discriminator.body.hidden1.linear)[0] for game in (with_noise, without))
    # variance 1 of the data and 9 of the noise
    assert (plain / g).mean().item() == pytest.approx(math.sqrt(10), rel=0.2)


def test_one_sample_is_refused():
    with pytest.raises(UserError, match="one sample has no variance"):
        VECTORS.with_trick("weight_norm", data_init=1).plan()


# ---------------------------------------------------------------- whose lengths are learned


@HOSTS
def test_with_heads_the_lengths_of_hidden_layers_never_move_and_those_of_heads_do(host):
    game = host.with_trick("weight_norm", lengths="heads").game()
    start = {
        role: {n: t.clone() for n, t in state.tensors(game)[role].items()} for role in ("generator", "discriminator")
    }
    for _ in range(3):
        game.advance()
    for role, tensors in start.items():
        lengths = [name for name in tensors if name.endswith("original0")]
        assert lengths
        for name in lengths:
            moved = not same_bits(tensors[name], state.tensors(game)[role][name])
            assert moved == name.startswith("head."), name
        assert all(
            not same_bits(tensors[name], state.tensors(game)[role][name])
            for name in tensors
            if name.endswith("original1")
        )


def test_fixed_lengths_are_refused_beside_growing():
    host = TrickHost(sample=(1, 16, 16)).with_trick("grow")
    host.with_trick("weight_norm").plan()
    with pytest.raises(UserError, match="a block that joins"):
        host.with_trick("weight_norm", lengths="heads").plan()


def test_a_row_of_zeros_has_a_length_of_zero_and_a_direction():
    layer = nn.Linear(4, 3).double()
    with torch.no_grad():
        layer.weight[1] = 0
    before = layer.weight.detach().clone()
    weight_norm(layer, DRAWS)
    torch.testing.assert_close(layer.weight, before, rtol=1e-14, atol=0)
    layer.weight.sum().backward()
    g, v = layer.parametrizations.weight.original0, layer.parametrizations.weight.original1
    assert v[1].any()
    assert not g[1].any()
    assert g.grad.isfinite().all()
    assert v.grad.isfinite().all()
    assert g.grad[1].any(), "the row can never grow"


def test_networks_that_start_with_zeros_train():
    options = {"network": "r3", "channels": 4, "depth": 2}
    host = TrickHost(sample=(1, 8, 8), generator=options, discriminator=options).with_trick("weight_norm")
    assert host.train(3).game.non_finite() is None


def test_a_network_without_such_layers_is_refused():
    style = {"network": "style", "channels": 4, "depth": 2}
    host = TrickHost(sample=(1, 8, 8), generator=style)
    with pytest.raises(UserError, match=r"tricks\.weight_norm: the generator has no linear or convolutional"):
        host.with_trick("weight_norm").game()
    host.with_trick("weight_norm", players=["discriminator"]).game()


@HOSTS
def test_with_layers_heads_hidden_layers_stay_plain(host):
    game = host.with_trick("weight_norm", layers="heads").game()
    for network in (game.generator, game.discriminator):
        normed = {name for name, module in network.named_modules() if parametrize.is_parametrized(module)}
        plain = {name for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)} - normed
        assert normed
        assert not any(name.startswith("body.") for name in normed)
        assert {name.split(".")[0] for name in plain if "parametrizations" not in name} <= {"body", "embedding"}


@pytest.mark.parametrize("length", [0.5, 1.0])
def test_with_a_start_length_every_row_has_it_and_keeps_its_direction(length):
    plain, game = VECTORS.game(), VECTORS.with_trick("weight_norm", start_length=length).game()
    for name, layer in game.discriminator.named_modules():
        if isinstance(layer, nn.Linear):
            before = plain.discriminator.get_submodule(name).weight
            torch.testing.assert_close(layer.weight.norm(dim=1), torch.full_like(layer.weight[:, 0], length))
            torch.testing.assert_close(layer.weight, length * before / before.norm(dim=1, keepdim=True))


def test_a_start_length_that_data_would_overwrite_is_refused():
    with pytest.raises(UserError, match="start_length does nothing beside it"):
        VECTORS.with_trick("weight_norm", start_length=1.0, data_init=20).game()
