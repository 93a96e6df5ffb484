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
from gantricks.study.table import Comparison, Table, compare, summarise
from gantricks.study.variants import Contrast
from gantricks.study.words import as_markdown, counted, figures

SEEDS = range(6)
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


def one(better: str = "higher", **values: list[float | None]) -> Comparison:
    (found,) = compare([ONE], done(**values), SEEDS, better)
    return found


@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans())
def test_a_fabricated_difference_is_found_with_its_direction(seed: int, up: bool, more_is_better: bool) -> None:
    draw = np.random.default_rng(seed)
    without = draw.normal(10, 3, len(SEEDS))
    full = without + (1 if up else -1) + draw.normal(0, 0.05, len(SEEDS))
    found = one("higher" if more_is_better else "lower", full=[*full], without_ema=[*without])
    assert found.verdict == ("helps" if up == more_is_better else "hurts")
    assert found.difference == pytest.approx(1 if up else -1, abs=0.2)
    assert found.low is not None
    assert found.high is not None
    assert found.low < (found.difference or 0) < found.high
    assert (found.low > 0) == up


def test_no_difference_is_claimed_as_rarely_as_the_level_however_many_tricks() -> None:
    draw, trials, tricks = np.random.default_rng(0), 400, 6
    contrasts = [Contrast(f"t{i}", ("full",), (f"without-t{i}",)) for i in range(tricks)]
    claims = 0
    for _ in range(trials):
        names = ["full", *(f"without_t{i}" for i in range(tricks))]
        rows = draw.normal(0, 1, (tricks + 1, len(SEEDS)))
        outcomes = done(**{name: [*row] for name, row in zip(names, rows, strict=True)})
        claims += any(found.verdict != "no evidence" for found in compare(contrasts, outcomes, SEEDS, "higher"))
    # at most 5 % of the families: 20, with room of 3.4 standard deviations
    assert claims <= 35


def test_pairing_removes_what_the_seed_does() -> None:
    draw = np.random.default_rng(3)
    seeds = draw.normal(0, 100, len(SEEDS))
    noise = draw.normal(0, 0.1, (2, len(SEEDS)))
    paired = one(full=[*(seeds + noise[0] + 1)], without_ema=[*(seeds + noise[1])])
    shuffled = one(full=[*(seeds + noise[0] + 1)], without_ema=[*np.roll(seeds + noise[1], 1)])
    assert paired.verdict == "helps"
    assert shuffled.verdict == "no evidence"
    assert paired.sd is not None
    assert shuffled.sd is not None
    assert paired.sd < 0.01 * shuffled.sd


def test_the_interaction_is_the_difference_of_differences() -> None:
    full, without_a, without_b, neither = [9.0, 8.9, 9.1, 9.0, 9.0, 9.2], [5.0] * 6, [6.0] * 6, [4.0] * 6
    values = {"full": full, "without_a": without_a, "without_b": without_b, "without_a_b": neither}
    (found,) = compare([TWO], done(**values), SEEDS, "higher")
    assert found.difference == pytest.approx(np.mean(full) - 5 - 6 + 4)
    assert found.verdict == "stronger together"
    (found,) = compare([TWO], done(**values), SEEDS, "lower")
    assert found.verdict == "weaker together"
    values["full"] = [value - 2 for value in full]
    (found,) = compare([TWO], done(**values), SEEDS, "higher")
    assert (found.verdict, found.difference) == ("no evidence", pytest.approx(0.0333, abs=1e-3))


def test_pairs_with_a_run_that_diverged_are_counted_and_left_out() -> None:
    found = one(full=[2.0, 2.1, 2.2, 2.1, 2.0, 1.9], without_ema=[1.0, 1.0, None, None, 1.0, 1.0])
    assert (found.n, found.lost, found.verdict) == (4, 2, "helps")
    assert found.difference == pytest.approx(1.0)


def test_no_side_that_diverged_is_claimed_to_be_the_better_one() -> None:
    better, worse = [2.0, 2.1, None, 2.1, 2.0, 1.9], [1.0] * 6
    found = one(full=better, without_ema=worse)
    assert (found.p or 1) < 0.05
    assert found.verdict == "no evidence"
    assert "diverged (1 of full)" in found.note
    # the side without the trick is the better one, and it diverged
    assert one("lower", full=worse, without_ema=[0.1, 0.2, None, 0.1, 0.15, 0.2]).verdict == "no evidence"
    assert one("lower", full=worse, without_ema=[0.1, 0.2, 0.1, 0.1, 0.15, 0.2]).verdict == "hurts"
    assert one("higher", full=[*worse[:5], None], without_ema=[2.0, 2.1, 2.2, 2.1, 2.0, 1.9]).verdict == "hurts"


@pytest.mark.parametrize("row", [[None] * 3, [1.0, None, None]])
def test_too_few_pairs_are_no_evidence_and_say_so(row: list[float | None]) -> None:
    (found,) = compare([ONE], done(full=row, without_ema=[0.0] * 3), range(3), "higher")
    assert (found.verdict, found.p, found.holm) == ("no evidence", None, None)
    assert "fewer than two" in found.note


def test_figures_that_never_vary_are_compared_as_two_samples() -> None:
    found = one(full=[8.0] * 6, without_ema=[8.0] * 6)
    assert (found.difference, found.p, found.verdict, found.note) == (0, 1, "no evidence", "")
    assert one(full=[8.0] * 6, without_ema=[7.0] * 6).verdict == "helps"
    (five,) = compare([ONE], done(full=[8.0] * 5, without_ema=[1.0] * 5), range(5), "higher")
    assert (round(five.p or 1, 4), five.verdict, five.low) == (0.0079, "helps", None)
    assert "exact rank-sum test, unpaired" in five.note
    (few,) = compare([ONE], done(full=[8.0] * 3, without_ema=[1.0] * 3), range(3), "higher")
    assert (round(few.p or 1, 4), few.verdict) == (0.1, "no evidence")


@given(st.integers(1, 7), st.integers(0, 4), st.sampled_from([5, 8]))
def test_one_pair_that_deviates_claims_no_more_than_none(size: int, at: int, n: int) -> None:
    """A t test gives 8 modes against 1 p = 4e-6 with one 7 among the eights, and none without it."""
    low, high = [1.0] * n, [8.0] * n
    constant = compare([ONE], done(full=high, without_ema=low), range(n), "higher")[0]
    deviating = [*high[:at], high[at] - size, *high[at + 1 :]]
    found = compare([ONE], done(full=deviating, without_ema=low), range(n), "higher")[0]
    assert (found.p or 0) >= (constant.p or 1)
    assert (found.p or 0) > 1e-4
    # and where it is the only difference at all, it is none
    alone = compare([ONE], done(full=deviating, without_ema=high), range(n), "higher")[0]
    assert (alone.verdict, alone.p) == ("no evidence", 1)


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e160, 1e300])
def test_figures_of_any_size_are_compared(scale: float) -> None:
    better, worse = [2.0, 2.1, 2.2, 2.1, 2.0, 1.9], [1.0, 1.1, 1.0, 1.05, 1.0, 1.0]
    found = one(full=[scale * v for v in better], without_ema=[scale * v for v in worse])
    assert found.verdict == "helps"
    assert found.p == pytest.approx(one(full=better, without_ema=worse).p, rel=1e-6)
    rows = tuple(summarise(name, runs) for name, runs in done(full=[v * scale for v in better]).items())
    table = Table("t", "add-one", "m", "f", "higher", 9, (0, 1), None, rows, (found,), (), {}, {}, 12, 1.0)
    json.dumps(table.as_dict(), allow_nan=False)
    assert max(map(len, as_markdown(table).splitlines())) < 300
    forest(table)


def test_opposite_figures_next_to_the_largest_number_are_still_compared() -> None:
    top = sys.float_info.max
    found = one(full=[top, 0.9 * top, top, 0.8 * top, top, top], without_ema=[-top] * 6)
    assert found.verdict == "helps"
    assert all(math.isfinite(number or 0) for number in (found.difference, found.sd, found.low, found.high))


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
        ("ddd..", ".....", "no evidence"),
        ("ddd", "...", "no evidence"),
        ("ddddd", "ddddd", "no evidence"),
        (".....", ".....", "no evidence"),
    ],
)
def test_a_share_of_lost_runs_that_differs_is_the_verdict(full: str, without: str, verdict: str) -> None:
    outcomes = {"full": runs(full), "without-ema": runs(without)}
    (found,) = compare([ONE], outcomes, range(len(full)), "higher")
    assert found.verdict == verdict
    if verdict != "no evidence":
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
    found = compare(contrasts, outcomes, range(5), "higher")
    assert [c.name for c in found if "diverges" in c.verdict] == ["t3"]
    outcomes["with-t3"] = runs(".....")
    assert not [c for c in compare(contrasts, outcomes, range(5), "higher") if "diverges" in c.verdict]


def test_lost_runs_are_claimed_to_differ_as_rarely_as_the_level_however_many_tricks() -> None:
    draw, trials, tricks, claims = np.random.default_rng(7), 500, 6, 0
    contrasts = [Contrast(f"t{i}", (f"with-t{i}",), ("plain",)) for i in range(tricks)]
    for _ in range(trials):
        chance = draw.uniform(0.1, 0.9)
        outcomes = {
            name: runs("".join("d" if lost else "." for lost in draw.uniform(size=8) < chance))
            for name in ("plain", *(f"with-t{i}" for i in range(tricks)))
        }
        claims += any("diverges" in found.verdict for found in compare(contrasts, outcomes, range(8), "higher"))
    assert claims / trials <= 0.05 + 3.4 * math.sqrt(0.05 * 0.95 / trials)


def test_an_interaction_is_not_judged_by_shares() -> None:
    outcomes = {name: runs("ddddd" if name == "full" else ".....") for name in TWO.variants}
    (found,) = compare([TWO], outcomes, range(5), "higher")
    assert found.verdict == "no evidence"


def test_runs_that_collapsed_are_counted_beside_the_mean() -> None:
    row = summarise("full", runs("c.dc"))
    assert (row.n, row.collapsed, row.diverged) == (3, 2, 1)
    table = Table("t", "add-one", "m", "f", "higher", 9, (0, 1), None, (row,), (), (), {}, {}, 4, 1.0)
    assert "| 3 (2 collapsed, 1 diverged) |" in as_markdown(table)


def test_more_comparisons_ask_for_more_evidence() -> None:
    draw = np.random.default_rng(5)
    full = draw.normal(1, 0.9, len(SEEDS))
    outcomes = done(full=[*full], without_ema=[0.0] * 6, without_b=[*(full - draw.normal(0, 1, 6))])
    (alone,) = compare([ONE], outcomes, SEEDS, "higher")
    among = compare([ONE, Contrast("b", ("full",), ("without-b",))], outcomes, SEEDS, "higher")[0]
    assert alone.holm == alone.p == among.p
    assert (among.holm or 0) > (among.p or 1)


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
