"""The first hour on a GPU: what no machine without one can show, in parts of at most 8 minutes, worst risks first.

    python benchmarks/first_gpu_hour.py --part 1        the tests that need CUDA
    python benchmarks/first_gpu_hour.py --part 2        every trick, fp32 and bf16, eager and captured
    python benchmarks/first_gpu_hour.py --part 3        twenty captures, and resume at three places
    python benchmarks/first_gpu_hour.py --part 4        data that does not fit, memory that runs out, a second device
    python benchmarks/first_gpu_hour.py --part 5        ms a step: MLP and DCGAN-32
    python benchmarks/first_gpu_hour.py --part 6        ms a step: DCGAN-64, DCGAN-128 and ResNet-64
    python benchmarks/first_gpu_hour.py --part 7        minibatch discrimination, by size of the batch

Each part is merged into --out, so that parts can be run again or on other days. A part that runs out of its minutes
says what it has not reached. `--device cpu --few` shows that the script works, and nothing else.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from common import WORKLOADS, Slices, Workload, captured, game, hand_written, interleaved, machine, material
from torch import Tensor

from gantricks.catalogue.index import shipped
from gantricks.catalogue.registry import Registry
from gantricks.engine import state
from gantricks.engine.capture import CUDA_GRAPH, INTERPRETER, Capturing
from gantricks.engine.game import Game
from gantricks.engine.start import start
from gantricks.planning.device import place
from gantricks.testing import TrickHost
from gantricks.testing.record import differences, snapshot

ROOT = Path(__file__).parents[1]
MINUTES = 7.5
T = TypeVar("T")
SIZES = {
    "dcgan-128": Workload("dcgan", ("data.image_size=128", "data.batch_size=64"), 2),
    "resnet-64": Workload(
        "dcgan", ("data.image_size=64", "generator.network=resnet", "discriminator.network=resnet"), 2
    ),
}


class OutOfTime(Exception):
    """The minutes of a part are over."""


class Part:
    """The device, the minutes that are left, and what was not reached. With `few`, everything is small."""

    def __init__(self, device: str, few: bool) -> None:
        self.device, self.few = device, few
        self.cuda = torch.device(device).type == "cuda"
        self.end = time.monotonic() + 60 * MINUTES
        self.not_reached: list[str] = []

    @property
    def backend(self) -> str:
        return CUDA_GRAPH if self.cuda else INTERPRETER

    def each(self, items: Sequence[T]) -> Iterator[T]:
        """The items, as long as there is time."""
        for number, item in enumerate(items[:3] if self.few else items):
            if time.monotonic() > self.end:
                self.not_reached = [str(left) for left in items[number:]]
                return
            yield item

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.device)

    @contextmanager
    def without_waiting(self) -> Iterator[None]:
        """Raise where the host waits for the device."""
        if self.cuda:
            torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            if self.cuda:
                torch.cuda.set_sync_debug_mode("default")


# ---------------------------------------------------------------- is it right


def cuda_tests(part: Part) -> dict[str, Any]:
    """tests/test_cuda.py, and whatever else is marked as needing CUDA."""
    words = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider", "tests/test_cuda.py"]
    ran = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60 * MINUTES)
    return {"exit": ran.returncode, "end": ran.stdout.splitlines()[-12:]}


def tricks(part: Part) -> dict[str, Any]:
    """Every trick in two precisions: does the step wait, is it captured, how far is it from the eager one?"""
    found = {}
    for name in part.each(shipped("tricks")):
        trick: Any = Registry().load("tricks", name).cls
        host = TrickHost.for_trick(trick, batch_size=8, steps=40, device=part.device).with_trick(name, **trick.trial)
        for precision in ("fp32", "bf16"):
            found[f"{name}, {precision}"] = one_trick(part, host.but(precision=precision))
    return found


def one_trick(part: Part, host: TrickHost, steps: int = 20) -> dict[str, Any]:
    try:
        eager, recorded = host.game(), host.game()
        capturing = recorded.play = Capturing(recorded, part.backend)
        for each in (eager, recorded):
            each.advance()
            for _ in range(steps - 1):
                play = each.play
                each.play = lambda play=play: waiting_is_an_error(part, play)  # type: ignore[misc]
                each.advance()
                each.play = play
        return {
            "captured": capturing.backend == part.backend,
            "warnings": recorded.warnings,
            "difference": largest_difference(snapshot(eager), snapshot(recorded)),
            "same bits": not differences(snapshot(eager), snapshot(recorded)),
            "finite": recorded.non_finite() is None,
        }
    except Exception as error:
        return {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0]:.300}"}


def waiting_is_an_error(part: Part, play: Callable[[], None]) -> None:
    with part.without_waiting():
        play()


def largest_difference(first: dict[str, dict[str, Tensor]], second: dict[str, dict[str, Tensor]]) -> float:
    """The largest difference of two numbers, over the larger of 1 and the number."""
    worst = 0.0
    for group, tensors in first.items():
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and tensor.numel():
                a, b = tensor.double().cpu(), second[group][name].double().cpu()
                worst = max(worst, float(((a - b).abs() / a.abs().clamp(min=1)).max()))
    return worst


IMAGES = TrickHost(sample=(3, 16, 16), batch_size=16, steps=40, precision="fp32").with_trick("soft_labels")


def captures(part: Part) -> dict[str, Any]:
    """Do twenty fresh captures give one hash of all state? Do runs that are resumed end as one that is not?"""
    host = IMAGES.but(device=part.device).with_trick("ema").with_trick("instance_noise")
    found: dict[str, Any] = {}
    for precision in ("fp32", "bf16"):
        hashes = set()
        for _ in part.each(range(20)):
            hashes.add(hashed(played(part, host.but(precision=precision), 6)))
        found[f"hashes of twenty captures, {precision}"] = sorted(hashes)
        whole = played(part, host.but(precision=precision), 12)
        for place_ in (1, 4, 9):
            before = played(part, host.but(precision=precision), place_)
            resumed = host.but(precision=precision).game()
            state.load(resumed, snapshot(before), state.counters(before))
            resumed.play = Capturing(resumed, part.backend)
            for _ in range(12 - place_):
                resumed.advance()
            found[f"resumed at {place_}, {precision}"] = differences(snapshot(whole), snapshot(resumed)) or "same bits"
    return found


def played(part: Part, host: TrickHost, steps: int) -> Game:
    made = host.game()
    made.play = Capturing(made, part.backend)
    for _ in range(steps):
        made.advance()
    return made


def hashed(made: Game) -> str:
    found = hashlib.sha256()
    for _, tensors in sorted(snapshot(made).items()):
        for name, tensor in sorted(tensors.items()):
            found.update(name.encode() + tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def memory(part: Part) -> dict[str, Any]:
    """Data that is not kept on the device, memory that runs out, and the second device where there is one."""
    host = IMAGES.but(device=part.device, classes=3)
    plan = host.plan()
    there, elsewhere = (start(plan, plan.source.load(), place(part.device, "fp32"), budget) for budget in (1 << 40, 0))
    for each in (there, elsewhere):
        for _ in range(8):
            each.advance()
    found: dict[str, Any] = {"not resident": differences(snapshot(there), snapshot(elsewhere)) or "same bits"}
    if part.cuda:
        words = [sys.executable, "-m", "gantricks", "train", "dcgan", "--device", part.device, "--run-dir", "too_large"]
        large = ["data.batch_size=60000", "generator.channels=2048", "discriminator.channels=2048"]
        words += [word for key in large for word in ("--set", key)]
        ran = subprocess.run(words, capture_output=True, text=True, check=False, timeout=240)
        found["memory that runs out"] = {"exit": ran.returncode, "told": ran.stderr.splitlines()[-4:]}
        if torch.cuda.device_count() > 1:
            first, second = (played(part, IMAGES.but(device=f"cuda:{number}"), 6) for number in (0, 1))
            found["second device"] = {
                "captured": second.play.backend == CUDA_GRAPH,  # type: ignore[attr-defined]
                "difference": largest_difference(snapshot(first), snapshot(second)),
            }
        else:
            found["second device"] = "there is one device"
    return found


# ---------------------------------------------------------------- is it fast


def speed(part: Part, names: list[str]) -> dict[str, Any]:
    """Milliseconds a step: ours eager and captured, and the hand-written loop eager and in a graph made by hand."""
    found = {}
    for name in part.each(names):
        workload = (WORKLOADS | SIZES)[name]
        for precision in ("fp32", "bf16") if part.cuda and not name.startswith("mlp") else ("fp32",):
            found[f"{name}, {precision}"] = times(part, workload, precision)
    return found


def times(part: Part, workload: Workload, precision: str) -> dict[str, Any]:
    rounds, steps = (2, 2) if part.few else (11, 20)
    separate = ["tricks.separate_batches={}"]
    contestants: dict[str, Callable[[int], float]] = {}
    made = {
        "eager": game(workload, separate, precision, device=part.device),
        "captured": captured(game(workload, separate, precision, device=part.device)) if part.cuda else None,
    }
    for name, ours in made.items():
        if ours is not None:
            contestants[f"gantricks, {name}"] = timed(part, ours.advance)
    given = material(workload, part.device)
    theirs, batches = hand_written(given), Slices(given)
    contestants["hand-written, eager"] = timed(part, lambda: theirs(next(batches)))
    if part.cuda:
        contestants["hand-written, in a graph"] = timed(part, in_a_graph(workload, part))
    measured = interleaved(contestants, steps, rounds)
    return {name: round(1e3 * statistics.median(seconds), 4) for name, seconds in measured.items()}


def timed(part: Part, step: Callable[[], Any]) -> Callable[[int], float]:
    def play(steps: int) -> float:
        part.wait()
        began = time.perf_counter()
        for _ in range(steps):
            step()
        part.wait()
        return (time.perf_counter() - began) / steps

    return play


def in_a_graph(workload: Workload, part: Part) -> Callable[[], None]:
    """The hand-written step as a CUDA graph, as torch's documentation has it."""
    given = material(workload, part.device)
    step, batches = hand_written(given, capturable=True), Slices(given)
    real = next(batches).clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(real)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(real)

    def replay() -> None:
        real.copy_(next(batches))
        graph.replay()

    return replay


def minibatch(part: Part) -> dict[str, Any]:
    """Milliseconds a step and the largest memory with minibatch discrimination, by batch size."""
    found = {}
    for size in part.each([64, 128, 256, 512, 1024]):
        workload = Workload("grid_mlp", (f"data.batch_size={size}",), 2)
        more = ["tricks.separate_batches={}", "tricks.minibatch_discrimination={}"]
        if part.cuda:
            torch.cuda.reset_peak_memory_stats()
        ours = game(workload, more, device=part.device)
        ours = captured(ours) if part.cuda else ours
        seconds = interleaved({"": timed(part, ours.advance)}, 2 if part.few else 20, 2 if part.few else 7)[""]
        found[str(size)] = {"ms": round(1e3 * statistics.median(seconds), 4)}
        if part.cuda:
            found[str(size)]["MiB"] = round(torch.cuda.max_memory_allocated() / 2**20)
    return found


PARTS: dict[int, Callable[[Part], dict[str, Any]]] = {
    1: cuda_tests,
    2: tricks,
    3: captures,
    4: memory,
    5: lambda part: speed(part, ["mlp-256", "dcgan-32"]),
    6: lambda part: speed(part, ["dcgan-64", "dcgan-128", "resnet-64"]),
    7: minibatch,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", type=int, choices=PARTS, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--few", action="store_true", help="a few small items, to see that the script works")
    parser.add_argument("--out", type=Path, default=Path("first_gpu_hour.json"))
    parsed = parser.parse_args()
    part = Part(parsed.device, parsed.few)
    if part.cuda and not torch.cuda.is_available():
        parser.error("there is no CUDA device here; --device cpu --few shows that the script works")
    began = time.monotonic()
    with place(parsed.device, "fp32").computing():  # as runs compute: products in IEEE, the same convolutions
        found = PARTS[parsed.part](part)
    facts = machine(torch.get_num_threads())
    if part.cuda:
        facts["gpu"] = torch.cuda.get_device_name(part.device)
    result = {"machine": facts, "seconds": round(time.monotonic() - began), "found": found}
    if part.not_reached:
        result["not reached"] = part.not_reached
    report = json.loads(parsed.out.read_text(encoding="utf-8")) if parsed.out.exists() else {}
    report[f"part {parsed.part}"] = result
    parsed.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
