"""Hypothesis strategies for what tricks receive: labels, batches, networks, random streams, options."""

from __future__ import annotations

import torch
from hypothesis import register_random
from hypothesis import strategies as st
from torch import Tensor

from gantricks.networks.base import Discriminator, Generator, Shapes, initialise
from gantricks.options import Interval, Schedule
from gantricks.records import Batch
from gantricks.rng import PHASES, Clock, Rng

SIZES = st.integers(1, 9)


class _TorchRandom:
    """Torch's global generator, as hypothesis seeds and restores it around every example."""

    def seed(self, seed: int) -> None:
        torch.default_generator.manual_seed(seed)

    def getstate(self) -> Tensor:
        return torch.get_rng_state()

    def setstate(self, state: Tensor) -> None:
        torch.set_rng_state(state)


TORCH_RANDOM = _TorchRandom()
"""Kept in a module variable, because hypothesis holds only a weak reference to it."""
register_random(TORCH_RANDOM)


def seeds() -> st.SearchStrategy[int]:
    """Run seeds."""
    return st.integers(0, 2**63 - 1)


@st.composite
def rng(draw: st.DrawFn, dtype: torch.dtype = torch.float64) -> Rng:
    """A trick's random stream, at any place in a run."""
    clock = Clock()
    clock.step = draw(st.integers(0, 10_000))
    clock.enter(draw(st.sampled_from(sorted(PHASES))), draw(st.integers(0, 5)))
    return Rng(draw(seeds()), draw(st.sampled_from(["tricks/a", "tricks/b"])), clock, dtype=dtype)


@st.composite
def assignments(draw: st.DrawFn, sizes: st.SearchStrategy[int] = SIZES) -> Tensor:
    """Which samples are called real: bool (B, 1), all true, all false or mixed."""
    size = draw(sizes)
    called = draw(
        st.one_of(
            st.just([True] * size), st.just([False] * size), st.lists(st.booleans(), min_size=size, max_size=size)
        )
    )
    return torch.tensor(called).reshape(size, 1)


def labels(sizes: st.SearchStrategy[int] = SIZES, dtype: torch.dtype = torch.float64) -> st.SearchStrategy[Tensor]:
    """D's labels before any trick: (B, 1) of zeros and ones."""
    return assignments(sizes).map(lambda called: called.to(dtype))


@st.composite
def tensors(draw: st.DrawFn, shape: tuple[int, ...], dtype: torch.dtype = torch.float64, scale: float = 1.0) -> Tensor:
    """Normal random numbers of a given shape."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    return scale * torch.randn(shape, generator=generator, dtype=dtype)


@st.composite
def logits(draw: st.DrawFn, sizes: st.SearchStrategy[int] = SIZES) -> Tensor:
    """D's logits (B, 1), from undecided to certain."""
    return draw(tensors((draw(sizes), 1), scale=draw(st.sampled_from([0.0, 1.0, 30.0]))))


@st.composite
def batches(
    draw: st.DrawFn,
    sizes: st.SearchStrategy[int] = SIZES,
    shape: tuple[int, ...] | None = None,
    classes: int | None = None,
    condition: int | None = None,
    dtype: torch.dtype = torch.float64,
) -> Batch:
    """A batch of images (B, C, H, W) or vectors (B, D) in [-1, 1], with or without classes and conditions.

    `shape` fixes the shape of one sample, `classes` the number of classes, `condition` the width of conditions (0 for
    none).
    """
    size = draw(sizes)
    if shape is None:
        shape = draw(st.sampled_from([(2,), (1, 4, 4), (3, 5, 4)]))
    if classes is None:
        classes = draw(st.sampled_from([0, 3]))
    images = torch.tanh(draw(tensors((size, *shape), dtype)))
    if condition is None:
        condition = draw(st.sampled_from([0, 2]))
    numbers = draw(st.lists(st.integers(0, classes - 1), min_size=size, max_size=size)) if classes else []
    described = draw(tensors((size, condition), dtype)) if condition else None
    return Batch(images, torch.tensor(numbers) if classes else None, described)


@st.composite
def intervals(draw: st.DrawFn, low: float = -1.0, high: float = 2.0) -> Interval:
    """Closed intervals within [low, high], degenerate ones included."""
    ends = st.floats(low, high, allow_nan=False, allow_subnormal=False)
    a, b = sorted((draw(ends), draw(ends)))
    return Interval(a, b)


@st.composite
def schedules(draw: st.DrawFn, low: float = 0.0, high: float = 1.0) -> Schedule:
    """Linear schedules between two values within [low, high]."""
    values = st.floats(low, high, allow_nan=False, allow_subnormal=False)
    return Schedule(start=draw(values), end=draw(values), until=draw(st.floats(0.01, 1.0)))


@st.composite
def generators(draw: st.DrawFn, shape: tuple[int, ...] = (1, 8, 8), batch_norm: bool = True) -> Generator:
    """A tiny generator in float64, `dcgan` for images and `mlp` for vectors."""
    from gantricks.networks.dcgan import DCGAN
    from gantricks.networks.mlp import MLP

    network = (
        DCGAN.generator(DCGAN.GeneratorConfig(channels=4, batch_norm=batch_norm), Shapes(shape, 4))
        if len(shape) == 3
        else MLP.generator(MLP.GeneratorConfig(hidden=(8, 8), batch_norm=batch_norm), Shapes(shape, 4))
    ).double()
    initialise(network, draw(rng()))
    return network


@st.composite
def discriminators(draw: st.DrawFn, shape: tuple[int, ...] = (1, 8, 8), batch_norm: bool = False) -> Discriminator:
    """A tiny discriminator in float64, `dcgan` for images and `mlp` for vectors."""
    from gantricks.networks.dcgan import DCGAN
    from gantricks.networks.mlp import MLP

    network = (
        DCGAN.discriminator(DCGAN.DiscriminatorConfig(channels=4, depth=2, batch_norm=batch_norm), Shapes(shape, 4))
        if len(shape) == 3
        else MLP.discriminator(MLP.DiscriminatorConfig(hidden=(8, 8), batch_norm=batch_norm), Shapes(shape, 4))
    ).double()
    initialise(network, draw(rng()))
    return network
