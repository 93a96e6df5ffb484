"""BiGAN: an encoder learns to invert the generator, because the discriminator judges samples with their latents.

The encoder E is a network of D's kind with a head of its own, from images to latents (B, latent_dim). D judges pairs:
(x, E(x)) for reals and (G(z), z) for fakes. Latents have no places in the image, so they join D's features after its
body, as conditions do. E learns in G's step, with the optimizer of `[tricks.bigan.encoder.optimizer]`. In D's step
its latents are constants.

G's loss is that of the recipe's objective: it wants D to take (G(z), z) for real. E wants D to take (x, E(x)) for fake.
Its loss is G's with D's scores s mirrored at the point u between real and fake, s → 2u - s. With the default objective
that is softplus(s), and the two losses together are D's with both sides exchanged. Labels and G's objective are as in
the rest of the recipe.

E sees images as they are in the data, and other tricks may change what D sees of them. The pairs of reals go through D
once more in G's step. Where D mixes samples, that is a pass of reals alone.

Data with classes work as without. Where D is conditional, it judges triples of image, class and latents.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from gantricks import (
    Adam,
    Batch,
    Companion,
    Context,
    Discriminator,
    OptimizerOptions,
    Options,
    Out,
    Pairing,
    Trick,
    hookimpl,
)


def mirrored(out: Out, undecided: float) -> Out:
    """D's output with logits 2u - s, where u = `undecided`: as sure of the opposite. Features stay.

    With D(x) = σ(s) and u = 0 it is 1 - D(x). Donahue et al. 2017, §3: the objective with real and fake exchanged.
    """
    return out._replace(logits=2 * undecided - out.logits)


class EncoderOptions(Options):
    """What trains the encoder."""

    optimizer: Annotated[OptimizerOptions, Field(description="what trains the encoder")] = Adam()


class BiGAN(Trick):
    """BiGAN (ALI): an encoder learns with G, and D tells pairs (x, E(x)) from pairs (G(z), z).

    Where D cannot tell the pairs apart, E is the inverse of G. So the latents of real images are found without a loss
    that compares pixels, and serve as features. [evaluate.reconstruction] measures how near G(E(x)) is to x.

    When it hurts: far from the optimum E(x) is only roughly the latent of x. G(E(x)) then shows something of the same
    kind, and not the same image. Samples get no better by it.

    Source: Donahue et al. 2017, Adversarial Feature Learning, §3; Dumoulin et al. 2017, Adversarially Learned
    Inference.
    """

    needs = {"decision"}
    provides = {"discriminator_conditioned"}
    replaces = {"d_pairing"}
    conflicts = {
        "generator_conditioned": "D judges an image with its latents, and has no place for another condition; "
        "write conditioned = false in [generator] and in [discriminator]",
        "semi_supervised": "D classifies images whose latents it would have to know",
    }
    cautions = {
        "feature_matching": "it matches features of images alone, so G does not learn from the latents in the pairs"
    }
    forwards = {"d": 1}

    class Config(Trick.Config):
        encoder: Annotated[EncoderOptions, Field(description="the encoder's training")] = EncoderOptions()

    config: Config

    @hookimpl
    def transform_discriminator(self, network: Discriminator, ctx: Context) -> Discriminator:
        features, latents = network.feature_dim, ctx.latent_dim
        network.conditioned, network.condition = True, latents
        network.pairing = ctx.build("pairing", lambda: Pairing(features, latents), like=network)
        return network

    @hookimpl
    def companions(self, ctx: Context) -> dict[str, Companion]:
        encoder = self.encoder = ctx.build_network("discriminator", "encoder")
        assert isinstance(encoder, Discriminator)
        features, latents = encoder.feature_dim, ctx.latent_dim
        encoder.head = ctx.build("encoder.head", lambda: nn.Linear(features, latents), like=encoder)
        return {"encoder": Companion(encoder, self.config.encoder.optimizer)}

    @hookimpl
    def real_batch(self, batch: Batch) -> Batch:
        with torch.no_grad():
            return self._encoded(batch)

    @hookimpl
    def generated_batch(self, batch: Batch, ctx: Context) -> Batch:
        return batch._replace(condition=ctx.fake_latents)

    @hookimpl
    def g_loss_terms(self, ctx: Context) -> dict[str, Tensor]:
        out = ctx.discriminate(self._encoded(ctx.real), True)
        return {"encoder": ctx.g_loss(mirrored(out, ctx.undecided))}

    def _encoded(self, batch: Batch) -> Batch:
        return batch._replace(condition=self.encoder(batch.images).logits)
