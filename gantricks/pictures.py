"""Pictures of samples: grids of images, scatter plots of points, PNG files that are never half written."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
from PIL import Image

from gantricks.files import naming, whole

_SEAM = 96
_SUPERSAMPLING = 3
_PAPER = (255, 255, 255)
_REAL = (176, 180, 188)
_GENERATED = (214, 39, 70)

Extent = tuple[float, float, float, float]
"""(left, right, bottom, top) of a scatter plot, in data units."""


def to_pixels(images: np.ndarray) -> np.ndarray:
    """Turn floats (N, C, H, W) in [-1, 1] into uint8 (N, H, W, C), rounded to the nearest level.

    Values beyond [-1, 1], infinities included, are clipped. NaN becomes 0, the darkest level.
    """
    levels = np.rint((images.astype(np.float32) + 1) * 127.5).clip(0, 255)
    return np.nan_to_num(levels, nan=0).astype(np.uint8).transpose(0, 2, 3, 1)


def image_grid(images: np.ndarray, columns: int | None = None, padding: int = 2) -> Image.Image:
    """Lay uint8 (N, H, W, C) out in rows, `padding` pixels between and around them.

    `columns` defaults to what makes the picture nearly square. Images of one or two channels show the first,
    in grey; others show the first three, as red, green and blue. Raises `ValueError` when there is no image.
    """
    count, height, width, channels = images.shape
    if count == 0 or channels == 0:
        raise ValueError(f"no image to show in an array of shape {images.shape}")
    images = images[..., : 3 if channels >= 3 else 1]
    columns = min(columns or _square_columns(count, height + padding, width + padding), count)
    rows = math.ceil(count / columns)
    cell_height, cell_width = height + padding, width + padding
    sheet = np.full((rows * cell_height + padding, columns * cell_width + padding, images.shape[3]), _SEAM, np.uint8)
    for index, image in enumerate(images):
        top = padding + index // columns * cell_height
        left = padding + index % columns * cell_width
        sheet[top : top + height, left : left + width] = image
    return Image.fromarray(sheet[..., 0] if sheet.shape[2] == 1 else sheet)


def _square_columns(count: int, height: int, width: int) -> int:
    """The number of columns that makes the picture nearest to square, then leaves the fewest cells empty."""
    around = round(math.sqrt(count * height / width))

    def badness(columns: int) -> tuple[float, int]:
        rows = math.ceil(count / columns)
        return abs(math.log(columns * width / (rows * height))), rows * columns - count

    return min(range(max(1, around - 1), around + 2), key=badness)


def scatter(
    points: np.ndarray, reference: np.ndarray | None = None, size: int = 512, extent: Extent | None = None
) -> Image.Image:
    """Plot `points` (N, D) in colour over `reference` (M, D) in light grey, on a square of `size` pixels.

    Where points crowd the colour deepens. `extent` defaults to a square around the reference (around the
    points when there is none) with a margin; points beyond it are drawn at its edge, points that are not
    finite are left out. Of more than two dimensions the first two are shown; of one, a line.
    """
    points = _in_plane(points)
    beneath = _in_plane(reference) if reference is not None else np.empty((0, 2))
    extent = extent or _square_around(beneath if len(beneath) else points)
    fine = size * _SUPERSAMPLING
    canvas = np.full((fine, fine, 3), _PAPER, np.float32)
    radius = max(1.0, size / 256) * _SUPERSAMPLING
    for layer, colour, opacity in ((beneath, _REAL, 0.3), (points, _GENERATED, 0.4)):
        crowd = _crowding(layer, extent, fine, radius)
        covered = crowd > 0  # a small part of the canvas
        coverage = 1 - (1 - opacity) ** crowd[covered]
        canvas[covered] += coverage[:, None] * (np.array(colour, np.float32) - canvas[covered])
    parts = canvas.reshape(size, _SUPERSAMPLING, size, _SUPERSAMPLING, 3)
    each = range(_SUPERSAMPLING)
    # added up part by part, which is three times as fast as a mean over two axes
    smooth = sum(parts[:, row, :, column] for row in each for column in each) / _SUPERSAMPLING**2
    return Image.fromarray(np.rint(smooth).astype(np.uint8))


def _in_plane(points: np.ndarray) -> np.ndarray:
    plane = np.zeros((len(points), 2))
    shown = points[:, :2]
    plane[:, : shown.shape[1]] = shown
    return plane[np.isfinite(plane).all(axis=1)]


def _square_around(points: np.ndarray) -> Extent:
    if not len(points):
        return -1.0, 1.0, -1.0, 1.0
    low, high = points.min(axis=0), points.max(axis=0)
    x, y = (low + high) / 2
    # never narrower than floating point can tell apart so far from the origin
    half = max(0.6 * float((high - low).max()), 1e-6 * float(np.abs([low, high]).max())) or 1.0
    return x - half, x + half, y - half, y + half


def _crowding(points: np.ndarray, extent: Extent, side: int, radius: float) -> np.ndarray:
    """How many discs of `radius` pixels, one around each point, cover each pixel: float32 (side, side)."""
    left, right, bottom, top = extent
    column = (points[:, 0] - left) / (right - left) * side
    row = (top - points[:, 1]) / (top - bottom) * side
    reach = math.ceil(radius)
    rows, columns = (np.floor(axis).clip(reach, side - 1 - reach).astype(np.int64) for axis in (row, column))
    pixels, crowd = np.unique(rows * side + columns, return_counts=True)
    cover = np.zeros(side * side, np.float32)
    for down in range(-reach, reach + 1):
        for across in range(-reach, reach + 1):
            if math.hypot(down, across) <= radius:
                cover[pixels + down * side + across] += crowd
    return cover.reshape(side, side)


def save_png(image: Image.Image, path: str | os.PathLike[str]) -> None:
    """Write a PNG whole or not at all, over whatever is there; missing parent folders are made.

    Raises `OSError` with the path in it when the disk refuses.
    """
    path = Path(path)
    with naming(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as file, naming(path):
        image.save(file, format="PNG")
