"""What a run has written down, read back for a page about it."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gantricks.errors import Problem, UserError

Curve = list[tuple[int, float | None]]
"""(step, value); None where the value was not finite."""


@dataclass(frozen=True)
class Record:
    """A run's folder as data. `recipe` is the resolved one, `settings` its keys in dotted form, `curves` the scalars of
    metrics.jsonl by name, `picture` the last one of its samples and the step it was drawn at, `evaluation` what
    `gantricks evaluate RUN --json > RUN/evaluation.json` has left there.
    """

    folder: Path
    recipe: dict[str, Any]
    text: str
    manifest: dict[str, Any]
    curves: dict[str, Curve]
    picture: tuple[int, bytes] | None
    evaluation: dict[str, Any]

    @property
    def settings(self) -> dict[str, str]:
        return flat(self.recipe)

    @property
    def steps(self) -> int:
        """How far the run is, as far as it has said."""
        return max((curve[-1][0] for curve in self.curves.values() if curve), default=0)


def read_run(folder: Path) -> Record:
    """Read a run's folder. Raises UserError when it is none, or when a file in it is damaged."""
    path = folder / "recipe.toml"
    if not path.is_file():
        what = "the folder is not a run: it has no recipe.toml" if folder.is_dir() else "there is no such folder"
        raise UserError(Problem(what, str(folder), "name a folder that `gantricks train` made, such as runs/dcgan"))
    text = path.read_text(encoding="utf-8")
    try:
        recipe = tomllib.loads(text)
    except tomllib.TOMLDecodeError as fault:
        raise UserError(Problem(f"not valid TOML: {fault}", str(path))) from fault
    return Record(
        folder,
        recipe,
        text,
        _json(folder / "manifest.json", {}),
        _curves(folder / "metrics.jsonl"),
        _last_picture(folder / "samples"),
        _json(folder / "evaluation.json", {}),
    )


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A recipe's keys, dotted, with their values as they are written in TOML."""
    found: dict[str, str] = {}
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = json.dumps(value, ensure_ascii=False)
    return found


def differing(records: list[Record]) -> dict[str, list[str | None]]:
    """The keys in which recipes differ, each with its value in every one; None where one does not have it.

    Names and seeds of runs are among them, and a trick that has no keys is there under its own name.
    """
    tables = [record.settings for record in records]
    keys = dict.fromkeys(key for table in tables for key in table)
    rows = {key: [table.get(key) for table in tables] for key in keys}
    return {key: values for key, values in rows.items() if len(set(values)) > 1}


def _json(path: Path, missing: Any) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return missing
    except ValueError as fault:
        raise UserError(Problem(f"the file is damaged: {fault}", str(path))) from fault


def _curves(path: Path) -> dict[str, Curve]:
    curves: dict[str, Curve] = {}
    if not path.exists():
        return curves
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]  # a run that was killed while it wrote the last line
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            scalars = json.loads(line)
            step = scalars.pop("step")
        except (ValueError, KeyError, AttributeError) as fault:
            raise UserError(Problem("the line is damaged", f"{path}:{number}", "remove the line")) from fault
        for name, value in scalars.items():
            curves.setdefault(name, []).append((step, value))
    return curves


def _last_picture(folder: Path) -> tuple[int, bytes] | None:
    found = sorted((int(path.stem), path) for path in folder.glob("*.png") if path.stem.isdecimal())
    return (found[-1][0], found[-1][1].read_bytes()) if found else None
