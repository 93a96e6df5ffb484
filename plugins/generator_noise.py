"""Gaussian noise in the generator's layers, in training."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import nn

from gantricks import Context, Generator, LayerNoise, Trick, hookimpl


class GeneratorNoise(Trick):
    """Gaussian noise in G: every hidden layer's output is disturbed a little, at every forward pass of training.

    G cannot rely on exact values of single units, so neighbouring latents are driven to similar images, and what D sees
    of the fakes is smeared out, much as by instance noise but along directions that G can produce. `sigma` is the
    noise's standard deviation, in units of the activations after each hidden block (of order 1 in the networks here).
    Noise is drawn for every number, sample and pass.

    Sampling and evaluation are without noise. When it hurts: D has judged noisy samples only, so the ones that are kept
    come from a slightly different G (batch norm's running statistics, too, are of noisy activations), the more so the
    larger `sigma` is, and fine detail drowns in it. For noise that stays when sampling see generator_dropout; for noise
    on what D sees, real images included, see instance_noise.

    Each layer draws from a stream of its own name. Combines with every objective and with other surgery. Neutral at
    sigma = 0.

    Source: GAN hacks list, point 13, which names Zhao et al. 2017, "Energy-based Generative Adversarial Network".
    """

    neutral = {"sigma": 0.0}

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
