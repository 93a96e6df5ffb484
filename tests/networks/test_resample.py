"""Laws of halving and doubling through a low-pass filter."""

from __future__ import annotations

import pytest
import torch
from every_network import stream
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from gantricks.networks.resample import Double, Halve, smoothing

SIDES = st.integers(1, 9)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def made(kind, size):
    layer = kind(size).double()
    layer.initialise(stream(0))
    return layer


def doubled(x, size):
    return made(Double, size)(x)


def halved(x):
    return made(Halve, (*x.shape[2:],))(x)


def maps(*size):
    return stream(1).normal((2, 3, *size)).double()


@given(SIDES, SIDES)
def test_a_doubled_map_is_bilinear_interpolation(height, width):
    x = maps(height, width)
    close(doubled(x, (2 * height, 2 * width)), interpolate(x, scale_factor=2, mode="bilinear"))


@pytest.mark.parametrize("size", [(5, 7), (6, 5), (1, 8), (2, 2)])
def test_a_map_of_odd_sides_is_doubled_and_cropped(size):
    x = maps(*(-(-side // 2) for side in size))
    expected = interpolate(x, scale_factor=2, mode="bilinear")[..., : size[0], : size[1]]
    close(doubled(x, size), expected)


@given(SIDES, SIDES)
def test_the_blur_weighs_neighbours_1_2_1_and_repeats_the_edges(height, width):
    x = maps(height, width)
    blurred = smoothing(height) @ x @ smoothing(width).T
    for axis, side in ((2, height), (3, width)):
        at = torch.arange(side)
        before, after = (at - 1).clamp(min=0), (at + 1).clamp(max=side - 1)
        x = (x.index_select(axis, before) + 2 * x + x.index_select(axis, after)) / 4
    close(blurred, x)


@given(st.integers(2, 9).map(lambda n: 2 * n))
def test_halving_weighs_four_pixels_1_3_3_1(side):
    x = maps(side, side)
    for axis in (2, 3):
        a, b, c, d = (x.index_select(axis, (torch.arange(-1, side - 1, 2) + k).clamp(0, side - 1)) for k in range(4))
        x = (a + 3 * b + 3 * c + d) / 8
    close(halved(maps(side, side)), x)


@given(SIDES, SIDES)
def test_a_constant_stays_and_sides_are_rounded_up(height, width):
    x = torch.full((1, 1, height, width), 0.7, dtype=torch.float64)
    half = halved(x)
    assert half.shape[2:] == (-(-height // 2), -(-width // 2))
    close(half, torch.full_like(half, 0.7))
    close(doubled(half, (height, width)), x)


@pytest.mark.parametrize("change", [halved, lambda x: doubled(x, (7, 5))])
def test_gradients_can_be_differentiated_once_more(change):
    x = stream(2).normal((1, 1, 4, 3)).double().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: change(x).square(), x)
