"""Kernel distance: the squared maximum mean discrepancy of features. With Inception's features it is KID."""

from __future__ import annotations

from typing import Annotated, NamedTuple

import numpy as np
from pydantic import Field

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


def polynomial_kernel(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return k(x, y) = (x·y / A + 1)³ for features (N, A) and (M, A): float64 (N, M)."""
    inner: np.ndarray = first.astype(np.float64) @ second.astype(np.float64).T / first.shape[1] + 1
    found: np.ndarray = inner * inner * inner
    return found


def squared_mmd(first: np.ndarray, second: np.ndarray) -> float:
    """Return the unbiased estimate of MMD² between features (N, A) and (M, A), N, M ≥ 2 (Gretton et al. 2012, lemma 6).

    No feature is compared with itself. So for samples of one distribution it is 0 on average, and often negative.
    """
    within = 0.0
    for features in (first, second):
        gram, count = polynomial_kernel(features, features), len(features)
        within += (gram.sum() - gram.trace()) / (count * (count - 1))
    return float(within - 2 * polynomial_kernel(first, second).mean())


class Estimate(NamedTuple):
    """The mean `value` over `blocks` disjoint blocks of `block_size` features each, and its `standard_error`."""

    value: float
    standard_error: float
    blocks: int
    block_size: int


def kernel_distance(first: np.ndarray, second: np.ndarray, block_size: int = 1000) -> Estimate:
    """Return the mean of `squared_mmd` over disjoint blocks of features (N, A) and (M, A), and its standard error.

    Blocks share no feature, so their estimates are independent, and the error of their mean follows from their spread;
    overlapping subsets differ less than fresh samples would. With too few features for two full blocks, the blocks are
    halves: the estimate is unbiased at any size. Raises ValueError for fewer than four features on a side.
    """
    count = min(len(first), len(second))
    size = min(block_size, count // 2)
    if size < 2:
        raise ValueError("two blocks of two features are the least")
    starts = range(0, count - size + 1, size)
    found = [squared_mmd(first[start : start + size], second[start : start + size]) for start in starts]
    return Estimate(float(np.mean(found)), float(np.std(found, ddof=1) / np.sqrt(len(found))), len(found), size)


class KernelDistance(Metric):
    """Kernel distance: how far generated images are from real ones, without bias at any number of samples.

    The squared maximum mean discrepancy of an extractor's A features, with the kernel (x·y / A + 1)³. Unlike the
    Fréchet distance it is right on average however few the samples, assumes nothing about the features' distribution,
    and is 0 for a perfect generator on average, so a small figure may be negative. Its standard error, given beside it,
    says which differences mean something. With the original Inception network it is KID, and is called so; other
    extractors have a scale of their own.

    Source: Bińkowski et al. 2018, Demystifying MMD GANs, section 4.
    """

    figures = {"kernel_distance": "lower"}
    needs = frozenset({"images"})

    class Config(Options):
        extractor: ExtractorChoice
        block_size: Annotated[
            int, Field(ge=2, le=10_000, description="images in each of the blocks whose estimates are averaged")
        ] = 1000

    config: Config

    def problems(self, facts: EvaluationFacts) -> list[str]:
        return extractor_problems(self.config.extractor, facts) or too_few(facts, 4, "do not make two blocks of two")

    def measure(self, subject: Subject) -> Measurement:
        return self._measured(generated_and_real(subject, self.config.extractor))

    def floor(self, subject: Subject) -> Measurement | None:
        compared = real_and_real(subject, self.config.extractor, least=4)
        return None if compared is None else self._measured(compared)

    def _measured(self, compared: Compared) -> Measurement:
        found = kernel_distance(compared.reals, compared.others, self.config.block_size)
        facts = {
            **compared.extracted.called("kernel_distance"),
            "standard_error": found.standard_error,
            "blocks": found.blocks,
            "block_size": found.block_size,
            **compared.facts,
        }
        return Measurement({"kernel_distance": found.value}, facts)
