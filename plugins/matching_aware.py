"""Matching-aware discriminator: a real image beside the condition of another one is a third kind of input, and a fake.

D is shown each real image of the batch again, with the condition of another image, one whose condition differs. With
L_r, L_f and L_w the losses of real, generated and mismatched pairs, D's loss is L_r + L_f + weight · (L_r + L_w). At
weight 1 this is twice L_r + (L_f + L_w) / 2 of Reed et al., whatever the objective. Labels are those of the D step:
mismatched pairs have the fakes' labels.

Images are D's inputs of the reals, after what the tricks on D's input have done. Who is paired with whom is drawn for
every step. Which conditions differ is found by comparing all of the batch: B² E comparisons of its B conditions of E
numbers.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from gantricks import Context, Schedule, Scheduled, Setting, Trick, hookimpl


def mismatched(condition: Tensor, start: Tensor) -> Tensor:
    """For each row of `condition` (B, E) another row, (B, E): the first that differs, from the one `start` + 1 after it
    on, in a circle. `start` is int64, (1,), from 0 to B - 2. Where all rows are the same it is one of these.

    Source: Reed et al. 2016, algorithm 1, "mis-match text"; the circle is ours.
    """
    count = condition.shape[0]
    places = torch.arange(count, device=condition.device)
    after = 1 + (start + places[: count - 1]) % (count - 1)
    others = (places[:, None] + after) % count  # row i: the other places in the order in which they are tried
    differs = (condition[:, None] != condition[None]).any(2).gather(1, others)
    first = differs.to(torch.uint8).argmax(1, keepdim=True)
    return condition.index_select(0, others.gather(1, first)[:, 0])


class MatchingAware(Trick):
    """Matching-aware discriminator (GAN-CLS): D also learns that a real image with another image's caption is a fake.

    A D that is shown real pairs and generated pairs alone has two things to tell at once: whether an image is real, and
    whether it fits. At first it needs the former only, and G learns nothing of the captions. Mismatched pairs have real
    images, so D can reject them by the caption alone.

    When it hurts: where many captions fit an image equally well, mismatched pairs are right pairs, and D is told lies.

    Source: Reed et al. 2016, "Generative Adversarial Text to Image Synthesis", §4.2; Zhang et al. 2017, StackGAN.
    """

    needs = {"discriminator_conditioned", "generator_conditioned"}
    conflicts = {"generator_conditional": "a condition says more than the class"}
    forwards = {"d": 1}
    neutral = {"weight": 0.0}
    cautions = {
        "discriminator_batch_norm": "mismatched pairs have a pass of their own, in which D sees real images alone"
    }
    strengths = {"weight": (0.3, 1.0, 3.0)}

    class Config(Trick.Config):
        weight: Annotated[
            float | Schedule, Scheduled(0.0, 100.0), Field(description="weight of mismatched pairs, and of reals again")
        ] = 1.0

    config: Config

    def problems(self, setting: Setting) -> list[str]:
        if 1 in setting.batch_sizes:
            return ["a batch of 1 has no other condition; let batches hold 2 samples or more"]
        return []

    @hookimpl
    def d_loss_terms(self, ctx: Context) -> dict[str, Tensor]:
        images, classes, condition = ctx.real_in
        assert condition is not None
        start = ctx.rng.randint(1, max(len(condition) - 1, 1))
        out = ctx.discriminator(images.detach(), classes, mismatched(condition, start).detach())
        return {"mismatched": ctx.value(self.config.weight) * ctx.d_loss(ctx.real_out, out)}
