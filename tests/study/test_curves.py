"""Curves of a study: read from metrics.jsonl, averaged, seen between their points, drawn."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gantricks.study.curves import Curve, at_step, averaged, late_gain, read_curve
from gantricks.study.curves_picture import HEIGHT, WIDTH, curves_picture
from gantricks.study.folder import Outcome
from gantricks.study.table import Comparison, Table, summarise

LINES = """{"step": 50, "loss/d": 1.0}
{"step": 100, "loss/d": 1.0, "metric/coverage/modes": 7.0, "metric/other/modes": 1.0}
{"step": 200, "metric/coverage/modes": null}
[3]
{"step": 300, "metric/coverage/modes": 8}
{"step": 400, "metric/cov"""


def test_a_curve_is_what_the_run_has_measured(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(LINES)
    assert read_curve(tmp_path, "coverage", "modes") == {100: 7.0, 300: 8.0}
    assert read_curve(tmp_path, "coverage", "reverse_kl") == {}
    assert read_curve(tmp_path / "nowhere", "coverage", "modes") == {}


def test_a_mean_curve_has_the_runs_that_reach_each_step() -> None:
    runs = [{10: 1.0, 20: 2.0}, {10: 4.0, 20: 8.0, 30: 9.0}, {20: 4.0}]
    plain = averaged(runs, ratio=False)
    assert (plain.steps, plain.means) == ((10, 20, 30), pytest.approx((2.5, 14 / 3, 9.0)))
    assert plain.errors[1] == pytest.approx(np.std([2, 8, 4], ddof=1) / math.sqrt(3))
    assert plain.errors[2] is None
    logs = averaged(runs, ratio=True)
    assert logs.means == pytest.approx((2.0, 4.0, 9.0))
    assert logs.errors[1] == pytest.approx(np.std(np.log([2, 8, 4]), ddof=1) / math.sqrt(3))
    assert averaged([{10: 0.0, 20: 1.0}], ratio=True).steps == (20,)


@given(st.floats(0.1, 10), st.floats(0.1, 10), st.floats(0, 1), st.booleans())
def test_between_two_points_the_figure_is_on_their_line(low: float, high: float, share: float, ratio: bool) -> None:
    points = {100: low, 200: high}
    found = at_step(points, 100 + 100 * share, ratio)
    expected = low ** (1 - share) * high**share if ratio else (1 - share) * low + share * high
    assert found == pytest.approx(expected)
    assert at_step(points, 99.9, ratio) is None
    assert at_step(points, 200.1, ratio) is None


def test_no_logarithm_of_a_figure_that_is_0() -> None:
    assert at_step({1: 0.0, 2: 1.0}, 1.5, ratio=True) is None
    assert at_step({1: 0.0, 2: 1.0}, 1.5, ratio=False) == 0.5


@pytest.mark.parametrize(
    ("means", "better", "gain"),
    [
        ((9.0, 5.0, 4.0, 3.0), "lower", 0.25),
        ((9.0, 5.0, 4.0, 3.0), "higher", -0.25),
        ((1.0, 2.0, 4.0, 5.0), "higher", 0.25),
        ((9.0, 9.0, 4.0, 4.0), "lower", 0.0),
        ((0.0, 0.0, 0.0, 1.0), "higher", 0.0),
    ],
)
def test_the_last_quarter_is_compared_with_what_was_before_it(
    means: tuple[float, ...], better: str, gain: float
) -> None:
    curve = Curve((25, 50, 75, 100), means, (None,) * 4)
    assert late_gain(curve, better, 100) == pytest.approx(gain)


@pytest.mark.parametrize("steps", [(100,), (25, 50), (80, 100), (25, 100)])
def test_a_curve_with_too_few_points_says_nothing_of_the_last_quarter(steps: tuple[int, ...]) -> None:
    means = tuple(float(10 - i) for i in range(len(steps)))
    assert late_gain(Curve(steps, means, (None,) * len(steps)), "lower", 100) == 0


def study(count: int) -> Table:
    names = ["plain", *(f"with-{i}" for i in range(count))]
    curves = {n: Curve((10, 20, 30), (9.0, 5.0, 2.0 + i), (1.0, 0.5, None)) for i, n in enumerate(names)}
    rows = tuple(summarise(name, {0: Outcome(name, 0, "done", 1.0)}) for name in names)
    helps = Comparison("0", ("with-0",), ("plain",), 0.5, 0.1, 0.4, 0.6, 0.01, 0.01, 2, 0, "helps")
    table = Table("t", "add-one", "m", "f", "lower", 30, (0, 1), None, rows, (helps,), (), {}, {}, 12, 1.0)
    return replace(table, curves=curves)


@pytest.mark.parametrize("scale", ["raw", "log"])
@pytest.mark.parametrize("count", [1, 60])
def test_curves_are_drawn_in_the_colours_of_their_verdicts(scale: str, count: int) -> None:
    picture = curves_picture(replace(study(count), scale=scale))
    assert picture.size == (WIDTH, HEIGHT)
    area = np.asarray(picture).astype(int)[120:560, 115:930]

    def seen(colour: tuple[int, int, int]) -> int:
        return int((np.abs(area - colour).max(2) < 8).sum())

    assert seen((0x1C, 0x24, 0x30)) > 500  # the reference
    assert seen((0x1F, 0x8A, 0x5B)) > 200  # what helps
    assert (seen((0xB6, 0xBC, 0xC6)) > 200) == (count > 1)  # the others are grey
