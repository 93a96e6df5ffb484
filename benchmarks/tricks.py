"""What each trick costs: the time of a step with it, over the time of the step without.

    python benchmarks/tricks.py                                 every shipped trick on mlp-256 and dcgan-32
    python benchmarks/tricks.py --only mlp-256 --tricks ema historical_averaging --rounds 21
    python benchmarks/tricks.py --only mlp-256 --tricks hooks   eight tricks that do nothing, on every hook

With and without take turns in one process (A B A B …); printed are the median of the ratio round by round and its
middle half. Tricks run at their defaults, beside `separate_batches` where they need it (the step without has it too). A
trick that the workload cannot have is left out, with the reason.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from step import processor, seconds_per_step

from gantricks import Trick, UserError, hookimpl
from gantricks.device import place
from gantricks.game import Game
from gantricks.plan import make_plan
from gantricks.recipe import load_recipe
from gantricks.registry import Registry, shipped

WORKLOADS = {
    # name: (recipe, overrides, steps per round)
    "mlp-256": ("grid_mlp", ["data.batch_size=256"], 60),
    "dcgan-32": ("dcgan", ["discriminator.batch_norm=false"], 4),
}
ALWAYS = ["train.device=cpu", "train.steps=1000000000"]


class Idle(Trick):
    """Every hook of a step, each doing nothing."""

    @hookimpl
    def on_boundary(self, ctx): ...

    @hookimpl
    def before_d_step(self, ctx): ...

    @hookimpl
    def latents(self, z, ctx):
        return z

    @hookimpl
    def fake_batch(self, batch, ctx):
        return batch

    @hookimpl
    def d_input(self, batch, is_real, ctx):
        return batch

    @hookimpl
    def d_assignment(self, is_real, ctx):
        return is_real

    @hookimpl
    def d_labels(self, labels, is_real, ctx):
        return labels

    @hookimpl
    def d_loss_terms(self, ctx):
        return {}

    @hookimpl
    def after_d_backward(self, ctx): ...

    @hookimpl
    def after_d_step(self, ctx): ...

    @hookimpl
    def before_g_step(self, ctx): ...

    @hookimpl
    def g_labels(self, labels, ctx):
        return labels

    @hookimpl
    def g_loss_terms(self, ctx):
        return {}

    @hookimpl
    def after_g_backward(self, ctx): ...

    @hookimpl
    def after_g_step(self, ctx): ...


def game(recipe: str, overrides: list[str]) -> Game:
    registry = Registry(installed=False, given={"tricks": {"idle": Idle}})
    plan = make_plan(load_recipe(recipe, [*ALWAYS, *overrides], registry))
    return Game(plan, plan.source.load(), place("cpu", "fp32"))


def pair(workload: str, trick: str) -> tuple[Game, Game]:
    """(with the trick, without it). Raises UserError where they do not go together."""
    recipe, overrides, _ = WORKLOADS[workload]
    if trick == "hooks":
        added = [f'tricks.idle{number}={{use="idle"}}' for number in range(8)]
        return game(recipe, [*overrides, *added]), game(recipe, overrides)
    needs = set(Registry(installed=False).load("tricks", trick).cls.needs)
    if needs & {"classes", "generator_conditional", "discriminator_conditional"} and workload != "mlp-256":
        overrides = [*overrides, "generator.conditional=true"]
        if "discriminator_conditional" in needs:
            overrides = [*overrides, "discriminator.conditional=true"]
    if "separate_passes" in needs:
        overrides = [*overrides, "tricks.separate_batches={}"]
    return game(recipe, [*overrides, f"tricks.{trick}={{}}"]), game(recipe, overrides)


def measure(workload: str, trick: str, rounds: int) -> dict[str, float]:
    steps = WORKLOADS[workload][2]
    with_it, without = (one.advance for one in pair(workload, trick))
    for step in (with_it, without):
        seconds_per_step(step, max(3, steps // 4))
    ratios = sorted(seconds_per_step(with_it, steps) / seconds_per_step(without, steps) for _ in range(rounds))
    quarter = len(ratios) // 4
    return {"ratio": statistics.median(ratios), "ratio_low": ratios[quarter], "ratio_high": ratios[-1 - quarter]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=WORKLOADS, nargs="+", default=list(WORKLOADS))
    parser.add_argument("--tricks", nargs="+", choices=["hooks", *shipped("tricks")], metavar="TRICK")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="also write the figures to this JSON file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    print(f"torch {torch.__version__}, {processor()}, {arguments.threads} threads")
    results: dict[str, Any] = {}
    for workload in arguments.only:
        print(f"{workload:26} {'ratio':>6}  middle half")
        for trick in arguments.tricks or ["hooks", *shipped("tricks")]:
            try:
                figures = measure(workload, trick, arguments.rounds)
            except UserError as refused:
                print(f"  {trick:24}      -  {refused.problems[0].what}")
                continue
            results[f"{workload}/{trick}"] = figures
            told = f"{figures['ratio']:6.3f}  {figures['ratio_low']:.3f}–{figures['ratio_high']:.3f}"
            print(f"  {trick:24} {told}", flush=True)
    if arguments.out:
        report = {"machine": {"processor": processor(), "threads": arguments.threads}, "torch": torch.__version__}
        arguments.out.write_text(json.dumps(report | {"results": results}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
