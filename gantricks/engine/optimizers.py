"""Builds fused optimizers whose state exists from the start, and calls their kernels directly where possible."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def build(config: Any, parameters: Iterable[torch.Tensor]) -> torch.optim.Optimizer:
    """Build the fused optimizer that `config` describes, with its state allocated.

    Fused kernels take a flag on the device that skips the update (`found_inf`); the guard uses it. State that exists
    from the start can be saved and restored at any step, the first included.
    """
    import torch

    arguments = config.model_dump(exclude={"name"})
    family = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[config.name]
    weights = list(parameters)
    if config.name != "sgd" and weights[0].is_cuda:
        arguments["capturable"] = True  # a CUDA graph needs the count of steps on the device
    optimizer: torch.optim.Optimizer = family(weights, fused=True, **arguments)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            if config.name != "sgd":
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
                state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            elif config.momentum:
                # with a buffer of zeros, the first update m·0 + g equals the one that SGD makes without a buffer
                state["momentum_buffer"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    return optimizer


def direct_update(optimizer: torch.optim.Optimizer) -> Callable[[torch.Tensor], None] | None:
    """Return the update of a fused Adam or AdamW as a function of `held` (0-dim, 1 to skip the update), or None.

    The function calls torch's kernel without the work of `Optimizer.step` around it (hooks, profiling, grouping by
    device), which takes as long as the kernel for a small network. The result is the same to the bit.
    """
    import torch

    kernels = {torch.optim.Adam: torch._fused_adam_, torch.optim.AdamW: torch._fused_adamw_}
    kernel: Any = kernels.get(type(optimizer))  # a subclass or a wrapped `step` may do something else
    if kernel is None or "step" in vars(optimizer) or optimizer._optimizer_step_pre_hooks:
        return None
    if optimizer._optimizer_step_post_hooks or not all(map(_plain, optimizer.param_groups)):
        return None
    if not all(parameter in optimizer.state for group in optimizer.param_groups for parameter in group["params"]):
        return None

    @torch.no_grad()
    def update(held: torch.Tensor) -> None:
        for group in optimizer.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            states = [optimizer.state[parameter] for parameter in parameters]
            steps = [state["step"] for state in states]
            torch._foreach_add_(steps, 1)
            kernel(
                parameters,
                [parameter.grad for parameter in parameters],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                steps,
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
                found_inf=held,
            )
            torch._foreach_sub_(steps, [held] * len(steps))

    return update


def _plain(group: dict[str, Any]) -> bool:
    return bool(group["fused"] and not group["amsgrad"] and not group["maximize"])
