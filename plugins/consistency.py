"""Consistency: the discriminator gives an image and its transformed copy the same score.

A copy is flipped from left to right with probability 1/2 and moved by up to `shift` pixels in each direction, afresh
for each image. What lies outside is the image's reflection. Copies are of D's inputs, after what the tricks on D's
input have done, which are not applied again. Gradients flow to D through both scores.

`fakes` asks the same of fakes (balanced consistency, Zhao et al. 2021). With reals alone, G can learn to make the
copies' artefacts. G's loss has no term of it. `weight` is λ for both sides, a number or a schedule. `flip` = false is
for images that a mirror makes wrong, such as digits.

Latent consistency (zCR, ibid.) moves latents a little, T(z) = z + Δ with Δ ~ N(0, `noise`²) afresh for each number. D
pays `latents` times (D(G(z)) - D(G(T(z))))², and G is paid `spread` times the mean of (G(z) - G(T(z)))² over all
numbers of the images: D is not to see the difference, and G is to make one. Both are off by default. With all of them
on it is improved consistency (ICR). PyTorch-StudioGAN has `latents` = 20, `spread` = 0.5 and `noise` = 0.05 for a
BigGAN on CIFAR-10, and `weight` = 10 on both sides. The paper's own values may differ.

G is given the fakes' own classes and conditions there. What it draws in a pass (noise, dropout, mixed styles) it draws
anew. D scores G(z) and G(T(z)) in one pass, as what G has just made: of its fakes, replay may have exchanged some.
Tricks on D's input act on both, with draws of their own.

With packing D scores packs, and every sample of a pack is transformed by itself. Where D mixes samples, its scores of
the copies depend on the copies beside them too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from gantricks import (
    Batch,
    Context,
    Rng,
    Schedule,
    Scheduled,
    Setting,
    Trick,
    flip_images,
    hookimpl,
    translate_images,
)


def transformed(images: Tensor, shift: int, flip: bool, rng: Rng) -> Tensor:
    """Copies of `images` (B, C, H, W), each moved by up to `shift` pixels, fewer than its side, and flipped with
    probability 1/2 if `flip`. Zhang et al. 2020.
    """
    count = images.shape[0]
    most = (min(shift, side - 1) for side in images.shape[2:])
    down, right = (rng.randint(count, 2 * far + 1) - far for far in most)
    copies = translate_images(images, down, right, mirrored=True)
    return flip_images(copies, rng.bernoulli(count, 0.5)) if flip else copies


def moved(latents: Tensor, sigma: float, rng: Rng) -> Tensor:
    """Latents (B, Z) plus Δ ~ N(0, sigma²) for each number. Zhao et al. 2021, zCR."""
    return latents + sigma * rng.normal(latents.shape).to(latents.dtype)


class Consistency(Trick):
    """Consistency regularization (CR): D pays λ(D(x) - D(T(x)))², T a flip and a shift by a few pixels.

    What an image shows does not change when it is mirrored or moved a little, so D's score should not either. D then
    learns what images show. It helps where data is scarce, and G is never shown transformed
    images. With `fakes` it is balanced (bCR). With `latents` nearby latents get one score, and `spread` makes G tell
    them apart (zCR).

    When it hurts: where a mirror or a shift does change what an image shows, such as digits: set `flip` = false.

    Source: Zhang et al. 2020, Consistency Regularization for GANs; Zhao et al. 2021, Improved Consistency
    Regularization for GANs.
    """

    needs = {"images"}
    forwards = {"d": 1}
    neutral = {"weight": 0.0}
    cautions = {"discriminator_batch_norm": "D's score of a sample depends on its batch, and copies have another batch"}
    strengths = {"weight": (1.0, 10.0, 100.0)}

    class Config(Trick.Config):
        weight: Annotated[float | Schedule, Scheduled(0.0, 1e6), Field(description="λ, a number or a schedule")] = 10.0
        fakes: Annotated[bool, Field(description="whether D pays at fakes too")] = False
        shift: Annotated[int, Field(ge=0, le=64, description="pixels by which copies are moved at most")] = 4
        flip: Annotated[bool, Field(description="whether copies are flipped from left to right")] = True

        latents: Annotated[
            float | Schedule, Scheduled(0.0, 1e6), Field(description="λ of D's consistency at moved latents; 0: off")
        ] = 0.0
        spread: Annotated[
            float | Schedule, Scheduled(0.0, 1e6), Field(description="what G is paid for differing there; 0: off")
        ] = 0.0
        noise: Annotated[float, Field(gt=0, le=10, description="standard deviation of what latents are moved by")] = (
            0.05
        )

    config: Config

    @classmethod
    def facts(cls, config: Any) -> Mapping[str, Any]:
        d_pays, g_is_paid = config.latents != 0, config.spread != 0
        return {"forwards": {"d": 1 + config.fakes + d_pays, "g": d_pays + g_is_paid}}

    def problems(self, setting: Setting) -> list[str]:
        judged, given = (
            getattr(network, "conditioned", False) for network in (setting.discriminator, setting.generator)
        )
        if judged and not given and self.config.latents:
            return [
                "D judges samples with a condition that G is not given, so there is none for samples of moved latents; "
                "set latents = 0"
            ]
        return []

    @hookimpl
    def generated_batch(self, batch: Batch) -> Batch:
        if self.config.latents:
            self.made = batch.detach()  # ctx.fake holds replayed fakes in their place
        return batch

    @hookimpl
    def d_loss_terms(self, ctx: Context) -> dict[str, Tensor]:
        terms = {"real": self._distance(ctx.real_in, ctx.real_out.logits, ctx)}
        if self.config.fakes:
            terms["fake"] = self._distance(ctx.fake_in, ctx.fake_out.logits, ctx)
        if self.config.latents:
            with torch.no_grad():
                neighbours = self._neighbours(self.made, ctx)
            images, *described = self.made
            both = Batch(torch.cat([images, neighbours]), *map(_twice, described))
            here, there = ctx.discriminate(both, False).logits.chunk(2)
            terms["latents"] = ctx.value(self.config.latents) * (here - there).square().mean()
        return terms

    @hookimpl
    def g_loss_terms(self, ctx: Context) -> dict[str, Tensor]:
        if not self.config.spread:
            return {}
        distance = (ctx.fake.images - self._neighbours(ctx.fake, ctx)).square().mean()
        return {"spread": -ctx.value(self.config.spread) * distance}

    def _neighbours(self, made: Batch, ctx: Context) -> Tensor:
        """The images of the phase's latents, moved, with the classes and conditions that G was given for `made`."""
        network = ctx.generator
        classes = made.classes if network.conditional else None
        condition = made.condition if network.conditioned else None
        images: Tensor = network(moved(ctx.fake_latents, self.config.noise, ctx.rng), classes, condition)
        return images

    def _distance(self, batch: Batch, logits: Tensor, ctx: Context) -> Tensor:
        copies = transformed(batch.images.detach(), self.config.shift, self.config.flip, ctx.rng)
        out = ctx.discriminator(*batch.with_images(copies))
        distance: Tensor = (logits - out.logits).square().mean()
        return ctx.value(self.config.weight) * distance


def _twice(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else torch.cat([tensor, tensor])
