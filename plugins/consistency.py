"""Consistency: the discriminator gives an image and its transformed copy the same score.

A copy is flipped from left to right with probability 1/2 and moved by up to `shift` pixels in each direction, afresh
for each image. What lies outside is the image's reflection. Copies are of D's inputs, after what the tricks on D's
input have done, which are not applied again. Gradients flow to D through both scores.

`fakes` asks the same of fakes (balanced consistency, Zhao et al. 2021). With reals alone, G can learn to make the
copies' artefacts. G's loss has no term of it. `weight` is λ for both sides, a number or a schedule. `flip` = false is
for images that a mirror makes wrong, such as digits.

With packing D scores packs, and every sample of a pack is transformed by itself. Where D mixes samples, its scores of
the copies depend on the copies beside them too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from gantricks import (
    Batch,
    Context,
    Rng,
    Schedule,
    Scheduled,
    Trick,
    flip_images,
    hookimpl,
    translate_images,
)


def transformed(images: Tensor, shift: int, flip: bool, rng: Rng) -> Tensor:
    """Copies of `images` (B, C, H, W), each moved by up to `shift` pixels, fewer than its side, and flipped with
    probability 1/2 if `flip`. Zhang et al. 2020, §3.1 and appendix.
    """
    count = images.shape[0]
    most = (min(shift, side - 1) for side in images.shape[2:])
    down, right = (rng.randint(count, 2 * far + 1) - far for far in most)
    copies = translate_images(images, down, right, mirrored=True)
    return flip_images(copies, rng.bernoulli(count, 0.5)) if flip else copies


class Consistency(Trick):
    """Consistency regularization (CR): D pays λ(D(x) - D(T(x)))², T a flip and a shift by a few pixels.

    What an image shows does not change when it is mirrored or moved a little, so D's score should not either. D then
    learns what images show, and not accidental detail. As augmentation does, this helps where data is scarce, but G is
    never shown transformed images. With `fakes` it is balanced consistency (bCR).

    When it hurts: where a mirror or a shift does change what an image shows, such as digits: set `flip` = false.

    Source: Zhang et al. 2020, Consistency Regularization for GANs; Zhao et al. 2021, Improved Consistency
    Regularization for GANs.
    """

    needs = {"images"}
    forwards = {"d": 1}
    neutral = {"weight": 0.0}
    cautions = {"discriminator_batch_norm": "D's score of a sample depends on its batch, and copies have another batch"}

    class Config(Trick.Config):
        weight: Annotated[float | Schedule, Scheduled(0.0, 1e6), Field(description="λ, a number or a schedule")] = 10.0
        fakes: Annotated[bool, Field(description="whether D pays at fakes too")] = False
        shift: Annotated[int, Field(ge=0, le=64, description="pixels by which copies are moved at most")] = 4
        flip: Annotated[bool, Field(description="whether copies are flipped from left to right")] = True

    config: Config

    @classmethod
    def facts(cls, config: Any) -> Mapping[str, Any]:
        return {"forwards": {"d": 2 if config.fakes else 1}}

    @hookimpl
    def d_loss_terms(self, ctx: Context) -> dict[str, Tensor]:
        terms = {"real": self._distance(ctx.real_in, ctx.real_out.logits, ctx)}
        if self.config.fakes:
            terms["fake"] = self._distance(ctx.fake_in, ctx.fake_out.logits, ctx)
        return terms

    def _distance(self, batch: Batch, logits: Tensor, ctx: Context) -> Tensor:
        copies = transformed(batch.images.detach(), self.config.shift, self.config.flip, ctx.rng)
        out = ctx.discriminator(*batch.with_images(copies))
        distance: Tensor = (logits - out.logits).square().mean()
        return ctx.value(self.config.weight) * distance
