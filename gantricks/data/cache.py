"""The cache of decoded images: memory-mapped and verified by checksums. Without it, a run keeps the images in memory.

An entry is an `.npy` file of uint8 (N, H, W, C), followed by 32 bytes: the SHA-256 of its name and all bytes before.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from gantricks.data.base import Progress, silent
from gantricks.data.images import CACHE_VARIABLE, cache_folder
from gantricks.errors import Problem, UserError
from gantricks.files import sweep, whole

Shape = tuple[int, int, int, int]

# part of every name: increase it whenever the same file decodes to other pixels than before
_FORMAT = 2
_SUM_BYTES = 32
_PART = 2**24
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def cache_name(kind: str, *parts: object) -> str:
    """Return a name for the pixels that a `kind` of source makes of `parts`. `parts` must contain all that the pixels
    depend on, as plain values.
    """
    digest = hashlib.sha256(f"{kind} {_FORMAT}".encode())
    for part in parts:
        digest.update(b"\n" + repr(part).encode())
    return f"{kind}-{digest.hexdigest()[:32]}"


def glance(name: str, count: int) -> Shape | None:
    """Return the shape of the entry with `count` images, judged by its header and size alone; None where there
    is none.
    """
    mapped = _mapped(name, count)
    return None if mapped is None else mapped[0].shape


def recall(name: str, count: int, progress: Progress = silent) -> np.ndarray | None:
    """Return the stored uint8 (count, H, W, 1 or 3), mapped read-only; None when it is absent, damaged, different or
    unreadable.
    """
    mapped = _mapped(name, count)
    if mapped is None:
        return None
    kept, whole = mapped
    digest = hashlib.sha256(name.encode())
    end = len(whole) - _SUM_BYTES
    for start in range(0, end, _PART):
        digest.update(whole[start : min(start + _PART, end)].data)
        if end > 64 * _PART:
            progress("checking the cache", count * start // end, count)
    return kept if digest.digest() == whole[end:].tobytes() else None


def store(name: str, shape: Shape, blocks: Callable[[], Iterator[np.ndarray]]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Store the uint8 blocks of `blocks`, which together have `shape`. Returns the whole array, mapped read-only, and
    notes.

    Where the folder cannot be written or is full, the blocks are made again and held in memory, and a note says so. The
    file is written beside its place and renamed when complete, so that an interrupted run leaves no entry. Errors of
    `blocks` pass through, and nothing is stored. Raises `UserError` when neither the folder nor the memory has room.
    """
    obstacle = _obstacle(shape)
    if obstacle is None:
        try:
            return _written(name, shape, blocks()), ()
        except OSError as error:
            obstacle = error.strerror or str(error)
    _need_memory(shape, obstacle)
    note = f"decoded images cannot be kept in {cache_folder()}: {obstacle}; they are held in memory, and each run "
    samples, done = np.empty(shape, np.uint8), 0
    for block in blocks():
        samples[done : done + len(block)] = block
        done += len(block)
    return samples, (f"{note}decodes them anew; {_HINT}",)


_HINT = f"make room or make it writable, or set {CACHE_VARIABLE} to another folder"


def need_room(shape: Shape) -> None:
    """Raise the `UserError` that `store` would raise for images of this shape, as far as that can be known before."""
    if obstacle := _obstacle(shape):
        _need_memory(shape, obstacle)


def _need_memory(shape: Shape, obstacle: str) -> None:
    needed, free = _bytes(shape), available_memory()
    if free is not None and needed > free:
        what = f"decoded images cannot be kept here: {obstacle}; nor do their {_gib(needed)} fit in the memory"
        raise UserError(Problem(what, str(cache_folder()), _HINT))


def available_memory() -> int | None:
    """Return how many more bytes this process can hold, or None where the system does not report it."""
    found = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    with contextlib.suppress(OSError, ValueError):  # "max" where a container has no limit
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8")))
    if not found:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(found, default=None)


def _mapped(name: str, count: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the images of an entry, and all its bytes."""
    try:
        # a link may lead anywhere, and a pipe would wait for a writer
        handle = os.open(_entry(name), os.O_RDONLY | _NO_LINKS | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(handle, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or np.lib.format.read_magic(file) != (1, 0):
                return None
            shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
            sound = dtype == np.uint8 and not fortran_order and len(shape) == 4 and shape[0] == count
            if not sound or shape[3] not in (1, 3) or min(shape) < 1:
                return None
            start, size = file.tell(), _bytes(shape)
            if status.st_size != start + size + _SUM_BYTES:
                return None
            whole = np.memmap(file, np.uint8, mode="r", shape=(status.st_size,))
    except Exception:  # a foreign file may hold anything, and NumPy's parser may raise anything
        return None
    return whole[start : start + size].reshape(shape), whole


def _written(name: str, shape: Shape, blocks: Iterator[np.ndarray]) -> np.ndarray:
    entry = _entry(name)
    entry.parent.mkdir(parents=True, exist_ok=True)
    sweep(entry.parent)
    with whole(entry) as file:
        _write(file, name, shape, blocks)
    mapped = _mapped(name, shape[0])
    if mapped is None:
        raise OSError("what was written cannot be read back")
    return mapped[0]


def _write(file: BinaryIO, name: str, shape: Shape, blocks: Iterator[np.ndarray]) -> None:
    """Write with plain writes, not through a writable map: on a full disk these raise, where a map kills the
    process.
    """
    digest = hashlib.sha256(name.encode())

    def write(data: bytes | memoryview) -> None:
        digest.update(data)
        file.write(data)

    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    write(header.getvalue())
    for block in blocks:
        write(np.ascontiguousarray(block).data.cast("B"))
    file.write(digest.digest())


def _obstacle(shape: Shape) -> str | None:
    """Return why the cache cannot store images of this shape, as far as that can be known before, or None."""
    folder = cache_folder()
    while not os.path.exists(folder) and folder != folder.parent:
        folder = folder.parent
    if not os.path.isdir(folder):
        return f"{folder} is not a folder"
    if not os.access(folder, os.W_OK | os.X_OK):
        return "it is not writable"
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(folder).free
        if free < _bytes(shape):
            return f"they take {_gib(_bytes(shape))}, and {_gib(free)} are free"
    return None


def _bytes(shape: tuple[int, ...]) -> int:
    size = 1
    for side in shape:  # Python integers, because a damaged header may hold numbers of any size
        size *= side
    return size


def _gib(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"


def _entry(name: str) -> Path:
    return cache_folder() / f"{name}.npy"
