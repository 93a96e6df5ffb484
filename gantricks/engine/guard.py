"""The guard: from the first non-finite loss or gradient on, it keeps every tensor unchanged, without waiting for the
host.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from gantricks.errors import TrickError

NORM_OF = "gradient_norm/"
"""The prefix of a player's name in the names of values: the norm of its gradient."""
GRADIENT_OF, WEIGHTS_OF = "gradient of ", "weights of "
"""The prefixes of a trick's name in the names of values: the gradients and the weights that the trick trains itself."""


@dataclass(frozen=True)
class NonFinite:
    """The first non-finite value of a run: the player that was updated, the step, and the names of the quantities.

    `player` is "" where the weights of a trick were non-finite after their own update.
    """

    player: str
    step: int
    names: tuple[str, ...]

    def in_words(self, name: str) -> str:
        """Describe one of `names` for a message."""
        if name.startswith(NORM_OF):
            learner = name.removeprefix(NORM_OF)
            return f"the norm of {learner.upper() if learner in ('d', 'g') else learner}'s gradient"
        if name.startswith(GRADIENT_OF):
            return f"the gradient of the weights of {name.removeprefix(GRADIENT_OF)}"
        return f"the {name}" if name.startswith(WEIGHTS_OF) else f"the loss term {self.player}.{name}"


class Guard:
    """A flag on the device that masks every later update.

    While it is raised, players are not updated, tricks that declare `fault_safe` scale their updates by `healthy`, and
    every watched tensor is put back to its value at the start of the phase. The host reads the flag at log intervals
    only.
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
        """The tensors that the guard keeps from step to step."""
        seen = [] if self._weights_seen is None else [self._weights_seen]
        return [self.flag, self._up, self.healthy, *self.latest.values(), *seen]

    def watch(self, tensors: Iterable[Tensor]) -> None:
        """Put these tensors back at the end of a phase if the flag is raised by then."""
        # .data: writing the value that a buffer has must not invalidate a graph whose backward is still to come
        self._watched = [tensor.data for tensor in tensors]
        self._copies = [torch.empty_like(tensor) for tensor in self._watched]

    def watch_weights(self, weights: dict[str, list[Tensor]]) -> None:
        """Check the weights that tricks train themselves, by trick: their gradients together with the player's, and the
        weights at the end of each phase.
        """
        self._weights = weights
        self._weights_seen = torch.zeros(1 + len(weights), device=self.flag.device, dtype=self.step.dtype)

    @torch.no_grad()
    def begin(self) -> None:
        """Start a phase: copy the watched tensors."""
        if self._watched:
            torch._foreach_copy_(self._copies, self._watched)

    @torch.no_grad()
    def end(self) -> None:
        """End a phase: check the weights of tricks, and put the watched tensors back if the flag is raised."""
        if self._weights_seen is not None:
            norms = [_largest(weights) for weights in self._weights.values()]
            self._raise_if_not_finite(
                torch.stack([self.step, *(norm.to(self.step.dtype) for norm in norms)]), self._weights_seen
            )
        if self._watched:
            for tensor, copy in zip(self._watched, self._copies, strict=True):
                torch.where(self._up, copy, tensor, out=tensor)

    @torch.no_grad()
    def inspect(self, player: str, terms: dict[str, Tensor], gradients: dict[str, list[Tensor]]) -> None:
        """Check a player's loss terms, and the gradients of all that learn from them, by name with the player first.
        Raise the flag if any is not finite.

        The values are kept: those of the last healthy update, or those that raised the flag.
        """
        norms = {name: _length(of) if of else torch.zeros_like(self.step) for name, of in gradients.items()}
        norm = norms[player]
        values = [self.step, *terms.values(), *norms.values()]
        names = ["step", *terms, *(f"{NORM_OF}{name}" for name in norms)]
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
        # a trick's term may have another dtype than the run
        self._raise_if_not_finite(torch.stack(values).to(self.step.dtype), self.latest[player])

    def _raise_if_not_finite(self, values: Tensor, latest: Tensor) -> None:
        torch.where(self._up, latest, values, out=latest)
        # the largest magnitude is NaN where one value is NaN; unlike isfinite, a compiler cannot optimize this check
        # away
        finite = torch.linalg.vector_norm(values, math.inf) < math.inf
        torch.logical_or(self.flag, torch.logical_not(finite), out=self.flag)
        torch.logical_or(self.flag, self.flag, out=self._up)
        torch.logical_not(self.flag, out=self.healthy)

    def report(self) -> tuple[dict[str, dict[str, float]], NonFinite | None]:
        """Copy the guard's values to the host. Returns each player's latest terms and the norms of gradients, named as
        in `NORM_OF`, and the first non-finite value, if any.
        """
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
    return [name for name in names[1:] if not name.startswith((NORM_OF, GRADIENT_OF))]


def _length(gradients: list[Tensor]) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    return found


def _largest(tensors: list[Tensor]) -> Tensor:
    """The largest magnitude in these tensors; not finite where one value is not finite."""
    found: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors, math.inf)), math.inf)
    return found
