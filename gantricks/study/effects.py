"""What a regression over a study's runs found: effects with intervals, what they rest on, and rates of lost runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from gantricks.study.folder import Outcome
from gantricks.study.playing import Playing
from gantricks.study.regression import MEAN, Fit, Interval, least_squares, simultaneous
from gantricks.study.statistics import fisher, holm, least_fisher
from gantricks.study.variants import Base

Scale = Literal["log", "raw"]
Direction = Literal["higher", "lower"]

LEVEL = 0.05
EQUIVALENT = math.log(1.1)
"""The log ratio within which an effect is none that matters: 10 %."""
FEWEST = 3
"""The smallest number of runs with a factor, and without it, from which its effect has an interval."""
MANY = 5
"""The number of columns above which a combination of them is not spelt out."""
CROWDED = 2.0
"""The variance inflation from which a note says with which other column an effect is mixed up."""


@dataclass(frozen=True)
class Effect:
    """The effect of a factor on the figure, other factors held fixed.

    `value`, `low`, `high`: on the scale of the study, the log of a ratio or a difference; the interval is simultaneous
    for its family, and `p` adjusted for it. `runs` of the regression's runs have the factor. `inflation`: how many
    times larger the variance is than it would be if the column were uncorrelated with all others; `nearest` is the most
    correlated other column. `lost` of `played` runs with the factor have diverged or collapsed, and `lost_without` of
    `played_without`; `p_lost` is Fisher's, adjusted (Holm), None where too few runs were lost to tell. `price`: the
    factor by which it multiplies the seconds of a step. `group`: of which at most one is in a run.
    """

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    runs: int = 0
    inflation: float | None = None
    nearest: str = ""
    correlation: float = 0.0
    lost: int = 0
    played: int = 0
    lost_without: int = 0
    played_without: int = 0
    p_lost: float | None = None
    price: float | None = None
    group: str = ""
    verdict: str = ""
    note: str = ""

    @property
    def loses_more(self) -> bool:
        """Whether runs with the factor diverge or collapse more often than others."""
        more = self.lost * self.played_without > self.lost_without * self.played
        return self.p_lost is not None and self.p_lost < LEVEL and more

    def hopeful(self, better: Direction) -> float:
        """Return how far the end of the interval that speaks least for the factor lies on the better side; -inf
        without an interval.
        """
        if self.low is None or self.high is None:
            return -math.inf
        return self.low if better == "higher" else -self.high


@dataclass(frozen=True)
class Family:
    """Effects whose intervals hold all at once."""

    title: str
    effects: tuple[Effect, ...]


@dataclass(frozen=True)
class Findings:
    """The results of a study whose runs are analysed by regression.

    `runs` have ended, of which `used` are in the regression: the others have `diverged`, `collapsed`, or `failed` for
    another reason. `spread` is the standard deviation of the residuals; `explained` the share of the figure's variance
    that the factors explain. `impossible`: variants or tricks that cannot be trained. `table` holds every run with its
    factors and figures.
    """

    name: str
    mode: str
    metric: str
    figure: str
    better: Direction
    scale: Scale
    steps: int
    runs: int
    used: int
    diverged: int
    collapsed: int
    spread: float | None
    explained: float
    families: tuple[Family, ...]
    impossible: dict[str, str]
    failed: dict[str, str]
    seconds: float
    floors: dict[str, float | None] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    finalists: tuple[str, ...] = ()
    table: tuple[dict[str, Any], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Row:
    """A run: its outcome, and the value of each column."""

    outcome: Outcome
    columns: Mapping[str, float]

    @property
    def lost(self) -> bool:
        return self.outcome.status == "diverged" or self.outcome.collapsed


@dataclass(frozen=True)
class Regression:
    """The regression of a study's figure on its factors, and one of the time. `fit` is None without a run to use."""

    rows: tuple[Row, ...]
    used: tuple[Row, ...]
    scale: Scale
    fit: Fit | None
    time: Fit | None

    @property
    def ended(self) -> list[Row]:
        """The runs that ended with a result, lost ones included."""
        return [row for row in self.rows if row.outcome.kept]

    def effects(
        self, names: Sequence[str], present: Callable[[Row, str], bool | None], factor: float = 1.0
    ) -> tuple[Effect, ...]:
        """Return the effects of a family of columns: the coefficients times `factor`, with simultaneous intervals.

        `present` says whether a run has a factor, for the numbers of runs and the rates of lost ones; None where the
        question makes no sense, so that the run does not count.
        """
        intervals = simultaneous(self.fit, names) if self.fit else {}
        counts = {name: self._lost({id(row): present(row, name) for row in self.ended}) for name in names}
        tested = {
            name: fisher(*found)
            for name, found in counts.items()
            if least_fisher(found[0] + found[2], *found[1::2]) < LEVEL
        }
        adjusted = dict(zip(tested, holm([*tested.values()]), strict=True))
        found = []
        for name in names:
            lost, played, lost_without, played_without = counts[name]
            having = sum(present(row, name) is True for row in self.used)
            effect = Effect(
                name,
                None,
                runs=having,
                lost=lost,
                played=played,
                lost_without=lost_without,
                played_without=played_without,
                p_lost=adjusted.get(name),
            )
            found.append(self._estimated(effect, intervals, factor))
        return tuple(found)

    def _lost(self, having: Mapping[int, bool | None]) -> tuple[int, int, int, int]:
        """Return how many runs were lost, of how many, among those that have a factor and among those that do not."""
        sides = [[row for row in self.ended if having[id(row)] is wanted] for wanted in (True, False)]
        with_it, without = ((sum(row.lost for row in side), len(side)) for side in sides)
        return *with_it, *without

    def _estimated(self, effect: Effect, intervals: Mapping[str, Interval], factor: float) -> Effect:
        fit, name = self.fit, effect.name
        if fit is None or not effect.runs:
            return replace(effect, note="no run with a figure has it")
        if name not in fit:
            return replace(effect, note=f"cannot be told from {_combination(fit.aliased[name])}")
        if fit.spread is None:
            return replace(effect, note="too few runs for a regression")
        place = fit.at(name)
        nearest, correlation = fit.nearest(name) or ("", 0.0)
        inflation = float(fit.inflation[place])
        effect = replace(
            effect,
            value=factor * float(fit.values[place]),
            inflation=inflation,
            nearest=nearest,
            correlation=correlation,
        )
        if inflation >= CROWDED:
            effect = replace(effect, note=f"correlated {correlation:+.2f} with {nearest}, and less well known for it")
        interval = intervals.get(name)
        if interval is None or min(effect.runs, len(self.used) - effect.runs) < FEWEST:
            return replace(effect, note="too few runs for an interval")
        price = math.exp(factor * float(self.time.values[self.time.at(name)])) if self.time else None
        return replace(effect, low=factor * interval.low, high=factor * interval.high, p=interval.p, price=price)


def usable(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Return the runs that a regression can use: those with a figure, of samples that are not all one point."""
    return tuple(row for row in rows if row.outcome.status == "done" and not row.lost)


def regress(rows: Sequence[Row], columns: Sequence[str], ratio: bool) -> Regression:
    """Regress the figure of the runs on `columns`. Where several columns cannot be told apart, the first stays.

    Runs that have diverged or collapsed are left out: what they lack is a figure, and their rates are compared apart.
    With `ratio`, the log of the figure is taken, unless a figure is not above 0.
    """
    used = usable(rows)
    figures = np.array([row.outcome.value for row in used], float)
    scale: Scale = "log" if ratio and (figures > 0).all() else "raw"
    fit = time = None
    if used:
        every = {name: np.array([row.columns[name] for row in used], float) for name in columns}
        fit = least_squares(every, np.log(figures) if scale == "log" else figures)
        # a run that was resumed took fewer seconds than its steps say
        paces = [row.outcome.step_seconds for row in used]
        seconds = np.array(paces if all(paces) else [row.outcome.seconds for row in used], float)
        calls = [row.outcome.session for row in used]  # perhaps on machines of different speed
        every |= {f"session {n}": np.array([n == call for call in calls], float) for n in sorted({*calls})[1:]}
        time = least_squares(every, np.log(seconds)) if (seconds > 0).all() else None
    return Regression(tuple(rows), used, scale, fit, time)


def findings(
    mode: str, base: Base, played: Playing, found: Regression, families: Iterable[Family], **own: Any
) -> Findings:
    """Return the results of a study: those that every regression over its runs has, and `own` of its mode."""
    return Findings(
        name=base.recipe.name,
        mode=mode,
        metric=played.compared.metric,
        figure=played.compared.name,
        better=direction(played),
        scale=found.scale,
        steps=base.recipe.train.steps,
        runs=len(found.rows),
        used=len(found.used),
        diverged=sum(row.outcome.status == "diverged" for row in found.rows),
        collapsed=sum(row.outcome.collapsed for row in found.rows),
        spread=found.fit.spread if found.fit else None,
        explained=found.fit.explained if found.fit else 0.0,
        families=tuple(families),
        failed=played.failed,
        seconds=played.seconds,
        floors=played.floor or {},
        **own,
    )


def direction(played: Playing) -> Direction:
    """Return which figures are better."""
    return "higher" if played.compared.better == "higher" else "lower"


def _combination(weights: Mapping[str, float]) -> str:
    """Return the combination of columns that a column is, in words: "1 − a − b"; their number where it is large."""
    if len(weights) > MANY:
        return f"a combination of {len(weights)} others, with so few runs"
    words = []
    for name, weight in weights.items():
        size = f"{abs(weight):.3g}"
        what = size if name == MEAN else name if size == "1" else f"{size} {name}"
        words.append(f"{'−' if weight < 0 else '+'} {what}")
    return " ".join(words).removeprefix("+ ") or "the constant"


def judge(effect: Effect, scale: Scale, better: Direction, interaction: bool = False) -> Effect:
    """Return the effect with a verdict, the first that holds: runs are lost more or less often; no effect beyond 10 %;
    helps or hurts (of an interaction: stronger or weaker together); not established.
    """
    if effect.p_lost is not None and effect.p_lost < LEVEL and not interaction:
        often = "more often" if effect.loses_more else "less often"
        told = f"{effect.lost} of {effect.played} runs against {effect.lost_without} of {effect.played_without}"
        return replace(effect, verdict=f"loses runs {often}: {told}")
    if effect.low is None or effect.high is None:
        return replace(effect, verdict="not established")
    if scale == "log" and max(abs(effect.low), abs(effect.high)) < EQUIVALENT:
        return replace(effect, verdict="no effect beyond 10 %")
    if effect.low <= 0 <= effect.high:
        return replace(effect, verdict="not established")
    good = (effect.low > 0) == (better == "higher")
    words = ("stronger together", "weaker together") if interaction else ("helps", "hurts")
    return replace(effect, verdict=words[0] if good else words[1])


def percent(value: float, scale: Scale) -> str:
    """Return an effect in words: "−34 %" for a log ratio, or the difference itself."""
    if scale == "raw":
        return f"{value:+.3g}".replace("-", "−")
    ratio = math.exp(min(value, 700.0))
    written = f"{100 * (ratio - 1):+.0f} %" if ratio < 10 else f"× {ratio:.3g}"
    return written.replace("-", "−")


def in_words(effect: Effect, scale: Scale) -> str:
    """Return an effect with its interval, "−34 % [−41, −27]"; empty where it has none."""
    if effect.value is None or effect.low is None or effect.high is None:
        return ""
    value, low, high = (percent(number, scale) for number in (effect.value, effect.low, effect.high))
    if all(word.endswith(" %") for word in (value, low, high)):
        low, high = low.removesuffix(" %"), high.removesuffix(" %")
    return f"{value} [{low}, {high}]"
