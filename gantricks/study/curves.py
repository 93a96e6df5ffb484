"""Curves of a study: its figure over the steps of each run, where the recipe measures it while it trains."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gantricks.metrics.base import scalar_name
from gantricks.runs.folder import METRICS
from gantricks.study.statistics import deviation, mean

Points = Mapping[int, float]
"""The figure of one run by step."""

STILL = 0.05
"""A control whose figure still gets better by more than this share in the last quarter of its steps has not settled."""


@dataclass(frozen=True)
class Curve:
    """The figure of one variant over its steps: `means` of all runs that have it, geometric ones where the study
    compares ratios, and their standard errors (of the logarithm there), None where a single run has it.
    """

    steps: tuple[int, ...]
    means: tuple[float, ...]
    errors: tuple[float | None, ...]


def read_curve(run: Path, metric: str, figure: str) -> dict[int, float]:
    """Return the figure of one run by step. It is empty where the run has not measured it.

    Lines that are not whole, as the last of a killed run may be, are left out.
    """
    try:
        text = (run / METRICS).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    name, found = scalar_name(metric, figure), dict[int, float]()
    for line in text.splitlines():
        try:
            scalars = json.loads(line)
            step, value = scalars["step"], scalars.get(name)
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        if isinstance(step, int) and isinstance(value, int | float) and math.isfinite(value):
            found[step] = float(value)
    return found


def averaged(runs: Sequence[Points], ratio: bool) -> Curve:
    """Return the mean curve of the runs of one variant."""
    steps, means, errors = list[int](), list[float](), list[float | None]()
    for step in sorted({step for points in runs for step in points}):
        values = [points[step] for points in runs if step in points]
        if ratio:
            values = [math.log(value) for value in values if value > 0]
        if not values:
            continue
        centre, spread = mean(values), deviation(values)
        steps.append(step)
        means.append(math.exp(centre) if ratio else centre)
        errors.append(None if spread is None else spread / math.sqrt(len(values)))
    return Curve(tuple(steps), tuple(means), tuple(errors))


def late_gain(curve: Curve, better: str, total: int) -> float:
    """Return the share by which the figure got better in the last quarter of `total` steps, at most 0 where it did not.

    It is 0 where the curve has no point in each of the last two quarters.
    """
    before = [i for i, step in enumerate(curve.steps) if total / 2 < step <= 0.75 * total]
    if not before or curve.steps[-1] <= 0.75 * total:
        return 0.0
    start, end = curve.means[before[-1]], curve.means[-1]
    if not start:
        return 0.0
    return (end - start if better == "higher" else start - end) / abs(start)


def at_step(points: Points, step: float, ratio: bool) -> float | None:
    """Return the figure of a run at a step, on the line between the points around it; None outside of them.

    With `ratio`, the line is one of logarithms, and None is returned where a figure is not above 0.
    """
    known = sorted(points)
    after = next((known_step for known_step in known if known_step >= step), None)
    before = next((known_step for known_step in reversed(known) if known_step <= step), None)
    if after is None or before is None:
        return None
    low, high = points[before], points[after]
    if ratio and min(low, high) <= 0:
        return None
    share = (step - before) / (after - before) if after > before else 0.0
    if ratio:
        return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
    return low + share * (high - low)
