"""`gantricks tricks`: shows all tricks in a table, or the card of one."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from gantricks.catalogue.evidence import OPEN, Evidence, evidence_of, shipped_evidence
from gantricks.catalogue.index import describe, index
from gantricks.catalogue.registry import Registry
from gantricks.cli.console import READABLE, Text, output, write_command, write_json, write_prose
from gantricks.cli.options import Option, options, toml
from gantricks.errors import Problem, UserError
from gantricks.hooks import KINDS
from gantricks.trick import CAPABILITIES, Trick

Card = dict[str, Any]


def list_tricks(plugins: Sequence[Path], json: bool) -> None:
    """List name, kinds of hook and summary of every trick; where that needs an import, only name and origin."""
    ours = index()["tricks"]
    theirs = {name: origin for name, origin in Registry(plugins).names("tricks").items() if name not in ours}
    if json:
        described = [_brief(name, card) for name, card in ours.items()]
        write_json([*described, *({"name": name, "origin": origin} for name, origin in theirs.items())])
        return
    console = output()
    columns = list(shipped_evidence()["columns"])
    rows = [(name, ", ".join(_kinds(card)), Text(card["summary"])) for name, card in ours.items()]
    rows += [(name, "", Text(f"from {origin}", "dim")) for name, origin in theirs.items()]
    if console.width < READABLE:
        for name, kinds, summary in rows:
            console.print(Text.assemble((name, "bold"), (f"  {kinds}", "dim")))
            console.print(Padding(summary, (0, 0, 0, 4)))
            for known in evidence_of(name):
                console.print(Padding(Text(known.sentence, _tone(known)), (0, 0, 0, 4)))
    else:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
        table.add_column("trick", style="bold", no_wrap=True)
        table.add_column("kind", style="dim")
        table.add_column("what it does")
        for column in columns:
            table.add_column(column, no_wrap=True)
        for name, kinds, summary in rows:
            cells = {found.column: _brief_evidence(found) for found in evidence_of(name)}
            table.add_row(name, kinds, summary, *(cells.get(column, Text("–", "dim")) for column in columns))
        console.print(table)
    console.print()
    if columns:
        told = "; ".join(f"{name}: {_trained(study)}" for name, study in shipped_evidence()["columns"].items())
        console.print(Text(f"Effects with a verdict; ?: not established; –: not measured. {told}.", "dim"))
        console.print()
    console.print(Text("To see the card and the options of one:", "dim"))
    write_command(console, "gantricks tricks NAME")


def show_trick(name: str, plugins: Sequence[Path], json: bool) -> None:
    """Show the card of a trick, where to read more, its options, its needs and conflicts, and lines for a recipe."""
    registry = Registry(plugins)
    card = _card(registry, name)
    known = list(options(card["options"]))
    snippet = _snippet(name, known)
    if json:
        facts = {fact: card[fact] for fact in ("needs", "provides", "replaces", "conflicts", "cautions", "neutral")}
        write_json(
            _brief(name, card)
            | {
                "origin": registry.names("tricks")[name],
                "card": card["card"],
                "details": card["details"],
                "options": [option.as_dict() for option in known],
                "hooks": card["hooks"],
                **facts,
                "capturable": card["capturable"],
                "evidence": [known._asdict() for known in evidence_of(name)],
                "toml": snippet,
            }
        )
        return
    console = output()
    hooks = ", ".join(f"{hook} ({KINDS[hook]})" for hook in card["hooks"])
    console.print(Text.assemble((name, "bold"), (f"  {hooks}", "dim")))
    console.print()
    write_prose(console, card["card"])
    _write_evidence(console, name)
    if card["details"]:
        console.print(Text(f"More on it: {_page(registry, name)}", "dim"), soft_wrap=True)
        console.print()
    if known:
        _write_options(console, known)
    _write_facts(console, card)
    console.print(Text("In a recipe, with its defaults:", "dim"))
    console.print()
    for line in snippet.splitlines():
        console.print(Text(f"  {line}", "cyan"), soft_wrap=True)


def check_trick(name: str | None, plugins: Sequence[Path], json: bool) -> int:
    """Check every generic law on a trick at its trial settings and print the results. Returns the exit status."""
    if name is None:
        raise UserError(Problem("which trick is to be checked?", "--check", "gantricks tricks NAME --check"))
    from gantricks.testing import run_suite

    trick: type[Trick] = Registry(plugins).load("tricks", name).cls
    outcomes = run_suite(trick)
    counts = Counter(outcome.status for outcome in outcomes)
    status = 0 if all(outcome.ok for outcome in outcomes) else 2
    if json:
        write_json({"trick": name, "checks": [asdict(outcome) for outcome in outcomes], "counts": counts})
        return status
    console = output()
    marks = {"passed": ("ok", "green"), "skipped": ("-", "dim"), "failed": ("broken", "bold red")}
    for outcome in outcomes:
        mark, style = marks[outcome.status]
        console.print(Text.assemble((f"{mark:8}", style), (f"{outcome.id:14}", "bold"), outcome.detail))
        if not outcome.ok:
            console.print(Padding(Text(outcome.hint), (0, 0, 0, 8)))
    told = ", ".join(f"{counts[state]} {state}" for state in ("passed", "failed", "skipped"))
    settings = ", ".join(f"{option} = {value}" for option, value in trick.trial.items()) or "its defaults"
    console.print()
    console.print(Text(f"{name} at {settings}: {told}"))
    return status


def _card(registry: Registry, name: str) -> Card:
    if name in index()["tricks"]:
        card: Card = index()["tricks"][name]
        return card
    return describe("tricks", registry.load("tricks", name).cls)


def _page(registry: Registry, name: str) -> str:
    """Where the details of a trick stand: its page, or for one that does not ship the file with its docstring."""
    if name in index()["tricks"]:
        return f"docs/tricks/{name}.md"
    return str(sys.modules[registry.load("tricks", name).cls.__module__].__file__)


def _kinds(card: Card) -> list[str]:
    return list(dict.fromkeys(KINDS[hook] for hook in card["hooks"]))


def _brief(name: str, card: Card) -> dict[str, Any]:
    return {"name": name, "origin": "gantricks", "kinds": _kinds(card), "summary": card["summary"]}


def _write_evidence(console: Console, name: str) -> None:
    if not (found := evidence_of(name)):
        return
    table = Table.grid(padding=(0, 2))
    for known in found:
        time = f"time of a step {known.price}" if known.price else ""
        table.add_row(
            Text(known.column, "dim"),
            Text(known.verdict, _tone(known)),
            known.effect,
            f"{known.runs} runs with it",
            Text(time, "dim"),
        )
    console.print(Text("Measured (docs/evidence.md):", "dim"))
    console.print(Padding(table, (0, 0, 1, 2), expand=False))


def _brief_evidence(found: Evidence) -> Text:
    """Return a finding in a few characters: the effect where there is one."""
    words = {"helps": found.effect.partition(" [")[0], "hurts": found.effect.partition(" [")[0], OPEN: "?"}
    return Text(words.get(found.verdict, found.verdict.partition(":")[0]), _tone(found))


def _tone(found: Evidence) -> str:
    return {"helps": "green", "hurts": "red", OPEN: "dim"}.get(found.verdict, "")


def _trained(study: dict[str, Any]) -> str:
    return f"{study['figure']} after {study['steps']:,} steps, {study['better']} is better, {study['runs']} runs"


def _write_options(console: Console, known: list[Option]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
    table.add_column("option", style="bold", no_wrap=True)
    table.add_column("type")
    table.add_column("default", style="cyan")
    table.add_column("what it is")
    for option in known:
        default = option.default or (Text("required", "yellow") if option.required else "left out")
        table.add_row(option.name, option.type, default, option.description)
    console.print(table, width=min(console.width, READABLE))
    console.print()


def _write_facts(console: Console, card: Card) -> None:
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column()
    for need in card["needs"]:
        facts.add_row("needs", f"{need}: {CAPABILITIES[need]}" if need in CAPABILITIES else need)
    for fact in ("provides", "replaces"):
        if card[fact]:
            facts.add_row(fact, ", ".join(card[fact]))
    for other, reason in card["conflicts"].items():
        facts.add_row("conflicts with", f"{other}: {reason}")
    for other, reason in card["cautions"].items():
        facts.add_row("careful with", f"{other}: {reason}")
    if card["neutral"] is not None:
        settings = ", ".join(f"{key} = {toml(value)}" for key, value in card["neutral"].items())
        facts.add_row("changes nothing at", settings or "its defaults")
    if not card["capturable"]:
        facts.add_row("capture", "no; a step with it runs uncaptured, which is slower")
    if facts.row_count:
        console.print(Padding(facts, 0, expand=False), width=min(console.width, READABLE))
        console.print()


def _snippet(name: str, known: list[Option]) -> str:
    lines = [f"[tricks.{name}]"]
    for option in known:
        if option.default is not None:
            lines.append(f"{option.name} = {option.default}")
        else:
            lines.append(f"{'' if option.required else '# '}{option.name} = …")
    return "\n".join(lines)
