"""The time of a training step against a hand-written loop with the same networks, losses, optimizers and data.

    python benchmarks/step.py                       every workload
    python benchmarks/step.py --only mlp-256 --rounds 15 --threads 1
    python benchmarks/step.py --only dcgan-32 --tricks soft_labels separate_batches
    python benchmarks/step.py --only mlp-64 --capture      the step compiled to one call
    python benchmarks/step.py --only dcgan-32 --precision bf16

The hand-written loop is `hand_written` below, in the form of PyTorch's DCGAN example: a real and a fake pass of D with
a backward each, one generator forward shared by both players, plain Adam, data loaded beforehand, no `.item()`. The
two contestants take turns in one process (A B A B …); printed are the medians of their times per step, and the median
of the ratio round by round, with its spread.

The two do the same work only where D does not mix samples, or with `--tricks separate_batches`. With batch norm in D
and joint passes, the G step must score the fakes beside a real batch, which the hand-written loop does not do; its
networks are scored in separate passes. "-plain-d" is a D without batch norm.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gantricks.capture import INDUCTOR
from gantricks.device import place
from gantricks.game import Game
from gantricks.plan import make_plan
from gantricks.recipe import load_recipe

WORKLOADS = {
    # name: (recipe, overrides, steps per round)
    "mlp-64": ("grid_mlp", ["data.batch_size=64"], 150),
    "mlp-256": ("grid_mlp", ["data.batch_size=256"], 100),
    "dcgan-32": ("dcgan", ["generator.channels=64", "discriminator.channels=64"], 4),
    "dcgan-32-narrow": ("dcgan", [], 8),
    "dcgan-32-plain-d": (
        "dcgan",
        ["generator.channels=64", "discriminator.channels=64", "discriminator.batch_norm=false"],
        4,
    ),
    "dcgan-64": (
        "dcgan",
        ["data.image_size=64", "generator.channels=64", "discriminator.channels=64"],
        2,
    ),
}


def hand_written(generator: nn.Module, discriminator: nn.Module, samples: torch.Tensor, batch_size: int) -> Callable:
    """One step of the loop that people write, as a function."""
    learning = {"lr": 2e-4, "betas": (0.5, 0.999)}
    d_adam = torch.optim.Adam(discriminator.parameters(), **learning)
    g_adam = torch.optim.Adam(generator.parameters(), **learning)
    criterion = nn.BCEWithLogitsLoss()
    ones, zeros = torch.ones(batch_size, 1), torch.zeros(batch_size, 1)
    position = 0

    def step() -> None:
        nonlocal position
        position = (position + batch_size) % (len(samples) - batch_size)
        real = samples[position : position + batch_size]

        d_adam.zero_grad()
        criterion(discriminator(real).logits, ones).backward()
        fake = generator(torch.randn(batch_size, generator.latent_dim))
        criterion(discriminator(fake.detach()).logits, zeros).backward()
        d_adam.step()

        g_adam.zero_grad()
        criterion(discriminator(fake).logits, ones).backward()
        g_adam.step()

    return step


def contestants(workload: str, tricks: list[str], precision: str, capture: bool) -> tuple[Callable, Callable]:
    """(gantricks, hand-written in fp32), with equal networks, each with its own weights."""
    recipe, overrides, _ = WORKLOADS[workload]
    overrides = [*overrides, "train.device=cpu", "train.steps=1000000000"]

    def game(tricks: list[str]) -> Game:
        plan = make_plan(load_recipe(recipe, [*overrides, *(f"tricks.{trick}={{}}" for trick in tricks)]))
        return Game(plan, plan.source.load(), place("cpu", precision))

    ours = game(tricks)
    if capture:
        ours.backend = INDUCTOR
        ours.advance()
        assert ours.backend, ours.frame.warnings
    precision = "fp32"
    theirs = game([])
    contiguous = {"memory_format": torch.contiguous_format}
    theirs.generator.to(**contiguous)
    theirs.discriminator.to(**contiguous)
    samples = theirs.feed.take(torch.arange(theirs.feed.count)).images.contiguous()
    return ours.advance, hand_written(theirs.generator, theirs.discriminator, samples, theirs.feed.batch_size)


def seconds_per_step(step: Callable[[], Any], steps: int) -> float:
    start = time.perf_counter()
    for _ in range(steps):
        step()
    return (time.perf_counter() - start) / steps


def measure(workload: str, tricks: list[str], rounds: int, precision: str, capture: bool) -> dict[str, float]:
    steps = WORKLOADS[workload][2]
    ours, theirs = contestants(workload, tricks, precision, capture)
    for step in (ours, theirs):
        seconds_per_step(step, max(3, steps // 4))
    pairs = [(seconds_per_step(ours, steps), seconds_per_step(theirs, steps)) for _ in range(rounds)]
    ratios = sorted(a / b for a, b in pairs)
    quarter = len(ratios) // 4
    return {
        "ours_ms": 1e3 * statistics.median(a for a, _ in pairs),
        "hand_written_ms": 1e3 * statistics.median(b for _, b in pairs),
        "ratio": statistics.median(ratios),
        "ratio_low": ratios[quarter],
        "ratio_high": ratios[-1 - quarter],
    }


def processor() -> str:
    """What this machine computes on."""
    described = Path("/proc/cpuinfo")
    lines = described.read_text(encoding="utf-8").splitlines() if described.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=WORKLOADS, nargs="+", default=list(WORKLOADS))
    parser.add_argument("--tricks", nargs="*", default=[], help="tricks that gantricks trains with, at their defaults")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="gantricks' own")
    parser.add_argument("--capture", action="store_true", help="gantricks plays the step compiled to one call")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="also write the figures to this JSON file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    machine = {"processor": processor(), "threads": arguments.threads}
    how = {"tricks": arguments.tricks, "precision": arguments.precision, "captured": arguments.capture}
    print(f"torch {torch.__version__}, {machine['processor']}, {arguments.threads} threads, {how}")
    print(f"{'workload':16} {'gantricks':>12} {'hand-written':>12} {'ratio':>7}  middle half")
    results = {}
    for workload in arguments.only:
        figures = results[workload] = measure(
            workload, arguments.tricks, arguments.rounds, arguments.precision, arguments.capture
        )
        print(
            f"{workload:16} {figures['ours_ms']:9.3f} ms {figures['hand_written_ms']:9.3f} ms {figures['ratio']:7.3f}"
            f"  {figures['ratio_low']:.3f}–{figures['ratio_high']:.3f}",
            flush=True,
        )
    if arguments.out:
        report = {"machine": machine, "torch": torch.__version__, **how, "results": results}
        arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
