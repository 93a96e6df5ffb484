"""The players: each is a network with its optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from gantricks.engine.optimizers import direct_update
from gantricks.networks.base import Discriminator, Generator

ROLES = {"d": "discriminator", "g": "generator"}
"""The full name of each player, as recipes and files write it, by its short name."""


@dataclass
class Player:
    """One side of the game: a network and its optimizer.

    `name` is "d" or "g". `parameters` are the weights that are trained at present. `held` is 1 on the device where an
    update must be skipped, else 0.
    """

    name: str
    network: Generator | Discriminator
    optimizer: torch.optim.Optimizer
    parameters: list[torch.nn.Parameter]
    held: Tensor

    def __post_init__(self) -> None:
        self.reads_held = getattr(self.optimizer, "_step_supports_amp_scaling", False)
        self.direct = getattr(self.optimizer, "step_unless", None) or direct_update(self.optimizer)
        if self.reads_held:  # fused optimizers skip an update by themselves
            self.optimizer.found_inf = self.held  # type: ignore[attr-defined]

    def take_part(self) -> None:
        """Collect the weights that are trained: those that require a gradient."""
        for parameter in self.network.parameters():
            parameter.grad = None  # an optimizer would apply the last gradient of a weight that is no longer trained
        self.parameters = [parameter for parameter in self.network.parameters() if parameter.requires_grad]

    @torch.no_grad()
    def move(self) -> None:
        """Update the weights once, unless `held` is 1."""
        if self.direct:
            self.direct(self.held)
            return
        if self.reads_held:
            self.optimizer.step()
            return
        states = (state.values() for state in self.optimizer.state.values())
        live = [p.data for p in self.parameters] + [t for values in states for t in values if torch.is_tensor(t)]
        before = [tensor.clone() for tensor in live]
        self.optimizer.step()
        for tensor, copy in zip(live, before, strict=True):
            tensor.copy_(torch.where(self.held > 0, copy, tensor))


@contextmanager
def frozen(parameters: list[torch.nn.Parameter]) -> Iterator[None]:
    """Compute no gradients for these weights. The G step passes through D, and gradients of D's weights would be
    wasted.
    """
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
