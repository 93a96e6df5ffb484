"""Stateless random streams: a draw is a function of where it happens, never of what was drawn before."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

_WORD = (1 << 64) - 1
PHASES = {"setup": 0, "d": 1, "g": 2, "sample": 3, "boundary": 4, "log": 5}


class Clock:
    """Where the run is. The core moves it; every stream of the run reads it.

    `step` counts generator updates from 0, `phase` is a key of `PHASES`, `critic` counts the D steps within a step;
    `calls` holds how often each stream has been drawn from since the phase was entered. While there is a `tape`, draws
    come from it.
    """

    __slots__ = ("calls", "critic", "phase", "step", "tape", "where")

    def __init__(self) -> None:
        self.step = 0
        self.tape: Tape | None = None
        self.enter("setup")

    def enter(self, phase: str, critic: int = 0) -> None:
        self.phase = phase
        self.critic = critic
        self.calls: dict[Rng, int] = {}
        self.where = _where(self.step, critic, phase)

    @contextmanager
    def aside(self, step: int, phase: str, critic: int = 0) -> Iterator[None]:
        """Be elsewhere for a while; no draw that is made there moves one that is made here afterwards."""
        here = self.step, self.phase, self.critic, self.calls, self.where
        self.step = step
        self.enter(phase, critic)
        try:
            yield
        finally:
            self.step, self.phase, self.critic, self.calls, self.where = here


def _where(step: int, critic: int, phase: str) -> int:
    return (step << 24) | (critic << 4) | PHASES[phase]


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

    __slots__ = ("_clock", "_generator", "_key", "device", "dtype", "name", "seed")

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
        self._generator = Generator(self.device)

    def fork(self, name: str) -> Rng:
        """An independent stream below this one: its draws do not count as calls of this one's."""
        return Rng(self.seed, f"{self.name}/{name}", self._clock, self.device, self.dtype)

    def seeded(self, seed: int) -> Rng:
        """A stream that depends on `seed` alone, on the CPU: the same draws in every run, for a choice such as which of
        the data are labelled, which runs with other seeds are to share."""
        return Rng(seed, "seeded", Clock(), dtype=self.dtype)

    def uniform(self, shape: int | Sequence[int]) -> Tensor:
        """Independent draws from U[0, 1)."""
        return self._draw(_uniform, _sizes(shape))

    def normal(self, shape: int | Sequence[int]) -> Tensor:
        """Independent draws from N(0, 1)."""
        return self._draw(_normal, _sizes(shape))

    def bernoulli(self, shape: int | Sequence[int], p: float | Tensor) -> Tensor:
        """Independent booleans, true with probability `p` (a number or a tensor that broadcasts to `shape`)."""
        return self.uniform(shape) < p

    def randint(self, shape: int | Sequence[int], high: int) -> Tensor:
        """Independent int64 draws from {0, …, high - 1}."""
        return self._draw(_integers, _sizes(shape), high)

    def permutation(self, n: int) -> Tensor:
        """A random order of 0 … n - 1, int64 (n,)."""
        return self._draw(_permutation, (n,))

    def _draw(self, kind: Kind, sizes: Sequence[int], high: int = 0) -> Tensor:
        clock = self._clock
        call = clock.calls.get(self, 0)
        clock.calls[self] = call + 1
        if clock.tape is not None:
            return clock.tape.next(_Draw(self, kind, sizes, high, clock.critic, clock.phase, call), clock.step)
        self._generator.manual_seed(_mix(_mix(self._key ^ clock.where) + call))
        return kind(self, sizes, high, None)

    def __deepcopy__(self, memo: dict[int, Any]) -> Rng:
        return self  # a copied network draws from the stream it was given, not from a twin of it

    def __repr__(self) -> str:
        return f"Rng(seed={self.seed}, name={self.name!r})"


Kind = Callable[[Rng, Sequence[int], int, "Tensor | None"], Tensor]


def _uniform(rng: Rng, sizes: Sequence[int], high: int, out: Tensor | None) -> Tensor:
    return torch.rand(sizes, generator=rng._generator, device=rng.device, dtype=rng.dtype, out=out)


def _normal(rng: Rng, sizes: Sequence[int], high: int, out: Tensor | None) -> Tensor:
    return torch.randn(sizes, generator=rng._generator, device=rng.device, dtype=rng.dtype, out=out)


def _integers(rng: Rng, sizes: Sequence[int], high: int, out: Tensor | None) -> Tensor:
    return torch.randint(high, sizes, generator=rng._generator, device=rng.device, out=out)


def _permutation(rng: Rng, sizes: Sequence[int], high: int, out: Tensor | None) -> Tensor:
    return torch.randperm(sizes[0], generator=rng._generator, device=rng.device, out=out)


@dataclass(frozen=True, slots=True)
class _Draw:
    """One draw of a step: from which stream, of what kind, and where in the step."""

    rng: Rng
    kind: Kind
    sizes: Sequence[int]
    high: int
    critic: int
    phase: str
    call: int

    def make(self, where: int, out: Tensor | None = None) -> Tensor:
        rng = self.rng
        rng._generator.manual_seed(_mix(_mix(rng._key ^ where) + self.call))
        return self.kind(rng, self.sizes, self.high, out)


class Tape:
    """The draws of a step, each in a tensor that stays, so that a captured step finds them where they were.

    A step played on an empty tape records them; further ones on a `rewound` tape are given the same tensors, which
    `fill` has brought to the draws of the step at hand.
    """

    def __init__(self) -> None:
        self._draws: list[tuple[_Draw, Tensor]] = []
        self._position: int | None = None

    def __len__(self) -> int:
        return len(self._draws)

    def rewind(self) -> None:
        self._position = 0

    def fill(self, step: int) -> None:
        """Draw anew, in place, what the step after `step` finished ones draws."""
        for draw, tensor in self._draws:
            draw.make(_where(step, draw.critic, draw.phase), tensor)

    def next(self, draw: _Draw, step: int) -> Tensor:
        """The tensor of the next draw. Raises ValueError where a step draws otherwise than the recorded one."""
        if self._position is None:
            tensor = draw.make(_where(step, draw.critic, draw.phase))
            self._draws.append((draw, tensor))
            return tensor
        if self._position >= len(self._draws) or self._draws[self._position][0] != draw:
            raise ValueError(f"the stream {draw.rng.name!r} is drawn from in one step and not in another")
        self._position += 1
        return self._draws[self._position - 1][1]


def _sizes(shape: int | Sequence[int]) -> tuple[int, ...]:
    return (shape,) if isinstance(shape, int) else tuple(shape)
