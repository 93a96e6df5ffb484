"""Stateless random streams: a draw is a function of its place in the run, and not of earlier draws.

A stream has a key of 128 bits, a hash of the run's seed and its name. A draw has a counter: step, phase, critic index,
number of the phase within the step, number of the call. Philox (Salmon et al. 2011) turns key and counter into random
words by a bijection of the counter, so that two draws of one stream never begin with the same words.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Generator, Tensor

PHASES = {"setup": 0, "d": 1, "g": 2, "sample": 3, "boundary": 4, "log": 5, "metrics": 6}
_IN_STEP = ("d", "g")
Words = npt.NDArray[np.uint64]
_MANY = 1024
"""The number of normal draws from which torch's vectorised transform is faster than numpy's, although setting its state
takes time.
"""


class Place(NamedTuple):
    """The place of a draw in a run. `turn` counts the phases of this name and critic index within the step."""

    step: int
    phase: str
    critic: int
    turn: int

    @property
    def word(self) -> int:
        """All fields but the step, packed in one word."""
        return (self.turn << 40) | (self.critic << 8) | PHASES[self.phase]


class Source:
    """Random numbers from a key and a counter: one generator on the CPU, whose whole state is set for each draw."""

    __slots__ = ("_bits", "_counter", "_mersenne", "_mersenne_words", "_numbers", "_state", "_torch", "_words")

    def __init__(self) -> None:
        self._bits = np.random.Philox(key=0)
        self._numbers = np.random.Generator(self._bits)
        self._counter = np.zeros(4, np.uint64)
        self._words: dict[str, Words] = {"counter": self._counter}
        self._state: Any = {
            "bit_generator": "Philox",
            "state": self._words,
            "buffer": np.zeros(4, np.uint64),
            "buffer_pos": 4,  # discard the rest of an earlier block
            "has_uint32": 0,
            "uinteger": 0,
        }
        self._torch = Generator().manual_seed(0)
        self._mersenne = self._torch.get_state()
        self._mersenne_words = self._mersenne.numpy().view(np.uint64)[3:627]

    def at(self, key: Words, step: int, word: int, call: int) -> np.random.Generator:
        """Return numpy's generator, set to the draw with this key, step, place and call."""
        counter = self._counter
        counter[1] = call  # counter[0] is the generator's own count of blocks of four words
        counter[2] = step
        counter[3] = word
        self._words["key"] = key
        self._bits.state = self._state
        return self._numbers

    def torch_at(self, key: Words, step: int, word: int, call: int) -> Generator:
        """Return torch's generator, set to this draw.

        It is a Mersenne twister, and all of its 624 words of state are drawn here: a seed would hold only 32 bits of
        the place.
        """
        self.at(key, step, word, call)
        self._mersenne_words[:] = self._bits.random_raw(312).view(np.uint32)
        self._torch.set_state(self._mersenne)
        return self._torch


class Clock:
    """The present place in the run. The core sets it, and every stream of the run reads it.

    `step` counts generator updates from 0, `phase` is a key of `PHASES`, and `critic` is the index of the D step within
    the step. `calls` holds the number of draws of each stream since the phase began. While `static` is set, its tensors
    are returned in place of new draws.
    """

    __slots__ = ("_step", "_turns", "calls", "place", "source", "static", "word")

    def __init__(self) -> None:
        self.source = Source()
        self.static: StaticDraws | None = None
        self._step = 0
        self._turns: dict[tuple[str, int], int] = {}
        self.enter("setup")

    @property
    def step(self) -> int:
        return self._step

    @step.setter
    def step(self, step: int) -> None:
        self._step = step
        self._turns = {}

    @property
    def phase(self) -> str:
        return self.place.phase

    @property
    def critic(self) -> int:
        return self.place.critic

    def enter(self, phase: str, critic: int = 0, turn: int = 0) -> None:
        """Begin a phase. A phase that is entered again repeats its draws, unless `turn` differs."""
        self.place = Place(self._step, phase, critic, turn)
        self.word = self.place.word
        self.calls: dict[bytes, int] = {}

    def play(self, phase: str, critic: int = 0) -> None:
        """Begin a phase of the step. A phase that is played several times within one step has other draws each time."""
        turn = self._turns.get((phase, critic), 0)
        self._turns[phase, critic] = turn + 1
        self.enter(phase, critic, turn)

    @contextmanager
    def aside(self, step: int, phase: str, critic: int = 0) -> Iterator[None]:
        """Move to another place for a while. Draws made there do not affect draws made here afterwards."""
        here = self._step, self._turns, self.place, self.word, self.calls
        self.step = step
        self.enter(phase, critic)
        try:
            yield
        finally:
            self._step, self._turns, self.place, self.word, self.calls = here


class Rng:
    """A named stream of random tensors, and the only source of randomness that a trick may use.

    A draw is a function of (run seed, stream name, step, phase, critic index, how often that phase has been played in
    the step, number of the call within it). Adding a trick, an extra forward pass or a sampling call therefore never
    changes another stream's draws, and a resumed run has no random state to restore.

    Shapes may be ints or sequences of ints. Tensors are on the run's device; real ones have its floating-point type.
    Draws outside the step are made on the CPU whatever the device, so that a seed gives the same initial weights and
    samples on all devices.
    """

    __slots__ = ("_clock", "_cuda", "_key", "_words", "device", "dtype", "name", "seed")

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
        self._key = key_of(f"{seed}/{name}")
        self._words = np.frombuffer(self._key, np.uint64)
        self._cuda = None if self.device.type == "cpu" else Generator(self.device)

    def fork(self, name: str) -> Rng:
        """Return an independent stream below this one. Its draws do not count as calls of this stream. A fork of the
        same name is the same stream, and continues its draws.
        """
        return Rng(self.seed, f"{self.name}/{name}", self._clock, self.device, self.dtype)

    def anew(self, name: str) -> Rng:
        """Return a stream below this one with a clock of its own: it begins with the same draws wherever it is
        created.
        """
        return Rng(self.seed, f"{self.name}/{name}", Clock(), self.device, self.dtype)

    def seeded(self, seed: int) -> Rng:
        """Return a stream on the CPU that depends on `seed` alone.

        Its draws are the same in every run. Use it for a choice that runs with other seeds share, such as which samples
        are labelled.
        """
        return Rng(seed, "seeded", Clock(), dtype=self.dtype)

    def uniform(self, shape: int | Sequence[int]) -> Tensor:
        """Independent draws from U[0, 1)."""
        return self._draw(_UNIFORM, _sizes(shape))

    def normal(self, shape: int | Sequence[int]) -> Tensor:
        """Independent draws from N(0, 1)."""
        return self._draw(_NORMAL, _sizes(shape))

    def bernoulli(self, shape: int | Sequence[int], p: float | Tensor) -> Tensor:
        """Independent booleans, true with probability `p` (a number or a tensor that broadcasts to `shape`)."""
        return self.uniform(shape) < p

    def uniform_like(self, x: Tensor) -> Tensor:
        """Independent draws from U[0, 1), with the shape and the layout of `x`: channels_last beside channels_last. The
        numbers do not depend on the layout.
        """
        return self._draw_like(_UNIFORM, x)

    def normal_like(self, x: Tensor) -> Tensor:
        """Independent draws from N(0, 1), with the shape and the layout of `x`."""
        return self._draw_like(_NORMAL, x)

    def bernoulli_like(self, x: Tensor, p: float | Tensor) -> Tensor:
        """Independent booleans, true with probability `p`, with the shape and the layout of `x`."""
        return self.uniform_like(x) < p

    def randint(self, shape: int | Sequence[int], high: int) -> Tensor:
        """Independent int64 draws from {0, …, high - 1}."""
        return self._draw(_INTEGERS, _sizes(shape), high)

    def permutation(self, n: int) -> Tensor:
        """A random order of 0 … n - 1, int64 (n,)."""
        return self._draw(_PERMUTATION, (n,))

    def _draw_like(self, kind: Kind, x: Tensor) -> Tensor:
        if x.dim() != 4:
            return self._draw(kind, _sizes(x.shape))
        # in the same order whatever the layout, so that a draw remains a function of its place
        count, channels, height, width = x.shape
        drawn = self._draw(kind, (count, height, width, channels)).permute(0, 3, 1, 2)
        return drawn if x.is_contiguous(memory_format=torch.channels_last) else drawn.contiguous()

    def _draw(self, kind: Kind, sizes: Sequence[int], high: int = 0) -> Tensor:
        clock = self._clock
        call = clock.calls.get(self._key, 0)
        clock.calls[self._key] = call + 1
        place = clock.place
        if clock.static is not None:
            return clock.static.next(
                Draw(self._key, kind, sizes, high, place.phase, clock.word, call, self), place.step
            )
        return self._make(kind, sizes, high, place.step, place.phase, clock.word, call)

    def _make(
        self,
        kind: Kind,
        sizes: Sequence[int],
        high: int,
        step: int,
        phase: str,
        word: int,
        call: int,
        out: Tensor | None = None,
    ) -> Tensor:
        if self._cuda is None:
            return kind.on_cpu(self._clock.source, (self._words, step, word, call), sizes, high, self.dtype, out)
        if phase in _IN_STEP:
            return kind.on_device(_seed_cuda(self._cuda, self._key, step, word, call), sizes, high, self.dtype, out)
        return kind.on_cpu(self._clock.source, (self._words, step, word, call), sizes, high, self.dtype, None).to(
            self.device
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Rng:
        return self  # a copied network draws from the same stream, not from a copy of it

    def __repr__(self) -> str:
        return f"Rng(seed={self.seed}, name={self.name!r})"


def key_of(name: str) -> bytes:
    """Return the key of a stream: 128 bits."""
    return hashlib.blake2b(name.encode(), digest_size=16).digest()


def permutation(name: str, n: int) -> Tensor:
    """Return a random order of 0 … n - 1 that depends on `name` alone, int64 (n,)."""
    words = np.random.Generator(np.random.Philox(key=int.from_bytes(key_of(name))))
    return torch.from_numpy(words.permutation(n))


# ---------------------------------------------------------------- kinds of draws


At = tuple[Words, int, int, int]
"""The arguments of `Source.at`."""


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """The functions that draw one kind of number: on the CPU, and in the step on a GPU."""

    name: str
    on_cpu: Callable[[Source, At, Sequence[int], int, torch.dtype, Tensor | None], Tensor]
    on_device: Callable[[Generator, Sequence[int], int, torch.dtype, Tensor | None], Tensor]


_FLOATS: dict[torch.dtype, Any] = {torch.float32: np.float32, torch.float64: np.float64}


def _aligned(sizes: Sequence[int], dtype: Any) -> npt.NDArray[Any]:
    """Return an empty array with the alignment of torch's memory: at another alignment a matrix product rounds
    differently.
    """
    count, size = math.prod(sizes), np.dtype(dtype).itemsize
    room = np.empty(count + 64 // size, dtype)
    start = -room.__array_interface__["data"][0] % 64 // size
    return room[start : start + count].reshape(sizes)


def _fill_uniform(
    source: Source, at: At, sizes: Sequence[int], high: int, dtype: torch.dtype, out: Tensor | None
) -> Tensor:
    if out is not None:
        source.at(*at).random(None, _FLOATS[dtype], out.numpy())
        return out
    drawn = _aligned(sizes, _FLOATS[dtype])
    source.at(*at).random(None, _FLOATS[dtype], drawn)
    return torch.from_numpy(drawn)


def _fill_normal(
    source: Source, at: At, sizes: Sequence[int], high: int, dtype: torch.dtype, out: Tensor | None
) -> Tensor:
    if math.prod(sizes) >= _MANY:
        return torch.randn(sizes, generator=source.torch_at(*at), dtype=dtype, out=out)
    if out is not None:
        source.at(*at).standard_normal(None, _FLOATS[dtype], out.numpy())
        return out
    drawn = _aligned(sizes, _FLOATS[dtype])
    source.at(*at).standard_normal(None, _FLOATS[dtype], drawn)
    return torch.from_numpy(drawn)


def _fill_integers(
    source: Source, at: At, sizes: Sequence[int], high: int, dtype: torch.dtype, out: Tensor | None
) -> Tensor:
    drawn = torch.from_numpy(np.asarray(source.at(*at).integers(high, size=sizes)))
    return drawn if out is None else out.copy_(drawn)


def _fill_permutation(
    source: Source, at: At, sizes: Sequence[int], high: int, dtype: torch.dtype, out: Tensor | None
) -> Tensor:
    drawn = torch.from_numpy(source.at(*at).permutation(sizes[0]))
    return drawn if out is None else out.copy_(drawn)


def _here(generator: Generator, out: Tensor | None) -> dict[str, Any]:
    return {"generator": generator, "device": generator.device, "out": out}


_UNIFORM = Kind(
    "uniform", _fill_uniform, lambda g, sizes, high, dtype, out: torch.rand(sizes, dtype=dtype, **_here(g, out))
)
_NORMAL = Kind(
    "normal", _fill_normal, lambda g, sizes, high, dtype, out: torch.randn(sizes, dtype=dtype, **_here(g, out))
)
_INTEGERS = Kind(
    "integers", _fill_integers, lambda g, sizes, high, dtype, out: torch.randint(high, sizes, **_here(g, out))
)
_PERMUTATION = Kind(
    "permutation", _fill_permutation, lambda g, sizes, high, dtype, out: torch.randperm(sizes[0], **_here(g, out))
)

_WORD = (1 << 64) - 1
_OFFSETS = 14
"""The number of bits of a GPU's offset that one draw may use: 2¹⁴ blocks of four numbers for each of its threads."""


def _seed_cuda(generator: Generator, key: bytes, step: int, word: int, call: int) -> Generator:
    """Seed CUDA's generator. Its Philox has a key of 64 bits and an offset: the key holds the stream, phase and call,
    the offset holds the step.
    """
    first, second = int.from_bytes(key[:8]), int.from_bytes(key[8:])
    generator.manual_seed(_mix(_mix(first ^ _mix(second ^ word)) + call))
    generator.set_offset(step << _OFFSETS)
    return generator


def _mix(word: int) -> int:
    """The splitmix64 finalizer: a bijection of 64-bit words whose every output bit depends on every input bit."""
    word = (word + 0x9E3779B97F4A7C15) & _WORD
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _WORD
    return word ^ (word >> 31)


# ---------------------------------------------------------------- the draws of a captured step


@dataclass(frozen=True, slots=True)
class Draw:
    """One draw of a step: its stream, its kind, and its place in the step."""

    key: bytes
    kind: Kind
    sizes: Sequence[int]
    high: int
    phase: str
    word: int
    call: int
    rng: Rng = field(compare=False)

    def make(self, step: int, out: Tensor | None = None) -> Tensor:
        """Return this draw for the given step, written into `out` where that is given."""
        return self.rng._make(self.kind, self.sizes, self.high, step, self.phase, self.word, self.call, out)


class StaticDraws:
    """The draws of a step in tensors that keep their memory, so that a captured step can read them.

    The first step that is played with them records its draws. After `rewind`, later steps get the same tensors, into
    which `fill` has written the new draws.
    """

    def __init__(self) -> None:
        self._draws: list[tuple[Draw, Tensor]] = []
        self._position: int | None = None

    def __len__(self) -> int:
        return len(self._draws)

    def rewind(self) -> None:
        self._position = 0

    def fill(self, step: int) -> None:
        """Draw anew, in place, for the step after `step` finished ones."""
        for draw, tensor in self._draws:
            draw.make(step, tensor)

    def next(self, draw: Draw, step: int) -> Tensor:
        """Return the tensor of the next draw. Raises ValueError where a step draws differently from the
        recorded one.
        """
        if self._position is None:
            tensor = draw.make(step)
            self._draws.append((draw, tensor))
            return tensor
        if self._position >= len(self._draws) or self._draws[self._position][0] != draw:
            raise ValueError(f"the stream {draw.rng.name!r} is drawn from in one step and not in another")
        self._position += 1
        return self._draws[self._position - 1][1]


def _sizes(shape: int | Sequence[int]) -> tuple[int, ...]:
    return (shape,) if isinstance(shape, int) else tuple(shape)
