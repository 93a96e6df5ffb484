"""Writing: files and folders that are there whole or not at all, and nothing but what was asked for.

What is being written stands beside its place under a name of its own, hidden and with the suffix `.part`. It is made
exclusively, so that no link is followed and nothing that is there is touched, and takes its place when it is whole and
on the disk. What a killed process leaves is such a part: `sweep` removes them.
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
"""How systems say that they cannot flush a folder, or a file of this kind: Windows, FUSE, network file systems."""

_NO_LINK = {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV}

_PART = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.part", re.DOTALL)
_FORMER_PART = re.compile(
    r"\.(\d{6,})\.\d+|\.(.+)\.writing|\.(\d{6,}\.png)\.\d+\.tmp|(metrics)\.rewriting|(.+)\.[a-z0-9_]{8}\.partial"
    r"|(.+)\.\d+-[0-9a-f]{8}\.partial",
    re.DOTALL,
)
"""Names of parts before they were all alike; runs that were killed then still hold them, and caches."""

STALE = 24 * 3600.0
"""Seconds for which nobody has touched a part that nobody is at work on any more, where no lock tells."""


@contextlib.contextmanager
def whole(path: Path, *, fresh: bool = False) -> Iterator[BinaryIO]:
    """A file to write to, which takes its place at `path` when the block ends. One that raises leaves nothing.

    It takes the place of whatever is there, of a link itself and not of what that points to. With `fresh` nothing may
    be there. Its mode is what the umask gives. Raises OSError with `path` in it; FileExistsError where `fresh` is
    given and something is there.
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
                path.unlink()  # or the next try would find something there
                raise
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes, *, fresh: bool = False) -> None:
    """Write a file whole, or not at all: see `whole`. Text is UTF-8, its line ends as they are."""
    with whole(path, fresh=fresh) as file, naming(path):
        file.write(content.encode() if isinstance(content, str) else content)


def create(path: Path) -> BinaryIO:
    """A new file to write to as time goes by. Raises OSError, FileExistsError where something is there."""
    with naming(path):
        return os.fdopen(os.open(path, _EXCLUSIVE | _PLAIN, 0o666), "wb")


def append(path: Path) -> BinaryIO:
    """A file that is there to go on writing to. Raises OSError, also where it is a link or no regular file."""
    with naming(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | _NONBLOCK | _PLAIN)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "it is no regular file")
        return os.fdopen(descriptor, "ab")


@contextlib.contextmanager
def part_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path` to be filled and then renamed; what of it is still there after the block goes."""
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
    """Remove a folder of ours. It is gone in one moment: a process that is killed meanwhile leaves a part."""
    part = _part_name(path)
    path.rename(part)
    shutil.rmtree(part, ignore_errors=True)


def sweep(folder: Path, *names: str) -> None:
    """Remove what killed processes have left half written in `folder`.

    `names`, regular expressions, say of which files and folders that is certain, since the caller holds the lock under
    which they are written. Parts of anything else may be at work: they go when nobody has touched them for a day.
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
    """Whether a file or folder of this name is one that is being written, or that a killed process has left."""
    return bool(_PART.fullmatch(name) or _FORMER_PART.fullmatch(name))


def numbered(path: Path, suffix: str = "", *, first: str = "") -> Iterator[Path]:
    """`path`, `path`-2, `path`-3 … with `suffix` behind the number; `first` stands in place of the number 1."""
    for number in count(1):
        yield path.with_name(f"{path.name}{first if number == 1 else f'-{number}'}{suffix}")


def free_name(path: Path, suffix: str = "", *, first: str = "") -> Path:
    """The first of `numbered` of which nothing is there."""
    return next(name for name in numbered(path, suffix, first=first) if not os.path.lexists(name))


def name_aside(path: Path) -> Path:
    """A free name for what stands at `path` and makes room for something else: `path`.replaced, `path`.replaced-2 …"""
    return free_name(path.with_name(f"{path.name}.replaced"))


def set_aside(path: Path) -> Path:
    """Give what stands at `path` the name that `name_aside` finds for it."""
    return path.rename(name_aside(path))


def flush(descriptor: int) -> None:
    """What was written to a file is on the disk, as far as the file system can say so. Raises OSError."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FSYNC:
            raise


def flush_file(path: Path) -> None:
    """`flush` of a file that others have written."""
    # for writing: Windows flushes nothing that is open for reading alone
    descriptor = os.open(path, os.O_RDWR | _PLAIN)
    try:
        flush(descriptor)
    finally:
        os.close(descriptor)


def flush_folder(folder: Path) -> None:
    """The names in a folder are on the disk, as far as the file system can say so. Raises OSError."""
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
    """An OSError that is raised within names `path`: the user's file, and not the part of it."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def error_of_system(error: Exception) -> OSError | None:
    """The system's error of which safetensors tells in words alone."""
    number = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else None


def _part_name(path: Path) -> Path:
    # within the 255 bytes that file systems allow
    name = os.fsdecode(os.fsencode(path.name)[:200])
    return path.with_name(f".{name}.{secrets.token_hex(4)}.part")


def _part_of(path: Path) -> tuple[Path, int]:
    while True:
        part = _part_name(path)
        with contextlib.suppress(FileExistsError):
            return part, os.open(part, _EXCLUSIVE | _PLAIN, 0o666)


def _place_new(part: Path, path: Path) -> None:
    """Rename, but never over something: a link in the file system is made or refused in one moment."""
    try:
        os.link(part, path)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from error
        os.replace(part, path)
