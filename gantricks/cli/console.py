"""The consoles for output, and the styles of text.

All output goes through here. Text from outside, such as the name of a file, is escaped, so that no character of it
moves the cursor, colours, breaks the line or stops the program. A string and a `Text` are one line.
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
"""The largest width of prose."""
_ONE_LINE = 1000


class Text(rich.text.Text):
    """Words within one line, in a style. Control characters are shown as escapes."""

    def __init__(self, text: str = "", *rest: Any, **how: Any) -> None:
        super().__init__(printable(text), *rest, **how)

    def append(self, text: rich.text.Text | str, style: Any = None) -> rich.text.Text:
        return super().append(printable(text) if isinstance(text, str) else text, style)


class _Patient(Console):
    """A console that ignores markup in names, and stops printing when its reader has gone or its disk is full, so that
    `| head` ends no run and prints no traceback.
    """

    def print(self, *objects: Any, **how: Any) -> None:
        if self.is_terminal:
            super().print(*objects, **how)
            return
        with self.capture() as captured:
            super().print(*objects, **how)
        # remove the blanks that fill the last column of a table
        lines = [line.rstrip() for line in captured.get().removesuffix("\n").split("\n")]
        super().print(rich.text.Text("\n".join(lines)), soft_wrap=True)

    def render_str(self, text: str, **how: Any) -> rich.text.Text:
        return super().render_str(printable(text), **how)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        # strings and `Text` are escaped already; this is for text that rich adds
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(printable(segment.text, "\n"), segment.style)

    def on_broken_pipe(self) -> None:
        raise  # this method is called while the error is handled

    def _check_buffer(self) -> None:
        try:
            super()._check_buffer()
        except OSError as error:
            self.quiet = True
            streams.lose(self.file, error)


def output() -> Console:
    """Return the console of standard output. In a file or a pipe a row of a table is one line, whatever its length."""
    return _console(stderr=False)


def errors() -> Console:
    """Return the console of standard error."""
    return _console(stderr=True)


def _console(stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else _ONE_LINE
    return _Patient(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)


def write_json(value: object) -> None:
    """Write one JSON value to standard output, in UTF-8."""
    import json

    text = json.dumps(value, indent=2, ensure_ascii=False)
    # only strings hold characters to escape, and they get JSON escapes
    streams.exact("".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text))


def write_prose(console: Console, text: str, indent: int = 0) -> None:
    """Write paragraphs, wrapped to a readable width. Words in backquotes get a style."""
    for paragraph in text.split("\n\n"):
        lines = paragraph.split("\n")
        # indented lines, such as formulas, keep their breaks
        together = "\n".join(lines) if any(line[:1] in " -*" for line in lines) else " ".join(lines)
        dressed = rich.text.Text(printable(together, "\n"))
        dressed.highlight_regex(r"`[^`]+`", "cyan")
        console.print(Padding(dressed, (0, 0, 0, indent)), width=min(console.width, READABLE))
        console.print()


def number(value: float) -> str:
    """Format a number with four digits; integers stay as they are."""
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.4g}"


def typed(words: Sequence[str]) -> str:
    """Return the words of a command in the form to type in a shell."""
    return " ".join(shlex.quote(word) if word.isprintable() else _ansi_quoted(word) for word in words)


def _ansi_quoted(word: str) -> str:
    r"""Return $'…', in which a shell reads escapes such as \n."""
    signs = (f"\\{sign}" if sign in "\\'" else _shell_escape(sign) for sign in word)
    return f"$'{''.join(signs)}'"


def _shell_escape(sign: str) -> str:
    # a shell reads \x80 and above as bytes
    return f"\\u{ord(sign):04x}" if 0x80 <= ord(sign) < 0x100 and not sign.isprintable() else printable(sign)


def write_command(console: Console, command: str) -> None:
    """Write a command on a line of its own that is never broken, so that it can be copied."""
    console.print(Text(f"  {command}", "bold"), soft_wrap=True)
