"""Reads the files of a run for a page about it."""

from __future__ import annotations

import codecs
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gantricks.errors import Problem, UserError
from gantricks.option_errors import first_error
from gantricks.runs.folder import require_run
from gantricks.runs.manifest import Manifest, read_manifest

M = TypeVar("M", bound=BaseModel)

Curve = list[tuple[int, float | None]]
"""Points (step, value). The value is None where it was not finite."""

LARGEST = 1e300
"""Values from here on count as infinite, because no axis could hold them."""

BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
"""The byte order marks that a Windows shell writes at the start of a text, by encoding."""


class _File(BaseModel):
    """A file of a run, or a part of one. Further keys are ignored."""

    model_config = ConfigDict(extra="allow", strict=True)


class Figure(_File):
    """One figure of a metric, None where it is not finite, and the same figure of real samples."""

    value: float | None
    better: str
    floor: float | None = None


class Measured(_File):
    """The figures of one metric."""

    metric: str
    figures: dict[str, Figure]


class Evaluation(_File):
    """The output of `gantricks evaluate RUN --json`."""

    metrics: list[Measured] = []
    overrides: Annotated[list[str], Field(alias="set")] = []


class _Line(_File):
    """A line of metrics.jsonl: a step; every other key is a scalar."""

    __pydantic_extra__: dict[str, float | None] = Field(init=False)

    step: Annotated[int, Field(ge=0, lt=2**63)]


class _Section(_File):
    source: str = "?"


class _Train(_File):
    steps: int | None = None


class RecipeFacts(_File):
    """The keys of a recipe that the page describes in words."""

    name: str | None = None
    seed: int = 0
    data: _Section = _Section()
    train: _Train = _Train()
    tricks: dict[str, Any] = {}


@dataclass(frozen=True)
class Record:
    """A run's folder as data.

    `recipe` is the resolved one, `text` its file and `settings` its keys in dotted form. `curves` are the scalars of
    metrics.jsonl by name. `picture` is the last picture of samples with its step. `evaluation` is the content of
    RUN/evaluation.json, the output of `gantricks evaluate RUN --json`.
    """

    folder: Path
    recipe: RecipeFacts
    text: str
    settings: dict[str, str]
    manifest: Manifest
    curves: dict[str, Curve]
    picture: tuple[int, bytes] | None
    evaluation: Evaluation

    @property
    def tricks(self) -> dict[str, str]:
        """The tricks of the recipe: the name of each instance, and of the trick that it uses."""
        return {
            name: str(options.get("use", name)) if isinstance(options, dict) else name
            for name, options in self.recipe.tricks.items()
        }

    @property
    def steps(self) -> int:
        """The last step that the run has logged."""
        return max((curve[-1][0] for curve in self.curves.values() if curve), default=0)


def read_run(folder: Path) -> Record:
    """Read a run's folder. Raises UserError when it is not a run, or when a file in it is damaged."""
    path = require_run(folder)
    text = _text(path)
    try:
        table = tomllib.loads(text)
        recipe, settings = RecipeFacts.model_validate(table), flat(table)
    except tomllib.TOMLDecodeError as error:
        raise UserError(Problem(f"not valid TOML: {error}", str(path))) from error
    except ValidationError as error:
        raise UserError(Problem(f"the file is damaged: {first_error(error)}", str(path))) from error
    except (ValueError, RecursionError) as error:  # numbers and tables that are too large to show
        raise UserError(Problem(f"not readable as TOML: {error}", str(path))) from error
    return Record(
        folder,
        recipe,
        text,
        settings,
        read_manifest(folder),
        _curves(folder / "metrics.jsonl"),
        _last_picture(folder / "samples"),
        _evaluation(folder / "evaluation.json"),
    )


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return a recipe's keys, dotted, with their values in TOML."""
    found: dict[str, str] = {}
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = json.dumps(value, ensure_ascii=False, default=str)
    return found


def differing(records: list[Record]) -> dict[str, list[str | None]]:
    """Return the keys in which recipes differ, with the value in each recipe, or None where a recipe lacks the key.

    Names and seeds of runs are included, and a trick without keys appears under its own name.
    """
    tables = [record.settings for record in records]
    keys = dict.fromkeys(key for table in tables for key in table)
    rows = {key: [table.get(key) for table in tables] for key in keys}
    return {key: values for key, values in rows.items() if len(set(values)) > 1}


def _text(path: Path) -> str:
    """Return the text of a file. Raises UserError when it is not text."""
    content = path.read_bytes()
    encoding = next((name for mark, name in BYTE_ORDER_MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        what = f"the file is damaged: it is not {encoding.removesuffix('-sig').upper()} text"
        raise UserError(Problem(what, str(path), "write it as UTF-8")) from error


def _evaluation(path: Path) -> Evaluation:
    if not path.exists():
        return Evaluation()
    try:
        return Evaluation.model_validate_json(_text(path))
    except ValidationError as error:
        hint = f"write it anew: gantricks evaluate {path.parent} --json > {path}"
        raise UserError(Problem(f"the file is damaged: {first_error(error)}", str(path), hint)) from error


def _curves(path: Path) -> dict[str, Curve]:
    curves: dict[str, Curve] = {}
    if not path.exists():
        return curves
    text = _text(path)
    whole = text[: text.rfind("\n") + 1]  # the last line of a running or killed run may be incomplete
    for number, text in enumerate(whole.splitlines(), 1):
        try:
            line = _Line.model_validate_json(text)
        except ValidationError as error:
            what = f"the line is damaged: {first_error(error)}"
            raise UserError(Problem(what, f"{path}:{number}", "remove the line")) from error
        for name, value in line.__pydantic_extra__.items():
            shown = value if value is not None and abs(value) < LARGEST else None
            curves.setdefault(name, []).append((line.step, shown))
    return curves


def _last_picture(folder: Path) -> tuple[int, bytes] | None:
    # a step never has 20 digits, and Python refuses to read thousands of digits
    there = (path for path in folder.glob("*.png") if path.stem.isdecimal() and len(path.stem) < 20 and path.is_file())
    found = sorted((int(path.stem), path) for path in there)
    return (found[-1][0], found[-1][1].read_bytes()) if found else None
