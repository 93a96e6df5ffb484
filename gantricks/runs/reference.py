"""The real points that a run stores, so that its pictures can be drawn without the data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from gantricks.data.base import Dataset, Description
from gantricks.data.stand_in import POINTS
from gantricks.errors import Problem, UserError
from gantricks.files import write_whole

REFERENCE = "reference.safetensors"


def keep_reference(run: Path, dataset: Dataset) -> None:
    """Store the part of the data that the run's pictures need in its folder."""
    if dataset.samples.ndim == 2:
        write_whole(run / REFERENCE, save({"points": np.ascontiguousarray(dataset.samples[:POINTS])}))


def read_reference(run: Path, description: Description) -> np.ndarray | None:
    """Return the real points that a run stores, or None. Raises UserError when the file is damaged."""
    path = run / REFERENCE
    try:
        points = load(path.read_bytes())["points"]
    except FileNotFoundError:
        return None
    except (SafetensorError, KeyError) as error:
        raise UserError(_damaged(path)) from error
    if points.shape[1:] != description.shape or points.dtype != np.float32:
        raise UserError(_damaged(path))
    return points


def _damaged(path: Path) -> Problem:
    return Problem("the file is damaged: its content has changed", str(path), "rename it; the data is opened then")
