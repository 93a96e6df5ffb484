"""What metrics cost that are measured while a run trains, in steps and in percent of the training time.

    python benchmarks/measuring.py                                     the main job, every 1,000 steps, 2,000 samples
    python benchmarks/measuring.py --recipe ring_mlp --every 500

A measurement and `--between` steps take turns. The share is that of a measurement in the time that it and `--every`
steps take. The first measurement stands apart: it computes what follows from the data, and teaches a classifier where
none is in the cache.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

from common import Workload, arguments, begin, game, ratio, seconds_per_step, write

from gantricks.engine.subject import measure


def cost(recipe: str, overrides: list[str], precision: str, every: int, rounds: int, between: int) -> dict[str, Any]:
    ours = game(Workload(recipe, tuple(overrides), between), precision=precision)
    seconds_per_step(ours.advance, 3)
    measured, steps = [], []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        figures, problems = measure(ours)
        measured.append(time.perf_counter() - began)
        assert not problems, problems
        steps.append(every * seconds_per_step(ours.advance, between))
    shares = [m / (m + s) for m, s in zip(measured[1:], steps[1:], strict=True)]
    return {
        "figures": list(figures),
        "step_ms": 1e3 * statistics.median(steps[1:]) / every,
        "first_seconds": measured[0],
        "seconds": statistics.median(measured[1:]),
        "steps_seconds": statistics.median(steps[1:]),
        "in_steps": statistics.median(measured[1:]) / statistics.median(steps[1:]) * every,
        "to_the_steps": ratio(measured[1:], steps[1:]),
        "share_percent": 100 * statistics.median(shares),
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--recipe", default="dcgan_soft_labels")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--every", type=int, default=1000, help="steps from one measurement to the next")
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--between", type=int, default=20, help="steps after each measurement")
    parsed = parser.parse_args()
    overrides = [*parsed.overrides, f"evaluate.every={parsed.every}", f"evaluate.samples={parsed.samples}"]
    head = begin(parsed, recipe=parsed.recipe, overrides=overrides, between=parsed.between, precision=parsed.precision)
    found = cost(parsed.recipe, overrides, parsed.precision, parsed.every, parsed.rounds, parsed.between)
    print(f"{', '.join(found['figures'])}; a step of {found['step_ms']:.1f} ms")
    print(f"the first measurement  {found['first_seconds']:8.2f} s")
    print(f"each later one         {found['seconds']:8.2f} s, as long as {found['in_steps']:.1f} steps")
    print(f"{parsed.every:,} steps            {found['steps_seconds']:8.2f} s")
    print(f"share of the time      {found['share_percent']:8.2f} % (one to the steps: {found['to_the_steps']})")
    write(parsed.out, head, found)


if __name__ == "__main__":
    main()
