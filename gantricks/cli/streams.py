"""Handles the state of the standard streams: closed, full, without a reader, or unable to encode some letters."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import IO

from gantricks.errors import Problem

_GONE = {errno.EPIPE, errno.EIO, errno.ECONNRESET}
"""Errors that mean the reader has left, or its terminal is closed. They need no message."""
_NARROWEST, _WIDEST = 20, 1000

_errors: list[OSError] = []
_aside: tuple[IO[str], IO[str] | None] | None = None


def prepare() -> None:
    """Make the streams usable, whatever their state."""
    _errors.clear()
    for descriptor in range(3):
        # a file opened later would get the number of a closed stream, and receive what others print
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
        # the shell's variables may be empty, not a number, or too small or large for a layout
        told = os.environ.get(size, "")
        if not (told.isascii() and told.isdigit() and _NARROWEST <= int(told[:9]) <= _WIDEST):
            os.environ.pop(size, None)


def keep_for_json() -> None:
    """Reserve standard output for `exact`, from now on. Output of plugins and their child processes goes to standard
    error.
    """
    global _aside
    if _aside is not None:
        return
    stream, copy = sys.stdout, None
    with contextlib.suppress(OSError, ValueError):  # streams of a test or a notebook have no descriptor
        if stream.fileno() == 1:
            stream.flush()
            copy = open(os.dup(1), "w", encoding=stream.encoding, errors="backslashreplace")  # noqa: SIM115
            os.dup2(2, 1)
    _aside, sys.stdout = (stream, copy), sys.stderr


def exact(text: str) -> None:
    """Write a line to standard output that can be read back: UTF-8 where it goes to a file or to a program."""
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
    """Give up a stream that cannot be written any more. Other work, such as a run, continues."""
    if stream is not sys.stderr and error.errno not in _GONE:
        _errors.append(error)
    with contextlib.suppress(OSError, ValueError):
        # buffered output would fail again when the program ends
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, stream.fileno())
        os.close(descriptor)


def finish() -> list[Problem]:
    """Flush the streams and restore standard output. Returns the problems to report."""
    global _aside
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            lose(stream, error)
        except ValueError:  # closed by other code
            pass
    if _aside is not None:
        sys.stdout, copy = _aside
        _aside = None
        if copy is not None:
            os.dup2(copy.fileno(), 1)
            copy.close()
    hint = "the output is incomplete; everything else is done"
    return [Problem(error.strerror or str(error), "standard output", hint) for error in _errors[:1]]
