"""The guard: from the first non-finite loss or gradient on, nothing moves, and no one asks the host."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from gantricks.errors import TrickError

GRADIENT_OF, WEIGHTS_OF = "gradient of ", "weights of "
"""What comes before a trick's name, for what is looked at of the weights that it trains itself."""


@dataclass(frozen=True)
class NonFinite:
    """The first non-finite value of a run: in which player's update, at which step, of which quantities. `player` is
    "" where a trick's own weights were found so after their update."""

    player: str
    step: int
    names: tuple[str, ...]

    def in_words(self, name: str) -> str:
        """One of `names` in words."""
        if name == "gradient_norm":
            return f"the norm of {self.player.upper()}'s gradient"
        if name.startswith(GRADIENT_OF):
            return f"the gradient of the weights of {name.removeprefix(GRADIENT_OF)}"
        return f"the {name}" if name.startswith(WEIGHTS_OF) else f"the loss term {self.player}.{name}"


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
        self._weights: dict[str, list[Tensor]] = {}
        self._weights_seen: Tensor | None = None

    def tensors(self) -> list[Tensor]:
        """What it remembers from step to step."""
        seen = [] if self._weights_seen is None else [self._weights_seen]
        return [self.flag, self._up, self.healthy, *self.latest.values(), *seen]

    def watch(self, tensors: Iterable[Tensor]) -> None:
        """Put these back at the end of a phase in which, or before which, the flag was raised."""
        # .data: putting a buffer back to the value it has must not void a graph that is still to be walked
        self._watched = [tensor.data for tensor in tensors]
        self._copies = [torch.empty_like(tensor) for tensor in self._watched]

    def watch_weights(self, weights: dict[str, list[Tensor]]) -> None:
        """Look at these too, weights that tricks train themselves, by trick: at their gradients beside the player's,
        and at the weights at the end of each phase.
        """
        self._weights = weights
        self._weights_seen = torch.zeros(1 + len(weights), device=self.flag.device, dtype=self.step.dtype)

    @torch.no_grad()
    def begin(self) -> None:
        """A phase starts."""
        if self._watched:
            torch._foreach_copy_(self._copies, self._watched)

    @torch.no_grad()
    def end(self) -> None:
        """A phase is over."""
        if self._weights_seen is not None:
            norms = [_largest(weights) for weights in self._weights.values()]
            self._raise_if_not_finite(
                torch.stack([self.step, *(norm.to(self.step.dtype) for norm in norms)]), self._weights_seen
            )
        if self._watched:
            for tensor, copy in zip(self._watched, self._copies, strict=True):
                torch.where(self._up, copy, tensor, out=tensor)

    @torch.no_grad()
    def inspect(self, player: str, terms: dict[str, Tensor], gradients: list[Tensor]) -> None:
        """Look at a player's loss terms and gradients, raise the flag if any is not finite, and remember the values:
        those of the last healthy update, or those that raised the flag.
        """
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        values, names = [self.step, *terms.values(), norm], ["step", *terms, "gradient_norm"]
        for trick, weights in self._weights.items():
            further = [weight.grad for weight in weights if weight.grad is not None]
            values.append(_largest(further).to(norm.dtype) if further else torch.zeros_like(norm))
            names.append(f"{GRADIENT_OF}{trick}")
        if player not in self.latest:
            self.latest[player] = torch.zeros(len(names), device=norm.device, dtype=self.step.dtype)
            self._names[player] = names
        elif names != self._names[player]:
            raise TrickError(
                f"the terms of {player}'s loss were {', '.join(_terms(self._names[player]))} and are now "
                f"{', '.join(terms)}; a trick returns the same names at every step"
            )
        # a trick's term may be of another type than the run's
        self._raise_if_not_finite(torch.stack(values).to(self.step.dtype), self.latest[player])

    def _raise_if_not_finite(self, values: Tensor, latest: Tensor) -> None:
        torch.where(self._up, latest, values, out=latest)
        # the largest of the magnitudes is NaN where one of them is, and a compiler can't fold the question away
        finite = torch.linalg.vector_norm(values, math.inf) < math.inf
        torch.logical_or(self.flag, torch.logical_not(finite), out=self.flag)
        torch.logical_or(self.flag, self.flag, out=self._up)
        torch.logical_not(self.flag, out=self.healthy)

    def report(self) -> tuple[dict[str, dict[str, float]], NonFinite | None]:
        """Bring everything across to the host: each player's latest terms and gradient norm, and the first non-finite
        value, if any."""
        terms: dict[str, dict[str, float]] = {}
        for player, latest in self.latest.items():
            named = zip(self._names[player], latest.tolist(), strict=True)
            terms[player] = {name: value for name, value in named if not name.startswith(GRADIENT_OF)}
        if not self.flag.item():
            return terms, None
        for player, latest in self.latest.items():
            names, finite = self._names[player], torch.isfinite(latest).tolist()
            bad = tuple(name for name, ok in zip(names, finite, strict=True) if not ok)
            if bad:
                return terms, NonFinite(player, int(latest[0]), bad)
        if self._weights_seen is not None:
            finite = torch.isfinite(self._weights_seen).tolist()[1:]
            bad = tuple(f"{WEIGHTS_OF}{trick}" for trick, ok in zip(self._weights, finite, strict=True) if not ok)
            if bad:
                return terms, NonFinite("", int(self._weights_seen[0]), bad)
        raise AssertionError("the flag is up and every remembered value is finite")


def _terms(names: list[str]) -> list[str]:
    return names[1 : names.index("gradient_norm")]


def _largest(tensors: list[Tensor]) -> Tensor:
    """The largest magnitude in any of these; not finite where one is."""
    found: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors, math.inf)), math.inf)
    return found
