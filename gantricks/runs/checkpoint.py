"""Checkpoints: safetensors and JSON, written whole or not at all, and checked before a byte is used."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gantricks.errors import Problem, UserError
from gantricks.files import create, flush_file, flush_folder, free_name, naming, part_folder, remove_folder

FORMAT = 1
STATE = "state.json"
LARGEST_STATE, LARGEST_HEADER = 1 << 24, 1 << 24
"""Bytes of a state.json and of the names and shapes in a safetensors file beyond which neither is one of ours."""

Count = Annotated[int, Field(ge=0, lt=2**62)]
"""A number of steps or of images."""
Few = Annotated[int, Field(ge=1, le=65536)]
"""A number of samples in a batch, or of D steps in a step."""


class Sealed(BaseModel):
    """What any folder of tensors says of itself; further facts are its own."""

    model_config = ConfigDict(extra="allow", strict=True)

    format: int
    sha256: dict[
        Annotated[str, Field(pattern=r"^[A-Za-z0-9_]{1,100}\.safetensors$")],
        Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")],
    ]


class Numbers(BaseModel):
    """The host numbers that belong to a state."""

    model_config = ConfigDict(extra="allow", strict=True)

    step: Count
    batch_size: Few
    n_critic: Few
    optimizers: dict[str, list[dict[str, JsonValue]]]


class State(Sealed, Numbers):
    """What a checkpoint of a run says. `run` is the run's own id; `phase` is there where a fault has stopped the run at
    the step after `step`, `kept` where there is a state to come back to, `state_from_step` where it was come back to.
    """

    images_seen: Count
    run: str | None = None
    phase: Literal["d", "g"] | None = None
    kept: Numbers | None = None
    state_from_step: Count | None = None

    @model_validator(mode="after")
    def _earlier_states_are_earlier(self) -> State:
        for earlier in (self.kept.step if self.kept else None, self.state_from_step):
            if earlier is not None and earlier > self.step:
                raise PydanticCustomError("later", "a state of a later step is kept in it")
        return self


S = TypeVar("S", bound=Sealed)


def checkpoint_name(step: int) -> str:
    return f"{step:06d}"


def save(folder: Path, tensors: dict[str, dict[str, Tensor]], counters: dict[str, Any]) -> Path:
    """Write a checkpoint to `folder`: one safetensors file per group of `tensors`, and `state.json` with `counters`
    and the sha256 sum of everything.

    It is written beside, flushed to the disk and renamed, so `folder` is there whole or not at all. A `folder` that is
    there already is kept when it holds the same and moved aside when it does not. Every file has the mode that the
    umask gives. Raises OSError with the name of the file.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with part_folder(folder) as beside:
        sums = {}
        for name, group in tensors.items():
            path = beside / f"{name}.safetensors"
            with naming(folder / path.name):
                _save_file({key: value.detach().contiguous() for key, value in group.items()}, path)
                sums[path.name] = _digest(path)
        state = {"format": FORMAT, **counters, "sha256": sums}
        state["self"] = _digest_of(state)
        with naming(folder / STATE):
            with create(beside / STATE) as file:
                file.write((json.dumps(state, indent=1) + "\n").encode())
            mode = (beside / STATE).stat().st_mode
            for path in beside.iterdir():
                path.chmod(mode)  # safetensors lets nobody else read its files
                flush_file(path)
        with naming(folder):
            flush_folder(beside)
            if os.path.lexists(folder):
                if _same(folder, beside):
                    return folder
                folder.rename(free_name(folder.with_name(f"{folder.name}.replaced")))
            beside.rename(folder)
            flush_folder(folder.parent)
    return folder


class Writer:
    """Writes checkpoints in a thread of its own, so that training stands still for a copy in memory and no longer.

    One is written at a time: the next waits for the one before it. Whoever leaves the `with` statement finds the last
    one on the disk. What goes wrong while writing is raised by the next call, or on leaving.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "gantricks-checkpoint")
        self._pending: Future[None] | None = None

    def save(
        self,
        folder: Path,
        tensors: dict[str, dict[str, Tensor]],
        counters: dict[str, Any],
        first: Callable[[], None] | None = None,
        then: Callable[[], None] | None = None,
    ) -> None:
        """`save` of the state as it is now, after `first`, which flushes what a checkpoint promises beside itself.
        `then` follows when the checkpoint is whole and on the disk."""
        self.wait()
        copies = {
            name: {key: value.detach().to("cpu", copy=True) for key, value in group.items()}
            for name, group in tensors.items()
        }

        def write() -> None:
            if first:
                first()
            save(folder, copies, counters)
            if then:
                then()

        self._pending = self._thread.submit(write)

    def check(self) -> None:
        """Raise what went wrong, without waiting for what is still being written."""
        if self._pending and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """The last checkpoint is on the disk. Raises what went wrong."""
        pending, self._pending = self._pending, None
        if pending:
            pending.result()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._thread.shutdown()
        if error is None:  # else it is what the user should hear of
            self.wait()


def load(folder: Path, run: str | None = None) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Read a checkpoint of a run back: (tensors by group, counters). `run` is the run's id, where it has one.

    Raises UserError naming every file that is missing or whose bytes are not those that were written, and where the
    checkpoint is not that of this run and of the step that its folder is named for.
    """
    state = _checked(folder)
    named = state.step + (state.phase is not None)
    if folder.name != checkpoint_name(named):
        raise _damaged(folder, f"it is that of step {named}")
    if run is not None and state.run != run:
        raise UserError(
            Problem(
                "the checkpoint is that of another run",
                str(folder),
                f"move it away, or resume the run that it belongs to; {_advice(folder)}",
            )
        )
    return _tensors(folder, state), state.model_dump(exclude_unset=True)


def read(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Read back what `save` has written of anything else than a run: (tensors by group, the facts beside them).

    Raises UserError naming every file that is missing or whose bytes are not those that were written.
    """
    state = _sealed(folder, Sealed)
    return _tensors(folder, state), state.model_dump(exclude_unset=True)


def read_state(folder: Path) -> dict[str, Any]:
    """The counters of a checkpoint. Raises UserError when `state.json` is missing or damaged."""
    return _checked(folder).model_dump(exclude_unset=True)


def checkpoints(run: Path) -> dict[int, Path]:
    """The checkpoints of a run by step, oldest first; unfinished ones are passed over."""
    found = {
        int(path.name): path
        for path in (run / "checkpoints").glob("*")
        if re.fullmatch(r"[0-9]{6,18}", path.name) and path.is_dir()
    }
    return {step: path for step, path in sorted(found.items()) if path.name == checkpoint_name(step)}


def set_aside_after(run: Path, step: int) -> None:
    """Rename the checkpoints of `run` later than `step`: the run goes on from there, and they are no longer its own."""
    for later, folder in checkpoints(run).items():
        if later > step:
            folder.rename(free_name(folder.with_name(f"{folder.name}.replaced")))


def keep_newest(run: Path, count: int) -> None:
    """Remove all checkpoints of `run` but the newest `count`. One that cannot be removed stays."""
    for folder in list(checkpoints(run).values())[:-count]:
        if not folder.is_symlink():
            with contextlib.suppress(OSError):
                remove_folder(folder)


def _checked(folder: Path) -> State:
    return _sealed(folder, State)


def _sealed(folder: Path, model: type[S]) -> S:
    path = folder / STATE
    try:
        if path.exists() and (not path.is_file() or path.stat().st_size > LARGEST_STATE):
            raise ValueError("it is none of ours")
        state = json.loads(path.read_text(encoding="utf-8"))
        intact = state.pop("self") == _digest_of(state)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(Problem("the file is missing from the checkpoint", str(path), _advice(folder))) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        intact = False
    if not intact:
        raise _damaged(path, "the file is not as it was written")
    if state.get("format") != FORMAT:
        raise UserError(
            Problem(f"the checkpoint has format {state.get('format')!r}; this version reads format {FORMAT}", str(path))
        )
    try:
        return model.model_validate(state)
    except (ValidationError, RecursionError) as error:
        what = "it is nested too deeply"
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
        raise _damaged(path, what) from error


def _tensors(folder: Path, state: Sealed) -> dict[str, dict[str, Tensor]]:
    problems: list[Problem] = []
    for name, expected in state.sha256.items():
        path = folder / name
        if not path.is_file():
            problems.append(Problem("the file is missing from the checkpoint", str(path), _advice(folder)))
        elif _digest(path) != expected:
            problems += _damaged(path, "the file's sha256 is not the recorded one").problems
    if problems:
        raise UserError(*problems)
    return {Path(name).stem: _load_file(folder / name) for name in state.sha256}


def _load_file(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        if int.from_bytes(file.read(8), "little") > LARGEST_HEADER:
            raise _damaged(path, "it names more tensors than a network has")
    try:
        return load_file(path)
    except (SafetensorError, ValueError, LookupError, TypeError, RuntimeError, ArithmeticError) as error:
        raise _damaged(path, f"it cannot be read: {str(error).partition(chr(10))[0][:200]}") from error


def _save_file(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        if number := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
        raise


def _damaged(path: Path, how: str) -> UserError:
    folder = path if path.is_dir() else path.parent
    return UserError(Problem(f"the checkpoint is damaged: {how}", str(path), _advice(folder)))


def _advice(folder: Path) -> str:
    here = int(folder.name) if folder.name.isdecimal() else 0
    earlier = [path for step, path in checkpoints(folder.parent.parent).items() if step < here]
    if earlier:
        return f"resume from the one before it: gantricks resume {folder.parent.parent} --step {int(earlier[-1].name)}"
    return f"there is no earlier checkpoint; train afresh from {folder.parent.parent / 'recipe.toml'}"


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
