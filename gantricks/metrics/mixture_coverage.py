"""How many modes of a mixture the generator covers, and how evenly."""

from __future__ import annotations

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


class MixtureCoverage(Metric):
    """Mode coverage of a mixture: how many of its modes the generator reaches, how well, and how evenly.

    The protocol of PacGAN for the 2D-ring and the 2D-grid, over `points` generated points. `high_quality` is the share,
    in %, of points within 3 standard deviations (Euclidean distance) of the nearest mode; a perfect sampler of a
    mixture in the plane scores 1 - exp(-9/2), 98.9 %, so 100 % means modes that are too narrow. `modes` counts the
    modes that at least one point of high quality is nearest to. `reverse_kl` is KL(q ‖ uniform) in nats, where q is the
    distribution of the points of high quality over the modes: as in the authors' code, which logs the entropy of q (and
    log(number of modes) minus that is the divergence), other points are in no mode, and nothing is smoothed. It is 0
    when all modes have equal shares, log(number of modes) when one has all (or where no point is of high quality), and
    about (modes - 1) / (2 points) for a perfect sampler.

    When it misleads: it sees neither the shape of a mode nor how its points lie in it, so that a generator with one
    point per mode has perfect coverage. The floor is measured on fresh points of the mixture itself.

    Source: Lin et al. 2018, PacGAN, table 1, and its official code (MetricLogger), after Srivastava et al. 2017,
    VEEGAN.
    """

    figures = {"modes": "higher", "high_quality": "higher", "reverse_kl": "lower"}
    needs = {"mixture"}

    class Config(Options):
        points: Annotated[
            int, Field(ge=1, le=10_000_000, description="number of points, in place of [evaluate] samples")
        ] = 2500

    config: Config

    def measure(self, subject: Subject) -> Measurement:
        return self._measured(subject, (points for points, _ in subject.generated(self.config.points)))

    def floor(self, subject: Subject) -> Measurement:
        assert isinstance(subject.source, Mixture)
        source = subject.source
        return self._measured(subject, [mixtures.draw(source.centres(), source.std, self.config.points, subject.seed)])

    def _measured(self, subject: Subject, batches: Iterable[np.ndarray]) -> Measurement:
        assert isinstance(subject.source, Mixture)
        counts, total = tally(batches, subject.source.centres(), subject.source.std)
        return Measurement(
            {
                "modes": float((counts > 0).sum()),
                "high_quality": 100 * float(counts.sum()) / total,
                "reverse_kl": reverse_kl(counts),
            },
            {"samples": total, "of_modes": len(counts), "seed": subject.seed},
        )
