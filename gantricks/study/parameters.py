"""What a search varies: keys of a recipe, each with a range or with values to choose from."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gantricks.errors import Problem, UserError, nearest
from gantricks.planning.validation import load_recipe
from gantricks.study.sweep import FIXED, parts
from gantricks.study.variants import Base, tried

Drawn = float | str
"""A value of a parameter: a number of a range, or the text of a choice."""

HINT = "write KEY=LOW..HIGH, KEY=LOW..HIGH:log, KEY=LOW..HIGH:int, or KEY=A|B|C"
OFF = ("off", "false")
"""The values with which nothing of a trick is left."""

_NUMBER = r"[+-]?(?:\d[\d_]*)(?:\.\d[\d_]*)?(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\s*\.\.\s*({_NUMBER})((?:\s*:\s*\w+)*)")


@dataclass(frozen=True)
class Range:
    """A key with a range of numbers, both ends included: uniform, or with `log` uniform in the logarithm; with `whole`,
    of whole numbers.
    """

    key: str
    low: float
    high: float
    log: bool = False
    whole: bool = False

    @property
    def ends(self) -> tuple[float, float]:
        return self.low, self.high

    def __str__(self) -> str:
        marks = ":log" * self.log + ":int" * self.whole
        return f"{self.key}={shown(self.low)}..{shown(self.high)}{marks}"


@dataclass(frozen=True)
class Choice:
    """A key with values to choose from, as they are written."""

    key: str
    values: tuple[str, ...]

    @property
    def ends(self) -> tuple[str, ...]:
        return self.values

    def __str__(self) -> str:
        return f"{self.key}={'|'.join(self.values)}"


Parameter = Range | Choice


def shown(value: Drawn) -> str:
    """Return a value as an override has it."""
    return value if isinstance(value, str) else repr(value)


def parameter(word: str) -> Parameter:
    """Read `KEY=LOW..HIGH`, with `:log` and `:int` after it, or `KEY=A|B|C`. A `|` within brackets, braces or quotes
    belongs to a value.

    Raises UserError with everything that is wrong with it.
    """
    key, mark, listed = (part.strip() for part in word.partition("="))
    if problems := [Problem(what, f"--param {word}", hint) for what, hint in _mistakes(key, mark, listed)]:
        raise UserError(*problems)
    if not (found := _RANGE.fullmatch(listed)):
        return Choice(key, tuple(parts(listed, "|")))
    marks = _marks(found[3])
    whole = "int" in marks
    low, high = (int(float(end)) if whole else float(end) for end in found.groups()[:2])
    return Range(key, low, high, "log" in marks, whole)


def _marks(written: str) -> list[str]:
    return [mark.strip() for mark in written.split(":") if mark.strip()]


def _mistakes(key: str, mark: str, listed: str) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a parameter, and what to write instead."""
    if not key or not mark:
        yield "it names no key with values", HINT
        return
    if key in FIXED:
        yield f"{key} cannot be searched: {FIXED[key]}", "name another key"
    if key.split(".")[0].strip() == "evaluate":
        yield f"{key} cannot be searched: it changes how trials are measured", "name another key"
    if found := _RANGE.fullmatch(listed):
        yield from _of_range(float(found[1]), float(found[2]), _marks(found[3]))
        return
    values = [*parts(listed, "|")]
    if not all(values):
        yield "a value is missing", HINT
    elif len(values) == 1:
        yield f"{values[0]!r} is neither a range nor several values", HINT
    elif len({*values}) < len(values):
        yield "a value stands there twice", "leave one out"


def _of_range(low: float, high: float, marks: Sequence[str]) -> Iterator[tuple[str, str]]:
    for one in dict.fromkeys(marks):
        if one not in ("log", "int"):
            yield f"there is no mark :{one}", nearest(one, ("log", "int")) or "the marks are :log and :int"
    if not (math.isfinite(low) and math.isfinite(high)):
        yield "an end is not finite", "write numbers that floating point has"
        return
    if low >= high:
        yield f"{low:g} is not below {high:g}", "write the lower end first"
    if "int" in marks and not (low.is_integer() and high.is_integer()):
        yield "with :int both ends are whole numbers", "write whole numbers, or leave :int out"
    if "log" in marks and low <= 0:
        yield "with :log both ends are above 0", "write a lower end above 0, or leave :log out"


def parameters(words: Sequence[str]) -> list[Parameter]:
    """Read the parameters of a search. Raises UserError with everything that is wrong.

    They are sorted by key, so that a key stands before those within it, and the order of words changes no draw.
    """
    found, problems = list[Parameter](), list[Problem]()
    for word in words:
        try:
            found.append(parameter(word))
        except UserError as error:
            problems += error.problems
    keys = [one.key for one in found]
    for key in dict.fromkeys(key for key in keys if keys.count(key) > 1):
        problems.append(Problem("it stands there twice", f"--param {key}", "name its range or its values once"))
    if not words:
        problems.append(Problem("nothing is searched", "--param", HINT))
    if problems:
        raise UserError(*problems)
    return sorted(found, key=lambda one: one.key)


def checked(base: Base, space: Sequence[Parameter]) -> list[Parameter]:
    """Return the parameters as the recipe takes them: a range is one of whole numbers where its key takes only these.

    Each end of a range, and each value of a choice, is put into the recipe, all else as it stands. Raises UserError
    with everything that is refused.
    """
    found = [_as_taken(base, one) for one in space]
    problems = [problem for one in found for problem in _refusals(base, one)]
    if problems:
        raise UserError(*problems)
    return found


def _as_taken(base: Base, one: Parameter) -> Parameter:
    if isinstance(one, Choice) or one.whole or not (one.low.is_integer() and one.high.is_integer()):
        return one
    whole = Range(one.key, int(one.low), int(one.high), one.log, True)
    if not _reads(base, one.key, one.low + 0.5) and _reads(base, one.key, whole.low):
        return whole
    return one


def _reads(base: Base, key: str, value: Drawn) -> bool:
    """Return whether the option itself takes a value, whatever else stands against it."""
    try:
        load_recipe(base.file, [*base.overrides, f"{key}={shown(value)}"], base.registry)
    except UserError:
        return False
    return True


def _refusals(base: Base, one: Parameter) -> list[Problem]:
    """Return why ends of a parameter are refused. What is said of all of them is said once."""
    said = dict[tuple[str, str], list[str]]()
    for end in one.ends:
        try:
            tried(base, [f"{one.key}={shown(end)}"])
        except UserError as error:
            for problem in error.problems:
                said.setdefault((problem.what, problem.hint), []).append(shown(end))
    return [
        Problem(what if len(ends) == len(one.ends) else f"{' and '.join(ends)}: {what}", f"--param {one}", hint)
        for (what, hint), ends in said.items()
    ]


def applies(one: Parameter, drawn: Mapping[str, Drawn]) -> bool:
    """Return whether a parameter has a meaning beside the values drawn so far: not where it is within a key that was
    drawn as off, since a value of it would switch that on.
    """
    return not any(value in OFF for key, value in drawn.items() if one.key.startswith(f"{key}."))


def as_overrides(drawn: Mapping[str, Drawn]) -> list[str]:
    """Return drawn values as overrides of a recipe."""
    return [f"{key}={shown(value)}" for key, value in drawn.items()]
