"""Checkpoints of a run: their contents, writing them in the background, and removing old ones."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator
from pydantic_core import PydanticCustomError

from gantricks import store
from gantricks.errors import Problem, UserError
from gantricks.files import remove_folder, set_aside
from gantricks.store import Sealed, Tensors

Count = Annotated[int, Field(ge=0, lt=2**62)]
"""A number of steps or of images."""
Few = Annotated[int, Field(ge=1, le=65536)]
"""A number of samples in a batch, or of D steps in a step."""


class Numbers(BaseModel):
    """The host numbers of a state."""

    model_config = ConfigDict(extra="allow", strict=True)

    step: Count
    batch_size: Few
    n_critic: Few
    optimizers: dict[str, list[dict[str, JsonValue]]]


class State(Sealed, Numbers):
    """The contents of a checkpoint's `state.json`.

    `run` is the run's id. `phase` is set where a non-finite value has stopped the run in the step after `step`. `kept`
    holds the numbers of a snapshot, if there is one. `state_from_step` is the step of the snapshot that was restored,
    if one was. `unmeasured` says that a signal came before the metrics of this state were measured, as was due.
    """

    images_seen: Count
    run: str | None = None
    phase: Literal["d", "g"] | None = None
    kept: Numbers | None = None
    state_from_step: Count | None = None
    unmeasured: bool = False

    @model_validator(mode="after")
    def _earlier_states_are_earlier(self) -> State:
        for earlier in (self.kept.step if self.kept else None, self.state_from_step):
            if earlier is not None and earlier > self.step:
                raise PydanticCustomError("later", "it holds a snapshot of a later step")
        return self


REPLACED = r"[0-9]{6,18}\.replaced(-[0-9]+)?"
"""The names of checkpoints that no longer belong to the run."""


def checkpoint_name(step: int) -> str:
    return f"{step:06d}"


class Writer:
    """Writes checkpoints in a thread, so that training waits only for a copy in memory.

    One checkpoint is written at a time: the next waits for the one before it. When the `with` statement ends, the last
    one is on the disk. An error while writing is raised by the next call, or at the end of the `with` statement.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "gantricks-checkpoint")
        self._pending: Future[None] | None = None

    def save(
        self,
        folder: Path,
        tensors: Tensors,
        counters: dict[str, Any],
        first: Callable[[], None] | None = None,
        then: Callable[[], None] | None = None,
    ) -> None:
        """Copy the present state and write it as `store.save` does.

        `first` is called before that; it flushes the files that the checkpoint relies on. `then` is called when the
        whole checkpoint is on the disk.
        """
        self.wait()
        copies = {
            name: {key: value.detach().to("cpu", copy=True) for key, value in group.items()}
            for name, group in tensors.items()
        }

        def write() -> None:
            if first:
                first()
            store.save(folder, copies, counters)
            if then:
                then()

        self._pending = self._thread.submit(write)

    def check(self) -> None:
        """Raise the error of an earlier save, if there was one, without waiting for a save that is still running."""
        if self._pending and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Wait until the last checkpoint is on the disk. Raises the error of a save, if there was one."""
        pending, self._pending = self._pending, None
        if pending:
            pending.result()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._thread.shutdown()
        if error is None:  # otherwise that error is the one to report
            self.wait()


def load(folder: Path, run: str | None = None) -> tuple[Tensors, dict[str, Any]]:
    """Read a checkpoint of a run: (tensors by group, counters). `run` is the run's id, if it has one.

    Raises UserError naming every file that is missing or whose bytes have changed, and where the checkpoint belongs to
    another run or to another step than its folder's name says.
    """
    advice = _advice(folder)
    state = store.read_facts(folder, State, advice)
    named = state.step + (state.phase is not None)
    if folder.name != checkpoint_name(named):
        raise store.damaged(folder, f"it is that of step {named}", advice)
    if run is not None and state.run != run:
        raise UserError(
            Problem(
                "the checkpoint is that of another run",
                str(folder),
                f"move it away, or resume the run that it belongs to; {advice}",
            )
        )
    return store.read_tensors(folder, state, advice), state.model_dump(exclude_unset=True)


def read_state(folder: Path) -> dict[str, Any]:
    """Return the counters of a checkpoint. Raises UserError when `state.json` is missing or damaged."""
    return store.read_facts(folder, State, _advice(folder)).model_dump(exclude_unset=True)


def checkpoints(run: Path) -> dict[int, Path]:
    """Return the checkpoints of a run by step, oldest first, without unfinished ones."""
    found = {
        int(path.name): path
        for path in (run / "checkpoints").glob("*")
        if re.fullmatch(r"[0-9]{6,18}", path.name) and path.is_dir()
    }
    return {step: path for step, path in sorted(found.items()) if path.name == checkpoint_name(step)}


def set_aside_after(run: Path, step: int) -> None:
    """Rename the checkpoints of `run` later than `step`. The run continues from `step`, and they no longer belong to
    it.
    """
    for later, folder in checkpoints(run).items():
        if later > step:
            set_aside(folder)


def keep_newest(run: Path, count: int) -> None:
    """Remove all but the newest `count` checkpoints of `run`.

    Of those that were set aside, the `count` that were written last stay, so that going back again and again does not
    fill the disk. A checkpoint that cannot be removed stays.
    """
    replaced = [path for path in (run / "checkpoints").glob("*.replaced*") if re.fullmatch(REPLACED, path.name)]
    for folder in [*list(checkpoints(run).values())[:-count], *sorted(replaced, key=_written)[:-count]]:
        if folder.is_dir() and not folder.is_symlink():
            with contextlib.suppress(OSError):
                remove_folder(folder)


def _written(folder: Path) -> tuple[float, str]:
    with contextlib.suppress(OSError):
        return (folder / store.STATE).stat().st_mtime, folder.name
    return 0.0, folder.name


def _advice(folder: Path) -> str:
    here = int(folder.name) if folder.name.isdecimal() else 0
    earlier = [path for step, path in checkpoints(folder.parent.parent).items() if step < here]
    if earlier:
        return f"resume from the one before it: gantricks resume {folder.parent.parent} --step {int(earlier[-1].name)}"
    return f"there is no earlier checkpoint; train afresh from {folder.parent.parent / 'recipe.toml'}"
