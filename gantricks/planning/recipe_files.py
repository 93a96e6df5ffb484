"""Reads recipe files and `KEY=VALUE` overrides into one table, and records the place of each key."""

from __future__ import annotations

import codecs
import datetime
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from gantricks.errors import Problem, UserError, legible, nearest
from gantricks.option_errors import DEEPEST, is_text, shortened
from gantricks.planning.keys import INSTANCES, SECTIONS, SELECTORS, EvaluateKeys
from gantricks.planning.toml_lines import key_lines, line_of, statements

KeyPath = tuple[str, ...]

NAME_IT_ANEW = "rename the file or folder, or make a link to it whose name is UTF-8"
LONGEST = 256 * 1024
"""The largest size in bytes of a recipe with all that it extends. The shipped ones have a few thousand."""
PARENTS = 32
"""The largest number of recipes that extend one another."""

_ENCODINGS = (
    # UTF-32 first, because its byte order mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)


class Places:
    """The place of each key: a line of a file, or an override."""

    def __init__(self) -> None:
        self._of: dict[KeyPath, str] = {}
        self._given: dict[KeyPath, str] = {}
        self._texts: dict[KeyPath, str] = {}
        self.file = ""

    def copy(self) -> Places:
        """Return a copy, to which overrides can be added."""
        other = Places()
        other._of, other._given, other._texts = dict(self._of), dict(self._given), dict(self._texts)
        other.file = self.file
        return other

    def add_file(self, label: str, text: str, table: Mapping[str, Any]) -> None:
        """Record the lines of a recipe. Its keys replace those that are recorded already."""
        lines = key_lines(text)
        self.file = label
        for path in _paths(table):
            self._of[path] = f"{label}:{line_of(lines, path)}"

    def add_override(self, path: KeyPath, value: Any, label: str, text: str) -> None:
        """Record an override, and the `text` of its value."""
        for below in [path, *((*path, *rest) for rest in _paths(value))]:
            self._of[below] = self._given[below] = label
        self._texts[path] = text
        for table in (path[:depth] for depth in range(1, len(path))):
            if self._of.setdefault(table, label) == label:  # a table that no file has gets the place of its first key
                self._given[table] = label

    def of(self, *path: str) -> str:
        """Return the place of this key, or of its nearest parent."""
        while path and path not in self._of:
            path = path[:-1]
        return self._of.get(path, self.file)

    def of_any(self, *paths: KeyPath) -> str:
        """Return the place of an error that several keys share: that of the first key that an override gave, else of
        the first key.

        A shipped recipe is valid by itself, so that an error in it comes from an override, if there are any.
        """
        if given := [self._given[path] for path in paths if path in self._given]:
            return given[0]
        place = self.of(*paths[0])
        labels = list(dict.fromkeys(self._given.values()))
        if not labels or not _ships(place):
            return place
        near = [label for path, label in self._given.items() if path[0] in {other[0] for other in paths if other}]
        return labels[0] if len(labels) == 1 else near[-1] if near else place

    def about(self, sentence: str, *tables: KeyPath) -> str:
        """Return the place of the key that `sentence` mentions: in the first of `tables`, or in any if an override gave
        it.
        """
        words = set(re.findall(r"[A-Za-z_]\w*", sentence))
        own = [path for path in self._of if path[:-1] == tables[0] and path[-1] in words]
        elsewhere = [path for path in self._given if len(path) > 1 and path[-1] in words]
        return self.of_any(*own, *tables, *elsewhere)

    def text_of(self, *path: str) -> str | None:
        """Return the text of an override's value for this key, or None where the key comes from a file."""
        return self._texts.get(path)

    def to_set(self, value: str, *path: str) -> str:
        """Return how to give this key a value: in the file that has it, or with an override where the user's files do
        not have it.
        """
        place = self.of(*path)
        if path in self._given or not place or _ships(place):
            return f"--set {'.'.join(path)}={value}"
        return f"{path[-1]} = {value} in [{'.'.join(path[:-1])}]"


@dataclass(frozen=True)
class RecipeFile:
    """A recipe that was read with those that it extends, without overrides and not validated.

    It is read once, and `under` applies overrides to it. `name` is the name or path it was read by; `places` are the
    lines of its keys.
    """

    name: str
    table: dict[str, Any]
    places: Places

    def under(self, overrides: Iterable[str]) -> Read:
        """Return the recipe with `overrides`, `KEY=VALUE` strings.

        They are merged before they are applied to the recipe. So their order matters only where two set the same key:
        the last one wins.
        """
        places = self.places.copy()
        overlay, problems = _overlay(overrides, places)
        return Read(_merge(self.table, overlay), places, tuple(problems))


@dataclass(frozen=True)
class Read:
    """A recipe with overrides, not validated: its `table`, the `places` of its keys, and the `problems` of invalid
    overrides.
    """

    table: dict[str, Any]
    places: Places
    problems: tuple[Problem, ...] = ()


def read_recipe(recipe: str | Path) -> RecipeFile:
    """Read a recipe file, or the shipped recipe of that name. Raises UserError where a file cannot be read."""
    places = Places()
    table: dict[str, Any] = {}
    for path, text, raw in reversed(_family(find_recipe(recipe))):
        places.add_file(str(path), text, raw)
        table = _merge(table, raw)
    return RecipeFile(str(recipe), table, places)


def find_recipe(recipe: str | Path) -> Path:
    """Return the file for `recipe`: a path, or the name of a shipped recipe with or without `.toml`."""
    path = Path(recipe)
    if path.is_file():
        return path
    known = shipped_recipes()
    if path.parent == Path() and path.name.removesuffix(".toml") in known:
        return known[path.name.removesuffix(".toml")]
    if path.is_dir():
        raise UserError(Problem("it is a folder; name a recipe file", where=str(path)))
    raise UserError(
        Problem(
            "there is no such recipe file, and no shipped recipe of that name",
            where=str(recipe),
            hint=nearest(path.name.removesuffix(".toml"), known) or f"shipped recipes: {', '.join(known)}",
        )
    )


def shipped_recipes() -> dict[str, Path]:
    """The recipes that ship with gantricks, by name."""
    return {path.stem: path for path in sorted(_shipped_folder().glob("*.toml"))}


def _shipped_folder() -> Path:
    return Path(str(files("gantricks.recipes")))


def _ships(place: str) -> bool:
    return place.startswith(str(_shipped_folder()))


# ---------------------------------------------------------------- files


def _family(path: Path) -> list[tuple[Path, str, dict[str, Any]]]:
    """Return a recipe, the one that it extends, and so on, each with its text and its table."""
    family: list[tuple[Path, str, dict[str, Any]]] = []
    seen: set[Path] = set()
    room = LONGEST
    while True:
        text = _text(path, room)
        room -= len(text)
        raw = _table(text, path)
        seen.add(path.resolve())
        parent = raw.pop("extends", None)
        family.append((path, text, raw))
        if parent is None:
            return family
        if not isinstance(parent, str):
            raise UserError(Problem('extends names one recipe, such as "dcgan.toml"', where=str(path)))
        child, path = path, _find_parent(parent, path)
        if path.resolve() in seen:
            raise UserError(Problem(f"extends goes round in a circle: {parent!r} is its own parent", where=str(child)))
        if len(family) == PARENTS:
            what = f"more than {PARENTS} recipes extend one another"
            raise UserError(Problem(what, str(family[0][0]), "write what they say into fewer files"))


def _find_parent(parent: str, path: Path) -> Path:
    beside = path.parent / Path(parent).expanduser() if parent.startswith("~/") else path.parent / parent
    shipped = shipped_recipes().get(parent.removesuffix(".toml"))
    found = beside if beside.is_file() else shipped
    if found is None:
        raise UserError(
            Problem(
                f"extends names {shortened(repr(parent), 200)}, which is neither beside this file nor a shipped recipe",
                where=str(path),
                hint=nearest(parent.removesuffix(".toml")[:100], shipped_recipes()),
            )
        )
    return found


def _text(path: Path, room: int) -> str:
    """Return the text of a file, in any encoding that it declares, with line feeds as line ends."""
    try:
        with path.open("rb") as file:
            raw = file.read(room + 1)
    except OSError as error:
        raise UserError(Problem(f"it cannot be read: {error.strerror}", where=str(path))) from error
    if len(raw) > room:
        what = f"it is too long for a recipe: with all that it extends it may have {LONGEST // 1024} KiB"
        raise UserError(Problem(what, where=str(path)))
    encoding = next((encoding for mark, encoding in _ENCODINGS if raw.startswith(mark)), "utf-8")
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        name = encoding.removesuffix("-sig").upper()
        what, hint = f"it is not {name} text", "save it as UTF-8"
        raise UserError(Problem(what, f"{path}:{line}" if name == "UTF-8" else str(path), hint)) from error
    if "\0" in text[:100]:
        # this may be UTF-16 without a byte order mark, in which every second byte of plain text is 0
        raise UserError(Problem("it is not UTF-8 text: it holds NUL characters", str(path), "save it as UTF-8"))
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _table(text: str, path: Path) -> dict[str, Any]:
    if re.search(r"([\[{]\s*){500}", text):  # whether Python gives up on it depends on what else the process runs
        raise UserError(Problem("not readable as TOML: it is nested too deep", where=str(path)))
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(_toml_problem(text, path, str(error))) from error
    except RecursionError as error:
        raise UserError(Problem("not readable as TOML: it is nested too deep", where=str(path))) from error
    except ValueError as error:
        long = re.search(r"\d[\d_]{4000,}", text)
        where = f"{path}:{text.count(chr(10), 0, long.start()) + 1}" if long else str(path)
        what = "a whole number of thousands of digits" if long else str(error)
        raise UserError(Problem(f"not readable as TOML: {what}", where=where)) from error
    if _depth(table) > DEEPEST:
        raise UserError(Problem(f"tables stand in each other more than {DEEPEST} deep", where=str(path)))
    return table


def _depth(table: Mapping[str, Any]) -> int:
    """Return how deep tables are nested, up to the largest depth that is allowed."""
    depth, level = 0, [table]
    while level and depth <= DEEPEST:
        depth += 1
        level = [inner for outer in level for inner in outer.values() if isinstance(inner, Mapping)]
    return depth


def _toml_problem(text: str, path: Path, error: str) -> Problem:
    """Return the problem for an error of tomllib, with the key that tomllib does not name."""
    found = re.search(r"\(at line (\d+), column (\d+)\)", error)
    lines = text.split("\n")
    line = int(found[1]) if found else len(lines)
    where = f"{path}:{line}" if found else str(path)
    words = re.sub(r" \(at (line \d+, column \d+|end of document)\)$", "", error)
    clash = re.match(r"Cannot (overwrite|declare|mutate|redefine)", words)
    if clash and (twice := _given_twice("\n".join(lines[:line]))):
        return Problem(twice[1], f"{path}:{twice[0]}", twice[2])
    what = words[:1].lower() + words[1:]
    at = f" (column {found[2]})" if found else ""
    written = lines[line - 1] if found else ""
    bare = re.fullmatch(r"\s*([A-Za-z0-9_.\" -]+?)\s*=\s*([A-Za-z~./][^\"'\[\]{}=#]*?)\s*(#.*)?", written)
    hint = f'a text stands in quotes: {bare[1]} = "{bare[2]}"' if bare and words == "Invalid value" else ""
    return Problem(f"not valid TOML: {shortened(what, 200)}{at}", where, hint)


def _given_twice(text: str) -> tuple[int, str, str] | None:
    """Return the line, the mistake and the hint where the last statement of `text` repeats an earlier one, else
    None.
    """
    try:
        *earlier, last = statements(text)
    except (AssertionError, IndexError, ValueError):
        return None  # it does not end with a statement
    name = shortened(".".join(last.path), 100)
    for former in earlier:
        if former.path == last.path and former.is_table == last.is_table:
            if last.is_table:
                what = f"the table [{name}] stands here twice, first in line {former.line}"
                return last.line, what, "put its keys together"
            return last.line, f"the key {name} is given twice, first in line {former.line}", "keep one of the two"
        shorter = min(len(former.path), len(last.path))
        if former.path[:shorter] == last.path[:shorter] and not (former.is_table and shorter < len(last.path)):
            outer = shortened(".".join(last.path[:shorter]), 100)
            what = f"{outer} is given in line {former.line}, and {'the table ' * last.is_table}{name} gives it again"
            return last.line, what, f"write all of {outer} in one place"
    return None


# ---------------------------------------------------------------- overrides


def _value(written: str) -> Any:
    """Return the value of an override: TOML if it is valid, otherwise a text."""
    try:
        table = tomllib.loads(f"value = {written}")
    except (ValueError, RecursionError):
        return written.strip()
    value = table["value"]
    # a line break could add a second key, and no option is a date
    is_value = len(table) == 1 and not isinstance(value, datetime.date | datetime.time)
    return value if is_value else written.strip()


def _lay(overlay: dict[str, Any], keys: KeyPath, value: Any) -> None:
    for key in keys[:-1]:
        inner = overlay.get(key)
        if not isinstance(inner, dict):
            inner = overlay[key] = {}
        overlay = inner
    present = overlay.get(keys[-1])
    if isinstance(value, dict) and isinstance(present, dict):
        for key, entry in value.items():
            _lay(present, (key,), entry)
    else:
        overlay[keys[-1]] = value


def _paths(value: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    """Yield the path of every table and every key in a table that is not nested too deeply."""
    if isinstance(value, Mapping) and len(path) <= DEEPEST:
        for key, entry in value.items():
            yield (*path, key)
            yield from _paths(entry, (*path, key))


# ---------------------------------------------------------------- merging


def _overlay(overrides: Iterable[str], places: Places) -> tuple[dict[str, Any], list[Problem]]:
    """Return the merged overrides, later over earlier, and the problems of invalid ones."""
    overlay: dict[str, Any] = {}
    problems: list[Problem] = []
    for override in overrides:
        label = f"--set {shortened(override, 160)}"
        dotted, equals, text = override.partition("=")
        keys = tuple(part.strip() for part in dotted.split("."))
        if not equals or not all(keys):
            problems.append(Problem("an override is KEY=VALUE, such as train.steps=100", where=label))
        elif not is_text(override):
            problems.append(Problem("it is not UTF-8, as recipes are", legible(label), NAME_IT_ANEW))
        elif len(keys) > DEEPEST:
            problems.append(Problem(f"tables stand in each other more than {DEEPEST} deep", where=label))
        elif keys == ("extends",):
            what = "extends is a line of a recipe file: an override changes what a recipe says"
            problems.append(Problem(what, label, "name that recipe itself, in place of this one"))
        else:
            value = _switched(keys, _value(text))
            _lay(overlay, keys, value)
            places.add_override(keys, value, label, text)
    return overlay, problems


def _merge(base: dict[str, Any], over: Mapping[str, Any], path: KeyPath = ()) -> dict[str, Any]:
    """Merge `over` into `base`, table by table.

    Where another source, network, optimizer, trick, metric or logger is named, its options start afresh: those of the
    former one do not apply.
    """
    merged = dict(base)
    selector = _selector(path)
    if selector:
        default = path[-1] if selector == "use" else None
        now = merged.get(selector, default)
        if over.get(selector, now) != now:
            kept = SECTIONS[path[0]].model_fields if len(path) == 1 else ()
            merged = {key: value for key, value in merged.items() if key in kept}
    for key, value in over.items():
        value = _switched((*path, key), value)
        if isinstance(value, Mapping):
            inner = merged.get(key)
            merged[key] = _merge(inner if isinstance(inner, dict) else {}, value, (*path, key))
        else:
            merged[key] = value
    return merged


def _switched(path: KeyPath, value: Any) -> Any:
    """Return the value for a trick, a metric or a logger that is switched on or off with one word."""
    instance = len(path) == 2 and path[0] in INSTANCES
    if not instance or (path[0] == "evaluate" and path[1] in EvaluateKeys.model_fields):
        return value
    if value is True or value == "on":
        return {}
    return "off" if value is False else value


def _selector(path: KeyPath) -> str | None:
    if len(path) == 1:
        return SELECTORS.get(path[0])
    if len(path) == 2:
        return "use" if path[0] in INSTANCES else "name" if path[1] == "optimizer" else None
    return None
