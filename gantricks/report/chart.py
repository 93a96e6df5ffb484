"""Charts of curves as SVG in a page. They use the page's colours and fonts, so that they are readable on white and on
dark.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from gantricks.report.records import Curve

WIDTH, HEIGHT = 460, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 12, 30
_POINTS = 600
"""The largest number of points in a curve. Of more, only the lowest and the highest of neighbours are kept."""


def chart(title: str, curves: Sequence[tuple[str, int, Curve]]) -> str:
    """Return a chart of several curves: (name, number of its colour, points). Non-finite values are gaps."""
    points = [(step, value) for _, _, curve in curves for step, value in curve if value is not None]
    if not points:
        return ""
    first, last = min(step for step, _ in points), max(step for step, _ in points)
    ticks = _ticks(min(value for _, value in points), max(value for _, value in points))
    low, high = ticks[0], ticks[-1]

    def at(step: float, value: float) -> tuple[float, float]:
        along = (step - first) / (last - first) if last > first else 0.5
        x = _LEFT + along * (WIDTH - _LEFT - _RIGHT)
        return x, HEIGHT - _BOTTOM - (value - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><title>{escape(title)}</title>']
    for value in ticks:
        _, y = at(first, value)
        parts.append(f'<line class="rule" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_number(value)}</text>')
    for step, anchor in ((first, "start"), (last, "end"))[: 1 + (last > first)]:
        x, _ = at(step, low)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 10}" text-anchor="{anchor}">{step:,}</text>')
    # beside the number where there is one alone
    x, anchor = (_LEFT + WIDTH - _RIGHT) / 2, "middle" if last > first else "end"
    parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 10}" text-anchor="{anchor}">step\u00a0</text>')
    parts += [
        f'<path class="curve c{colour}" d="{path}"><title>{escape(name)}</title></path>'
        for name, colour, curve in curves
        if (path := _path([(step, value) for step, value in curve], at))
    ]
    return "".join([*parts, "</svg>"])


def _path(curve: Curve, at: Callable[[float, float], tuple[float, float]]) -> str:
    commands, pen_up = [], True
    for step, value in _thinned(curve):
        if value is None:
            pen_up = True
            continue
        x, y = at(step, value)
        # a line of no length shows a point that has no neighbours
        commands.append(f"M{x:.1f} {y:.1f}h0" if pen_up else f"L{x:.1f} {y:.1f}")
        pen_up = False
    return "".join(commands)


def _thinned(curve: Curve) -> Curve:
    size = math.ceil(2 * len(curve) / _POINTS)
    if size <= 2:
        return curve
    kept: Curve = []
    for start in range(0, len(curve), size):
        part = curve[start : start + size]
        finite = [point for point in part if point[1] is not None]
        ends = {min(finite, key=lambda p: p[1]), max(finite, key=lambda p: p[1])} if finite else set()  # type: ignore[arg-type,return-value]
        kept += sorted(ends) if len(finite) == len(part) else [*sorted(ends), (part[-1][0], None)]
    return kept


def _ticks(low: float, high: float) -> list[float]:
    """Return round numbers, the first at or below `low`, the last at or above `high`."""
    # ticks would coincide on a span that floats hardly resolve
    span = max(high - low, 1e-12 * abs(high), 1e-12 * abs(low), 1e-300) if high > low else abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / 4))
    spacing = next(factor * power for factor in (1, 2, 5, 10) if factor * power * 4 >= span * (1 - 1e-9))
    first, last = math.floor(low / spacing + 1e-9), math.ceil(high / spacing - 1e-9)
    return [number * spacing for number in range(first, max(last, first + 1) + 1)]


def _number(value: float) -> str:
    written = f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.4g}"
    return written.replace("-", "−")
