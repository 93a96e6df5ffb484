"""What a study says that it will see is what it sees: in simulated studies, 4 times in 5."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gantricks.study.power import control_runs, foresight, runs_for, visible, visible_effect
from gantricks.study.spread import Spread
from gantricks.study.statistics import Family, estimate
from gantricks.study.table import Rules


def found(runs: int, variants: int, paired: bool, adjust: str, effect: float, correlation: float = 0.0) -> float:
    """The share of simulated studies of normal figures of spread 1 in which one trick's effect gets a verdict."""
    rng, trials, seen = np.random.default_rng(0), 400, 0
    control = control_runs(runs, variants, paired)
    contrasts = np.column_stack([-np.ones(variants), np.eye(variants)])
    for _ in range(trials):
        values = math.sqrt(1 - correlation) * rng.normal(0, 1, (variants + 1, control))
        values += math.sqrt(correlation) * rng.normal(0, 1, control)
        values[1] += effect
        values[1:, runs:] = math.nan
        interval = estimate(Family(values, contrasts, paired), adjust, draws=400)[0].interval
        seen += interval is not None and interval[0] > 0
    return seen / trials


@pytest.mark.parametrize(
    ("runs", "variants", "paired", "adjust", "correlation"),
    [
        (6, 1, False, "max-t", 0.0),
        (8, 8, False, "max-t", 0.0),
        (8, 5, True, "max-t", 0.0),
        (8, 5, True, "max-t", 0.7),
        (12, 5, False, "holm", 0.0),
    ],
)
def test_the_visible_effect_is_found_four_times_in_five(
    runs: int, variants: int, paired: bool, adjust: str, correlation: float
) -> None:
    effect = visible(runs, variants, paired, adjust, correlation)
    share = found(runs, variants, paired, adjust, effect, correlation)
    assert share == pytest.approx(0.8, abs=0.075)
    assert found(runs, variants, paired, adjust, 0.6 * effect, correlation) < 0.6


def test_more_runs_see_smaller_effects_and_more_tricks_larger_ones() -> None:
    sizes = [visible(runs, 5, False, "max-t") for runs in (3, 6, 12, 24)]
    assert sizes == sorted(sizes, reverse=True)
    assert visible(10, 1, False, "max-t") < visible(10, 10, False, "max-t") < visible(10, 30, False, "max-t")
    assert visible(10, 5, True, "max-t", 0.8) < visible(10, 5, True, "max-t", 0.2)


def test_the_runs_for_an_effect_make_it_visible() -> None:
    runs = runs_for(0.6, 10, 5, False, "max-t")
    assert visible(runs, 5, False, "max-t") == pytest.approx(0.6, rel=0.05)
    assert visible(math.ceil(0.8 * runs), 5, False, "max-t") > 0.6


def test_the_control_has_the_runs_that_make_all_differences_most_precise() -> None:
    for variants in (1, 4, 9, 30):
        assert control_runs(10, variants, paired=True) == 10
        control = control_runs(100, variants, paired=False)
        runs = 100 * variants + control

        def variance(other: int, runs: int = runs, variants: int = variants) -> float:
            return 1 / other + variants / (runs - other)

        assert variance(control) <= min(variance(control + move) for move in (-variants, variants)) * (1 + 1e-9)


LOGS, RAW = Rules("lower", "log", "independent", margin=0.1), Rules("higher", "raw", "independent")


def test_the_visible_effect_is_a_share_of_ratios_and_a_difference_of_others() -> None:
    seen = visible(10, 5, False, "max-t")
    assert visible_effect(10, 5, LOGS, 0.2) == pytest.approx(math.expm1(0.2 * seen))
    assert visible_effect(10, 5, RAW, 0.2) == pytest.approx(0.2 * seen)


def test_what_will_be_seen_is_said_in_words() -> None:
    said = foresight(10, 5, LOGS, Spread(math.log1p(0.2), "assumed"))
    percent = round(100 * visible_effect(10, 5, LOGS, math.log1p(0.2)))
    needed = runs_for(math.log1p(0.1) / math.log1p(0.2), 10, 5, False, "max-t")
    assert said == (
        f"with 10 runs of each variant it will see a change of {percent} %, 4 times in 5, if runs spread by 20 % "
        f"(assumed); 10 % takes about {needed} runs of each"
    )
    assert "takes about" not in foresight(10, 5, LOGS, Spread(0.01, "assumed"))
    assert "if runs spread by 10 %, and of" in foresight(10, 5, LOGS, None)
    assert "a difference of 3" in foresight(10, 5, RAW, Spread(3 / visible(10, 5, False, "max-t"), "assumed"))
    assert "times the spread between runs" in foresight(10, 5, RAW, None)
