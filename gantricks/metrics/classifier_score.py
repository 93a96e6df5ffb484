"""Classifier score: how sure a classifier is of each sample, and how evenly it uses its classes."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from gantricks.metrics.base import EvaluationFacts, Measurement, Metric, Subject
from gantricks.metrics.features import Extracted, ExtractorChoice, extractor_problems
from gantricks.options import Options


def classifier_score(probabilities: np.ndarray, splits: int = 10) -> np.ndarray:
    """Return exp(E KL(p(y|x) ‖ p(y))) of each of `splits` consecutive parts of probabilities (N, K): float64 (splits,).

    p(y) is the mean of its own part. The score is 1 where all samples have the same probabilities, and K where each
    surely has one class and all classes are equally frequent.
    """
    scores = []
    for part in np.array_split(probabilities.astype(np.float64), splits):
        marginal = part.mean(0)
        # 0 log 0 = 0; where the marginal is 0, every p is 0
        ratio = np.divide(part, marginal, out=np.ones_like(part), where=part > 0)
        scores.append(np.exp((part * np.log(ratio)).sum(1).mean()))
    return np.array(scores)


class ClassifierScore(Metric):
    """Classifier score: high where each sample clearly belongs to a class and all classes occur equally often.

    exp of the mean divergence KL(p(y|x) ‖ p(y)) of a classifier's probabilities, over ten parts of the samples. It
    never looks at the data: one perfect image of each class scores best, and variety within a class counts for nothing.
    It is at most the number of classes; what real images score, the floor, is what to aim at, and more may mean samples
    that are easier than real ones. With the original Inception network it is the Inception score, and is called so;
    with any other classifier it is a figure of its own.

    Source: Salimans et al. 2016, Improved Techniques for Training GANs, section 4; its limits: Barratt and Sharma 2018,
    A Note on the Inception Score.
    """

    figures = {"classifier_score": "higher"}
    ratios = {"classifier_score"}
    needs = frozenset({"images"})

    class Config(Options):
        extractor: ExtractorChoice
        splits: Annotated[int, Field(ge=1, le=1000, description="parts of the samples that are scored apart")] = 10

    config: Config

    def problems(self, facts: EvaluationFacts) -> list[str]:
        if found := extractor_problems(self.config.extractor, facts, "probabilities"):
            return found
        splits = self.config.splits
        if facts.samples < splits:
            return [f"{facts.samples} samples do not make {splits} parts: ask for more samples, or set splits lower"]
        return []

    def measure(self, subject: Subject) -> Measurement:
        extracted = Extracted(subject, self.config.extractor)
        probabilities = extracted.generated(subject.samples, "probabilities")
        return self._measured(probabilities, extracted)

    def floor(self, subject: Subject) -> Measurement | None:
        """Return the score of real images."""
        count = min(subject.samples, len(subject.dataset.samples))
        if count < self.config.splits:
            return None
        extracted = Extracted(subject, self.config.extractor)
        return self._measured(extracted.reals(count, kind="probabilities"), extracted)

    def _measured(self, probabilities: np.ndarray, extracted: Extracted) -> Measurement:
        scores = classifier_score(probabilities, self.config.splits)
        facts = {
            **extracted.called("classifier_score"),
            "deviation": float(scores.std()),
            "splits": len(scores),
            "samples": len(probabilities),
            "classes": probabilities.shape[1],
            **extracted.facts,
        }
        return Measurement({"classifier_score": float(scores.mean())}, facts)
