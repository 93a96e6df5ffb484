"""How many modes of a mixture the generator covers, and how evenly."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated

import numpy as np
from pydantic import Field

from gantricks.data import mixtures
from gantricks.data.mixtures import Mixture
from gantricks.metrics.base import Measurement, Metric, Subject
from gantricks.options import Options

REACH = 3.0
"""The largest distance of a high-quality point from the nearest mode, in standard deviations."""

DIRECTIONS = 32
"""The number of directions along which points are compared."""


def tally(batches: Iterable[np.ndarray], centres: np.ndarray, std: float) -> tuple[np.ndarray, int]:
    """Return the number of high-quality points of each mode, int64 (modes,), and the number of all points.

    `batches`: points (n, D) each. A point is of high quality when its Euclidean distance from the nearest of `centres`,
    (modes, D), is less than 3 `std`.
    """
    counts, total = np.zeros(len(centres), np.int64), 0
    for points in batches:
        apart = np.linalg.norm(points[:, None].astype(np.float64) - centres, axis=2)
        near = apart.min(axis=1) < REACH * std
        counts += np.bincount(apart.argmin(axis=1)[near], minlength=len(centres))
        total += len(points)
    return counts, total


def reverse_kl(counts: np.ndarray) -> float:
    """Return KL(q ‖ uniform) = Σ q_k log(q_k K) in nats, of the shares q_k of `counts`, (K,); 0 log 0 is 0.

    Where all counts are 0, q is undefined, and the result is log K, the largest possible value.
    """
    total, modes = counts.sum(), len(counts)
    if not total:
        return float(np.log(modes))
    shares = counts[counts > 0] / total
    return float(max(np.sum(shares * np.log(shares * modes)), 0.0))  # rounding can leave -1e-17


def beyond(reach: float, dimension: int) -> float:
    """Return P(‖x‖ ≥ reach) of x ~ N(0, I) in so many dimensions: the survival function of the χ distribution.

    By the recurrence Q(a + 1, t) = Q(a, t) + tᵃ e⁻ᵗ / Γ(a + 1), t = reach² / 2, from Q(1, t) = e⁻ᵗ or Q(½, t) =
    erfc(√t). Source: Abramowitz & Stegun 1964, 6.5 (the incomplete gamma function) and 26.4 (χ²).
    """
    t, a = reach * reach / 2, 0.5 if dimension % 2 else 1.0
    found = math.erfc(math.sqrt(t)) if dimension % 2 else math.exp(-t)
    while a < dimension / 2:
        found += t**a * math.exp(-t) / math.gamma(a + 1)
        a += 1
    return found


def total_variation(counts: np.ndarray, total: int, outside: float) -> float:
    """Return ½ Σ |q − p| over the modes and "nowhere": q are the shares of `counts`, (modes,), and of the rest among
    `total` points, p those of the mixture, (1 − outside) / modes each and `outside`.
    """
    shares = counts / total
    within = np.abs(shares - (1 - outside) / len(counts)).sum()
    return float(within + abs(1 - shares.sum() - outside)) / 2


def sliced_wasserstein(points: np.ndarray, centres: np.ndarray, std: float, seed: int) -> float:
    """Return the sliced 2-Wasserstein distance of points (n, D) from the mixture of equally likely N(centre, std² I).

    It is the root of the mean, over `DIRECTIONS` directions, of the squared W₂ of the projections, in the units of the
    points. The mixture is represented by equally many fresh points of each mode, at least n in all. Directions in the
    plane have equal angles between them. Source: Bonneel et al. 2015, "Sliced and Radon Wasserstein Barycenters of
    Measures".
    """
    count, (modes, dimension) = len(points), centres.shape
    rng = np.random.default_rng([seed, modes])
    each = np.repeat(centres, -(-count // modes), axis=0)
    fresh = each + std * rng.standard_normal(each.shape)
    if dimension == 2:
        angles = np.pi * (np.arange(DIRECTIONS) + 0.5) / DIRECTIONS
        directions = np.stack([np.cos(angles), np.sin(angles)])
    else:
        directions = rng.standard_normal((dimension, DIRECTIONS))
        directions /= np.linalg.norm(directions, axis=0)
    places, squares = (np.arange(count) + 0.5) / count, []
    for direction in directions.T:  # one after the other, since there may be millions of points
        along = np.sort(points.astype(np.float64) @ direction)
        squares.append(np.mean((along - np.quantile(fresh @ direction, places, method="hazen")) ** 2))
    return float(np.sqrt(np.mean(squares)))


class MixtureCoverage(Metric):
    """Mode coverage of a mixture: how many of its modes the generator reaches, how well, and how evenly.

    Over `points` generated points. `total_variation` is the distance of the shares of points in each mode, and in none,
    from those of the mixture: 0 to 1. Noise, missing modes and uneven ones all raise it. Within a mode it is blind;
    `sliced_wasserstein`, in the units of the data, sees where every point lies.

    The others are the protocol of PacGAN for the 2D-ring and the 2D-grid. `high_quality` is the share,
    in %, of points within 3 standard deviations (Euclidean distance) of the nearest mode; a perfect sampler of a
    mixture in the plane scores 1 - exp(-9/2), 98.9 %, so 100 % means modes that are too narrow. `modes` counts the
    modes that at least one point of high quality is nearest to. `reverse_kl` is KL(q ‖ uniform) in nats, where q is the
    distribution of the points of high quality over the modes: as in the authors' code, which logs the entropy of q (and
    log(number of modes) minus that is the divergence), other points are in no mode, and nothing is smoothed. It is 0
    when all modes have equal shares, log(number of modes) when one has all (or where no point is of high quality), and
    about (modes - 1) / (2 points) for a perfect sampler.

    When it misleads: uniform noise reaches most `modes`, and evenly. One point per mode has perfect coverage, and only
    `sliced_wasserstein` tells it from a sample. The floor is measured on fresh points of the mixture itself.

    Source: Lin et al. 2018, PacGAN, table 1, and its official code (MetricLogger), after Srivastava et al. 2017,
    VEEGAN.
    """

    figures = {
        "total_variation": "lower",
        "sliced_wasserstein": "lower",
        "modes": "higher",
        "high_quality": "higher",
        "reverse_kl": "lower",
    }
    ratios = {"total_variation", "sliced_wasserstein"}
    needs = {"mixture"}

    class Config(Options):
        points: Annotated[
            int, Field(ge=1, le=10_000_000, description="number of points, in place of [evaluate] samples")
        ] = 2500

    config: Config

    def measure(self, subject: Subject) -> Measurement:
        return self._measured(subject, [points for points, _ in subject.generated(self.config.points)])

    def floor(self, subject: Subject) -> Measurement:
        assert isinstance(subject.source, Mixture)
        source = subject.source
        return self._measured(subject, [mixtures.draw(source.centres(), source.std, self.config.points, subject.seed)])

    def _measured(self, subject: Subject, batches: list[np.ndarray]) -> Measurement:
        assert isinstance(subject.source, Mixture)
        centres, std = subject.source.centres(), subject.source.std
        counts, total = tally(batches, centres, std)
        return Measurement(
            {
                "total_variation": total_variation(counts, total, beyond(REACH, centres.shape[1])),
                "sliced_wasserstein": sliced_wasserstein(np.concatenate(batches), centres, std, subject.seed),
                "modes": float((counts > 0).sum()),
                "high_quality": 100 * float(counts.sum()) / total,
                "reverse_kl": reverse_kl(counts),
            },
            {"samples": total, "of_modes": len(counts), "seed": subject.seed},
        )
