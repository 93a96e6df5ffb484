"""Writing files and folders completely or not at all.

A file in progress stands beside its final place under a hidden name with the suffix `.part`. It is created exclusively,
so that no link is followed and no existing file is changed. When it is complete and on the disk, it is renamed. A
killed process leaves such a part; `sweep` removes it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import BinaryIO

_EXCLUSIVE = os.O_CREAT | os.O_EXCL | os.O_WRONLY
_PLAIN = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_NONBLOCK = getattr(os, "O_NONBLOCK", 0)

_NO_FSYNC = {
    *(errno.EINVAL, errno.ENOSYS, errno.EACCES, errno.EPERM, errno.EBADF, errno.EISDIR),
    *(errno.ENOTSUP, errno.EOPNOTSUPP),
}
"""The errors by which a system says that it cannot flush a folder, or a file of this kind: Windows, FUSE, network file
systems.
"""

_NO_LINK = {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV}

_PART = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.part", re.DOTALL)
_FORMER_PART = re.compile(
    r"\.(\d{6,})\.\d+|\.(.+)\.writing|\.(\d{6,}\.png)\.\d+\.tmp|(metrics)\.rewriting|(.+)\.[a-z0-9_]{8}\.partial"
    r"|(.+)\.\d+-[0-9a-f]{8}\.partial",
    re.DOTALL,
)
"""Names of parts in earlier versions. Killed runs and caches of that time may still hold them."""

STALE = 24 * 3600.0
"""The age in seconds after which an unlocked part is taken to be abandoned."""


@contextlib.contextmanager
def whole(path: Path, *, fresh: bool = False) -> Iterator[BinaryIO]:
    """Open a file for writing, which takes its place at `path` when the block ends. If the block raises, nothing is
    left.

    It replaces an existing file; of a link, it replaces the link and not its target. With `fresh` nothing may exist at
    `path`. The file's mode follows the umask. Raises OSError with `path` in it; FileExistsError where `fresh` is given
    and something exists.
    """
    with naming(path):
        part, descriptor = _part_of(path)
    try:
        with naming(path):
            file = os.fdopen(descriptor, "wb")
        with file:
            yield file
            with naming(path):
                file.flush()
                flush(file.fileno())
        with naming(path):
            if not fresh:
                os.replace(part, path)
                flush_folder(path.parent)
                return
            _place_new(part, path)
            try:
                flush_folder(path.parent)
            except OSError:
                path.unlink()  # otherwise the next try would find a file there
                raise
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes, *, fresh: bool = False) -> None:
    """Write a file completely or not at all, as `whole` does. Text is written as UTF-8 with its own line ends."""
    with whole(path, fresh=fresh) as file, naming(path):
        file.write(content.encode() if isinstance(content, str) else content)


def create(path: Path) -> BinaryIO:
    """Create a file for writing over time. Raises OSError; FileExistsError where something exists at `path`."""
    with naming(path):
        return os.fdopen(os.open(path, _EXCLUSIVE | _PLAIN, 0o666), "wb")


def append(path: Path) -> BinaryIO:
    """Open an existing file to write at its end. Raises OSError, also where it is a link or not a regular file."""
    with naming(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | _NONBLOCK | _PLAIN)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "it is not a regular file")
        return os.fdopen(descriptor, "ab")


@contextlib.contextmanager
def part_folder(path: Path) -> Iterator[Path]:
    """Make a new folder beside `path`, to be filled and then renamed. If it still exists after the block, it is
    removed.
    """
    with naming(path):
        while True:
            part = _part_name(path)
            with contextlib.suppress(FileExistsError):
                part.mkdir()
                break
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Remove a folder that gantricks has made. It is renamed to a part first, so that a killed process leaves a
    part.
    """
    part = _part_name(path)
    path.rename(part)
    shutil.rmtree(part, ignore_errors=True)


def sweep(folder: Path, *names: str) -> None:
    """Remove half-written files that killed processes have left in `folder`.

    `names` are regular expressions for files and folders that are written only under the lock that the caller holds:
    their parts are removed at once. Other parts may still be in use, and are removed when nobody has changed them for a
    day.
    """
    ours = re.compile("|".join(names) or r"(?!)", re.DOTALL)
    with contextlib.suppress(OSError):
        for path in list(folder.iterdir()):
            matched = _PART.fullmatch(path.name) or _FORMER_PART.fullmatch(path.name)
            if not matched:
                continue
            name = next(group for group in matched.groups() if group)
            with contextlib.suppress(OSError):
                if ours.fullmatch(name) or time.time() - path.lstat().st_mtime > STALE:
                    if path.is_dir() and not path.is_symlink():
                        shutil.rmtree(path, ignore_errors=True)
                    else:
                        path.unlink()


def is_part(name: str) -> bool:
    """Return whether a file or folder of this name is a part: in progress, or left by a killed process."""
    return bool(_PART.fullmatch(name) or _FORMER_PART.fullmatch(name))


def numbered(path: Path, suffix: str = "", *, first: str = "") -> Iterator[Path]:
    """Yield `path`, `path`-2, `path`-3 … with `suffix` after the number. `first` stands in place of the number 1."""
    for number in count(1):
        yield path.with_name(f"{path.name}{first if number == 1 else f'-{number}'}{suffix}")


def free_name(path: Path, suffix: str = "", *, first: str = "") -> Path:
    """Return the first of `numbered` at which nothing exists."""
    return next(name for name in numbered(path, suffix, first=first) if not os.path.lexists(name))


def name_aside(path: Path) -> Path:
    """Return a free name to move `path` to: `path`.replaced, `path`.replaced-2 …"""
    return free_name(path.with_name(f"{path.name}.replaced"))


def set_aside(path: Path) -> Path:
    """Rename `path` to the name that `name_aside` finds for it."""
    return path.rename(name_aside(path))


def flush(descriptor: int) -> None:
    """Flush a file to the disk, as far as the file system can. Raises OSError."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FSYNC:
            raise


def flush_file(path: Path) -> None:
    """Flush a file that another writer has written."""
    # opened for writing, because Windows cannot flush a file that is open for reading only
    descriptor = os.open(path, os.O_RDWR | _PLAIN)
    try:
        flush(descriptor)
    finally:
        os.close(descriptor)


def flush_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, as far as the file system can. Raises OSError."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        if error.errno not in _NO_FSYNC:
            raise
        return
    try:
        flush(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put `path` into an OSError that is raised in the block: the user knows this file, and not its part."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def error_of_system(error: Exception) -> OSError | None:
    """Return the system's error that a safetensors error describes only in words."""
    number = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else None


def _part_name(path: Path) -> Path:
    # file systems allow names of 255 bytes
    name = os.fsdecode(os.fsencode(path.name)[:200])
    return path.with_name(f".{name}.{secrets.token_hex(4)}.part")


def _part_of(path: Path) -> tuple[Path, int]:
    while True:
        part = _part_name(path)
        with contextlib.suppress(FileExistsError):
            return part, os.open(part, _EXCLUSIVE | _PLAIN, 0o666)


def _place_new(part: Path, path: Path) -> None:
    """Rename a part to `path`, but never over an existing file: making a hard link succeeds or fails atomically."""
    try:
        os.link(part, path)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from error
        os.replace(part, path)
