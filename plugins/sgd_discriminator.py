"""SGD for the discriminator: plain gradient descent for D beside whatever trains G.

`lr` and `momentum` replace the whole optimizer that the recipe sets for D. D's loss and its logits show whether D is
too slow.

The trick goes with lr_decay in either order, and with gradient clipping. Tricks that tune Adam for D have no effect.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from gantricks import Context, Trick, hookimpl


def sgd(parameters: list[Tensor], lr: float | Tensor, momentum: float) -> torch.optim.SGD:
    """Fused SGD, m ← momentum · m + g, θ ← θ - lr · m, its buffers m allocated at once so that they can be saved.

    From m = 0 the first update is that of an SGD without a buffer.
    """
    optimizer = torch.optim.SGD(parameters, lr=lr, momentum=momentum, fused=True)
    if momentum:
        for parameter in parameters:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


class SgdDiscriminator(Trick):
    """SGD for the discriminator: D is trained by gradient descent, G keeps its own optimizer, as a rule Adam.

    Adam gives each weight steps of about the learning rate, whatever the size of its gradient. So a D that is nearly
    done keeps moving at full speed. Under SGD its steps shrink with its gradient: a D that wins changes slowly, and G
    sees a steadier opponent.

    When it hurts: SGD needs a learning rate of its own, often 10 to 100 times Adam's. A D without normalisation may
    learn much more slowly. Too slow a D leaves G without a signal.

    Source: GAN hacks list, point 9.
    """

    replaces = {"d_optimizer"}
    strengths = {"lr": (0.003, 0.01, 0.03)}

    class Config(Trick.Config):
        lr: Annotated[float, Field(gt=0, le=10, description="D's learning rate")] = 0.01
        momentum: Annotated[float, Field(ge=0, lt=1, description="share of the last update that is repeated")] = 0.0

    config: Config

    @hookimpl
    def transform_optimizer(self, optimizer: torch.optim.Optimizer, player: str, ctx: Context) -> torch.optim.Optimizer:
        if player != "d":
            return optimizer
        lr = optimizer.param_groups[0]["lr"]
        # a tensor there is the handle of a trick that moves the learning rate: it stays, with this one's value
        lr = lr.fill_(self.config.lr) if isinstance(lr, Tensor) else self.config.lr
        return sgd([p for group in optimizer.param_groups for p in group["params"]], lr, self.config.momentum)
