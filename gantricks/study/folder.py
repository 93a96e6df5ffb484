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
"""Seconds to wait for the workers of a study that was killed: they save their runs and end."""


@dataclass(frozen=True, config=ConfigDict(allow_inf_nan=False, extra="forbid"))
class Outcome:
    """How one run of a study ended.

    `status`: "done"; "diverged", a loss, a gradient or the figure was not finite; "refused", with what the user can
    mend, or "failed", by a fault of ours: neither of the two is kept, and the run is made again. `value`: the study's
    figure of a run that is done, `values` every figure of its metric, `facts` how it was measured, `floor` the metric's
    figures of real samples against real ones, where it was asked for. `stopped`: why a trick ended the run early.
    `collapsed`: the samples of a run that is done are one point.
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

    @property
    def kept(self) -> bool:
        """Whether it is a result: the run is not made again."""
        return self.status in ("done", "diverged")


_OUTCOME = TypeAdapter(Outcome)


class _Study(BaseModel):
    """What of study.json is read back."""

    model_config = ConfigDict(extra="allow", strict=True)

    format: int
    definition: dict[str, Any]


def write_outcome(run: Path, outcome: Outcome) -> None:
    """Leave it in the run's folder."""
    write_whole(run / RESULT, json.dumps(asdict(outcome), indent=1, allow_nan=False) + "\n")


def read_outcome(run: Path, of: tuple[str, int] | None = None) -> Outcome | None:
    """The outcome of a run that has one. `of`: the variant and the seed that it must be of.

    Raises UserError where the file is not as it was written.
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
            raise ValueError("a run that is done has a figure, and one that diverged has none")
    return outcome


def _text(path: Path, advice: str) -> str | None:
    """What a file of a study says; None where there is none."""
    with _damaged(path, advice):
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None


@contextlib.contextmanager
def _damaged(path: Path, advice: str) -> Iterator[None]:
    """What cannot be read, or says something else than was written, is the user's to remove."""
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
    """The folder of one study, new or taken up again."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(self, variant: str, seed: int) -> Path:
        return self.path / "runs" / variant / f"seed-{seed}"

    def recipe(self, variant: str) -> Path:
        return self.path / "runs" / variant / "recipe.toml"

    def study(self) -> dict[str, Any] | None:
        """What study.json says; None where there is none."""
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
        """What is going to be done; `recipes`: the TOML text of each variant."""
        for variant, text in recipes.items():
            self.recipe(variant).parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.recipe(variant), text)
        write_whole(self.path / STUDY, json.dumps(study, indent=1, ensure_ascii=False) + "\n")


def choose(wanted: Path | None, name: str, definition: Mapping[str, Any]) -> Folder:
    """The folder of the study that `definition` describes.

    A study that is there with the same definition is gone on with; nothing that is there is overwritten. `wanted`: the
    folder itself; left out, it is in `studies/` under `name`.
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
            raise UserError(Problem("the folder is no study of gantricks", f"--dir {wanted}", "name another folder"))
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
    """One study at a time in a folder. Yields the descriptors that workers must inherit: the lock is theirs as well,
    and lasts until the last of them has ended. What killed processes have left half written is removed."""
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
    """The keys in which a study that is there differs from `definition`; None where there is no study."""
    study = folder.study()
    if study is None:
        return None
    there = study["definition"]
    return [key for key in {**there, **definition} if there.get(key) != definition.get(key)]
