"""Where text goes, and how it is dressed.

Everything that is shown goes through here, and here what came from outside, such as the name of a file, is made text:
no character of it moves the cursor, colours, breaks the line or stops the program. A string and a `Text` are one line.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import rich.text
from rich.console import Console, ConsoleOptions, RenderableType
from rich.padding import Padding
from rich.segment import Segment

from gantricks.cli import streams
from gantricks.errors import printable

READABLE = 100
"""Prose is set no wider than this."""
_ONE_LINE = 1000


class Text(rich.text.Text):
    """Words within one line, in a style. What a terminal would obey is shown as an escape."""

    def __init__(self, text: str = "", *rest: Any, **how: Any) -> None:
        super().__init__(printable(text), *rest, **how)

    def append(self, text: rich.text.Text | str, style: Any = None) -> rich.text.Text:
        return super().append(printable(text) if isinstance(text, str) else text, style)


class _Patient(Console):
    """A console that obeys nobody's names and falls silent when its reader has gone or its disk is full, so that
    `| head` ends no run and prints no traceback."""

    def print(self, *objects: Any, **how: Any) -> None:
        if self.is_terminal:
            super().print(*objects, **how)
            return
        with self.capture() as captured:
            super().print(*objects, **how)
        # the blanks that fill a table's last column are of no use in a file
        lines = [line.rstrip() for line in captured.get().removesuffix("\n").split("\n")]
        super().print(rich.text.Text("\n".join(lines)), soft_wrap=True)

    def render_str(self, text: str, **how: Any) -> rich.text.Text:
        return super().render_str(printable(text), **how)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        # strings and `Text` are text by now; this is for what rich makes of its own
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(printable(segment.text, "\n"), segment.style)

    def on_broken_pipe(self) -> None:
        raise  # called while it is handled

    def _check_buffer(self) -> None:
        try:
            super()._check_buffer()
        except OSError as error:
            self.quiet = True
            streams.lose(self.file, error)


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
    """One JSON value on standard output, in UTF-8."""
    import json

    text = json.dumps(value, indent=2, ensure_ascii=False)
    # within strings alone is there anything to escape, and there JSON has its own way
    streams.exact("".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text))


def write_prose(console: Console, text: str, indent: int = 0) -> None:
    """Paragraphs, wrapped to a readable width; what stands in backquotes is set apart."""
    for paragraph in text.split("\n\n"):
        lines = paragraph.split("\n")
        # indented lines, such as formulas, keep their breaks
        together = "\n".join(lines) if any(line[:1] in " -*" for line in lines) else " ".join(lines)
        dressed = rich.text.Text(printable(together, "\n"))
        dressed.highlight_regex(r"`[^`]+`", "cyan")
        console.print(Padding(dressed, (0, 0, 0, indent)), width=min(console.width, READABLE))
        console.print()


def typed(words: Sequence[str]) -> str:
    """The words of a command as they are typed in a shell."""
    return " ".join(shlex.quote(word) if word.isprintable() else _ansi_quoted(word) for word in words)


def _ansi_quoted(word: str) -> str:
    r"""$'…', in which a shell reads escapes such as \n."""
    signs = (f"\\{sign}" if sign in "\\'" else _shell_escape(sign) for sign in word)
    return f"$'{''.join(signs)}'"


def _shell_escape(sign: str) -> str:
    # to a shell \x80 and above are bytes
    return f"\\u{ord(sign):04x}" if 0x80 <= ord(sign) < 0x100 and not sign.isprintable() else printable(sign)


def write_command(console: Console, command: str) -> None:
    """A command to type, on a line of its own that is never broken, so that it can be copied."""
    console.print(Text(f"  {command}", "bold"), soft_wrap=True)
