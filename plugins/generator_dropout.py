"""Dropout in the generator: noise inside the network, in training and when sampling.

`p` is the share dropped after the activation of each hidden block. What is kept is scaled up by 1 / (1 - p). Masks are
drawn for every number, sample and pass. They are not switched off in eval mode: G without them is another G, which D
has never judged. Samples drawn with one seed have the same latents and the same masks at every step.

Each layer draws from a stream of its own name, so one layer more or less changes no other mask. The trick combines with
every objective and with other surgery.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from gantricks import Context, Generator, Rng, Trick, hookimpl


def drop(x: Tensor, p: float, rng: Rng) -> Tensor:
    """Each number of `x` is zeroed with probability `p`, the others are divided by 1 - p: the mean stays (any shape).

    p = 0 gives `x` bit for bit. Source: Srivastava et al. 2014, in the inverted form (§10).
    """
    return x * rng.bernoulli_like(x, 1 - p) / (1 - p)


class AlwaysDropout(nn.Module):
    """`drop` in training and in eval alike: the masks are part of what G draws its samples from."""

    def __init__(self, p: float, rng: Rng) -> None:
        super().__init__()
        self.p, self.rng = p, rng

    def forward(self, x: Tensor) -> Tensor:
        return drop(x, self.p, self.rng)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class GeneratorDropout(Trick):
    """Dropout in G: random entries of its hidden layers are set to 0, in training and when sampling.

    The masks are noise like the latents, but inside the network, so one latent stands for many samples. That helps most
    where G has little else to draw variety from. The trick was introduced for image translation, where G ignored its
    latents.

    When it hurts: images lose sharpness, and G needs more capacity and more steps. A sample is no longer a function of
    its latents alone, so interpolations flicker.

    Source: GAN hacks list, point 17; Isola et al. 2017, "Image-to-Image Translation with Conditional Adversarial
    Networks", §3.1.
    """

    neutral = {"p": 0.0}
    strengths = {"p": (0.25, 0.5, 0.75)}

    class Config(Trick.Config):
        p: Annotated[float, Field(ge=0, le=0.95, description="share dropped after each hidden block's activation")] = (
            0.5
        )

    config: Config

    @hookimpl
    def transform_generator(self, network: Generator, ctx: Context) -> Generator:
        for name, block in network.body.named_children():
            # blocks are sequences; what other surgery puts between them is no layer to drop after
            if self.config.p > 0 and isinstance(block, nn.Sequential):
                # the trick's name in the recipe keeps the layers of two instances apart
                block.add_module(f"{ctx.name}_dropout", AlwaysDropout(self.config.p, ctx.rng.fork(name)))
        return network
