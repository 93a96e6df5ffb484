"""Differentiable changes of images, one amount for each image of a batch.

`images` are (B, C, H, W) in [-1, 1], of any floating type; amounts are (B,). Each function returns images of the same
shape, type and memory format, and gradients pass through it. An amount that changes nothing leaves an image as it is,
to the bit.
"""

from __future__ import annotations

import torch
from torch import Tensor


def shift_brightness(images: Tensor, amounts: Tensor) -> Tensor:
    """Add an amount to all numbers of an image."""
    return images + _by_image(amounts, images)


def scale_contrast(images: Tensor, factors: Tensor, about_mean: bool = True) -> Tensor:
    """Scale the distance of all numbers of an image from their mean, or from 0 (mid-grey) without `about_mean`."""
    if not about_mean:
        return images * _by_image(factors, images)
    return _scaled(images, images.mean((1, 2, 3), keepdim=True), factors)


def scale_saturation(images: Tensor, factors: Tensor) -> Tensor:
    """Scale the distance of each channel from the mean over channels, pixel by pixel. One channel stays as it is."""
    return _scaled(images, images.mean(1, keepdim=True), factors) if images.shape[1] > 1 else images


def flip_images(images: Tensor, chosen: Tensor) -> Tensor:
    """Swap left and right in the images that are chosen, bool (B,)."""
    return torch.where(chosen[:, None, None, None], images.flip(3), images)


def rotate_images(images: Tensor, quarters: Tensor) -> Tensor:
    """Rotate by this many quarters of a turn counter-clockwise, int64 from 0 to 3. Images that are not square must have
    even numbers.
    """
    height, width = images.shape[2:]
    i = torch.arange(height, device=images.device)[:, None].expand(height, width)
    j = torch.arange(width, device=images.device).expand(height, width)
    quarter, half = quarters[:, None, None] % 2 == 1, quarters[:, None, None] >= 2
    # a half turn and a quarter turn make up each rotation: where a quarter turn takes its pixel from, then mirrored
    rows, columns = torch.where(quarter, j, i), torch.where(quarter, width - 1 - i, j)
    return _moved(
        images,
        torch.where(half, height - 1 - rows, rows),
        torch.where(half, width - 1 - columns, columns),
    )


def translate_images(images: Tensor, down: Tensor, right: Tensor, mirrored: bool = False) -> Tensor:
    """Move by whole pixels, int64. What comes in from outside is 0, or the image `mirrored` at its border; then an
    image moves by less than its side.
    """
    rows, inside_rows = _sources(images.shape[2], down, mirrored)
    columns, inside_columns = _sources(images.shape[3], right, mirrored)
    moved = _moved(images, rows[:, :, None], columns[:, None, :])
    if mirrored:
        return moved
    return _kept(moved, inside_rows[:, :, None] & inside_columns[:, None, :])


def cut_out(images: Tensor, top: Tensor, left: Tensor, height: int, width: int) -> Tensor:
    """Set a rectangle of `height` x `width` pixels with this first row and column, int64, to 0. It may reach over the
    border.
    """
    rows = torch.arange(images.shape[2], device=images.device) - top[:, None]
    columns = torch.arange(images.shape[3], device=images.device) - left[:, None]
    within_rows, within_columns = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
    return _kept(images, ~(within_rows[:, :, None] & within_columns[:, None, :]))


def _kept(images: Tensor, inside: Tensor) -> Tensor:
    """Return images with 0 where `inside` (B, H, W) is false."""
    # a product, because a selection does not keep the memory format
    return images * inside[:, None]


def _by_image(amounts: Tensor, images: Tensor) -> Tensor:
    return amounts.to(images.dtype)[:, None, None, None]


def _scaled(images: Tensor, centre: Tensor, factors: Tensor) -> Tensor:
    # written so that a factor of 1 adds exactly 0
    return images + _by_image(factors - 1, images) * (images - centre)


def _sources(size: int, shift: Tensor, mirrored: bool) -> tuple[Tensor, Tensor]:
    """Return where each row or column comes from, (B, size), and whether it comes from inside."""
    source = torch.arange(size, device=shift.device) - shift[:, None]
    if mirrored:
        return (size - 1) - ((size - 1) - source.abs()).abs(), source
    return source.clamp(0, size - 1), (source >= 0) & (source < size)


def _moved(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return images whose pixel (i, j) is the one at (rows, columns)[i, j]: both broadcast to (B, H, W)."""
    size, channels, height, width = images.shape
    # a gather along one flat dimension: its backward is several times faster than that of indexing by rows and columns
    places = (rows * width + columns).reshape(size, height * width)
    # in the layout of the images, whose gradient has it too: in another one, convolutions round differently
    if images.is_contiguous(memory_format=torch.channels_last):
        pixels = images.permute(0, 2, 3, 1).reshape(size, height * width, channels)
        moved = pixels.gather(1, places[:, :, None].expand(-1, -1, channels))
        return moved.view(size, height, width, channels).permute(0, 3, 1, 2)
    moved = images.reshape(size, channels, height * width).gather(2, places[:, None].expand(-1, channels, -1))
    return moved.view(images.shape)
