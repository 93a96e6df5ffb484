"""Instance noise: the discriminator sees every image through Gaussian noise that fades over the run.

D sees noise on reals and fakes alike, in its own step and in G's, drawn independently each time. Noise on reals alone
would tell D which is which. Without noise in G's step G would be judged by inputs that D never saw. Values may leave
[-1, 1].

`sigma` is a number or a schedule, in units of images in [-1, 1]. What D sees is noisy; what is replayed, sampled and
evaluated is not. The trick goes with every other.

Sønderby et al. 2016, "Amortised MAP Inference for Image Super-resolution", gave instance noise its name.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from gantricks import Batch, Context, Rng, Schedule, Scheduled, Trick, hookimpl


def add_noise(images: Tensor, sigma: Tensor, rng: Rng) -> Tensor:
    """Noisy images: images + sigma · ε, ε ~ N(0, 1) afresh for every number (Arjovsky & Bottou 2017, §3).

    `images`: any shape. `sigma`: 0-dim. Not clamped: clamping would undo the noise where images are saturated.
    """
    return torch.addcmul(images, sigma.to(images.dtype), rng.normal_like(images).to(images.dtype))


class InstanceNoise(Trick):
    """Instance noise: D sees reals and fakes through Gaussian noise whose strength fades from 0.1 to 0.

    Real and generated images lie on thin sets that hardly meet, so a perfect D exists and has no gradient to give.
    Noise gives both full, overlapping support. D can no longer be certain, and its gradient points G towards the data
    from further away. As the noise fades, the game becomes the one without it.

    When it hurts: if the noise is too strong or lasts too long, D cannot learn fine detail.

    Source: Arjovsky & Bottou 2017, "Towards Principled Methods for Training GANs", §3; Sønderby et al. 2016; GAN hacks
    list, point 13.
    """

    neutral = {"sigma": 0.0}
    strengths = {"sigma": (Schedule(start=0.03, end=0.0), Schedule(start=0.1, end=0.0), Schedule(start=0.3, end=0.0))}

    class Config(Trick.Config):
        sigma: Annotated[
            float | Schedule,
            Scheduled(0, 10),
            Field(description="standard deviation of the noise"),
        ] = Schedule(start=0.1, end=0.0)

    config: Config

    @hookimpl
    def d_input(self, batch: Batch, ctx: Context) -> Batch:
        return batch.with_images(add_noise(batch.images, ctx.value(self.config.sigma), ctx.rng))
