"""Mode seeking: the generator is paid for samples that are as far apart as their latents are.

The fakes of a batch meet their neighbours: the first and the second, the second and the third. In a conditional G only
fakes of one class meet, as the paper compares latents under the same condition: the batch is put in the order of its
classes first. With d the mean absolute difference over all pairs, of images and of latents, G's loss gains

    weight / (d(images) / d(latents) + 1e-5).

It is one ratio for the whole batch, as in the authors' code. Their code makes a second batch of fakes for the pairs.
Pairs within the batch cost no pass of G. Where no two fakes share a class, the term is 0.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from gantricks import Context, Schedule, Scheduled, Setting, Trick, hookimpl

EPSILON = 1e-5


def mode_seeking(images: Tensor, latents: Tensor, classes: Tensor | None) -> Tensor:
    """1 / (d_I / d_z + 1e-5), 0-dim, or 0 without a pair: `images` (B, …), `latents` (B, Z), `classes` (B,) or None.

    d_I and d_z are the mean absolute differences of neighbours, those of one class where there are classes.

    Source: Mao et al. 2019, and the authors' code.
    """
    dtype = torch.promote_types(images.dtype, torch.float32)
    images, latents = images.flatten(1).to(dtype), latents.flatten(1).to(dtype)
    met = torch.ones_like(images[1:, 0])
    if classes is not None:
        order = classes.argsort(stable=True)
        images, latents, classes = images[order], latents[order], classes[order]
        met = (classes[1:] == classes[:-1]).to(dtype)
    of_images = (met * images.diff(dim=0).abs().mean(1)).sum()
    of_latents = (met * latents.diff(dim=0).abs().mean(1)).sum()
    some = (met.sum() > 0).to(dtype)
    ratio = of_images / (of_latents + 1 - some)  # without a pair 0 / 1, whose gradient is finite
    return some / (ratio + EPSILON)


class ModeSeeking(Trick):
    """Mode seeking: G's loss falls as the distance of its samples grows against the distance of their latents.

    A generator that has lost modes maps distant latents to nearly the same sample. The term is largest there, and
    pushes the samples apart. It costs no further pass.

    When it hurts: distance is not variety. Brightness and noise make samples distant too, so a large `weight` buys
    differences that nobody wants. Where samples coincide the term is very large.

    Source: Mao et al. 2019, Mode Seeking Generative Adversarial Networks, and official code (weight 1).
    """

    neutral = {"weight": 0.0}
    conflicts = {
        "generator_conditioned": "latents are compared under one condition, and no two fakes of a batch share it"
    }
    strengths = {"weight": (0.3, 1.0, 3.0)}

    class Config(Trick.Config):
        weight: Annotated[
            float | Schedule, Scheduled(0.0, 1e6), Field(description="weight of the term, a number or a schedule")
        ] = 1.0

    config: Config

    def problems(self, setting: Setting) -> list[str]:
        if 1 in setting.batch_sizes:
            return ["a batch of 1 has no pair of samples; let batches hold 2 or more: write batch_size = 2 in [data]"]
        return []

    @hookimpl
    def g_loss_terms(self, ctx: Context) -> dict[str, Tensor]:
        found = mode_seeking(ctx.fake.images, ctx.fake_latents, ctx.fake.classes)
        return {"alike": ctx.value(self.config.weight) * found}
