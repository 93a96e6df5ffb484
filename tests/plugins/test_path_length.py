"""Laws of path length regularisation: the length on linear maps, the running mean, the steps in which it is due."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gantricks.plugins.path_length import PathLength, directions_like, path_lengths
from gantricks.testing import Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.record import differences

# ---------------------------------------------------------------- what the generic suites are told

STYLED = {"network": "style", "style_dim": 4, "mapping_layers": 2, "depth": 2}
SETTINGS: Settings = {
    "": ({"every": 2}, {}),
    "pairs": ({"every": 3, "weight": 0.5}, {"batch_size": 2, "reuse_fakes": False}),
    "conditional": ({"every": 1, "decay": 0.5}, {"classes": 3, "generator": {**STYLED, "conditional": True}}),
}
OVERRIDES = {"": ["generator.network=style"]}
NO_BATCH_NORM, NO_SURGERY = "has no batch norm", "surgery on plain ones does not fit"
REFUSED: dict[str, str] = {
    "grow": NO_SURGERY,
    "instance_norm": NO_BATCH_NORM,
    "label_injection": "gives every layer the class already",
    "leaky_relu": "has no ReLU",
    "virtual_batch_norm": NO_BATCH_NORM,
    "weight_norm": "divides the length of its weights out",
}

MISTAKES = {
    "a lazy penalty is not weighted up": Mistake(
        old="self.config.weight * self.config.every * distances.square().mean()",
        new="self.config.weight * distances.square().mean()",
        caught_by="trace_law[pairs]",
    ),
    "the penalty is due in every step": Mistake(
        old="ctx.step % self.config.every == 0", new="True", caught_by="trace_law[pairs]"
    ),
    "lengths are squared": Mistake(
        old="torch.linalg.vector_norm(slopes, dim=(1, 2)) / math.sqrt(styles.shape[1])",
        new="slopes.square().sum((1, 2)) / styles.shape[1]",
        caught_by="test_on_a_linear_map_the_length_is_that_of_the_transposed_product",
    ),
    "layers are added and not averaged": Mistake(
        old="torch.linalg.vector_norm(slopes, dim=(1, 2)) / math.sqrt(styles.shape[1])",
        new="torch.linalg.vector_norm(slopes, dim=(1, 2))",
        caught_by="test_on_a_linear_map_the_length_is_that_of_the_transposed_product",
    ),
    "the length cannot be differentiated": Mistake(
        old="torch.autograd.grad((images * directions).sum(), styles, create_graph=True)",
        new="torch.autograd.grad((images * directions).sum(), styles, retain_graph=True)",
        caught_by="test_the_gradient_of_the_length_agrees_with_finite_differences",
    ),
    "directions grow with the image": Mistake(
        old="noise / math.sqrt(math.prod(images.shape[2:]))",
        new="noise",
        caught_by="test_directions_have_the_length_of_the_channels_whatever_the_size",
    ),
    "the root of a sum has no slope at zero": Mistake(
        old="torch.linalg.vector_norm(slopes, dim=(1, 2))",
        new="slopes.square().sum((1, 2)).sqrt()",
        caught_by="test_a_map_without_slope_has_a_finite_gradient",
    ),
    "the mean forgets": Mistake(old="self.config.decay", new="1.0", caught_by="trace_law[pairs]"),
}


def trace_law(played: Played, name: str) -> None:
    """In every k-th step the mean a moves by its share towards a mean length n, and the penalty is k λ E(n_i − a)²."""
    config = played.trick(name).config
    found = [phase.terms[f"{name}.penalty"] for phase in played.steps_of("g")]
    steps = [phase.step for phase in played.steps_of("g")]
    assert any(step % config.every == 0 for step in steps)
    alone = len(played.steps_of("g")) == played.game.finished and len(played.steps_of("g")[0].fake_latents) <= 3
    mean = 0.0
    means = [scalars[f"{name}/mean"] for scalars in played.scalars]
    for step, penalty in zip(steps, found, strict=True):
        if step % config.every:
            assert penalty == 0, "a penalty between the steps in which it is due"
            continue
        assert penalty > 0
        now = means[step]
        if alone:  # one length, and one G step in each step: both follow from the mean
            length = mean + (now - mean) / config.decay
            assert length > 0, "a length below zero"
            expected = config.weight * config.every * (length - now) ** 2
            assert math.isclose(penalty, expected, rel_tol=1e-2, abs_tol=1e-6), f"{penalty}, not {expected}"
        mean = now
    assert all(means[step] == means[step - 1] for step in range(1, len(means)) if step % config.every), "a moved"


def made(batch: int, layers: int, dim: int, pixels: int, seed: int = 0):
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    return normal(batch, layers, dim), normal(layers * dim, pixels), normal(batch, pixels)


SMALL = st.integers(1, 4)


@given(SMALL, SMALL, SMALL, SMALL, st.integers(0, 99))
def test_on_a_linear_map_the_length_is_that_of_the_transposed_product(batch, layers, dim, pixels, seed):
    styles, a, y = made(batch, layers, dim, pixels, seed)
    images = styles.requires_grad_().flatten(1) @ a
    expected = torch.stack([(a @ one).norm() for one in y]) / math.sqrt(layers)
    torch.testing.assert_close(path_lengths(images, styles, y), expected)


def test_the_gradient_of_the_length_agrees_with_finite_differences():
    styles, a, y = made(2, 2, 3, 4)
    styles.requires_grad_()

    def lengths(a):
        return path_lengths(torch.tanh(styles.flatten(1) @ a), styles, y)

    assert lengths(a.requires_grad_()).requires_grad
    assert torch.autograd.gradcheck(lengths, a)


def test_a_map_without_slope_has_a_finite_gradient():
    styles, a, y = made(1, 2, 2, 3)
    a = torch.zeros_like(a).requires_grad_()
    path_lengths(styles.requires_grad_().flatten(1) @ a, styles, y).sum().backward()
    assert torch.isfinite(a.grad).all()


@given(gs.rng(), st.integers(1, 3), st.integers(2, 40))
def test_directions_have_the_length_of_the_channels_whatever_the_size(rng, channels, side):
    images = torch.zeros(50, channels, side, side, dtype=torch.float64)
    squared = directions_like(images, rng.normal(images.shape)).square().sum((1, 2, 3))
    assert abs(squared.mean() - channels) < 6 * math.sqrt(2 * channels / (50 * side * side))


def test_the_penalty_has_a_gradient_in_the_mapping_and_in_the_layers_of_g_and_none_in_d():
    plain = TrickHost.for_trick(PathLength).train(1)
    with_it = TrickHost.for_trick(PathLength).with_trick("path_length", weight=1e3).train(1)
    before, after = (played.steps_of("g")[0].gradients for played in (plain, with_it))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(name.startswith("body.") for name in changed)
    assert any(name.startswith("mapping.") for name in changed)
    assert not differences({"d": plain.state["discriminator"]}, {"d": with_it.state["discriminator"]})


def test_the_running_mean_starts_at_zero_and_takes_in_its_share():
    played = TrickHost.for_trick(PathLength).with_trick("path_length", every=1, decay=1.0).but(batch_size=2).train(3)
    assert all(phase.terms["path_length.penalty"] < 1e-10 for phase in played.steps_of("g"))  # a is the length itself


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_trains_in_each_precision(precision):
    host = TrickHost.for_trick(PathLength, precision=precision).with_trick("path_length", every=2)
    assert all(math.isfinite(value) for scalars in host.train(3).scalars for value in scalars.values())
