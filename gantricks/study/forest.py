"""The picture of a study: a forest plot, a row per trick with its difference and the interval, beside the zero line."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from gantricks.study.table import Comparison, Table
from gantricks.study.words import counted, writer

WIDTH, ROW, PLOT = 1200, 44, 520
"""Pixels: the picture's width, the height of a row, the width of the part with the intervals."""

_FINE = 2
_LARGEST = 1e300
"""Beyond it a scale has no room for round ticks."""
_MARGIN = 40
_HEAD, _FOOT = 126, 84
_PAPER, _INK, _FAINT, _RULE, _BAND = "#ffffff", "#1c2430", "#6b7480", "#c9ced6", "#f5f6f8"
_GOOD, _BAD, _OPEN = "#1f8a5b", "#c8363f", "#6b7480"
_IN_FONT = str.maketrans("−×", "-x")
"""What Pillow's own font has no picture of."""
_COLOURS = {"good": _GOOD, "bad": _BAD, "open": _OPEN}


def forest(table: Table) -> Image.Image:
    """Draw a study's comparisons, the best trick on top, then its interactions.

    Green and red are verdicts, grey is no evidence. Bars are 95 % intervals; where there is none only the dot is drawn.
    """
    groups = [_sorted(group, table.better) for group in (table.comparisons, table.interactions) if group]
    height = _HEAD + sum(map(len, groups)) * ROW + (len(groups) - 1) * ROW + _FOOT
    sheet = _Sheet(height)
    sheet.text(_MARGIN, 34, f"{table.name}: {table.mode}", 26, _INK)
    runs = f"{table.figure} of {table.metric}, {len(table.seeds)} seeds, {table.steps:,} steps a run"
    sheet.text(_MARGIN, 68, runs, 17, _FAINT)
    kinds = ((table.comparisons, "comparison"), (table.interactions, "interaction"))
    counts = " and ".join(counted(len(group), kind) for group, kind in kinds if group)
    meaning = "dot: mean paired difference; bar: its 95 % interval; verdict: p adjusted (Holm) for"
    sheet.text(_MARGIN, 92, f"{meaning} {counts}", 17, _FAINT)
    scale = _Scale([*table.comparisons, *table.interactions])
    top = _HEAD
    for number, group in enumerate(groups):
        if number:
            sheet.text(_MARGIN, top + ROW / 2, "together, beyond what each does without the other", 17, _FAINT)
            top += ROW
        for position, found in enumerate(group):
            _row(sheet, scale, found, top, position % 2 == 0, writer(table))
            top += ROW
    _axis(sheet, scale, top, table.better)
    return sheet.image()


def _within(value: float) -> float:
    return max(-_LARGEST, min(_LARGEST, value))


class _Scale:
    """Where differences lie on the picture: round ticks, 0 among them."""

    def __init__(self, found: Sequence[Comparison]) -> None:
        ends = [0.0] + [_within(v) for c in found for v in (c.low, c.high, c.difference) if v is not None]
        span = max(ends) - min(ends)
        span = span if span > 1 / _LARGEST else 1.0
        self.step = _round(span / 5)
        self.low = math.floor(min(ends) / self.step - 0.2) * self.step
        self.high = math.ceil(max(ends) / self.step + 0.2) * self.step
        self.left = WIDTH - _MARGIN - 190 - PLOT

    def at(self, value: float) -> float:
        return self.left + (_within(value) - self.low) / (self.high - self.low) * PLOT

    def ticks(self) -> list[float]:
        first, last = round(self.low / self.step), round(self.high / self.step)
        return [number * self.step for number in range(first, last + 1)]


class _Sheet:
    """A picture drawn at twice its size: thin lines and dots come out smooth."""

    def __init__(self, height: int) -> None:
        self.height = height
        self._image = Image.new("RGB", (WIDTH * _FINE, height * _FINE), _PAPER)
        self._draw = ImageDraw.Draw(self._image)

    def text(self, x: float, y: float, text: str, size: int, colour: str, anchor: str = "lm") -> None:
        """Around the height `y`."""
        font = ImageFont.load_default(size * _FINE)
        self._draw.text((x * _FINE, y * _FINE), text.translate(_IN_FONT), colour, font, anchor)

    def width(self, text: str, size: int) -> float:
        return self._draw.textlength(text.translate(_IN_FONT), ImageFont.load_default(size * _FINE)) / _FINE

    def line(self, x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1) -> None:
        self._draw.line([v * _FINE for v in (x1, y1, x2, y2)], colour, round(width * _FINE))

    def box(self, x1: float, y1: float, x2: float, y2: float, colour: str) -> None:
        self._draw.rectangle([v * _FINE for v in (x1, y1, x2, y2)], colour)

    def dot(self, x: float, y: float, radius: float, colour: str) -> None:
        self._draw.ellipse([v * _FINE for v in (x - radius, y - radius, x + radius, y + radius)], colour)

    def image(self) -> Image.Image:
        return self._image.resize((WIDTH, self.height), Image.Resampling.BOX)


def _row(sheet: _Sheet, scale: _Scale, found: Comparison, top: float, band: bool, write: writer) -> None:
    middle, colour = top + ROW / 2, _COLOURS[found.tone]
    if band:
        sheet.box(_MARGIN - 14, top, WIDTH - _MARGIN + 14, top + ROW - 1, _BAND)
    zero = scale.at(0)
    sheet.line(zero, top, zero, top + ROW, _RULE, 1.5)
    sheet.text(_MARGIN, middle, _fitted(sheet, found.name, scale.left - _MARGIN - 24), 19, _INK)
    if found.low is not None and found.high is not None:
        low, high = scale.at(found.low), scale.at(found.high)
        sheet.line(low, middle, high, middle, colour, 3)
        for end in (low, high):
            sheet.line(end, middle - 6, end, middle + 6, colour, 3)
    if found.difference is not None:
        sheet.dot(scale.at(found.difference), middle, 7, colour)
    lost = f", {found.lost} lost" if found.lost else ""
    right = WIDTH - _MARGIN
    sheet.text(right, middle - 8, f"{write(found.difference, sign=True)}{lost}", 17, _INK, "rm")
    sheet.text(right, middle + 11, found.verdict.partition(":")[0], 15, colour, "rm")


def _axis(sheet: _Sheet, scale: _Scale, top: float, better: str) -> None:
    sheet.line(scale.left, top + 6, scale.left + PLOT, top + 6, _RULE)
    for tick in scale.ticks():
        at = scale.at(tick)
        sheet.line(at, top + 6, at, top + 12, _RULE)
        written = f"{tick:+.10g}" if tick else "0"
        sheet.text(at, top + 24, written.replace("-", "−"), 15, _FAINT, "mm")
    zero, gap = scale.at(0), 12
    words = ("worse with it", "better with it") if better == "higher" else ("better with it", "worse with it")
    for word, anchor, side in zip(words, ("rm", "lm"), (-1, 1), strict=True):
        room = zero - scale.left if side < 0 else scale.left + PLOT - zero
        if room > 30:
            sheet.text(zero + side * gap, top + 52, word, 16, _GOOD if word.startswith("better") else _BAD, anchor)
    sheet.line(zero, top, zero, top + 58, _RULE, 1.5)


def _sorted(group: Sequence[Comparison], better: str) -> list[Comparison]:
    sign = 1 if better == "higher" else -1
    known = [found for found in group if found.difference is not None]
    return sorted(known, key=lambda found: -sign * (found.difference or 0)) + [f for f in group if f.difference is None]


def _fitted(sheet: _Sheet, text: str, room: float) -> str:
    while sheet.width(text, 19) > room and len(text) > 1:
        text = text.rstrip("…")[:-1] + "…"
    return text


def _round(value: float) -> float:
    """The nearest number above of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= value * (1 - 1e-9))
