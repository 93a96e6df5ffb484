"""Least squares, robust errors and simultaneous intervals, against independent formulas and simulated data."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from gantricks.study.regression import MEAN, least_squares, simultaneous
from gantricks.study.statistics import t_limit


def some(n: int = 40, p: int = 4, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Return columns, figures, and both as NumPy's own solvers want them."""
    rng = np.random.default_rng(seed)
    columns = {f"x{i}": rng.standard_normal(n) * (i + 1) for i in range(p)}
    y = 2 + 3 * columns["x0"] - columns["x2"] + rng.standard_normal(n) * (1 + columns["x1"] ** 2)
    return columns, y, np.column_stack([np.ones(n), *columns.values()])


def test_coefficients_are_those_of_lstsq() -> None:
    columns, y, x = some()
    fit = least_squares(columns, y)
    assert fit.names == (MEAN, *columns)
    np.testing.assert_allclose(fit.values, np.linalg.lstsq(x, y, rcond=None)[0], rtol=1e-10)
    residuals = y - x @ fit.values
    assert fit.spread == pytest.approx(math.sqrt(residuals @ residuals / (len(y) - 5)))
    assert fit.explained == pytest.approx(1 - residuals @ residuals / ((y - y.mean()) ** 2).sum())


def test_errors_are_hc2() -> None:
    columns, y, x = some()
    fit = least_squares(columns, y)
    hat = x @ np.linalg.pinv(x)
    squares = (y - hat @ y) ** 2 / (1 - hat.diagonal())
    bread = np.linalg.inv(x.T @ x)
    np.testing.assert_allclose(fit.covariance, bread @ (x.T * squares) @ x @ bread, rtol=1e-8)
    np.testing.assert_allclose(fit.errors**2, fit.covariance.diagonal())


@pytest.mark.parametrize(("a", "b"), [(5, 5), (4, 20), (2, 9)])
def test_of_two_groups_it_is_welchs_comparison(a: int, b: int) -> None:
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal(a), 3 * rng.standard_normal(b)
    fit = least_squares({"a": np.repeat([1.0, 0.0], [a, b])}, np.concatenate([first, second]))
    place = fit.at("a")
    assert fit.values[place] == pytest.approx(first.mean() - second.mean())
    assert fit.errors[place] ** 2 == pytest.approx(first.var(ddof=1) / a + second.var(ddof=1) / b)
    # Welch's degrees of freedom at equal variances
    wanted = (1 / a + 1 / b) ** 2 / (1 / (a**2 * (a - 1)) + 1 / (b**2 * (b - 1)))
    assert fit.freedoms[place] == pytest.approx(wanted)


def test_an_inflation_of_variance_is_one_over_what_the_others_leave() -> None:
    columns, y, _ = some()
    columns["x3"] = columns["x0"] + 0.3 * columns["x3"]
    fit = least_squares(columns, y)
    for name, column in columns.items():
        others = {other: values for other, values in columns.items() if other != name}
        left = 1 - least_squares(others, column).explained
        assert fit.inflation[fit.at(name)] == pytest.approx(1 / left)
    assert fit.nearest("x3")[0] == "x0"
    assert fit.nearest("x3")[1] == pytest.approx(np.corrcoef(columns["x3"], columns["x0"])[0, 1])


def test_a_column_that_earlier_ones_make_up_is_left_out_and_said_to_be() -> None:
    columns, y, _ = some()
    whole = least_squares(columns, y)
    fit = least_squares({**columns, "sum": 2 * columns["x0"] - columns["x1"] + 7, "flat": np.full(len(y), 3.0)}, y)
    assert fit.names == whole.names
    assert fit.aliased["sum"] == pytest.approx({MEAN: 7, "x0": 2, "x1": -1})
    assert fit.aliased["flat"] == pytest.approx({MEAN: 3})
    np.testing.assert_allclose(fit.values, whole.values)
    assert least_squares({"zero": np.zeros(len(y))}, y).aliased == {"zero": {}}


def test_an_effect_that_rests_on_one_run_has_no_error() -> None:
    columns, y, _ = some()
    alone = np.eye(len(y))[3]
    fit = least_squares({**columns, "alone": alone}, y)
    rest = least_squares({name: np.delete(column, 3) for name, column in columns.items()}, np.delete(y, 3))
    assert math.isnan(fit.errors[fit.at("alone")])
    np.testing.assert_allclose(fit.errors[:-1], rest.errors, rtol=1e-8)
    assert [*simultaneous(fit, ["alone", "x0"])] == ["x0"]


def test_a_fit_without_freedom_has_no_spread_and_no_interval() -> None:
    columns, y, _ = some(n=5)
    fit = least_squares(columns, y)
    assert fit.spread is None
    assert simultaneous(fit, [*columns]) == {}
    with pytest.raises(ValueError, match="needs a run"):
        least_squares({}, np.empty(0))


def test_one_interval_alone_is_students() -> None:
    columns, y, _ = some()
    fit = least_squares(columns, y)
    found = simultaneous(fit, ["x1"])["x1"]
    place = fit.at("x1")
    reach = t_limit(0.05, int(fit.freedoms[place])) * fit.errors[place]
    assert found.high - found.low == pytest.approx(2 * reach, rel=0.01)
    assert found.low + found.high == pytest.approx(2 * fit.values[place])


def test_intervals_of_independent_effects_are_those_of_sidak() -> None:
    # ±1 columns of a full factorial design are orthogonal
    cells = np.array([*product((-1.0, 1.0), repeat=5)] * 8)
    fit = least_squares({str(i): cells[:, i] for i in range(5)}, np.random.default_rng(0).standard_normal(len(cells)))
    freedom = int(fit.freedoms[1])
    reach = t_limit(1 - 0.95 ** (1 / 5), freedom) * fit.errors[1]
    found = simultaneous(fit, "01234")
    assert (found["0"].high - found["0"].low) / 2 == pytest.approx(reach, rel=0.02)


def test_intervals_are_wider_for_more_effects_and_the_same_each_time() -> None:
    columns, y, _ = some()
    fit = least_squares(columns, y)
    few, many = simultaneous(fit, ["x0"]), simultaneous(fit, [*columns])
    assert many["x0"].high > few["x0"].high
    assert many["x0"].p >= few["x0"].p
    assert simultaneous(fit, [*columns]) == many


def test_p_and_interval_agree() -> None:
    for seed in range(20):
        columns, y, _ = some(seed=seed)
        for found in simultaneous(least_squares(columns, y), [*columns]).values():
            assert (found.p < 0.05) == (not found.low <= 0 <= found.high) or abs(found.p - 0.05) < 0.005


def covered(studies: int, seed: int, runs: int = 120, tricks: int = 20) -> float:
    """Return the share of simulated screenings in which all intervals hold: of the tricks, about four in a run, with
    skewed figures whose spread depends on the tricks.
    """
    rng = np.random.default_rng(seed)
    hits = 0
    for _ in range(studies):
        drawn = np.zeros((runs, tricks))
        for row in drawn:
            row[rng.choice(tricks, rng.integers(2, 7), replace=False)] = 1
        effects = rng.normal(0, 0.3, tricks)
        spread = 0.5 * np.exp(0.5 * drawn[:, 0] + 0.5 * drawn[:, 1] - 0.5 * drawn[:, 2])
        rate = rng.uniform(-1, 1, runs)
        y = drawn @ effects + 0.4 * rate + spread * (rng.gamma(2, 1, runs) - 2) / math.sqrt(2)
        columns = {"rate": rate, **{str(i): drawn[:, i] for i in range(tricks)}}
        found = simultaneous(least_squares(columns, y), [*map(str, range(tricks))])
        hits += all(found[str(i)].low <= effects[i] <= found[str(i)].high for i in range(tricks))
    return hits / studies


def test_intervals_hold_in_about_95_of_100_studies() -> None:
    assert 0.90 <= covered(60, seed=1) < 1


@pytest.mark.slow
def test_intervals_hold_at_their_level() -> None:
    # the standard error of a share of 0.95 in 1,000 is 0.7 %
    assert 0.93 <= covered(1000, seed=2) <= 0.97
