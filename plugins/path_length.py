"""Path length regularisation: a step of one size in style space is to change images by one amount, everywhere.

J_w is the Jacobian of the image with respect to the styles (B, L, d) of a sample. A random direction y in image space,
N(0, 1) / √(HW), gives J_wᵀ y by one backward pass. Its length is the root of the mean, over layers, of the squared sums
over d. The penalty is the squared distance of this length to its running mean a. a takes in a share `decay` of each
mean of lengths, is used with it, and is a constant to the gradient. In the authors' code its gradient flows, which
lessens the pull on the mean length by the share `decay`.

The penalty is due in every `every`-th step, and counts as often there. It takes the styles of the first half of the
batch, and one more pass of G's layers after the mapping, with two backward passes. Changes of styles, such as mixing,
are not applied there; the authors' code mixes there too. Noise inputs are at work as in any training pass.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from gantricks import Context, StyleGenerator, Trick, hookimpl


def path_lengths(images: Tensor, styles: Tensor, directions: Tensor) -> Tensor:
    """‖J_wᵀ y‖ of each sample, (B,): `images` (B, …) made of `styles` (B, L, d), y = `directions`, shaped like them.

    It is √(1/L Σ_l ‖∂⟨y, image⟩/∂w_l‖²), and can be differentiated. Source: Karras et al. 2020, §3.2, and their code.
    """
    (slopes,) = torch.autograd.grad((images * directions).sum(), styles, create_graph=True)
    # a norm, and no root of a sum: its gradient at 0 is finite
    lengths: Tensor = torch.linalg.vector_norm(slopes, dim=(1, 2)) / math.sqrt(styles.shape[1])
    return lengths


def directions_like(images: Tensor, noise: Tensor) -> Tensor:
    """Y for images (B, C, H, W) from `noise` ~ N(0, 1), shaped like them: noise / √(HW)."""
    return noise / math.sqrt(math.prod(images.shape[2:]))


class PathLength(Trick):
    """Path length regularisation: λ (‖J_wᵀ y‖ − a)², with a the running mean of ‖J_wᵀ y‖ over random directions y.

    G is drawn towards a mapping from styles to images that is a scaled isometry: equal steps in style space change the
    image by equal amounts. Samples deform smoothly along a path, and an image is easier to invert.

    When it hurts: it is a bound on what G may do. With little data, or images that differ in kind, sharp borders
    between kinds cost G, and quality can drop. Differentiating twice takes time and memory.

    Source: Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN", §3.2.
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
    neutral = {"weight": 0.0}
    strengths = {"weight": (0.5, 2.0, 8.0)}

    class Config(Trick.Config):
        weight: Annotated[float, Field(ge=0, le=1e6, description="weight λ of the penalty")] = 2.0
        every: Annotated[int, Field(ge=1, le=1000, description="steps from one penalty to the next")] = 4
        decay: Annotated[float, Field(gt=0, le=1, description="share of new lengths in their running mean")] = 0.01

    config: Config

    @hookimpl
    def on_setup(self, ctx: Context) -> None:
        self.mean = torch.zeros((), device=ctx.device)
        self.zero = torch.zeros((), device=ctx.device, dtype=ctx.dtype)
        ctx.set_variant("due", True)

    @hookimpl
    def on_boundary(self, ctx: Context) -> None:
        ctx.set_variant("due", ctx.step % self.config.every == 0)

    @hookimpl
    def g_loss_terms(self, ctx: Context) -> dict[str, Tensor]:
        if not ctx.variant("due"):
            return {"penalty": self.zero}
        network = ctx.generator
        assert isinstance(network, StyleGenerator)
        half = max(1, len(ctx.fake_latents) // 2)
        classes, condition = ctx.fake.classes, ctx.fake.condition
        described = (
            classes[:half] if network.conditional and classes is not None else None,
            condition[:half] if network.conditioned and condition is not None else None,
        )
        styles = network.styles(ctx.fake_latents[:half], *described)
        images = network.synthesise(styles)
        directions = directions_like(images, ctx.rng.normal_like(images).to(images.dtype))
        lengths = path_lengths(images, styles, directions)
        with torch.no_grad():
            self.mean.lerp_(lengths.mean().to(self.mean.dtype), self.config.decay)
        distances = lengths - self.mean.to(lengths.dtype)
        return {"penalty": self.config.weight * self.config.every * distances.square().mean()}

    @hookimpl
    def log_scalars(self) -> dict[str, Tensor]:
        return {"mean": self.mean}

    def tensors(self) -> dict[str, Tensor]:
        return {"mean": self.mean}
