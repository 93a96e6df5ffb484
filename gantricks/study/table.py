"""From the outcomes of a study's runs to its table: a mean per variant, a paired difference per contrast, a verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from gantricks.statistics import deviation, estimate, holm, mean
from gantricks.study.folder import Outcome
from gantricks.study.variants import Contrast

LEVEL = 0.05
"""A difference is evidence when its adjusted p is below."""

HELPS, HURTS, TOGETHER, APART, OPEN = "helps", "hurts", "stronger together", "weaker together", "no evidence"

Outcomes = Mapping[str, Mapping[int, Outcome]]
"""By variant and seed."""


@dataclass(frozen=True)
class Mean:
    """The figure of one variant: over `n` runs; `diverged` and `failed` more have none. `values` by seed; `figures`:
    likewise every figure of the metric, by its name.
    """

    variant: str
    mean: float | None
    sd: float | None
    n: int
    diverged: int
    failed: int
    values: dict[int, float]
    figures: dict[str, dict[int, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """What a trick does: the mean over seeds of the figure with it less the figure without it.

    `n`: pairs of runs that both have a figure; `lost`: pairs in which one has none. `low`, `high`: the 95 % interval.
    `holm`: `p` adjusted for the number of comparisons of its kind. `note`: why a clear difference is no verdict.
    """

    name: str
    plus: tuple[str, ...]
    minus: tuple[str, ...]
    difference: float | None
    sd: float | None
    low: float | None
    high: float | None
    p: float | None
    holm: float | None
    n: int
    lost: int
    verdict: str
    note: str = ""


@dataclass(frozen=True)
class Table:
    """What a study found. `better`: "higher" or "lower". `floor`: the figure of real samples against real ones;
    `floors`: every figure of theirs.
    """

    name: str
    mode: str
    metric: str
    figure: str
    better: str
    steps: int
    seeds: tuple[int, ...]
    floor: float | None
    means: tuple[Mean, ...]
    comparisons: tuple[Comparison, ...]
    interactions: tuple[Comparison, ...]
    impossible: dict[str, str]
    failed: dict[str, str]
    runs: int
    seconds: float
    floors: dict[str, float | None] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def compare(contrasts: Sequence[Contrast], outcomes: Outcomes, seeds: Sequence[int], better: str) -> list[Comparison]:
    """Estimate contrasts of one kind; their p are adjusted for one another."""
    estimates = []
    for contrast in contrasts:
        values = [list(_signed(contrast, outcomes, seed)) for seed in seeds]
        whole = [row for row in values if len(row) == len(contrast.variants)]
        magnitude = max((abs(value) for row in whole for value in row), default=0.0)
        estimates.append(estimate([sum(row) for row in whole], magnitude))
    adjusted = holm([found.p for found in estimates])
    comparisons = []
    for contrast, found, p in zip(contrasts, estimates, adjusted, strict=True):
        low, high = found.interval or (None, None)
        verdict, note = _verdict(contrast, found.mean, p, outcomes, better)
        lost = sum(1 for seed in seeds if any(seed in outcomes[v] for v in contrast.variants)) - found.n
        sides = (contrast.name, contrast.plus, contrast.minus)
        comparisons.append(
            Comparison(*sides, found.mean, found.sd, low, high, found.p, p, found.n, lost, verdict, note)
        )
    return comparisons


def summarise(variant: str, outcomes: Mapping[int, Outcome]) -> Mean:
    """The mean of one variant over the seeds that have a figure."""
    values = {seed: outcome.value for seed, outcome in sorted(outcomes.items()) if outcome.value is not None}
    kinds = [outcome.status for outcome in outcomes.values()]
    diverged = kinds.count("diverged")
    figures: dict[str, dict[int, float]] = {}
    for seed in values:
        for name, value in outcomes[seed].values.items():
            if value is not None:
                figures.setdefault(name, {})[seed] = value
    return Mean(
        variant,
        mean([*values.values()]) if values else None,
        deviation([*values.values()]),
        len(values),
        diverged,
        len(kinds) - len(values) - diverged,
        values,
        figures,
    )


def _signed(contrast: Contrast, outcomes: Outcomes, seed: int) -> Iterator[float]:
    """The figures of one seed with the signs of the contrast, of those runs that have one."""
    for sign, names in ((1, contrast.plus), (-1, contrast.minus)):
        for name in names:
            outcome = outcomes[name].get(seed)
            if outcome and outcome.value is not None:
                yield sign * outcome.value


def _verdict(
    contrast: Contrast, difference: float | None, p: float | None, outcomes: Outcomes, better: str
) -> tuple[str, str]:
    """A word, and why it is not a stronger one.

    Pairs of which a run has diverged are not in the difference, so it is not claimed to be in favour of a side that has
    diverged.
    """
    if p is None:
        return OPEN, "fewer than two pairs of runs have a figure"
    if p >= LEVEL or not difference:
        return OPEN, ""
    good = (difference > 0) == (better == "higher")
    diverged = {
        name: count
        for name in (contrast.plus if good else contrast.minus)
        if (count := sum(outcome.status == "diverged" for outcome in outcomes[name].values()))
    }
    if diverged:
        said = ", ".join(f"{count} of {name}" for name, count in diverged.items())
        return OPEN, f"runs on the better side have diverged ({said}), and their pairs are not in the difference"
    if contrast.interaction:
        return (TOGETHER if good else APART), ""
    return (HELPS if good else HURTS), ""
