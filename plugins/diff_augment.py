"""DiffAugment: the discriminator sees reals and fakes through the same kind of random, differentiable changes.

Each image has draws of its own, afresh in each pass, for reals and for fakes, in D's step and in G's. Changes on reals
alone would teach G to make changed images. Without the changes in G's step, G would be judged by inputs that D never
saw. Gradients pass through the changes to G, which is what "differentiable" means here.

`color`: brightness, then saturation, then contrast. With one channel saturation does nothing. `translation`: by up to
this share of each side, with 0 (mid-grey) coming in. `cutout`: a rectangle with this share of each side becomes 0; its
centre is anywhere in the image. `flip`: left and right are swapped in every other image.

The changes are made in the order flip, color, translation, cutout. What is sampled and evaluated is unchanged. The flip
is the only one that G may learn: it makes half of all images mirrored, in a way that D cannot tell.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from gantricks import (
    Batch,
    Context,
    Rng,
    Trick,
    cut_out,
    flip_images,
    hookimpl,
    scale_contrast,
    scale_saturation,
    shift_brightness,
    translate_images,
)


def jitter_colors(images: Tensor, rng: Rng) -> Tensor:
    """Images (B, C, H, W) in [-1, 1] with other colours, image by image.

    Brightness + U(-0.5, 0.5); saturation times U(0, 2), about the mean of the channels; contrast times U(0.5, 1.5),
    about the mean of the image. Source: the official code of Zhao et al. 2020, "color".
    """
    first, second, third = rng.uniform((3, images.shape[0])).unbind()
    images = shift_brightness(images, first - 0.5)
    images = scale_saturation(images, 2 * second)
    return scale_contrast(images, third + 0.5)


def move(images: Tensor, share: float, rng: Rng) -> Tensor:
    """Images (B, C, H, W) moved by whole pixels, uniform in ±share of each side (rounded), with 0 coming in.

    Source: the official code of Zhao et al. 2020, "translation".
    """
    down, right = (_sized(side, share) for side in images.shape[2:])
    count = images.shape[0]
    return translate_images(images, rng.randint(count, 2 * down + 1) - down, rng.randint(count, 2 * right + 1) - right)


def cut(images: Tensor, share: float, rng: Rng) -> Tensor:
    """Images (B, C, H, W) in which a rectangle, `share` of each side (rounded), is 0. Its centre is uniform over the
    image, so that part of it may lie outside.

    Source: the official code of Zhao et al. 2020, "cutout".
    """
    sizes = [_sized(side, share) for side in images.shape[2:]]
    # a rectangle of even size has its centre between pixels, where there is one place more
    top, left = (
        rng.randint(images.shape[0], side + 1 - size % 2) - size // 2
        for side, size in zip(images.shape[2:], sizes, strict=True)
    )
    return cut_out(images, top, left, *sizes)


def _sized(side: int, share: float) -> int:
    return int(side * share + 0.5)


class DiffAugment(Trick):
    """DiffAugment: D sees reals and fakes through random changes of colour, place and content, in both steps.

    With little data D learns the real images by heart, and its gradient no longer helps G. Changed images are new each
    time. As fakes are changed in the same way, and gradients pass through the changes, G still learns the images as
    they are.

    When it hurts: with much data it makes D's task harder for nothing. Colours and cutouts of digits or sketches may
    hide all there is: choose by what leaves an image recognisable.

    Source: Zhao et al. 2020, Differentiable Augmentation for Data-Efficient GAN Training, and its official code.
    """

    needs = {"images"}
    neutral = {"color": False, "translation": 0.0, "cutout": 0.0, "flip": False}
    strengths = {"translation": (0.0625, 0.125, 0.25), "cutout": (0.25, 0.5, 0.75)}

    class Config(Trick.Config):
        color: Annotated[bool, Field(description="change brightness, saturation and contrast")] = True
        translation: Annotated[
            float, Field(ge=0, le=0.5, description="largest move, as a share of each side; 0 for none")
        ] = 0.125
        cutout: Annotated[
            float, Field(ge=0, le=1, description="size of the rectangle set to 0, as a share of each side; 0 for none")
        ] = 0.5
        flip: Annotated[bool, Field(description="swap left and right in half of the images")] = False

    config: Config

    @hookimpl
    def d_input(self, batch: Batch, ctx: Context) -> Batch:
        images, options = batch.images, self.config
        if options.flip:
            images = flip_images(images, ctx.rng.bernoulli(batch.size, 0.5))
        if options.color:
            images = jitter_colors(images, ctx.rng)
        if options.translation:
            images = move(images, options.translation, ctx.rng)
        if options.cutout:
            images = cut(images, options.cutout, ctx.rng)
        return batch.with_images(images)
