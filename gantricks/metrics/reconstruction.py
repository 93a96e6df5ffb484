"""How far images are from those that the generator makes of what an encoder finds in them."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from gantricks.errors import Problem, UserError
from gantricks.metrics.base import Measurement, Metric, Samples, Subject, as_generated
from gantricks.options import Options

BATCH = 256


class Reconstruction(Metric):
    """Reconstruction: the mean squared error of G(E(x)), where an encoder E of a trick finds the latents of images x.

    The mean is over all numbers of all samples of the data's held-out part, on the scale of the samples themselves
    (images in [-1, 1]), in eval mode and with averaged weights where a trick keeps some. Where the data has no held-out
    part it is over as many real samples as are asked for, which E has seen in training. Where E gives a distribution of
    latents, its mean is taken. The variance of the data, `variance`, is the error of the mean image: a reconstruction
    that is no better has found nothing.

    When it misleads: squared errors punish a detail that is one pixel off, and forgive blur.

    Source: Donahue et al. 2017, Adversarial Feature Learning, §4; Larsen et al. 2016, §4.
    """

    figures = {"error": "lower"}
    ratios = {"error"}

    class Config(Options):
        encoder: Annotated[
            str | None,
            Field(min_length=1, description="the companion that encodes, <trick>.<name>; left out: the one encoder"),
        ] = None

    config: Config

    def measure(self, subject: Subject) -> Measurement:
        name = self.config.encoder or _only_encoder(subject)
        total, count, numbers = 0.0, 0, 0
        first, second = np.zeros(()), np.zeros(())
        for images, classes in _shown(subject):
            latents = subject.ask(name, images)[:, : subject.latent_dim]
            again = subject.generate(np.ascontiguousarray(latents), classes)
            wide = images.astype(np.float64)
            total += float(np.square(again - wide).sum())
            first, second = first + wide.sum(0), second + np.square(wide).sum(0)
            count, numbers = count + len(images), numbers + images.size
        variance = float((second / count - np.square(first / count)).mean())
        facts: dict[str, str | int | float] = {"reals": count, "variance": variance, "encoder": name}
        facts["held_out"] = int(subject.held_out is not None)
        return Measurement({"error": total / numbers}, facts)


def _only_encoder(subject: Subject) -> str:
    encoders = [name for name in subject.companions if name.endswith(".encoder")]
    if len(encoders) != 1:
        known = ", ".join(subject.companions) or "none"
        what = "images are reconstructed by an encoder, and the run has " + ("several" if encoders else "none")
        raise UserError(Problem(what, hint=f"name a companion in `encoder`; the run has: {known}"))
    return encoders[0]


def _shown(subject: Subject) -> Samples:
    """Yield the images to reconstruct, in batches."""
    held_out = subject.held_out
    if held_out is None:
        yield from subject.reals(min(subject.samples, len(subject.dataset.samples)))
        return
    total = len(held_out.samples)
    for start in range(0, total, BATCH):
        yield as_generated(held_out, np.arange(start, min(start + BATCH, total)))
