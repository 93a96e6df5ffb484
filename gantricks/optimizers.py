"""The optimizers that a recipe can name, as options. Nothing here imports torch until one is built."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from gantricks.options import Options

if TYPE_CHECKING:
    import torch

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
    nesterov: bool = False
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0


Optimizer = Annotated[Adam | AdamW | SGD, Field(discriminator="name")]


def build(config: Any, parameters: Iterable[torch.Tensor]) -> torch.optim.Optimizer:
    """The fused optimizer that `config` describes, its state allocated at once.

    Fused kernels take a device flag that skips the update (`found_inf`), which is how the guard holds them back. State
    that exists from the start can be saved and restored at any step, the first included.
    """
    import torch

    arguments = config.model_dump(exclude={"name"})
    family = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[config.name]
    weights = list(parameters)
    if config.name != "sgd" and weights[0].is_cuda:
        arguments["capturable"] = True  # steps are counted on the device, as a CUDA graph needs it
    optimizer: torch.optim.Optimizer = family(weights, fused=True, **arguments)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            if config.name != "sgd":
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
                state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            elif config.momentum:
                # from zero, the first update m·0 + g is the one that SGD makes from no buffer
                state["momentum_buffer"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    return optimizer
