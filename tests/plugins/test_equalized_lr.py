"""Laws of the equalized learning rate: stored weights N(0, 1), c W in use, He's start, and Adam's step of c · lr."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn.utils import parametrize

from gantricks import Players, Trick, UserError, hookimpl
from gantricks.engine import sampling
from gantricks.networks.base import Discriminator
from gantricks.plugins.equalized_lr import EqualizedLr, equalize
from gantricks.rng import Clock, Rng
from gantricks.testing import CONDITIONAL, Mistake, Played, Settings, TrickHost
from gantricks.testing.measure import close, roles_of, standard_normal, standard_uniform, surgery
from gantricks.testing.record import same_bits

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({}, {}),
    "conditional": ({}, CONDITIONAL),
    "d": (
        {"players": ["discriminator"]},
        {"sample": (1, 8, 8), "discriminator": {"batch_norm": False, "depth": 2}, "n_critic": 2},
    ),
}
STYLES = "has equalized rates of its own"
REFUSED: dict[str, str] = {
    "path_length": STYLES,
    "style_mixing": STYLES,
    "weight_norm": "replace the same part, discriminator_weights",
}

DRAWS = Rng(0, "tricks/a", Clock(), dtype=torch.float64)

MISTAKES = {
    "weights keep their own start, and are scaled once more": Mistake(
        old="layer.weight.copy_(torch.where(layer.weight == 0, 0, drawn))",
        new="pass",
        caught_by=("trace_law", "test_players_start_like_plain_ones_of_hes_start"),
    ),
    "weights are stored small, and c is 1": Mistake(
        old="Scaled(math.sqrt(gain / fan_in(layer)))",
        new="(layer.weight.data.mul_(math.sqrt(gain / fan_in(layer))), Scaled(1.0))[1]",
        caught_by=("trace_law", "test_adams_first_step_is_c_times_the_rate"),
    ),
    "the constant is applied once, at the start": Mistake(
        old="return weight * self.c",
        new="return weight",
        caught_by=("trace_law", "test_adams_first_step_is_c_times_the_rate"),
    ),
    "a transposed convolution's inputs are its outputs": Mistake(
        old="fan_in(layer)",
        new="layer.weight[0].numel()",
        caught_by="test_c_is_that_of_the_number_of_inputs",
    ),
    "the stride of a transposed convolution is left out": Mistake(
        old="fan_in(layer)",
        new="""
            (layer.weight[:, 0] if isinstance(layer, nn.modules.conv._ConvTransposeNd) else layer.weight[0]).numel()
        """,
        caught_by=("trace_law[conditional]", "test_c_is_that_of_the_number_of_inputs"),
    ),
    "no rectifier is counted on": Mistake(
        old='2 if name.startswith("body.") else 1',
        new="1",
        caught_by=("trace_law", "test_players_start_like_plain_ones_of_hes_start"),
    ),
    "heads are scaled like what a rectifier follows": Mistake(
        old='2 if name.startswith("body.") else 1',
        new="2",
        caught_by=("trace_law", "test_players_start_like_plain_ones_of_hes_start"),
    ),
    "branches that start as the identity do not": Mistake(
        old="layer.weight.copy_(torch.where(layer.weight == 0, 0, drawn))",
        new="layer.weight.copy_(drawn)",
        caught_by="test_weights_that_start_at_0_stay_there",
    ),
    "all layers of one shape start alike": Mistake(
        old="ctx.rng.anew(name)",
        new='ctx.rng.anew("layer")',
        caught_by="trace_law",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """Every layer that was there computes with c W, c = √(2 / inputs) in the body and √(1 / inputs) elsewhere, and W is
    N(0, 1) at the start.
    """
    for role in roles_of(played.trick(name).config):
        network: Any = getattr(played.game, role)
        names = {id(weight): key for key, weight in network.named_parameters()}
        layers = {
            place: layer
            for place, layer in surgery(played, name, role).before.items()
            if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd)
        }
        assert layers
        drawn = []
        for place, layer in layers.items():
            assert parametrize.is_parametrized(layer, "weight"), f"{place} of the {role} is plain"
            weight: Any = layer.parametrizations.weight
            c = math.sqrt((2 if place.startswith("body.") else 1) / inputs(layer))
            close(layer.weight, c * weight.original, f"the weight of {place}")
            if id(weight.original) in names:  # later surgery may have put another layer in its place
                start = played.start[role][names[id(weight.original)]].flatten()
                drawn.append(start[start != 0])
        if drawn:
            standard_normal(torch.cat(drawn), f"the {role}'s weights")


def inputs(layer: Any) -> float:
    """The number of products that are summed in one output, on average."""
    if isinstance(layer, nn.Linear):
        return layer.in_features
    products = layer.in_channels // layer.groups * math.prod(layer.kernel_size)
    return products / math.prod(layer.stride) if isinstance(layer, nn.modules.conv._ConvTransposeNd) else products


VECTORS = TrickHost()
IMAGES = TrickHost(sample=(1, 8, 8), generator={"batch_norm": False}, discriminator={"batch_norm": False, "depth": 2})
CONDITIONAL_HOST = IMAGES.but(
    classes=3,
    generator={"network": "resnet", "channels": 4, "conditional": True},
    discriminator={"network": "resnet", "channels": 4, "conditional": True},
)
R3 = {"network": "r3", "channels": 4, "depth": 2}
HOSTS = pytest.mark.parametrize(
    "host",
    [VECTORS, IMAGES, CONDITIONAL_HOST, IMAGES.but(generator=R3, discriminator=R3)],
    ids=["mlp", "dcgan", "resnet-conditional", "r3"],
)
ROLES = ("generator", "discriminator")


def treated(network: nn.Module) -> dict[str, Any]:
    """The layers that compute with c W, by name."""
    return {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd) and parametrize.is_parametrized(layer, "weight")
    }


def original(layer: Any) -> Any:
    return layer.parametrizations.weight.original


def normal(weights: torch.Tensor, what: str) -> None:
    """Check that these could be draws from N(0, 1), their distribution and their variance."""
    drawn = weights.detach().flatten()
    standard_normal(drawn, what)
    standard_uniform(torch.special.ndtr(drawn), what)


# ---------------------------------------------------------------- one layer


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (lambda: nn.Linear(50, 40), 50),
        (lambda: nn.Conv2d(8, 9, 5), 200),
        (lambda: nn.Conv2d(8, 10, 5, groups=2), 100),
        (lambda: nn.ConvTranspose2d(32, 40, 4, stride=2), 128),
    ],
    ids=["linear", "conv", "grouped", "transposed"],
)
@pytest.mark.parametrize("gain", [1, 2])
def test_c_is_that_of_the_number_of_inputs(make, count, gain):
    layer = make().double()
    with torch.no_grad():
        layer.bias.fill_(3)
    equalize(layer, DRAWS.anew("layer"), gain)
    expected = original(layer).detach().numpy() * math.sqrt(gain / count)
    np.testing.assert_allclose(layer.weight.detach().numpy(), expected, rtol=1e-14)
    assert not layer.bias.any()
    normal(original(layer), "W")
    slope = DRAWS.anew("slope").normal(layer.weight.shape)
    (layer.weight * slope).sum().backward()
    np.testing.assert_allclose(original(layer).grad.numpy(), slope.numpy() * math.sqrt(gain / count), rtol=1e-14)


def test_weights_that_start_at_0_stay_there():
    layer = nn.Linear(4, 3).double()
    with torch.no_grad():
        layer.weight.fill_(1)
        layer.weight[:, 2] = 0
    equalize(layer, DRAWS, 2)
    assert not layer.weight[:, 2].any()
    assert layer.weight[:, [0, 1, 3]].all()
    game = IMAGES.but(generator=R3, discriminator=R3).with_trick("equalized_lr").game()
    zeros = [name for name, layer in treated(game.discriminator).items() if not layer.weight.any()]
    assert zeros
    assert all(name.endswith("conv3") for name in zeros)


# ---------------------------------------------------------------- a network


@HOSTS
@pytest.mark.parametrize("players", [Players(), Players("generator"), Players("discriminator")])
def test_every_layer_of_the_chosen_players_is_treated_and_the_others_stay(host, players):
    game, plain = host.with_trick("equalized_lr", players=players.written()).game(), host.game()
    for role in ROLES:
        network, before = getattr(game, role), getattr(plain, role)
        layers = [n for n, m in before.named_modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)]
        assert list(treated(network)) == (layers if role in players else [])
        for name, tensor in before.state_dict().items():
            if name.rpartition(".")[0] not in treated(network):
                assert same_bits(network.state_dict()[name], tensor), f"{name} is another"


@pytest.mark.parametrize(
    "host",
    [
        VECTORS.but(generator={"hidden": [200, 100]}, discriminator={"hidden": [200, 100]}),
        IMAGES.but(
            generator={"channels": 16, "batch_norm": False},
            discriminator={"channels": 16, "batch_norm": False, "depth": 2},
        ),
    ],
    ids=["mlp", "dcgan"],
)
def test_players_start_like_plain_ones_of_hes_start(host):
    """Weights in use have the distribution of a network with `init_std` left out (He et al. 2015, eq. 10)."""
    game = host.with_trick("equalized_lr").game()
    for role in ROLES:
        for name, layer in treated(getattr(game, role)).items():
            std = math.sqrt((2 if name.startswith("body.") else 1) / inputs(layer))
            normal(layer.weight / std, name)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_adams_first_step_is_c_times_the_rate(optimizer):
    """Adam moves a weight in use by c · lr, whatever its gradient, and plain SGD by c² times what it would move it."""
    lr = 1e-2
    host = VECTORS.but(optimizer={"name": optimizer, "lr": lr}).with_trick("equalized_lr", players=["discriminator"])
    game = host.game()
    layers = treated(game.discriminator)
    before = {name: layer.weight.detach().clone() for name, layer in layers.items()}
    slopes: dict[str, torch.Tensor] = {}
    for name, layer in layers.items():

        def note(_: nn.Module, __: Any, weight: torch.Tensor, name: str = name) -> None:
            if weight.requires_grad:
                weight.register_hook(lambda slope: slopes.__setitem__(name, slope.clone()))

        layer.parametrizations.weight[0].register_forward_hook(note)
    game.advance()
    for name, layer in layers.items():
        c = math.sqrt((2 if name.startswith("body.") else 1) / inputs(layer))
        moved = (layer.weight.detach() - before[name]).numpy()
        reached = slopes[name].abs().numpy() > 1e-4  # far above Adam's epsilon
        assert reached.any()
        expected = -c * lr * np.sign(slopes[name].numpy()) if optimizer == "adam" else -(c**2) * lr * slopes[name]
        np.testing.assert_allclose(moved[reached], np.asarray(expected)[reached], rtol=1e-3)


def test_an_average_of_g_is_that_of_its_weights_in_use():
    host = IMAGES.with_trick("equalized_lr").with_trick("ema", decay=0.5, warmup=False)
    game = host.game()
    average = {name: layer.weight.detach().clone() for name, layer in treated(game.generator).items()}
    for _ in range(3):
        game.advance()
        average = {
            name: 0.5 * weight + 0.5 * treated(game.generator)[name].weight.detach() for name, weight in average.items()
        }
    (trick,) = (planned.trick for planned in game.plan.tricks if planned.name == "ema")
    for name, layer in treated(trick.averages["generator"].shadow).items():
        torch.testing.assert_close(layer.weight.detach(), average[name], rtol=1e-12, atol=1e-15)
    assert np.isfinite(sampling.sample(game, 4, 0)).all()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_weights_keep_their_layout(layout):
    layer = nn.Conv2d(3, 4, 3)
    equalize(layer, DRAWS, 2)
    layer.to(memory_format=layout)
    assert layer.weight.is_contiguous(memory_format=layout)


# ---------------------------------------------------------------- what it refuses


class Computed(Trick):
    @hookimpl
    def transform_discriminator(self, network: Discriminator) -> Discriminator:
        nn.utils.parametrizations.orthogonal(network.body.hidden1.linear)
        return network


def test_a_layer_whose_weights_are_computed_already_is_refused_by_name():
    with pytest.raises(UserError, match=r"tricks\.equalized_lr: another trick computes .* body\.hidden1\.linear"):
        VECTORS.with_trick(Computed).with_trick("equalized_lr").game()
    VECTORS.with_trick(Computed).with_trick("equalized_lr", players=["generator"]).game()


@pytest.mark.parametrize("other", ["weight_norm", "equalized_lr"])
def test_another_trick_on_the_weights_may_have_the_other_player(other):
    for first, second in (("equalized_lr", other), (other, "equalized_lr")):
        host = VECTORS.with_trick(first, "first", players=["discriminator"])
        host.with_trick(second, "second", players=["generator"]).train(1)
        with pytest.raises(UserError, match="replace the same part, discriminator_weights"):
            host.with_trick(second, "second").plan()


def test_a_generator_with_styles_is_refused():
    host = TrickHost(sample=(1, 8, 8), generator={"network": "style", "channels": 4, "depth": 2})
    with pytest.raises(UserError, match=STYLES):
        host.with_trick("equalized_lr").plan()
    host.with_trick("equalized_lr", players=["discriminator"]).game()


class Bare(Trick):
    @hookimpl
    def transform_generator(self, network):
        network.body = nn.Sequential(nn.Identity())
        return network


def test_a_network_without_such_layers_is_refused():
    with pytest.raises(UserError, match=r"tricks\.equalized_lr: the generator has no linear or convolutional"):
        VECTORS.with_trick(Bare).with_trick("equalized_lr").game()


def test_unknown_players_are_refused():
    with pytest.raises(ValidationError):
        EqualizedLr.Config(players="nobody")
