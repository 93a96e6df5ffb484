"""The players: a network each, and what trains it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from gantricks.engine.optimizers import direct_step
from gantricks.networks.base import Discriminator, Generator

ROLES = {"d": "discriminator", "g": "generator"}
"""The players' short names, and those of recipes and files."""


@dataclass
class Player:
    """One side of the game: its network and what trains it.

    `name` is "d" or "g"; `parameters` are the weights that take part at present; `held` is 1 on the device where an
    update must not happen, 0 where it may.
    """

    name: str
    network: Generator | Discriminator
    optimizer: torch.optim.Optimizer
    parameters: list[torch.nn.Parameter]
    held: Tensor

    def __post_init__(self) -> None:
        self.reads_held = getattr(self.optimizer, "_step_supports_amp_scaling", False)
        self.direct = direct_step(self.optimizer)
        if self.reads_held:  # fused optimizers skip a step by themselves
            self.optimizer.found_inf = self.held  # type: ignore[attr-defined]

    def take_part(self) -> None:
        """Look anew at which weights take part: those that want a gradient."""
        for parameter in self.network.parameters():
            parameter.grad = None  # an optimizer would follow the last gradient of a weight that has left
        self.parameters = [parameter for parameter in self.network.parameters() if parameter.requires_grad]

    @torch.no_grad()
    def move(self) -> None:
        """One optimizer step, or none where `held`."""
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
    """No gradient for these weights: the G step goes through D without paying for D's weight gradients."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
