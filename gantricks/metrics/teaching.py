"""What metrics teach small networks with: batches, small movements, and a cache of what was taught.

Everything is a function of the data and the options, and is computed on the CPU, so that figures can be repeated.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from gantricks import store
from gantricks.data import images
from gantricks.errors import Problem, UserError
from gantricks.rng import Clock, Rng

BATCH = 100


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread. More threads would split sums differently and change the last bits, and the result is
    stored for good. They save little at this size, and cost much time on a busy machine.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def batches(count: int, rng: Rng) -> Iterator[np.ndarray]:
    """Yield indices in full batches, epoch after epoch, because batch norm needs full batches."""
    while True:
        for chosen in rng.permutation(count).split(min(BATCH, count)):
            if len(chosen) == min(BATCH, count):
                yield chosen.numpy()


def moved(images: Tensor, rng: Rng, reach: int = 1) -> Tensor:
    """Return images (B, C, H, W), each shifted by up to `reach` pixels at random. Uncovered pixels repeat the edge."""
    count, channels, height, width = images.shape
    down, right = rng.randint((2, count), 2 * reach + 1)[:, :, None, None]
    rows = down + torch.arange(height)[:, None]
    columns = right + torch.arange(width)
    # (B, 1, H, W) source indices of each pixel
    image, channel = torch.arange(count)[:, None, None, None], torch.arange(channels)[:, None, None]
    return pad(images, [reach] * 4, mode="replicate")[image, channel, rows[:, None], columns[:, None]]


def network_input(samples: np.ndarray) -> Tensor:
    """Convert uint8 (N, H, W, C) to float32 (N, C, H, W) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(samples)).permute(0, 3, 1, 2) / 127.5 - 1


def tenth_and_rest(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which of `count` images are held out, and which are taught: indices, in ascending order."""
    order = Rng(0, "classifier/split", Clock()).permutation(count).numpy()
    return np.sort(order[: count // 10]), np.sort(order[count // 10 :])


def remembered(
    name: str, teach: Callable[[], tuple[store.Tensors, dict[str, Any]]]
) -> tuple[store.Tensors, dict[str, Any]]:
    """Return the tensors and facts that `teach` returns, from the cache where they were taught before.

    They are stored in the cache folder of `gantricks.data.images`, as `name`; a damaged entry is taught anew. Raises
    UserError when that folder cannot be written.
    """
    folder = images.cache_folder() / name
    try:
        return store.read(folder)
    except (UserError, OSError):  # not taught yet, or damaged
        with _cache_errors(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
    tensors, facts = teach()
    with _cache_errors(folder):
        shutil.rmtree(folder, ignore_errors=True)
        store.save(folder, tensors, facts)
    return tensors, facts


@contextlib.contextmanager
def _cache_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            Problem(
                f"the classifier cannot be kept here: {error.strerror or error}",
                str(folder.parent),
                f"make room or make it writable, or set {images.CACHE_VARIABLE} to another folder",
            )
        ) from error


def fingerprint(samples: np.ndarray, others: np.ndarray) -> str:
    """Return a hash of all samples, and of what belongs to each."""
    digest = hashlib.sha256(repr(samples.shape).encode())
    for start in range(0, len(samples), 1024):
        digest.update(np.ascontiguousarray(samples[start : start + 1024]).data)
    digest.update(np.ascontiguousarray(others).data)
    return digest.hexdigest()
