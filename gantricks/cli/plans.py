"""Shows a plan as text, and as JSON."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from gantricks import optimizer_options
from gantricks.catalogue.evidence import NONE, evidence, evidence_of
from gantricks.cli.console import Text
from gantricks.data.base import Description
from gantricks.hooks import KINDS
from gantricks.planning.device import Placement
from gantricks.planning.plan import Plan

ROLES = ("generator", "discriminator")


def as_dict(plan: Plan, placement: Placement) -> dict[str, Any]:
    """Return the plan as plain data; `gantricks check --json` prints it."""
    recipe, description = plan.recipe, plan.description
    counts = plan.parameters()
    return {
        "recipe": recipe.name,
        "seed": recipe.seed,
        "steps": recipe.train.steps,
        "n_critic": recipe.train.n_critic,
        "checkpoints": _checkpoints(plan),
        "device": str(placement.device),
        "precision": placement.precision,
        "threads": placement.threads,
        "data": {
            "source": recipe.data.found.name,
            "count": description.count,
            "shape": list(description.shape),
            "classes": list(description.class_names),
            "batch_size": recipe.data.keys.batch_size,
        },
        **{
            role: {
                "network": getattr(recipe, role).found.name,
                "parameters": counts[role],
                "optimizer": getattr(recipe, role).keys.optimizer.model_dump(mode="json"),
            }
            for role in ROLES
        },
        "tricks": [
            {
                "name": planned.name,
                "use": planned.use,
                "origin": planned.origin,
                "evidence": [found._asdict() for found in evidence_of(planned.use)],
            }
            for planned in plan.tricks
        ],
        "metrics": [{"name": planned.name, "use": planned.use} for planned in plan.measured or plan.metrics],
        "loggers": [{"name": planned.name, "use": planned.use, "origin": planned.origin} for planned in plan.loggers],
        "evaluate": recipe.evaluate.model_dump(mode="json"),
        "hooks": [{"hook": hook, "kind": KINDS[hook], "tricks": list(names)} for hook, names in plan.on.items()],
        "warnings": list(plan.warnings),
    }


def write_plan(console: Console, plan: Plan, placement: Placement) -> None:
    """Write the plan on one screen: the recipe, the device, the data, the networks, the tricks hook by hook,
    warnings.
    """
    recipe = plan.recipe
    console.print(Text.assemble((recipe.name, "bold"), f" on {placement}"))
    console.print(Padding(_facts(plan), (0, 0, 0, 2), expand=False))
    if plan.on:
        console.print(Padding(_hooks(plan), (1, 0, 0, 2), expand=False))
    for warning in plan.warnings:
        write_warning(console, warning)
    console.print()


def write_evidence(console: Console, plan: Plan) -> None:
    """Write what studies have found out about those tricks of the plan that ship with gantricks."""
    ours = [planned for planned in plan.tricks if planned.origin == "gantricks"]
    if not ours:
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
    table.add_column("trick", no_wrap=True)
    table.add_column("what studies have found (docs/evidence.md)")
    for planned in ours:
        found = evidence(planned.use)
        table.add_row(Text(_instance(planned.name, planned.use), "cyan"), Text(found, "dim" if found == NONE else ""))
    console.print(Padding(table, (0, 0, 1, 2), expand=False))


def write_warning(console: Console, sentence: str) -> None:
    """Write a warning that does not stop the command."""
    line = Table.grid(padding=(0, 1))
    line.add_row(Text("!", "bold yellow"), Text(sentence, "yellow"))
    console.print(Padding(line, (0, 0, 0, 2), expand=False))


def _facts(plan: Plan) -> Table:
    recipe, counts = plan.recipe, plan.parameters()
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column()
    batches = f"in batches of {recipe.data.keys.batch_size:,}"
    facts.add_row("data", f"{recipe.data.found.name}: {_samples(plan.description)}, {batches}")
    for role in ROLES:
        part = getattr(recipe, role)
        optimizer = part.keys.optimizer
        facts.add_row(
            role, f"{part.found.name}: {counts[role]:,} parameters, {optimizer.name} with lr {optimizer.lr:g}"
        )
    n_critic = recipe.train.n_critic
    each = f", each {n_critic} D steps and a G step" if n_critic > 1 else ""
    over = f", schedules over {recipe.train.length:,}" if recipe.train.length != recipe.train.steps else ""
    facts.add_row("run", f"{recipe.train.steps:,} steps{over}{each}, seed {recipe.seed}")
    saved = _checkpoints(plan)
    times = f"{saved['kept']:,} × {_size(saved['bytes_each'])} = " if saved["kept"] > 1 else ""
    each = f"every {recipe.train.checkpoint_every:,} steps" if saved["written"] > 1 else "one, at the end"
    kept = f", the newest {saved['kept']:,} kept" if saved["kept"] < saved["written"] else ""
    facts.add_row("checkpoints", f"{each}{kept}: about {times}{_size(saved['bytes'])}")
    if plan.measured or plan.metrics:
        facts.add_row("metrics", _metrics(plan))
    if plan.loggers:
        facts.add_row("loggers", ", ".join(_instance(planned.name, planned.use) for planned in plan.loggers))
    if not plan.tricks:
        facts.add_row("tricks", "none")
    elif idle := [p.name for p in plan.tricks if not any(p.name in names for names in plan.on.values())]:
        facts.add_row("tricks", f"{', '.join(idle)}: on no hook")
    return facts


def _metrics(plan: Plan) -> str:
    """Return the names of the metrics, and when they are measured."""
    names = ", ".join(_instance(planned.name, planned.use) for planned in plan.measured or plan.metrics)
    every, steps = plan.recipe.evaluate.every, plan.recipe.train.steps
    if every == "off":
        return f"{names}: by gantricks evaluate"
    return f"{names}: every {every:,} steps and at the end" if every < steps else f"{names}: at the end"


def _checkpoints(plan: Plan) -> dict[str, int]:
    """Return how many checkpoints the run writes and keeps, and the size of each in bytes: both networks' parameters
    and the optimizers' state. Buffers and the tricks' tensors are not included.
    """
    recipe, counts = plan.recipe, plan.parameters()
    numbers = sum(
        counts[role] * (1 + optimizer_options.remembered(getattr(recipe, role).keys.optimizer)) for role in ROLES
    )
    written = math.ceil(recipe.train.steps / recipe.train.checkpoint_every)
    kept = written if recipe.train.keep == "all" else min(recipe.train.keep, written)
    each = numbers * (8 if recipe.train.precision == "fp64" else 4)
    return {"written": written, "kept": kept, "bytes_each": each, "bytes": kept * each}


def _size(count: int) -> str:
    """Format a number of bytes with three digits."""
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.3g} {units[0]}" if value < 999.5 else f"{value:,.0f} {units[0]}"


def _samples(description: Description) -> str:
    if description.is_images:
        channels, height, width = description.shape
        size = f"{height} × {width}" + ("" if channels == 1 else f" × {channels}")
        what = f"{'grey ' if channels == 1 else ''}images of {size}"
    else:
        what = f"points of {math.prod(description.shape)} numbers"
    classes = f" in {description.classes:,} classes" if description.classes else ""
    return f"{description.count:,} {what}{classes}"


def _hooks(plan: Plan) -> Table:
    uses = {planned.name: planned.use for planned in plan.tricks}
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
    table.add_column("hook", no_wrap=True)
    table.add_column("kind", style="dim", no_wrap=True)
    table.add_column("tricks, in order")
    for hook, names in plan.on.items():
        shown = [_instance(name, uses[name]) for name in names]
        table.add_row(hook, KINDS[hook], Text(" → ".join(shown), "cyan"))
    return table


def _instance(name: str, use: str) -> str:
    return name if name == use else f"{name} ({use})"
