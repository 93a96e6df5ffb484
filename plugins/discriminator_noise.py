"""Gaussian noise in the discriminator: on its input and after each hidden layer, in training."""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated

from pydantic import Field
from torch import nn

from gantricks import Context, Discriminator, LayerNoise, Trick, hookimpl


class DiscriminatorNoise(Trick):
    """Gaussian noise in D: its input and its hidden layers are disturbed at every forward pass of training.

    Like dropout it keeps D from leaning on exact values of single units, so that D overfits later, but it leaves the
    mean of every activation and scales nothing. The semi-supervised results of Salimans et al. 2016 rest on it: a
    classifier with a hundred labels would otherwise know them by heart. `input` is the standard deviation of the noise
    on what D sees (images are in [-1, 1]; the official code has 0.3 with images in [0, 1], which is 0.6 here), `hidden`
    that of the noise after each hidden block's activation. Noise is drawn for every number, sample and pass, in the D
    step and in the G step; in eval mode there is none.

    D's features, as feature matching and other tricks see them, are without the noise after the last hidden layer,
    which stands in front of D's heads, as in the official code.

    When it hurts: noise of a fixed size is drowned by activations that grow, so D can learn its way out of it; weight
    norm with lengths = "heads" keeps it from that. Too much, and D judges coarsely. For noise on D's input that fades
    and leaves the hidden layers alone see instance_noise.

    Each layer draws from a stream of its own name. Combines with every objective and with other surgery. Neutral at
    input = 0, hidden = 0.

    Source: Salimans et al. 2016, §5, official code for MNIST.
    """

    neutral = {"input": 0.0, "hidden": 0.0}

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
