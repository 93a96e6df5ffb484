"""Differentiable changes of images, against loops over pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gantricks import (
    cut_out,
    flip_images,
    rotate_images,
    scale_contrast,
    scale_saturation,
    shift_brightness,
    translate_images,
)
from gantricks.testing import strategies as gs


@st.composite
def pictures(draw: st.DrawFn, square: bool = False) -> Tensor:
    size, height, width = (draw(st.integers(1, 5)) for _ in range(3))
    images = draw(gs.tensors((size, draw(st.sampled_from([1, 2, 3])), height, height if square else width)))
    return images.contiguous(memory_format=draw(st.sampled_from([torch.contiguous_format, torch.channels_last])))


def whole_numbers(draw: st.DrawFn, count: int, low: int, high: int) -> Tensor:
    return torch.tensor(draw(st.lists(st.integers(low, high), min_size=count, max_size=count)))


@given(pictures(), st.data())
def test_colours_are_what_their_names_say(images, data) -> None:
    amounts = data.draw(gs.tensors((len(images),)))
    numbers = images.numpy()
    for row, (image, amount) in enumerate(zip(numbers, amounts.tolist(), strict=True)):
        grey = image.mean(0, keepdims=True)
        for found, expected in (
            (shift_brightness(images, amounts), image + amount),
            (scale_contrast(images, amounts), image.mean() + amount * (image - image.mean())),
            (scale_contrast(images, amounts, about_mean=False), amount * image),
            (scale_saturation(images, amounts), grey + amount * (image - grey)),
        ):
            np.testing.assert_allclose(found[row].numpy(), expected, rtol=1e-12, atol=1e-12)


@given(pictures(), st.booleans(), st.data())
def test_a_translation_moves_each_pixel(images, mirrored, data) -> None:
    count, _, height, width = images.shape
    reach = (height - 1, width - 1) if mirrored else (7, 7)
    down, right = (whole_numbers(data.draw, count, -by, by) for by in reach)
    found = translate_images(images, down, right, mirrored)
    for n, (by_row, by_column) in enumerate(zip(down.tolist(), right.tolist(), strict=True)):
        for i in range(height):
            for j in range(width):
                row, column = i - by_row, j - by_column
                if mirrored:
                    row, column = mirror(row, height), mirror(column, width)
                inside = 0 <= row < height and 0 <= column < width
                expected = images[n, :, row, column] if inside else torch.zeros_like(images[n, :, 0, 0])
                assert torch.equal(found[n, :, i, j], expected)


def mirror(place: int, size: int) -> int:
    """The place that numpy's reflection would have there, by walking."""
    ways = np.pad(np.arange(size), size - 1, mode="reflect") if size > 1 else np.zeros(1, int)
    return int(ways[place + size - 1]) if size > 1 else 0


@given(pictures(square=True), st.data())
def test_a_rotation_is_torchs(images, data) -> None:
    quarters = whole_numbers(data.draw, len(images), 0, 3)
    for image, found, k in zip(images, rotate_images(images, quarters), quarters.tolist(), strict=True):
        assert torch.equal(found, torch.rot90(image, k, (1, 2)))


@given(pictures(), st.data())
def test_what_is_not_square_can_be_turned_by_half(images, data) -> None:
    halves = whole_numbers(data.draw, len(images), 0, 1)
    for image, found, half in zip(images, rotate_images(images, 2 * halves), halves.tolist(), strict=True):
        assert torch.equal(found, image.flip(1, 2) if half else image)


@given(pictures(), st.data())
def test_a_flip_swaps_left_and_right_where_it_is_chosen(images, data) -> None:
    chosen = whole_numbers(data.draw, len(images), 0, 1) > 0
    for image, found, flipped in zip(images, flip_images(images, chosen), chosen.tolist(), strict=True):
        assert torch.equal(found, image.flip(2) if flipped else image)


@given(pictures(), st.integers(0, 5), st.integers(0, 5), st.data())
def test_a_cut_is_a_rectangle_of_zeros(images, height, width, data) -> None:
    top, left = (whole_numbers(data.draw, len(images), -6, 6) for _ in range(2))
    found = cut_out(images, top, left, height, width)
    for n, (row, column) in enumerate(zip(top.tolist(), left.tolist(), strict=True)):
        expected = images[n].clone()
        expected[:, max(row, 0) : max(row + height, 0), max(column, 0) : max(column + width, 0)] = 0
        assert torch.equal(found[n], expected)


ALL = [
    (shift_brightness, [torch.tensor([0.25, 0.0])], [torch.zeros(2)]),
    (scale_contrast, [torch.tensor([0.25, 1.5])], [torch.ones(2)]),
    (scale_saturation, [torch.tensor([0.25, 1.5])], [torch.ones(2)]),
    (flip_images, [torch.tensor([True, False])], [torch.zeros(2, dtype=torch.bool)]),
    (rotate_images, [torch.tensor([1, 3])], [torch.zeros(2, dtype=torch.int64)]),
    (translate_images, [torch.tensor([1, -2]), torch.tensor([0, 1])], [torch.zeros(2, dtype=torch.int64)] * 2),
    (cut_out, [torch.tensor([0, -1]), torch.tensor([2, 1]), 2, 3], [torch.zeros(2, dtype=torch.int64)] * 2 + [0, 0]),
]
"""Each function with arguments that change something, and with those that do not."""


@pytest.mark.parametrize(("change", "amounts", "neutral"), ALL)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_type_is_kept_and_neutral_amounts_leave_every_bit(change, amounts, neutral, dtype) -> None:
    images = torch.randn((2, 3, 4, 4), generator=torch.Generator().manual_seed(0)).to(dtype)
    for given_amounts in (amounts, neutral):
        found = change(images, *given_amounts)
        assert found.dtype == dtype
        assert found.shape == images.shape
    assert torch.equal(change(images, *neutral), images)
    assert not torch.equal(change(images, *amounts), images)


@pytest.mark.parametrize(("change", "amounts", "neutral"), ALL)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_memory_format_is_kept_and_the_gradient_has_it_too(change, amounts, neutral, layout) -> None:
    images = torch.randn((2, 3, 4, 4)).contiguous(memory_format=layout).requires_grad_()
    found = change(images, *amounts)
    assert found.is_contiguous(memory_format=layout)
    (slope,) = torch.autograd.grad(found, images, torch.ones_like(found))
    assert slope.is_contiguous(memory_format=layout)


@pytest.mark.parametrize(("change", "amounts", "neutral"), ALL)
def test_gradients_are_those_of_finite_differences_twice(change, amounts, neutral) -> None:
    images = torch.randn((2, 3, 4, 4), generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    amounts = [a.double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in amounts]
    assert torch.autograd.gradcheck(lambda x: change(x, *amounts), images)
    assert torch.autograd.gradgradcheck(lambda x: change(x, *amounts).square(), images)
