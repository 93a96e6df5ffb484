"""Two time scales: the discriminator and the generator learn at rates of their own.

`discriminator` and `generator` multiply the learning rates that the recipe sets. The defaults make D's four times G's,
which is the ratio of SAGAN (4e-4 and 1e-4). A companion's rate is scaled as that of the player it learns with.

The trick goes with lr_decay in either order: rates keep their ratio while they fall. sgd_discriminator sets D's rate
anew. Put this trick after it to scale that rate.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from gantricks import Context, Trick, hookimpl


def scale_(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Multiply the learning rate of every group of weights by `factor`, in place where it is a tensor."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):  # the handle of a trick that moves the rate
            group["lr"].mul_(factor)
        else:
            group["lr"] *= factor


class Ttur(Trick):
    """Two time-scale update rule (TTUR): D and G get learning rates of their own, as a rule the higher one for D.

    A D that learns faster stays near its best for the present G, so G follows a meaningful gradient with one D step for
    each of its own. It is cheaper than several D steps.

    When it hurts: too high a rate makes D jump, and too low a one for G makes the run long. The best ratio depends on
    the networks and on D's normalisation. A D that is far ahead leaves the saturating losses no gradient.

    Source: Heusel et al. 2017, GANs Trained by a Two Time-Scale Update Rule; Zhang et al. 2019, SAGAN.
    """

    neutral = {"discriminator": 1.0, "generator": 1.0}
    strengths = {"discriminator": (1.4, 2.0, 4.0), "generator": (0.7, 0.5, 0.25)}

    class Config(Trick.Config):
        discriminator: Annotated[float, Field(gt=0, le=1000, description="D's learning rate over the recipe's")] = 2.0
        generator: Annotated[float, Field(gt=0, le=1000, description="G's learning rate over the recipe's")] = 0.5

    config: Config

    @hookimpl
    def transform_optimizer(self, optimizer: torch.optim.Optimizer, player: str, ctx: Context) -> torch.optim.Optimizer:
        scale_(optimizer, self.config.discriminator if ctx.learns_in(player) == "d" else self.config.generator)
        return optimizer
