"""Laws of spherical latents: radius √D and every direction alike, one function of the Gaussian draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gantricks import UserError
from gantricks.engine import sampling
from gantricks.plugins.spherical_latents import SphericalLatents, to_cube, to_sphere, to_unit_cube
from gantricks.rng import Clock, Rng
from gantricks.testing import CONDITIONAL, Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import close
from gantricks.testing.record import same_bits

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({}, {}),
    "uniform": ({"distribution": "uniform"}, CONDITIONAL),
    "unit": ({"distribution": "unit_uniform"}, {}),
}
REFUSED: dict[str, str] = {}

MISTAKES = {
    "normalised over the batch": Mistake(
        old="normalize(z, dim=1) * math.sqrt(z.shape[1])",
        new="normalize(z, dim=0) * math.sqrt(z.shape[1])",
        caught_by="test_sphere_keeps_directions_and_gives_every_latent_the_norm_of_its_dimension",
    ),
    "a sphere of radius 1": Mistake(
        old="normalize(z, dim=1) * math.sqrt(z.shape[1])",
        new="normalize(z, dim=1)",
        caught_by=("test_sphere_keeps_directions_and_gives_every_latent_the_norm_of_its_dimension", "trace_law"),
    ),
}


def trace_law(played: Played, name: str) -> None:
    """Latents lie on the sphere of radius √D in the direction they had, or are uniform on a cube."""
    distribution = played.trick(name).config.distribution
    calls = played.of(name, "latents")
    assert len(calls) >= len(played.steps_of("d"))
    for call in calls:
        (z,) = (argument.numpy() for argument in call.arguments)
        if distribution == "sphere":
            expected = z * math.sqrt(z.shape[1]) / np.sqrt((z * z).sum(1, keepdims=True))
        else:
            cube = np.vectorize(math.erf)(z / math.sqrt(2))
            expected = {"uniform": cube, "unit_uniform": (cube + 1) / 2, "normal": z}[distribution]
        close(call.result, torch.from_numpy(expected), "latents")


VECTORS = TrickHost(latent_dim=6)


def normals(*shape: int, seed: int = 0) -> torch.Tensor:
    return Rng(seed, "latents", Clock(), dtype=torch.float64).normal(shape)


def kolmogorov(values: torch.Tensor) -> float:
    """√n times the largest distance between the values' distribution function and that of U(-1, 1)."""
    ordered = (np.sort(values.numpy().ravel()) + 1) / 2
    ranks = np.arange(len(ordered))
    distance = max(np.max((ranks + 1) / len(ordered) - ordered), np.max(ordered - ranks / len(ordered)))
    return distance * math.sqrt(len(ordered))


# ---------------------------------------------------------------- the distributions


@given(st.integers(1, 9), st.integers(2, 12), st.data())
def test_sphere_keeps_directions_and_gives_every_latent_the_norm_of_its_dimension(size, dim, data):
    z = data.draw(gs.tensors((size, dim), scale=data.draw(st.sampled_from([0.1, 1.0, 10.0]))))
    out = to_sphere(z)
    assert out.dtype == z.dtype
    for row, moved in zip(z.tolist(), out.tolist(), strict=True):
        length = math.sqrt(sum(x * x for x in row))
        np.testing.assert_allclose(moved, [x / length * math.sqrt(dim) for x in row], rtol=1e-12)
    np.testing.assert_allclose(out.square().sum(1).numpy(), np.full(size, dim), rtol=1e-12)


def test_every_direction_of_the_sphere_is_alike():
    out = to_sphere(normals(40_000, 3))
    # on a sphere in three dimensions each coordinate is uniform (Archimedes)
    for axis in range(3):
        assert kolmogorov(out[:, axis] / math.sqrt(3)) < 2.7  # Kolmogorov: 1e-6
    covariance = (out.T @ out / len(out)).numpy()
    np.testing.assert_allclose(covariance, np.eye(3), atol=5.5 / math.sqrt(len(out)))


def test_cube_is_uniform_between_minus_one_and_one():
    out = to_cube(normals(20_000, 2))
    assert ((out >= -1) & (out <= 1)).all()
    assert kolmogorov(out) < 2.7
    assert abs((out[:, 0] * out[:, 1]).mean()) < 5.5 / 3 / math.sqrt(len(out))


@given(st.floats(-8, 8))
def test_cube_is_the_normal_distribution_function(z):
    expected = 1 - math.erfc(z / math.sqrt(2))
    assert to_cube(torch.tensor([[z]], dtype=torch.float64)).item() == pytest.approx(expected, abs=1e-14)


@given(gs.tensors((50,)))
def test_the_unit_cube_is_the_cube_moved_to_zero_and_one(z):
    torch.testing.assert_close(to_unit_cube(z), (to_cube(z) + 1) / 2, rtol=0, atol=1e-15)
    assert ((to_unit_cube(z) >= 0) & (to_unit_cube(z) <= 1)).all()


def test_cube_and_sphere_stay_finite_at_extremes():
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        z = torch.tensor([[40.0, -40.0], [0.0, 0.0]], dtype=dtype)
        for map_ in (to_sphere, to_cube, to_unit_cube):
            assert map_(z).isfinite().all()
            assert map_(z).dtype == dtype
        assert (to_cube(z).abs() <= 1).all()


# ---------------------------------------------------------------- in a run


@pytest.mark.parametrize(
    ("distribution", "expected"),
    [
        ("sphere", to_sphere),
        ("uniform", to_cube),
        ("unit_uniform", to_unit_cube),
        ("normal", lambda z: z),
    ],
)
@pytest.mark.parametrize("reuse", [True, False])
def test_every_latent_is_a_function_of_the_gaussian_one(distribution, expected, reuse):
    host = VECTORS.but(reuse_fakes=reuse)
    played = host.with_trick("spherical_latents", distribution=distribution).train(3)
    assert len(played.calls["latents"]) == (3 if reuse else 6)
    for call in played.calls["latents"]:
        assert same_bits(call.result, expected(call.arguments[0]))
    # the draws themselves are those of a run without it
    plain = host.with_trick("spherical_latents", distribution="normal").train(3)
    for call, same in zip(played.calls["latents"], plain.calls["latents"], strict=True):
        assert same_bits(call.arguments[0], same.arguments[0])


@pytest.mark.parametrize(("distribution", "expected"), [("sphere", to_sphere), ("uniform", to_cube)])
def test_samples_are_drawn_as_in_training_and_depend_on_their_seed_only(distribution, expected):
    def seen(host: TrickHost, steps: int) -> torch.Tensor:
        game = host.game()
        for _ in range(steps):
            game.advance()
        latents: list[torch.Tensor] = []
        game.generator.register_forward_pre_hook(lambda module, args: latents.append(args[0].clone()))
        sampling.sample(game, 5, seed=7)
        return torch.cat(latents)

    host = VECTORS.with_trick("spherical_latents", distribution=distribution)
    torch.testing.assert_close(seen(host, 0), expected(seen(VECTORS, 0)))
    assert same_bits(seen(host, 0), seen(host, 2))


def test_the_default_is_the_sphere():
    assert SphericalLatents.Config().distribution == "sphere"


def test_a_sphere_of_one_dimension_is_refused():
    with pytest.raises(UserError, match="larger latent_dim"):
        TrickHost(latent_dim=1).with_trick("spherical_latents").plan()
    TrickHost(latent_dim=1).with_trick("spherical_latents", distribution="uniform").plan()


def test_other_distributions_are_refused():
    with pytest.raises(ValidationError):
        SphericalLatents.Config(distribution="cauchy")
