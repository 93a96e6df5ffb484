"""Adaptive augmentation (ADA): each change of an image takes place with a probability that follows D's overfitting.

The probability p starts at 0. Every `interval` D steps it moves by (images seen since) / `speed`: up where the mean
sign of D's logits on reals is above `target`, down where it is below. The sign is that of the logit less the
objective's undecided value. At 0.6, D is right about 80 % of the reals. p and the mean sign are logged.

Reals and fakes are changed alike, afresh in each pass, in D's step and in G's. Each change of the list is applied to
each image with probability p, by itself. A change that most images escape cannot be learned as if it were data: at p
below about 0.8 G makes unchanged images (§2). Samples are never changed.

`blit`: a flip in half of the cases; a rotation by 0 to 3 quarters of a turn (0 or 2 where images are not square); a
move by up to an eighth of each side, with the image mirrored at its border. `color`: brightness + N(0, 0.2²), contrast
times 2^N(0, 0.5²), about mid-grey, and saturation times 2^N(0, 1). `cutout`: a rectangle of half of each side becomes
0. The defaults are the official code's ("bgc") as far as they are here. Its scaling, rotation by any angle, moves by
parts of a pixel, hue and luma changes are not.

`start` gives p another start. With `speed` so large that p hardly moves, that is the paper's fixed augmentation.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from gantricks import (
    Batch,
    Context,
    Probability,
    Rng,
    Trick,
    cut_out,
    flip_images,
    hookimpl,
    rotate_images,
    scale_contrast,
    scale_saturation,
    shift_brightness,
    translate_images,
)

MOVE, CUT = 1 / 8, 1 / 2
"""The largest move and the size of the rectangle, as shares of each side (appendix B)."""


def adapted(p: Tensor, mean_sign: Tensor, images: Tensor, target: float, speed: float) -> Tensor:
    """P + sign(mean_sign - target) · images / speed, in [0, 1]. All are 0-dim; `images` is their number since the last
    change, `speed` the number in which p would go from 0 to 1. Source: Karras et al. 2020, §3, and official code.
    """
    return (p + (mean_sign - target).sign() * images / speed).clamp(0, 1)


def blit(images: Tensor, p: Tensor, rng: Rng) -> Tensor:
    """Images (B, C, H, W) flipped, rotated and moved, each with probability p (0-dim), without new pixel values.

    Source: Karras et al. 2020, appendix B, "pixel blitting".
    """
    count, (height, width) = images.shape[0], images.shape[2:]
    flipped, rotated, moved = rng.bernoulli((3, count), p).unbind()
    images = flip_images(images, flipped & rng.bernoulli(count, 0.5))
    quarters = rng.randint(count, 4) if height == width else 2 * rng.randint(count, 2)
    images = rotate_images(images, quarters * rotated)
    down, right = (rng.randint(count, 2 * int(side * MOVE + 0.5) + 1) for side in (height, width))
    down, right = down - int(height * MOVE + 0.5), right - int(width * MOVE + 0.5)
    return translate_images(images, down * moved, right * moved, mirrored=True)


def recolor(images: Tensor, p: Tensor, rng: Rng) -> Tensor:
    """Images (B, C, H, W) in [-1, 1] with other brightness, contrast and saturation, each with probability p (0-dim).

    Source: Karras et al. 2020, appendix B.
    """
    shape = 3, images.shape[0]
    chosen, normal = rng.bernoulli(shape, p), rng.normal(shape)
    images = shift_brightness(images, torch.where(chosen[0], 0.2 * normal[0], 0))
    images = scale_contrast(images, torch.where(chosen[1], (0.5 * normal[1]).exp2(), 1), about_mean=False)
    return scale_saturation(images, torch.where(chosen[2], normal[2].exp2(), 1))


def cut(images: Tensor, p: Tensor, rng: Rng) -> Tensor:
    """Images (B, C, H, W) in which, with probability p (0-dim), a rectangle is 0; its centre is anywhere in the
    image.
    """
    count, (height, width) = images.shape[0], images.shape[2:]
    tall, wide = int(height * CUT + 0.5), int(width * CUT + 0.5)
    chosen = rng.bernoulli(count, p)
    top = rng.randint(count, height + 1 - tall % 2) - tall // 2
    left = rng.randint(count, width + 1 - wide % 2) - wide // 2
    return cut_out(
        images, torch.where(chosen, top, height), left, tall, wide
    )  # a rectangle that is not chosen is below


class AdaptiveAugment(Trick):
    """Adaptive augmentation (ADA): D sees random changes of all images, as often as it overfits.

    With little data D learns the real images by heart. How sure it is of them shows how far that has gone, so the
    probability of each change rises until D is right about 80 % of the reals, and falls again. Rare changes do not leak
    into what G makes.

    When it hurts: near probability 1 they do leak: watch `p` in the log. A short run ends before p has moved: lower
    `speed`. Rotations and flips of digits or letters make other ones: switch `blit` off.

    Source: Karras et al. 2020, Training Generative Adversarial Networks with Limited Data, §3 and appendix B.
    """

    needs = {"images", "decision"}
    neutral = {"target": 1.0}  # no mean of signs is above 1, so p stays 0
    trial = {"start": 0.5, "speed": 500.0}
    strengths = {"speed": (2e6, 5e5, 1e5)}

    class Config(Trick.Config):
        target: Annotated[
            float, Field(ge=-1, le=1, description="mean sign of D's logits on reals that p brings about")
        ] = 0.6
        speed: Annotated[float, Field(gt=0, le=1e12, description="real images in which p can go from 0 to 1")] = (
            500_000.0
        )
        interval: Annotated[
            int, Field(ge=1, le=1_000_000, description="number of D steps from one change of p to the next")
        ] = 4
        start: Annotated[Probability, Field(description="p at the start of the run")] = 0.0
        blit: Annotated[bool, Field(description="flips, quarter turns and moves")] = True
        color: Annotated[bool, Field(description="brightness, contrast and saturation")] = True
        cutout: Annotated[bool, Field(description="a rectangle set to 0")] = False

    config: Config

    @hookimpl
    def on_setup(self, ctx: Context) -> None:
        self.p = torch.full((), self.config.start, device=ctx.device)
        self.mean_sign, self.signs, self.scores, self.images, self.steps = torch.zeros(5, device=ctx.device).unbind()

    def tensors(self) -> dict[str, Tensor]:
        names = ("p", "mean_sign", "signs", "scores", "images", "steps")
        return {name: getattr(self, name) for name in names}

    @hookimpl
    def d_input(self, batch: Batch, ctx: Context) -> Batch:
        images = batch.images
        if self.config.blit:
            images = blit(images, self.p, ctx.rng)
        if self.config.color:
            images = recolor(images, self.p, ctx.rng)
        if self.config.cutout:
            images = cut(images, self.p, ctx.rng)
        return batch.with_images(images)

    @hookimpl
    def after_d_step(self, ctx: Context) -> None:
        logits = ctx.real_out.logits.detach()
        self.signs.add_((logits - ctx.undecided).sign().sum())
        self.scores.add_(logits.shape[0])
        self.images.add_(ctx.real.size)
        self.steps.add_(1)
        # no branch on the host: what is due is chosen by tensors, so that the step can be captured
        due = self.steps >= self.config.interval
        self.mean_sign.copy_(torch.where(due, self.signs / self.scores, self.mean_sign))
        moved = adapted(self.p, self.mean_sign, self.images, self.config.target, self.config.speed)
        self.p.copy_(torch.where(due, moved, self.p))
        for counter in (self.signs, self.scores, self.images, self.steps):
            counter.mul_(~due)

    @hookimpl
    def log_scalars(self) -> dict[str, Tensor]:
        return {"p": self.p, "mean_sign": self.mean_sign}
