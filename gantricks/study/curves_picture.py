"""The picture of a study's curves: the figure of each variant over the steps, the reference in black."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from PIL import Image

from gantricks.pictures import blank, rendered, write
from gantricks.study.curves import Curve
from gantricks.study.table import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 1200, 640
"""In pixels."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 110, 260, 110, 70
_INK, _FAINT, _RULE, _GREY = "#1c2430", "#5b6470", "#c9ced6", "#b6bcc6"
_COLOURS = {"good": "#1f8a5b", "bad": "#c8363f", "same": "#2c67a8", "open": _GREY}
_LINE = 17
"""The height of a line of text, in pixels."""
_NAMED = (HEIGHT - _TOP - _BOTTOM) // _LINE
"""The largest number of curves with a name at their end."""


def curves_picture(table: Table) -> Image.Image:
    """Draw a study's curves, with a band of one standard error around that of the reference.

    Curves have the colours of the verdicts, and variants without one are grey. Where the study compares ratios, the
    figure stands on a logarithmic scale. The names at the right are those of the variants with a verdict first, as many
    as there is room for.
    """
    figure = blank(WIDTH, HEIGHT)
    write(figure, _LEFT, HEIGHT - 34, f"{table.name}: {table.mode}", 25, _INK)
    told = f"{table.figure} of {table.metric} over the steps, {table.better} is better; band: ± 1 standard error"
    write(figure, _LEFT, HEIGHT - 68, told, 16, _FAINT)
    area = (_LEFT, _BOTTOM, WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM)
    axes = figure.add_axes(
        (area[0] / WIDTH, area[1] / HEIGHT, area[2] / WIDTH, area[3] / HEIGHT), facecolor="none", zorder=2
    )
    colours = _colours(table)
    reference = table.means[0].variant
    for variant, curve in table.curves.items():
        if variant != reference:
            style = {"linestyle": "-", "linewidth": 1.4, "marker": "", "zorder": 2}
            axes.plot(curve.steps, curve.means, color=colours[variant], **style)  # type: ignore[arg-type]
    if reference in table.curves:
        _reference(axes, table.curves[reference], table.scale == "log")
    _axis(axes, figure, table.scale == "log")
    _names(axes, figure, table, colours)
    return rendered(figure)


def _colours(table: Table) -> dict[str, str]:
    found = dict.fromkeys(table.curves, _GREY)
    for comparison in table.comparisons:
        for variant in comparison.plus + comparison.minus:
            if comparison.tone != "open":
                found[variant] = _COLOURS[comparison.tone]
    return found | {table.means[0].variant: _INK}


def _reference(axes: Axes, curve: Curve, logs: bool) -> None:
    axes.plot(curve.steps, curve.means, color=_INK, linewidth=2.4, linestyle="-", marker="", zorder=3)
    ends = [
        [
            mean * math.exp(side * (error or 0)) if logs else mean + side * (error or 0)
            for mean, error in zip(curve.means, curve.errors, strict=True)
        ]
        for side in (-1, 1)
    ]
    axes.fill_between(curve.steps, ends[0], ends[1], color=_INK, alpha=0.15, linewidth=0, zorder=1)


def _axis(axes: Axes, figure: Figure, logs: bool) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator

    if logs:
        axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10], integer=True))
    axes.yaxis.set_minor_locator(NullLocator())
    subs = (1.0, 2.0, 5.0) if not logs or high / low > 3 else tuple(1 + k / 4 for k in range(36))
    axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=9) if logs else MaxNLocator(nbins=6))
    axes.grid(True, axis="y", color=_RULE, linewidth=0.6)
    for side in (axes.xaxis, axes.yaxis):
        side.set_major_formatter(NullFormatter())
    for name, spine in axes.spines.items():
        spine.set(visible=name in ("bottom", "left"), color=_RULE, linewidth=0.8)
    axes.tick_params(which="both", length=0)
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    for tick in axes.get_xticks():
        if left <= tick <= right:
            place = _LEFT + (tick - left) / (right - left) * (WIDTH - _LEFT - _RIGHT)
            write(figure, place, _BOTTOM - 20, f"{tick:,.0f}", 14, _FAINT, "center")
    for tick in axes.get_yticks():
        if low <= tick <= high:
            write(figure, _LEFT - 10, _height(axes, tick), f"{tick:.4g}".replace("-", "−"), 14, _FAINT, "right")
    write(figure, _LEFT + (WIDTH - _LEFT - _RIGHT) / 2, _BOTTOM - 46, "steps", 15, _FAINT, "center")


def _height(axes: Axes, value: float) -> float:
    """Return the height of a value, in pixels from the bottom of the picture."""
    low, high = axes.get_ylim()
    if axes.get_yscale() == "log":
        value, low, high = (math.log(each) for each in (value, low, high))
    return _BOTTOM + (value - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM)


def _names(axes: Axes, figure: Figure, table: Table, colours: dict[str, str]) -> None:
    """Write the names of the curves at their ends, apart from each other."""
    reference = table.means[0].variant
    ends = {name: _height(axes, curve.means[-1]) for name, curve in table.curves.items()}
    worth = sorted(ends, key=lambda name: (name != reference, colours[name] == _GREY))[:_NAMED]
    place = float("inf")
    for name in sorted(worth, key=lambda name: -ends[name]):
        place = min(place - _LINE, ends[name])
        below = sum(ends[other] < ends[name] for other in worth)
        place = max(place, _BOTTOM + below * _LINE)
        write(figure, WIDTH - _RIGHT + 12, place, name, 13, colours[name], room=_RIGHT - 20)
