"""R1: the discriminator is charged for its slope at reals.

The slope is the gradient of D's logit, the number that D trains on, by its own input: by every number of an image,
after whatever the tricks on D's input have done. Its square is summed over the image and averaged over the batch. With
packing it is summed over the pack and averaged over the packs, since D judges packs.

The gradient of the sum of all logits is taken, so D must judge each sample by itself. Where it mixes samples (batch
norm in D, minibatch discrimination, minibatch standard deviation), the penalty is not the one of the paper.

`weight` is γ, a number or a schedule; the penalty is γ/2 times the squared slope. It depends on the data and its size:
Mescheder et al. use 10, and R3GAN lowers it over the run. With `every` = k the penalty is taken in each k-th step with
k times the weight (Karras et al. 2020, StyleGAN2, §3.1). The steps between save its second backward. `penalty` is 0 in
their log. Where reals and fakes share a pass, the second backward runs over both. With separate_batches it is cheaper.

R2 is the same at fakes. R3GAN uses both.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from gantricks import Context, Schedule, Scheduled, Trick, hookimpl, squared_slopes


class R1(Trick):
    """R1: D pays for the slope of its logit at reals, γ/2 E‖∇D(x)‖².

    Once G fits the data, D should stop pushing. A D that still slopes at the data drives G away again, and the two
    circle for ever. The penalty makes the equilibrium attract both players. It is 0 where D is flat on the data.

    When it hurts: a γ too large makes D too flat to teach G. With `every` above 1, D is free between the penalties. On
    small tasks that count modes, where D changes fast, take it in every step.

    Source: Mescheder et al. 2018, Which Training Methods for GANs do actually Converge?, eq. 9; Huang et al. 2024
    (R3GAN).
    """

    needs = {"input_grad"}
    neutral = {"weight": 0.0}
    cautions = {
        "discriminator_batch_norm": "D's score of a sample depends on its batch, and the penalty takes it for its own"
    }
    strengths = {"weight": (1.0, 10.0, 100.0)}

    class Config(Trick.Config):
        weight: Annotated[float | Schedule, Scheduled(0.0, 1e6), Field(description="γ, a number or a schedule")] = 10.0
        every: Annotated[
            int, Field(ge=1, le=1000, description="steps from one penalty to the next, which weighs as many times more")
        ] = 1

    config: Config

    @hookimpl
    def on_boundary(self, ctx: Context) -> None:
        ctx.set_variant("due", ctx.step % self.config.every == 0)

    @hookimpl
    def d_loss_terms(self, ctx: Context) -> dict[str, Tensor]:
        logits = ctx.real_out.logits
        if not ctx.variant("due"):
            return {"penalty": logits.new_zeros(())}
        weight = ctx.value(self.config.weight) * (0.5 * self.config.every)
        return {"penalty": weight * squared_slopes(logits, ctx.real_in.images).mean()}
