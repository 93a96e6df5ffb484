"""The picture of a search: what each key matters, and for each a slice, the figure of every trial over its values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL.Image import Image

from gantricks.pictures import blank, rendered, write
from gantricks.study.parameters import Choice, Drawn, Parameter
from gantricks.study.search import IMPORTANCE, Search
from gantricks.study.search_words import brief, by_importance
from gantricks.study.trials import LEAST
from gantricks.study.words import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, ROW = 1200, 30
"""In pixels: the width of the picture, the height of a bar's row."""
ACROSS = 3
"""The number of slices side by side."""

_MARGIN, _HEAD, _CELL, _GAP = 40, 116, 300, 60
_BARS, _SHARES = 430, 960
"""The part of the width with the bars of importance."""
_INK, _FAINT, _RULE = "#1c2430", "#5b6470", "#c9ced6"
_BEST, _OTHER = "#1f8a5b", "#2c67a8"


def search_picture(found: Search) -> Image:
    """Draw the importance of each key as a bar, and below a slice for each: a dot for every trial with a figure, the
    best in green. Axes are logarithmic where a range is, and where ratios of the figure are compared.
    """
    bars = by_importance(found)
    down = math.ceil(len(found.space) / ACROSS)
    top = _HEAD + ROW * (1 + max(1, len(bars)))
    height = top + down * (_CELL + _GAP) + 20
    figure = blank(WIDTH, height)
    write(figure, _MARGIN, height - 34, f"{found.name}: tune", 25, _INK)
    told = f"{found.figure} of {found.metric}, {found.better} is better; {counted(len(found.trials), 'trial')}"
    write(figure, _MARGIN, height - 68, told, 16, _FAINT)
    meaning = f"bar: what a key matters for being among the best tenth ({IMPORTANCE}); dot: a trial, the best in green"
    write(figure, _MARGIN, height - 92, meaning, 16, _FAINT)
    _importance(figure, height, bars)
    shown = [trial for trial in found.trials if trial.figure is not None]
    width = (WIDTH - 2 * _MARGIN - (ACROSS - 1) * _GAP) / ACROSS
    for number, one in enumerate(found.space):
        row, column = divmod(number, ACROSS)
        left, bottom = _MARGIN + column * (width + _GAP), height - top - (row + 1) * (_CELL + _GAP) + _GAP
        write(figure, left, bottom + _CELL - 20, one.key, 15, _INK, room=width)
        points = [(t.values[one.key], t.figure or 0.0, t is shown_best(found)) for t in shown if one.key in t.values]
        _slice(figure, (left + 52, bottom, width - 52, _CELL - 44), height, one, points, _logarithmic(found))
    return rendered(figure)


def shown_best(found: Search) -> object:
    """Return the best trial as it stands among the trials."""
    return next((trial for trial in found.trials if found.best and trial.number == found.best.number), None)


def _logarithmic(found: Search) -> bool:
    return found.ratio and all(trial.figure is None or trial.figure > 0 for trial in found.trials)


def _importance(figure: Figure, height: float, bars: Sequence[tuple[str, float]]) -> None:
    from matplotlib.patches import Rectangle

    if not bars:
        told = f"importance is told from {LEAST} trials with a figure on"
        write(figure, _MARGIN, height - _HEAD - ROW / 2, told, 15, _FAINT)
    for number, (key, share) in enumerate(bars):
        middle = height - _HEAD - (number + 0.5) * ROW
        write(figure, _MARGIN, middle, key, 15, _INK, room=_BARS - _MARGIN - 24)
        corner = _BARS / WIDTH, (middle - 8) / height
        size = share * (_SHARES - _BARS) / WIDTH, 16 / height
        figure.add_artist(Rectangle(corner, *size, transform=figure.transFigure, facecolor=_OTHER, linewidth=0))
        end = _BARS + share * (_SHARES - _BARS) + 12
        write(figure, end, middle, f"{100 * share:.0f} %", 14, _FAINT)


def _slice(
    figure: Figure,
    place: tuple[float, float, float, float],
    height: float,
    one: Parameter,
    points: Sequence[tuple[Drawn, float, bool]],
    logarithmic: bool,
) -> None:
    left, bottom, wide, high = place
    axes = figure.add_axes((left / WIDTH, bottom / height, wide / WIDTH, high / height), facecolor="none", zorder=2)
    low, upper = (-0.5, len(one.values) - 0.5) if isinstance(one, Choice) else _across(one)
    room = 0 if isinstance(one, Choice) else 0.04 * (upper - low)
    axes.set_xlim(low - room, upper + room)
    axes.grid(False)
    for name, spine in axes.spines.items():
        spine.set(visible=name in ("left", "bottom"), color=_RULE, linewidth=0.8)
    dots = [
        (_at(one, value, number), math.log(figure_) if logarithmic else figure_, best)
        for number, (value, figure_, best) in enumerate(points)
    ]
    for best in (False, True):
        chosen = [(x, y) for x, y, is_best in dots if is_best == best]
        axes.plot(
            [x for x, _ in chosen],
            [y for _, y in chosen],
            linestyle="none",
            marker="o",
            markersize=8 if best else 5,
            color=_BEST if best else _OTHER,
            alpha=1.0 if best else 0.6,
            mew=0,
        )
    _ends(figure, axes, place, one, [y for _, y, _ in dots], logarithmic)


def _across(one: Parameter) -> tuple[float, float]:
    assert not isinstance(one, Choice)
    return (math.log(one.low), math.log(one.high)) if one.log else (one.low, one.high)


def _at(one: Parameter, value: Drawn, number: int) -> float:
    """Return the place of a value. Trials with one choice are spread, so that they do not hide each other."""
    if isinstance(one, Choice):
        return one.values.index(str(value)) + 0.25 * math.sin(2.4 * number)
    return math.log(float(value)) if one.log else float(value)


def _ends(
    figure: Figure,
    axes: Axes,
    place: tuple[float, float, float, float],
    one: Parameter,
    heights: Sequence[float],
    logarithmic: bool,
) -> None:
    """Write what stands at the ends of both axes, in the font of the other pictures."""
    left, bottom, wide, high = place
    axes.set_xticks([])
    axes.set_yticks([])
    if isinstance(one, Choice):
        each = wide / len(one.values)
        for number, value in enumerate(one.values):
            write(figure, left + (number + 0.5) * each, bottom - 16, value, 13, _FAINT, "center", room=each)
    else:
        write(figure, left, bottom - 16, brief(one.low), 13, _FAINT)
        write(figure, left + wide, bottom - 16, brief(one.high), 13, _FAINT, "right")
        if one.log:
            write(figure, left + wide / 2, bottom - 16, "log", 13, _FAINT, "center")
    if heights:
        low, upper = min(heights), max(heights)
        room = 0.06 * (upper - low) or 0.5
        axes.set_ylim(low - room, upper + room)
        for end in dict.fromkeys((low, upper)):
            at = bottom + (end - low + room) / (upper - low + 2 * room) * high
            write(figure, left - 8, at, f"{math.exp(end) if logarithmic else end:.3g}", 13, _FAINT, "right")
