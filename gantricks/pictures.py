"""Pictures of samples: grids of images, scatter plots of points, and PNG files that are written completely or not at
all.
"""

from __future__ import annotations

import logging
import math
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from PIL import Image

from gantricks.files import naming, whole

if TYPE_CHECKING:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

DPI = 100
"""Pixels per inch for matplotlib."""

Anchor = Literal["left", "center", "right"]

_SEAM = 96
_FINE = 2
_REAL, _GENERATED = "#b0b4bc", "#d62746"

Extent = tuple[float, float, float, float]
"""(left, right, bottom, top) of a scatter plot, in data units."""


def to_pixels(images: np.ndarray) -> np.ndarray:
    """Convert floats (N, C, H, W) in [-1, 1] to uint8 (N, H, W, C), rounded to the nearest level.

    Values beyond [-1, 1], infinities included, are clipped. NaN becomes 0, the darkest level.
    """
    levels = np.rint((images.astype(np.float32) + 1) * 127.5).clip(0, 255)
    found: np.ndarray = np.nan_to_num(levels, nan=0).astype(np.uint8).transpose(0, 2, 3, 1)
    return found


def image_grid(images: np.ndarray, columns: int | None = None, padding: int = 2) -> Image.Image:
    """Arrange uint8 (N, H, W, C) in rows, with `padding` pixels between and around the images.

    By default `columns` makes the picture nearly square. Images of one or two channels show the first, in grey; others
    show the first three, as red, green and blue. Raises `ValueError` when there is no image.
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
    """Return the number of columns whose picture is nearest to a square; among equals, the one with the fewest empty
    cells.
    """
    around = round(math.sqrt(count * height / width))

    def badness(columns: int) -> tuple[float, int]:
        rows = math.ceil(count / columns)
        return abs(math.log(columns * width / (rows * height))), rows * columns - count

    return min(range(max(1, around - 1), around + 2), key=badness)


def scatter(
    points: np.ndarray, reference: np.ndarray | None = None, size: int = 512, extent: Extent | None = None
) -> Image.Image:
    """Plot `points` (N, D) in colour over `reference` (M, D) in light grey, on a square of `size` pixels.

    Overlapping points make the colour deeper. `extent` defaults to a square around the reference (around the points
    when there is none) with a margin. Points beyond it are drawn at its edge, and non-finite points are left out. Of
    more than two dimensions the first two are drawn; one dimension is drawn as a line.
    """
    points = _in_plane(points)
    beneath = _in_plane(reference) if reference is not None else np.empty((0, 2))
    extent = extent or _square_around(beneath if len(beneath) else points)
    figure = blank(size, size)
    diameter = max(2.0, size / 128)
    for layer, colour, opacity in ((beneath, _REAL, 0.3), (points, _GENERATED, 0.4)):
        _dots(figure, _on_paper(layer, extent, size, diameter), diameter, colour, opacity)
    return rendered(figure)


def blank(width: int, height: int) -> Figure:
    """Return an empty white matplotlib figure of this size in pixels; `rendered` makes an image of it.

    Figures share no state, so they may be drawn in several threads at once.
    """
    figure_class, canvas_class = _matplotlib()
    figure = figure_class(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white", edgecolor="none")
    figure.set_layout_engine("none")
    canvas_class(figure)
    return figure


def rendered(figure: Figure) -> Image.Image:
    """Return the picture of a figure from `blank`. It is drawn at twice its size, so that small dots have precise
    positions.
    """
    canvas = cast("FigureCanvasAgg", figure.canvas)
    figure.set_dpi(DPI * _FINE)
    canvas.draw()
    shape = canvas.get_width_height(physical=True)
    drawn = Image.frombuffer("RGBA", shape, canvas.buffer_rgba(), "raw", "RGBA", 0, 1)
    return drawn.convert("RGB").reduce(_FINE)


def write(
    figure: Figure,
    x: float,
    y: float,
    text: str,
    size: float,
    colour: str,
    anchor: Anchor = "left",
    room: float = math.inf,
) -> None:
    """Write text on a figure, in a font that comes with matplotlib, so that it looks the same on every machine.

    `text` is centred on the height `y`, and its left end, centre or right end (`anchor`) is at `x`. Both are in pixels
    from the lower left corner, as is `size`, the size of the letters. Text that is wider than `room` is cut.
    """
    import matplotlib
    from matplotlib.font_manager import FontProperties

    font = FontProperties(
        fname=Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size=size * 72 / DPI
    )
    written = figure.text(
        x / DPI,
        y / DPI,
        text,
        transform=figure.dpi_scale_trans,
        fontproperties=font,
        color=colour,
        ha=anchor,
        va="center_baseline",
        parse_math=False,
        usetex=False,
    )
    while written.get_window_extent().width > room and len(text) > 1:
        text = text.rstrip("…")[:-1] + "…"
        written.set_text(text)


@cache
def _matplotlib() -> tuple[type[Figure], type[FigureCanvasAgg]]:
    """Import matplotlib only when something is drawn, because it takes half a second. Its warning about a missing cache
    folder is hidden.
    """
    log = logging.getLogger("matplotlib")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    finally:
        log.setLevel(level)
    return Figure, FigureCanvasAgg


def _dots(figure: Figure, places: np.ndarray, diameter: float, colour: str, opacity: float) -> None:
    """Draw a disc at each of `places` (N, 2), in pixels from the lower left corner."""
    from matplotlib.lines import Line2D
    from matplotlib.transforms import Affine2D

    disc: dict[str, Any] = {"marker": "o", "markersize": diameter * 72 / DPI, "markeredgewidth": 0, "fillstyle": "full"}
    x, y = (places / DPI).T
    inches = Affine2D() + figure.dpi_scale_trans
    figure.add_artist(Line2D(x, y, linestyle="none", color=colour, alpha=opacity, transform=inches, **disc))


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
    # never narrower than floating point can resolve at this distance from the origin
    half = max(0.6 * float((high - low).max()), 1e-6 * float(np.abs([low, high]).max())) or 1.0
    return x - half, x + half, y - half, y + half


def _on_paper(points: np.ndarray, extent: Extent, side: int, diameter: float) -> np.ndarray:
    """Return the positions of points in pixels from the lower left corner. Points beyond the edge are moved so that
    their discs touch it from inside.
    """
    left, right, bottom, top = extent
    places = (points - (left, bottom)) / (right - left, top - bottom) * side
    return places.clip(diameter / 2, side - diameter / 2)


def save_png(image: Image.Image, path: str | os.PathLike[str]) -> None:
    """Write a PNG completely or not at all, over an existing file; missing parent folders are made.

    Raises `OSError` that names the path when the disk refuses.
    """
    path = Path(path)
    with naming(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as file, naming(path):
        image.save(file, format="PNG")
