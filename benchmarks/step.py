"""The time of a training step against a hand-written loop with the same networks, losses, optimizers and data.

    python benchmarks/step.py                       every workload
    python benchmarks/step.py --only mlp-256 --rounds 15 --threads 1
    python benchmarks/step.py --only dcgan-32 --tricks soft_labels separate_batches
    python benchmarks/step.py --only mlp-64 --capture      the step compiled to one call
    python benchmarks/step.py --only dcgan-32 --precision bf16
    python benchmarks/step.py --only dcgan-32-plain-d --tricks separate_batches r1 --r1 10

The hand-written loop is `hand_written` in common.py, in the form of PyTorch's DCGAN example: a real and a fake pass of
D with a backward each, one generator forward shared by both players, plain Adam, data loaded beforehand, no `.item()`.
The two contestants take turns in one process (A B A B …); printed are the medians of their times per step, and the
median of the ratio round by round, with its spread.

The two do the same work only where D does not mix samples, or with `--tricks separate_batches`. With batch norm in D
and joint passes, the G step must score the fakes beside a real batch, which the hand-written loop does not do; its
networks are scored in separate passes. "-plain-d" is a D without batch norm. `--r1 γ` gives the hand-written loop the
penalty of Mescheder et al. 2018, by a double backward; gantricks has it by the trick.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from common import (
    WORKLOADS,
    Slices,
    Workload,
    arguments,
    begin,
    captured,
    game,
    hand_written,
    interleaved,
    material,
    ratio,
    seconds_per_step,
    write,
)


def contestants(workload: Workload, tricks: list[str], precision: str, capture: bool, r1: float) -> dict[str, Callable]:
    """gantricks, and the hand-written loop in fp32, with equal networks, each with its own weights."""
    ours = game(workload, [f"tricks.{trick}={{}}" for trick in tricks], precision)
    if capture:
        captured(ours)
    given = material(workload)
    theirs, batches = hand_written(given, r1), Slices(given)
    return {
        "gantricks": lambda steps: seconds_per_step(ours.advance, steps),
        "hand_written": lambda steps: seconds_per_step(lambda: theirs(next(batches)), steps),
    }


def measure(
    workload: Workload, tricks: list[str], rounds: int, precision: str, capture: bool, r1: float
) -> dict[str, Any]:
    times = interleaved(contestants(workload, tricks, precision, capture, r1), workload.steps, rounds)
    medians = {f"{name}_ms": 1e3 * statistics.median(seconds) for name, seconds in times.items()}
    return {**medians, "against_hand_written": ratio(times["gantricks"], times["hand_written"])}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--only", choices=WORKLOADS, nargs="+", default=list(WORKLOADS))
    parser.add_argument("--tricks", nargs="*", default=[], help="tricks that gantricks trains with, at their defaults")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="gantricks' own")
    parser.add_argument("--capture", action="store_true", help="gantricks plays the step compiled to one call")
    parser.add_argument("--r1", type=float, default=0.0, help="weight of the hand-written loop's R1 penalty")
    parsed = parser.parse_args()
    head = begin(parsed, tricks=parsed.tricks, precision=parsed.precision, captured=parsed.capture, r1=parsed.r1)

    print(f"{'workload':16} {'gantricks':>12} {'hand-written':>12} {'ratio':>7}  middle half")
    results = {}
    for name in parsed.only:
        figures = measure(WORKLOADS[name], parsed.tricks, parsed.rounds, parsed.precision, parsed.capture, parsed.r1)
        results[name] = figures
        print(
            f"{name:16} {figures['gantricks_ms']:9.3f} ms {figures['hand_written_ms']:9.3f} ms "
            f"{figures['against_hand_written']}",
            flush=True,
        )
    write(parsed.out, head, results)


if __name__ == "__main__":
    main()
