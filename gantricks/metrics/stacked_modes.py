"""Modes of stacked digits: how many of the thousand a generator produces, and how evenly."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from pydantic import Field

from gantricks.data.stacked import MODES, Stacked
from gantricks.metrics.base import EvaluationFacts, Measurement, Metric, Samples, Subject
from gantricks.metrics.extractors.classifier import Classifier, Taught, classify, taught
from gantricks.options import Options


def modes_covered(modes: np.ndarray) -> int:
    """Return the number of distinct values in `modes`, int (n,)."""
    return len(np.unique(modes))


def divergence_from_uniform(modes: np.ndarray, total: int) -> float:
    """Return KL(p ‖ uniform) in nats, p being the frequencies of `modes`, int (n,), among `total`: from 0 to
    log(total).
    """
    shares = np.bincount(modes, minlength=total) / len(modes)
    there = shares[shares > 0]
    return float((there * np.log(there * total)).sum())


class StackedModes(Metric):
    """Stacked modes: how many of the thousand modes of stacked digits the samples show, and how evenly.

    The clearest measure of mode collapse on images: the number of modes, and the KL divergence of their frequencies
    from equal ones, in nats. A small classifier reads the digit on each channel. It is taught by the single digits that
    the stacks are made of, once, and kept; its accuracy on a tenth that it never saw is a fact of every figure. Every
    image is counted as some mode, so noise and misread digits seem to cover modes: look at the samples too. Few samples
    miss modes and look uneven by chance; the default is the number that papers use, and the floor says what real stacks
    score.

    Source: Metz et al. 2017, Unrolled Generative Adversarial Networks, section 3.3.1; Lin et al. 2018, PacGAN, section
    4.2.
    """

    figures = {"modes": "higher", "divergence": "lower"}
    needs = frozenset({"images", "classes"})

    class Config(Options):
        samples: Annotated[int, Field(ge=1, le=10_000_000, description="generated samples that are read")] = 26_000
        steps: Annotated[
            int, Field(ge=1, le=1_000_000, description="steps of 100 digits that teach the classifier")
        ] = 720

    config: Config

    def problems(self, facts: EvaluationFacts) -> list[str]:
        if not isinstance(facts.source, Stacked):
            return ['it reads stacked digits: set source = "stacked" in [data]']
        return []

    def measure(self, subject: Subject) -> Measurement:
        return self._measured(subject, subject.generated(self.config.samples), self.config.samples)

    def floor(self, subject: Subject) -> Measurement | None:
        """Return the figures of the data's own stacks, as many as samples, or all where there are fewer."""
        count = min(self.config.samples, len(subject.dataset.samples))
        return self._measured(subject, subject.reals(count), count)

    def _reader(self, subject: Subject) -> Taught:
        assert isinstance(subject.source, Stacked)
        digits = subject.source.digits(subject.progress)
        return taught(digits, 10, Classifier.Config(steps=self.config.steps), subject.progress)

    def _measured(self, subject: Subject, stacks: Samples, count: int) -> Measurement:
        reader = subject.once(("reader", self.config.steps), lambda: self._reader(subject))
        network = reader.network.to(subject.device)
        modes = []
        for images, _ in stacks:
            channels = torch.from_numpy(images).to(subject.device).flatten(0, 1)[:, None]
            read = classify(network, channels).reshape(-1, 3).cpu().numpy()
            modes.append(read @ np.array([100, 10, 1]))
            subject.progress("reading digits", sum(map(len, modes)), count)
        found = np.concatenate(modes)
        return Measurement(
            {"modes": modes_covered(found), "divergence": divergence_from_uniform(found, MODES)},
            {
                "samples": len(found),
                "of": MODES,
                "accuracy": reader.accuracy,
                "held_out": reader.held_out,
                "seed": subject.seed,
            },
        )
