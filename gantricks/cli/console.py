"""Where text goes, and how it is dressed."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

READABLE = 100
"""Prose is set no wider than this."""
_ONE_LINE = 1000


class _Patient(Console):
    """A console that falls silent when its reader has gone, so that `| head` ends no run and prints no traceback."""

    def print(self, *objects: Any, **how: Any) -> None:
        if self.is_terminal:
            super().print(*objects, **how)
            return
        with self.capture() as captured:
            super().print(*objects, **how)
        # the blanks that fill a table's last column are of no use in a file
        lines = [line.rstrip() for line in captured.get().removesuffix("\n").split("\n")]
        super().print(Text("\n".join(lines)), soft_wrap=True)

    def _check_buffer(self) -> None:
        try:
            super()._check_buffer()
        except OSError as fault:
            if fault.errno != errno.EIO:
                raise
            self.on_broken_pipe()  # the terminal was closed; who is told of it by a signal still saves the run

    def on_broken_pipe(self) -> None:
        self.quiet = True
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, self.file.fileno())
        os.close(descriptor)


def output() -> Console:
    """Standard output. In a file or a pipe a row of a table is one line, whatever its length."""
    return _console(stderr=False)


def errors() -> Console:
    """Standard error."""
    return _console(stderr=True)


def _console(stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else _ONE_LINE
    return _Patient(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)


def write_json(value: object) -> None:
    """One JSON value on standard output."""
    import json

    output().out(json.dumps(value, indent=2, ensure_ascii=False), highlight=False)


def write_prose(console: Console, text: str, indent: int = 0) -> None:
    """Paragraphs, wrapped to a readable width; what stands in backquotes is set apart."""
    for paragraph in text.split("\n\n"):
        lines = paragraph.split("\n")
        # indented lines, such as formulas, keep their breaks
        together = "\n".join(lines) if any(line[:1] in " -*" for line in lines) else " ".join(lines)
        dressed = Text(together)
        dressed.highlight_regex(r"`[^`]+`", "cyan")
        console.print(Padding(dressed, (0, 0, 0, indent)), width=min(console.width, READABLE))
        console.print()


def write_command(console: Console, command: str) -> None:
    """A command to type, on a line of its own that is never broken, so that it can be copied."""
    console.print(Text(f"  {command}", "bold"), soft_wrap=True)
