"""Samples a game at its present state, and classifies images with its D. The game is not changed."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from gantricks.engine.dispatch import fold
from gantricks.engine.game import Game
from gantricks.latents import paths
from gantricks.networks.base import Discriminator, Generator
from gantricks.records import Batch, Latents, Out, Sampler
from gantricks.rng import Clock, Rng

CHUNK = 64
"""The number of samples in each pass of G. It is fixed, because the last bits of a sample may depend on it."""


def sample(game: Game, count: int, seed: int, conditions: np.ndarray | None = None) -> np.ndarray:
    """Return `count` samples of the recipe's sampling generator, float32 (count, C, H, W) or (count, D). For
    `conditions` see `samples`.
    """
    return np.concatenate([images for images, _ in samples(game, count, seed, conditions)])


def samples(
    game: Game, count: int, seed: int, conditions: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Yield `count` samples in parts, float32 (n, C, H, W) or (n, D), with their classes, int64 (n,), or None.

    Sample i is a function of the networks' state, `seed` and i. Where G is conditional, the class of sample i is i
    modulo the number of classes. Where it is conditioned, its condition is row i modulo n of `conditions`, (n, E), by
    default those of real samples spread over the data.
    """
    network = sampling_generator(game, seed)
    make = _sampler(game, network, seed)
    rng = _latent_stream(game, "sampling", seed)

    def parts() -> Iterator[Latents]:
        for start in range(0, count, CHUNK):
            # always a full chunk, so that a sample does not depend on `count`
            numbers = torch.arange(start, start + CHUNK, device=game.placement.device)
            yield _given(game, network, rng.normal((CHUNK, network.latent_dim)), numbers, conditions)

    start = 0
    for images, classes in _generated(game, network, make, seed, parts()):
        wanted = slice(count - start)
        yield images[wanted], None if classes is None else classes[wanted]
        start += CHUNK


def made_of(game: Game, latents: np.ndarray, classes: np.ndarray | None, seed: int) -> np.ndarray:
    """Return what the recipe's sampling generator makes of these latents (n, latent_dim), as they are: float32 (n, C,
    H, W) or (n, D). A conditional G is given `classes`, int64 (n,), a conditioned G the conditions of samples spread
    over the data.
    """
    network, placement = sampling_generator(game, seed), game.placement
    z = torch.from_numpy(latents).to(placement.device, placement.dtype)
    given = _given(game, network, z, torch.arange(len(z), device=placement.device))
    if network.conditional and classes is not None:
        given = given._replace(classes=torch.from_numpy(classes).to(placement.device))
    with aside(game, seed), eval_mode(network):
        images: np.ndarray = network(*given).float().cpu().contiguous().numpy()
    return images


def walk(game: Game, rows: int, columns: int, seed: int) -> np.ndarray:
    """Return samples along great circles between Gaussian latents: float32 (rows, columns, C, H, W) or (rows, columns,
    D).

    They are a function of the networks' state and `seed`. The hooks `latents` and `sampling_latents` are applied as in
    sampling, so that latents on a sphere or in a cube stay there. The hook `sampler` is not: latents that it redraws
    would not lie on the way. Where G is conditional, the class of row i is i modulo the number of classes.
    """
    network = sampling_generator(game, seed)
    rng, shape = _latent_stream(game, "interpolation", seed), (rows, network.latent_dim)
    ways = paths(rng.normal(shape), rng.normal(shape), columns).flatten(0, 1)
    numbers = torch.arange(rows, device=game.placement.device).repeat_interleave(columns)
    parts = (_given(game, network, z, of) for z, of in zip(ways.split(CHUNK), numbers.split(CHUNK), strict=True))
    flat = np.concatenate([images for images, _ in _generated(game, network, _plain(game, network), seed, parts)])
    return flat.reshape(rows, columns, *flat.shape[1:])


def _generated(
    game: Game, network: Generator, make: Sampler, seed: int, parts: Iterable[Latents]
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Yield the samples that `make` makes with `network` of what each part gives it."""
    for number, given in enumerate(parts, 1):
        with aside(game, seed, number), eval_mode(network):
            images = make(given._replace(z=fold(game.hooks.latents, given.z))).float().cpu().contiguous().numpy()
        yield images, None if given.classes is None else given.classes.cpu().numpy()


def _plain(game: Game, network: Generator) -> Sampler:
    """Return the sampler that asks `network` once for each sample."""

    def make(given: Latents) -> Tensor:
        images: Tensor = network(*fold(game.hooks.sampling_latents, given))
        return images

    return make


def _sampler(game: Game, network: Generator, seed: int) -> Sampler:
    """Return the sampler that the recipe samples `network` with."""
    with aside(game, seed), eval_mode(network):
        return fold(game.hooks.sampler, _plain(game, network))


def _latent_stream(game: Game, name: str, seed: int) -> Rng:
    # a separate clock: the same seed gives the same latents at every step
    return Rng(seed, f"{name}/latents", Clock(), game.placement.device, game.placement.dtype)


def _given(game: Game, network: Generator, z: Tensor, numbers: Tensor, conditions: np.ndarray | None = None) -> Latents:
    """Return what `network` is given for the samples of these numbers, beside their latents `z`."""
    classes, condition = None, None
    if network.conditional:
        classes = numbers % network.classes
    if network.conditioned:
        there = game.feed.reference_conditions if conditions is None else conditions
        assert there is not None, "a generator is conditioned where the data has conditions"
        condition = torch.from_numpy(there).to(z.device, z.dtype).index_select(0, numbers % len(there))
    return Latents(z, classes, condition)


def draw_latents(game: Game, count: int, latent_rng: Rng, class_rng: Rng) -> Latents:
    """Draw latents (count, latent_dim) as in training: N(0, 1), passed through the hook `latents`. A conditional G also
    gets uniform classes (count,), a conditioned G the conditions of random samples.
    """
    generator, classes, condition = game.generator, None, None
    z = fold(game.hooks.latents, latent_rng.normal((count, generator.latent_dim)))
    if generator.conditional:
        classes = class_rng.randint(count, generator.classes)
    if generator.conditioned:
        condition = game.feed.conditions_of(class_rng.randint(count, game.feed.count))
    return Latents(z, classes, condition)


def sampling_generator(game: Game, seed: int) -> Generator:
    """Return the generator that the recipe samples with."""
    with aside(game, seed):
        return fold(game.hooks.sampling_generator, game.generator)


def evaluated_discriminator(game: Game) -> Discriminator:
    """Return the discriminator that evaluation uses."""
    with aside(game, 0):
        return fold(game.hooks.evaluation_discriminator, game.discriminator)


def judge(game: Game, batch: Batch) -> Out:
    """Return the scores of the discriminator that evaluation uses, in eval mode. Gradients are left as they are."""
    network = evaluated_discriminator(game)
    with _modes_of_eval(network):
        out: Out = network(*batch)
    return out


def evaluated_companion(game: Game, name: str) -> nn.Module:
    """Return the companion that evaluation uses, in eval mode. Where it is the one that is trained, it is a copy."""
    with aside(game, 0):
        network = fold(game.hooks.evaluation_companion, game.companions[name].network, name)
    return copy.deepcopy(network).eval().requires_grad_(False)


def class_logits(game: Game, network: Discriminator, images: np.ndarray) -> np.ndarray | None:
    """Return the class logits of `network` for `images` (n, C, H, W) or (n, D): float32 (n, K), or None without class
    logits.
    """
    out = said_of(game, network, images)
    return None if out.class_logits is None else out.class_logits.float().cpu().numpy()


def said_of(game: Game, network: nn.Module, images: np.ndarray) -> Out:
    """Return the output of `network` for `images` (n, C, H, W) or (n, D), in eval mode."""
    shown = torch.from_numpy(images).to(game.placement.device, game.placement.dtype)
    if game.feed.is_images:
        shown = shown.contiguous(memory_format=torch.channels_last)
    with aside(game, 0), eval_mode(network):
        out: Out = network(shown)
    return out


def aside(game: Game, seed: int, chunk: int = 0) -> AbstractContextManager[None]:
    """Make the draws of the tricks a function of `seed` and not of the step, as long as the context lasts."""
    return game.clock.aside(seed, "sample", chunk)


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Put the network in eval mode and switch gradients off. Afterwards every module has its former mode."""
    with _modes_of_eval(network), torch.no_grad():
        yield


@contextmanager
def _modes_of_eval(network: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
