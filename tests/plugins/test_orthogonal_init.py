"""Laws of the orthogonal start: W Wᵀ = gain² I, uniform among such matrices, a function of the seed and the name."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gantricks import Discriminator, Players, Trick, UserError, hookimpl
from gantricks.engine import state
from gantricks.engine.capture import INDUCTOR, CapturedStep
from gantricks.plugins.orthogonal_init import OrthogonalInit, orthogonal, redrawn
from gantricks.rng import Clock, Rng
from gantricks.testing import CONDITIONAL, Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import roles_of, surgery
from gantricks.testing.record import differences, same_bits

# ---------------------------------------------------------------- what the generic suites are told

STYLES = "keep their weights at another scale"
SETTINGS: Settings = {
    "": ({"gain": 1.5}, {}),
    "conditional": ({}, CONDITIONAL),
    "generator": ({"gain": 0.7, "players": ["generator"]}, {"sample": (1, 8, 8), "n_critic": 2}),
}
REFUSED: dict[str, str] = {
    "equalized_lr": "it draws the weights anew",
    "path_length": STYLES,
    "style_mixing": STYLES,
}

MISTAKES = {
    "a transposed convolution is the matrix of its plain one": Mistake(
        old="group.transpose(0, 1) if transposed else group",
        new="group",
        caught_by=("test_the_matrix_of_a_layer_is_orthogonal", "trace_law[conditional]"),
    ),
    "the matrix of a convolution has a row for each row of each kernel": Mistake(
        old="part.flatten(1)",
        new="part.reshape(-1, part.shape[-1])",
        caught_by=("test_the_matrix_of_a_layer_is_orthogonal", "trace_law[conditional]"),
    ),
    "groups are one matrix": Mistake(
        old="weight.chunk(getattr(layer, 'groups', 1))",
        new="[weight]",
        caught_by="test_the_matrix_of_a_layer_is_orthogonal",
    ),
    "the signs that the factorisation leaves stay: not uniform": Mistake(
        old="torch.where(r.diagonal() < 0, -q, q)",
        new="q",
        caught_by="test_no_direction_is_preferred",
    ),
    "rows are of length 1 whatever the gain": Mistake(
        old="gain * orthogonal(len(matrix), int(used.sum()), rng)",
        new="orthogonal(len(matrix), int(used.sum()), rng)",
        caught_by=("test_the_matrix_of_a_layer_is_orthogonal", "trace_law"),
    ),
    "what starts at 0 on purpose is drawn too": Mistake(
        old="matrix.any(0)",
        new="torch.ones_like(matrix[0], dtype=torch.bool)",
        caught_by="test_what_starts_at_zero_stays_zero",
    ),
    "all layers draw from one stream": Mistake(
        old="ctx.rng.anew(f'{player}.{name}')",
        new="ctx.rng",
        caught_by="test_a_layer_is_a_function_of_the_seed_and_its_name",
    ),
}

KINDS = nn.Linear | nn.Embedding | nn.modules.conv._ConvNd


def groups_of(layer: nn.Module, weight: Tensor) -> list[np.ndarray]:
    """The matrix of each group of a layer's weight: a row for each output, a column for each number it is a sum of."""
    w = weight.detach().double().numpy()
    count = getattr(layer, "groups", 1)
    found = []
    for group in range(count):
        part = w[group * len(w) // count : (group + 1) * len(w) // count]
        if isinstance(layer, nn.modules.conv._ConvTransposeNd):
            part = np.stack([part[:, output] for output in range(part.shape[1])])
        found.append(np.stack([row.ravel() for row in part]))
    return found


def is_orthogonal(matrix: np.ndarray, gain: float, what: str = "", atol: float = 1e-10) -> None:
    rows, columns = matrix.shape
    product = matrix @ matrix.T if rows <= columns else matrix.T @ matrix
    np.testing.assert_allclose(product, gain**2 * np.eye(min(rows, columns)), atol=atol, err_msg=what)


@torch.no_grad()
def trace_law(played: Played, name: str) -> None:
    """At the start the matrix of every layer is gain times an orthogonal one; columns that were 0 are 0."""
    config = played.trick(name).config
    for role in roles_of(config):
        done = surgery(played, name, role)
        assert not done.added
        assert not done.replaced
        redrawn_here = {module for module in done.after.values() if isinstance(module, KINDS)}
        places = {place: m for place, m in getattr(played.game, role).named_modules() if m in redrawn_here}
        assert places
        for place, layer in places.items():
            for matrix in groups_of(layer, start_of(played, role, place)):
                is_orthogonal(matrix[:, matrix.any(0)], config.gain, f"{place} of the {role}")
        weights = [start_of(played, role, place) for place in places]
        assert sum(bool((weight != 0).all()) for weight in weights) >= len(weights) / 2


def start_of(played: Played, role: str, place: str) -> Tensor:
    """The weight of a layer before the first step; of one that another trick computes, what it is computed from."""
    tensors = played.start[role]
    names = (f"{place}.{name}" for name in ("weight", *(f"parametrizations.weight.original{n}" for n in ("1", ""))))
    return next(tensors[name] for name in names if name in tensors)


VECTORS = TrickHost()
SIDES = {"generator": {"depth": 2}, "discriminator": {"depth": 2}}
IMAGES = TrickHost(sample=(1, 8, 8), **SIDES)
R3 = IMAGES.but(**{role: {"network": "r3", "depth": 2, "group_size": 2} for role in SIDES})
NETWORKS = {
    "mlp": VECTORS,
    "dcgan": IMAGES,
    "resnet-conditional": IMAGES.but(
        classes=3, **{role: {"network": "resnet", "conditional": True, "depth": 2} for role in SIDES}
    ),
    "densenet": IMAGES.but(discriminator={"network": "densenet", "depth": 2}),
    "r3": R3,
}
HOSTS = pytest.mark.parametrize("host", NETWORKS.values(), ids=NETWORKS)
PLAYERS = pytest.mark.parametrize("players", [Players(), Players("generator"), Players("discriminator")])
LAYERS = {
    "wide": lambda: nn.Linear(7, 3),
    "tall": lambda: nn.Linear(3, 7),
    "embedding": lambda: nn.Embedding(5, 4),
    "conv": lambda: nn.Conv2d(3, 4, (3, 2)),
    "conv1x1": lambda: nn.Conv2d(3, 8, 1),
    "grouped": lambda: nn.Conv2d(4, 6, 3, groups=2),
    "depthwise": lambda: nn.Conv2d(4, 4, 3, groups=4),
    "transposed": lambda: nn.ConvTranspose2d(3, 4, 3, stride=2),
    "transposed-grouped": lambda: nn.ConvTranspose2d(4, 6, 3, groups=2),
    "conv1d": lambda: nn.Conv1d(3, 4, 3),
}


def stream(seed: int = 0) -> Rng:
    return Rng(seed, "tricks/a", Clock(), dtype=torch.float64)


def double(make) -> nn.Module:
    layer = make().double()
    nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(0))
    return layer


# ---------------------------------------------------------------- the matrix


@given(st.integers(1, 12), st.integers(1, 12), gs.rng())
def test_the_smaller_side_is_orthonormal(rows, columns, rng):
    matrix = orthogonal(rows, columns, rng)
    assert matrix.shape == (rows, columns)
    is_orthogonal(matrix.numpy(), 1, atol=1e-13)


@given(st.sampled_from(sorted(LAYERS)), st.floats(0.1, 5), gs.rng())
def test_the_matrix_of_a_layer_is_orthogonal(kind, gain, rng):
    layer = double(LAYERS[kind])
    weight = redrawn(layer, gain, rng)
    assert weight.shape == layer.weight.shape
    assert not same_bits(weight, layer.weight)
    for matrix in groups_of(layer, weight):
        is_orthogonal(matrix, gain)


@given(st.floats(0.1, 5), gs.rng(), st.data())
def test_wide_layers_keep_lengths_backwards_and_tall_ones_forwards(gain, rng, data):
    for inputs, outputs in ((3, 7), (7, 3)):
        layer = double(lambda inputs=inputs, outputs=outputs: nn.Linear(inputs, outputs, bias=False))
        with torch.no_grad():
            layer.weight.copy_(redrawn(layer, gain, rng))
        x, back = data.draw(gs.tensors((4, inputs))).requires_grad_(), data.draw(gs.tensors((4, outputs)))
        out = layer(x)
        out.backward(back)
        tall = outputs > inputs
        kept, before = (out, x) if tall else (x.grad, back)
        torch.testing.assert_close(kept.norm(dim=1), gain * before.norm(dim=1))


def test_no_direction_is_preferred():
    """Mean 0, variance 1 / n, fourth moment 3 / (n (n + 2)), for each number: those of a uniform unit vector."""
    n, draws = 3, 4000
    rng = stream()
    found = np.stack([orthogonal(n, n, rng).numpy() for _ in range(draws)])
    error = 5 / math.sqrt(draws)
    assert np.abs(found.mean(0)).max() < error / math.sqrt(n)
    assert np.abs((found**2).mean(0) - 1 / n).max() < error * math.sqrt(3 / (n * (n + 2)) - 1 / n**2)
    assert np.abs((found**4).mean(0) - 3 / (n * (n + 2))).max() < error * math.sqrt(105 / (n * (n + 2) * (n + 4) * 9))
    # turned over as often as not, and the trace of a uniform one has mean 0 and variance 1 (Diaconis & Shahshahani)
    assert abs(np.linalg.det(found).mean()) < error
    traces = np.trace(found, axis1=1, axis2=2)
    assert abs(traces.mean()) < error
    assert abs(traces.var() - 1) < error * math.sqrt(3)


def test_columns_of_zeros_stay_and_the_others_are_orthogonal():
    layer = double(LAYERS["wide"])
    with torch.no_grad():
        layer.weight[:, [1, 4]] = 0
    weight = redrawn(layer, 2.0, stream())
    assert not weight[:, [1, 4]].any()
    is_orthogonal(weight.numpy(), 2.0)
    with torch.no_grad():
        layer.weight.zero_()
    assert not redrawn(layer, 2.0, stream()).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_weight_has_the_layers_type_and_the_factorisation_is_of_doubles(dtype):
    layer = nn.Conv2d(16, 32, 3).to(dtype)
    weight = redrawn(layer, 1.0, Rng(0, "a", Clock(), dtype=dtype))
    assert weight.dtype == dtype
    (matrix,) = groups_of(layer, weight)
    is_orthogonal(matrix, 1.0, atol=1e-6 if dtype == torch.float32 else 1e-13)


# ---------------------------------------------------------------- in the networks


def layers_of(network: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in network.named_modules() if isinstance(module, KINDS)}


@HOSTS
@PLAYERS
def test_weights_of_the_chosen_players_are_redrawn_and_nothing_else(host, players):
    game, plain = host.with_trick("orthogonal_init", players=players.written(), gain=1.2).game(), host.game()
    for role in SIDES:
        network, before = getattr(game, role), getattr(plain, role)
        was = before.state_dict()
        moved = {name for name, value in network.state_dict().items() if not same_bits(value, was[name])}
        layers = {f"{n}.weight": m for n, m in layers_of(before).items() if m.weight.any()}
        assert moved == (set(layers) if role in players else set())
        for name in moved:
            for matrix in groups_of(layers[name], network.state_dict()[name]):
                is_orthogonal(matrix, 1.2, name)


def test_what_starts_at_zero_stays_zero():
    game, plain = R3.with_trick("orthogonal_init").game(), R3.game()
    for role in SIDES:
        zero = [name for name, layer in layers_of(getattr(plain, role)).items() if not layer.weight.any()]
        assert zero
        for name in zero:
            assert not getattr(game, role).get_submodule(name).weight.any()
    host = VECTORS.with_trick("separate_batches").with_trick("minibatch_stddev").with_trick("orthogonal_init")
    head = host.game().discriminator.head.linear.weight.detach()
    assert not head[:, -1].any()
    is_orthogonal(head.numpy(), 1.0)


def test_a_layer_is_a_function_of_the_seed_and_its_name():
    host = VECTORS.with_trick("orthogonal_init")
    deeper = host.but(**{role: {"hidden": [8, 8, 8, 5]} for role in SIDES})
    game, again, other, longer = host.game(), host.game(), host.but(seed=1).game(), deeper.game()
    assert not differences(state.tensors(game), state.tensors(again))
    place = "body.hidden2.linear"
    for role in SIDES:
        weights = [getattr(g, role).get_submodule(place).weight for g in (game, longer, other)]
        assert same_bits(weights[0], weights[1])
        assert not same_bits(weights[0], weights[2])
    assert not same_bits(*(getattr(game, role).get_submodule(place).weight for role in SIDES))


def test_other_tricks_do_not_change_its_draws():
    plain = IMAGES.with_trick("orthogonal_init").game()
    beside = IMAGES.with_trick("self_attention").with_trick("orthogonal_init").game()
    for role in SIDES:
        a, b = (layers_of(getattr(g, role)) for g in (plain, beside))
        assert a.keys() < b.keys()
        assert all(same_bits(a[name].weight, b[name].weight) for name in a)
        for matrix in (m for name in b for m in groups_of(b[name], b[name].weight)):
            is_orthogonal(matrix, 1.0)


@pytest.mark.parametrize("order", [("weight_norm", "orthogonal_init"), ("orthogonal_init", "weight_norm")])
def test_weights_that_weight_norm_computes_are_orthogonal_too(order):
    host = R3
    for trick in order:
        host = host.with_trick(trick)
    game, plain = host.game(), R3.with_trick("orthogonal_init").game()
    for role in SIDES:
        for name, layer in layers_of(getattr(game, role)).items():
            expected = getattr(plain, role).get_submodule(name).weight
            torch.testing.assert_close(layer.weight, expected, rtol=0, atol=1e-12)
    assert host.train(3).game.non_finite() is None


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


class Computed(Trick):
    @hookimpl
    def transform_discriminator(self, network: Discriminator) -> Discriminator:
        parametrize.register_parametrization(network.body.hidden1.linear, "weight", Doubled())
        return network


def test_weights_that_cannot_be_given_a_start_are_refused_in_that_order_only():
    with pytest.raises(UserError, match=r"the weights of the discriminator's body\.hidden1\.linear"):
        VECTORS.with_trick(Computed).with_trick("orthogonal_init").game()
    VECTORS.with_trick("orthogonal_init").with_trick(Computed).game()
    VECTORS.with_trick(Computed).with_trick("orthogonal_init", players=["generator"]).game()


@HOSTS
def test_it_trains(host):
    assert host.with_trick("orthogonal_init").train(3).game.non_finite() is None


def test_blocks_that_join_later_are_redrawn_too():
    game = TrickHost(sample=(1, 16, 16)).with_trick("grow").with_trick("orthogonal_init").game()
    for role in SIDES:
        for name, layer in layers_of(getattr(game, role)).items():
            for matrix in groups_of(layer, layer.weight):
                is_orthogonal(matrix, 1.0, name)


@pytest.mark.slow
def test_the_step_compiles():
    CapturedStep(IMAGES.but(precision="fp32").with_trick("orthogonal_init").game(), INDUCTOR)()


# ---------------------------------------------------------------- what is refused


def test_a_generator_with_styles_is_refused():
    host = IMAGES.but(generator={"network": "style", "style_dim": 4, "mapping_layers": 2, "depth": 2})
    with pytest.raises(UserError, match=STYLES):
        host.with_trick("orthogonal_init").plan()
    host.with_trick("orthogonal_init", players=["discriminator"]).game()


class Bare(Trick):
    @hookimpl
    def transform_discriminator(self, network: Discriminator) -> Discriminator:
        network.body = nn.Sequential(nn.Flatten(), nn.LayerNorm(2).double())
        network.head = nn.Linear(2, 1).double()
        return network


def test_a_network_without_such_layers_is_refused():
    with pytest.raises(UserError, match=r"tricks\.orthogonal_init: the discriminator has no linear or convolutional"):
        VECTORS.with_trick(Bare).with_trick("orthogonal_init").game()


@pytest.mark.parametrize("wrong", [{"gain": 0.0}, {"gain": -1.0}, {"gain": 11.0}, {"players": "nobody"}])
def test_options_out_of_bounds_are_refused(wrong):
    with pytest.raises(ValidationError):
        OrthogonalInit.Config(**wrong)
