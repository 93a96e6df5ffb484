"""Style mixing: in training, the later layers of some samples are steered by the style of other latents.

Each sample is mixed with the given probability. A mixed one keeps its style in the layers before a random one, which is
at least the second, and takes the style of fresh latents from there on, of its own class. Every such layer is equally
likely. The authors' code draws one such layer for a whole batch.

Both steps mix, since D judges what G makes in training. Sampling and evaluation do not. The second latents pass the
hook `latents` like all others.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from gantricks import Context, Generator, Probability, StyleGenerator, Trick, hookimpl


def mix(styles: Tensor, others: Tensor, first: Tensor) -> Tensor:
    """Styles (B, L, d) whose layers from `first` (B,) on, counted from 0, are those of `others` (B, L, d).

    first = L leaves a sample as it is. Source: Karras et al. 2019, §3.1.
    """
    layers = torch.arange(styles.shape[1], device=styles.device)
    return torch.where((layers >= first[:, None])[:, :, None], others, styles)


class Mixing(nn.Module):
    """Mixes styles in training mode, and leaves them alone in eval mode."""

    def __init__(self, probability: float, ctx: Context) -> None:
        super().__init__()
        self.probability = probability
        self.draws = Draws(ctx)

    def forward(
        self, styles: Tensor, network: StyleGenerator, classes: Tensor | None, condition: Tensor | None
    ) -> Tensor:
        if not self.training:
            return styles
        count, layers, _ = styles.shape
        others = network.styles(self.draws.ctx.latents(count).z, classes, condition)
        first = 1 + self.draws.ctx.rng.randint(count, layers - 1)
        mixed = self.draws.ctx.rng.bernoulli(count, self.probability)
        return mix(styles, others, torch.where(mixed, first, layers))

    def extra_repr(self) -> str:
        return f"probability={self.probability}"


class Draws:
    """The source of latents and random numbers. A copied network draws from the same one."""

    def __init__(self, ctx: Context) -> None:
        self.ctx = ctx

    def __deepcopy__(self, memo: object) -> Draws:
        return self


class StyleMixing(Trick):
    """Style mixing: for most samples in training, the layers from a random one on take the style of other latents.

    A generator whose layers always see one style lets neighbouring layers rely on each other. Mixing keeps G from
    assuming that their styles are related, so that coarse layers come to steer the layout and fine ones the details.

    When it hurts: on small, simple images all layers must agree on what is shown. A digit whose halves follow two
    latents is no digit. Lower `probability` there.

    Source: Karras et al. 2019, "A Style-Based Generator Architecture for Generative Adversarial Networks", §3.1.
    """

    needs = {"generator_styles"}
    conflicts = {
        "generator_two_stages": 'a generator with styles, network = "style", has one stage',
        "generator_batch_norm": 'a generator with styles, network = "style", has no batch norm',
        "generator_convolutions": 'network = "style" steers its convolutions, and surgery on plain ones does not fit',
        "label_injection": 'network = "style" gives every layer the class already, through the styles',
        "leaky_relu": 'network = "style" has no ReLU that could be replaced',
        "weight_norm": 'network = "style" divides the length of its weights out already',
    }
    neutral = {"probability": 0.0}
    strengths = {"probability": (0.5, 0.9, 1.0)}

    class Config(Trick.Config):
        probability: Annotated[Probability, Field(description="share of the samples that are mixed")] = 0.9

    config: Config

    @hookimpl
    def transform_generator(self, network: Generator, ctx: Context) -> Generator:
        assert isinstance(network, StyleGenerator)
        if self.config.probability > 0:
            network.style_changes.append(Mixing(self.config.probability, ctx))
        return network
