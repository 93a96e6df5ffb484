"""The JSON schema of recipes, for editors that support TOML."""

from __future__ import annotations

from typing import Any

from gantricks.catalogue.index import index
from gantricks.catalogue.kinds import SINGULAR
from gantricks.catalogue.registry import Registry
from gantricks.cli.options import Schema, inline
from gantricks.planning.keys import SECTIONS, EvaluateKeys, Top

_KINDS = {"data": ("data", "source"), "generator": ("networks", "network"), "discriminator": ("networks", "network")}


def recipe_schema() -> Schema:
    """Return the JSON schema of recipes: keys with their types, ranges, defaults and descriptions.

    It is draft 7 and free of references, which every editor reads. A recipe that `extends` another may leave out
    anything. Names that only an installed package or a `--plugin` file knows are allowed, with any options.
    """
    top = inline(Top.model_json_schema())
    core = {section: inline(model.model_json_schema()) for section, model in SECTIONS.items()}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "gantricks recipe",
        "type": "object",
        "properties": {
            "extends": {
                "type": "string",
                "description": "the recipe that this one adds to: a file beside it, or a shipped one",
            },
            **top["properties"],
            **{section: _section(section, core[section]["properties"]) for section in _KINDS},
            "train": {key: value for key, value in core["train"].items() if key != "required"},
            "tricks": {"type": "object", "description": "tricks, composed in this order", **_instances("tricks")},
            "evaluate": _evaluate(),
            "loggers": {
                "type": "object",
                "description": "what is told of the run",
                **_instances("loggers"),
            },
        },
        "additionalProperties": False,
        "if": {"not": {"required": ["extends"]}},
        "then": {
            "required": [*top["required"], *SECTIONS],
            "properties": {section: {"required": keys.get("required", [])} for section, keys in core.items()},
        },
    }


def _section(section: str, core: Schema) -> Schema:
    kind, selector = _KINDS[section]
    known = _options(kind, section)
    branches = [
        {
            "type": "object",
            "description": summary,
            "properties": core | {selector: core[selector] | {"const": name}} | own["properties"],
            "additionalProperties": False,
        }
        for name, (summary, own) in known.items()
    ]
    return {"anyOf": [*branches, *_foreign(kind, selector, known, core)]}


def _evaluate() -> Schema:
    core = inline(EvaluateKeys.model_json_schema())
    metrics = _instances("metrics")
    return {
        "type": "object",
        "description": "what gantricks evaluate measures; every table is a metric",
        **metrics,
        "properties": core["properties"] | metrics["properties"],
    }


def _instances(kind: str) -> Schema:
    """Return the schema of a section in which every table is an instance: of tricks, of metrics, or of loggers."""
    known, what = _options(kind, "options"), SINGULAR[kind]
    use = {"type": "string", "description": f"the {what} that this is an instance of, when its own name is another"}

    def table(name: str, summary: str, own: Schema, required: list[str]) -> Schema:
        return {
            "type": "object",
            "description": summary,
            "properties": {"use": use | {"const": name}} | own["properties"],
            "additionalProperties": False,
            "required": required,
        }

    switch = {
        "enum": ["on", "off", True, False],
        "description": f"on: with its defaults, or with those options that the recipe has which this one extends; "
        f"off: leaves out a {what} of that recipe",
    }
    instances = [table(name, summary, own, ["use"]) for name, (summary, own) in known.items()]
    foreign: Schema = {"type": "string"} | ({"not": {"enum": list(known)}} if known else {})
    unknown = {"type": "object", "properties": {"use": foreign}}
    return {
        "properties": {
            name: {"description": summary, "anyOf": [table(name, summary, own, []), _another(name), switch]}
            for name, (summary, own) in known.items()
        },
        "additionalProperties": {"anyOf": [*instances, unknown, switch]},
    }


def _another(name: str) -> Schema:
    """Return the schema of a table with the name of a trick or a metric that is an instance of another one, named in
    the table.
    """
    return {
        "type": "object",
        "required": ["use"],
        "properties": {"use": {"type": "string", "not": {"const": name}}},
    }


def _options(kind: str, part: str) -> dict[str, tuple[str, Schema]]:
    """Return summary and options of every shipped part of this kind; networks have them by role."""
    part = "options" if kind == "data" else part
    found = {}
    for name, card in index()[kind].items():
        if card[part] is not None:
            found[name] = (card["summary"], inline(card[part]))
    return found


def _foreign(kind: str, selector: str, known: dict[str, Any], core: Schema) -> list[Schema]:
    names = [name for name in Registry().names(kind) if name not in known]
    if not names:
        return []
    return [
        {
            "type": "object",
            "description": "from an installed package, which checks its own options",
            "properties": core | {selector: core[selector] | {"enum": names}},
            "required": [selector],
        }
    ]
