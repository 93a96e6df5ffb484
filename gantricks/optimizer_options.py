"""The optimizers that a recipe can name, as options. Nothing here imports torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from gantricks.options import Options

Rate = Annotated[float, Field(gt=0, le=10, description="learning rate")]
Beta = Annotated[float, Field(ge=0, lt=1)]


class Adam(Options):
    """Adam (Kingma & Ba 2015)."""

    name: Literal["adam"] = "adam"
    lr: Rate = 2e-4
    betas: tuple[Beta, Beta] = (0.5, 0.999)
    eps: Annotated[float, Field(gt=0, le=1)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    name: Literal["adamw"] = "adamw"  # type: ignore[assignment]
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.01


class SGD(Options):
    """Stochastic gradient descent, with or without momentum."""

    name: Literal["sgd"] = "sgd"
    lr: Rate = 2e-4
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    nesterov: Annotated[bool, Field(description="look ahead along the momentum, which must be above 0")] = False
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> SGD:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov = true needs a momentum above 0, such as momentum = 0.9")
        return self


OptimizerOptions = Annotated[Adam | AdamW | SGD, Field(discriminator="name")]
"""The options of an optimizer, by its name: `{ name = "adam", lr = 2e-4 }` in a recipe."""


def remembered(config: Any) -> int:
    """Return how many numbers of state an optimizer with these options holds for each parameter."""
    return int(config.momentum > 0) if config.name == "sgd" else 2
