"""The picture of a study: a forest plot with a row per trick, its effect and interval, and a line at no effect.

Ratios stand on a logarithmic scale, where twice as much is as far from the line as half as much.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

from gantricks.pictures import Anchor, blank, rendered, write
from gantricks.study.table import Comparison, Table
from gantricks.study.words import counted, writer

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, ROW, PLOT = 1200, 44, 520
"""In pixels: the width of the picture, the height of a row, the width of the part with the intervals."""

_LARGEST = 1e300
"""The largest value on the scale. Beyond it, floating point has no room for round ticks."""
_MARGIN, _VERDICTS = 40, 190
_HEAD, _FOOT = 126, 84
_INK, _FAINT, _RULE, _BAND = "#1c2430", "#5b6470", "#c9ced6", "#f5f6f8"
_GOOD, _BAD, _OPEN = "#1f8a5b", "#c8363f", "#6b7480"
_SAME = "#2c67a8"
_COLOURS = {"good": _GOOD, "bad": _BAD, "same": _SAME, "open": _OPEN}
_HOLDING = {"max-t": "all of them at once", "holm": "each at the level of its test (Holm)", "none": "each by itself"}
_UP, _DOWN = (1, 2, 5, 10, 20, 50, 100, 200, 400, 900), (1, 2, 5, 10, 20, 30, 50, 70, 80, 90, 95, 99)
_TENS = [k * math.log(10) for k in range(2, 301)]
"""Where a logarithmic scale may have ticks: at changes of so many %, up or down, and at powers of ten beyond."""


def forest(table: Table) -> Image.Image:
    """Draw a study's comparisons, the best trick first, then its interactions.

    Verdicts are green or red, blue where there is no effect beyond the margin, and grey where nothing is established.
    Bars are intervals; without one only the dot is drawn.
    """
    groups = [_sorted(group, table.better) for group in (table.comparisons, table.interactions) if group]
    rows: list[Comparison | None] = []
    for group in groups:
        rows += [None, *group] if rows else group
    height = _HEAD + len(rows) * ROW + _FOOT
    figure = blank(WIDTH, height)
    _heading(figure, height, table)
    left, right = WIDTH - _MARGIN - _VERDICTS - PLOT, WIDTH - _MARGIN - _VERDICTS
    bars = figure.add_axes(
        (left / WIDTH, _FOOT / height, PLOT / WIDTH, len(rows) * ROW / height), facecolor="none", zorder=2
    )
    scale = _Scale(table)
    _limits(bars, [found for found in rows if found], len(rows), scale)
    _margin(bars, table, scale)
    band = False
    for number, found in enumerate(rows):
        middle = height - _HEAD - (number + 0.5) * ROW
        if found is None:
            write(figure, _MARGIN, middle, "together, beyond what each does without the other", 17, _FAINT)
            band = False
            continue
        band = not band
        if band:
            _band(figure, middle, height)
        _bar(bars, found, number, scale)
        _words(figure, found, middle, left, writer(table))
    _axis(bars, figure, left, right, table.better, scale)
    return rendered(figure)


def _heading(figure: Figure, height: float, table: Table) -> None:
    write(figure, _MARGIN, height - 34, f"{table.name}: {table.mode}", 25, _INK)
    runs = f"{table.figure} of {table.metric}, {len(table.seeds)} seeds, {table.steps:,} steps a run"
    write(figure, _MARGIN, height - 68, runs, 16, _FAINT)
    kinds = ((table.comparisons, "comparison"), (table.interactions, "interaction"))
    counts = " and ".join(counted(len(group), kind) for group, kind in kinds if group)
    what = "ratio of geometric means" if table.scale == "log" else "difference of means"
    meaning = f"dot: {what}; bar: its 95 % interval, {_HOLDING[table.adjust]}; {counts}"
    write(figure, _MARGIN, height - 92, meaning, 16, _FAINT)


class _Scale:
    """Places effects on the axis: differences as they are, ratios by their logarithms."""

    def __init__(self, table: Table) -> None:
        self.logs = table.scale == "log"

    def __call__(self, effect: float) -> float:
        place = math.log(max(effect, 1 / _LARGEST)) if self.logs else effect
        return max(-_LARGEST, min(_LARGEST, place))

    def ticks(self, low: float, high: float) -> list[float]:
        """Return places for ticks at round numbers, "no effect" among them."""
        from matplotlib.ticker import MaxNLocator

        if not self.logs:
            return [*MaxNLocator(nbins=7, steps=[1, 2, 5, 10]).tick_values(low, high)]
        apart = (high - low) / 8
        up = [math.log1p(share / 100) for share in _UP] + _TENS
        down = [-math.log1p(-share / 100) for share in _DOWN] + _TENS
        return sorted({*_thinned(up, high, apart), *(-place for place in _thinned(down, -low, apart) if place)})

    def label(self, place: float) -> str:
        """Return what stands at a tick: a difference, or a change in %."""
        if not place:
            return "0"
        if not self.logs:
            written = f"{place:+.10g}"
        elif -5 < place < 2.5:
            written = f"{100 * math.expm1(place):+.0f} %"
        else:
            written = f"×{math.exp(place):.0e}" if abs(place) < 690 else f"×1e{place / math.log(10):+.0f}"
        return written.replace("-", "−")


def _thinned(places: Sequence[float], end: float, apart: float) -> list[float]:
    """Return those of ascending places up to `end` that are far enough from 0 and from each other."""
    kept = [0.0]
    for place in places:
        if kept[-1] + apart <= place <= end:
            kept.append(place)
    return kept


def _limits(bars: Axes, found: Sequence[Comparison], rows: int, scale: _Scale) -> None:
    """Set the limits of the axis: round ticks that include "no effect", and room beyond the longest bars. Row 0 is at
    the top.
    """
    ends = [0.0] + [scale(v) for c in found for v in (c.low, c.high, c.effect) if v is not None]
    low, high = min(ends), max(ends)
    if high - low <= 1 / _LARGEST:
        low, high = -1.0, 1.0
    room = 0.04 * high - 0.04 * low
    ticks = scale.ticks(low - room, high + room)
    bars.set_xlim(min(ticks[0], low - room), max(ticks[-1], high + room))
    bars.set_ylim(rows - 0.5, -0.5)
    bars.set_yticks([])
    bars.set_xticks([*ticks])


def _margin(bars: Axes, table: Table, scale: _Scale) -> None:
    """Shade what counts as no effect."""
    if table.margin is not None:
        reach = math.log1p(table.margin) if scale.logs else table.margin
        bars.axvspan(-reach, reach, color=_SAME, alpha=0.08, linewidth=0, zorder=0)


def _band(figure: Figure, middle: float, height: float) -> None:
    from matplotlib.patches import Rectangle

    corner, width = ((_MARGIN - 14) / WIDTH, (middle - ROW / 2) / height), 1 - 2 * (_MARGIN - 14) / WIDTH
    figure.add_artist(
        Rectangle(corner, width, ROW / height, transform=figure.transFigure, facecolor=_BAND, linewidth=0)
    )


def _bar(bars: Axes, found: Comparison, row: int, scale: _Scale) -> None:
    colour = _COLOURS[found.tone]
    if found.low is not None and found.high is not None:
        ends = [scale(found.low), scale(found.high)]
        bars.plot(ends, [row, row], color=colour, linewidth=2, linestyle="-", marker="|", markersize=9, mew=2)
    if found.effect is not None:
        dot: dict[str, Any] = {
            "marker": "o",
            "markersize": 10,
            "markerfacecolor": colour,
            "markeredgewidth": 0,
            "fillstyle": "full",
        }
        bars.plot([scale(found.effect)], [row], linestyle="none", **dot)


def _words(figure: Figure, found: Comparison, middle: float, left: float, shown: writer) -> None:
    write(figure, _MARGIN, middle, found.name, 17, _INK, room=left - _MARGIN - 24)
    lost = f", {found.lost} lost" if found.lost else ""
    right = WIDTH - _MARGIN
    write(figure, right, middle + 9, f"{shown.effect(found.effect, None, None)}{lost}", 16, _INK, "right")
    write(figure, right, middle - 10, found.verdict.partition(":")[0], 14, _COLOURS[found.tone], "right")


def _axis(bars: Axes, figure: Figure, left: float, right: float, better: str, scale: _Scale) -> None:
    bars.grid(False)
    bars.axvline(0, color=_RULE, linewidth=1.2, linestyle="-", marker="", zorder=0)
    for name, spine in bars.spines.items():
        spine.set(visible=name == "bottom", color=_RULE, linewidth=0.8, position=("outward", 4))
    bars.tick_params(
        axis="x",
        which="major",
        bottom=True,
        top=False,
        direction="out",
        length=5,
        width=0.8,
        color=_RULE,
        labelbottom=False,
    )
    low, high = bars.get_xlim()
    for tick in bars.get_xticks():
        at = left + (tick / (high - low) - low / (high - low)) * PLOT
        write(figure, at, _FOOT - 24, scale.label(tick), 14, _FAINT, "center")
    zero, gap = left + -low / (high - low) * PLOT, 12
    anchors: tuple[Anchor, Anchor] = ("right", "left")
    sides = ("← worse with it", "better with it →") if better == "higher" else ("← better with it", "worse with it →")
    for word, anchor, room in zip(sides, anchors, (zero - left, right - zero), strict=True):
        if room > 30:
            at = zero - gap if anchor == "right" else zero + gap
            write(figure, at, _FOOT - 54, word, 15, _GOOD if "better" in word else _BAD, anchor)


def _sorted(group: Sequence[Comparison], better: str) -> list[Comparison]:
    sign = 1 if better == "higher" else -1
    known = [found for found in group if found.effect is not None]
    return sorted(known, key=lambda found: -sign * (found.effect or 0)) + [f for f in group if f.effect is None]
