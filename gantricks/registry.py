"""Finds tricks, networks, data sources, metrics and extractors by name, and imports only what is named.

Three places are looked at, in this order: what ships with gantricks (one module per name), files that the user named
with `--plugin`, and the entry points of installed packages in the groups `gantricks.tricks`, `gantricks.networks`,
`gantricks.data`, `gantricks.metrics` and `gantricks.extractors`.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
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


@dataclass(frozen=True)
class Found:
    """A class that was found by name, and where it came from."""

    name: str
    cls: type
    origin: str


@dataclass
class Registry:
    """Names to classes.

    `plugins`: files that hold one trick each, named for it. `installed`: whether to look at the entry points of
    installed packages. `given`: further classes by kind and name, for tests and embedding programs.
    """

    plugins: Sequence[Path] = ()
    installed: bool = True
    given: dict[str, dict[str, type]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problems = []
        for path in self.plugins:
            if not path.is_file():
                problems.append(Problem("there is no such file", f"--plugin {path}"))
            elif path.stem in shipped("tricks"):
                problems.append(
                    Problem(
                        f"{path.stem!r} is the name of a trick that ships with gantricks",
                        f"--plugin {path}",
                        "rename the file",
                    )
                )
        if problems:
            raise UserError(*problems)

    def names(self, kind: str) -> dict[str, str]:
        """Every name of this kind that could be loaded, with its origin; nothing is imported."""
        found = dict.fromkeys(shipped(kind), "gantricks")
        found |= dict.fromkeys(self.given.get(kind, {}), "given")
        if kind == "tricks":
            found |= {path.stem: str(path) for path in self.plugins}
        for point in self._points(kind):
            found.setdefault(point.name, _distribution(point))
        return found

    def load(self, kind: str, name: str) -> Found:
        """Import and return what `name` stands for.

        Raises UserError when there is no such name, or when what it names is broken.
        """
        if name in self.given.get(kind, {}):
            return Found(name, self.given[kind][name], "given")
        if name in shipped(kind):
            module = importlib.import_module(f"{_PACKAGES[kind]}.{name}")
            return Found(name, _the_class(kind, module), "gantricks")
        if kind == "tricks":
            for path in self.plugins:
                if path.stem == name:
                    return Found(name, _the_class(kind, _import_file(path)), f"{path} sha256:{_digest(path)}")
        for point in self._points(kind):
            if point.name == name:
                return Found(name, _load_point(kind, point), _distribution(point))
        known = self.names(kind)
        raise UserError(
            Problem(
                f"there is no {SINGULAR[kind]} {name!r}",
                mend=nearest(name, known) or f"there are: {', '.join(sorted(known))}",
            )
        )

    def warnings(self, named: Iterable[str] = ()) -> list[str]:
        """Sentences about installed plugins that cannot work and that the recipe does not name; nothing is imported."""
        found = []
        for kind in _PACKAGES:
            for point in self._points(kind):
                if point.name in named:
                    continue
                if point.name in shipped(kind):
                    found.append(f"the {SINGULAR[kind]} {point.name!r} of {_distribution(point)} is shadowed by ours")
                elif fault := _unreachable(point):
                    found.append(f"the {SINGULAR[kind]} {point.name!r} of {_distribution(point)} is broken: {fault}")
        return found

    def _points(self, kind: str) -> list[EntryPoint]:
        return sorted(entry_points(group=f"gantricks.{kind}"), key=lambda p: p.name) if self.installed else []


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
    if kind == "tricks":
        from gantricks.trick import Trick

        return Trick
    if kind == "networks":
        from gantricks.networks.base import Network

        return Network
    if kind == "metrics":
        from gantricks.metrics.base import Metric

        return Metric
    if kind == "extractors":
        from gantricks.metrics.extractors.base import Extractor

        return Extractor
    from gantricks.data.base import Source

    return Source


def _classes(kind: str, module: ModuleType) -> list[type]:
    base = _base(kind)
    return [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, base)
        and value is not base
        and value.__module__ == module.__name__
    ]


def _the_class(kind: str, module: ModuleType) -> type:
    found = _classes(kind, module)
    if len(found) != 1:
        names = ", ".join(cls.__name__ for cls in found) or "none"
        raise UserError(
            Problem(
                f"a {SINGULAR[kind]} file defines exactly one {_base(kind).__name__} class; this one defines {names}",
                where=str(module.__file__),
            )
        )
    return found[0]


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UserError(Problem("there is no such file", where=f"--plugin {path}"))
    name = f"gantricks_local_plugin_{path.stem}_{_digest(path)[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(Problem("a plugin is a Python file", where=f"--plugin {path}", mend="name a .py file"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as fault:
        del sys.modules[name]
        raise UserError(Problem(f"importing it fails: {_in_words(fault)}", where=_place(fault, path))) from fault
    return module


def _load_point(kind: str, point: EntryPoint) -> type:
    where = f"{SINGULAR[kind]} {point.name!r} of {_distribution(point)} ({point.value})"
    try:
        cls = point.load()
    except Exception as fault:
        raise UserError(
            Problem(f"importing it fails: {_in_words(fault)}", where=where, mend="mend or uninstall that package")
        ) from fault
    if not (inspect.isclass(cls) and issubclass(cls, _base(kind))):
        raise UserError(Problem(f"it is not a subclass of {_base(kind).__name__}", where=where))
    return cls


def _unreachable(point: EntryPoint) -> str | None:
    try:
        top = point.module.partition(".")[0]
        return None if importlib.util.find_spec(top) else f"there is no module {top!r}"
    except (AttributeError, ImportError, ValueError) as fault:
        return _in_words(fault) or "its entry point cannot be read"


def _distribution(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an installed package"


def _in_words(fault: BaseException) -> str:
    return f"{type(fault).__name__}: {fault}" if str(fault) else type(fault).__name__


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
