"""What the benchmarks share: the workloads, the hand-written loop, taking turns, and the report."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gantricks import Discriminator, Generator
from gantricks.catalogue.registry import Registry
from gantricks.engine.capture import CUDA_GRAPH, INDUCTOR, Capturing
from gantricks.engine.game import Game
from gantricks.engine.start import start
from gantricks.planning.device import place
from gantricks.planning.plan import make_plan
from gantricks.planning.validation import load_recipe


@dataclass(frozen=True)
class Workload:
    """A recipe with its overrides, and how many of its steps make a round that is long enough to be timed."""

    recipe: str
    overrides: tuple[str, ...]
    steps: int


WIDE = ("generator.channels=64", "discriminator.channels=64")
WORKLOADS = {
    "mlp-64": Workload("grid_mlp", ("data.batch_size=64",), 150),
    "mlp-256": Workload("grid_mlp", ("data.batch_size=256",), 100),
    "dcgan-32": Workload("dcgan", WIDE, 4),
    "dcgan-32-narrow": Workload("dcgan", (), 8),
    "dcgan-32-plain-d": Workload("dcgan", (*WIDE, "discriminator.batch_norm=false"), 4),
    "dcgan-64": Workload("dcgan", ("data.image_size=64", *WIDE), 2),
}


def game(
    workload: Workload,
    more: Iterable[str] = (),
    precision: str = "fp32",
    registry: Registry | None = None,
    device: str = "cpu",
) -> Game:
    """A game of `workload` with further overrides."""
    overrides = [f"train.device={device}", "train.steps=1000000000", *workload.overrides, *more]
    plan = make_plan(load_recipe(workload.recipe, overrides, registry))
    return start(plan, plan.source.load(), place(device, precision))


def captured(game: Game) -> Game:
    """`game` with its step compiled, or on a GPU recorded, one step later."""
    capturing = game.play = Capturing(game, CUDA_GRAPH if game.placement.device.type == "cuda" else INDUCTOR)
    game.advance()
    assert capturing.backend, game.warnings
    return game


LEARNING: dict[str, Any] = {"lr": 2e-4, "betas": (0.5, 0.999)}


@dataclass(frozen=True)
class Material:
    """What a loop that is not ours is given: networks in PyTorch's own layout, and its data loaded beforehand.

    `samples`: (N, C, H, W) in [-1, 1] or (N, D), float32, contiguous.
    """

    generator: Generator
    discriminator: Discriminator
    samples: Tensor
    batch_size: int

    @property
    def latent_dim(self) -> int:
        return self.generator.latent_dim


def material(workload: Workload, device: str = "cpu") -> Material:
    ours = game(workload, device=device)
    for network in (ours.generator, ours.discriminator):
        # a stub of Module.to leaves out the layout alone
        network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    every = torch.arange(ours.feed.count, device=ours.placement.device)
    samples = ours.feed.take(every).images.contiguous()
    return Material(ours.generator, ours.discriminator, samples, ours.feed.batch_size)


def hand_written(given: Material, r1: float = 0.0, capturable: bool = False) -> Callable[[Tensor], None]:
    """One step of the loop that people write, as a function of the real batch. `r1` is the weight γ of the penalty
    γ / 2 ‖∇D‖² on real samples, 0 for none (Mescheder et al. 2018, eq. 9). `capturable` is Adam's, for a CUDA graph.
    """
    generator, discriminator, size = given.generator, given.discriminator, given.batch_size
    device = given.samples.device
    d_adam = torch.optim.Adam(discriminator.parameters(), capturable=capturable, **LEARNING)
    g_adam = torch.optim.Adam(generator.parameters(), capturable=capturable, **LEARNING)
    criterion = nn.BCEWithLogitsLoss()
    ones, zeros = torch.ones(size, 1, device=device), torch.zeros(size, 1, device=device)

    def step(real: Tensor) -> None:
        d_adam.zero_grad()
        real = real.detach().requires_grad_(bool(r1))
        logits = discriminator(real).logits
        loss = criterion(logits, ones)
        if r1:
            (gradient,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
            loss = loss + r1 / 2 * gradient.square().flatten(1).sum(1).mean()
        loss.backward()
        fake = generator(torch.randn(size, given.latent_dim, device=device))
        criterion(discriminator(fake.detach()).logits, zeros).backward()
        d_adam.step()

        g_adam.zero_grad()
        criterion(discriminator(fake).logits, ones).backward()
        g_adam.step()

    return step


class Slices:
    """The preloaded data, batch after batch, without end."""

    def __init__(self, given: Material) -> None:
        self.samples, self.size, self.position = given.samples, given.batch_size, 0

    def __iter__(self) -> Slices:
        return self

    def __next__(self) -> Tensor:
        self.position = (self.position + self.size) % (len(self.samples) - self.size)
        return self.samples[self.position : self.position + self.size]


# ---------------------------------------------------------------- taking turns


def seconds_per_step(step: Callable[[], Any], steps: int) -> float:
    start = time.perf_counter()
    for _ in range(steps):
        step()
    return (time.perf_counter() - start) / steps


@dataclass(frozen=True)
class Ratio:
    """The median of a ratio round by round, and where its middle half lies."""

    ratio: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.ratio:7.3f}  {self.low:.3f}–{self.high:.3f}"


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Of paired times. Rounds that something else on the machine disturbs disturb both, or fall out of the middle."""
    ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    quarter = len(ratios) // 4
    return Ratio(statistics.median(ratios), ratios[quarter], ratios[-1 - quarter])


def interleaved(
    contestants: dict[Any, Callable[[int], float]], steps: int, rounds: int, warm_up: int = 1
) -> dict[Any, list[float]]:
    """Seconds per step of each contestant in each round. Each is a function that plays so many steps and returns the
    seconds per step that they took; they take turns (A B C, A B C …) after `warm_up` rounds that do not count.
    """
    times: dict[Any, list[float]] = {name: [] for name in contestants}
    for number in range(warm_up + rounds):
        for name, play in contestants.items():
            seconds = play(steps)
            if number >= warm_up:
                times[name].append(seconds)
    return times


# ---------------------------------------------------------------- the report


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11, help="how often the contestants take turns")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="also write the figures to this JSON file")
    return parser


def processor() -> str:
    """What this machine computes on."""
    described = Path("/proc/cpuinfo")
    lines = described.read_text(encoding="utf-8").splitlines() if described.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def machine(threads: int) -> dict[str, Any]:
    """The machine's description, and how busy others keep it."""
    return {
        "processor": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": datetime.now(UTC).date().isoformat(),
    }


def begin(parsed: argparse.Namespace, **how: Any) -> dict[str, Any]:
    """Set the threads, print what the figures are taken on, and return the report's head."""
    torch.set_num_threads(parsed.threads)
    facts = machine(parsed.threads)
    shown = "".join(f", {name} {value}" for name, value in how.items() if value)
    print(
        f"torch {facts['torch']}, {facts['processor']} ({facts['instructions']}), {facts['cores']} cores, "
        f"{parsed.threads} threads, load {facts['load']}{shown}"
    )
    return {"machine": facts, **how}


def write(out: Path | None, head: dict[str, Any], results: Any) -> None:
    if out:
        report = {**head, "results": results}
        out.write_text(json.dumps(report, indent=1, default=asdict) + "\n", encoding="utf-8")
