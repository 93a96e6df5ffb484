"""The index: descriptions of all parts that ship, readable without importing them."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

from gantricks.catalogue.kinds import PACKAGES, classes_of
from gantricks.files import write_whole
from gantricks.hooks import KINDS
from gantricks.trick import FACTS


def shipped(kind: str) -> list[str]:
    """Return the names of the parts of this kind that ship with gantricks."""
    if kind == "tricks":  # every file in the folder is a trick
        return _modules(PACKAGES[kind])
    return list(index()[kind])


def _modules(package: str) -> list[str]:
    names = (path.name for path in files(package).iterdir())
    return sorted(name[:-3] for name in names if name.endswith(".py") and name[0] != "_")


def index() -> dict[str, dict[str, Any]]:
    """Return the descriptions of all parts that ship, without importing them. `python docs/build.py` writes the
    file.
    """
    global _index
    if _index is None:
        _index = json.loads((files("gantricks.catalogue") / "index.json").read_text(encoding="utf-8"))
    return _index


_index: dict[str, dict[str, Any]] | None = None


def build_index() -> dict[str, dict[str, Any]]:
    """Import all parts that ship and describe them. The result is the content of `index.json`."""
    built: dict[str, dict[str, Any]] = {}
    for kind, package in PACKAGES.items():
        built[kind] = {}
        for name in _modules(package):
            module = importlib.import_module(f"{package}.{name}")
            if candidates := classes_of(kind, module):
                built[kind][name] = describe(kind, candidates[0])
    return built


def describe(kind: str, cls: type) -> dict[str, Any]:
    """Return the description of a class as plain data: its card, its options as JSON schema, its needs, a metric's
    figures. Of a trick also the hooks, and the details: what its module's docstring says below the first paragraph.
    """
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
        entry["ratios"] = sorted(cls.ratios)  # type: ignore[attr-defined]
    if kind == "tricks":
        module = sys.modules.get(cls.__module__)
        entry["details"] = inspect.cleandoc((module and module.__doc__) or "").partition("\n\n")[2].strip()
        entry["hooks"] = [hook for hook in KINDS if hasattr(getattr(cls, hook, None), "gantricks_impl")]
        facts = {fact: getattr(cls, fact) for fact in FACTS} | _facts_at_defaults(cls)
        entry |= {fact: sorted(facts[fact]) for fact in ("needs", "provides", "replaces")}
        entry |= {fact: dict(facts[fact]) for fact in ("conflicts", "cautions")}
        entry["neutral"] = cls.neutral  # type: ignore[attr-defined]
        entry["capturable"] = facts["capturable"]
    return entry


def _facts_at_defaults(trick: Any) -> dict[str, Any]:
    fields = trick.Config.model_fields.values()
    return {} if any(field.is_required() for field in fields) else dict(trick.facts(trick.Config()))


def write_index() -> Path:
    """Build `index.json` anew and return its path."""
    global _index
    target = Path(str(files("gantricks.catalogue") / "index.json"))
    write_whole(target, json.dumps(build_index(), indent=1, ensure_ascii=False) + "\n")
    _index = None
    return target
