"""What metrics cost that are measured while a run trains, in steps and in percent of the training time.

    python benchmarks/measuring.py                                     the main job, every 1,000 steps, 2,000 samples
    python benchmarks/measuring.py --recipe ring_mlp --every 500

A measurement and `--between` steps take turns. The share is that of a measurement in the time that it and `--every`
steps take. The first measurement stands apart: it computes what follows from the data, and teaches a classifier where
none is in the cache. Seconds of the processor, of all threads together, say on a busy machine too what the work is.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from common import Workload, arguments, begin, game, ratio, write

from gantricks.engine.game import Game
from gantricks.engine.subject import measure

CLOCKS: dict[str, Callable[[], float]] = {"seconds": time.perf_counter, "processor_seconds": time.process_time}


def timed(work: Callable[[], Any]) -> dict[str, float]:
    """Return what `work` takes, by each clock."""
    began = {name: clock() for name, clock in CLOCKS.items()}
    work()
    return {name: clock() - began[name] for name, clock in CLOCKS.items()}


def cost(ours: Game, every: int, rounds: int, between: int) -> dict[str, Any]:
    def steps() -> None:
        for _ in range(between):
            ours.advance()

    def figures() -> None:
        problems = measure(ours)[1]
        assert not problems, problems

    steps()
    first = timed(figures)
    turns = [(timed(figures), timed(steps)) for _ in range(rounds)]
    found: dict[str, Any] = {"figures": list(measure(ours)[0]), "first": first}
    for name in CLOCKS:
        one, many = [m[name] for m, _ in turns], [every / between * s[name] for _, s in turns]
        found[name] = {
            "measurement": statistics.median(one),
            "steps": statistics.median(many),
            "measurement_to_steps": ratio(one, many),
            "share_percent": 100 * statistics.median(m / (m + s) for m, s in zip(one, many, strict=True)),
        }
    return found


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--recipe", default="dcgan_soft_labels")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--every", type=int, default=1000, help="steps from one measurement to the next")
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--between", type=int, default=8, help="steps after each measurement")
    parsed = parser.parse_args()
    overrides = [*parsed.overrides, f"evaluate.every={parsed.every}", f"evaluate.samples={parsed.samples}"]
    head = begin(parsed, recipe=parsed.recipe, overrides=overrides, between=parsed.between, precision=parsed.precision)
    ours = game(Workload(parsed.recipe, tuple(overrides), parsed.between), precision=parsed.precision)
    found = cost(ours, parsed.every, parsed.rounds, parsed.between)
    print(f"{', '.join(found['figures'])}; the first measurement {found['first']['seconds']:.2f} s")
    for name in CLOCKS:
        took = found[name]
        print(
            f"{name.replace('_', ' '):18} {took['measurement']:7.2f} for one measurement, {took['steps']:8.2f} for "
            f"{parsed.every:,} steps: {took['share_percent']:5.2f} % ({took['measurement_to_steps']})"
        )
    write(parsed.out, head, found)


if __name__ == "__main__":
    main()
