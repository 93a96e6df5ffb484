"""The players: D, G and the companions that tricks add. Each is a network with its optimizer."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gantricks.engine.optimizers import direct_update

ROLES = {"d": "discriminator", "g": "generator"}
"""The full name of each player, as recipes and files write it, by its short name."""


@dataclass
class Player:
    """A network of the game, and its optimizer.

    `name` is "d", "g" or "<trick>.<name>" of a companion; `phase` is the step that it learns in, "d" or "g".
    `parameters` are the weights that are trained at present. `held` is 1 on the device where an update must be skipped,
    else 0.
    """

    name: str
    phase: str
    network: nn.Module
    optimizer: torch.optim.Optimizer
    parameters: list[torch.nn.Parameter]
    held: Tensor

    @property
    def role(self) -> str:
        """The name in recipes and files."""
        return ROLES.get(self.name, self.name)

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
    def put(self, weights: Sequence[Tensor]) -> None:
        """Give the network these weights, in the order of `network.parameters()`."""
        torch._foreach_copy_([*self.network.parameters()], [*weights])

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
def frozen(players: Collection[Player]) -> Iterator[None]:
    """Compute no gradients for the weights of these players. The G step passes through D, and gradients of D's weights
    would be wasted.
    """
    parameters = [parameter for player in players for parameter in player.parameters]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
