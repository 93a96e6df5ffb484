"""The standard streams as a program finds them: closed, full, left by their reader, unable to show every letter."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import IO

from gantricks.errors import Problem

_GONE = {errno.EPIPE, errno.EIO, errno.ECONNRESET}
"""The reader has left, or its terminal is closed: nobody misses what is not shown."""
_NARROWEST, _WIDEST = 20, 1000

_errors: list[OSError] = []
_aside: tuple[IO[str], IO[str] | None] | None = None


def prepare() -> None:
    """Make the streams fit to be written to, whatever they are."""
    _errors.clear()
    for descriptor in range(3):
        # a file opened later would take the number of a closed stream, and be given what others print
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    for size in ("COLUMNS", "LINES"):
        # what is left over from a shell can be empty, no number, or too small or large to lay anything out
        told = os.environ.get(size, "")
        if not (told.isascii() and told.isdigit() and _NARROWEST <= int(told[:9]) <= _WIDEST):
            os.environ.pop(size, None)


def keep_for_json() -> None:
    """From now on standard output is for what `exact` is given. What plugins, and programs that they start, print goes
    to standard error."""
    global _aside
    if _aside is not None:
        return
    stream, copy = sys.stdout, None
    with contextlib.suppress(OSError, ValueError):  # a stream of a test or a notebook has no descriptor
        if stream.fileno() == 1:
            stream.flush()
            copy = open(os.dup(1), "w", encoding=stream.encoding, errors="backslashreplace")  # noqa: SIM115
            os.dup2(2, 1)
    _aside, sys.stdout = (stream, copy), sys.stderr


def exact(text: str) -> None:
    """A line for standard output that is meant to be read back: UTF-8 where it goes to a file or to a program."""
    stream = sys.stdout if _aside is None else _aside[1] or _aside[0]
    try:
        stream.flush()
        if hasattr(stream, "buffer") and not stream.isatty():
            stream.buffer.write(f"{text}\n".encode())
        else:
            stream.write(f"{text}\n")
        stream.flush()
    except OSError as error:
        lose(stream, error)


def lose(stream: IO[str], error: OSError) -> None:
    """Nothing more can be written to `stream`. What happens besides, such as a run, is worth going on with."""
    if stream is not sys.stderr and error.errno not in _GONE:
        _errors.append(error)
    with contextlib.suppress(OSError, ValueError):
        # what is still held back would fail again when the program ends
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, stream.fileno())
        os.close(descriptor)


def finish() -> list[Problem]:
    """Write what is held back and put standard output back in its place. Returns what the user should know."""
    global _aside
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            lose(stream, error)
        except ValueError:  # closed by somebody else
            pass
    if _aside is not None:
        sys.stdout, copy = _aside
        _aside = None
        if copy is not None:
            os.dup2(copy.fileno(), 1)
            copy.close()
    hint = "what was printed is not whole; everything else is done"
    return [Problem(error.strerror or str(error), "standard output", hint) for error in _errors[:1]]
