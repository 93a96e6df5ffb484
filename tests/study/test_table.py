"""What a study claims: fabricated differences are found, absent ones are not, and divergence is never hidden."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gantricks.study.folder import Outcome
from gantricks.study.forest import forest
from gantricks.study.table import Comparison, Rules, Table, compare, correlation, pooled_spread, summarise, with_time
from gantricks.study.variants import Contrast
from gantricks.study.words import as_markdown, counted, figures, method, price, remarks, rows, writer

SEEDS = range(6)
TABLE = Table("t", "add-one", "m", "f", "higher", 9, (0, 1), None, (), (), (), {}, {}, 12, 1.0)
ONE = Contrast("ema", ("full",), ("without-ema",))
TWO = Contrast("a × b", ("full", "without-a-b"), ("without-a", "without-b"), interaction=True)


def done(**values: list[float | None]) -> dict[str, dict[int, Outcome]]:
    """Outcomes by variant; a run without a figure has diverged."""
    return {
        name.replace("_", "-"): {
            seed: Outcome(name, seed, "diverged" if value is None else "done", value) for seed, value in enumerate(row)
        }
        for name, row in values.items()
    }


def one(rules: Rules | str = "higher", **values: list[float | None]) -> Comparison:
    (found,) = compare([ONE], done(**values), rules if isinstance(rules, Rules) else Rules(rules))
    return found


LOGS = Rules("lower", "log", "independent", margin=0.1)
OPEN = "not established"


@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans())
def test_a_fabricated_difference_is_found_with_its_direction(seed: int, up: bool, more_is_better: bool) -> None:
    draw = np.random.default_rng(seed)
    without = draw.normal(10, 3, len(SEEDS))
    full = without + (1 if up else -1) + draw.normal(0, 0.05, len(SEEDS))
    found = one("higher" if more_is_better else "lower", full=[*full], without_ema=[*without])
    assert found.verdict == ("helps" if up == more_is_better else "hurts")
    assert found.effect == pytest.approx(1 if up else -1, abs=0.2)
    assert found.low is not None
    assert found.high is not None
    assert found.low < (found.effect or 0) < found.high
    assert (found.low > 0) == up


def test_pairing_removes_what_the_seed_does() -> None:
    draw = np.random.default_rng(3)
    seeds = draw.normal(0, 100, len(SEEDS))
    noise = draw.normal(0, 0.1, (2, len(SEEDS)))
    paired = one(full=[*(seeds + noise[0] + 1)], without_ema=[*(seeds + noise[1])])
    shuffled = one(full=[*(seeds + noise[0] + 1)], without_ema=[*np.roll(seeds + noise[1], 1)])
    assert paired.verdict == "helps"
    assert shuffled.verdict == OPEN
    assert (paired.error or 1) < 0.01 * (shuffled.error or 0)


def test_the_interaction_is_the_difference_of_differences() -> None:
    full, without_a, without_b, neither = [9.0, 8.9, 9.1, 9.0, 9.0, 9.2], [5.0] * 6, [6.0] * 6, [4.0] * 6
    values = {"full": full, "without_a": without_a, "without_b": without_b, "without_a_b": neither}
    (found,) = compare([TWO], done(**values), Rules("higher"))
    assert found.effect == pytest.approx(np.mean(full) - 5 - 6 + 4)
    assert found.verdict == "stronger together"
    (found,) = compare([TWO], done(**values), Rules("lower"))
    assert found.verdict == "weaker together"
    values["full"] = [value - 2 for value in full]
    (found,) = compare([TWO], done(**values), Rules("higher"))
    assert (found.verdict, found.effect) == (OPEN, pytest.approx(0.0333, abs=1e-3))


def test_pairs_with_a_run_that_diverged_are_counted_and_left_out() -> None:
    found = one(full=[2.0, 2.1, 2.2, 2.1, 2.0, 1.9], without_ema=[1.0, 1.0, None, None, 1.0, 1.0])
    assert (found.n, found.lost, found.verdict) == (4, 2, "helps")
    assert found.effect == pytest.approx(1.0)


def test_the_side_of_which_more_runs_diverged_is_not_claimed_to_be_the_better_one() -> None:
    better, worse = [2.0, 2.1, None, 2.1, 2.0, 1.9], [1.0, 1.1, 1.0, 1.05, 1.0, 1.0]
    found = one(full=better, without_ema=worse)
    assert (found.adjusted or 1) < 0.05
    assert found.verdict == OPEN
    assert "more runs on the better side (full) have diverged, 1 of 6" in found.note
    # the side without the trick is the better one, and it diverged
    assert one("lower", full=worse, without_ema=[0.1, 0.2, None, 0.1, 0.15, 0.2]).verdict == OPEN
    assert one("lower", full=worse, without_ema=[0.1, 0.2, 0.1, 0.1, 0.15, 0.2]).verdict == "hurts"
    # as many of either side, or more of the worse one, are no reason to be silent
    assert one("higher", full=[*worse[:5], None], without_ema=[2.0, 2.1, 2.2, 2.1, 2.0, None]).verdict == "hurts"
    assert one("higher", full=[*worse[:5], None], without_ema=[2.0, 2.1, 2.2, 2.1, 2.0, 1.9]).verdict == "hurts"


@pytest.mark.parametrize("row", [[None] * 3, [1.0, None, None]])
@pytest.mark.parametrize("design", ["paired", "independent"])
def test_too_few_runs_establish_nothing_and_say_so(row: list[float | None], design: str) -> None:
    (found,) = compare([ONE], done(full=row, without_ema=[0.0] * 3), Rules("higher", design=design))
    assert (found.verdict, found.p, found.adjusted) == (OPEN, None, None)
    assert "fewer than two" in found.note


def test_figures_that_never_vary_are_compared_by_their_ranks() -> None:
    found = one(full=[8.0] * 6, without_ema=[8.0] * 6)
    assert (found.effect, found.p, found.verdict, found.note) == (0, 1, OPEN, "")
    assert one(full=[8.0] * 6, without_ema=[7.0] * 6).verdict == "helps"
    (five,) = compare([ONE], done(full=[8.0] * 5, without_ema=[1.0] * 5), Rules("higher"))
    assert (round(five.p or 1, 4), five.verdict, five.low) == (0.0079, "helps", None)
    assert "exact rank-sum test" in five.note
    (few,) = compare([ONE], done(full=[8.0] * 3, without_ema=[1.0] * 3), Rules("higher"))
    assert (round(few.p or 1, 4), few.verdict) == (0.1, OPEN)


@given(st.integers(1, 7), st.integers(0, 4), st.sampled_from([5, 8]), st.sampled_from(["paired", "independent"]))
def test_one_run_that_deviates_claims_no_more_than_none(size: int, at: int, n: int, design: str) -> None:
    """A t test gives 8 modes against 1 p = 4e-6 with one 7 among the eights, and none without it."""
    low, high, rules = [1.0] * n, [8.0] * n, Rules("higher", design=design)
    constant = compare([ONE], done(full=high, without_ema=low), rules)[0]
    deviating = [*high[:at], high[at] - size, *high[at + 1 :]]
    found = compare([ONE], done(full=deviating, without_ema=low), rules)[0]
    assert (found.p or 0) >= (constant.p or 1)
    assert (found.p or 0) > 1e-4
    # and where it is the only difference at all, it is none
    alone = compare([ONE], done(full=deviating, without_ema=high), rules)[0]
    assert (alone.verdict, alone.p) == (OPEN, 1)


# ---------------------------------------------------------------- ratios and verdicts


def ratios(effect: float, spread: float, n: int = 12) -> dict[str, list[float]]:
    """Positive figures whose geometric means have this ratio, with this spread of logarithms, not random."""
    scores = np.linspace(-1.5, 1.5, n)
    scores *= spread / scores.std(ddof=1)
    return {"full": [*(effect * 5 * np.exp(scores))], "without_ema": [*(5 * np.exp(scores[::-1]))]}


@pytest.mark.parametrize(
    ("effect", "spread", "verdict"),
    [
        (0.66, 0.1, "helps"),
        (1.5, 0.1, "hurts"),
        (1.0, 0.02, "no effect beyond 10 %"),
        (1.05, 0.02, "no effect beyond 10 %"),  # it excludes 1, but lies within the margin: the first match
        (1.2, 0.02, "hurts"),
        (1.02, 0.2, OPEN),
    ],
)
def test_ratios_have_the_first_verdict_that_fits(effect: float, spread: float, verdict: str) -> None:
    found = one(LOGS, **ratios(effect, spread))
    assert found.verdict == verdict
    assert found.effect == pytest.approx(effect)
    low, high = found.low or 0, found.high or 0
    assert math.sqrt(low * high) == pytest.approx(effect)
    within, excludes = low > 1 / 1.1 and high < 1.1, low > 1 or high < 1
    assert verdict == ("no effect beyond 10 %" if within else verdict if excludes else OPEN)
    turned = one(replace(LOGS, better="higher"), **ratios(effect, spread))
    assert turned.verdict == {"helps": "hurts", "hurts": "helps"}.get(verdict, verdict)


@pytest.mark.parametrize("design", ["paired", "independent"])
def test_a_ratio_does_not_depend_on_the_unit_and_turns_round_with_its_sides(design: str) -> None:
    rng = np.random.default_rng(0)
    values = {"full": [*rng.lognormal(0.3, 0.4, 6)], "without_ema": [*rng.lognormal(0, 0.2, 6)]}
    rules = Rules("lower", "log", design, margin=0.1)
    found = one(rules, **values)
    scaled = one(rules, **{name: [1e6 * value for value in row] for name, row in values.items()})
    assert (scaled.effect, scaled.low) == (pytest.approx(found.effect), pytest.approx(found.low))
    turned = one(rules, full=values["without_ema"], without_ema=values["full"])
    assert (turned.effect or 0) * (found.effect or 0) == pytest.approx(1)
    assert turned.p == pytest.approx(found.p)


def test_differences_have_no_verdict_of_no_effect_unless_a_margin_is_given() -> None:
    full, without = [5.0, 5.1, 4.9, 5.05, 4.95, 5.0], [5.02, 5.1, 4.95, 5.0, 4.9, 5.0]
    assert one(full=full, without_ema=without).verdict == OPEN
    assert one(Rules("higher", margin=0.5), full=full, without_ema=without).verdict == "no effect beyond 0.5"
    assert one(Rules("higher", margin=0.01), full=full, without_ema=without).verdict == OPEN


def test_runs_that_diverged_leave_no_verdict_of_no_effect() -> None:
    values = ratios(1.0, 0.02)
    assert one(LOGS, **values).verdict == "no effect beyond 10 %"
    assert one(LOGS, full=[*values["full"][:-1], None], without_ema=values["without_ema"]).verdict == OPEN


def test_nothing_is_established_while_the_reference_has_not_settled() -> None:
    outcomes = done(**ratios(0.5, 0.1))
    (found,) = compare([ONE], outcomes, LOGS, unsettled="still moving")
    assert (found.verdict, (found.adjusted or 1) < 0.001) == (OPEN, True)
    lost = {"full": runs("d" * 8), "without-ema": runs("." * 8)}
    (found,) = compare([ONE], lost, LOGS, unsettled="still moving")
    assert found.verdict.startswith("diverges more often")


def test_holm_is_an_option_whose_intervals_agree_with_it() -> None:
    rng = np.random.default_rng(2)
    contrasts = [Contrast(f"t{i}", (f"with-t{i}",), ("plain",)) for i in range(4)]
    rows = {"plain": [*rng.normal(0, 1, 8)]} | {f"with_t{i}": [*rng.normal(i, 1, 8)] for i in range(4)}
    for adjust in ("max-t", "holm"):
        found = compare(contrasts, done(**rows), Rules("higher", design="independent", adjust=adjust))
        assert {each.verdict for each in found} == {OPEN, "helps"}
        assert [each.verdict == "helps" for each in found] == [(each.low or 0) > 0 for each in found]


def test_an_effect_is_written_with_its_interval() -> None:
    table = replace(TABLE, scale="log")
    assert writer(table).effect(0.66, 0.59, 0.73) == "−34 % [−41, −27]"
    assert writer(table).effect(1.004, 0.95, 1.06) == "+0.4 % [−5.0, +6.0]"
    assert writer(table).effect(12.0, 2.0, 80.0) == "×12 [+100, ×80]"
    assert writer(table).effect(0.5, None, None) == "−50 %"
    assert writer(TABLE).effect(2.0, 1.5, 2.5) == "+2.0 [+1.5, +2.5]"
    assert writer(TABLE).effect(None, None, None) == "–"


def test_the_table_of_ratios_has_geometric_means_and_their_spread() -> None:
    outcomes = done(full=[1.0, 2.0, 4.0, 8.0], without_ema=[10.0, 10.5, 11.0, 9.0])
    found = compare([ONE], outcomes, LOGS)
    means = tuple(summarise(name, row, logs=True) for name, row in outcomes.items())
    assert means[0].mean == pytest.approx(2**1.5)
    table = replace(TABLE, scale="log", means=means, comparisons=tuple(found), method=method(LOGS, 1, 0, "add-one"))
    text = as_markdown(table)
    assert "| variant | geometric mean | spread | n | change | p | verdict |" in text
    assert f"| full | 2.83 | {100 * math.expm1(np.log([1, 2, 4, 8]).std(ddof=1)):.0f} % | 4 |" in text
    assert "geometric mean of the figure with the trick over that without it; independent runs, Welch's t" in text


# ---------------------------------------------------------------- time


def timed(seconds: dict[str, float], curves: dict[str, list[float]], n: int = 5) -> Comparison:
    """A study of runs that take so long a step, with these figures at steps 25, 50, 75 and 100."""
    jitter = np.exp(0.01 * np.linspace(-1, 1, n))
    outcomes = {
        name: {
            seed: Outcome(name, seed, "done", points[-1] * jitter[seed], step_seconds=seconds[name] * jitter[-seed - 1])
            for seed in range(n)
        }
        for name, points in curves.items()
    }
    measured = {
        name: {seed: {25 * (i + 1): p * jitter[seed] for i, p in enumerate(points)} for seed in range(n)}
        for name, points in curves.items()
    }
    (found,) = with_time(compare([ONE], outcomes, LOGS), outcomes, measured, 100, LOGS)
    return found


def test_the_price_is_the_ratio_of_the_seconds_of_a_step() -> None:
    found = timed({"full": 0.3, "without-ema": 0.2}, {"full": [1.0] * 4, "without-ema": [1.0] * 4})
    assert found.price is not None
    assert found.price.value == pytest.approx(1.5)
    assert found.price.low < 1.5 < found.price.high < 1.52
    assert price(found.price) == f"×1.50 [{found.price.low:.2f}, {found.price.high:.2f}]"


@pytest.mark.parametrize(
    ("with_it", "without", "effect"),
    [
        (0.4, 0.2, 6.0 / 3.0),  # twice as long: its figure at step 50, against the other's at 100
        (0.1, 0.2, 2.0 / 5.0),  # half as long: the other's figure at step 50
        (0.2, 0.2, 2.0 / 3.0),
        (0.32, 0.2, math.sqrt(6 * 4) / 3.0),  # at step 62.5, half way between two points, on a line of logarithms
    ],
)
def test_at_equal_time_the_longer_steps_are_seen_earlier(with_it: float, without: float, effect: float) -> None:
    curves = {"full": [8.0, 6.0, 4.0, 2.0], "without-ema": [6.0, 5.0, 4.0, 3.0]}
    found = timed({"full": with_it, "without-ema": without}, curves)
    assert found.equal_time is not None
    assert found.equal_time.value == pytest.approx(effect)
    assert found.equal_time.low < effect < found.equal_time.high
    assert found.effect == pytest.approx(2 / 3)


def test_no_figure_at_equal_time_before_the_first_one_or_without_times() -> None:
    curves = {"full": [8.0, 6.0, 4.0, 2.0], "without-ema": [6.0, 5.0, 4.0, 3.0]}
    assert timed({"full": 1.0, "without-ema": 0.2}, curves).equal_time is None
    outcomes = done(full=[1.0, 2.0, 3.0], without_ema=[1.0, 2.0, 4.0])
    (found,) = with_time(compare([ONE], outcomes, LOGS), outcomes, {}, 100, LOGS)
    assert found.price is found.equal_time is None


def test_columns_of_time_are_there_where_it_was_measured() -> None:
    found = timed({"full": 0.4, "without-ema": 0.2}, {"full": [1.0] * 4, "without-ema": [1.0] * 4})
    row = summarise("full", {0: Outcome("full", 0, "done", 1.0)})
    table = replace(TABLE, means=(row, replace(row, variant="without-ema")), comparisons=(found,), scale="log")
    assert "| p | at equal time | time a step | verdict |" in as_markdown(table)
    assert rows(table)[1][-2].startswith("×2.00 [")
    bare = replace(table, comparisons=(replace(found, price=None, equal_time=None),))
    assert "time" not in as_markdown(bare).replace("times", "")


# ---------------------------------------------------------------- the rest of the table


def test_runs_with_one_seed_are_said_to_correlate() -> None:
    rng = np.random.default_rng(0)
    shared, noise = rng.normal(0, 1, 400), rng.normal(0, 1, (2, 400))
    outcomes = done(full=[*np.exp(shared + noise[0])], without_ema=[*np.exp(shared + noise[1])])
    assert correlation([ONE], outcomes, LOGS) == pytest.approx(0.5, abs=0.1)
    table = replace(TABLE, correlation=0.5, design="independent")
    assert "runs with one seed correlate by +0.50, over 2 seeds: --design paired would see more" in remarks(table)
    assert "runs with one seed correlate by +0.50, over 2 seeds" in remarks(replace(table, design="paired"))
    assert "runs with one seed correlate by −0.05, over 2 seeds" in remarks(replace(table, correlation=-0.05))
    assert correlation([ONE], done(full=[1.0, 1.0, 1.0], without_ema=[1.0, 2.0, 3.0]), LOGS) is None


def test_the_spread_is_that_within_variants() -> None:
    table = [summarise("a", done(a=[1.0, 3.0])["a"]), summarise("b", done(b=[10.0, 10.0, 10.0])["b"])]
    assert pooled_spread(table) == pytest.approx(math.sqrt(2 / 3))
    assert pooled_spread([summarise("a", done(a=[1.0])["a"])]) is None


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e160, 1e300])
def test_figures_of_any_size_are_compared(scale: float) -> None:
    better, worse = [2.0, 2.1, 2.2, 2.1, 2.0, 1.9], [1.0, 1.1, 1.0, 1.05, 1.0, 1.0]
    found = one(full=[scale * v for v in better], without_ema=[scale * v for v in worse])
    assert found.verdict == "helps"
    assert found.p == pytest.approx(one(full=better, without_ema=worse).p, rel=1e-6)
    means = tuple(summarise(name, runs) for name, runs in done(full=[v * scale for v in better]).items())
    table = replace(TABLE, means=means, comparisons=(found,))
    json.dumps(table.as_dict(), allow_nan=False)
    assert max(map(len, as_markdown(table).splitlines())) < 300
    forest(table)


def test_opposite_figures_next_to_the_largest_number_are_still_compared() -> None:
    top = sys.float_info.max
    found = one(full=[top, 0.9 * top, top, 0.8 * top, top, top], without_ema=[-top] * 6)
    assert found.verdict == "helps"
    assert all(math.isfinite(number or 0) for number in (found.effect, found.error, found.low, found.high))
    logs = one(LOGS, full=[top, 0.9 * top, top, 0.8 * top, top, top], without_ema=[1e-300, 1e-301, *[2e-300] * 4])
    assert logs.verdict == "hurts"
    json.dumps(replace(TABLE, comparisons=(logs,), scale="log").as_dict(), allow_nan=False)
    forest(replace(TABLE, comparisons=(logs,), scale="log"))


# ---------------------------------------------------------------- runs that diverge or collapse


def runs(statuses: str) -> dict[int, Outcome]:
    """A letter for each seed: d, diverged; c, collapsed; a dot, done; f, failed and to be made again."""
    made = {
        "d": lambda seed: Outcome("", seed, "diverged"),
        "c": lambda seed: Outcome("", seed, "done", 1 + 0.01 * seed, collapsed=True),
        ".": lambda seed: Outcome("", seed, "done", 1 + 0.01 * seed + 0.001 * (seed % 3)),
        "f": lambda seed: Outcome("", seed, "failed"),
    }
    return {seed: made[letter](seed) for seed, letter in enumerate(statuses)}


@pytest.mark.parametrize(
    ("full", "without", "verdict"),
    [
        ("ddddd", ".....", "diverges more often: 5 of 5 against 0 of 5"),
        (".....", "ddddd", "diverges less often: 0 of 5 against 5 of 5"),
        ("ccccc", ".....", "collapses more often: 5 of 5 against 0 of 5"),
        ("dcdcd", ".....", "diverges or collapses more often: 5 of 5 against 0 of 5"),
        ("dddddd", ".....d", "diverges more often: 6 of 6 against 1 of 6"),
        ("dddd.", ".....", "diverges more often: 4 of 5 against 0 of 5"),
        ("ddddf", ".....", "diverges more often: 4 of 4 against 0 of 5"),
        ("ddd..", ".....", OPEN),
        ("ddd", "...", OPEN),
        ("ddddd", "ddddd", OPEN),
        (".....", ".....", OPEN),
    ],
)
def test_a_share_of_lost_runs_that_differs_is_the_verdict(full: str, without: str, verdict: str) -> None:
    outcomes = {"full": runs(full), "without-ema": runs(without)}
    (found,) = compare([ONE], outcomes, Rules("higher"))
    assert found.verdict == verdict
    if verdict != OPEN:
        assert "Fisher's exact test" in found.note
        assert found.tone == ("bad" if "more often" in verdict else "good")
    elif full != without:
        assert "runs diverge against" in found.note
        assert "no evidence by Fisher's exact test" in found.note


def test_tricks_with_which_nothing_is_lost_do_not_weaken_the_verdict_on_one_with_which_all_is() -> None:
    names = [f"t{i}" for i in range(30)]
    outcomes = {"plain": runs("....d")} | {f"with-{name}": runs(".....") for name in names}
    outcomes["with-t3"] = runs("ddddd")
    contrasts = [Contrast(name, (f"with-{name}",), ("plain",)) for name in names]
    found = compare(contrasts, outcomes, Rules("higher"))
    assert [c.name for c in found if "diverges" in c.verdict] == ["t3"]
    outcomes["with-t3"] = runs(".....")
    assert not [c for c in compare(contrasts, outcomes, Rules("higher")) if "diverges" in c.verdict]


def test_lost_runs_are_claimed_to_differ_as_rarely_as_the_level_however_many_tricks() -> None:
    draw, trials, tricks, claims = np.random.default_rng(7), 500, 6, 0
    contrasts = [Contrast(f"t{i}", (f"with-t{i}",), ("plain",)) for i in range(tricks)]
    for _ in range(trials):
        chance = draw.uniform(0.1, 0.9)
        outcomes = {
            name: runs("".join("d" if lost else "." for lost in draw.uniform(size=8) < chance))
            for name in ("plain", *(f"with-t{i}" for i in range(tricks)))
        }
        claims += any(
            "diverges" in found.verdict for found in compare(contrasts, outcomes, Rules("higher", adjust="none"))
        )
    assert claims / trials <= 0.05 + 3.4 * math.sqrt(0.05 * 0.95 / trials)


def test_an_interaction_is_not_judged_by_shares() -> None:
    outcomes = {name: runs("ddddd" if name == "full" else ".....") for name in TWO.variants}
    (found,) = compare([TWO], outcomes, Rules("higher"))
    assert found.verdict == OPEN


def test_runs_that_collapsed_are_counted_beside_the_mean() -> None:
    row = summarise("full", runs("c.dc"))
    assert (row.n, row.collapsed, row.diverged) == (3, 2, 1)
    table = replace(TABLE, means=(row,))
    assert "| 3 (2 collapsed, 1 diverged) |" in as_markdown(table)


def test_more_comparisons_ask_for_more_evidence() -> None:
    draw = np.random.default_rng(5)
    full = draw.normal(1, 0.9, len(SEEDS))
    outcomes = done(full=[*full], without_ema=[0.0] * 6, without_b=[*(full - draw.normal(0, 1, 6))])
    for adjust in ("max-t", "holm"):
        (alone,) = compare([ONE], outcomes, Rules("higher", adjust=adjust))
        two = [ONE, Contrast("b", ("full",), ("without-b",))]
        among = compare(two, outcomes, Rules("higher", adjust=adjust))[0]
        assert alone.p == among.p
        assert (among.adjusted or 0) > (alone.adjusted or 1) >= (alone.p or 1)


def test_the_mean_counts_what_has_no_figure() -> None:
    outcomes = {
        0: Outcome("full", 0, "done", 1.0),
        1: Outcome("full", 1, "done", 3.0),
        2: Outcome("full", 2, "diverged"),
        3: Outcome("full", 3, "failed"),
        4: Outcome("full", 4, "refused"),
    }
    row = summarise("full", outcomes)
    assert (row.mean, row.n, row.diverged, row.failed) == (2.0, 2, 1, 2)
    assert row.sd == pytest.approx(2**0.5)
    assert row.values == {0: 1.0, 1: 3.0}


def test_one_comparison_is_no_comparisons() -> None:
    assert (counted(1, "comparison"), counted(2, "comparison")) == ("1 comparison", "2 comparisons")


def test_every_figure_of_the_metric_has_its_mean_and_standard_error() -> None:
    rows = [(8.0, 1.0), (6.0, 2.0), (7.0, None)]
    outcomes = {
        seed: Outcome("plain", seed, "done", modes, values={"modes": modes, "kl": kl})
        for seed, (modes, kl) in enumerate(rows)
    } | {3: Outcome("plain", 3, "diverged", values={"modes": 1.0, "kl": 9.0})}
    row = summarise("plain", outcomes)
    assert row.figures == {"modes": {0: 8.0, 1: 6.0, 2: 7.0}, "kl": {0: 1.0, 1: 2.0}}
    nothing = ((), (), {}, {}, 4, 1.0)
    table = Table("ring", "add-one", "coverage", "modes", "higher", 9, (0, 1, 2, 3), 8.0, (row,), *nothing)
    table = replace(table, floors={"modes": 8.0, "kl": None})
    assert figures(table) == [
        ("variant", "modes", "kl"),
        ("plain", "7.00 ± 0.58", "1.50 ± 0.50"),
        ("real samples", "8", "–"),
    ]
    assert figures(replace(table, means=(replace(row, figures={"modes": row.values}),))) == []
