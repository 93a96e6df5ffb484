"""Errors about the user's input: what is wrong, where, and what to write instead."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import asdict, dataclass

_JOINERS = "\u200c\u200d"
"""Characters that Python calls unprintable, but that Persian, Indic words and emoji need."""
_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: str, keep: str = "") -> str:
    """Return `text` with every character that controls a terminal, or is not shown, replaced by an escape.

    Names and values may come from foreign files, folders and packages. Line breaks, terminal codes, marks that change
    the direction of writing, and bytes that are not text (as `os.fsdecode` gives them) become ``\\n``, ``\\x1b``,
    ``\\u202e``, ``\\xe9``. Characters in `keep` stay.
    """
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() or sign in _JOINERS or sign in keep else _escape(sign) for sign in text)


def _escape(sign: str) -> str:
    code = ord(sign)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is not UTF-8
        code -= 0xDC00
    if code < 0x100:
        return _NAMED.get(sign, f"\\x{code:02x}")
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


@dataclass(frozen=True)
class Problem:
    """One mistake to correct.

    `what` is the mistake in a sentence, `where` the file, line or key, `hint` what to write instead. Each is one line,
    and may contain text from a file. `str` gives the whole as text with escapes; `as_dict` gives the three parts
    unchanged.
    """

    what: str
    where: str = ""
    hint: str = ""

    def __str__(self) -> str:
        place = f"{printable(self.where)}: " if self.where else ""
        advice = f"\n    {printable(self.hint)}" if self.hint else ""
        return f"{place}{printable(self.what)}{advice}"

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


class UserError(Exception):
    """The user's input is wrong. The command line prints every problem and exits with status 2."""

    def __init__(self, *problems: Problem | str) -> None:
        self.problems = [Problem(p) if isinstance(p, str) else p for p in problems]
        super().__init__("\n".join(str(p) for p in self.problems))


class Diverged(UserError):
    """A run has met a non-finite loss or gradient, and has stopped."""


class TrickError(Exception):
    """A plugin broke the contract; the message names the trick, the hook and the rule."""


def closest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word closest to `word`, or None when none is close."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)), None)


def nearest(word: str, known: Iterable[str], label: str = "did you mean") -> str:
    """Return "did you mean 'x'?" for the known word closest to `word`, or "" when none is close."""
    close = closest(word, known)
    return f"{label} {close!r}?" if close else ""


def legible(text: str) -> str:
    """Return `text` with \\udcXX in place of bytes that are not UTF-8, as file names may have them."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
