"""Walks through the latents of a trained generator, and pictures of what it makes on the way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL.Image import Image

from gantricks.engine.game import SAMPLING_CHUNK, Game, at_rest
from gantricks.latents import paths
from gantricks.networks.base import Generator
from gantricks.planning.plan import fold
from gantricks.rng import Clock, Rng
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


def walk(game: Game, rows: int, columns: int, seed: int) -> np.ndarray:
    """Samples along great circles between Gaussian latents: float32 (rows, columns, C, H, W) or (rows, columns, D).

    A function of the networks' state and `seed`; nothing of the training is touched. The tricks make of the latents
    what they do in sampling, so that those of a trick that draws from a sphere or a cube stay there. Where G is
    conditional, row i is of class i modulo the number of classes.
    """
    placement = game.placement
    with game.aside(seed):
        network: Generator = fold(game.hooks.sampling_generator, game.generator)
    # a clock of its own: the same seed gives the same latents at every step
    rng = Rng(seed, "interpolation/latents", Clock(), placement.device, placement.dtype)
    shape = (rows, network.latent_dim)
    ways = paths(rng.normal(shape), rng.normal(shape), columns).flatten(0, 1)
    numbers = torch.arange(rows, device=placement.device).repeat_interleave(columns)
    classes = numbers % network.classes if network.conditional else None
    chunks = []
    for chunk, start in enumerate(range(0, len(ways), SAMPLING_CHUNK), 1):
        part = slice(start, start + SAMPLING_CHUNK)
        with game.aside(seed, chunk), at_rest(network):
            z = fold(game.hooks.latents, ways[part])
            chunks.append(network(z, None if classes is None else classes[part]).float().cpu())
    flat = torch.cat(chunks).contiguous().numpy()
    return flat.reshape(rows, columns, *flat.shape[1:])
