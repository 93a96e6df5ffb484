"""Fréchet distance between Gaussians fitted to features. With Inception's features it is FID."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

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


@dataclass(frozen=True)
class Moments:
    """The `mean` (A,) and `covariance` (A, A) of `count` vectors, unbiased (divided by count − 1), in float64."""

    count: int
    mean: np.ndarray
    covariance: np.ndarray


def moments(batches: Iterable[np.ndarray]) -> Moments:
    """Return mean and covariance of vectors that come in batches (n, A). Each batch is read once.

    Batches are merged by their means and scatter matrices (Chan, Golub and LeVeque 1979): sums of squares are never
    subtracted from each other, so a mean far from 0 costs no precision. Raises ValueError for fewer than two vectors.
    """
    count, mean, scatter = 0, np.zeros(()), np.zeros(())
    for batch in batches:
        if not len(batch):
            continue
        values = np.asarray(batch, np.float64)
        own_mean = values.mean(0)
        centred = values - own_mean
        shift, total = own_mean - mean, count + len(values)
        scatter = scatter + centred.T @ centred + np.outer(shift, shift) * (count * len(values) / total)
        mean = mean + shift * (len(values) / total)
        count = total
    if count < 2:
        raise ValueError("a covariance takes two vectors at least")
    return Moments(count, mean, scatter / (count - 1))


def distance_of_moments(first: Moments, second: Moments) -> float:
    """Return ‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2 (Σ₁Σ₂)^½), the squared Fréchet distance of two Gaussians (Dowson and Landau
    1982).

    (Σ₁Σ₂)^½ has the trace of ((Σ₁^½)ᵀ Σ₂ Σ₁^½)^½, a symmetric matrix whose eigenvalues' roots are the singular values
    of (Σ₁^½)ᵀ Σ₂^½. Computing those keeps full precision where a covariance is nearly singular: nothing is squared, and
    no root is taken of a rounding error.
    """
    shift = first.mean - second.mean
    overlap = np.linalg.svd(_root(first.covariance).T @ _root(second.covariance), compute_uv=False).sum()
    return float(shift @ shift + np.trace(first.covariance) + np.trace(second.covariance) - 2 * overlap)


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return the squared Fréchet distance of the Gaussians fitted to features (N, A) and (M, A)."""
    return distance_of_moments(moments(_in_blocks(first)), moments(_in_blocks(second)))


def _in_blocks(features: np.ndarray, block: int = 4096) -> Iterator[np.ndarray]:
    return (features[start : start + block] for start in range(0, len(features), block))


def _root(covariance: np.ndarray) -> np.ndarray:
    """Return R with R Rᵀ = covariance."""
    values, vectors = np.linalg.eigh(covariance)
    root: np.ndarray = vectors * np.sqrt(values.clip(min=0))
    return root


class FrechetDistance(Metric):
    """Fréchet distance: how far generated images are from real ones, as Gaussians in the space of features.

    ‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2 (Σ₁Σ₂)^½) of an extractor's features. It sees both blur and missing variety.

    With the original Inception network it is FID, and is called so; figures of other extractors cannot be compared
    with it, nor with each other. It is biased upwards, the more the fewer samples there are (Bińkowski et al. 2018), so
    only figures at equal counts are comparable, and what real images score against others, the floor, is not 0. The
    floor takes disjoint parts of the data, so where the data holds fewer than twice as many images as samples asked
    for, it is measured at half of the data, and stands too high.

    Source: Heusel et al. 2017, GANs Trained by a Two Time-Scale Update Rule.
    """

    figures = {"frechet_distance": "lower"}
    ratios = {"frechet_distance"}
    needs = frozenset({"images"})

    class Config(Options):
        extractor: ExtractorChoice

    config: Config

    def problems(self, facts: EvaluationFacts) -> list[str]:
        """Return the problems of the extractor, and one for too few images for a covariance of full rank."""
        dimension = self.config.extractor.extractor().dimension
        return extractor_problems(self.config.extractor, facts) or too_few(
            facts, dimension + 1, f"do not determine a covariance of {dimension} features"
        )

    def measure(self, subject: Subject) -> Measurement:
        return _measured(generated_and_real(subject, self.config.extractor))

    def floor(self, subject: Subject) -> Measurement | None:
        """Compare reals with reals; None where half of the data does not determine a covariance."""
        dimension = self.config.extractor.extractor().dimension
        compared = real_and_real(subject, self.config.extractor, least=dimension + 1)
        return None if compared is None else _measured(compared)


def _measured(compared: Compared) -> Measurement:
    value = frechet_distance(compared.reals, compared.others)
    return Measurement({"frechet_distance": value}, {**compared.extracted.called("frechet_distance"), **compared.facts})
