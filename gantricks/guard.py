"""The fault guard: from the first non-finite loss or gradient on, nothing moves, and no one asks the host."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from gantricks.errors import TrickError


@dataclass(frozen=True)
class Fault:
    """The first non-finite value of a run: in which player's update, at which step, of which quantities."""

    player: str
    step: int
    names: tuple[str, ...]


class Guard:
    """A flag on the device that masks every later update.

    Players do not step while it is up; tricks that declare `fault_safe` scale their updates by `healthy`; every watched
    tensor is put back to its value at the start of the phase. The host looks at log intervals only.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.flag = torch.zeros((), device=device)
        self.healthy = torch.ones((), device=device)
        self._up = torch.zeros((), device=device, dtype=torch.bool)
        self.step = torch.zeros((), device=device, dtype=dtype)
        self.latest: dict[str, Tensor] = {}
        self._names: dict[str, list[str]] = {}
        self._watched: list[Tensor] = []
        self._copies: list[Tensor] = []

    def tensors(self) -> list[Tensor]:
        """What it remembers from step to step."""
        return [self.flag, self._up, self.healthy, *self.latest.values()]

    def watch(self, tensors: Iterable[Tensor]) -> None:
        """Put these back at the end of a phase in which, or before which, the flag was raised."""
        # .data: putting a buffer back to the value it has must not void a graph that is still to be walked
        self._watched = [tensor.data for tensor in tensors]
        self._copies = [torch.empty_like(tensor) for tensor in self._watched]

    @torch.no_grad()
    def begin(self) -> None:
        """A phase starts."""
        if self._watched:
            torch._foreach_copy_(self._copies, self._watched)

    @torch.no_grad()
    def end(self) -> None:
        """A phase is over."""
        if self._watched:
            for tensor, copy in zip(self._watched, self._copies, strict=True):
                torch.where(self._up, copy, tensor, out=tensor)

    @torch.no_grad()
    def inspect(self, player: str, terms: dict[str, Tensor], gradients: list[Tensor]) -> None:
        """Look at a player's loss terms and gradients, raise the flag if any is not finite, and remember the values:
        those of the last healthy update, or those that raised the flag.
        """
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        values = torch.stack([self.step, *terms.values(), norm])
        names = ["step", *terms, "gradient_norm"]
        if player not in self.latest:
            self.latest[player] = torch.zeros_like(values)
            self._names[player] = names
        elif names != self._names[player]:
            raise TrickError(
                f"the terms of {player}'s loss were {', '.join(self._names[player][1:-1])} and are now "
                f"{', '.join(names[1:-1])}; a trick returns the same names at every step"
            )
        latest = self.latest[player]
        torch.where(self._up, latest, values, out=latest)
        # 0 · x is 0 for finite numbers and NaN for others, and NaN counts as true
        torch.logical_or(self.flag, (values * 0).sum(), out=self.flag)
        torch.logical_or(self.flag, self.flag, out=self._up)
        torch.logical_not(self.flag, out=self.healthy)

    def report(self) -> tuple[dict[str, dict[str, float]], Fault | None]:
        """Bring everything across to the host: each player's latest terms and gradient norm, and the fault if any."""
        terms: dict[str, dict[str, float]] = {}
        for player, latest in self.latest.items():
            terms[player] = dict(zip(self._names[player], latest.tolist(), strict=True))
        if not self.flag.item():
            return terms, None
        for player, latest in self.latest.items():
            names, finite = self._names[player], torch.isfinite(latest).tolist()
            bad = tuple(name for name, ok in zip(names, finite, strict=True) if not ok)
            if bad:
                return terms, Fault(player, int(latest[0]), bad)
        raise AssertionError("the flag is up and every remembered value is finite")
