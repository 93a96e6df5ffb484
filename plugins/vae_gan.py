"""VAE-GAN: an encoder gives each image a distribution of latents, and D's features measure the reconstruction.

The encoder E, a network of D's kind, gives the mean μ and the logarithm of the variance σ² of a Gaussian q(z|x). A
reconstruction is x̃ = G(z), z = μ + σ ε, ε ~ N(0, 1). E learns in G's step, with the optimizer of
`[tricks.vae_gan.encoder.optimizer]`. The terms, all means over the batch:

- KL = ½ Σ (μ² + σ² - 1 - log σ²), a sum over latents: E's.
- L_feat = ½ Σ (f(x) - f(x̃))², a sum over the A features of D's last layer before its head. That is -log N(f(x); f(x̃),
  1) up to a constant. E's with weight 1, G's with weight `gamma`. D learns nothing from it.
- G's adversarial loss of x̃, beside that of G's samples. E learns nothing from it.
- D's adversarial loss with x̃ for fakes, beside that with G's samples. Each has the reals in it, so that reals count as
  much as both kinds of fakes, and an undecided D stays at the same output. The paper counts reals once.

L_feat grows with the number of features, and `gamma` is small where there are many: 1e-6 in the authors' code, for maps
of faces of 64×64 inside D. The default is ours. L_feat is measured on images as they are: what other tricks show D in
their place would differ between x and x̃ by chance. So x̃ goes through D twice in G's step, and x once. The gradient
that L_feat gives E is taken at z, before that of the weights.

Where networks are conditional, a reconstruction is made and judged with the class of its image. Conditions likewise.
[evaluate.reconstruction] measures pixels.
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
    Schedule,
    Scheduled,
    Trick,
    hookimpl,
)


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(μ, σ²) ‖ N(0, 1)) = ½ Σ (μ² + σ² - 1 - log σ²), 0-dim, float32 at least: summed over latents, mean over B.

    `mean` and `log_variance` are (B, latent_dim). Kingma & Welling 2014, appendix B; Larsen et al. 2016.
    """
    dtype = torch.promote_types(mean.dtype, torch.float32)
    mean, log_variance = mean.to(dtype), log_variance.to(dtype)
    # expm1: exact where σ² is near 1
    return 0.5 * (mean.square() + torch.expm1(log_variance) - log_variance).sum(1).mean()


def feature_error(real: Tensor, again: Tensor) -> Tensor:
    """½ Σ (f(x) - f(x̃))², 0-dim, float32 at least: `real` and `again` are (B, A), summed over features, mean over B.

    Larsen et al. 2016, without the constant.
    """
    dtype = torch.promote_types(real.dtype, torch.float32)
    return 0.5 * (real.to(dtype) - again.to(dtype)).square().sum(1).mean()


class EncoderOptions(Options):
    """What trains the encoder."""

    optimizer: Annotated[OptimizerOptions, Field(description="what trains the encoder")] = Adam()


class VAEGAN(Trick):
    """VAE-GAN: an encoder and G reconstruct real images, as D's features see them; G also fools D.

    A variational autoencoder blurs because it compares pixels. D's features forgive a shift and see what makes images
    real. G learns from reconstructions too, which belong to every real image, so it cannot drop modes as easily.

    When it hurts: two wishes share G. With a large `gamma` samples from the prior get worse, with a small one
    reconstructions. A D that is renewed quickly changes the measure.

    Source: Larsen et al. 2016, Autoencoding beyond Pixels Using a Learned Similarity Metric, algorithm 1.
    """

    conflicts = {
        "bigan": "each has an encoder of its own, and D would judge a reconstruction with the other's latents",
        "semi_supervised": "D's loss has a term of labelled images, which reconstructions would add once more",
        "triple_gan": "D's loss has a term of the classifier's pairs, which reconstructions would add once more",
    }
    cautions = {
        "spherical_latents": "the encoder's latents are drawn to N(0, 1), and G is trained on others",
        "style_mixing": "reconstructions would be mixed with the styles of latents that no image has",
    }
    forwards = {"d": 4, "g": 2}
    strengths = {"gamma": (1e-3, 1e-2, 1e-1)}

    class Config(Trick.Config):
        gamma: Annotated[
            float | Schedule, Scheduled(0.0, 1e6), Field(description="γ, the weight of L_feat in G, number or schedule")
        ] = 0.01
        encoder: Annotated[EncoderOptions, Field(description="the encoder's training")] = EncoderOptions()

    config: Config

    @hookimpl
    def companions(self, ctx: Context) -> dict[str, Companion]:
        encoder = self.encoder = ctx.build_network("discriminator", "encoder")
        assert isinstance(encoder, Discriminator)
        features, latents = encoder.feature_dim, ctx.latent_dim
        encoder.head = ctx.build("encoder.head", lambda: nn.Linear(features, 2 * latents), like=encoder)
        return {"encoder": Companion(encoder, self.config.encoder.optimizer)}

    @hookimpl
    def d_loss_terms(self, ctx: Context) -> dict[str, Tensor]:
        with torch.no_grad():
            mean, log_variance = self._moments(ctx)
            again = self._made(drawn(mean, log_variance, ctx), ctx)
        return {"reconstructions": ctx.d_loss(ctx.real_out, ctx.discriminate(again, False))}

    @hookimpl
    def g_loss_terms(self, ctx: Context) -> dict[str, Tensor]:
        mean, log_variance = self._moments(ctx)
        z = drawn(mean, log_variance, ctx)
        leaf = z.detach().requires_grad_()  # keeps E out of G's terms
        again = self._made(leaf, ctx)
        with torch.no_grad():
            real = ctx.discriminator(*ctx.real).features
        error = feature_error(real, ctx.discriminator(*again).features)
        (slope,) = torch.autograd.grad(error, leaf, retain_graph=True)
        through = (slope * z).sum()  # its gradient in E's weights is that of the error
        return {
            "prior": divergence(mean, log_variance),
            "features": error.detach() + through - through.detach(),
            "generator_features": ctx.value(self.config.gamma) * error,
            "reconstructions": ctx.g_loss(ctx.discriminate(again, False)),
        }

    def _moments(self, ctx: Context) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance of the latents of the real batch, (B, latent_dim) each."""
        mean, log_variance = self.encoder(ctx.real.images).logits.chunk(2, 1)
        return mean, log_variance

    def _made(self, z: Tensor, ctx: Context) -> Batch:
        real, network = ctx.real, ctx.generator
        classes = real.classes if network.conditional else None
        return real.with_images(network(z, classes, real.condition if network.conditioned else None))


def drawn(mean: Tensor, log_variance: Tensor, ctx: Context) -> Tensor:
    """Draw z = μ + σ ε, ε ~ N(0, 1), from q(z|x). Gradients flow through it. All are (B, latent_dim)."""
    return mean + (0.5 * log_variance).exp() * ctx.rng.normal(mean.shape)
