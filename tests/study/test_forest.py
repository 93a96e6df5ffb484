"""The picture of a study shows its rows in their order, on their side of zero, in the colour of their verdict."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageColor

from gantricks.study.forest import ROW, WIDTH, _Scale, forest
from gantricks.study.table import Comparison, Table

FOUND = Comparison("ema", ("full",), ("without-ema",), 1.0, 0.5, 0.5, 1.5, 0.01, 0.01, 6, 0, "helps")
TABLE = Table("t", "add-one", "m", "f", "higher", 9, (0, 1), None, (), (FOUND,), (), {}, {}, 12, 1.0)
GREEN, RED, ZERO, GREY = "#1f8a5b", "#c8363f", "#c9ced6", "#6b7480"
BARS = slice(450, 970)
"""The columns of pixels where the intervals are."""


def where(picture: Image.Image, colour: str) -> tuple[np.ndarray, np.ndarray]:
    """The rows and the columns of the pixels of a colour among the intervals."""
    near = np.abs(np.asarray(picture).astype(int) - ImageColor.getrgb(colour)).max(axis=2) < 6
    rows, columns = np.nonzero(near[126:-84, BARS])
    return rows, columns + BARS.start


def zero(picture: Image.Image) -> float:
    return float(np.median(where(picture, ZERO)[1]))


@pytest.mark.parametrize("sign", [1, -1])
def test_a_bar_is_on_its_side_of_zero_around_its_dot(sign: int) -> None:
    found = replace(FOUND, effect=sign * 1.0, low=min(sign * 0.5, sign * 1.5), high=max(sign * 0.5, sign * 1.5))
    picture = forest(replace(TABLE, comparisons=(found,)))
    _, columns = where(picture, GREEN)
    away = sign * (columns - zero(picture))
    assert away.min() > 0
    # from 0.5 to 1.5 of the way of 1 that the dot, the highest thing there, has gone
    heights = np.bincount(columns)
    dot = sign * (np.flatnonzero(heights == heights.max()).mean() - zero(picture))
    assert away.min() == pytest.approx(dot / 2, abs=4)
    assert away.max() == pytest.approx(1.5 * dot, abs=4)


@pytest.mark.parametrize(("better", "first"), [("higher", RED), ("lower", GREEN)])
def test_the_best_trick_is_on_top(better: str, first: str) -> None:
    down = replace(FOUND, name="a", effect=-1.0, low=-1.5, high=-0.5, verdict="helps")
    up = replace(FOUND, name="b", verdict="hurts")
    unknown = replace(FOUND, name="c", effect=None, low=None, high=None, verdict="not established")
    picture = forest(replace(TABLE, better=better, comparisons=(unknown, down, up)))
    assert picture.size == (WIDTH, 126 + 84 + 3 * ROW)
    tops = {colour: int(where(picture, colour)[0].mean()) // ROW for colour in (RED, GREEN)}
    assert tops[first] == 0
    assert sorted(tops.values()) == [0, 1]


def test_interactions_stand_below_under_a_line_of_their_own() -> None:
    both = forest(replace(TABLE, interactions=(replace(FOUND, verdict="hurts"),)))
    assert both.height == forest(TABLE).height + 2 * ROW
    assert int(where(both, RED)[0].mean()) // ROW == 2


def test_a_long_name_never_reaches_the_bars() -> None:
    wide = forest(replace(TABLE, comparisons=(replace(FOUND, name="w" * 300),)))
    beside = np.asarray(wide)[126:-84, 430:450]
    assert (beside == beside[:, :1]).all()


edges = st.floats(-1.7e308, 1.7e308, allow_nan=False) | st.sampled_from([0.0, 1e-300, -1e-200, 1e16, 1e16 + 2])


@settings(max_examples=15)
@given(st.lists(st.tuples(edges, edges), min_size=1, max_size=3), st.sampled_from(["higher", "lower"]))
def test_figures_of_any_size_are_drawn(ends: list[tuple[float, float]], better: str) -> None:
    rows = tuple(replace(FOUND, effect=min(e), low=min(e), high=max(e)) for e in ends)
    picture = forest(replace(TABLE, better=better, comparisons=rows))
    assert len(where(picture, GREEN)[0]) > 20 * len(rows)


@pytest.mark.parametrize("sign", [1, -1])
def test_ratios_stand_on_a_logarithmic_scale(sign: int) -> None:
    up = replace(FOUND, effect=2.0, low=1.6, high=2.5, verdict="hurts")
    down = replace(FOUND, effect=1 / 2.0, low=1 / 2.5, high=1 / 1.6)
    both = (up, down) if sign > 0 else (down, up)
    picture = forest(replace(TABLE, scale="log", better="lower", comparisons=both))
    middle = zero(picture)
    (_, better), (_, worse) = where(picture, GREEN), where(picture, RED)
    # half as much is as far from no change as twice as much
    assert middle - better.min() == pytest.approx(worse.max() - middle, abs=3)
    assert middle - better.max() == pytest.approx(worse.min() - middle, abs=3)
    assert (worse.max() - middle) / (worse.min() - middle) == pytest.approx(np.log(2.5) / np.log(1.6), rel=0.05)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-1.0, 0.5, ["−50 %", "−20 %", "0", "+50 %"]),
        (-0.03, 0.15, ["0", "+5 %", "+10 %"]),
        (-8.0, 8.0, None),
        (-600.0, 600.0, None),
    ],
)
def test_ticks_are_round_changes_that_do_not_touch(low: float, high: float, expected: list[str] | None) -> None:
    scale = _Scale(replace(TABLE, scale="log"))
    ticks = scale.ticks(low, high)
    assert 0 in ticks
    assert all(low <= tick <= high for tick in ticks)
    assert 2 <= len(ticks) <= 9
    assert np.diff(ticks).min() >= (high - low) / 8 - 1e-9
    if expected:
        assert [scale.label(tick) for tick in ticks] == expected


def test_what_is_not_established_is_grey_and_no_effect_lies_within_the_shade() -> None:
    unclear = replace(FOUND, effect=1.1, low=0.7, high=1.6, verdict="not established")
    none = replace(FOUND, effect=1.01, low=0.96, high=1.06, verdict="no effect beyond 10 %")
    table = replace(TABLE, scale="log", margin=0.1, comparisons=(unclear, none))
    picture = forest(table)
    assert len(where(picture, GREY)[0]) > 20
    shade = np.abs(np.asarray(picture).astype(int) - np.asarray(forest(replace(table, margin=None))).astype(int))
    columns = np.flatnonzero(shade[126:-84].sum(2).sum(0))
    _, bar = where(picture, "#2c67a8")
    assert columns.min() < bar.min() < bar.max() < columns.max()
