"""Pictures of walks through the latents of a trained generator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL.Image import Image

from gantricks.engine.sampling import walk
from gantricks.runs.opening import open_run
from gantricks.runs.samples import drawn

IMAGES, VECTORS = 10, 250
"""The number of samples on a path, for images and for points."""


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
    """Return a picture of `rows` paths of `columns` samples, from a run's newest checkpoint or the one at `step`.

    Images are laid out in a grid with a row for each path. Points are drawn over the real ones.
    """
    game = open_run(Path(run), plugins).view(device).game(step)
    samples = walk(game, rows, columns or (IMAGES if game.feed.is_images else VECTORS), seed)
    flat = samples.reshape(-1, *samples.shape[2:])
    return drawn(game, flat, columns=samples.shape[1])
