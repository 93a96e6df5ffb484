"""Langevin sampling: the latents of samples first move to where D takes G's images for real. Training is not changed.

Where D's logit is log p_data(x) / p_g(x), latents with the energy E(z) = ‖z‖²/2 - D(G(z)) make samples of the data. A
chain of Langevin steps, z ← z - ε/2 ∇E(z) + √ε n with n ~ N(0, I), leads there from z ~ N(0, I). `rate` is ε and
`steps` the length of the chain. Together they say how far it goes: after steps · rate ≈ 4 most of the start is
forgotten. A large ε distorts the distribution (with E = a z²/2, the variance is 1 / (a (1 - ε a / 4))), and from 4 / a
on the chain diverges. The defaults are ours.

D is the one that evaluation uses, in eval mode, and sees samples as they are, without augmentation. A sample costs
`steps` forward and backward passes of G and D. Noise comes from a stream of the trick. The trick leaves out
`gantricks interpolate`, whose latents are given. Of a run that is finished:
`gantricks sample RUN --set tricks.langevin_sampling=on --out FILE.png`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from gantricks import Batch, Context, Latents, Sampler, Trick, hookimpl


def langevin(
    z: Tensor, energy: Callable[[Tensor], Tensor], rate: float, steps: int, noise: Callable[[], Tensor]
) -> Tensor:
    """`z` (B, d) after `steps` steps z ← z - ε/2 ∇E(z) + √ε n, ε = `rate`; `noise()` returns n ~ N(0, I), (B, d).

    `energy` returns E of each row, (B,), and no row depends on another. Gradients must be on. Source: Che et al. 2020,
    algorithm 1.
    """
    for _ in range(steps):
        z = z.detach().requires_grad_()
        (slope,) = torch.autograd.grad(energy(z).sum(), z)
        z = z.detach() - rate / 2 * slope + math.sqrt(rate) * noise()
    return z


def latent_energy(z: Tensor, logits: Tensor) -> Tensor:
    """E(z) = ‖z‖²/2 - D(G(z)), (B,): `z` (B, d) with the prior N(0, I), `logits` (B,). Source: Che et al. 2020, §3."""
    return z.square().sum(1) / 2 - logits


class LangevinSampling(Trick):
    """Langevin sampling (DDLS): latents of samples walk, with noise, to where D takes what G makes of them for real.

    G and D of a GAN are together a model of the data by an energy in the space of latents, which D's logit corrects. A
    chain there passes from mode to mode, and no sample is thrown away.

    When it hurts: each step costs a backward pass through G and D. A long chain follows what D gets wrong, and one with
    a large `rate` diverges.

    Source: Che et al. 2020, "Your GAN is Secretly an Energy-based Model and You Should Use Discriminator Driven Latent
    Sampling".
    """

    needs = {"log_ratio"}
    conflicts = {
        "bigan": "D judges a sample with its latents there, and is given none",
        "spherical_latents": "its energy is that of Gaussian latents, and the chain leaves a sphere or a cube",
        "truncation": "its chain leaves the truncated latents",
        "rejection_sampling": "each corrects G's samples by D's logit, and together they would do it twice",
        "minibatch_discrimination": "D's score of a sample depends on the rest of its batch there",
        "minibatch_stddev": "D's score of a sample depends on the rest of its batch there",
        "packing": "D judges several samples at once there, and says nothing of one",
    }
    cautions = {
        "label_smoothing": "with its targets D's logit is no longer the log of the density ratio",
        "label_flipping": "with its targets D's logit is no longer the log of the density ratio",
        "soft_labels": "with its targets D's logit is no longer the log of the density ratio",
        "instance_noise": "D compares noisy samples while the noise lasts, and judges clean ones here",
    }
    neutral = {"steps": 0}
    trial = {"steps": 2, "rate": 0.1}
    strengths = {"rate": (0.003, 0.01, 0.03)}

    class Config(Trick.Config):
        steps: Annotated[int, Field(ge=0, le=100_000, description="steps of the chain")] = 100
        rate: Annotated[float, Field(gt=0, le=4, description="ε, the size of a step")] = 0.01

    config: Config

    @hookimpl
    def sampler(self, sampler: Sampler, ctx: Context) -> Sampler:
        if self.config.steps == 0:
            return sampler

        def moved(given: Latents) -> Tensor:
            # whoever samples has switched gradients off, perhaps for good: tensors of inference mode have none
            with torch.inference_mode(False), torch.enable_grad():
                start, classes, condition = (None if each is None else each.clone() for each in given)
                assert start is not None

                def energy(z: Tensor) -> Tensor:
                    images = sampler(Latents(z, classes, condition))
                    return latent_energy(z, ctx.judge(Batch(images, classes, condition)).logits[:, 0])

                z = langevin(start, energy, self.config.rate, self.config.steps, lambda: ctx.rng.normal(start.shape))
            return sampler(given._replace(z=z))

        return moved
