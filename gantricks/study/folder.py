"""A study's folder: what it is going to do, written before the first run, and the outcome of every run.

studies/<name>-<mode>/          <name>-<mode>-2 … when another study is there
  study.json                    the recipe, the variants, the seeds, the metric, the budget, versions
  outcomes.jsonl                a line for each run that has ended, which counts where the run's own folder is gone
  runs/<variant>/recipe.toml    what the variant trains, with the seed of the recipe
  runs/<variant>/seed-0/        a run, and its result.json once it is evaluated
  results.json  results.md  results.png
  journal.log  best.toml        of a search: Optuna's record of its trials, and the recipe of the best

study.json and outcomes.jsonl (and draws.jsonl of a screening, journal.log of a search) are enough to go on with a study
on another machine.
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
STUDY, OUTCOMES, RESULT = "study.json", "outcomes.jsonl", "result.json"
DEFAULTS = "defaults"
"""The key of a study's definition under which options have their defaults."""
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
    is the median over log intervals of the seconds that a step took. `curve` holds the study's figure by step, where
    the run has measured it while it trained. `data` is the fingerprint of the samples that it was trained on. `session`
    counts the calls that have played runs of the study, which may have been on different machines.
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
    curve: tuple[tuple[int, float], ...] = ()
    data: str = ""
    session: int = 1

    @property
    def kept(self) -> bool:
        """Whether this is a result, so that the run is not repeated."""
        return self.status in ("done", "diverged")


RunKey = tuple[str, int]
"""A variant and a seed."""

_OUTCOME = TypeAdapter(Outcome)


class _Study(BaseModel):
    """The part of study.json that is read back."""

    model_config = ConfigDict(extra="allow", strict=True)

    format: int
    definition: dict[str, Any]


def write_outcome(run: Path, outcome: Outcome) -> None:
    """Write the outcome into the run's folder."""
    write_whole(run / RESULT, json.dumps(asdict(outcome), indent=1, allow_nan=False) + "\n")


def read_outcome(run: Path, of: RunKey | None = None) -> Outcome | None:
    """Return the outcome of a run, or None. `of` is the variant and the seed that the outcome must have.

    Raises UserError where the file is damaged.
    """
    path = run / RESULT
    advice = "remove it to measure the run anew"
    text = read_text(path, advice)
    if text is None:
        return None
    with damaged(path, advice):
        outcome = _parsed(text)
        if of and of != (outcome.variant, outcome.seed):
            raise ValueError(f"it is of {outcome.variant}, seed {outcome.seed}")
    return outcome


def _parsed(text: str) -> Outcome:
    """Return the outcome of a finished run. Raises ValueError, of pydantic too."""
    outcome = _OUTCOME.validate_json(text, strict=True)
    if not outcome.kept or (outcome.status == "done") != (outcome.value is not None):
        raise ValueError("a finished run must have a figure, and a diverged one must not")
    return outcome


def read_text(path: Path, advice: str) -> str | None:
    """Return the text of a file of a study, or None where the file does not exist."""
    with damaged(path, advice):
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None


@contextlib.contextmanager
def damaged(path: Path | str, advice: str) -> Iterator[None]:
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

    def outcome(self, run: RunKey, recorded: Mapping[RunKey, Outcome]) -> Outcome | None:
        """Return the outcome of a run, or None. Where the run's own folder is gone, `recorded` says it."""
        folder = self.run(*run)
        return read_outcome(folder, run) if folder.is_dir() else recorded.get(run)

    def recorded(self) -> dict[RunKey, Outcome]:
        """Return the outcomes in outcomes.jsonl. Raises UserError where it is damaged."""
        path = self.path / OUTCOMES
        advice = "remove the line; where the run's own folder is gone, the run is played anew"
        found: dict[RunKey, Outcome] = {}
        for number, line in enumerate((read_text(path, advice) or "").splitlines(), 1):
            with damaged(f"{path}:{number}", advice):
                outcome = _parsed(line)
                if (outcome.variant, outcome.seed) in found:
                    raise ValueError(f"{outcome.variant}, seed {outcome.seed}, stands in two lines")
            found[outcome.variant, outcome.seed] = outcome
        return found

    def record(self, outcomes: Mapping[RunKey, Outcome]) -> None:
        """Write outcomes.jsonl: those of `outcomes` that are results. Raises OSError."""
        kept = [outcomes[run] for run in sorted(outcomes) if outcomes[run].kept]
        lines = (json.dumps(asdict(outcome), allow_nan=False) + "\n" for outcome in kept)
        write_whole(self.path / OUTCOMES, "".join(lines))

    def study(self) -> dict[str, Any] | None:
        """Return the content of study.json, or None where it does not exist."""
        path = self.path / STUDY
        advice = "name another folder with --dir"
        text = read_text(path, advice)
        if text is None:
            return None
        with damaged(path, advice):
            study = _Study.model_validate_json(text)
        if study.format != FORMAT:
            raise UserError(
                Problem(f"the study has format {study.format}; this version reads {FORMAT}", str(path), advice)
            )
        return study.model_dump()

    def write(self, study: Mapping[str, Any], recipes: Mapping[str, str]) -> None:
        """Write the plan of the study. `recipes` holds the TOML text of each variant."""
        self.write_recipes(recipes)
        write_whole(self.path / STUDY, json.dumps(study, indent=1, ensure_ascii=False) + "\n")

    def write_recipes(self, recipes: Mapping[str, str]) -> None:
        """Write the recipes of variants that have no file."""
        for variant, text in recipes.items():
            if not self.recipe(variant).is_file():
                self.recipe(variant).parent.mkdir(parents=True, exist_ok=True)
                write_whole(self.recipe(variant), text)


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
        sweep(folder.path, r"study\.json", r"(results\.(json|md|png)|best\.toml)")
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
    return None if study is None else list(_differing(study["definition"], definition))


def _differing(there: Mapping[str, Any], here: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Yield the dotted keys in which the definition of a study differs from that of a command.

    A later version has more options. Those at their defaults change nothing, so defaults are compared where both have
    the key.
    """
    for key in {**there, **here}:
        old, new = there.get(key), here.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differing(old, new, f"{above}{key}.")
        elif old != new and (DEFAULTS not in above.split(".") or (key in there and key in here)):
            yield f"{above}{key}"


@contextlib.contextmanager
def written_in(folder: Folder) -> Iterator[None]:
    """Turn an error of the disk into a UserError that tells the user how to go on."""
    try:
        yield
    except OSError as error:
        raise UserError(
            Problem(
                f"the study's results cannot be written: {error.strerror}",
                str(error.filename or folder.path),
                "its runs are kept: give the same command again",
            )
        ) from error
