"""Finds the line of each key in a TOML text, for error messages. `tomllib` reads the values."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

Path = tuple[str, ...]

_STRING = re.compile(r'"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'', re.DOTALL)
_KEY_PART = re.compile(r'\s*("(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'|[A-Za-z0-9_-]+)\s*')


class Statement(NamedTuple):
    """A table's header, or a key with its value.

    `path` is the full path, `written` the path in this statement's text, and `line` its line, counted from 1.
    """

    path: Path
    written: Path
    line: int
    is_table: bool


def statements(text: str) -> Iterator[Statement]:
    """Yield every statement of a valid TOML `text`, in order. Keys inside inline tables and arrays are not
    statements.
    """
    table: Path = ()
    at = counted = 0
    line = 1
    while at < len(text):
        if text[at] in " \t\r\n":
            at += 1
            continue
        if text[at] == "#":
            at = _end_of_line(text, at)
            continue
        line, counted = line + text.count("\n", counted, at), at
        if text[at] == "[":
            brackets = 2 if text.startswith("[[", at) else 1
            table, end = _key(text, at + brackets)
            yield Statement(table, table, line, True)
            at = _end_of_line(text, end)
        else:
            key, end = _key(text, at)
            yield Statement(table + key, key, line, False)
            at = _end_of_value(text, end + 1)


def key_lines(text: str) -> dict[Path, int]:
    """Map the path of every table and every key of a valid TOML `text` to its line, counted from 1.

    A table without a header begins with the first table within it. Keys inside inline tables and arrays are not listed;
    they belong to the statement of their nearest listed parent.
    """
    lines: dict[Path, int] = {}
    for path, written, line, is_table in statements(text):
        shortest = 1 if is_table else len(path) - len(written) + 1
        for depth in range(shortest, len(path) + 1):
            lines.setdefault(path[:depth], line)
    return lines


def line_of(lines: dict[Path, int], path: Path) -> int | None:
    """Return the line of `path`, or of its nearest parent that is listed."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path)


def _key(text: str, at: int) -> tuple[Path, int]:
    parts: list[str] = []
    while True:
        match = _KEY_PART.match(text, at)
        assert match, "not valid TOML"
        part = match[1]
        if part[0] == '"':
            part = re.sub(
                r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))",
                lambda m: chr(int(m[1] or m[2], 16)) if m[1] or m[2] else _ESCAPES.get(m[3], m[3]),
                part[1:-1],
            )
        elif part[0] == "'":
            part = part[1:-1]
        parts.append(part)
        at = match.end()
        if text[at] != ".":
            return tuple(parts), at
        at += 1


_ESCAPES = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r"}


def _end_of_line(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end + 1


def _end_of_value(text: str, at: int) -> int:
    depth = 0
    while at < len(text):
        character = text[at]
        if character in "\"'":
            match = _STRING.match(text, at)
            assert match, "not valid TOML"
            at = match.end()
            continue
        if character == "#":
            at = _end_of_line(text, at) - 1
            character = "\n"
        if character in "[{":
            depth += 1
        elif character in "]}":
            depth -= 1
        elif character == "\n" and depth == 0:
            return at + 1
        at += 1
    return at
