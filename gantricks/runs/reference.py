"""The real points and conditions that a run stores, so that it can be sampled without the data."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from gantricks.data.base import Dataset, Description
from gantricks.data.stand_in import POINTS, reference_conditions
from gantricks.errors import Problem, UserError
from gantricks.files import write_whole

REFERENCE = "reference.safetensors"


def keep_reference(run: Path, dataset: Dataset) -> None:
    """Store the part of the data that sampling the run needs in its folder."""
    kept = {}
    if dataset.samples.ndim == 2:
        kept["points"] = dataset.samples[:POINTS]
    if (conditions := reference_conditions(dataset)) is not None:
        kept["conditions"] = conditions
    if kept:
        write_whole(run / REFERENCE, save({name: np.ascontiguousarray(rows) for name, rows in kept.items()}))


class Reference(NamedTuple):
    """Real points (n, D), for vector data, and conditions (n, E), for data that has them."""

    points: np.ndarray | None = None
    conditions: np.ndarray | None = None


def read_reference(run: Path, description: Description) -> Reference | None:
    """Return what a run stores of its data, or None where that is not enough to sample it.

    Raises UserError when the file is damaged.
    """
    path = run / REFERENCE
    widths = {} if description.is_images else {"points": description.shape}
    widths |= {"conditions": (description.condition,)} if description.condition else {}
    if not widths:
        return Reference()
    try:
        kept = load(path.read_bytes())
    except FileNotFoundError:
        return None
    except SafetensorError as error:
        raise UserError(_damaged(path)) from error
    for name, width in widths.items():
        if name not in kept or kept[name].shape[1:] != width or kept[name].dtype != np.float32 or not len(kept[name]):
            raise UserError(_damaged(path))
    return Reference(*(kept[name] if name in widths else None for name in Reference._fields))


def _damaged(path: Path) -> Problem:
    return Problem("the file is damaged: its content has changed", str(path), "rename it; the data is opened then")
