"""DRAGAN: the norm of D's slope is held near 1 around the reals.

The points are x + 0.5 s u, s the standard deviation of all numbers of the real batch together, and u ~ U(0, 1) for
every number of every image, the perturbed batch of the authors' code. Noise is thus positive. That code then takes a
random point of the line from each image to its perturbed one; here it is the perturbed one itself. Other published code
centres the noise. The fakes play no part.

The norm is taken of D's gradient by all numbers of an image, of the logit that D trains on. D sees the points as they
are, in a pass of their own: they lie where D's inputs do, after what the tricks on D's input have done, which are not
applied again. A conditional D is given their classes, and a conditioned one their conditions. With packing, D judges
packs, and the norm is that of the gradient by a whole pack.

The gradient of the sum of all logits is taken, so D must judge each sample by itself. Where it mixes samples (batch
norm in D, minibatch discrimination, minibatch standard deviation), the penalty is not the one of the paper.

`weight` is λ, a number or a schedule. The norm that is asked for is 1. No gradient reaches G.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from gantricks import Context, Rng, Schedule, Scheduled, Trick, hookimpl, slope_distances


def around(images: Tensor, rng: Rng) -> Tensor:
    """Points x + 0.5 s u: `images` and the result are (B, ...).

    s is the standard deviation of all their numbers (divided by their count), u ~ U(0, 1) for each number. Kodali et
    al. 2017, authors' code, without its further factor in [0, 1] for each image.
    """
    noise = rng.uniform_like(images).to(images.dtype)
    return torch.addcmul(images, 0.5 * images.std(correction=0), noise)


class Dragan(Trick):
    """DRAGAN: D pays λ E(‖∇D‖ - 1)² at real samples with noise.

    In bad equilibria D is steep around the data, and G collapses to where D happens to be high. The penalty keeps D
    smooth where the data is. It goes with every objective, and needs no fakes.

    When it hurts: it costs a further pass of D and a second backward. D keeps a slope where G already fits the data, so
    the players may circle; R1 lets them rest. Noise is as strong in every direction, and leaves the range of images.

    Source: Kodali et al. 2017, On Convergence and Stability of GANs, and authors' code.
    """

    needs = {"input_grad"}
    forwards = {"d": 1}
    neutral = {"weight": 0.0}
    cautions = {
        "discriminator_batch_norm": "D's score of a sample depends on its batch, and the penalty takes it for its own"
    }
    strengths = {"weight": (1.0, 10.0, 100.0)}

    class Config(Trick.Config):
        weight: Annotated[float | Schedule, Scheduled(0.0, 1e6), Field(description="λ, a number or a schedule")] = 10.0

    config: Config

    @hookimpl
    def d_loss_terms(self, ctx: Context) -> dict[str, Tensor]:
        points = around(ctx.real_in.images.detach(), ctx.rng).requires_grad_()
        out = ctx.discriminator(*ctx.real_in.with_images(points))
        return {"penalty": ctx.value(self.config.weight) * slope_distances(out.logits, points, 1.0).mean()}
