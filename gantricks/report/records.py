"""What a run has written down, read back for a page about it."""

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
"""(step, value); None where the value was not finite."""

LARGEST = 1e300
"""Values from here on are as good as infinite: no axis reaches from one to another."""

BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
"""What a Windows shell writes in front of a text, by the encoding that it writes."""


class _File(BaseModel):
    """A file of a run, or a part of one, as far as the page reads it; what else is in it is let be."""

    model_config = ConfigDict(extra="allow", strict=True)


class Figure(_File):
    """One number of a metric, None where it is not finite, and the same for real samples."""

    value: float | None
    better: str
    floor: float | None = None


class Measured(_File):
    """One metric's figures."""

    metric: str
    figures: dict[str, Figure]


class Evaluation(_File):
    """What `gantricks evaluate RUN --json` prints."""

    metrics: list[Measured] = []


class _Line(_File):
    """A line of metrics.jsonl: a step, and every other key a scalar."""

    __pydantic_extra__: dict[str, float | None] = Field(init=False)

    step: Annotated[int, Field(ge=0, lt=2**63)]


class _Section(_File):
    source: str = "?"


class _Train(_File):
    steps: int | None = None


class RecipeFacts(_File):
    """Those keys of a recipe that the page says in its own words."""

    name: str | None = None
    seed: int = 0
    data: _Section = _Section()
    train: _Train = _Train()
    tricks: dict[str, Any] = {}


@dataclass(frozen=True)
class Record:
    """A run's folder as data. `recipe` is the resolved one, `text` its file and `settings` its keys in dotted form;
    `curves` are the scalars of metrics.jsonl by name, `picture` is the last one of its samples and the step it was
    drawn at, `evaluation` what `gantricks evaluate RUN --json > RUN/evaluation.json` has left there.
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
    def steps(self) -> int:
        """How far the run is, as far as it has said."""
        return max((curve[-1][0] for curve in self.curves.values() if curve), default=0)


def read_run(folder: Path) -> Record:
    """Read a run's folder. Raises UserError when it is none, or when a file in it is damaged."""
    path = require_run(folder)
    text = _text(path)
    try:
        table = tomllib.loads(text)
        recipe, settings = RecipeFacts.model_validate(table), flat(table)
    except tomllib.TOMLDecodeError as error:
        raise UserError(Problem(f"not valid TOML: {error}", str(path))) from error
    except ValidationError as error:
        raise UserError(Problem(f"the file is damaged: {first_error(error)}", str(path))) from error
    except (ValueError, RecursionError) as error:  # numbers and tables that nothing can show
        raise UserError(Problem(f"no TOML that can be read: {error}", str(path))) from error
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
    """A recipe's keys, dotted, with their values as they are written in TOML."""
    found: dict[str, str] = {}
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = json.dumps(value, ensure_ascii=False, default=str)
    return found


def differing(records: list[Record]) -> dict[str, list[str | None]]:
    """The keys in which recipes differ, each with its value in every one; None where one does not have it.

    Names and seeds of runs are among them, and a trick that has no keys is there under its own name.
    """
    tables = [record.settings for record in records]
    keys = dict.fromkeys(key for table in tables for key in table)
    rows = {key: [table.get(key) for table in tables] for key in keys}
    return {key: values for key, values in rows.items() if len(set(values)) > 1}


def _text(path: Path) -> str:
    """The text of a file. Raises UserError when it is none."""
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
    whole = text[: text.rfind("\n") + 1]  # a run that is at work, or was killed, has not written its last line yet
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
    # a step has no more digits than this, and Python reads no more than some thousands
    there = (path for path in folder.glob("*.png") if path.stem.isdecimal() and len(path.stem) < 20 and path.is_file())
    found = sorted((int(path.stem), path) for path in there)
    return (found[-1][0], found[-1][1].read_bytes()) if found else None
