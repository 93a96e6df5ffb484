"""Separate real and fake batches: the discriminator never sees both in one forward pass.

For a D without layers that look across the batch, both ways give the same loss and gradients.

Minibatch discrimination and minibatch standard deviation need the trick.
"""

from __future__ import annotations

from gantricks import Batch, Context, Out, Trick, hookimpl


class SeparateBatches(Trick):
    """Separate real and fake batches: D scores reals and fakes in two passes instead of one concatenated pass.

    With batch norm in D, or any layer that looks across the batch, a mixed pass lets statistics of reals leak into the
    scores of fakes. In two passes each batch is normalised by itself.

    When it hurts: batch norm's running statistics see two updates per D step, and spectral norm's power iteration
    advances twice. Two half-size passes are slower than one where the device is not busy.

    Source: GAN hacks list, point 4.
    """

    provides = {"separate_passes"}
    forwards = {"d": 1}

    @hookimpl
    def d_scores(self, real: Batch, fake: Batch, ctx: Context) -> tuple[Out, Out]:
        return ctx.discriminator(*real), ctx.discriminator(*fake)
