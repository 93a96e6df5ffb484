"""A study's folder: what it is going to do, written before the first run, and the outcome of every run.

studies/<name>-<mode>/          <name>-<mode>-2 … when another study is there
  study.json                    the recipe, the variants, the seeds, the metric, the budget, versions
  runs/<variant>/recipe.toml    what the variant trains, with the seed of the recipe
  runs/<variant>/seed-0/        a run, and its result.json once it is evaluated
  results.json  results.md  results.png
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from gantricks.errors import Problem, UserError
from gantricks.files import numbered, sweep, write_whole
from gantricks.option_errors import first_error
from gantricks.runs import folder as folders
from gantricks.runs.folder import LOCK

FORMAT = 1
STUDY, RESULT = "study.json", "result.json"
PATIENCE = 15.0
"""The number of seconds to wait for the workers of a killed study, which save their runs and end."""


@dataclass(frozen=True, config=ConfigDict(allow_inf_nan=False, extra="forbid"))
class Outcome:
    """How one run of a study ended.

    `status` is "done"; "diverged", where a loss, a gradient or the figure was not finite; "refused", for an error that
    the user can correct; or "failed", for an error in gantricks. A run that was refused or failed is repeated by the
    next call. `value` is the study's figure of a run that is done, `values` every figure of its metric, and `facts` how
    it was measured. `floor` holds the metric's figures of real samples, if they were asked for. `stopped` says why a
    trick ended the run early. `collapsed` is true where all samples of a run that is done are one point. `step_seconds`
    is the median over log intervals of the seconds that a step took.
    """

    variant: str
    seed: int
    status: Literal["done", "diverged", "refused", "failed"]
    value: float | None = None
    reason: str = ""
    stopped: str | None = None
    steps: int = 0
    seconds: float = 0.0
    values: dict[str, float | None] = field(default_factory=dict)
    facts: dict[str, str | int | float] = field(default_factory=dict)
    floor: dict[str, float | None] | None = None
    collapsed: bool = False
    step_seconds: float | None = None

    @property
    def kept(self) -> bool:
        """Whether this is a result, so that the run is not repeated."""
        return self.status in ("done", "diverged")


_OUTCOME = TypeAdapter(Outcome)


class _Study(BaseModel):
    """The part of study.json that is read back."""

    model_config = ConfigDict(extra="allow", strict=True)

    format: int
    definition: dict[str, Any]


def write_outcome(run: Path, outcome: Outcome) -> None:
    """Write the outcome into the run's folder."""
    write_whole(run / RESULT, json.dumps(asdict(outcome), indent=1, allow_nan=False) + "\n")


def read_outcome(run: Path, of: tuple[str, int] | None = None) -> Outcome | None:
    """Return the outcome of a run, or None. `of` is the variant and the seed that the outcome must have.

    Raises UserError where the file is damaged.
    """
    path = run / RESULT
    advice = "remove it to measure the run anew"
    text = _text(path, advice)
    if text is None:
        return None
    with _damaged(path, advice):
        outcome = _OUTCOME.validate_json(text, strict=True)
        if of and of != (outcome.variant, outcome.seed):
            raise ValueError(f"it is of {outcome.variant}, seed {outcome.seed}")
        if not outcome.kept or (outcome.status == "done") != (outcome.value is not None):
            raise ValueError("a finished run must have a figure, and a diverged one must not")
    return outcome


def _text(path: Path, advice: str) -> str | None:
    """Return the text of a file of a study, or None where the file does not exist."""
    with _damaged(path, advice):
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None


@contextlib.contextmanager
def _damaged(path: Path, advice: str) -> Iterator[None]:
    """Turn an error about an unreadable or damaged file into a UserError that tells the user to remove it."""
    try:
        yield
    except OSError as error:
        raise UserError(Problem(f"the file cannot be read: {error.strerror}", str(path), advice)) from error
    except ValidationError as error:
        raise UserError(Problem(f"the file is damaged: {first_error(error)}", str(path), advice)) from error
    except ValueError as error:
        why = "it is not UTF-8" if isinstance(error, UnicodeError) else str(error)
        raise UserError(Problem(f"the file is damaged: {why}", str(path), advice)) from error


class Folder:
    """The folder of a study, new or existing."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(self, variant: str, seed: int) -> Path:
        return self.path / "runs" / variant / f"seed-{seed}"

    def recipe(self, variant: str) -> Path:
        return self.path / "runs" / variant / "recipe.toml"

    def study(self) -> dict[str, Any] | None:
        """Return the content of study.json, or None where it does not exist."""
        path = self.path / STUDY
        advice = "name another folder with --dir"
        text = _text(path, advice)
        if text is None:
            return None
        with _damaged(path, advice):
            study = _Study.model_validate_json(text)
        if study.format != FORMAT:
            raise UserError(
                Problem(f"the study has format {study.format}; this version reads {FORMAT}", str(path), advice)
            )
        return study.model_dump()

    def write(self, study: Mapping[str, Any], recipes: Mapping[str, str]) -> None:
        """Write the plan of the study. `recipes` holds the TOML text of each variant."""
        for variant, text in recipes.items():
            self.recipe(variant).parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.recipe(variant), text)
        write_whole(self.path / STUDY, json.dumps(study, indent=1, ensure_ascii=False) + "\n")


def choose(wanted: Path | None, name: str, definition: Mapping[str, Any]) -> Folder:
    """Return the folder of the study that `definition` describes.

    An existing study with the same definition is continued. Nothing existing is overwritten. `wanted` is the folder; by
    default it is in `studies/` under `name`.
    """
    plain: dict[str, Any] = json.loads(json.dumps(definition))
    if wanted is None:
        for path in numbered(Path("studies", name)):
            folder = Folder(path)
            if not _holds_something(folder.path) or _differences(folder, plain) == []:
                break
    else:
        folder = Folder(wanted)
        differing = _differences(folder, plain) if _holds_something(wanted) else []
        if differing is None:
            raise UserError(Problem("the folder is not a study of gantricks", f"--dir {wanted}", "name another folder"))
        if differing:
            raise UserError(
                Problem(
                    f"the folder holds another study: it differs in {', '.join(differing)}",
                    f"--dir {wanted}",
                    "name another folder, or give the command that began it to go on with it",
                )
            )
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            Problem(f"the study's folder cannot be made: {error.strerror}", str(folder.path), "name another with --dir")
        ) from error
    return folder


@contextlib.contextmanager
def locked(folder: Folder) -> Iterator[tuple[int, ...]]:
    """Hold the lock of a study's folder, and remove half-written files of killed processes.

    Yields the file descriptors of the lock. Workers inherit them, so that the lock lasts until the last worker has
    ended.
    """
    with folders.locked(folder.path, "at work on this study", patience=PATIENCE) as descriptors:
        sweep(folder.path, r"study\.json", r"results\.(json|md|png)")
        for variant in (folder.path / "runs").glob("*/"):
            sweep(variant, r"recipe\.toml")
        yield descriptors


def _holds_something(path: Path) -> bool:
    if path.is_dir():
        return any(entry.name != LOCK for entry in path.iterdir())
    return path.exists()


def _differences(folder: Folder, definition: Mapping[str, Any]) -> list[str] | None:
    """Return the keys in which an existing study differs from `definition`, or None where there is no study."""
    study = folder.study()
    if study is None:
        return None
    there = study["definition"]
    return [key for key in {**there, **definition} if there.get(key) != definition.get(key)]
