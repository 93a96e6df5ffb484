"""Finds tricks, networks, data sources, metrics, extractors and loggers by name, and imports only those that are named.

There are three places: the parts that ship with gantricks (one module per name), files that the user named with
`--plugin`, and the entry points of installed packages in the groups `gantricks.tricks`, `gantricks.networks`,
`gantricks.data`, `gantricks.metrics`, `gantricks.extractors` and `gantricks.loggers`. Shipped parts take precedence.
Two others with the same name are an error.

Files and packages are foreign code: whatever they raise when they are imported, an exit included, becomes a `UserError`
that names them.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from gantricks.catalogue.imports import (
    digest,
    distribution,
    entry_points,
    imported,
    in_words,
    load_point,
    parts_of,
    unfit,
    unreachable,
)
from gantricks.catalogue.index import shipped
from gantricks.catalogue.kinds import PACKAGES, SINGULAR, TO_USE, classes_of, only
from gantricks.errors import Problem, UserError, nearest


@dataclass(frozen=True)
class Found:
    """A class that was found by name, and its origin."""

    name: str
    cls: type
    origin: str

    def make(self, options: Any) -> Any:
        """Make an instance with these options. Raises UserError when a plugin's constructor fails."""
        try:
            return self.cls(options)
        except Exception as error:
            if isinstance(error, UserError) or not imported(self.cls.__module__):
                raise
            what = f"making {self.cls.__name__} with its options fails: {in_words(error)}"
            raise UserError(Problem(what, self.origin.partition(" sha256:")[0])) from error


@dataclass
class Registry:
    """Finds classes by name.

    `plugins` are files that hold at most one part of each kind, under the file's name; they are imported when a name is
    looked up. `installed` says whether to look at the entry points of installed packages. `given` holds further classes
    by kind and name, for tests and embedding programs. Raises UserError where a file cannot be a plugin.
    """

    plugins: Sequence[Path] = ()
    installed: bool = True
    given: dict[str, dict[str, type]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._parts: dict[Path, dict[str, type] | UserError] = {}
        self._used: set[Path] = set()
        problems: list[Problem] = []
        files: dict[str, Path] = {}
        for path in self.plugins:
            other = files.setdefault(path.stem, path)
            if error := unfit(path):
                problems.append(error)
            elif other is not path and not (other.exists() and path.samefile(other)):
                hint = "rename one of them, or leave it out"
                problems.append(Problem(f"{other} is named {path.stem!r} too", f"--plugin {path}", hint))
        if problems:
            raise UserError(*problems)
        self.plugins = tuple(files.values())

    def names(self, kind: str) -> dict[str, str]:
        """Return every name of this kind that could be loaded, with its origin. No installed package is imported."""
        found = dict.fromkeys(shipped(kind), "gantricks")
        found |= dict.fromkeys(self.given.get(kind, {}), "given")
        found |= {path.stem: str(path) for path in self.plugins if self._may_hold(path, kind)}
        for point in self.offered(kind):
            found.setdefault(point.name, distribution(point))
        return found

    def load(self, kind: str, name: str) -> Found:
        """Import and return the class of this name.

        Raises UserError when the name is unknown, when two plugins have it, or when its module is broken.
        """
        if name in self.given.get(kind, {}):
            return Found(name, self.given[kind][name], "given")
        if name in shipped(kind):
            module = importlib.import_module(f"{PACKAGES[kind]}.{name}")
            return Found(name, only(kind, classes_of(kind, module), str(module.__file__)), "gantricks")
        files = [path for path in self.plugins if path.stem == name]
        points = [point for point in self.offered(kind) if point.name == name]
        if files and (not points or self._may_hold(files[0], kind)):
            _refuse_two(kind, name, [str(path) for path in files], points)
            return self._from_file(kind, files[0])
        if points:
            _refuse_two(kind, name, [], points)
            return Found(name, load_point(kind, points[0]), distribution(points[0]))
        known = self.names(kind)
        listed = f"there are: {', '.join(sorted(known))}" if known else _NONE.format(SINGULAR[kind])
        raise UserError(Problem(f"there is no {SINGULAR[kind]} {name!r}", hint=nearest(name, known) or listed))

    def warnings(self, named: Iterable[str] = ()) -> list[str]:
        """Return sentences about plugins that have no effect: files that no name has led to, and entry points that
        cannot work and are not among the `named`. No entry point is imported.
        """
        found = [self._unused(path) for path in self.plugins if path not in self._used]
        for kind in PACKAGES:
            for point in self.offered(kind):
                if point.name in named:
                    continue
                if point.name in shipped(kind):
                    found.append(
                        f"the {SINGULAR[kind]} {point.name!r} of {distribution(point)} is hidden by the shipped one"
                    )
                elif error := unreachable(point):
                    found.append(f"the {SINGULAR[kind]} {point.name!r} of {distribution(point)} is broken: {error}")
        return found

    def offered(self, kind: str) -> list[EntryPoint]:
        """Return the entry points of installed packages for this kind, by name."""
        return sorted(entry_points(group=f"gantricks.{kind}"), key=lambda p: p.name) if self.installed else []

    def _held(self, path: Path) -> dict[str, type]:
        """Return the class of each kind in a file. The file is imported once; an error is raised again at each call."""
        if path not in self._parts:
            try:
                self._parts[path] = parts_of(path)
            except UserError as error:
                self._parts[path] = error
        held = self._parts[path]
        if isinstance(held, UserError):
            raise UserError(*held.problems) from held.__cause__
        return held

    def _may_hold(self, path: Path, kind: str) -> bool:
        try:
            return kind in self._held(path)
        except UserError:  # the error is reported when a name from this file is loaded
            return kind == "tricks"

    def _from_file(self, kind: str, path: Path) -> Found:
        self._used.add(path)
        held = self._held(path)
        cls = only(kind, [held[kind]] if kind in held else [], str(path))
        return Found(path.stem, cls, f"{path} sha256:{digest(path)}")

    def _unused(self, path: Path) -> str:
        try:
            held = self._held(path)
        except UserError as error:
            return f"--plugin {path} is not used by the recipe, and it is broken: {error.problems[0].what}"
        kinds = " and a ".join(SINGULAR[kind] for kind in held)
        hints = ", ".join(TO_USE[kind].format(path.stem) for kind in held)
        return f"--plugin {path} holds a {kinds} that the recipe does not use: add {hints}"


_NONE = "no {} ships with gantricks: name its file with --plugin FILE, or install the package that offers it"


def _refuse_two(kind: str, name: str, files: list[str], points: list[EntryPoint]) -> None:
    # the same name for the same class, twice in one package, counts once
    sources = [*files, *sorted({(distribution(point), point.value) for point in points})]
    if len(sources) > 1:
        told = [source if isinstance(source, str) else f"{source[1]} of {source[0]}" for source in sources]
        what = f"two plugins have the {SINGULAR[kind]} {name!r}: {' and '.join(told)}"
        raise UserError(Problem(what, hint="leave one --plugin out, or uninstall one of the packages"))
