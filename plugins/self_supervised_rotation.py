"""Rotation loss (SS-GAN): the discriminator also says by how many quarters of a turn an image has been rotated.

A second head on D's features tells four rotations apart. D learns it on rotated reals, weighted with `real`. G is
rewarded for fakes whose rotation can be told, weighted with `fake`. D never learns rotations of fakes, so the two
players work together on this term. Real and fake are judged on upright images alone.

The images of a batch take the four rotations in turn, from a random one on, so each costs one more pass of D in each
player's step. The authors' code rotates a quarter of the batch by all four, which is as many images.

The head is part of D: it is trained and saved with it. Images that are not square are rotated by 0 or 2 quarters
only, and the head tells two.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gantricks import (
    Batch,
    Context,
    Discriminator,
    Rng,
    Schedule,
    Scheduled,
    Trick,
    hookimpl,
    rotate_images,
)

HEAD = "rotation_head"


def rotations(count: int, ways: int, rng: Rng) -> Tensor:
    """The rotations of `count` images, int64 (count,): 0, 1, … `ways` - 1, 0, 1 … from a random one on."""
    start = rng.randint(1, ways)
    return (start + torch.arange(count, device=start.device)) % ways


def rotation_loss(scores: Tensor, truth: Tensor) -> Tensor:
    """-E log softmax(scores)[truth], 0-dim, float32 at least: `scores` (B, R) of R rotations, `truth` (B,) int64.

    Source: Chen et al. 2019, of one batch.
    """
    return cross_entropy(scores.to(torch.promote_types(scores.dtype, torch.float32)), truth)


class SelfSupervisedRotation(Trick):
    """Rotation loss (SS-GAN): D also tells by how much an image is rotated, and G makes images of which it can.

    D forgets features that its present task does not need, and the game goes round in circles. Telling rotations needs
    the shape and the parts of what is shown, at all times and without labels. So D's features stay rich, as those of a
    D with classes do.

    When it hurts: where up and down mean nothing (textures, pictures from above) there is nothing to tell. G is paid
    for objects with a clear upright, whatever the data. Lower `fake` when that shows.

    Source: Chen et al. 2019, Self-Supervised GANs via Auxiliary Rotation Loss, and its official code.
    """

    needs = {"images"}
    forwards = {"d": 2}
    cautions = {
        "adaptive_augment": "it rotates images too, and the rotation that D is asked for is lost; set its blit = false"
    }
    strengths = {"real": (0.3, 1.0, 3.0), "fake": (0.06, 0.2, 0.6)}

    class Config(Trick.Config):
        real: Annotated[
            float | Schedule, Scheduled(0.0, 100.0), Field(description="weight in D of the loss on rotated reals")
        ] = 1.0
        fake: Annotated[
            float | Schedule, Scheduled(0.0, 100.0), Field(description="weight in G of the loss on rotated fakes")
        ] = 0.2

    config: Config

    @hookimpl
    def transform_discriminator(self, network: Discriminator, ctx: Context) -> Discriminator:
        width, ways = network.feature_dim, _ways(network)
        network.add_module(HEAD, ctx.build(HEAD, lambda: nn.Linear(width, ways), like=network))
        return network

    @hookimpl
    def d_loss_terms(self, ctx: Context) -> dict[str, Tensor]:
        return {"rotation": ctx.value(self.config.real) * self._loss(ctx.real, True, ctx)}

    @hookimpl
    def g_loss_terms(self, ctx: Context) -> dict[str, Tensor]:
        return {"rotation": ctx.value(self.config.fake) * self._loss(ctx.fake, False, ctx)}

    def _loss(self, batch: Batch, is_real: bool, ctx: Context) -> Tensor:
        network = ctx.discriminator
        group, ways = network.group, _ways(network)
        told = rotations(batch.size // group, ways, ctx.rng)
        quarters = (4 // ways) * told.repeat_interleave(group, output_size=batch.size)  # what D judges at once, alike
        features = ctx.discriminate(batch.with_images(rotate_images(batch.images, quarters)), is_real).features
        return rotation_loss(network.get_submodule(HEAD)(features), told)


def _ways(network: Discriminator) -> int:
    """Return how many rotations keep the shape of the images."""
    _, height, width = network.shape
    return 4 if height == width else 2
