"""Style truncation: samples are made of styles that are drawn towards the mean style. Training is what it is without.

Karras et al. follow the mean style by a moving average while they train. Here it is the mean over fresh latents when
samples are made, so a run that was trained without the trick can be sampled with it, and averaged weights have a mean
of their own. Given classes or conditions, the mean is that of the sample's own class or condition, so that it keeps
them at any ψ.

The authors' code has ψ = 0.7 too, in the first 8 layers alone.

Of a run that is finished: `gantricks sample RUN --set tricks.style_truncation.psi=0.5 --out FILE.png`.
"""

from __future__ import annotations

import copy
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from gantricks import Context, Generator, Probability, StyleGenerator, Trick, hookimpl


def truncate(styles: Tensor, mean: Tensor, psi: float, layers: int | None = None) -> Tensor:
    """Styles (B, L, d) to mean + ψ (styles − mean) in the first `layers` of the L layers, in all where it is None.

    `mean` is (B, L, d) or broadcasts against it. Source: Karras et al. 2019, appendix B.
    """
    truncated = torch.lerp(mean.expand_as(styles), styles, psi)
    return truncated if layers is None else torch.cat([truncated[:, :layers], styles[:, layers:]], 1)


class Truncated(nn.Module):
    """Draws styles towards the mean style of `latents` (n, latent_dim)."""

    latents: Tensor

    def __init__(self, latents: Tensor, psi: float, layers: int | None) -> None:
        super().__init__()
        self.register_buffer("latents", latents, persistent=False)
        self.psi, self.layers = psi, layers

    def forward(
        self, styles: Tensor, network: StyleGenerator, classes: Tensor | None, condition: Tensor | None
    ) -> Tensor:
        return truncate(styles, self.means(network, classes, condition), self.psi, self.layers)

    def means(self, network: StyleGenerator, classes: Tensor | None, condition: Tensor | None) -> Tensor:
        """Return the mean styles (1, L, d), or (B, L, d) where each row has a class (B,) or a condition (B, E)."""
        count = len(self.latents)
        if network.conditioned:
            assert condition is not None
            own = [network.styles(self.latents, None, row.expand(count, -1)).mean(0) for row in condition]
            return torch.stack(own)
        if network.conditional:
            assert classes is not None
            whole = [
                network.styles(self.latents, classes.new_full((count,), k)).mean(0) for k in range(network.classes)
            ]
            return torch.stack(whole)[classes]
        return network.styles(self.latents).mean(0, keepdim=True)

    def extra_repr(self) -> str:
        return f"psi={self.psi}, layers={self.layers}, latents={len(self.latents)}"


class StyleTruncation(Trick):
    """Style truncation: samples are made of styles that lie nearer to the mean style, by a factor ψ.

    Styles far from the mean are those that G has met least often. The smaller ψ, the better each sample looks, and the
    less samples differ; at 0 all are one. Unlike latents, styles need not follow any fixed distribution, so a mean and
    a factor are enough. Of `layers`, only the first are truncated: layout and shape, while colours keep their variety.

    When it hurts: FID and recall count variety, and get worse with ψ.

    Source: Karras et al. 2019, "A Style-Based Generator Architecture for Generative Adversarial Networks", appendix B.
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
    neutral = {"psi": 1.0}
    trial = {"latents": 16}

    class Config(Trick.Config):
        psi: Annotated[Probability, Field(description="ψ, the share of its way from the mean that a style keeps")] = 0.7
        layers: Annotated[
            int | None, Field(ge=1, le=1000, description="how many layers are truncated, the coarse ones first")
        ] = None
        latents: Annotated[int, Field(ge=1, le=100_000, description="latents whose styles make the mean style")] = 1024

    config: Config

    @hookimpl
    def sampling_generator(self, network: Generator, ctx: Context) -> Generator:
        options = self.config
        if options.psi == 1:
            return network
        network = copy.deepcopy(network)
        assert isinstance(network, StyleGenerator)
        network.style_changes.append(Truncated(ctx.latents(options.latents).z, options.psi, options.layers))
        return network
