"""Laws of the great circle between two latents."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from gantricks import slerp
from gantricks.latents import paths
from gantricks.plugins.spherical_latents import to_sphere
from gantricks.rng import Clock, Rng
from gantricks.testing import strategies as gs
from gantricks.testing.record import same_bits


def normals(*shape: int, seed: int = 0) -> torch.Tensor:
    return Rng(seed, "latents", Clock(), dtype=torch.float64).normal(shape)


@st.composite
def pairs(draw):
    """Two vectors (3, D) in general position, and a share of the way."""
    dim = draw(st.integers(2, 8))
    a, b = (draw(gs.tensors((3, dim), scale=draw(st.sampled_from([0.1, 1.0, 30.0])))) for _ in range(2))
    return a, b, draw(st.floats(0, 1))


def norms(x: torch.Tensor) -> torch.Tensor:
    return x.norm(dim=-1, keepdim=True)


@given(pairs())
def test_slerp_is_shoemakes_formula_between_directions(case):
    a, b, t = case
    out = slerp(a, b, t)
    for row in range(len(a)):
        p, q = a[row].numpy(), b[row].numpy()
        length_p, length_q = np.linalg.norm(p), np.linalg.norm(q)
        omega = math.acos(max(-1.0, min(1.0, float(p @ q / (length_p * length_q)))))
        assume(0.01 < omega < math.pi - 0.01)
        way = (math.sin((1 - t) * omega) * p / length_p + math.sin(t * omega) * q / length_q) / math.sin(omega)
        expected = ((1 - t) * length_p + t * length_q) * way
        np.testing.assert_allclose(out[row].numpy(), expected, rtol=1e-9, atol=1e-9 * length_p)


@given(pairs())
def test_from_a_vector_to_itself_is_that_vector(case):
    a, _, t = case
    assert same_bits(slerp(a, a, t), a)


@given(pairs())
def test_the_ends_are_exact(case):
    a, b, _ = case
    assert same_bits(slerp(a, b, 0.0), a)
    assert same_bits(slerp(a, b, 1.0), b)
    assert same_bits(slerp(a, -a, 0.0), a)
    assert same_bits(slerp(a, -a, 1.0), -a)


@given(pairs())
def test_the_norm_is_kept_and_goes_evenly_between_different_ones(case):
    a, b, t = case
    torch.testing.assert_close(norms(slerp(to_sphere(a), to_sphere(b), t)), norms(to_sphere(a)))
    torch.testing.assert_close(norms(slerp(a, b, t)), (1 - t) * norms(a) + t * norms(b))


@given(pairs())
def test_the_way_back_is_the_way(case):
    a, b, t = case
    assume(((a * b).sum(-1).abs() < 0.999 * (norms(a) * norms(b))[:, 0]).all())
    torch.testing.assert_close(slerp(a, b, t), slerp(b, a, 1 - t), rtol=1e-7, atol=1e-9)


@given(pairs(), st.sampled_from([1e-16, 1e-12, 1e-8, 3e-8, 1e-6, 1e-3]))
def test_nearly_parallel_vectors_are_safe(case, apart):
    a, b, t = case
    near = a + apart * norms(a) / norms(b) * b
    out = slerp(a, near, t)
    torch.testing.assert_close(norms(out), (1 - t) * norms(a) + t * norms(near), rtol=1e-12, atol=0)
    assert (norms(out - a) <= 2 * apart * norms(a) * (t + 1e-6) + 1e-12 * norms(a)).all()


@given(pairs(), st.sampled_from([0.0, 1e-16, 1e-12, 1e-8, 3e-8, 1e-6, 1e-3]))
def test_nearly_opposite_vectors_keep_their_norm_and_turn_evenly(case, apart):
    a, b, t = case
    u = to_sphere(a)
    opposite = to_sphere(-u + apart * to_sphere(b))
    out = slerp(u, opposite, t)
    torch.testing.assert_close(norms(out), norms(u), rtol=1e-9, atol=0)
    turned = (out * u).sum(-1) / u.square().sum(-1)
    whole = torch.atan2(norms(opposite - (opposite * u).sum(-1, keepdim=True) / norms(u) ** 2 * u), -norms(u))[:, 0]
    torch.testing.assert_close(turned, torch.cos(t * whole), rtol=0, atol=1e-6)


def test_halfway_between_opposites_is_at_right_angles_to_both():
    a = torch.cat([to_sphere(normals(5, 4)), 2 * torch.eye(4, dtype=torch.float64)])
    middle = slerp(a, -a, 0.5)
    torch.testing.assert_close((middle * a).sum(1), torch.zeros(9, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(norms(middle), norms(a))


def test_zero_vectors_and_single_numbers_stay_finite():
    a, zero = normals(3, 4), torch.zeros(3, 4, dtype=torch.float64)
    torch.testing.assert_close(slerp(zero, a, 0.25), 0.25 * a)
    torch.testing.assert_close(slerp(a, zero, 0.25), 0.75 * a)
    assert same_bits(slerp(zero, zero, 0.5), zero)
    one = torch.ones(2, 1)
    assert slerp(one, -one, 0.3).isfinite().all()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-8 * 1.001)])
def test_lower_precision_keeps_its_type_and_loses_no_more_than_it_must(dtype, tolerance):
    a, b = normals(40, 6).to(dtype), normals(40, 6, seed=1).to(dtype)
    out = slerp(a, b, 0.3)
    assert out.dtype == dtype
    exact = slerp(a.double(), b.double(), 0.3)
    # bfloat16 has 8 digits: computed in float32, each number is off by no more than the last rounding
    torch.testing.assert_close(out.double(), exact, rtol=tolerance, atol=1e-6)


def test_a_tensor_of_shares_gives_a_path():
    a, b = normals(6), normals(6, seed=1)
    shares = torch.linspace(0, 1, 5, dtype=torch.float64)
    path = slerp(a, b, shares[:, None])
    assert path.shape == (5, 6)
    for share, point in zip(shares.tolist(), path, strict=True):
        torch.testing.assert_close(point, slerp(a, b, share))


@given(st.integers(1, 4), st.integers(2, 9), st.integers(2, 6))
def test_paths_go_from_each_start_to_its_end_in_even_steps(count, points, dim):
    starts, ends = to_sphere(normals(count, dim)), to_sphere(normals(count, dim, seed=1))
    ways = paths(starts, ends, points)
    assert ways.shape == (count, points, dim)
    assert same_bits(ways[:, 0], starts)
    assert same_bits(ways[:, -1], ends)
    torch.testing.assert_close(norms(ways), norms(starts)[:, None].expand(count, points, 1))
    steps = (ways[:, 1:] * ways[:, :-1]).sum(-1) / dim
    torch.testing.assert_close(steps, steps[:, :1].expand_as(steps), rtol=0, atol=1e-9)
