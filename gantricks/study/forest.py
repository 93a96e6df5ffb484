"""The picture of a study: a forest plot with a row per trick, its difference and interval, and a line at zero."""

from __future__ import annotations

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
_COLOURS = {"good": _GOOD, "bad": _BAD, "open": _OPEN}


def forest(table: Table) -> Image.Image:
    """Draw a study's comparisons, the best trick first, then its interactions.

    Verdicts are green or red, and grey means no evidence. Bars are 95 % intervals; without an interval only the dot is
    drawn.
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
    _scale(bars, [found for found in rows if found], len(rows))
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
        _bar(bars, found, number)
        _words(figure, found, middle, left, writer(table))
    _axis(bars, figure, left, right, table.better)
    return rendered(figure)


def _heading(figure: Figure, height: float, table: Table) -> None:
    write(figure, _MARGIN, height - 34, f"{table.name}: {table.mode}", 25, _INK)
    runs = f"{table.figure} of {table.metric}, {len(table.seeds)} seeds, {table.steps:,} steps a run"
    write(figure, _MARGIN, height - 68, runs, 16, _FAINT)
    kinds = ((table.comparisons, "comparison"), (table.interactions, "interaction"))
    counts = " and ".join(counted(len(group), kind) for group, kind in kinds if group)
    meaning = "dot: mean paired difference; bar: its 95 % interval; verdict: p adjusted (Holm) for"
    write(figure, _MARGIN, height - 92, f"{meaning} {counts}", 16, _FAINT)


def _within(value: float) -> float:
    return max(-_LARGEST, min(_LARGEST, value))


def _scale(bars: Axes, found: Sequence[Comparison], rows: int) -> None:
    """Set the scale of differences: round ticks that include 0, and room beyond the longest bars. Row 0 is at
    the top.
    """
    from matplotlib.ticker import MaxNLocator

    ends = [0.0] + [_within(v) for c in found for v in (c.low, c.high, c.difference) if v is not None]
    low, high = min(ends), max(ends)
    if high - low <= 1 / _LARGEST:
        low, high = -1.0, 1.0
    room = 0.04 * high - 0.04 * low
    ticks = MaxNLocator(nbins=7, steps=[1, 2, 5, 10]).tick_values(low - room, high + room)
    bars.set_xlim(min(ticks[0], low - room), max(ticks[-1], high + room))
    bars.set_ylim(rows - 0.5, -0.5)
    bars.set_yticks([])
    bars.set_xticks([*ticks])


def _band(figure: Figure, middle: float, height: float) -> None:
    from matplotlib.patches import Rectangle

    corner, width = ((_MARGIN - 14) / WIDTH, (middle - ROW / 2) / height), 1 - 2 * (_MARGIN - 14) / WIDTH
    figure.add_artist(
        Rectangle(corner, width, ROW / height, transform=figure.transFigure, facecolor=_BAND, linewidth=0)
    )


def _bar(bars: Axes, found: Comparison, row: int) -> None:
    colour = _COLOURS[found.tone]
    if found.low is not None and found.high is not None:
        ends = [_within(found.low), _within(found.high)]
        bars.plot(ends, [row, row], color=colour, linewidth=2, linestyle="-", marker="|", markersize=9, mew=2)
    if found.difference is not None:
        dot: dict[str, Any] = {
            "marker": "o",
            "markersize": 10,
            "markerfacecolor": colour,
            "markeredgewidth": 0,
            "fillstyle": "full",
        }
        bars.plot([_within(found.difference)], [row], linestyle="none", **dot)


def _words(figure: Figure, found: Comparison, middle: float, left: float, shown: writer) -> None:
    write(figure, _MARGIN, middle, found.name, 17, _INK, room=left - _MARGIN - 24)
    lost = f", {found.lost} lost" if found.lost else ""
    right = WIDTH - _MARGIN
    write(figure, right, middle + 9, f"{shown(found.difference, sign=True)}{lost}", 16, _INK, "right")
    write(figure, right, middle - 10, found.verdict.partition(":")[0], 14, _COLOURS[found.tone], "right")


def _axis(bars: Axes, figure: Figure, left: float, right: float, better: str) -> None:
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
        written = f"{tick:+.10g}" if tick else "0"
        at = left + (tick / (high - low) - low / (high - low)) * PLOT
        write(figure, at, _FOOT - 24, written.replace("-", "−"), 14, _FAINT, "center")
    zero, gap = left + -low / (high - low) * PLOT, 12
    anchors: tuple[Anchor, Anchor] = ("right", "left")
    sides = ("← worse with it", "better with it →") if better == "higher" else ("← better with it", "worse with it →")
    for word, anchor, room in zip(sides, anchors, (zero - left, right - zero), strict=True):
        if room > 30:
            at = zero - gap if anchor == "right" else zero + gap
            write(figure, at, _FOOT - 54, word, 15, _GOOD if "better" in word else _BAD, anchor)


def _sorted(group: Sequence[Comparison], better: str) -> list[Comparison]:
    sign = 1 if better == "higher" else -1
    known = [found for found in group if found.difference is not None]
    return sorted(known, key=lambda found: -sign * (found.difference or 0)) + [f for f in group if f.difference is None]
