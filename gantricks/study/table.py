"""From the outcomes of runs to a table: a mean per variant, an effect with its interval and a verdict per contrast."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from gantricks.study.curves import Curve, Points, at_step
from gantricks.study.folder import Outcome
from gantricks.study.statistics import (
    LEVEL,
    Adjust,
    Estimate,
    Family,
    deviation,
    estimate,
    fisher,
    holm,
    least_fisher,
    mean,
)
from gantricks.study.variants import Contrast

HELPS, HURTS, TOGETHER, APART, OPEN = "helps", "hurts", "stronger together", "weaker together", "not established"
NOTHING_BEYOND = "no effect beyond"
"""The verdict on an effect whose interval lies within the margin: "no effect beyond 10 %"."""

MORE, LESS = "more often", "less often"
"""Verdicts on a trick with which runs diverge or collapse more or less often: "diverges more often: 5 of 5 …"."""

MARGIN = 0.1
"""Ratios between 1 / (1 + MARGIN) and 1 + MARGIN count as no effect, unless a study says otherwise."""

RANKS = "its figures are all the same, but for one at most, so p is that of the exact rank-sum test"

Scale = Literal["log", "raw"]
"""How figures are compared: by the logarithms of their ratios, or by differences."""
PAIRED, INDEPENDENT = "paired", "independent"
StudyDesign = Literal["paired", "independent"]

Outcomes = Mapping[str, Mapping[int, Outcome]]
"""Outcomes by variant and seed."""
Curves = Mapping[str, Mapping[int, Points]]
"""The figure over steps, by variant and seed."""


@dataclass(frozen=True)
class Rules:
    """How the figures of a study are compared. A study writes it down before its first run.

    `better`: "higher" or "lower". `design`: `paired`, runs of one seed are compared with each other; `independent`, all
    runs count as independent. `adjust`: how many comparisons at once are allowed for. `margin`: what counts as no
    effect, a share for ratios and a difference otherwise; None for a study that never says so.
    """

    better: str
    scale: Scale = "raw"
    design: StudyDesign = "paired"
    adjust: Adjust = "max-t"
    margin: float | None = None

    @property
    def paired(self) -> bool:
        return self.design == PAIRED

    @property
    def logs(self) -> bool:
        return self.scale == "log"

    def scaled(self, value: float) -> float:
        """Return a figure on the scale on which it is compared."""
        return math.log(value) if self.logs else value

    def effect(self, value: float) -> float:
        """Return a difference of scaled figures as an effect: a ratio, or the difference itself."""
        return _power(value) if self.logs else value

    def within_margin(self, interval: tuple[float, float]) -> bool:
        """Return whether an interval of differences of scaled figures lies within the margin."""
        if self.margin is None:
            return False
        reach = math.log1p(self.margin) if self.logs else self.margin
        return -reach < interval[0] and interval[1] < reach


@dataclass(frozen=True)
class Mean:
    """The figure of one variant, over `n` runs.

    `mean` is a geometric one where the study compares ratios, and `sd` then that of the logarithms. In `collapsed` of
    the runs all samples are one point. `diverged` and `failed` count further runs, without a figure. `values` holds the
    figure by seed; `figures` holds every figure of the metric by name, then by seed. `step_seconds` is the geometric
    mean of the seconds that a step takes.
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
    step_seconds: float | None = None


@dataclass(frozen=True)
class Span:
    """A number and its 95 % interval, None where it cannot be estimated."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Comparison:
    """The effect of a trick on the figure.

    `effect`: the figure with it divided by the figure without it, where the study compares ratios; otherwise the
    difference. `low`, `high`: the interval, simultaneous for all comparisons of its kind. `error`: the standard error
    of the difference, or of the logarithm of the ratio, of `freedom` degrees of freedom. `p`: by itself; `adjusted`: it
    is below 5 % exactly where the interval excludes "no effect". `n`: the runs of the side that has fewest, or the
    pairs; `lost`: runs, or pairs, without a figure. `note`: what a reader must know of the verdict. `price`: the ratio
    of the seconds of a step, its interval by itself. `equal_time`: the effect after equal time, of a family of its own.
    """

    name: str
    plus: tuple[str, ...]
    minus: tuple[str, ...]
    effect: float | None
    error: float | None
    low: float | None
    high: float | None
    p: float | None
    adjusted: float | None
    n: int
    lost: int
    verdict: str
    note: str = ""
    freedom: float | None = None
    price: Span | None = None
    equal_time: Span | None = None

    @property
    def tone(self) -> Literal["good", "bad", "same", "open"]:
        """What the verdict says of the trick, or of two together."""
        return tone(self.verdict)


@dataclass(frozen=True)
class Table:
    """The result of a study.

    `better`: "higher" or "lower". `floor`: the figure of real samples; `floors`: all of their figures. `scale`,
    `design`, `adjust`, `margin`: the rules by which it was made (`Rules`); `method` says so in words. `correlation`:
    the mean correlation of runs with one seed. `visible`: the effect, a share or a difference, that a study with these
    runs and this spread finds 4 times in 5. `curves`: the figure over steps, by variant. `notes`: further remarks.
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
    scale: Scale = "raw"
    design: StudyDesign = "paired"
    adjust: Adjust = "max-t"
    margin: float | None = None
    method: str = ""
    correlation: float | None = None
    visible: float | None = None
    curves: dict[str, Curve] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def tone(verdict: str) -> Literal["good", "bad", "same", "open"]:
    """Return what a verdict, with or without the trick's name before it, says of the trick: it is good, bad, of no
    effect, or nothing is established.
    """
    word = verdict.partition(":")[0]
    if word.endswith((HELPS, TOGETHER, LESS)):
        return "good"
    if word.endswith((HURTS, APART, MORE)):
        return "bad"
    return "same" if NOTHING_BEYOND in word else "open"


def compare(contrasts: Sequence[Contrast], outcomes: Outcomes, rules: Rules, unsettled: str = "") -> list[Comparison]:
    """Estimate the contrasts of one kind, which are judged together.

    The rates at which runs diverge or collapse are compared as well. Their tests are a family of their own, of those
    contrasts in which enough runs diverged or collapsed for the test to reach the level. `unsettled` says why no effect
    on the figure gets a verdict, where that is so.
    """
    figures = {
        name: {seed: rules.scaled(outcome.value) for seed, outcome in runs.items() if outcome.value is not None}
        for name, runs in outcomes.items()
    }
    estimates = _estimates(contrasts, figures, rules)
    rates = [_Rates(contrast, outcomes) for contrast in contrasts]
    adjusted = holm([each.p for each in rates])
    comparisons = []
    for contrast, found, rate, p in zip(contrasts, estimates, rates, adjusted, strict=True):
        verdict, note = _verdict(contrast, found, rate, p, rules, unsettled)
        low, high = map(rules.effect, found.interval) if found.interval else (None, None)
        comparisons.append(
            Comparison(
                contrast.name,
                contrast.plus,
                contrast.minus,
                effect=None if found.difference is None else rules.effect(found.difference),
                error=found.error,
                low=low,
                high=high,
                p=found.p,
                adjusted=found.adjusted,
                n=found.n,
                lost=_lost(contrast, outcomes, rules.paired),
                verdict=verdict,
                note=note,
                freedom=found.freedom,
            )
        )
    return comparisons


def _estimates(
    contrasts: Sequence[Contrast],
    figures: Mapping[str, Mapping[int, float]],
    rules: Rules,
    adjust: Adjust | None = None,
) -> list[Estimate]:
    """Return the estimates of a family of contrasts of scaled figures, by variant and seed."""
    if not contrasts:
        return []
    names = list(dict.fromkeys(name for contrast in contrasts for name in contrast.variants))
    seeds = sorted({seed for name in names for seed in figures[name]})
    values = np.array([[figures[name].get(seed, math.nan) for seed in seeds] for name in names])
    weights = [[(name in each.plus) - (name in each.minus) for name in names] for each in contrasts]
    return estimate(Family(values, np.array(weights, float), rules.paired), adjust or rules.adjust)


def _lost(contrast: Contrast, outcomes: Outcomes, paired: bool) -> int:
    """Return the number of runs of a contrast, or of pairs, that lack a figure."""
    runs = [outcomes[name] for name in contrast.variants]
    if not paired:
        return sum(outcome.value is None for each in runs for outcome in each.values())
    begun = {seed for each in runs for seed in each}
    return sum(any(seed not in each or each[seed].value is None for each in runs) for seed in begun)


class _Rates:
    """The rates at which the runs on either side of a contrast of two variants diverge or collapse."""

    def __init__(self, contrast: Contrast, outcomes: Outcomes) -> None:
        self.p: float | None = None
        self.differ = False
        kept = [
            [outcome for name in side for outcome in outcomes[name].values() if outcome.kept]
            for side in (contrast.plus, contrast.minus)
        ]
        self.diverged = [sum(outcome.status == "diverged" for outcome in runs) for runs in kept]
        self.runs = [len(runs) for runs in kept]
        if contrast.interaction:
            return  # the test does not apply to a difference of differences
        collapsed = [sum(outcome.collapsed for outcome in runs) for runs in kept]
        with_it, without = (sum(pair) for pair in zip(self.diverged, collapsed, strict=True))
        runs_with, runs_without = self.runs
        if least_fisher(with_it + without, runs_with, runs_without) < LEVEL:
            self.p = fisher(with_it, runs_with, without, runs_without)
        more = with_it * runs_without > without * runs_with
        self.differ = with_it * runs_without != without * runs_with
        named = (("diverge", self.diverged), ("collapse", collapsed))
        what = " or ".join(word for word, counts in named if any(counts))
        self.told = f"{with_it} of {runs_with} runs {what} against {without} of {runs_without}"
        does = " or ".join(f"{word}s" for word in what.split(" or "))
        self.verdict = f"{does} {MORE if more else LESS}: {with_it} of {runs_with} against {without} of {runs_without}"

    def diverges_more(self, side: int) -> bool:
        """Return whether more of the runs of one side, 0 or 1, have diverged than of the other."""
        other = 1 - side
        return self.diverged[side] * self.runs[other] > self.diverged[other] * self.runs[side]


def _verdict(
    contrast: Contrast, found: Estimate, rates: _Rates, p_rates: float | None, rules: Rules, unsettled: str
) -> tuple[str, str]:
    """Return the verdict, and what a reader must know of it.

    Where the rates of lost runs differ, they are the verdict: the figure of those that are left compares other runs. A
    run that has diverged is not in the effect, so no verdict favours the side of which more have diverged.
    """
    if p_rates is not None and p_rates < LEVEL:
        return rates.verdict, f"Fisher's exact test of these rates: p {p_rates:.2g}, adjusted (Holm)"
    told = f"{rates.told}: no evidence by Fisher's exact test" if rates.differ else ""
    if found.adjusted is None or found.difference is None:
        return OPEN, _joined("fewer than two runs of a side have a figure", told)
    if unsettled:
        return OPEN, told
    if found.interval and rules.within_margin(found.interval) and not any(rates.diverged):
        return f"{NOTHING_BEYOND} {in_words(rules.margin, rules.scale)}", told
    ranks = "" if found.spread or not found.difference else RANKS
    if found.adjusted >= LEVEL or not found.difference:
        return OPEN, _joined(ranks, told)
    good = (found.difference > 0) == (rules.better == "higher")
    side = 0 if good else 1
    if rates.diverges_more(side):
        said = ", ".join(f"{name}" for name in (contrast.plus, contrast.minus)[side])
        return OPEN, (
            f"more runs on the better side ({said}) have diverged, {rates.diverged[side]} of {rates.runs[side]}, "
            "and they are not in the effect"
        )
    if contrast.interaction:
        return (TOGETHER if good else APART), ranks
    return (HELPS if good else HURTS), ranks


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def in_words(margin: float | None, scale: Scale) -> str:
    """Return a margin as text: "10 %" for ratios."""
    if margin is None:
        return ""
    return f"{100 * margin:.3g} %" if scale == "log" else f"{margin:.3g}"


# ---------------------------------------------------------------- time


def with_time(
    comparisons: Sequence[Comparison], outcomes: Outcomes, curves: Curves, steps: int, rules: Rules
) -> list[Comparison]:
    """Return the comparisons of two variants each with the price of the trick in time, and with its effect after equal
    time where the figure was measured while training.

    The price is the ratio of the geometric means of a step's seconds. After equal time, the side whose steps are longer
    is seen at an earlier step, so that it has had as many seconds as the other for all of its `steps`, which are those
    of the last point of the curves.
    """
    seconds = {
        name: {seed: math.log(o.step_seconds) for seed, o in runs.items() if o.step_seconds}
        for name, runs in outcomes.items()
    }
    sides = [Contrast(each.name, each.plus, each.minus) for each in comparisons]
    prices = _estimates(sides, seconds, rules, "none")
    priced = [replace(each, price=_span(price, _power)) for each, price in zip(comparisons, prices, strict=True)]
    seen = dict[str, dict[int, float]]()
    timed = list[Contrast]()
    for each, price in zip(priced, prices, strict=True):
        if price.difference is None:
            continue
        (with_it,), (without,) = each.plus, each.minus
        ends = [
            (with_it, steps * min(1.0, _power(-price.difference))),
            (without, steps * min(1.0, _power(price.difference))),
        ]
        for variant, step in ends:
            seen.setdefault(f"{variant} {step!r}", _scaled_at(curves.get(variant, {}), step, rules))
        plus, minus = (f"{variant} {step!r}" for variant, step in ends)
        if seen[plus] and seen[minus]:
            timed.append(Contrast(each.name, (plus,), (minus,)))
    found = dict(zip((each.name for each in timed), _estimates(timed, seen, rules), strict=True))
    return [
        replace(each, equal_time=_span(found[each.name], rules.effect)) if each.name in found else each
        for each in priced
    ]


def _scaled_at(runs: Mapping[int, Points], step: float, rules: Rules) -> dict[int, float]:
    values = {seed: at_step(points, step, rules.logs) for seed, points in runs.items()}
    return {seed: rules.scaled(value) for seed, value in values.items() if value is not None}


def _span(found: Estimate, effect: Callable[[float], float]) -> Span | None:
    if found.difference is None:
        return None
    low, high = map(effect, found.interval) if found.interval else (None, None)
    return Span(effect(found.difference), low, high)


def _power(logarithm: float) -> float:
    """Return exp, at most the largest number."""
    return math.exp(logarithm) if logarithm < 709 else sys.float_info.max


# ---------------------------------------------------------------- one variant


def summarise(variant: str, outcomes: Mapping[int, Outcome], logs: bool = False) -> Mean:
    """Return the mean of one variant over the seeds that have a figure; with `logs`, the geometric one."""
    values = {seed: outcome.value for seed, outcome in sorted(outcomes.items()) if outcome.value is not None}
    kinds = [outcome.status for outcome in outcomes.values()]
    diverged = kinds.count("diverged")
    figures: dict[str, dict[int, float]] = {}
    for seed in values:
        for name, value in outcomes[seed].values.items():
            if value is not None:
                figures.setdefault(name, {})[seed] = value
    scaled = [math.log(value) for value in values.values()] if logs else [*values.values()]
    centre = mean(scaled) if scaled else None
    seconds = [math.log(o.step_seconds) for o in outcomes.values() if o.step_seconds]
    return Mean(
        variant,
        _power(centre) if logs and centre is not None else centre,
        deviation(scaled),
        len(values),
        diverged,
        len(kinds) - len(values) - diverged,
        values,
        figures,
        sum(outcome.collapsed for outcome in outcomes.values()),
        _power(mean(seconds)) if seconds else None,
    )


def pooled_spread(means: Iterable[Mean]) -> float | None:
    """Return the standard deviation within variants, of all of them together; None without two runs of one."""
    known = [(row.sd, row.n - 1) for row in means if row.sd is not None]
    freedom = sum(n for _, n in known)
    return math.sqrt(sum(n * sd**2 for sd, n in known) / freedom) if freedom else None


def correlation(contrasts: Sequence[Contrast], outcomes: Outcomes, rules: Rules) -> float | None:
    """Return the mean correlation of the scaled figures of two variants that are compared, over runs with one seed."""
    found = [each for each in (_correlation(c, outcomes, rules) for c in contrasts) if each is not None]
    return mean(found) if found else None


def _correlation(contrast: Contrast, outcomes: Outcomes, rules: Rules) -> float | None:
    if len(contrast.variants) != 2:
        return None
    pairs = [*_pairs(contrast, outcomes, rules)]
    if len(pairs) < 3:
        return None
    table = np.array(pairs)
    spreads = table.std(0)
    if not (spreads > 1e-12 * np.abs(table).max()).all():
        return None
    return float(np.corrcoef(table.T)[0, 1])


def _pairs(contrast: Contrast, outcomes: Outcomes, rules: Rules) -> Iterator[tuple[float, float]]:
    first, second = (outcomes[name] for name in contrast.variants)
    for seed in first.keys() & second.keys():
        a, b = first[seed].value, second[seed].value
        if a is not None and b is not None:
            yield rules.scaled(a), rules.scaled(b)
