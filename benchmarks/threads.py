"""How many threads are worth having: the time of gantricks' own step with n threads over its time with one.

    python benchmarks/threads.py                                   the workloads of step.py, and wider MLPs
    python benchmarks/threads.py --only mlp-64 mlp-256 --capture
    OMP_NUM_THREADS=8 python benchmarks/threads.py --counts 2 4 8

One process plays each count in turn (1 2 1 2 …), each on a game of its own. A count above 1 wins where its ratio is
below 1; on a machine that others use, the threads of a step wait for the one that was interrupted.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable

import torch
from common import (
    WORKLOADS,
    Workload,
    arguments,
    begin,
    captured,
    game,
    interleaved,
    ratio,
    seconds_per_step,
    write,
)

from gantricks.engine.game import Game

WIDER = {
    f"mlp-{width}-wide": Workload(
        "grid_mlp", (f"generator.hidden=[{width},{width}]", f"discriminator.hidden=[{width},{width}]"), steps
    )
    for width, steps in ((256, 40), (512, 20), (1024, 8))
}
MEASURED = WORKLOADS | WIDER


def with_threads(count: int, ours: Game) -> Callable[[int], float]:
    def play(steps: int) -> float:
        torch.set_num_threads(count)
        ours.advance()  # wakes the threads
        return seconds_per_step(ours.advance, steps)

    return play


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--only", choices=MEASURED, nargs="+", default=["mlp-64", "mlp-256", *WIDER, "dcgan-32-narrow"])
    parser.add_argument("--counts", type=int, nargs="+", default=[2], help="numbers of threads to compare with one")
    parser.add_argument("--capture", action="store_true", help="the step compiled to one call")
    parsed = parser.parse_args()
    parsed.threads = max(parsed.counts)
    head = begin(parsed, captured=parsed.capture, omp_num_threads=os.environ.get("OMP_NUM_THREADS"))

    results = {}
    for name in parsed.only:
        contestants = {}
        for count in (1, *parsed.counts):
            torch.set_num_threads(count)  # a compiled step has its number of threads in it
            ours = game(MEASURED[name])
            contestants[count] = with_threads(count, captured(ours) if parsed.capture else ours)
        times = interleaved(contestants, MEASURED[name].steps, parsed.rounds)
        for count in parsed.counts:
            figures = {
                "one_ms": 1e3 * statistics.median(times[1]),
                "ms": 1e3 * statistics.median(times[count]),
                "against_one": ratio(times[count], times[1]),
            }
            results[f"{name}/{count}"] = figures
            print(
                f"{name:18} 1 thread {figures['one_ms']:9.3f} ms, {count} threads {figures['ms']:9.3f} ms "
                f"{figures['against_one']}",
                flush=True,
            )
    write(parsed.out, head, results)


if __name__ == "__main__":
    main()
