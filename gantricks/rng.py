"""Stateless random streams: a draw is a function of where it happens, never of what was drawn before."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_WORD = (1 << 64) - 1
PHASES = {"setup": 0, "d": 1, "g": 2, "sample": 3, "boundary": 4, "log": 5}


class Clock:
    """Where the run is. The core moves it; every stream of the run reads it.

    `step` counts generator updates from 0, `phase` is a key of `PHASES`, `critic` counts the D steps within a step.
    """

    __slots__ = ("critic", "phase", "step", "tick", "where")

    def __init__(self) -> None:
        self.step = 0
        self.tick = 0
        self.enter("setup")

    def enter(self, phase: str, critic: int = 0) -> None:
        self.phase = phase
        self.critic = critic
        self.tick += 1
        self.where = (self.step << 24) | (critic << 4) | PHASES[phase]


def _mix(word: int) -> int:
    """The splitmix64 finalizer: a bijection of 64-bit words whose every output bit depends on every input bit."""
    word = (word + 0x9E3779B97F4A7C15) & _WORD
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _WORD
    return word ^ (word >> 31)


class Rng:
    """One named stream of random tensors, and the only source of randomness a trick may use.

    A draw is a function of (run seed, stream name, step, phase, critic index, number of the call within that phase).
    Adding a trick, an extra forward pass or a sampling call therefore never moves another stream's draws, and a
    resumed run has no random state to restore. Shapes may be ints or sequences of ints; tensors come on the run's
    device, real ones in its floating-point type.
    """

    __slots__ = ("_calls", "_clock", "_generator", "_key", "_tick", "device", "dtype", "name", "seed")

    def __init__(
        self,
        seed: int,
        name: str,
        clock: Clock,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.seed = seed
        self.name = name
        self.device = torch.device(device)
        self.dtype = dtype
        self._clock = clock
        self._key = int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest())
        self._generator = torch.Generator(self.device)
        self._tick = -1
        self._calls = 0

    def fork(self, name: str) -> Rng:
        """An independent stream below this one: its draws do not count as calls of this one's."""
        return Rng(self.seed, f"{self.name}/{name}", self._clock, self.device, self.dtype)

    def uniform(self, shape: int | Sequence[int]) -> Tensor:
        """Independent draws from U[0, 1)."""
        return torch.rand(_sizes(shape), generator=self._seeded(), device=self.device, dtype=self.dtype)

    def normal(self, shape: int | Sequence[int]) -> Tensor:
        """Independent draws from N(0, 1)."""
        return torch.randn(_sizes(shape), generator=self._seeded(), device=self.device, dtype=self.dtype)

    def bernoulli(self, shape: int | Sequence[int], p: float | Tensor) -> Tensor:
        """Independent booleans, true with probability `p` (a number or a tensor that broadcasts to `shape`)."""
        return self.uniform(shape) < p

    def randint(self, shape: int | Sequence[int], high: int) -> Tensor:
        """Independent int64 draws from {0, …, high - 1}."""
        return torch.randint(high, _sizes(shape), generator=self._seeded(), device=self.device)

    def permutation(self, n: int) -> Tensor:
        """A random order of 0 … n - 1, int64 (n,)."""
        return torch.randperm(n, generator=self._seeded(), device=self.device)

    def _seeded(self) -> torch.Generator:
        clock = self._clock
        if self._tick != clock.tick:
            self._tick = clock.tick
            self._calls = 0
        seed = _mix(_mix(self._key ^ clock.where) + self._calls)
        self._calls += 1
        self._generator.manual_seed(seed)
        return self._generator

    def __deepcopy__(self, memo: dict[int, Any]) -> Rng:
        return self  # a copied network draws from the stream it was given, not from a twin of it

    def __repr__(self) -> str:
        return f"Rng(seed={self.seed}, name={self.name!r})"


def _sizes(shape: int | Sequence[int]) -> Sequence[int]:
    return (shape,) if isinstance(shape, int) else shape
