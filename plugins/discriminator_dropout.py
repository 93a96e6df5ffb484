"""Dropout in the discriminator: on its input and after each hidden block.

`input` is the share dropped from what D sees. `hidden` is the share dropped after the activation of each hidden block.
The official code drops at two places inside. What is kept is scaled up by 1 / (1 - p). Masks are drawn for every
number, sample and pass, so those of the D step and of the G step are independent.

The noise in D's logits and features reaches penalties on D's gradient, feature matching and balance statistics.

Each layer draws from a stream of its own name, so one layer more or less changes no other mask. The trick combines with
every objective and with other surgery.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from gantricks import Context, Discriminator, Rng, Trick, hookimpl


def drop(x: Tensor, p: float, rng: Rng) -> Tensor:
    """Each number of `x` is zeroed with probability `p`, the others are divided by 1 - p: the mean stays (any shape).

    p = 0 gives `x` bit for bit. Source: Srivastava et al. 2014, in the inverted form (§10).
    """
    return x * rng.bernoulli_like(x, 1 - p) / (1 - p)


class Dropout(nn.Module):
    """`drop` in training, nothing in eval. Unlike `nn.Dropout`, it never touches torch's global generator."""

    def __init__(self, p: float, rng: Rng) -> None:
        super().__init__()
        self.p, self.rng = p, rng

    def forward(self, x: Tensor) -> Tensor:
        return drop(x, self.p, self.rng) if self.training else x

    def extra_repr(self) -> str:
        return f"p={self.p}"


class DiscriminatorDropout(Trick):
    """Dropout in D: random entries of its input and hidden layers are set to 0 in every forward pass of training.

    D cannot lean on a few pixels or a few feature maps, so it overfits its real images later. G meets a different
    sub-network at every step, so it cannot aim at one blind spot. In eval mode D is whole and deterministic.

    When it hurts: D learns more slowly and judges more coarsely. Its logits and features are noisy. Beside batch norm
    the variance in training is not that of eval mode. Where D is already the weaker player, lower both shares first.

    Source: Salimans et al. 2016, official code (0.2 on the input, 0.5 inside).
    """

    neutral = {"input": 0.0, "hidden": 0.0}
    strengths = {"input": (0.1, 0.2, 0.4), "hidden": (0.25, 0.5, 0.75)}

    class Config(Trick.Config):
        input: Annotated[float, Field(ge=0, le=0.95, description="share of D's input that is dropped")] = 0.2
        hidden: Annotated[
            float, Field(ge=0, le=0.95, description="share dropped after each hidden block's activation")
        ] = 0.5

    config: Config

    @hookimpl
    def transform_discriminator(self, network: Discriminator, ctx: Context) -> Discriminator:
        # the trick's name in the recipe keeps the layers of two instances apart
        for name, block in network.body.named_children():
            # blocks are sequences; the flattening between them is no layer to drop after
            if self.config.hidden > 0 and isinstance(block, nn.Sequential):
                block.add_module(f"{ctx.name}_dropout", Dropout(self.config.hidden, ctx.rng.fork(name)))
        if self.config.input > 0:
            dropout = Dropout(self.config.input, ctx.rng.fork("input"))
            layers = OrderedDict[str, nn.Module]({f"{ctx.name}_input": dropout})
            network.body = nn.Sequential(layers | OrderedDict(network.body.named_children()))
        return network
