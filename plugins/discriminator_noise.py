"""Gaussian noise in the discriminator: on its input and after each hidden layer, in training.

`input` is the standard deviation of the noise on what D sees. Images are in [-1, 1] here. The official code has 0.3
with images in [0, 1], which is 0.6 here. `hidden` is the standard deviation of the noise after the activation of each
hidden block. Noise is drawn for every number, sample and pass, in the D step and in the G step. In eval mode there is
none.

The noise after the last hidden layer stands in front of D's heads, as in the official code. D's features, as feature
matching and other tricks see them, are without it.

weight_norm with `lengths = "heads"` keeps D from learning its way out of the noise. For noise that is on D's input
alone and fades, see instance_noise.

Each layer draws from a stream of its own name. The trick combines with every objective and with other surgery.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated

from pydantic import Field
from torch import nn

from gantricks import Context, Discriminator, LayerNoise, Trick, hookimpl


class DiscriminatorNoise(Trick):
    """Gaussian noise in D: noise is added to its input and to its hidden layers in every forward pass of training.

    Like dropout, noise keeps D from leaning on exact values of single units, so D overfits later. Unlike dropout, it
    leaves the mean of every activation and scales nothing. The semi-supervised results of Salimans et al. 2016 rest on
    it: a classifier with a hundred labels would otherwise know them by heart.

    When it hurts: with too much noise D judges coarsely. Noise of a fixed size is drowned by activations that grow, so
    D can learn its way out of it.

    Source: Salimans et al. 2016, §6.1, and official code for MNIST.
    """

    neutral = {"input": 0.0, "hidden": 0.0}
    strengths = {"input": (0.3, 0.6, 1.2), "hidden": (0.25, 0.5, 1.0)}

    class Config(Trick.Config):
        input: Annotated[float, Field(ge=0, le=10, description="standard deviation of the noise on D's input")] = 0.6
        hidden: Annotated[
            float, Field(ge=0, le=10, description="standard deviation of the noise after each hidden block")
        ] = 0.5

    config: Config

    @hookimpl
    def transform_discriminator(self, network: Discriminator, ctx: Context) -> Discriminator:
        blocks = [(name, block) for name, block in network.body.named_children() if isinstance(block, nn.Sequential)]
        if self.config.hidden > 0:
            # the trick's name in the recipe keeps the layers of two instances apart
            noise = f"{ctx.name}_noise"
            for name, block in blocks[:-1]:
                block.add_module(noise, LayerNoise(self.config.hidden, ctx.rng.fork(name)))
            network.neck.add_module(noise, LayerNoise(self.config.hidden, ctx.rng.fork("neck")))
        if self.config.input > 0:
            noise_on_input = LayerNoise(self.config.input, ctx.rng.fork("input"))
            layers = OrderedDict[str, nn.Module]({f"{ctx.name}_input": noise_on_input})
            network.body = nn.Sequential(layers | OrderedDict(network.body.named_children()))
        return network
