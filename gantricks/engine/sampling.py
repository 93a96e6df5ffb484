"""Samples of a game at its present state, and D's word on samples; nothing of the game is changed by any of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from gantricks.engine.dispatch import fold
from gantricks.engine.game import Game
from gantricks.latents import paths
from gantricks.networks.base import Discriminator, Generator
from gantricks.records import Out
from gantricks.rng import Clock, Rng

CHUNK = 64
"""How many samples go through G at once: a sample's last bits may depend on it."""


def sample(game: Game, count: int, seed: int) -> np.ndarray:
    """`count` samples of the generator that the recipe samples with, float32 (count, C, H, W) or (count, D)."""
    return np.concatenate([images for images, _ in samples(game, count, seed)])


def samples(game: Game, count: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """`count` samples, float32 (n, C, H, W) or (n, D) at a time, and their classes, int64 (n,), where G has any.

    Sample i is a function of the networks' state, `seed` and i. Where G is conditional, it is of class i modulo the
    number of classes.
    """
    network = sampling_generator(game, seed)
    rng = _latent_stream(game, "sampling", seed)

    def parts() -> Iterator[tuple[Tensor, Tensor | None]]:
        for start in range(0, count, CHUNK):
            # a whole chunk each time, so that it is the same however many are asked for
            numbers = torch.arange(start, start + CHUNK, device=game.placement.device)
            yield rng.normal((CHUNK, network.latent_dim)), _classes(network, numbers)

    start = 0
    for images, classes in _generated(game, network, seed, parts()):
        wanted = slice(count - start)
        yield images[wanted], None if classes is None else classes[wanted]
        start += CHUNK


def walk(game: Game, rows: int, columns: int, seed: int) -> np.ndarray:
    """Samples along great circles between Gaussian latents: float32 (rows, columns, C, H, W) or (rows, columns, D).

    A function of the networks' state and `seed`. The tricks make of the latents what they do in sampling, so that
    those of a trick that draws from a sphere or a cube stay there. Where G is conditional, row i is of class i modulo
    the number of classes.
    """
    network = sampling_generator(game, seed)
    rng, shape = _latent_stream(game, "interpolation", seed), (rows, network.latent_dim)
    ways = paths(rng.normal(shape), rng.normal(shape), columns).flatten(0, 1)
    numbers = torch.arange(rows, device=game.placement.device).repeat_interleave(columns)
    parts = ((z, _classes(network, of)) for z, of in zip(ways.split(CHUNK), numbers.split(CHUNK), strict=True))
    flat = np.concatenate([images for images, _ in _generated(game, network, seed, parts)])
    return flat.reshape(rows, columns, *flat.shape[1:])


def _generated(
    game: Game, network: Generator, seed: int, parts: Iterable[tuple[Tensor, Tensor | None]]
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """What `network` makes of each part's latents and classes."""
    for number, (z, classes) in enumerate(parts, 1):
        with aside(game, seed, number), eval_mode(network):
            images = network(fold(game.hooks.latents, z), classes).float().cpu().contiguous().numpy()
        yield images, None if classes is None else classes.cpu().numpy()


def _latent_stream(game: Game, name: str, seed: int) -> Rng:
    # a clock of its own: the same seed gives the same latents at every step
    return Rng(seed, f"{name}/latents", Clock(), game.placement.device, game.placement.dtype)


def _classes(network: Generator, numbers: Tensor) -> Tensor | None:
    return numbers % network.classes if network.conditional else None


def draw_latents(game: Game, count: int, latent_rng: Rng, class_rng: Rng) -> tuple[Tensor, Tensor | None]:
    """Latents (count, latent_dim) as training draws them, N(0, 1) through the hook `latents`, and uniform classes
    (count,) for a conditional G."""
    generator = game.generator
    z = fold(game.hooks.latents, latent_rng.normal((count, generator.latent_dim)))
    return z, class_rng.randint(count, generator.classes) if generator.conditional else None


def sampling_generator(game: Game, seed: int) -> Generator:
    """The generator that the recipe samples with."""
    with aside(game, seed):
        return fold(game.hooks.sampling_generator, game.generator)


def evaluated_discriminator(game: Game) -> Discriminator:
    """The discriminator that evaluation uses."""
    with aside(game, 0):
        return fold(game.hooks.evaluation_discriminator, game.discriminator)


def class_logits(game: Game, network: Discriminator, images: np.ndarray) -> np.ndarray | None:
    """What `network` says of the classes of `images`, (n, C, H, W) or (n, D): float32 (n, K), None when nothing."""
    shown = torch.from_numpy(images).to(game.placement.device, game.placement.dtype)
    if game.feed.is_images:
        shown = shown.contiguous(memory_format=torch.channels_last)
    with aside(game, 0), eval_mode(network):
        out: Out = network(shown)
    return None if out.class_logits is None else out.class_logits.float().cpu().numpy()


def aside(game: Game, seed: int, chunk: int = 0) -> AbstractContextManager[None]:
    """Where the tricks' streams, too, are a function of the seed and not of how far the run is."""
    return game.clock.aside(seed, "sample", chunk)


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """In eval mode and without gradient; afterwards every module is in the mode in which it was."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
