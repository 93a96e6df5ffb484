"""Folders of tensors: safetensors and JSON, written completely or not at all, and checked before any byte is used."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gantricks.errors import Problem, UserError
from gantricks.files import create, error_of_system, flush_file, flush_folder, naming, part_folder, set_aside
from gantricks.option_errors import first_error

S = TypeVar("S", bound="Sealed")
Tensors = dict[str, dict[str, Tensor]]
"""Tensors by group, which is a file of its own, and name."""

FORMAT = 1
STATE = "state.json"
LARGEST_STATE, LARGEST_HEADER = 1 << 24, 1 << 24
"""The largest size in bytes of a state.json, and of the header of a safetensors file. Gantricks writes no
larger ones.
"""


class Sealed(BaseModel):
    """The facts that every folder of tensors has; others are allowed."""

    model_config = ConfigDict(extra="allow", strict=True)

    format: int
    sha256: dict[
        Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,249}\.safetensors$")],
        Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")],
    ]


def save(folder: Path, tensors: Tensors, facts: dict[str, Any]) -> Path:
    """Write `folder`: one safetensors file per group of `tensors`, and `state.json` with `facts` and the sha256 sum of
    everything.

    It is written beside its place, flushed to the disk and renamed, so that `folder` exists completely or not at all.
    An existing `folder` with the same content is kept; one with other content is renamed. The mode of every file
    follows the umask. Raises OSError with the name of the file.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with part_folder(folder) as beside:
        sums = {}
        for name, group in tensors.items():
            path = beside / f"{name}.safetensors"
            with naming(folder / path.name):
                _save_file({key: value.detach().contiguous() for key, value in group.items()}, path)
                sums[path.name] = _digest(path)
        state = {"format": FORMAT, **facts, "sha256": sums}
        state["self"] = _digest_of(state)
        with naming(folder / STATE):
            with create(beside / STATE) as file:
                file.write((json.dumps(state, indent=1) + "\n").encode())
            mode = (beside / STATE).stat().st_mode
            for path in beside.iterdir():
                path.chmod(mode)  # safetensors makes its files readable by their owner only
                flush_file(path)
        with naming(folder):
            flush_folder(beside)
            if os.path.lexists(folder):
                if _same(folder, beside):
                    return folder
                set_aside(folder)
            beside.rename(folder)
            flush_folder(folder.parent)
    return folder


def read(folder: Path) -> tuple[Tensors, dict[str, Any]]:
    """Read a folder that `save` has written: (tensors by group, the facts beside them).

    Raises UserError naming every file that is missing or whose bytes have changed.
    """
    sealed = read_facts(folder, Sealed)
    return read_tensors(folder, sealed), sealed.model_dump(exclude_unset=True)


def read_facts(folder: Path, model: type[S], advice: str = "") -> S:
    """Return the facts of a folder, checked against `model`; no tensor is read. `advice` says what to do where it is
    damaged.

    Raises UserError when `state.json` is missing or damaged, or does not fit `model`.
    """
    path = folder / STATE
    try:
        if path.exists() and (not path.is_file() or path.stat().st_size > LARGEST_STATE):
            raise ValueError("gantricks has not written it")
        state = json.loads(path.read_text(encoding="utf-8"))
        intact = state.pop("self") == _digest_of(state)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(_missing(path, advice)) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        intact = False
    if not intact:
        raise damaged(path, "its content has changed", advice)
    if state.get("format") != FORMAT:
        what = f"the checkpoint has format {state.get('format')!r}; this version reads format {FORMAT}"
        raise UserError(Problem(what, str(path)))
    try:
        return model.model_validate(state)
    except (ValidationError, RecursionError) as error:
        what = first_error(error) if isinstance(error, ValidationError) else "it is nested too deeply"
        raise damaged(path, what, advice) from error


def read_tensors(folder: Path, sealed: Sealed, advice: str = "") -> Tensors:
    """Return the tensors of a folder by group. Raises UserError naming every file that is missing or damaged."""
    problems: list[Problem] = []
    for name, expected in sealed.sha256.items():
        path = folder / name
        if not path.is_file():
            problems.append(_missing(path, advice))
        elif _digest(path) != expected:
            problems += damaged(path, "the file's sha256 is not the recorded one", advice).problems
    if problems:
        raise UserError(*problems)
    return {Path(name).stem: _load_file(folder / name, advice) for name in sealed.sha256}


def damaged(path: Path, how: str, advice: str = "") -> UserError:
    return UserError(Problem(f"the checkpoint is damaged: {how}", str(path), advice))


def _missing(path: Path, advice: str) -> Problem:
    return Problem("the file is missing from the checkpoint", str(path), advice)


def _load_file(path: Path, advice: str) -> dict[str, Tensor]:
    with path.open("rb") as file:
        if int.from_bytes(file.read(8), "little") > LARGEST_HEADER:
            raise damaged(path, "it holds more tensors than a network has", advice)
    try:
        return load_file(path)
    except (SafetensorError, ValueError, LookupError, TypeError, RuntimeError, ArithmeticError) as error:
        raise damaged(path, f"it cannot be read: {str(error).partition(chr(10))[0][:200]}", advice) from error


def _save_file(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        if told := error_of_system(error):
            raise told from error
        raise


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _same(a: Path, b: Path) -> bool:
    try:
        read(a)
        return (a / STATE).read_bytes() == (b / STATE).read_bytes()
    except UserError:
        return False
