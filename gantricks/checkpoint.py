"""Checkpoints: safetensors and JSON, written whole or not at all, and checked before a byte is used."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from gantricks.errors import Problem, UserError

FORMAT = 1
STATE = "state.json"


def checkpoint_name(step: int) -> str:
    return f"{step:06d}"


def save(folder: Path, tensors: dict[str, dict[str, Tensor]], counters: dict[str, Any]) -> Path:
    """Write a checkpoint to `folder`: one safetensors file per group of `tensors`, and `state.json` with `counters`
    and the sha256 sum of everything.

    It is written beside, flushed to the disk and renamed, so `folder` is there whole or not at all. A `folder` that is
    there already is kept when it holds the same and moved aside when it does not.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    sums = {}
    for name, group in tensors.items():
        path = beside / f"{name}.safetensors"
        save_file({key: value.detach().contiguous() for key, value in group.items()}, path)
        sums[path.name] = _digest(path)
        _flush(path)
    state = {"format": FORMAT, **counters, "sha256": sums}
    state["self"] = _digest_of(state)
    (beside / STATE).write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
    _flush(beside / STATE)
    _flush(beside)
    if folder.exists():
        if _same(folder, beside):
            shutil.rmtree(beside)
            return folder
        folder.rename(_free(folder.with_name(f"{folder.name}.replaced")))
    beside.rename(folder)
    _flush(folder.parent)
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
    ) -> None:
        """`save` of the state as it is now, after `first`, which flushes what a checkpoint promises beside itself."""
        self.wait()
        copies = {
            name: {key: value.detach().to("cpu", copy=True) for key, value in group.items()}
            for name, group in tensors.items()
        }

        def write() -> None:
            if first:
                first()
            save(folder, copies, counters)

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

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        self._thread.shutdown()
        if fault is None:  # else it is what the user should hear of
            self.wait()


def load(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Read a checkpoint back: (tensors by group, counters).

    Raises UserError naming every file that is missing or whose bytes are not those that were written.
    """
    counters = read_state(folder)
    problems = []
    for name, expected in counters["sha256"].items():
        path = folder / name
        if not path.is_file():
            problems.append(Problem("the file is missing from the checkpoint", str(path), _advice(folder)))
        elif _digest(path) != expected:
            problems.append(
                Problem(
                    "the checkpoint is damaged: the file's sha256 is not the recorded one", str(path), _advice(folder)
                )
            )
    if problems:
        raise UserError(*problems)
    tensors = {Path(name).stem: load_file(folder / name) for name in counters["sha256"]}
    return tensors, counters


def read_state(folder: Path) -> dict[str, Any]:
    """The counters of a checkpoint. Raises UserError when `state.json` is missing or damaged."""
    path = folder / STATE
    try:
        state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        intact = state.pop("self") == _digest_of(state)
    except FileNotFoundError as fault:
        raise UserError(Problem("the file is missing from the checkpoint", str(path), _advice(folder))) from fault
    except (ValueError, KeyError, TypeError, AttributeError):
        intact = False
    if not intact:
        raise UserError(
            Problem("the checkpoint is damaged: the file is not as it was written", str(path), _advice(folder))
        )
    if state["format"] != FORMAT:
        raise UserError(
            Problem(f"the checkpoint has format {state['format']}; this version reads format {FORMAT}", str(path))
        )
    return state


def checkpoints(run: Path) -> dict[int, Path]:
    """The checkpoints of a run by step, oldest first; unfinished ones are passed over."""
    folder = run / "checkpoints"
    found = {
        int(path.name): path
        for path in folder.glob("*")
        if path.name.isdecimal() and path.name.isascii() and path.is_dir()
    }
    return dict(sorted(found.items()))


def set_aside_after(run: Path, step: int) -> None:
    """Rename the checkpoints of `run` later than `step`: the run goes on from there, and they are no longer its own."""
    for later, folder in checkpoints(run).items():
        if later > step:
            folder.rename(_free(folder.with_name(f"{folder.name}.replaced")))


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
        load(a)
        return (a / STATE).read_bytes() == (b / STATE).read_bytes()
    except UserError:
        return False


def _free(path: Path) -> Path:
    """`path`, or the first of `path`-2, `path`-3 … that does not exist."""
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
