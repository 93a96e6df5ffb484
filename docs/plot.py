"""Draws curves and bars as SVG: a canvas, axes on it, and colours that can be read on white and on dark pages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from xml.sax.saxutils import escape

INK, BLUE, ORANGE, GREEN, PURPLE = "#7a7a7a", "#3d7fd0", "#d2691e", "#2f8f5b", "#9a62c7"
"""Text and what there is without the trick; reals; fakes; what the trick makes of it; another thing to compare with."""

TEXT = 12
"""Height of text in pixels."""

Rectangle = tuple[float, float, float, float]
"""Left, top, width and height in pixels."""


@dataclass(frozen=True)
class Axis:
    """What an axis shows, from `low` to `high`, with its unit in `label`.

    `ticks` are positions, or positions with what is written there.
    """

    label: str
    low: float
    high: float
    ticks: Sequence[float] | dict[float, str] = ()
    log: bool = False

    def share(self, value: float) -> float:
        """Where a value lies between the ends: 0 at `low`, 1 at `high`."""
        low, high, at = (
            (math.log10(v) for v in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        )
        return (at - low) / (high - low)

    def written(self) -> list[tuple[float, str]]:
        """The ticks and what is written there."""
        if isinstance(self.ticks, dict):
            return [*self.ticks.items()]
        return [(position, f"{position:g}".replace("-", "−")) for position in self.ticks]


class Canvas:
    """A picture without background; `title` is read to those who do not see it. Sizes in pixels."""

    def __init__(self, title: str, width: int = 640, height: int = 240) -> None:
        self.title, self.width, self.height = title, width, height
        self.elements: list[str] = []

    def add(self, tag: str, text: str = "", **attributes: Any) -> None:
        """One element; numbers are rounded, and `_` in the names of attributes stands for `-`."""
        shown = "".join(f' {name.replace("_", "-")}="{_shown(value)}"' for name, value in attributes.items())
        self.elements.append(f"<{tag}{shown}>{escape(text)}</{tag}>" if text else f"<{tag}{shown}/>")

    def line(self, x1: float, y1: float, x2: float, y2: float, colour: str = INK, **attributes: Any) -> None:
        self.add("line", x1=x1, y1=y1, x2=x2, y2=y2, stroke=colour, **attributes)

    def text(self, x: float, y: float, text: str, colour: str = INK, anchor: str = "middle", **attributes: Any) -> None:
        """`text` with its baseline at y and its start, middle or end at x."""
        if anchor != "middle":
            attributes = {"text_anchor": anchor} | attributes
        if colour != INK:
            attributes = {"fill": colour} | attributes
        self.add("text", text, x=x, y=y, **attributes)

    def panels(self, count: int = 1) -> list[Rectangle]:
        """Where `count` axes go side by side, with room around each for its labels."""
        each = self.width / count
        return [(each * i + 52, 44, each - 68, self.height - 44 - 46) for i in range(count)]

    def svg(self) -> str:
        """The file's text."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}" '
            f'height="{self.height}" role="img" font-family="Helvetica, Arial, sans-serif" font-size="{TEXT}" '
            f'fill="{INK}" text-anchor="middle">'
        )
        return "\n".join([head, f"<title>{escape(self.title)}</title>", *self.elements, "</svg>"]) + "\n"


class Axes:
    """Axes on a canvas, in `place`; what is drawn on them is given in the data's own units."""

    def __init__(self, canvas: Canvas, place: Rectangle, x: Axis, y: Axis, title: str = "") -> None:
        self.canvas, self.x, self.y = canvas, x, y
        self.left, self.top, self.width, self.height = place
        self.bottom, self.right = self.top + self.height, self.left + self.width
        for value, written in y.written():
            _, at = self.at(x.low, value)
            canvas.line(self.left, at, self.right, at, stroke_opacity=0.25)
            canvas.text(self.left - 6, at + 0.35 * TEXT, written, anchor="end")
        for value, written in x.written():
            at, _ = self.at(value, y.low)
            canvas.line(at, self.bottom, at, self.bottom + 4)
            canvas.text(at, self.bottom + 5 + TEXT, written)
        canvas.line(self.left, self.bottom, self.right, self.bottom)
        canvas.line(self.left, self.top, self.left, self.bottom)
        canvas.text(self.left + self.width / 2, self.bottom + 11 + 2 * TEXT, x.label)
        canvas.text(self.left - 30, self.top - 12, y.label, anchor="start")
        if title:
            canvas.text(self.left + self.width / 2, self.top - 30, title, font_weight="bold")

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point lies, in pixels."""
        return self.left + self.x.share(x) * self.width, self.bottom - self.y.share(y) * self.height

    def curve(
        self,
        xs: Iterable[float],
        ys: Iterable[float],
        colour: str,
        width: float = 2,
        dash: str = "",
        opacity: float = 1,
    ) -> None:
        """A line through points, cut where it leaves the axes at the top or at the bottom."""
        points = [self.at(x, y) for x, y in zip(xs, ys, strict=True)]
        kept = points[:1]
        for point in points[1:-1]:
            if math.dist(point, kept[-1]) >= 1.5:  # nobody sees more
                kept.append(point)
        kept += points[-1:]
        path = ""
        for (x1, y1), (x2, y2) in pairwise(kept):
            first, second = min(max(y1, self.top), self.bottom), min(max(y2, self.top), self.bottom)
            if first == second and (first, second) != (y1, y2):
                continue  # all of it is outside
            slope = (x2 - x1) / (y2 - y1) if y1 != y2 else 0.0
            begin, end = _point(x1 + slope * (first - y1), first), _point(x2 + slope * (second - y2), second)
            path += f" {end}" if path.endswith(begin) else f"M{begin} {end}"
        style: dict[str, Any] = {"stroke_dasharray": dash} if dash else {}
        if opacity < 1:
            style["stroke_opacity"] = opacity
        self.canvas.add(
            "path", d=path, fill="none", stroke=colour, stroke_width=width, stroke_linejoin="round", **style
        )

    def dot(self, x: float, y: float, colour: str, radius: float = 4) -> None:
        across, down = self.at(x, y)
        self.canvas.add("circle", cx=across, cy=down, r=radius, fill=colour)

    def dots(self, xs: Iterable[float], ys: Iterable[float], colour: str, size: float = 2) -> None:
        """Many small dots as one element."""
        path = "".join(f"M{_point(*self.at(x, y))}h0" for x, y in zip(xs, ys, strict=True))
        self.canvas.add("path", d=path, stroke=colour, stroke_width=size, stroke_linecap="round")

    def box(
        self, x1: float, x2: float, y1: float, y2: float, colour: str, opacity: float = 0.8, gap: float = 1
    ) -> None:
        """A filled rectangle with a gap of so many pixels to the next."""
        (left, bottom), (right, top) = self.at(x1, y1), self.at(x2, y2)
        self.canvas.add(
            "rect",
            x=left + gap / 2,
            y=top,
            width=right - left - gap,
            height=bottom - top,
            fill=colour,
            fill_opacity=opacity,
        )

    def mark(self, x: float | None = None, y: float | None = None, colour: str = INK) -> None:
        """A dashed line through the axes at `x`, or at `y`."""
        if x is not None:
            at, _ = self.at(x, self.y.low)
            self.canvas.line(at, self.top, at, self.bottom, colour, stroke_dasharray="3 3")
        if y is not None:
            _, at = self.at(self.x.low, y)
            self.canvas.line(self.left, at, self.right, at, colour, stroke_dasharray="3 3")

    def label(
        self, x: float, y: float, text: str, colour: str = INK, anchor: str = "start", dx: float = 0, dy: float = 0
    ) -> None:
        """`text` at a point, moved by (dx, dy) pixels."""
        across, down = self.at(x, y)
        self.canvas.text(across + dx, down + dy, text, colour, anchor)


def _point(x: float, y: float) -> str:
    return f"{_shown(float(x))},{_shown(float(y))}"


def _shown(value: object) -> str:
    """Numbers to a tenth of a pixel, shares (opacities) to a hundredth."""
    if not isinstance(value, float):
        return escape(str(value), {'"': "&quot;"})
    rounded = f"{value:.{2 if 0 < value < 1 else 1}f}"
    return "0" if float(rounded) == 0 else rounded.removesuffix(".0")
