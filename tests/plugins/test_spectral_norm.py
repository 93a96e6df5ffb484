"""Laws of spectral norm: singular values of 1, the gradient of W / σ, u and v that move in training passes alone."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn
from torch.nn.utils import parametrize

from gantricks import Players, Trick, UserError, hookimpl
from gantricks.engine import sampling
from gantricks.networks.base import Discriminator
from gantricks.plugins import spectral_norm as module
from gantricks.plugins.spectral_norm import SpectralNorm, spectral_norm
from gantricks.rng import Clock, Rng
from gantricks.testing import CONDITIONAL, Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import close, roles_of, surgery
from gantricks.testing.record import same_bits

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({}, {}),
    "conditional": ({"players": "all"}, CONDITIONAL),
    "images": (
        {"players": "all", "iterations": 2},
        {
            "sample": (1, 8, 8),
            "generator": {"batch_norm": False, "depth": 2},
            "discriminator": {"batch_norm": False},
            "n_critic": 2,
        },
    ),
}
REFUSED: dict[str, str] = {
    "equalized_lr": "replace the same part, discriminator_weights",
    "weight_norm": "replace the same part, discriminator_weights",
}

DRAWS = Rng(0, "tricks/a", Clock(), dtype=torch.float64)

MISTAKES = {
    "sigma is a constant to the gradient": Mistake(
        inside="iterate",
        old="product = torch.mv(matrix, v)",
        new="product = torch.mv(matrix.detach(), v)",
        caught_by="test_the_gradient_is_that_of_w_over_sigma_with_u_and_v_constant",
    ),
    "the gradient flows through v": Mistake(
        inside="iterate",
        old="product = torch.mv(matrix, v)",
        new="product = torch.mv(matrix, _unit(torch.mv(matrix.t(), u.clone()), v))",
        caught_by="test_the_gradient_is_that_of_w_over_sigma_with_u_and_v_constant",
    ),
    "a transposed convolution is taken for a convolution": Mistake(
        old="channels_last.flatten(0, -2).t() if transposed else channels_last.flatten(1)",
        new="channels_last.flatten(1)",
        caught_by=("test_the_largest_singular_value_is_1", "trace_law[images]"),
    ),
    "a transposed convolution's matrix is that of reordered numbers": Mistake(
        old="channels_last.flatten(0, -2).t()",
        new="weight.reshape(weight.shape[1], -1)",
        caught_by=("test_the_largest_singular_value_is_1", "trace_law[images]"),
    ),
    "the iteration goes on in eval mode": Mistake(
        inside="OverSpectralNorm",
        old="self.training",
        new="True",
        caught_by=("trace_law", "evaluation", "test_a_pass_in_eval_mode_moves_nothing"),
    ),
    "u and v are not saved": Mistake(
        old="""
            self.register_buffer("u", u)
            self.register_buffer("v", v)
        """,
        new="""
            self.register_buffer("u", u, persistent=False)
            self.register_buffer("v", v, persistent=False)
        """,
        caught_by=("resume", "trace_law"),
    ),
    "u starts anywhere, and sigma too small": Mistake(
        old="_WARM_UP = 30",
        new="_WARM_UP = 1",
        caught_by="test_sigma_is_right_from_the_first_step_on",
    ),
    "W is divided in D's own step alone": Mistake(
        inside="OverSpectralNorm",
        old="matrix = matrix_of(weight, self.transposed)",
        new="""
            if not weight.requires_grad:
                return weight
            matrix = matrix_of(weight, self.transposed)
        """,
        caught_by=("test_the_g_step_sees_the_divided_weights_too", "test_an_average_of_g_is_divided_by_its_own_sigma"),
    ),
    "the buffer itself is part of the graph": Mistake(
        old="torch.dot(u, product)", new="torch.dot(self.u, product)", caught_by="second-pass"
    ),
    "the buffers themselves are part of the graph in eval mode": Mistake(
        old="u, v = self.u.clone(), self.v.clone()",
        new="u, v = self.u, self.v",
        caught_by="test_a_training_pass_may_come_before_the_backward_of_one_in_eval_mode",
    ),
    "zeros are divided by their sigma": Mistake(
        old="weight / torch.where(sigma > _SMALLEST, sigma, 1)",
        new="weight / sigma",
        caught_by=("test_weights_of_zeros_stay_zeros_and_can_grow", "test_networks_that_start_with_zeros_train"),
    ),
    "u and v become zeros beside zeros": Mistake(
        old="vector = torch.add(vector, before, alpha=_SMALLEST)",
        new="vector = vector + 0 * before",
        caught_by="test_weights_of_zeros_stay_zeros_and_can_grow",
    ),
    "classes are projected by weights of any size": Mistake(
        old='getattr(network, "projection", None)',
        new="None",
        caught_by=("trace_law[conditional]", "test_every_layer_of_the_chosen_players_is_treated"),
    ),
    "a weight that is set keeps the singular vectors of the one before": Mistake(
        inside="OverSpectralNorm.right_inverse",
        old="self.u.copy_(u)",
        new="self.v.copy_(self.v)",
        caught_by="test_a_weight_that_is_set_is_w_and_is_divided_by_its_own_sigma",
    ),
    "G alone is treated": Mistake(
        old='Players("discriminator")', new='Players("generator")', caught_by="test_d_alone_is_treated_by_default"
    ),
}

LAYER = nn.Linear | nn.modules.conv._ConvNd | nn.Embedding


def trace_law(played: Played, name: str) -> None:
    """In a training pass u becomes WWᵀu over its length, once or as often as asked, and every layer that was there has
    the weight W / σ. In eval mode nothing moves.
    """
    config: Any = played.trick(name).config
    for role in roles_of(config):
        done = surgery(played, name, role)
        layers = {
            place: layer
            for place, layer in done.before.items()
            if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd) or place == "projection"
        }
        assert layers
        network: Any = getattr(played.game, role)
        names = {id(buffer): key for key, buffer in network.named_buffers()}
        for place, layer in layers.items():
            assert parametrize.is_parametrized(layer, "weight"), f"{place} of the {role} is plain"
            form, weight = form_of(layer), layer.parametrizations.weight.original
            if layer in set(network.modules()):  # later surgery may have put another in its place
                for vector in (form.u, form.v):
                    kept = played.state[role].get(names[id(vector)])
                    assert kept is not None, f"a vector of {place} is not in a checkpoint"
                    assert same_bits(kept, vector)
            start = form.u.clone(), form.v.clone()
            matrix, u = rows(layer, weight), form.u
            assert matrix.shape == (len(form.u), len(form.v)), f"{place} has another matrix"
            for _ in range(config.iterations):
                right = matrix.T @ u
                product = matrix @ right / right.norm()
                u = product / product.norm()
            form.train()
            trained = layer.weight
            close(trained, weight / product.norm(), f"the weight of {place}")
            close(form.u, u, f"u of {place}")
            moved = form.u.clone()
            form.eval()
            asked = layer.weight
            close(asked, trained, f"the weight of {place} in eval mode")
            assert same_bits(form.u, moved), f"a pass in eval mode moves u of {place}"
            form.train()
            form.u.copy_(start[0])
            form.v.copy_(start[1])


def form_of(layer: Any) -> Any:
    return layer.parametrizations.weight[0]


def original(layer: Any) -> Any:
    return layer.parametrizations.weight.original


def rows(layer: nn.Module, weight: torch.Tensor) -> torch.Tensor:
    """The matrix of a weight: one row for each output."""
    transposed = isinstance(layer, nn.modules.conv._ConvTransposeNd)
    return (weight.transpose(0, 1) if transposed else weight).flatten(1)


def largest(layer: Any) -> float:
    """The largest singular value of the weight that a layer has in eval mode."""
    was = form_of(layer).training
    form_of(layer).eval()
    found = np.linalg.svd(rows(layer, layer.weight).detach().numpy(), compute_uv=False)[0]
    form_of(layer).train(was)
    return float(found)


LAYERS = {
    "linear": lambda: nn.Linear(7, 5),
    "conv": lambda: nn.Conv2d(3, 4, (3, 2)),
    "grouped": lambda: nn.Conv2d(6, 8, 3, groups=2),
    "transposed": lambda: nn.ConvTranspose2d(3, 5, 3, stride=2),
    "grouped-transposed": lambda: nn.ConvTranspose2d(4, 6, 3, groups=2),
    "1d": lambda: nn.Conv1d(3, 4, 5),
    "embedding": lambda: nn.Embedding(6, 4),
}
KINDS = pytest.mark.parametrize("kind", LAYERS)


def layer_of(kind: str, **options: Any) -> Any:
    """A layer in float64, with weights from a stream of its own and spectral norm on top."""
    layer: Any = LAYERS[kind]().double()
    with torch.no_grad():
        layer.weight.copy_(DRAWS.anew(kind).normal(layer.weight.shape))
    spectral_norm(layer, DRAWS.anew(f"{kind}/u"), **options)
    return layer


def train(layer: Any, passes: int) -> None:
    """Read the weight of a layer as so many training passes do."""
    for _ in range(passes):
        _ = layer.weight


# ---------------------------------------------------------------- one layer


@KINDS
def test_the_largest_singular_value_is_1(kind):
    layer = layer_of(kind)
    train(layer, 1000)
    assert largest(layer) == pytest.approx(1, rel=1e-9)
    sigma = np.linalg.svd(rows(layer, original(layer)).detach().numpy(), compute_uv=False)[0]
    np.testing.assert_allclose(layer.weight.detach().numpy(), original(layer).detach().numpy() / sigma, rtol=1e-9)


@KINDS
def test_a_weight_that_is_set_is_w_and_is_divided_by_its_own_sigma(kind):
    layer = layer_of(kind)
    given = DRAWS.anew("given").normal(layer.weight.shape).double()
    with torch.no_grad():
        layer.weight = given
    assert torch.equal(original(layer), given)
    assert largest(layer) == pytest.approx(1, rel=0.05)  # after 30 iterations


@KINDS
@pytest.mark.parametrize("iterations", [1, 3])
def test_a_training_pass_makes_its_iterations_and_u_and_v_are_unit_vectors(kind, iterations):
    layer = layer_of(kind, iterations=iterations)
    form, matrix = form_of(layer), rows(layer, original(layer)).detach().numpy()
    with torch.no_grad():
        form.u.copy_(torch.nn.functional.normalize(DRAWS.anew("u").normal(len(form.u)), dim=0))
    expected = form.u.numpy().copy()
    for _ in range(iterations):
        expected = matrix @ (matrix.T @ expected)
        expected /= np.sqrt((expected**2).sum())
    train(layer, 1)
    np.testing.assert_allclose(form.u.numpy(), expected, rtol=1e-9)
    assert form.v.norm().item() == pytest.approx(1, rel=1e-12)


@KINDS
def test_a_pass_in_eval_mode_moves_nothing(kind):
    layer = layer_of(kind).eval()
    with torch.no_grad():
        original(layer).mul_(DRAWS.anew("moved").uniform(original(layer).shape))
    before = form_of(layer).u.clone(), form_of(layer).v.clone()
    weight = layer.weight
    assert same_bits(layer.weight, weight)
    assert same_bits(form_of(layer).u, before[0])
    assert same_bits(form_of(layer).v, before[1])


def outer(kind: str, layer: Any) -> torch.Tensor:
    """U vᵀ in the shape of the weight. Columns are (k, k, inputs), or (inputs, k, k) in a transposed convolution."""
    u, v, shape = form_of(layer).u, form_of(layer).v, original(layer).shape
    if "transposed" in kind:
        return torch.einsum("o,ikl->iokl", u, v.reshape(shape[0], *shape[2:]))
    columns = v.reshape(*shape[2:], shape[1]).movedim(-1, 0)
    return u.reshape(-1, *[1] * columns.dim()) * columns


@KINDS
@pytest.mark.parametrize("training", [True, False])
def test_the_gradient_is_that_of_w_over_sigma_with_u_and_v_constant(kind, training):
    layer = layer_of(kind).train(training)
    with torch.no_grad():  # far from converged, where a gradient through v would be another
        form_of(layer).u.copy_(torch.nn.functional.normalize(DRAWS.anew("u").normal(len(form_of(layer).u)), dim=0))
        form_of(layer).u.mul_((original(layer) * outer(kind, layer)).sum().sign())
    weight = layer.weight
    slope = DRAWS.anew("slope").normal(weight.shape)
    (weight * slope).sum().backward()
    along = outer(kind, layer)
    sigma = (original(layer) * along).sum()
    torch.testing.assert_close(weight, original(layer) / sigma, rtol=1e-9, atol=0)
    # Miyato et al. 2018, eq. 12
    expected = (slope - (slope * weight).sum() * along) / sigma
    torch.testing.assert_close(original(layer).grad, expected.detach(), rtol=1e-9, atol=1e-12)


@KINDS
def test_second_derivatives_agree_with_finite_differences(kind):
    layer = layer_of(kind).eval()
    weight = original(layer).detach().clone().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda w: form_of(layer)(w).sin(), weight)


@KINDS
def test_weights_of_zeros_stay_zeros_and_can_grow(kind):
    layer = LAYERS[kind]().double()
    drawn = DRAWS.anew(kind).normal(layer.weight.shape)
    with torch.no_grad():
        layer.weight.zero_()
    spectral_norm(layer, DRAWS)
    slope = torch.ones_like(drawn)
    for _ in range(3):
        weight = layer.weight
        assert not weight.any()
        original(layer).grad = None
        (weight * slope).sum().backward()
        assert same_bits(original(layer).grad, slope), "the gradient of a plain layer"
    for vector in (form_of(layer).u, form_of(layer).v):
        assert vector.norm().item() == pytest.approx(1, rel=1e-9)
    with torch.no_grad():
        original(layer).copy_(drawn)
    train(layer, 1000)
    assert largest(layer) == pytest.approx(1, rel=1e-9)


@given(gs.tensors((4, 3)), st.floats(1e-6, 1e6))
def test_the_size_of_w_does_not_matter(drawn, factor):
    layer = nn.Linear(3, 4).double()
    with torch.no_grad():
        layer.weight.copy_(drawn + torch.eye(4, 3, dtype=torch.float64))
    spectral_norm(layer, DRAWS.anew("size"))
    layer.eval()
    before = layer.weight.detach().clone()
    with torch.no_grad():
        original(layer).mul_(factor)
    torch.testing.assert_close(layer.weight, before, rtol=1e-12, atol=1e-15)


def test_a_training_pass_may_come_before_the_backward_of_one_in_eval_mode():
    layer = layer_of("linear")
    asked = layer.eval().weight.sum()
    trained = layer.train().weight.sum()
    try:
        (asked + trained).backward()
    except RuntimeError as broken:
        raise AssertionError("the training pass has changed what the other's backward needs") from broken
    assert original(layer).grad.isfinite().all()


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_under_bf16_sigma_is_found_in_full_precision(kind):
    layer, twin = layer_of(kind).float(), layer_of(kind).float()
    with torch.autocast("cpu", torch.bfloat16):
        weight = layer.weight
    assert weight.dtype == torch.float32
    assert same_bits(weight, twin.weight)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kind", ["conv", "transposed"])
def test_a_layout_changes_nothing_but_itself(kind, layout):
    layer, plain = layer_of(kind), layer_of(kind)
    layer.to(memory_format=layout)
    weight = layer.weight
    assert weight.is_contiguous(memory_format=layout)
    torch.testing.assert_close(weight, plain.weight, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", ["linear", "conv", "transposed"])
def test_the_matrix_of_a_network_for_images_is_no_copy(kind):
    layer = layer_of(kind).to(memory_format=torch.channels_last)
    weight = original(layer)
    matrix = module.matrix_of(weight, "transposed" in kind)
    assert matrix.data_ptr() == weight.data_ptr()
    assert matrix.shape == rows(layer, weight).shape


# ---------------------------------------------------------------- a network

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
    """The layers with spectral norm, by name."""
    return {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, LAYER) and parametrize.is_parametrized(layer, "weight")
    }


@HOSTS
@pytest.mark.parametrize("players", [Players(), Players("generator"), Players("discriminator")])
def test_every_layer_of_the_chosen_players_is_treated(host, players):
    game, plain = host.with_trick("spectral_norm", players=players.written()).game(), host.game()
    for role in ROLES:
        network, before = getattr(game, role), getattr(plain, role)
        layers = {n for n, m in before.named_modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)}
        layers |= {"projection"} & {name for name, _ in before.named_modules()}
        assert set(treated(network)) == (layers if role in players else set())
        for name, parameter in before.named_parameters():
            place, _, kind = name.rpartition(".")
            here = original(treated(network)[place]) if place in treated(network) and kind == "weight" else None
            assert same_bits(network.get_parameter(name) if here is None else here, parameter), f"{name} is another"


def test_d_alone_is_treated_by_default():
    game = VECTORS.with_trick("spectral_norm").game()
    assert treated(game.discriminator)
    assert not treated(game.generator)


@HOSTS
def test_sigma_is_right_from_the_first_step_on(host):
    game = host.with_trick("spectral_norm", players="all").game()
    for role in ROLES:
        for name, layer in treated(getattr(game, role)).items():
            if original(layer).any():
                assert 1 - 1e-9 <= largest(layer) < 1.05, name


@given(st.integers(0, 3), gs.tensors((6, 2), scale=3))
def test_a_plain_discriminator_is_no_steeper_than_1(seed, points):
    host = VECTORS.but(seed=seed, steps=3).with_trick("spectral_norm", iterations=100)
    network = host.train().game.discriminator.eval()
    with torch.no_grad():
        logits = network(points).logits
    rise, way = (logits[:3] - logits[3:]).abs().squeeze(1), (points[:3] - points[3:]).norm(dim=1)
    assert (rise <= (1 + 1e-6) * way + 1e-12).all()


class Passes(Trick):
    """D's gate is closed, so that its weights stay, and D is passed over reals once more in each D step."""

    @hookimpl
    def d_gate(self, open, ctx):
        return open * 0

    @hookimpl
    def d_loss_terms(self, ctx):
        return {"again": 0 * ctx.discriminate(ctx.real, True).logits.mean()}


@pytest.mark.parametrize(
    ("tricks", "passes"), [(("spectral_norm",), 2), (("spectral_norm", "separate_batches"), 3), ((), 3)]
)
def test_each_training_pass_of_d_is_one_iteration(tricks, passes):
    class Closed(Passes):
        d_loss_terms = None if tricks else Passes.d_loss_terms

    host = VECTORS
    for trick in tricks or ("spectral_norm",):
        host = host.with_trick(trick)
    game = host.with_trick(Closed, "closed").game()
    layer: Any = game.discriminator.body.hidden1.linear
    matrix = original(layer).detach().numpy().copy()
    with torch.no_grad():
        form_of(layer).u.copy_(torch.eye(len(matrix), dtype=torch.float64)[0])
    game.advance()
    assert same_bits(original(layer), torch.from_numpy(matrix)), "the weights have moved"
    expected = np.eye(len(matrix))[0]
    for _ in range(passes):
        expected = matrix @ (matrix.T @ expected)
        expected /= np.sqrt((expected**2).sum())
    np.testing.assert_allclose(form_of(layer).u.numpy(), expected, rtol=1e-9)


def test_the_g_step_sees_the_divided_weights_too():
    game = VECTORS.with_trick("spectral_norm").game()
    network = game.discriminator
    with torch.no_grad():
        for layer in treated(network).values():
            original(layer).mul_(100)  # what G's step must not see
    network.eval()
    points = torch.ones((2, 2), dtype=torch.float64)
    logits = network(points).logits
    frozen = network.requires_grad_(False)(points).logits
    assert same_bits(frozen, logits)
    assert all(largest(layer) < 1.05 for layer in treated(network).values())


def test_an_average_of_g_is_divided_by_its_own_sigma():
    host = IMAGES.with_trick("spectral_norm", players="all").with_trick("ema", decay=0.9, warmup=False)
    game = host.train(4).game
    (trick,) = (planned.trick for planned in game.plan.tricks if planned.name == "ema")
    shadow: Any = trick.averages["generator"].shadow
    live = treated(game.generator)
    before = {name: (form_of(layer).u.clone(), form_of(layer).v.clone()) for name, layer in treated(shadow).items()}
    seen = {}
    for name, layer in treated(shadow).items():

        def note(module: Any, _: Any, weight: torch.Tensor, name: str = name) -> None:
            assert not module.training
            seen[name] = weight.clone()

        form_of(layer).register_forward_hook(note)
    assert np.isfinite(sampling.sample(game, 4, 0)).all()
    assert set(seen) == set(live)
    for name, layer in treated(shadow).items():
        assert not same_bits(original(layer), original(live[name])), "it is no average"
        for buffer, kept in zip(("u", "v"), before[name], strict=True):
            assert same_bits(getattr(form_of(layer), buffer), getattr(form_of(live[name]), buffer)), "not carried"
            assert same_bits(getattr(form_of(layer), buffer), kept), "sampling moves it"
        kind = "transposed" if isinstance(layer, nn.ConvTranspose2d) else "plain"
        sigma = (original(layer) * outer(kind, layer)).sum()
        torch.testing.assert_close(seen[name], original(layer) / sigma, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("role", ROLES)
def test_u_and_v_move_in_every_step_and_sampling_leaves_them(role):
    game = IMAGES.with_trick("spectral_norm", players="all").game()
    network = getattr(game, role)

    def vectors() -> dict[str, torch.Tensor]:
        return {name: buffer.clone() for name, buffer in network.named_buffers()}

    start = vectors()
    assert Counter(name.rpartition(".")[2] for name in start) == {kind: len(treated(network)) for kind in ("u", "v")}
    sampling.sample(game, 4, 0)
    assert all(same_bits(start[name], buffer) for name, buffer in vectors().items())
    for _ in range(2):  # in a step G makes its fakes before it is updated
        game.advance()
    moved = [name for name, buffer in vectors().items() if not same_bits(start[name], buffer)]
    assert [name for name in start if len(start[name]) > 1] == [name for name in moved if len(start[name]) > 1]


def test_networks_that_start_with_zeros_train():
    host = IMAGES.but(generator=R3, discriminator=R3).with_trick("spectral_norm", players="all", iterations=5)
    game = host.game()
    zeros = {name for name, layer in treated(game.discriminator).items() if not original(layer).any()}
    assert zeros
    game = host.train(4).game
    assert game.non_finite() is None
    for name in zeros:
        assert largest(treated(game.discriminator)[name]) == pytest.approx(1, rel=0.1), name


# ---------------------------------------------------------------- what it refuses, and warns of


class Computed(Trick):
    @hookimpl
    def transform_discriminator(self, network: Discriminator) -> Discriminator:
        nn.utils.parametrizations.orthogonal(network.body.hidden1.linear)
        return network


def test_a_layer_whose_weights_are_computed_already_is_refused_by_name():
    with pytest.raises(UserError, match=r"tricks\.spectral_norm: another trick computes .* body\.hidden1\.linear"):
        VECTORS.with_trick(Computed).with_trick("spectral_norm").game()
    VECTORS.with_trick(Computed).with_trick("spectral_norm", players=["generator"]).game()


@pytest.mark.parametrize("other", ["weight_norm", "equalized_lr", "spectral_norm"])
def test_another_trick_on_the_weights_may_have_the_other_player(other):
    for first, second in (("spectral_norm", other), (other, "spectral_norm")):
        host = VECTORS.with_trick(first, "first", players=["discriminator"])
        host.with_trick(second, "second", players=["generator"]).train(1)
        with pytest.raises(UserError, match="replace the same part, discriminator_weights"):
            host.with_trick(second, "second", players="all").plan()


def test_a_generator_with_styles_is_refused():
    host = TrickHost(sample=(1, 8, 8), generator={"network": "style", "channels": 4, "depth": 2})
    with pytest.raises(UserError, match="divides the length of its weights out already"):
        host.with_trick("spectral_norm", players="all").plan()
    host.with_trick("spectral_norm").game()


class Bare(Trick):
    @hookimpl
    def transform_generator(self, network):
        network.body = nn.Sequential(nn.Identity())
        return network


def test_a_network_without_such_layers_is_refused():
    with pytest.raises(UserError, match=r"tricks\.spectral_norm: the generator has no linear or convolutional"):
        VECTORS.with_trick(Bare).with_trick("spectral_norm", players="all").game()


def test_batch_norm_in_d_is_warned_of():
    host = IMAGES.but(discriminator={"batch_norm": True, "depth": 2})
    (warning,) = host.with_trick("spectral_norm").plan().warnings
    assert "its slope has no bound" in warning
    assert not IMAGES.with_trick("spectral_norm").plan().warnings
    assert not host.with_trick("spectral_norm", players=["generator"]).plan().warnings


@pytest.mark.parametrize("wrong", [{"players": "nobody"}, {"iterations": 0}, {"iterations": 101}])
def test_options_out_of_bounds_are_refused(wrong):
    with pytest.raises(ValidationError):
        SpectralNorm.Config(**wrong)
