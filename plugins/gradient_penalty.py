"""Gradient penalty: the norm of D's slope is held near 1 between reals and fakes (WGAN-GP).

The points are x̂ = u x + (1 - u) G(z), with real and fake batch paired in order and u ~ U(0, 1) for each pair.

The norm is taken of D's gradient by all numbers of an image, of the logit that D trains on. D sees the points as they
are, in a pass of their own: they lie where D's inputs do, after what the tricks on D's input have done, which are not
applied again. A conditional D is given the classes of the reals, and a conditioned one their conditions. With packing,
D judges packs: a whole pack has one u, and the norm is that of the gradient by all of it.

The gradient of the sum of all logits is taken, so D must judge each sample by itself. Where it mixes samples (batch
norm in D, minibatch discrimination, minibatch standard deviation), the penalty is not the one of the paper, which
leaves batch norm out of D.

`weight` is λ, a number or a schedule. `target` is the norm that is asked for. With 0 the penalty is zero-centred:
λ E‖∇D(x̂)‖². No gradient reaches G.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from gantricks import Context, Rng, Schedule, Scheduled, Trick, hookimpl, slope_distances


def between(real: Tensor, fake: Tensor, rng: Rng, group: int = 1) -> Tensor:
    """Points u x + (1 - u) G(z), pair by pair: `real`, `fake` and the result are (B, ...).

    u ~ U(0, 1) for each `group` consecutive pairs; B is a multiple of it. Gulrajani et al. 2017, algorithm 1.
    """
    shares = rng.uniform((real.shape[0] // group, 1)).to(real.dtype).expand(-1, group)
    return torch.lerp(fake, real, shares.reshape(-1, *[1] * (real.dim() - 1)))


class GradientPenalty(Trick):
    """Gradient penalty: D pays λ E(‖∇D(x̂)‖ - 1)² at random points between reals and fakes.

    The Wasserstein distance asks for a D whose slope is at most 1. The best such D has slope 1 on the lines between
    paired reals and fakes, so the penalty asks for that there. It replaces weight clipping and lets D use all of its
    capacity.

    When it hurts: it costs a further pass of D and a second backward. With target 1, D keeps a slope where G already
    fits the data, so the players may circle. R1, or target 0, lets them rest.

    Source: Gulrajani et al. 2017, Improved Training of Wasserstein GANs, §4.
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
        target: Annotated[float, Field(ge=0, le=1e6, description="norm that is asked for; 0 for zero-centred")] = 1.0

    config: Config

    @hookimpl
    def d_loss_terms(self, ctx: Context) -> dict[str, Tensor]:
        real, fake = ctx.real_in.images.detach(), ctx.fake_in.images.detach()
        points = between(real, fake, ctx.rng, ctx.discriminator.group).requires_grad_()
        out = ctx.discriminator(*ctx.real_in.with_images(points))
        return {
            "penalty": ctx.value(self.config.weight) * slope_distances(out.logits, points, self.config.target).mean()
        }
