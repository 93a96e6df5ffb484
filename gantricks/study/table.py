"""From the outcomes of runs to a table: a mean per variant, a paired difference and a verdict per contrast."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from gantricks.study.folder import Outcome
from gantricks.study.statistics import Estimate, deviation, estimate, fisher, holm, least_fisher, mean, rank_sum, total
from gantricks.study.variants import Contrast

LEVEL = 0.05
"""A difference is evidence when its adjusted p is below this level."""

HELPS, HURTS, TOGETHER, APART, OPEN = "helps", "hurts", "stronger together", "weaker together", "no evidence"

MORE, LESS = "more often", "less often"
"""Verdicts on a trick with which runs diverge or collapse more or less often: "diverges more often: 5 of 5 …"."""

UNPAIRED = "its differences are the same but for one at most, so p is that of the exact rank-sum test, unpaired"

Outcomes = Mapping[str, Mapping[int, Outcome]]
"""Outcomes by variant and seed."""


@dataclass(frozen=True)
class Mean:
    """The figure of one variant, over `n` runs.

    In `collapsed` of these runs all samples are one point. `diverged` and `failed` count further runs, without a
    figure. `values` holds the figure by seed; `figures` holds every figure of the metric by name, then by seed.
    """

    variant: str
    mean: float | None
    sd: float | None
    n: int
    diverged: int
    failed: int
    values: dict[int, float]
    figures: dict[str, dict[int, float]] = field(default_factory=dict)
    collapsed: int = 0


@dataclass(frozen=True)
class Comparison:
    """The effect of a trick: the mean over seeds of the figure with it minus the figure without it.

    `n`: pairs in which both runs have a figure; `lost`: other pairs. `low`, `high`: the 95 % interval. `holm`: `p`
    adjusted for the number of comparisons of its kind. `note`: the basis of p and the verdict where it is not the t
    test, or why a clear difference gets no verdict.
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

    @property
    def tone(self) -> Literal["good", "bad", "open"]:
        """Whether the verdict is for the trick (or the two tricks together), against it, or neither."""
        return tone(self.verdict)


@dataclass(frozen=True)
class Table:
    """The result of a study.

    `better`: "higher" or "lower". `floor`: the figure of real samples; `floors`: all of their figures.
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


def tone(verdict: str) -> Literal["good", "bad", "open"]:
    """Return whether a verdict, with or without the trick's name before it, is for the trick, against it, or
    neither.
    """
    word = verdict.partition(":")[0]
    if word.endswith((HELPS, TOGETHER, LESS)):
        return "good"
    return "bad" if word.endswith((HURTS, APART, MORE)) else "open"


def compare(contrasts: Sequence[Contrast], outcomes: Outcomes, seeds: Sequence[int], better: str) -> list[Comparison]:
    """Estimate the contrasts of one kind and adjust their p for one another.

    The shares of runs that diverged or collapsed are compared as well. Their tests are a family of their own, of those
    contrasts in which enough runs diverged or collapsed for the test to reach the level.
    """
    estimates = [_estimate(contrast, outcomes, seeds) for contrast in contrasts]
    adjusted = holm([found.p for found in estimates])
    lost_runs = [_Shares(contrast, outcomes) for contrast in contrasts]
    adjusted_shares = holm([shares.p for shares in lost_runs])
    comparisons = []
    for contrast, found, p, shares, p_shares in zip(
        contrasts, estimates, adjusted, lost_runs, adjusted_shares, strict=True
    ):
        low, high = found.interval or (None, None)
        verdict, note = _verdict(contrast, found, p, outcomes, better)
        if p_shares is not None and p_shares < LEVEL:
            verdict, note = shares.verdict, f"Fisher's exact test of these shares: p {p_shares:.2g}, adjusted (Holm)"
        elif verdict == OPEN and shares.differ:
            note = "; ".join(part for part in (note, f"{shares.told}: no evidence by Fisher's exact test") if part)
        lost = sum(1 for seed in seeds if any(seed in outcomes[v] for v in contrast.variants)) - found.n
        sides = (contrast.name, contrast.plus, contrast.minus)
        comparisons.append(
            Comparison(*sides, found.mean, found.sd, low, high, found.p, p, found.n, lost, verdict, note)
        )
    return comparisons


class _Shares:
    """The number of runs that diverged or collapsed on either side of a contrast of two variants."""

    def __init__(self, contrast: Contrast, outcomes: Outcomes) -> None:
        self.p: float | None = None
        self.differ = False
        if contrast.interaction:
            return  # the test does not apply to a difference of differences
        kept = [
            [outcome for name in side for outcome in outcomes[name].values() if outcome.kept]
            for side in (contrast.plus, contrast.minus)
        ]
        diverged = [sum(outcome.status == "diverged" for outcome in runs) for runs in kept]
        collapsed = [sum(outcome.collapsed for outcome in runs) for runs in kept]
        with_it, without = (sum(pair) for pair in zip(diverged, collapsed, strict=True))
        runs_with, runs_without = map(len, kept)
        if least_fisher(with_it + without, runs_with, runs_without) < LEVEL:
            self.p = fisher(with_it, runs_with, without, runs_without)
        more = with_it * runs_without > without * runs_with
        self.differ = with_it * runs_without != without * runs_with
        what = " or ".join(word for word, counts in (("diverge", diverged), ("collapse", collapsed)) if any(counts))
        self.told = f"{with_it} of {runs_with} runs {what} against {without} of {runs_without}"
        does = " or ".join(f"{word}s" for word in what.split(" or "))
        self.verdict = f"{does} {MORE if more else LESS}: {with_it} of {runs_with} against {without} of {runs_without}"


def _estimate(contrast: Contrast, outcomes: Outcomes, seeds: Sequence[int]) -> Estimate:
    sides = []
    for seed in seeds:
        plus, minus = ([*_figures(names, outcomes, seed)] for names in (contrast.plus, contrast.minus))
        if len(plus) + len(minus) == len(contrast.variants):
            sides.append((plus, minus))
    magnitude = max((abs(value) for pair in sides for side in pair for value in side), default=0.0)
    found = estimate([total([*plus, *(-value for value in minus)]) for plus, minus in sides], magnitude)
    if found.spread or found.n < 2:
        return found
    # where differences have no spread, pairing by seed tells nothing, and an unpaired test is used
    plus_sums, minus_sums = ([total(side) for side in arm] for arm in zip(*sides, strict=True))
    return replace(found, p=rank_sum(plus_sums, minus_sums, 16 * math.ulp(1.0) * magnitude))


def summarise(variant: str, outcomes: Mapping[int, Outcome]) -> Mean:
    """Return the mean of one variant over the seeds that have a figure."""
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
        sum(outcome.collapsed for outcome in outcomes.values()),
    )


def _figures(names: Sequence[str], outcomes: Outcomes, seed: int) -> Iterator[float]:
    """Yield the figures of one seed, from those runs that have one."""
    for name in names:
        outcome = outcomes[name].get(seed)
        if outcome and outcome.value is not None:
            yield outcome.value


def _verdict(contrast: Contrast, found: Estimate, p: float | None, outcomes: Outcomes, better: str) -> tuple[str, str]:
    """Return the verdict, and its basis where that is not the t test, or why it is not a stronger one.

    Pairs with a diverged run are not in the difference. So the verdict never favours a side whose runs have diverged.
    """
    if p is None:
        return OPEN, "fewer than two pairs of runs have a figure"
    rests_on = "" if found.spread or (not found.sd and not found.mean) else UNPAIRED
    if p >= LEVEL or not found.mean:
        return OPEN, rests_on
    good = (found.mean > 0) == (better == "higher")
    diverged = {
        name: count
        for name in (contrast.plus if good else contrast.minus)
        if (count := sum(outcome.status == "diverged" for outcome in outcomes[name].values()))
    }
    if diverged:
        said = ", ".join(f"{count} of {name}" for name, count in diverged.items())
        return OPEN, f"runs on the better side have diverged ({said}), and their pairs are not in the difference"
    if contrast.interaction:
        return (TOGETHER if good else APART), rests_on
    return (HELPS if good else HURTS), rests_on
