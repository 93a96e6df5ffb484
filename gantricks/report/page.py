"""The page: self-contained HTML that loads nothing and has no scripts."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files

from gantricks.catalogue.evidence import evidence
from gantricks.errors import legible
from gantricks.metrics.base import figure_of
from gantricks.report.chart import chart
from gantricks.report.records import Curve, Record, differing
from gantricks.runs.manifest import Manifest

COLOURS = 8
"""The number of colours for the curves of one chart. Further curves repeat them."""

GROUPS = {
    "Losses": {"D": "loss/d", "G": "loss/g"},
    "Logits of D": {"reals": "logits/real", "fakes": "logits/fake"},
    "Norms of gradients": {"D": "gradient_norm/d", "G": "gradient_norm/g"},
    "Learning rates": {"D": "learning_rate/d", "G": "learning_rate/g"},
}
"""Scalars that share a chart on the page of a single run."""


def page(records: Sequence[Record]) -> str:
    """Return the page about these runs: facts, differences, samples, evaluations and curves."""
    title = " · ".join(dict.fromkeys(record.recipe.name or record.folder.name for record in records))
    body = [_heading(records, title), _differences(list(records)), _pictures(records), _evaluations(records)]
    body += [_curves(records), _recipes(records), _evidence(records), _environments(records)]
    style = (files("gantricks.report") / "style.css").read_text(encoding="utf-8")
    return legible(
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def _heading(records: Sequence[Record], title: str) -> str:
    if len(records) == 1:
        return f"<header><h1>{escape(title)}</h1><p>{_summary(records[0])}</p></header>"
    rows = "".join(
        f'<li><span class="key c{number % COLOURS}"></span><b>{escape(str(record.folder))}</b> {_summary(record)}</li>'
        for number, record in enumerate(records)
    )
    return f'<header><h1>{escape(title)}</h1><ul class="runs">{rows}</ul></header>'


def _summary(record: Record) -> str:
    recipe, steps = record.recipe, record.recipe.train.steps
    parts = [f"{recipe.data.source}, seed {recipe.seed}"]
    parts.append(f"{record.steps:,} of {steps:,} steps" if steps is not None else f"{record.steps:,} steps")
    tricks = ", ".join(recipe.tricks) or "no tricks"
    return escape(f"{' · '.join(parts)} · {tricks}")


def _differences(records: list[Record]) -> str:
    if len(records) < 2:
        return ""
    rows = differing(records)
    if not rows:
        return _section("What differs", "<p>Nothing: the recipes are the same.</p>")
    cells = [[key, *("" if value is None else value for value in values)] for key, values in rows.items()]
    return _section("What differs", _table(["key", *_names(records)], cells))


def _pictures(records: Sequence[Record]) -> str:
    figures = []
    for record in records:
        if record.picture:
            step, png = record.picture
            name = f"{record.folder}, " if len(records) > 1 else ""
            data = base64.b64encode(png).decode("ascii")
            figures.append(
                f'<figure><img alt="Samples at step {step}" src="data:image/png;base64,{data}">'
                f"<figcaption>{escape(name)}step {step:,}</figcaption></figure>"
            )
    return _section("Samples", f'<div class="row">{"".join(figures)}</div>') if figures else ""


def _evaluations(records: Sequence[Record]) -> str:
    """Return a table with a row per figure and a column per run, with the figures of real samples."""
    rows: dict[str, list[str]] = {}
    floors: dict[str, str] = {}
    for number, record in enumerate(records):
        for label, value, floor in _figures(record):
            rows.setdefault(label, [""] * len(records))[number] = value
            floors[label] = floor or floors.get(label, "")
    if not rows:
        return ""
    names = ["value"] if len(records) == 1 else _names(records)
    cells = [[label, *values, floors[label]] for label, values in rows.items()]
    given = [", ".join(record.evaluation.overrides) for record in records]
    notes = [
        f"{name}: {words}" if len(records) > 1 else words for name, words in zip(names, given, strict=True) if words
    ]
    set_for_it = f'<p class="note">Set for the evaluation: {escape("; ".join(notes))}.</p>' if notes else ""
    return _section("Evaluation", _table(["figure", *names, "real against real"], cells) + set_for_it)


def _figures(record: Record) -> Iterator[tuple[str, str, str]]:
    for entry in record.evaluation.metrics:
        for name, figure in entry.figures.items():
            label = f"{entry.metric}: {name}, {figure.better} is better"
            yield label, _figure(figure.value), "" if figure.floor is None else _figure(figure.floor)


def _figure(value: float | None) -> str:
    return f"{value:.5g}" if value is not None and math.isfinite(value) else "not finite"


def _curves(records: Sequence[Record]) -> str:
    charts, constant = [], []
    for title, curves in _charts(records):
        values = {value for _, _, curve in curves for _, value in curve}
        if len(values) == 1 and None not in values:
            constant.append(f"{title.lower()} {_figure(values.pop())}")
        elif drawn := chart(title, curves):
            legend = "".join(
                f'<li><span class="key c{colour}"></span>{escape(name)}</li>' for name, colour, _ in curves if name
            )
            keys = f'<ul class="legend">{legend}</ul>' if legend else ""
            charts.append(f"<figure><figcaption>{escape(title)}</figcaption>{keys}{drawn}</figure>")
    same = f'<p class="note">The same at every step: {escape(", ".join(constant))}.</p>' if constant else ""
    return _section("Curves", f'<div class="charts">{"".join(charts)}</div>{same}') if charts or same else ""


def _charts(records: Sequence[Record]) -> Iterator[tuple[str, list[tuple[str, int, Curve]]]]:
    """Yield title and curves of every chart: for one run the groups of scalars, for several runs the same scalar of
    each. Figures of metrics come first.
    """
    names = dict.fromkeys(name for record in records for name in record.curves)
    figures = [name for name in names if figure_of(name)]
    if len(records) == 1:
        curves, grouped = records[0].curves, set(figures)
        for name in figures:
            yield _title(name), [("", 0, curves[name])]
        for title, members in GROUPS.items():
            there = [(label, curves[key]) for label, key in members.items() if key in curves]
            shown = [(label, number, curve) for number, (label, curve) in enumerate(there)]
            grouped |= set(members.values())
            if shown:
                yield title, shown
        for name in names:
            if name not in grouped:
                yield name, [("", 0, curves[name])]
        return
    for name in dict.fromkeys([*figures, *names]):
        yield (
            _title(name),
            [
                ("", number % COLOURS, record.curves[name])
                for number, record in enumerate(records)
                if name in record.curves
            ],
        )


def _title(scalar: str) -> str:
    """Return the title of a scalar's chart. A figure has the title that it has among the evaluations."""
    metric, figure = figure_of(scalar) or (scalar, scalar)
    return metric if metric == figure else f"{metric}: {figure}"


def _recipes(records: Sequence[Record]) -> str:
    if len(records) == 1:
        return _section("Recipe", f"<pre>{escape(records[0].text.strip())}</pre>")
    each = "".join(
        f"<details><summary>{escape(str(record.folder))}</summary><pre>{escape(record.text.strip())}</pre></details>"
        for record in records
    )
    return _section("Recipes", each)


def _evidence(records: Sequence[Record]) -> str:
    """Return what studies have found out about the tricks of these runs."""
    uses = {name: use for record in records for name, use in record.tricks.items()}
    cells = [[name if name == use else f"{name} ({use})", evidence(use)] for name, use in uses.items()]
    return _section("Tricks in studies", _table(["trick", "what studies have found"], cells)) if cells else ""


def _environments(records: Sequence[Record]) -> str:
    facts: dict[str, list[str]] = {}
    for number, record in enumerate(records):
        for key, value in _environment(record.manifest).items():
            facts.setdefault(key, [""] * len(records))[number] = value
    if not facts:
        return ""
    names = [""] if len(records) == 1 else _names(records)
    return _section("Environment", _table(["", *names], [[key, *values] for key, values in facts.items()]))


def _environment(manifest: Manifest) -> dict[str, str]:
    plain = ("gantricks", "torch", "numpy", "python", "platform", "device_name", "precision", "capture", "threads")
    found = {key: getattr(manifest, key) for key in plain}
    facts = {key.replace("_", " "): str(value) for key, value in found.items() if value is not None}
    for role, count in manifest.parameters.items():
        facts[f"parameters of the {role}"] = f"{count:,}"
    others = [f"{name} from {trick.origin}" for name, trick in manifest.tricks.items() if trick.origin != "gantricks"]
    if others:
        facts["tricks of others"] = ", ".join(others)
    for session in manifest.sessions[-1:]:
        began = (session.began or "")[:19].replace("T", " ")
        facts["last session"] = f"{began}, {' '.join(session.argv)}"
    return facts


def _names(records: Sequence[Record]) -> list[str]:
    return [str(record.folder) for record in records]


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(
        f"<tr><th>{escape(row[0])}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in row[1:])}</tr>" for row in rows
    )
    top = f"<thead><tr>{cells}</tr></thead>" if any(head) else ""
    return f'<div class="wide"><table>{top}<tbody>{body}</tbody></table></div>'
