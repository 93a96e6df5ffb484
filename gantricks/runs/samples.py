"""Pictures of a generator's samples."""

from __future__ import annotations

import math

import numpy as np
from PIL.Image import Image

from gantricks import pictures
from gantricks.data.stand_in import reference_points
from gantricks.engine.game import Game
from gantricks.engine.sampling import sample

GRID = 64
"""The default number of samples in a picture."""


def picture(game: Game, count: int, seed: int, conditions: np.ndarray | None = None) -> Image:
    """Return a grid of samples, or for vector data a scatter plot over the real points. `conditions` (n, E) take turns;
    by default they are those of real samples.
    """
    turns = game.generator.classes if conditions is None else len(conditions)
    # each column holds one class or condition, and the grid is as nearly square as that allows
    columns = turns * max(1, round(math.sqrt(count) / turns)) if 0 < turns <= count else None
    return drawn(game, sample(game, count, seed, conditions), columns)


def drawn(game: Game, samples: np.ndarray, columns: int | None = None) -> Image:
    """Draw samples (N, …) of this run: images in a grid, points over the real ones."""
    if game.feed.is_images:
        return pictures.image_grid(pictures.to_pixels(samples), columns=columns)
    return pictures.scatter(samples, reference=reference_points(game.dataset))
