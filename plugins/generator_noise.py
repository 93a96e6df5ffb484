"""Gaussian noise in the generator's layers, in training.

`sigma` is the standard deviation of the noise, in units of the activations after each hidden block (of order 1 in the
networks here). Noise is drawn for every number, sample and pass. Batch norm's running statistics, too, are of noisy
activations.

For noise that stays when sampling, see generator_dropout. For noise on what D sees, real images included, see
instance_noise.

Each layer draws from a stream of its own name. The trick combines with every objective and with other surgery.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import nn

from gantricks import Context, Generator, LayerNoise, Trick, hookimpl


class GeneratorNoise(Trick):
    """Gaussian noise in G: a little noise is added to each hidden layer's output in every forward pass of training.

    G cannot rely on exact values of single units, so neighbouring latents are driven to similar images. What D sees of
    the fakes is smeared out, much as by instance noise, but along directions that G can produce. Sampling and
    evaluation are without noise.

    When it hurts: D has judged noisy samples only, so the samples that are kept come from a slightly different G. With
    a larger `sigma` it differs more, and fine detail drowns in the noise.

    Source: GAN hacks list, point 13, which names Zhao et al. 2017, "Energy-based Generative Adversarial Network".
    """

    neutral = {"sigma": 0.0}
    strengths = {"sigma": (0.03, 0.1, 0.3)}

    class Config(Trick.Config):
        sigma: Annotated[
            float, Field(ge=0, le=10, description="standard deviation of the noise after each hidden block")
        ] = 0.1

    config: Config

    @hookimpl
    def transform_generator(self, network: Generator, ctx: Context) -> Generator:
        for name, block in network.body.named_children():
            # blocks are sequences; what other surgery puts between them is no layer to disturb
            if self.config.sigma > 0 and isinstance(block, nn.Sequential):
                # the trick's name in the recipe keeps the layers of two instances apart
                block.add_module(f"{ctx.name}_noise", LayerNoise(self.config.sigma, ctx.rng.fork(name)))
        return network
