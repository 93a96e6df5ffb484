"""How often the discriminator predicts the wrong class for samples that training never sees."""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from gantricks.metrics.base import EvaluationFacts, Measurement, Metric, Subject, as_generated
from gantricks.options import Options

BATCH = 256


class HeldOutError(Metric):
    """Held-out error: the share, in %, of all held-out samples whose class the discriminator gets wrong.

    Every sample of the data's held-out part is shown to D, or to the companion that `classifier` names, in eval mode
    and with the averaged weights where a trick keeps some; its answer is the class with the largest logit. The count of
    wrong answers (`wrong`, of `reals`) is what the tables of Salimans et al. give for MNIST, the percentage is theirs
    for CIFAR-10 and SVHN. `standard_error` is that of the percentage, over the draw of the test set alone: it says
    nothing of other seeds or other labels.

    When it misleads: as an early stopping criterion it makes the held-out part a part of training. It says nothing of
    the samples: a generator that matches the data perfectly does not help a classifier (Dai et al. 2017).

    Source: Salimans et al. 2016, Improved Techniques for Training GANs, §6.1 to §6.3.
    """

    figures = {"error": "lower"}
    needs = {"held_out", "class_logits"}

    class Config(Options):
        classifier: Annotated[
            str | None, Field(min_length=1, description="the companion that classifies, <trick>.<name>; left out: D")
        ] = None

    config: Config

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        if self.config.classifier is not None:
            self.needs = {"held_out", "classes"}

    def problems(self, facts: EvaluationFacts) -> list[str]:
        if self.config.classifier is None and "discriminator_conditional" in facts.provided:
            return ["the discriminator is given the class that it should predict; set conditional = false in it"]
        if self.config.classifier is None and "discriminator_conditioned" in facts.provided:
            return [
                "the discriminator judges pairs, and cannot classify images alone; name a companion in `classifier`"
            ]
        return []

    def measure(self, subject: Subject) -> Measurement:
        held_out = subject.held_out
        assert held_out is not None
        assert held_out.classes is not None
        total, wrong = len(held_out.samples), 0
        for start in range(0, total, BATCH):
            images, classes = as_generated(held_out, np.arange(start, min(start + BATCH, total)))
            name = self.config.classifier
            logits = subject.classify(images) if name is None else subject.ask(name, images)
            wrong += int((logits.argmax(axis=1) != classes).sum())
            subject.progress("classifying", start + len(images), total)
        share = wrong / total
        return Measurement(
            {"error": 100 * share},
            {"wrong": wrong, "reals": total, "standard_error": 100 * math.sqrt(share * (1 - share) / total)},
        )
