"""Least squares with errors that hold for unequal variances, and intervals that hold for all effects at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

import numpy as np

from gantricks.study.statistics import LEVEL, outside, t_limit

Array = np.ndarray

MEAN = "mean"
"""The name of the constant column."""

_DEPENDENT = 1e-8
"""The share of a column's length below which its part that earlier columns do not explain counts as rounding error."""
_TRIALS = 100_000
"""The number of simulated maxima behind a simultaneous interval. The quantile is known to about 0.4 %."""


@dataclass(frozen=True)
class Fit:
    """A regression y = X b + e, of n runs on p columns of full rank, the constant first.

    `values` (p,) are the coefficients. `covariance` (p, p) is HC2, which allows the runs different variances and is
    unbiased where they are equal. (HC3, which errs on the safe side, makes intervals a quarter too wide where columns
    are a third of the runs.) `errors` (p,) are the roots of its diagonal; NaN where a coefficient rests on a run that
    is fitted exactly, whose spread is unknown. `freedoms` (p,) are the degrees of freedom of each error by
    Satterthwaite's approximation: few where a coefficient rests on few runs. `inflation` (p,) is the variance
    inflation factor, 1 for a column that is uncorrelated with all others. `aliased` holds each column that is a
    combination of earlier ones, and so was left out: name -> {earlier column: weight}. `spread` is the standard
    deviation of the residuals, with n - p below the root, None where n = p; `explained` the share of the variance of
    y that the columns explain.

    Source: MacKinnon & White 1985, "Some heteroskedasticity-consistent covariance matrix estimators with improved
    finite sample properties" (HC2); Bell & McCaffrey 2002, "Bias reduction in standard errors for linear regression
    with multi-stage samples" (degrees of freedom); Imbens & Kolesár 2016, "Robust standard errors in small samples".
    """

    names: tuple[str, ...]
    values: Array
    covariance: Array
    errors: Array
    freedoms: Array
    inflation: Array
    columns: Array
    aliased: dict[str, dict[str, float]]
    spread: float | None
    explained: float

    @property
    def runs(self) -> int:
        return len(self.columns)

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def at(self, name: str) -> int:
        return self.names.index(name)

    @cached_property
    def correlations(self) -> Array:
        """The correlations (p, p) between the columns; 0 with the constant."""
        centred = self.columns - self.columns.mean(0)
        lengths = np.linalg.norm(centred, axis=0)
        lengths[lengths == 0] = 1
        found: Array = (centred / lengths).T @ (centred / lengths)
        return found

    def nearest(self, name: str) -> tuple[str, float] | None:
        """Return the other column that is most correlated with this one, and the correlation."""
        row = self.correlations[self.at(name)].copy()
        row[[0, self.at(name)]] = 0
        if not row.any():
            return None
        other = int(np.abs(row).argmax())
        return self.names[other], float(row[other])


def least_squares(columns: Mapping[str, Array], y: Array) -> Fit:
    """Regress `y` (n,) on `columns` (n,) each, and a constant.

    Where a column is a combination of the constant and earlier ones, it is left out (`Fit.aliased`). So the order of
    the columns decides which one of several is kept. Raises ValueError where there are no runs.
    """
    if not len(y):
        raise ValueError("a regression needs a run")
    every = {MEAN: np.ones(len(y)), **{name: np.asarray(column, float) for name, column in columns.items()}}
    names, aliased = list[str](), dict[str, dict[str, float]]()
    basis = np.empty((len(y), 0))
    for name, column in every.items():
        rest = column - basis @ (basis.T @ column)
        rest -= basis @ (basis.T @ rest)  # once more, against rounding
        if float(np.linalg.norm(rest)) > _DEPENDENT * max(float(np.linalg.norm(column)), _DEPENDENT):
            names.append(name)
            basis = np.column_stack([basis, rest / np.linalg.norm(rest)])
        else:
            kept = np.column_stack([every[other] for other in names])
            weights = np.linalg.lstsq(kept, column, rcond=None)[0]
            aliased[name] = {other: float(w) for other, w in zip(names, weights, strict=True) if abs(w) > 1e-6}
    x = np.column_stack([every[name] for name in names])
    rows = np.linalg.solve(basis.T @ x, basis.T)  # (XᵀX)⁻¹Xᵀ, (p, n)
    values, residuals = rows @ y, y - basis @ (basis.T @ y)
    leverage = (basis**2).sum(1)
    exact = leverage > 1 - 1e-9
    share = np.where(exact, 1, np.sqrt((1 - leverage).clip(0)))
    covariance = (rows * np.where(exact, 0, residuals / share) ** 2) @ rows.T
    known = ~(np.abs(rows[:, exact]) > 1e-9 * np.abs(rows).max(1, keepdims=True)).any(1)
    errors = np.where(known, np.sqrt(np.diag(covariance)), np.nan)
    within = np.linalg.inv(x.T @ x).diagonal() * ((x - x.mean(0)) ** 2).sum(0)
    freedom, total = len(y) - len(names), ((y - y.mean()) ** 2).sum()
    return Fit(
        names=tuple(names),
        values=values,
        covariance=covariance,
        errors=errors,
        freedoms=np.where(known, _freedoms(rows, basis, np.where(exact, 0, 1 / share)), np.nan),
        inflation=np.maximum(within, 1),
        columns=x,
        aliased=aliased,
        spread=math.sqrt((residuals**2).sum() / freedom) if freedom else None,
        explained=float(1 - (residuals**2).sum() / total) if total else 0.0,
    )


def _freedoms(rows: Array, basis: Array, weights: Array) -> Array:
    """Return the degrees of freedom (p,) of each error, for runs of equal variance.

    The estimate of a variance is a sum of squares of correlated normal numbers, Σ dᵢ eᵢ² with e = M ε and M = I - Q Qᵀ.
    The χ² with the same mean and variance has (tr MD)² / tr (MD)² degrees of freedom.
    """
    residual = np.eye(len(basis)) - basis @ basis.T
    parts = (rows * weights) ** 2
    means, squares = parts @ residual.diagonal(), np.einsum("pi,ij,pj->p", parts, residual**2, parts, optimize=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Array = np.where(squares > 0, means**2 / squares, np.nan)
    return found


@dataclass(frozen=True)
class Interval:
    """A simultaneous interval, and `p` adjusted for all effects of the family."""

    low: float
    high: float
    p: float


def simultaneous(fit: Fit, family: Sequence[str], confidence: float = 1 - LEVEL) -> dict[str, Interval]:
    """Return intervals for the coefficients of a family, which hold all at once with probability `confidence`.

    Each is Student's, with its own degrees of freedom, at the level at which the largest of normal numbers with the
    coefficients' correlation reaches `1 - confidence`. Coefficients without an error have none. Source: Hothorn, Bretz
    & Westfall 2008, "Simultaneous inference in general parametric models"; Hasler & Hothorn 2008, "Multiple contrast
    tests in the presence of heteroscedasticity" (degrees of freedom of their own).
    """
    chosen = [name for name in family if name in fit and fit.errors[fit.at(name)] > 0]
    if not chosen:
        return {}
    places = [fit.at(name) for name in chosen]
    maxima = _maxima(fit.covariance[np.ix_(places, places)])
    level = 2 * NormalDist().cdf(float(np.quantile(maxima, confidence))) - 1
    found = {}
    for name, place in zip(chosen, places, strict=True):
        value, error = float(fit.values[place]), float(fit.errors[place])
        # down to a whole number: a little wider than it must be
        freedom = max(1, math.floor(fit.freedoms[place] + 1e-9))
        reach = t_limit(1 - level, freedom) * error
        alone = max(outside(abs(value) / error, freedom), 1e-300)
        beyond = (maxima >= -NormalDist().inv_cdf(alone / 2)).mean()
        found[name] = Interval(value - reach, value + reach, max(float(beyond), alone))
    return found


def _maxima(covariance: Array) -> Array:
    """Return the simulated largest sizes (n,) of normal numbers with this covariance (m, m), scaled to variance 1."""
    scale = np.sqrt(covariance.diagonal())
    values, vectors = np.linalg.eigh(covariance / np.outer(scale, scale))
    root = vectors * np.sqrt(values.clip(0))
    # a stream of its own: the same study has the same intervals
    rng = np.random.Generator(np.random.Philox(20_150_206))
    blocks = [np.abs(rng.standard_normal((5_000, len(scale))) @ root.T).max(1) for _ in range(_TRIALS // 5_000)]
    return np.concatenate(blocks)
