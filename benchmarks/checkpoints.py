"""How long a checkpoint keeps training waiting, in milliseconds and in steps.

    python benchmarks/checkpoints.py                                   the main job's networks
    python benchmarks/checkpoints.py --recipe dcgan --set generator.channels=64 --folder /a/disk/to/measure

A checkpoint holds both networks, both optimizers and the tricks' tensors. Training stands still while they are copied
in memory; a thread writes them, flushes them to the disk (fsync) and renames, and so takes its part of the machine from
the steps beside it. Measured over `--rounds` checkpoints with `--between` steps after each: how long the call keeps
training waiting; how much longer the steps beside the writing took altogether than as many steps without; and how long
the same checkpoint takes when it is written at once, the log included, as everything did that waited.

The default interval is 500 steps: with `--between` fewer, the next checkpoint is asked for when the one before it is on
the disk, so that the figures are those of a longer interval. The two kinds of round take turns.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from common import Workload, arguments, begin, game, ratio, seconds_per_step, write

from gantricks import store
from gantricks.engine import state
from gantricks.runs import checkpoint


def measure(recipe: str, overrides: list[str], rounds: int, between: int, folder: Path) -> dict[str, Any]:
    ours = game(Workload(recipe, tuple(overrides), between))
    seconds_per_step(ours.advance, 3)
    size = sum(t.numel() * t.element_size() for group in state.tensors(ours).values() for t in group.values())
    waited, beside, without, at_once = [], [], [], []
    with checkpoint.Writer() as writer:
        for number in range(rounds + 1):  # the first does not count
            start = time.perf_counter()
            writer.save(folder / f"{number:06}", state.tensors(ours), state.counters(ours))
            waited.append(time.perf_counter() - start)
            beside.append(seconds_per_step(ours.advance, between))
            writer.wait()
            without.append(seconds_per_step(ours.advance, between))
            start = time.perf_counter()
            store.save(folder / f"{number:06}-at-once", state.tensors(ours), state.counters(ours))
            at_once.append(time.perf_counter() - start)
    waited, beside, without, at_once = waited[1:], beside[1:], without[1:], at_once[1:]
    step = statistics.median(without)
    slowed = [between * (a - b) for a, b in zip(beside, without, strict=True)]
    return {
        "state_mib": size / 2**20,
        "step_ms": 1e3 * step,
        "waits_ms": {"median": 1e3 * statistics.median(waited), "max": 1e3 * max(waited)},
        "waits_steps": statistics.mean(waited) / step,
        "slows_steps_by_ms": 1e3 * statistics.median(slowed),
        "slows_steps_by_steps": statistics.median(slowed) / step,
        "steps_beside_writing": ratio(beside, without),
        "written_at_once_ms": {"median": 1e3 * statistics.median(at_once), "max": 1e3 * max(at_once)},
        "written_at_once_steps": statistics.mean(at_once) / step,
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--recipe", default="dcgan_soft_labels")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--between", type=int, default=5, help="steps after each checkpoint, and as many without one")
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder there is removed afterwards")
    parser.set_defaults(rounds=21)
    parsed = parser.parse_args()
    head = begin(parsed, recipe=parsed.recipe, overrides=parsed.overrides, between=parsed.between)
    with tempfile.TemporaryDirectory(dir=parsed.folder) as folder:
        figures = measure(parsed.recipe, parsed.overrides, parsed.rounds, parsed.between, Path(folder))
    waits, at_once = figures["waits_ms"], figures["written_at_once_ms"]
    print(f"a state of {figures['state_mib']:.1f} MiB, a step of {figures['step_ms']:.2f} ms")
    print(
        f"training waits    {waits['median']:9.2f} ms, {waits['max']:.2f} at most; "
        f"{figures['waits_steps']:.3f} of a step on average"
    )
    print(
        f"steps beside it   {figures['slows_steps_by_ms']:9.2f} ms longer altogether, "
        f"{figures['slows_steps_by_steps']:.3f} of a step (ratio {figures['steps_beside_writing']})"
    )
    print(
        f"written at once   {at_once['median']:9.2f} ms, {at_once['max']:.2f} at most; "
        f"{figures['written_at_once_steps']:.3f} of a step on average"
    )
    write(parsed.out, head, figures)


if __name__ == "__main__":
    main()
