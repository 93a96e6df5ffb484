"""What a run writes down while it goes: metrics.jsonl, TensorBoard events and pictures."""

from __future__ import annotations

import contextlib
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from gantricks import pictures
from gantricks.recipe import Recipe

METRICS = "metrics.jsonl"


class Log:
    """Writers for one run. `after` is the step that the run continues from: later lines of an earlier attempt are
    dropped from both files, so curves continue without tangling."""

    def __init__(self, run: Path, recipe: Recipe, after: int) -> None:
        self.run = run
        self.metrics = run / METRICS
        _keep_until(self.metrics, after)
        self._file = self.metrics.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(run), purge_step=after + 1, flush_secs=30)
        if not after:
            self._board.add_text("recipe", f"```toml\n{recipe.as_toml()}\n```")
            for summary in hparams(_flat(recipe.as_dict()), {"loss/d": 0.0, "loss/g": 0.0}):
                self._board._get_file_writer().add_summary(summary)

    def scalars(self, step: int, scalars: dict[str, float], steps_per_second: float) -> None:
        """One line of metrics.jsonl, and the same for TensorBoard beside the speed. The line holds nothing that depends
        on the clock, so that a resumed run writes the same bytes."""
        # JSON has no NaN; a scalar that is not finite is null
        finite = {name: value if math.isfinite(value) else None for name, value in scalars.items()}
        self._file.write(json.dumps({"step": step, **finite}, allow_nan=False) + "\n")
        self._file.flush()
        for name, value in scalars.items():
            self._board.add_scalar(name, value, step)
        self._board.add_scalar("speed/steps_per_second", steps_per_second, step)

    def picture(self, step: int, image: Image) -> Path:
        """samples/<step>.png, and the same for TensorBoard."""
        path = self.run / "samples" / f"{step:06d}.png"
        path.parent.mkdir(exist_ok=True)
        pictures.save_png(image, path)
        self._board.add_image("samples", np.asarray(image.convert("RGB")), step, dataformats="HWC")
        return path

    def flush(self) -> None:
        """Everything so far is on the disk when a checkpoint says that it is. Another thread may go on writing."""
        os.fsync(self._file.fileno())
        self._board.flush()

    def close(self) -> None:
        self._file.close()
        self._board.close()


def _keep_until(path: Path, step: int) -> None:
    """Drop the lines after `step`, and a last line that was cut off."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        with contextlib.suppress(ValueError, KeyError, TypeError):  # not a line of ours, or cut off
            if line.endswith("\n") and json.loads(line)["step"] <= step:
                kept.append(line)
    beside = path.with_suffix(".rewriting")
    beside.write_text("".join(kept), encoding="utf-8")
    os.replace(beside, path)


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, str | float | bool]:
    flat: dict[str, str | float | bool] = {}
    for key, value in table.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            flat |= _flat(value, f"{name}.")
        else:
            flat[name] = value if isinstance(value, str | float | int | bool) else json.dumps(value)
    return flat
