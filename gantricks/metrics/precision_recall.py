"""Precision, recall, density and coverage: separate figures for the sharpness and the variety of samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from gantricks.metrics.base import EvaluationFacts, Measurement, Metric, Subject
from gantricks.metrics.features import (
    Compared,
    ExtractorChoice,
    extractor_problems,
    generated_and_real,
    real_and_real,
    too_few,
)
from gantricks.options import Options

_BLOCK = 2**22  # distances in memory at a time: 32 MiB


class Fidelity(NamedTuple):
    """Figures of M generated samples beside N real ones. All but `density` lie in [0, 1]."""

    precision: float
    recall: float
    density: float
    coverage: float


def neighbour_radii(features: np.ndarray, ks: Sequence[int]) -> np.ndarray:
    """Return the distance from each of the features (N, A) to its k-th nearest other one, for each of `ks`: (len(ks),
    N).

    A feature is not its own neighbour, but an equal feature is one. Raises ValueError where N ≤ k.
    """
    if len(features) <= max(ks):
        raise ValueError(f"{len(features)} features have no {max(ks)}-th neighbour")
    radii = torch.empty((len(ks), len(features)), dtype=torch.float64)
    for start, distances in _distances(features, features):
        rows = torch.arange(len(distances))
        # by index, not as the smallest distance, because a copy of the feature has distance 0 too
        distances[rows, start + rows] = torch.inf
        nearest = distances.topk(max(ks), largest=False, sorted=True).values
        for which, k in enumerate(ks):
            radii[which, start : start + len(distances)] = nearest[:, k - 1]
    return radii.numpy()


def precision_recall(reals: np.ndarray, fakes: np.ndarray, k: int = 3, density_k: int = 5) -> Fidelity:
    """Return the four figures of features `fakes` (M, A) and `reals` (N, A), from balls with the distance to the k-th
    neighbour as radius.

    precision: share of fakes within the ball of any real; recall: share of reals within the ball of any fake
    (Kynkäänniemi et al. 2019, eq. 1 and 2, with `≤`: the edge is part of the ball). With balls of `density_k`: density,
    the mean number of reals whose balls contain a fake, over `density_k`; coverage, the share of reals whose ball
    contains any fake (Naeem et al. 2020). Their balls are open, as in the authors' code: a ball contains its centre and
    `density_k` − 1 neighbours, which makes the density of copied reals 1. A real that has `density_k` copies among the
    reals has an empty ball.
    """
    radii, density_radii = torch.from_numpy(neighbour_radii(reals, (k, density_k)))
    fake_radii = torch.from_numpy(neighbour_radii(fakes, (k,))[0])
    precise, held = 0, 0
    recalled, covered = torch.zeros(len(reals), dtype=torch.bool), torch.zeros(len(reals), dtype=torch.bool)
    for start, distances in _distances(fakes, reals):
        precise += int((distances <= radii).any(1).sum())
        recalled |= (distances <= fake_radii[start : start + len(distances), None]).any(0)
        within = distances < density_radii
        held += int(within.sum())
        covered |= within.any(0)
    return Fidelity(
        precise / len(fakes),
        float(recalled.double().mean()),
        held / (density_k * len(fakes)),
        float(covered.double().mean()),
    )


def _distances(rows: np.ndarray, columns: np.ndarray) -> Iterator[tuple[int, Tensor]]:
    """Yield blocks of Euclidean distances (n, N), each with the index of its first row.

    Differences are squared one by one, and not expanded to |x|² + |y|² − 2xy. So a pair has the same distance to the
    bit in every block, and a sample exactly on the edge of a ball, such as a copy of a neighbour, is found to be there.
    """
    first, second = (torch.from_numpy(np.ascontiguousarray(side, np.float64)) for side in (rows, columns))
    rows_each = max(1, _BLOCK // len(second))
    for start in range(0, len(first), rows_each):
        block = first[start : start + rows_each]
        yield start, torch.cdist(block, second, compute_mode="donot_use_mm_for_euclid_dist")


class PrecisionRecall(Metric):
    """Precision and recall: how much of what is generated looks real, and how much of what is real is generated.

    The first (precision, density) falls with blur, the second (recall, coverage) with collapse, which one number cannot
    tell apart. Each image has a ball in the space of an extractor's features, as wide as to its k-th neighbour of its
    own kind. Precision is the share of samples within the ball of a real image, recall the share of real images within
    the ball of a sample. A single outlier has a huge ball, which makes precision and recall too high; density, which
    counts balls, and coverage, which uses balls of real images only, suffer less. All depend on the number of images
    and on k: compare at equal ones, and with the floor, which is that of real images and not 1. Coverage comes first,
    since it falls with either fault.

    Source: Kynkäänniemi et al. 2019, Improved Precision and Recall Metric, section 2; Naeem et al. 2020, Reliable
    Fidelity and Diversity Metrics, section 3.
    """

    figures = {"coverage": "higher", "density": "higher", "precision": "higher", "recall": "higher"}
    needs = frozenset({"images"})

    class Config(Options):
        extractor: ExtractorChoice
        k: Annotated[int, Field(ge=1, le=100, description="neighbours within the balls of precision and recall")] = 3
        density_k: Annotated[
            int, Field(ge=1, le=100, description="neighbours within the balls of density and coverage")
        ] = 5

    config: Config

    @property
    def _least(self) -> int:
        return max(self.config.k, self.config.density_k) + 1

    def problems(self, facts: EvaluationFacts) -> list[str]:
        return extractor_problems(self.config.extractor, facts) or too_few(
            facts, self._least, f"have no {self._least - 1}-th neighbour each"
        )

    def measure(self, subject: Subject) -> Measurement:
        return self._measured(generated_and_real(subject, self.config.extractor))

    def floor(self, subject: Subject) -> Measurement | None:
        compared = real_and_real(subject, self.config.extractor, least=self._least)
        return None if compared is None else self._measured(compared)

    def _measured(self, compared: Compared) -> Measurement:
        found = precision_recall(compared.reals, compared.others, self.config.k, self.config.density_k)
        facts = {"k": self.config.k, "density_k": self.config.density_k, **compared.facts}
        return Measurement({name: getattr(found, name) for name in self.figures}, facts)
