"""What a draw costs, beside torch's own generator seeded for it.

    python benchmarks/draws.py

A draw is a function of where it is made, so that its generator is set anew each time. Printed are microseconds a draw:
medians of interleaved rounds, and their ratio.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch

from gantricks.rng import Clock, Rng

SHAPES = [(64, 1), (64, 100), (256, 2), (64, 1, 32, 32), (64, 3, 64, 64)]
ROUNDS = 15


def microseconds(call: Callable[[], object], times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times * 1e6


def main() -> None:
    torch.set_num_threads(1)
    clock = Clock()
    rng, generator = Rng(0, "tricks/a", clock), torch.Generator()
    print(f"{'':24} {'ours':>9} {'torch':>9}  ratio")
    for shape in SHAPES:
        pairs: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
            "normal": (
                partial(rng.normal, shape),
                lambda: torch.randn(shape, generator=generator.manual_seed(5)),  # noqa: B023
            ),
            "uniform": (
                partial(rng.uniform, shape),
                lambda: torch.rand(shape, generator=generator.manual_seed(5)),  # noqa: B023
            ),
        }
        times = max(3, 40_000 // math.prod(shape))
        for kind, (ours, theirs) in pairs.items():
            rounds = [(microseconds(ours, times), microseconds(theirs, times)) for _ in range(ROUNDS)]
            a, b = (statistics.median(column) for column in zip(*rounds, strict=True))
            print(f"{kind:8} {shape!s:15} {a:9.1f} {b:9.1f}  {a / b:5.2f}")


if __name__ == "__main__":
    main()
