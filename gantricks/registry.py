"""Finds tricks, networks, data sources, metrics and extractors by name, and imports only what is named.

Three places are looked at: what ships with gantricks (one module per name), files that the user named with `--plugin`,
and the entry points of installed packages in the groups `gantricks.tricks`, `gantricks.networks`, `gantricks.data`,
`gantricks.metrics` and `gantricks.extractors`. What ships goes first; of two others with one name neither does.

Files and packages are other people's: whatever they raise when they are imported, an exit included, is a `UserError`
that names them.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import Distribution, EntryPoint, distributions
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

from gantricks.errors import Problem, UserError, nearest
from gantricks.hooks import KINDS

SINGULAR = {
    "tricks": "trick",
    "networks": "network",
    "data": "data source",
    "metrics": "metric",
    "extractors": "extractor",
}
_PACKAGES = {
    "tricks": "gantricks.plugins",
    "networks": "gantricks.networks",
    "data": "gantricks.data",
    "metrics": "gantricks.metrics",
    "extractors": "gantricks.metrics.extractors",
}
_BASES = {
    "tricks": ("gantricks.trick", "Trick"),
    "networks": ("gantricks.networks.base", "Network"),
    "data": ("gantricks.data.base", "Source"),
    "metrics": ("gantricks.metrics.base", "Metric"),
    "extractors": ("gantricks.metrics.extractors.base", "Extractor"),
}
_TO_USE = {
    "tricks": "[tricks.{}]",
    "networks": 'network = "{}" to [generator] or [discriminator]',
    "data": 'source = "{}" to [data]',
    "metrics": "[evaluate.{}]",
}
"""What a recipe says to use what a file holds. Extractors are found by the options of metrics, which know no files."""
_LARGEST = 1 << 24
"""Bytes of a plugin file; what is larger is no source code."""


@dataclass(frozen=True)
class Found:
    """A class that was found by name, and where it came from."""

    name: str
    cls: type
    origin: str

    def make(self, options: Any) -> Any:
        """An instance with these options. Raises UserError when a plugin's constructor fails."""
        try:
            return self.cls(options)
        except Exception as fault:
            if isinstance(fault, UserError) or not imported(self.cls.__module__):
                raise
            what = f"making {self.cls.__name__} with its options fails: {_in_words(fault)}"
            raise UserError(Problem(what, self.origin.partition(" sha256:")[0])) from fault


@dataclass
class Registry:
    """Names to classes.

    `plugins`: files that hold at most one part of each kind, named for the file; they are imported when a name is
    looked for. `installed`: whether to look at the entry points of installed packages. `given`: further classes by kind
    and name, for tests and embedding programs. Raises UserError where a file cannot be a plugin.
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
            if fault := _unfit(path):
                problems.append(fault)
            elif other is not path and not (other.exists() and path.samefile(other)):
                mend = "rename one of them, or leave it out"
                problems.append(Problem(f"{other} is named {path.stem!r} too", f"--plugin {path}", mend))
        if problems:
            raise UserError(*problems)
        self.plugins = tuple(files.values())

    def names(self, kind: str) -> dict[str, str]:
        """Every name of this kind that could be loaded, with its origin; no installed package is imported."""
        found = dict.fromkeys(shipped(kind), "gantricks")
        found |= dict.fromkeys(self.given.get(kind, {}), "given")
        found |= {path.stem: str(path) for path in self.plugins if self._may_hold(path, kind)}
        for point in self.offered(kind):
            found.setdefault(point.name, distribution(point))
        return found

    def load(self, kind: str, name: str) -> Found:
        """Import and return what `name` stands for.

        Raises UserError when there is no such name, when two plugins have it, or when what it names is broken.
        """
        if name in self.given.get(kind, {}):
            return Found(name, self.given[kind][name], "given")
        if name in shipped(kind):
            module = importlib.import_module(f"{_PACKAGES[kind]}.{name}")
            return Found(name, _only(kind, _classes(kind, module), str(module.__file__)), "gantricks")
        files = [path for path in self.plugins if path.stem == name]
        points = [point for point in self.offered(kind) if point.name == name]
        if files and (not points or self._may_hold(files[0], kind)):
            _refuse_two(kind, name, [str(path) for path in files], points)
            return self._from_file(kind, files[0])
        if points:
            _refuse_two(kind, name, [], points)
            return Found(name, _load_point(kind, points[0]), distribution(points[0]))
        known = self.names(kind)
        raise UserError(
            Problem(
                f"there is no {SINGULAR[kind]} {name!r}",
                mend=nearest(name, known) or f"there are: {', '.join(sorted(known))}",
            )
        )

    def warnings(self, named: Iterable[str] = ()) -> list[str]:
        """Sentences about plugins that do nothing for the recipe: files that no name has led to, and installed ones
        that cannot work and are not among the `named`; of these nothing is imported."""
        found = [self._unused(path) for path in self.plugins if path not in self._used]
        for kind in _PACKAGES:
            for point in self.offered(kind):
                if point.name in named:
                    continue
                if point.name in shipped(kind):
                    found.append(f"the {SINGULAR[kind]} {point.name!r} of {distribution(point)} is shadowed by ours")
                elif fault := _unreachable(point):
                    found.append(f"the {SINGULAR[kind]} {point.name!r} of {distribution(point)} is broken: {fault}")
        return found

    def offered(self, kind: str) -> list[EntryPoint]:
        """What installed packages offer of this kind, by name."""
        return sorted(entry_points(group=f"gantricks.{kind}"), key=lambda p: p.name) if self.installed else []

    def _held(self, path: Path) -> dict[str, type]:
        """The class of each kind that a file holds. It is imported once, and what it raises is raised at each call."""
        if path not in self._parts:
            try:
                self._parts[path] = _parts_of(path)
            except UserError as fault:
                self._parts[path] = fault
        held = self._parts[path]
        if isinstance(held, UserError):
            raise UserError(*held.problems) from held.__cause__
        return held

    def _may_hold(self, path: Path, kind: str) -> bool:
        try:
            return kind in self._held(path)
        except UserError:  # which is told to who asks for it by name
            return kind == "tricks"

    def _from_file(self, kind: str, path: Path) -> Found:
        self._used.add(path)
        held = self._held(path)
        cls = _only(kind, [held[kind]] if kind in held else [], str(path))
        return Found(path.stem, cls, f"{path} sha256:{_digest(path)}")

    def _unused(self, path: Path) -> str:
        try:
            held = self._held(path)
        except UserError as fault:
            return f"--plugin {path} is not used by the recipe, and it is broken: {fault.problems[0].what}"
        kinds = " and a ".join(SINGULAR[kind] for kind in held)
        mends = ", ".join(_TO_USE[kind].format(path.stem) for kind in held)
        return f"--plugin {path} holds a {kinds} that the recipe does not use: add {mends}"


def _refuse_two(kind: str, name: str, files: list[str], points: list[EntryPoint]) -> None:
    # a name twice in the same package for the same class is one
    sources = [*files, *sorted({(distribution(point), point.value) for point in points})]
    if len(sources) > 1:
        told = [source if isinstance(source, str) else f"{source[1]} of {source[0]}" for source in sources]
        what = f"two plugins have the {SINGULAR[kind]} {name!r}: {' and '.join(told)}"
        raise UserError(Problem(what, mend="leave one --plugin out, or uninstall one of the packages"))


def entry_points(group: str) -> list[EntryPoint]:
    """What installed packages offer in a group of entry points. One whose metadata cannot be read offers nothing."""
    return [point for point in _installed(tuple(sys.path))[0] if point.group == group]


def unreadable() -> list[str]:
    """Sentences about installed packages whose metadata cannot be read, so that nobody knows what they offer."""
    return list(_installed(tuple(sys.path))[1])


@functools.lru_cache(maxsize=1)
def _installed(path: tuple[str, ...]) -> tuple[list[EntryPoint], list[str]]:
    found: dict[str, list[EntryPoint]] = {}
    faults = []
    for package in distributions():
        try:
            ours = [point for point in package.entry_points if point.group.partition(".")[0] == "gantricks"]
            if ours:
                # the same package again, further along the path, is not what would be imported
                found.setdefault((package.metadata["Name"] or _label(package)).lower(), ours)
        except Exception as fault:
            faults.append(f"the metadata of {_label(package)} cannot be read: {_in_words(fault)}")
    return [point for points in found.values() for point in points], faults


def _label(package: Distribution) -> str:
    return str(getattr(package, "_path", "a package"))


def shipped(kind: str) -> list[str]:
    """The names of this kind that ship with gantricks."""
    if kind == "tricks":  # a file in the folder is all it takes
        return _modules(_PACKAGES[kind])
    return list(index()[kind])


def _modules(package: str) -> list[str]:
    names = (path.name for path in files(package).iterdir())
    return sorted(name[:-3] for name in names if name.endswith(".py") and name[0] != "_")


def index() -> dict[str, dict[str, Any]]:
    """The cards of everything that ships, without importing any of it. Built by `python -m gantricks.registry`."""
    global _index
    if _index is None:
        _index = json.loads((files("gantricks") / "index.json").read_text(encoding="utf-8"))
    return _index


_index: dict[str, dict[str, Any]] | None = None


def build_index() -> dict[str, dict[str, Any]]:
    """Import everything that ships and describe it; the answer belongs in `index.json`."""
    built: dict[str, dict[str, Any]] = {}
    for kind, package in _PACKAGES.items():
        built[kind] = {}
        for name in _modules(package):
            module = importlib.import_module(f"{package}.{name}")
            if candidates := _classes(kind, module):
                built[kind][name] = describe(kind, candidates[0])
    return built


def describe(kind: str, cls: type) -> dict[str, Any]:
    """The card of a class as plain data: its text, its options as JSON schema, what it needs, a trick's hooks, a
    metric's figures."""
    card = inspect.cleandoc(cls.__doc__ or "")
    entry: dict[str, Any] = {"summary": " ".join(card.split("\n\n")[0].split()), "card": card}
    if kind == "networks":
        for role in ("generator", "discriminator"):
            config = getattr(cls, f"{role.capitalize()}Config")
            entry[role] = config and config.model_json_schema()
        return entry
    entry["options"] = cls.Config.model_json_schema()  # type: ignore[attr-defined]
    if kind in ("metrics", "extractors"):
        entry["needs"] = sorted(cls.needs)  # type: ignore[attr-defined]
    if kind == "metrics":
        entry["figures"] = dict(cls.figures)  # type: ignore[attr-defined]
    if kind == "tricks":
        entry["hooks"] = [hook for hook in KINDS if hasattr(getattr(cls, hook, None), "gantricks_impl")]
        for fact in ("needs", "provides", "replaces"):
            value = getattr(cls, fact)
            entry[fact] = sorted(value) if not isinstance(value, property) else []
        for fact in ("conflicts", "cautions", "neutral"):
            entry[fact] = getattr(cls, fact)
        entry["capturable"] = cls.capturable  # type: ignore[attr-defined]
    return entry


def _base(kind: str) -> type:
    module, name = _BASES[kind]
    base: type = getattr(importlib.import_module(module), name)
    return base


def _classes(kind: str, module: ModuleType) -> list[type]:
    if _BASES[kind][0] not in sys.modules:  # then nothing can be derived from it
        return []
    base = _base(kind)
    return [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, base)
        and value is not base
        and value.__module__ == module.__name__
    ]


def _only(kind: str, found: list[type], where: str) -> type:
    if len(found) != 1:
        names = ", ".join(cls.__name__ for cls in found) or "none"
        raise UserError(
            Problem(
                f"a {SINGULAR[kind]} file defines exactly one {_BASES[kind][1]} class; this one defines {names}", where
            )
        )
    return found[0]


def _unfit(path: Path) -> Problem | None:
    """Why a file cannot be a plugin, without looking into it."""
    where = f"--plugin {path}"
    try:
        if not path.exists():
            return Problem("there is no such file", where)
        if path.is_dir():
            return Problem("it is a folder", where, "name a .py file in it")
        if not path.is_file() or path.suffix != ".py" or path.stat().st_size > _LARGEST:
            return Problem("a plugin is a Python file", where, "name a .py file")
    except OSError as fault:
        return Problem(f"it cannot be read: {fault.strerror}", where)
    for kind in _PACKAGES:
        if path.stem in shipped(kind):
            what = f"{path.stem!r} is the name of a {SINGULAR[kind]} that ships with gantricks"
            return Problem(what, where, "rename the file")
    return None


def _parts_of(path: Path) -> dict[str, type]:
    """The classes that a plugin file holds, by kind. Raises UserError when it has none, or two of a kind."""
    module = _import_file(path)
    found = {kind: classes for kind in _TO_USE if (classes := _classes(kind, module))}
    if not found and _classes("extractors", module):
        mend = "offer it as an entry point of a package, in the group gantricks.extractors"
        raise UserError(Problem("an extractor cannot come from a file", str(path), mend))
    if not found:
        mend = f"or one of these: {', '.join(_BASES[kind][1] for kind in _TO_USE if kind != 'tricks')}"
        what = "a trick file defines exactly one Trick class; this one defines none"
        raise UserError(Problem(what, str(path), mend))
    held = {kind: _only(kind, classes, str(path)) for kind, classes in found.items()}
    if faults := [fault for kind, cls in held.items() for fault in _malformed(kind, cls)]:
        raise UserError(*(Problem(fault, str(path)) for fault in faults))
    return held


def _import_file(path: Path) -> ModuleType:
    try:
        source = path.read_bytes()
    except OSError as fault:
        raise UserError(Problem(f"it cannot be read: {fault.strerror}", f"--plugin {path}")) from fault
    name = f"{_LOCAL}{path.stem}_{hashlib.sha256(source).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        # what was read, and not a compiled file beside it that may be of another second's content
        exec(compile(source, path.absolute(), "exec", dont_inherit=True), vars(module))
    except BaseException as fault:
        del sys.modules[name]
        if isinstance(fault, KeyboardInterrupt):
            raise
        raise _import_fault(fault, _place(fault, path)) from fault
    return module


def _load_point(kind: str, point: EntryPoint) -> type:
    where = f"{SINGULAR[kind]} {point.name!r} of {distribution(point)} ({point.value})"
    try:
        if fault := _unreachable(point):
            raise ImportError(fault)
        cls = point.load()
    except KeyboardInterrupt:
        raise
    except BaseException as fault:
        raise _import_fault(fault, where, "mend or uninstall that package") from fault
    if not (inspect.isclass(cls) and issubclass(cls, _base(kind))):
        raise UserError(Problem(f"it is not a subclass of {_base(kind).__name__}", where=where))
    if faults := list(_malformed(kind, cls)):
        raise UserError(*(Problem(fault, where) for fault in faults))
    _packages.add(point.module.partition(".")[0])
    return cls


def _import_fault(fault: BaseException, where: str, mend: str = "") -> UserError:
    if isinstance(fault, SystemExit):
        said = f": {fault.code}" if fault.code is not None else ""
        guard = 'what a script does belongs under `if __name__ == "__main__":`'
        return UserError(Problem(f"importing it ends the program{said}", where, mend or guard))
    return UserError(Problem(f"importing it fails: {_in_words(fault)}", where, mend))


_LOCAL = "gantricks_local_plugin_"
_packages: set[str] = set()


def imported(module: str) -> bool:
    """Whether a module is a plugin's: a file that was named, or of a package that something was loaded from."""
    top = module.partition(".")[0]
    return top.startswith(_LOCAL) or (top in _packages and top != "gantricks")


def _malformed(kind: str, cls: type) -> Iterator[str]:
    """What would break the core in a class that a plugin gives it, in sentences."""
    from gantricks.options import Options

    roles = ("GeneratorConfig", "DiscriminatorConfig") if kind == "networks" else ("Config",)
    for role in roles:
        config = getattr(cls, role, None)
        if config is None and kind == "networks":
            continue
        if not (inspect.isclass(config) and issubclass(config, Options)):
            base = "Options" if kind == "networks" else f"{_BASES[kind][1]}.Config"
            yield f"{role} of {cls.__name__} is no subclass of {base}: write class {role}({base})"
            continue
        try:
            config.model_json_schema()
        except Exception as fault:
            yield f"{role} of {cls.__name__} has an option of a type that no recipe can hold: {_in_words(fault)}"
    for fact in ("needs", "provides", "replaces", "paths"):
        value = getattr(cls, fact, ())
        if not isinstance(value, property) and (isinstance(value, str) or not _all_text(value)):
            yield f"{fact} of {cls.__name__} is no collection of names: {value!r}"
    for fact in ("conflicts", "cautions", "forwards", "trial", "figures"):
        value = getattr(cls, fact, {})
        if not isinstance(value, property) and not (isinstance(value, Mapping) and _all_text(value)):
            yield f"{fact} of {cls.__name__} is no mapping of names: {value!r}"
    figures = getattr(cls, "figures", None)
    if kind == "metrics" and isinstance(figures, Mapping) and set(figures.values()) not in _DIRECTIONS:
        yield f'figures of {cls.__name__} does not say of each whether "higher" or "lower" is better: {figures!r}'


_DIRECTIONS = ({"higher"}, {"lower"}, {"higher", "lower"})


def _all_text(value: Any) -> bool:
    return isinstance(value, Collection) and all(isinstance(entry, str) for entry in value)


def _unreachable(point: EntryPoint) -> str | None:
    try:
        if not point.pattern.match(point.value):
            return f"{point.value!r} is no module:class"
        top = point.module.partition(".")[0]
        return None if importlib.util.find_spec(top) else f"there is no module {top!r}"
    except (AttributeError, ImportError, ValueError) as fault:
        return _in_words(fault) or "its entry point cannot be read"


def distribution(point: EntryPoint) -> str:
    """The package that offers it, and its version."""
    try:
        name, version = point.dist.name, point.dist.version  # type: ignore[union-attr]
    except Exception:  # there is no metadata, or none that can be read
        name = version = None
    return f"{name} {version}" if name and version else "an installed package"


def _in_words(fault: BaseException) -> str:
    """A fault on one line."""
    try:
        words = " ".join(str(fault).split())[:1000]
    except Exception:  # a class of theirs, which cannot say what it is
        words = ""
    return f"{type(fault).__name__}: {words}" if words else type(fault).__name__


def _place(fault: BaseException, path: Path) -> str:
    """The deepest line of `path` that the fault came from."""
    if isinstance(fault, SyntaxError) and fault.lineno:
        return f"{path}:{fault.lineno}"
    line, trace = None, fault.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename == str(path.absolute()):
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"{path}:{line}" if line else str(path)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    target = Path(str(files("gantricks") / "index.json"))
    target.write_text(json.dumps(build_index(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"wrote {target}")
