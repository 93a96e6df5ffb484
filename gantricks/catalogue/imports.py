"""Imports plugin files and the entry points of installed packages on demand."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Collection, Iterator, Mapping
from importlib.metadata import Distribution, EntryPoint, distributions
from pathlib import Path
from types import ModuleType
from typing import Any

from gantricks.catalogue.index import shipped
from gantricks.catalogue.kinds import BASES, PACKAGES, SINGULAR, TO_USE, base_of, classes_of, only
from gantricks.errors import Problem, UserError

_LARGEST = 1 << 24
"""The largest size in bytes of a plugin file. Larger files are not source code."""


def entry_points(group: str) -> list[EntryPoint]:
    """Return the entry points of installed packages in a group. Packages whose metadata cannot be read are left out."""
    return [point for point in _installed(tuple(sys.path))[0] if point.group == group]


def unreadable() -> list[str]:
    """Return a sentence for each installed package whose metadata cannot be read, so that its entry points are
    unknown.
    """
    return list(_installed(tuple(sys.path))[1])


@functools.lru_cache(maxsize=1)
def _installed(path: tuple[str, ...]) -> tuple[list[EntryPoint], list[str]]:
    found: dict[str, list[EntryPoint]] = {}
    errors = []
    for package in distributions():
        try:
            ours = [point for point in package.entry_points if point.group.partition(".")[0] == "gantricks"]
            if ours:
                # Python would not import the same package from a later folder of the path
                found.setdefault((package.metadata["Name"] or _label(package)).lower(), ours)
        except Exception as error:
            errors.append(f"the metadata of {_label(package)} cannot be read: {in_words(error)}")
    return [point for points in found.values() for point in points], errors


def _label(package: Distribution) -> str:
    return str(getattr(package, "_path", "a package"))


def unfit(path: Path) -> Problem | None:
    """Return why a file cannot be a plugin, or None. The file is not read."""
    where = f"--plugin {path}"
    try:
        if not path.exists():
            return Problem("there is no such file", where)
        if path.is_dir():
            return Problem("it is a folder", where, "name a .py file in it")
        if not path.is_file() or path.suffix != ".py" or path.stat().st_size > _LARGEST:
            return Problem("a plugin is a Python file", where, "name a .py file")
    except OSError as error:
        return Problem(f"it cannot be read: {error.strerror}", where)
    for kind in PACKAGES:
        if path.stem in shipped(kind):
            what = f"{path.stem!r} is the name of a {SINGULAR[kind]} that ships with gantricks"
            return Problem(what, where, "rename the file")
    return None


def parts_of(path: Path) -> dict[str, type]:
    """Return the classes in a plugin file, by kind. Raises UserError when it has none, or two of a kind."""
    module = _import_file(path)
    found = {kind: classes for kind in TO_USE if (classes := classes_of(kind, module))}
    if not found and classes_of("extractors", module):
        hint = "offer it as an entry point of a package, in the group gantricks.extractors"
        raise UserError(Problem("an extractor cannot come from a file", str(path), hint))
    if not found:
        hint = f"or one of these: {', '.join(BASES[kind][1] for kind in TO_USE if kind != 'tricks')}"
        what = "a trick file defines exactly one Trick class; this one defines none"
        raise UserError(Problem(what, str(path), hint))
    held = {kind: only(kind, classes, str(path)) for kind, classes in found.items()}
    if errors := [error for kind, cls in held.items() for error in _malformed(kind, cls)]:
        raise UserError(*(Problem(error, str(path)) for error in errors))
    return held


def _import_file(path: Path) -> ModuleType:
    try:
        source = path.read_bytes()
    except OSError as error:
        raise UserError(Problem(f"it cannot be read: {error.strerror}", f"--plugin {path}")) from error
    name = f"{_LOCAL}{path.stem}_{hashlib.sha256(source).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        # this source, and not a compiled file beside it, which may be out of date
        exec(compile(source, path.absolute(), "exec", dont_inherit=True), vars(module))
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, KeyboardInterrupt):
            raise
        raise _import_error(error, _place(error, path)) from error
    return module


def load_point(kind: str, point: EntryPoint) -> type:
    where = f"{SINGULAR[kind]} {point.name!r} of {distribution(point)} ({point.value})"
    try:
        if error := unreachable(point):
            raise ImportError(error)
        cls = point.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise _import_error(error, where, "mend or uninstall that package") from error
    if not (inspect.isclass(cls) and issubclass(cls, base_of(kind))):
        raise UserError(Problem(f"it is not a subclass of {base_of(kind).__name__}", where=where))
    if errors := list(_malformed(kind, cls)):
        raise UserError(*(Problem(error, where) for error in errors))
    _packages.add(point.module.partition(".")[0])
    return cls


def _import_error(error: BaseException, where: str, hint: str = "") -> UserError:
    if isinstance(error, SystemExit):
        said = f": {error.code}" if error.code is not None else ""
        guard = 'what a script does belongs under `if __name__ == "__main__":`'
        return UserError(Problem(f"importing it ends the program{said}", where, hint or guard))
    return UserError(Problem(f"importing it fails: {in_words(error)}", where, hint))


_LOCAL = "gantricks_local_plugin_"


_packages: set[str] = set()


def imported(module: str) -> bool:
    """Return whether a module belongs to a plugin: a named file, or a package that something was loaded from."""
    top = module.partition(".")[0]
    return top.startswith(_LOCAL) or (top in _packages and top != "gantricks")


def _malformed(kind: str, cls: type) -> Iterator[str]:
    """Yield a sentence for each declaration of a plugin's class that would break the core."""
    from gantricks.options import Options

    roles = ("GeneratorConfig", "DiscriminatorConfig") if kind == "networks" else ("Config",)
    for role in roles:
        config = getattr(cls, role, None)
        if config is None and kind == "networks":
            continue
        if not (inspect.isclass(config) and issubclass(config, Options)):
            base = "Options" if kind == "networks" else f"{BASES[kind][1]}.Config"
            yield f"{role} of {cls.__name__} is not a subclass of {base}: write class {role}({base})"
            continue
        try:
            config.model_json_schema()
        except Exception as error:
            yield f"{role} of {cls.__name__} has an option of a type that no recipe can hold: {in_words(error)}"
    for fact in ("needs", "provides", "replaces", "paths", "ratios"):
        value = getattr(cls, fact, ())
        if not isinstance(value, property) and (isinstance(value, str) or not _all_text(value)):
            yield f"{fact} of {cls.__name__} is not a collection of names: {value!r}"
    for fact in ("conflicts", "cautions", "forwards", "trial", "figures"):
        value = getattr(cls, fact, {})
        if not isinstance(value, property) and not (isinstance(value, Mapping) and _all_text(value)):
            yield f"{fact} of {cls.__name__} is not a mapping of names: {value!r}"
    figures = getattr(cls, "figures", None)
    if kind == "metrics" and isinstance(figures, Mapping) and set(figures.values()) not in _DIRECTIONS:
        yield f'figures of {cls.__name__} does not say of each whether "higher" or "lower" is better: {figures!r}'
    ratios = vars(cls).get("ratios", ())  # inherited ones may be of figures that the subclass does not have
    if kind == "metrics" and isinstance(figures, Mapping) and _all_text(ratios) and not set(ratios) <= set(figures):
        yield f"ratios of {cls.__name__} names what is no figure of it: {ratios!r}"
    if kind == "loggers":
        yield from _never_told(cls, base_of(kind))


def _never_told(cls: type, base: type) -> Iterator[str]:
    """Yield a sentence for each method of a logger that takes other arguments than those it is called with, and where
    it has no method of its own.
    """
    methods = {name: method for name, method in vars(base).items() if name[0] != "_" and inspect.isfunction(method)}
    own = {name: method for name in methods if (method := inspect.getattr_static(cls, name)) is not methods[name]}
    if not own:
        yield f"{cls.__name__} is told nothing: it has none of the methods {', '.join(methods)}"
    for name, method in own.items():
        if not inspect.isfunction(method):
            continue
        wanted = list(inspect.signature(methods[name]).parameters)
        try:
            inspect.signature(method).bind(*wanted)
        except TypeError:
            yield f"{name} of {cls.__name__} does not take what it is called with: ({', '.join(wanted)})"


_DIRECTIONS = ({"higher"}, {"lower"}, {"higher", "lower"})


def _all_text(value: Any) -> bool:
    return isinstance(value, Collection) and all(isinstance(entry, str) for entry in value)


def unreachable(point: EntryPoint) -> str | None:
    try:
        if not point.pattern.match(point.value):
            return f"{point.value!r} is not of the form module:class"
        top = point.module.partition(".")[0]
        return None if importlib.util.find_spec(top) else f"there is no module {top!r}"
    except (AttributeError, ImportError, ValueError) as error:
        return in_words(error) or "its entry point cannot be read"


def distribution(point: EntryPoint) -> str:
    """Return the package of an entry point, with its version."""
    try:
        name, version = point.dist.name, point.dist.version  # type: ignore[union-attr]
    except Exception:  # the metadata is missing or cannot be read
        name = version = None
    return f"{name} {version}" if name and version else "an installed package"


def in_words(error: BaseException) -> str:
    """Return an error as one line of text."""
    try:
        words = " ".join(str(error).split())[:1000]
    except Exception:  # `str` of a plugin's exception may fail
        words = ""
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def _place(error: BaseException, path: Path) -> str:
    """Return the deepest line of `path` in the traceback of the error."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f"{path}:{error.lineno}"
    line, trace = None, error.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename == str(path.absolute()):
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"{path}:{line}" if line else str(path)


def plugin_line(error: BaseException) -> str:
    """Return the line of a plugin that raised `error`, or "" when it was raised elsewhere."""
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        module = frame.f_globals.get("__name__", "")
        if imported(module):
            return f"{frame.f_code.co_filename}:{line}"
        if module.startswith("gantricks."):
            break
    return ""


def ended_by_plugin(error: SystemExit) -> Problem:
    """Return the problem to report where a plugin has called `sys.exit`."""
    said = f": {error.code}" if error.code is not None else ""
    return Problem(f"this plugin ended the program{said}", plugin_line(error))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
