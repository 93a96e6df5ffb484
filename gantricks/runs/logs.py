"""The logs of a run: metrics.jsonl, TensorBoard events and pictures."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import socket
import time
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import summary

from gantricks import pictures
from gantricks.files import append, create, flush, naming, write_whole
from gantricks.planning.recipe import Recipe
from gantricks.runs.folder import EVENTS, METRICS

BETWEEN_FLUSHES = 30.0
"""The number of seconds after which new events become visible to TensorBoard."""


class Log:
    """The log files of one run.

    `after` is the step from which the run continues. Later lines of an earlier attempt are dropped from both files, so
    that curves do not overlap. Raises OSError that names the file.
    """

    def __init__(self, run: Path, recipe: Recipe, after: int) -> None:
        self.run = run
        self.metrics = run / METRICS
        kept = _lines_until(self.metrics, after)
        write_whole(self.metrics, b"".join(kept))
        self._last = kept[-1] if kept else b""
        self._file = append(self.metrics)
        try:
            self._board = Events(run, after + 1)
            if not after:
                self._board.add(summary.text("recipe", f"```toml\n{recipe.as_toml()}\n```"))
                for part in summary.hparams(_flat(recipe.as_dict()), {"loss/d": 0.0, "loss/g": 0.0}):
                    self._board.add(part)
        except BaseException:
            self._file.close()
            raise

    def scalars(self, step: int, scalars: dict[str, float], steps_per_second: float) -> None:
        """Write a line of metrics.jsonl, and the same scalars with the speed for TensorBoard.

        The line does not depend on the clock, so that a resumed run writes the same bytes.
        """
        self._write(step, scalars)
        for name, value in (scalars | {"speed/steps_per_second": steps_per_second}).items():
            self._board.add(summary.scalar(name, value), step)

    def figures(self, step: int, figures: dict[str, float]) -> bool:
        """Write the figures of metrics: a line of their own, and scalars for TensorBoard. Returns whether they are new.

        A run that has ended, and is resumed, measures its last state again; a line that is there is not written twice.
        """
        new = self._write(step, figures)
        if new:
            for name, value in figures.items():
                self._board.add(summary.scalar(name, value), step)
        return new

    def _write(self, step: int, scalars: dict[str, float]) -> bool:
        """Write a line of metrics.jsonl. Returns False where an earlier session has written the same line."""
        # JSON has no NaN, so a non-finite scalar is null
        finite = {name: value if math.isfinite(value) else None for name, value in scalars.items()}
        line = json.dumps({"step": step, **finite}, allow_nan=False).encode() + b"\n"
        if line == self._last:
            return False
        with naming(self.metrics):
            self._file.write(line)
            self._file.flush()
        return True

    def picture(self, step: int, image: Image) -> Path:
        """Write samples/<step>.png, and the same picture for TensorBoard."""
        path = self.run / "samples" / f"{step:06d}.png"
        pictures.save_png(image, path)
        self._board.add(summary.image("samples", np.asarray(image.convert("RGB")), dataformats="HWC"), step)
        return path

    def flush(self) -> None:
        """Flush everything so far to the disk, before a checkpoint relies on it. Another thread may go on writing."""
        with naming(self.metrics):
            flush(self._file.fileno())
        self._board.flush()

    def close(self) -> None:
        with contextlib.closing(self._board), naming(self.metrics):
            self._file.close()


class Events:
    """An event file of TensorBoard.

    `first` is the step of the first event; TensorBoard hides the events of earlier files from there on. TensorBoard
    reads the files of a folder in the order of their names, which begin with the time. The name of this file sorts
    last, whatever the clock says. Raises OSError that names the file.
    """

    def __init__(self, folder: Path, first: int) -> None:
        earlier = [int(found[1]) for p in folder.iterdir() if (found := _TIME.match(p.name))]
        for number in count(max([int(time.time()), *(number + 1 for number in earlier)])):
            self.path = folder / f"{EVENTS}{number:010d}.{socket.gethostname()}.{os.getpid()}.0"
            with contextlib.suppress(FileExistsError):
                self._file = create(self.path)
                break
        self._records = RecordWriter(self._file)
        self._flushed = 0.0
        self._write(Event(file_version="brain.Event:2"))
        self._write(Event(step=first, session_log=SessionLog(status=SessionLog.START)))

    def add(self, what: Any, step: int | None = None) -> None:
        """Write a summary for `step`."""
        self._write(Event(summary=what, step=step))

    def flush(self) -> None:
        """Flush everything so far to the disk."""
        with naming(self.path):
            self._file.flush()
            flush(self._file.fileno())

    def close(self) -> None:
        with naming(self.path):
            self._file.close()

    def _write(self, event: Event) -> None:
        now = event.wall_time = time.time()
        with naming(self.path):
            self._records.write(
                event.SerializeToString()
            )  # one write, so that a flush in another thread sees the whole record
            if not 0 <= now - self._flushed < BETWEEN_FLUSHES:
                self._file.flush()
                self._flushed = now


_TIME = re.compile(re.escape(EVENTS) + r"(\d{1,10})\.")


def _lines_until(path: Path, step: int) -> list[bytes]:
    """Return the lines up to `step`, without lines of another form and without a truncated last line."""
    kept = []
    for line in path.read_bytes().splitlines(keepends=True) if path.is_file() else ():
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            if line.endswith(b"\n") and json.loads(line)["step"] <= step:
                kept.append(line)
    return kept


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, str | float | bool]:
    flat: dict[str, str | float | bool] = {}
    for key, value in table.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            flat |= _flat(value, f"{name}.")
        else:
            flat[name] = value if isinstance(value, str | float | int | bool) else json.dumps(value)
    return flat
