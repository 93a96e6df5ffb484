"""Walks through the latents of a trained generator, and pictures of what it makes on the way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL.Image import Image

from gantricks.engine.sampling import walk
from gantricks.runs.opening import open_run
from gantricks.runs.samples import drawn

IMAGES, VECTORS = 10, 250
"""How many samples a path has, of images and of points."""


def interpolate(
    run: str | Path,
    rows: int = 8,
    columns: int | None = None,
    seed: int = 0,
    *,
    step: int | None = None,
    device: str = "cpu",
    plugins: Sequence[str | Path] = (),
) -> Image:
    """A picture of `rows` paths of `columns` samples, from a run's newest checkpoint or the one at `step`.

    Images stand in a grid, a row for each path; points are drawn over the real ones.
    """
    game = open_run(Path(run), plugins).view(device).game(step)
    samples = walk(game, rows, columns or (IMAGES if game.feed.is_images else VECTORS), seed)
    flat = samples.reshape(-1, *samples.shape[2:])
    return drawn(game, flat, columns=samples.shape[1])
