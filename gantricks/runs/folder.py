"""Folders of runs and studies: the lock, the name of a new run, and the files that an earlier attempt has left."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import time
import tomllib
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path

import tomli_w

from gantricks import files
from gantricks.errors import Problem, UserError, legible

RECIPE, MANIFEST, METRICS, LOCK = "recipe.toml", "manifest.json", "metrics.jsonl", ".lock"
EVENTS = "events.out.tfevents."
LOGGERS = "loggers"
"""The subfolder in which loggers write what they like."""

_INSIDE = {
    "samples": r"\d{6,}\.png",
    "checkpoints": r"\d{6,}(\.replaced(-\d+)?)?",
    "fault": r"\d{6,}(\.replaced(-\d+)?)?",
}
"""The subfolders of a run, and a pattern for the names in each."""

_RECIPES = r"recipe\.toml(\.replaced(-\d+)?)?"
_FILES = "|".join(
    [
        *(_RECIPES, r"reference\.safetensors", r"manifest\.json", r"metrics\.jsonl", r"evaluation\.json"),
        *(r"report(-\d+)?\.html", rf"{re.escape(EVENTS)}.+"),
    ]
)
_WRITTEN = (_RECIPES, r"reference\.safetensors", r"manifest\.json", r"metrics(\.jsonl)?", r"result\.json")
"""Files that the holder of the lock writes in a run's folder."""

_TOLERATED = ("*.out", "*.log", "lost+found")
"""Files that batch queues and file systems write."""

_ELSEWHERE = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}
"""The errors by which a system says that another process holds the lock. Any other error means that it cannot lock."""


# ---------------------------------------------------------------- the lock


@contextlib.contextmanager
def locked(
    folder: Path, work: str, warn: Callable[[str], None] = lambda sentence: None, patience: float = 0.0
) -> Iterator[tuple[int, ...]]:
    """Hold the lock of a folder. It is released when the process ends, however it ends.

    `work` completes the sentence "another process is …". `patience` is the number of seconds to wait for the lock. The
    file `.lock` is created and never written to. Yields the file descriptors that hold the lock, for child processes to
    inherit. Where the file system cannot lock, `warn` is called and there are none. Raises UserError when another
    process holds the lock, and where the folder cannot be written or `.lock` is not a regular file of its own.
    """
    until = time.monotonic() + patience
    path = folder / LOCK
    while True:
        descriptor = _open_lock(path)
        try:
            _lock(descriptor)
            # the former holder may have removed the folder and its lock after this process had opened the lock
            if os.fstat(descriptor).st_ino == path.lstat().st_ino:
                break
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in _ELSEWHERE:
                os.close(descriptor)
                warn(
                    f"{folder}: the file system cannot lock files ({error.strerror}); see to it that nothing else "
                    "works there at the same time"
                )
                yield ()
                return
            if time.monotonic() >= until:
                os.close(descriptor)
                raise UserError(
                    Problem(f"another process is {work}", str(folder), "wait for it, or stop it")
                ) from error
            time.sleep(0.1)
        os.close(descriptor)
    try:
        yield (descriptor,)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    try:
        import fcntl
    except ImportError as error:
        raise OSError(errno.ENOSYS, "this system has no locks") from error
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _open_lock(path: Path) -> int:
    """Open the lock file. Nothing is written to it, because it may be a file of the user's."""
    flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        if path.is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o666)
        except PermissionError:  # a file of another user can be locked all the same
            descriptor = os.open(path, os.O_RDONLY | flags)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EMLINK, errno.EISDIR, errno.ENXIO):
            raise UserError(Problem(f"the folder cannot be written: {error.strerror}", str(path.parent))) from error
    what = "a link" if path.is_symlink() else "not a regular file"
    raise UserError(Problem(f"it is {what}, and the lock of the folder must be a regular file", str(path), "remove it"))


# ---------------------------------------------------------------- a run's folder


def require_run(folder: Path) -> Path:
    """Return the recipe file of the run in a folder. Raises UserError where there is no run."""
    path = folder / RECIPE
    if not path.is_file():
        what = f"the folder is not a run: it has no {RECIPE}" if folder.is_dir() else "there is no such folder"
        hint = "name a folder that `gantricks train` made, such as runs/dcgan"
        raise UserError(Problem(what, legible(str(folder)), hint))
    return path


def new_run(wanted: Path | None, name: str) -> tuple[Path, bool]:
    """Return a folder for a new run, and whether it was created.

    It is `wanted`, or the first free name in `runs/` for a run of this name. Raises UserError where the folder cannot
    be used.
    """
    try:
        if wanted is None:
            Path("runs").mkdir(exist_ok=True)
            for path in files.numbered(Path("runs", name)):
                with contextlib.suppress(FileExistsError):
                    path.mkdir()
                    return path, True
        assert wanted is not None
        with contextlib.suppress(FileExistsError):
            wanted.mkdir(parents=True)
            return wanted, True
        if not wanted.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "it is not a folder", str(wanted))
        return wanted, False
    except OSError as error:
        raise UserError(
            Problem(
                f"the run's folder cannot be written: {error.strerror}",
                str(error.filename),
                "name another with --run-dir",
            )
        ) from error


def give_back(run: Path) -> None:
    """Remove the folder that was created for a run that did not start, unless it holds something."""
    with contextlib.suppress(OSError):
        if [path.name for path in run.iterdir()] == [LOCK]:
            (run / LOCK).unlink()
            run.rmdir()


def sweep(run: Path) -> None:
    """Remove the half-written files that killed processes have left in a run's folder. The caller must hold its lock.

    Raises UserError when one of the run's subfolders is not a folder of its own, since a run writes only inside its
    folder.
    """
    problems = []
    for name, pattern in _INSIDE.items():
        path = run / name
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            what = "a link" if path.is_symlink() else "no folder"
            problems.append(
                Problem(
                    f"it is {what}, and a run writes in a folder of its own", str(path), "put a folder in its place"
                )
            )
        elif path.exists():
            files.sweep(path, pattern)
    if problems:
        raise UserError(*problems)
    files.sweep(run, *_WRITTEN)


def leavings(run: Path) -> list[Path]:
    """Return the files that an attempt without a checkpoint has left in the folder of a new run.

    Raises UserError when there is any other file: it belongs to the user or to another program.
    """
    entries = sorted(path for path in run.iterdir() if not _is_tolerated(path))
    # a run that is killed before its first step leaves only a recipe; a recipe that a user wrote looks different
    begun = (run / MANIFEST).is_file() or _is_resolved(run / RECIPE)
    # a run that is killed just after it has set everything aside leaves nothing else
    ours = [path for path in entries if (_is_of_a_run(path) if begun else _is_set_aside(path))]
    others = [path.name for path in entries if path not in ours]
    if others:
        named = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
        raise UserError(
            Problem(
                f"the folder holds files that no run of gantricks has written: {named}",
                f"--run-dir {run}",
                "name another folder",
            )
        )
    return [path for path in ours if not re.fullmatch(r"earlier-\d+", path.name)]


def set_aside(run: Path, left: list[Path]) -> None:
    """Move the files of an earlier attempt into a new folder `earlier-1`, `earlier-2` …"""
    if not left:
        return
    aside = files.free_name(run / "earlier", first="-1")
    aside.mkdir()
    # these two last: if the process is killed meanwhile, they still show that the rest is a run's
    for path in sorted(left, key=lambda path: (path.name == RECIPE, path.name == MANIFEST)):
        path.rename(aside / path.name)


def _is_tolerated(path: Path) -> bool:
    return path.name == LOCK or any(fnmatch(path.name, pattern) for pattern in _TOLERATED) or files.is_part(path.name)


def _is_of_a_run(path: Path) -> bool:
    if path.is_symlink():
        return False
    if path.name in _INSIDE:
        pattern = _INSIDE[path.name]
        return path.is_dir() and all(
            re.fullmatch(pattern, entry.name) or files.is_part(entry.name) for entry in path.iterdir()
        )
    if path.name == LOGGERS or re.fullmatch(r"earlier-\d+", path.name):
        return path.is_dir()
    return path.is_file() and bool(re.fullmatch(_FILES, path.name))


def _is_set_aside(path: Path) -> bool:
    """Return whether this is a folder `earlier-1` … that holds an earlier attempt."""
    named = re.fullmatch(r"earlier-\d+", path.name) and path.is_dir() and not path.is_symlink()
    return bool(named) and all(map(_is_of_a_run, path.iterdir())) and _is_resolved(path / RECIPE)


def _is_resolved(recipe: Path) -> bool:
    """Return whether a recipe has the exact form in which runs write it: every section, the same spacing, no
    comment.
    """
    try:
        text = recipe.read_text(encoding="utf-8")
        table = tomllib.loads(text)
        sections = {"name", "seed", "data", "generator", "discriminator", "train", "evaluate"}
        return sections <= table.keys() and tomli_w.dumps(table) == text
    except (OSError, ValueError, RecursionError):
        return False
