"""How often a study finds an effect where there is none: whole studies of skewed figures, by the code that ships.

    python benchmarks/null_simulation.py [--studies 2000] [--adjust max-t|holm] [--design independent|paired]

A study has k tricks and n runs of each; in the independent design its control has about √k times as many. The logarithm
of each figure is drawn around the same mean, from one of `SHAPES`, with a spread of its own for each variant, 0.1 to
0.5. Counted are the studies with any verdict of "helps" or "hurts" at the level of 5 %.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from gantricks.study.statistics import Adjust, Family, estimate

Draw = Callable[[np.random.Generator, int], np.ndarray]

SHAPES: dict[str, Draw] = {
    "lognormal": lambda rng, n: rng.standard_normal(n),
    "gamma, shape 4": lambda rng, n: (np.log(rng.gamma(4, size=n)) - 1.256118) / 0.532751,
    "gamma, shape 1": lambda rng, n: -_gumbel(rng, n),
    "inverse gamma, shape 4": lambda rng, n: -(np.log(rng.gamma(4, size=n)) - 1.256118) / 0.532751,
    "inverse gamma, shape 1": lambda rng, n: _gumbel(rng, n),
    "lognormal, one in ten wild": lambda rng, n: rng.standard_normal(n) * np.where(rng.random(n) < 0.1, 3, 1) / 1.342,
}
"""Distributions of a positive figure, as draws of its standardised logarithm, of mean 0 and variance 1. The skewness of
the logarithms is 0, -0.5, -1.1, 0.5, 1.1 and 0.
"""
HARDER: dict[str, Draw] = {
    "lognormal, by differences": lambda rng, n: (np.exp(rng.standard_normal(n) / 2) - 1.133148) / 0.603901,
    "Pareto": lambda rng, n: rng.exponential(size=n) - 1,
}
"""Beyond what a study is made for: figures of skewness 1.75 that are compared by differences, and logarithms of
skewness 2.
"""


def _gumbel(rng: np.random.Generator, n: int) -> np.ndarray:
    return (rng.gumbel(size=n) - np.euler_gamma) / (math.pi / math.sqrt(6))


def family(rng: np.random.Generator, k: int, n: int, shapes: Sequence[Draw], paired: bool) -> Family:
    """Return the figures of a study of `k` tricks, `n` runs each, without any effect. The control is variant 0."""
    control = n if paired else max(n, round(math.sqrt(k) * n))
    values = np.full((k + 1, control), np.nan)
    for row, spread in enumerate(np.exp(rng.uniform(math.log(0.1), math.log(0.5), k + 1))):
        count = n if row else control
        values[row, :count] = spread * shapes[row % len(shapes)](rng, count)
    if paired:
        values += rng.standard_normal(control)  # what all runs of a block share
    return Family(values, np.column_stack([-np.ones(k), np.eye(k)]), paired)


def false_studies(
    studies: int,
    shapes: Sequence[Draw],
    ks: Sequence[int],
    ns: Sequence[int],
    adjust: Adjust = "max-t",
    paired: bool = False,
    each: bool = False,
    draws: int = 1000,
    seed: int = 0,
) -> float:
    """Return the share of studies with a false verdict. Each study takes its k and n from `ks` and `ns`, and one of
    `shapes`; with `each`, every variant of a study takes another one.
    """
    rng, false = np.random.default_rng(seed), 0
    for study in range(studies):
        chosen = [shapes[i] for i in rng.integers(0, len(shapes), 31 if each else 1)]
        made = family(rng, int(rng.choice(ks)), int(rng.choice(ns)), chosen, paired)
        found = estimate(made, adjust, draws, seed=study)
        false += any(e.interval is not None and not e.interval[0] <= 0 <= e.interval[1] for e in found)
    return false / studies


def lines(studies: int, adjust: Adjust, paired: bool) -> Iterator[tuple[str, str, str, float]]:
    """Yield rows of the table: figures, tricks, runs, share of studies with a false verdict."""
    every, some_k, some_n = [*SHAPES.values()], range(5, 31), range(5, 25)

    def row(name: str, shapes: Sequence[Draw], ks: Sequence[int], ns: Sequence[int], each: bool = False) -> Any:
        share = false_studies(studies, shapes, ks, ns, adjust, paired, each)
        return name, _range(ks), _range(ns), share

    yield row("any of these, one for each study", every, some_k, some_n)
    for name, shape in SHAPES.items():
        yield row(name, [shape], some_k, some_n)
    yield row("any of these, one for each variant", every, some_k, some_n, each=True)
    for name, shape in HARDER.items():
        yield row(name, [shape], some_k, some_n)
    for k, n in ((1, 2), (1, 3), (1, 5), (5, 2), (5, 3), (5, 5), (30, 2), (30, 3), (30, 5), (30, 10), (30, 24)):
        yield row("lognormal", [SHAPES["lognormal"]], [k], [n])
        yield row("inverse gamma, shape 1", [SHAPES["inverse gamma, shape 1"]], [k], [n])
        yield row("any of these, one for each variant", every, [k], [n], each=True)


def _range(values: Sequence[int]) -> str:
    return f"{values[0]}" if len(values) == 1 else f"{values[0]} to {values[-1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--adjust", choices=("max-t", "holm"), default="max-t")
    parser.add_argument("--design", choices=("independent", "paired"), default="independent")
    asked = parser.parse_args()
    print("| figures | tricks | runs of each | studies with a false verdict |")
    print("|---|---:|---:|---:|")
    began = time.perf_counter()
    for shapes, tricks, runs, share in lines(asked.studies, asked.adjust, asked.design == "paired"):
        error = math.sqrt(max(share, 0.01) * (1 - share) / asked.studies)
        print(f"| {shapes} | {tricks} | {runs} | {100 * share:.1f} ± {100 * error:.1f} % |", flush=True)
    print(f"\n{asked.studies} studies a row, {asked.adjust}, {asked.design}; {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
