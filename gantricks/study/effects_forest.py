"""The picture of a regression's findings: a row per effect, its simultaneous interval, and a line at no effect."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL.Image import Image

from gantricks.pictures import Anchor, blank, rendered, write
from gantricks.study.effects import Effect, Findings, percent
from gantricks.study.effects_words import shown
from gantricks.study.words import counted

WIDTH, ROW = 1200, 30
_LEFT, _RIGHT = 430, 960
"""The part of the width with the intervals, in pixels."""
_MARGIN, _HEAD, _FOOT = 40, 116, 76
_INK, _FAINT, _RULE = "#1c2430", "#5b6470", "#c9ced6"
_GOOD, _BAD, _OPEN = "#1f8a5b", "#c8363f", "#6b7480"

_WIDEST = math.log(50)
"""The largest log ratio on the scale. Longer bars end there."""


def effects_forest(found: Findings) -> Image:
    """Draw the effects of every family, one below the other, in the order of the findings.

    Bars are simultaneous 95 % intervals: green where all of it is on the better side, red on the worse, else grey.
    """
    families = [(family.title, shown(family)) for family in found.families]
    lines: list[str | Effect] = []
    for title, effects in families:
        lines += [title, *effects] if effects else []
    height = _HEAD + max(1, len(lines)) * ROW + _FOOT
    figure = blank(WIDTH, height)
    write(figure, _MARGIN, height - 34, f"{found.name}: {found.mode}", 25, _INK)
    runs = f"{found.figure} of {found.metric}, {counted(found.used, 'run')}, {found.steps:,} steps each"
    write(figure, _MARGIN, height - 68, runs, 16, _FAINT)
    write(
        figure,
        _MARGIN,
        height - 92,
        "dot: estimate; bar: 95 % interval, for all rows below a title at once",
        16,
        _FAINT,
    )
    scale = _Scale([line for line in lines if isinstance(line, Effect)], found)
    bars = figure.add_axes((0, 0, 1, 1), facecolor="none", zorder=2)
    bars.set_xlim(0, WIDTH)
    bars.set_ylim(0, height)
    bars.axis("off")
    bottom = _FOOT
    bars.plot([scale.at(0)] * 2, [bottom, height - _HEAD], color=_RULE, linewidth=1.2, linestyle="-", marker="")
    for number, line in enumerate(lines):
        y = height - _HEAD - (number + 0.5) * ROW
        if isinstance(line, str):
            write(figure, _MARGIN, y, line, 16, _FAINT)
            continue
        colour = _colour(line, found)
        write(figure, _MARGIN + 16, y, line.name, 15, _INK, room=_LEFT - _MARGIN - 40)
        if line.low is not None and line.high is not None:
            ends = [scale.at(line.low), scale.at(line.high)]
            bars.plot(ends, [y, y], color=colour, linewidth=2, linestyle="-", marker="|", markersize=8, mew=2)
        bars.plot([scale.at(line.value or 0)], [y], color=colour, linestyle="none", marker="o", markersize=7, mew=0)
        words = percent(line.value or 0, found.scale)
        write(figure, WIDTH - _MARGIN, y, f"{words}, {counted(line.runs, 'run')}", 14, colour, "right")
    for tick in scale.ticks:
        write(figure, scale.at(tick), bottom - 20, percent(tick, found.scale) if tick else "0", 13, _FAINT, "center")
        bars.plot([scale.at(tick)] * 2, [bottom - 5, bottom], color=_RULE, linewidth=0.8, linestyle="-", marker="")
    anchors: tuple[Anchor, Anchor] = ("right", "left")
    sides = (
        ("← worse with it", "better with it →") if found.better == "higher" else ("← better with it", "worse with it →")
    )
    for side, anchor, room in zip(sides, anchors, (scale.at(0) - _LEFT, _RIGHT - scale.at(0)), strict=True):
        if room > 30:
            at = scale.at(0) + (12 if anchor == "left" else -12)
            write(figure, at, bottom - 50, side, 15, _GOOD if "better" in side else _BAD, anchor)
    return rendered(figure)


class _Scale:
    """From an effect to pixels."""

    def __init__(self, effects: Sequence[Effect], found: Findings) -> None:
        from matplotlib.ticker import MaxNLocator

        ends = [0.0] + [v for e in effects for v in (e.value, e.low, e.high) if v is not None and math.isfinite(v)]
        if found.scale == "log":
            ends = [max(-_WIDEST, min(_WIDEST, end)) for end in ends]
        low, high = min(ends), max(ends)
        room = 0.04 * (high - low) or 1.0
        self.low, self.high = low - room, high + room
        if found.scale == "log":
            ratios = (1 / 50, 1 / 20, 1 / 10, 1 / 5, 1 / 2, 0.8, 1, 1.25, 2, 5, 10, 20, 50)
            within = [math.log(ratio) for ratio in ratios if self.low <= math.log(ratio) <= self.high]
            apart = 0.07 * (self.high - self.low)
            self.ticks = [tick for tick in within if not tick or abs(tick) >= apart]
        else:
            every = MaxNLocator(nbins=7, steps=[1, 2, 5, 10]).tick_values(self.low, self.high)
            self.ticks = [float(tick) for tick in every if self.low <= tick <= self.high]

    def at(self, value: float) -> float:
        within = max(self.low, min(self.high, value))
        return _LEFT + (within - self.low) / (self.high - self.low) * (_RIGHT - _LEFT)


def _colour(effect: Effect, found: Findings) -> str:
    if effect.low is None or effect.high is None or effect.low <= 0 <= effect.high:
        return _OPEN
    return _GOOD if (effect.low > 0) == (found.better == "higher") else _BAD
