"""Reads the options of a trick, a network or a data source from their JSON schema."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Schema = dict[str, Any]


@dataclass(frozen=True)
class Option:
    """One option as text: its `type` with the range, and its `default` as TOML, None where it has none or may be left
    out.
    """

    name: str
    type: str
    default: str | None
    required: bool
    description: str

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "type": self.type,
            "default": self.default,
            "required": self.required,
            "description": self.description,
        }


def options(schema: Schema) -> Iterator[Option]:
    """Yield every option of a JSON schema that pydantic made."""
    inlined = inline(schema)
    required = inlined.get("required", ())
    for name, entry in inlined.get("properties", {}).items():
        default = entry.get("default")
        yield Option(
            name,
            " or ".join(dict.fromkeys(_types(entry))),
            None if default is None else toml(default),
            name in required,
            entry.get("description", ""),
        )


def inline(schema: Schema) -> Schema:
    """Return the schema without references and in the vocabulary of draft 7, which every editor knows."""
    definitions = schema.get("$defs", {})

    def plain(node: Any) -> Any:
        if isinstance(node, list):
            return [plain(entry) for entry in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            # keys beside a reference override those of its target
            node = definitions[node["$ref"].rpartition("/")[2]] | {k: v for k, v in node.items() if k != "$ref"}
        if "prefixItems" in node:
            node = {key: value for key, value in node.items() if key != "prefixItems"} | {
                "items": node["prefixItems"],
                "additionalItems": False,
            }
        kept = {key: value for key, value in node.items() if key not in ("$defs", "discriminator")}
        return {
            # under these two the keys are names, not schema keywords; a default is a value
            key: {name: plain(entry) for name, entry in value.items()}
            if key in ("properties", "patternProperties")
            else value
            if key == "default"
            else plain(value)
            for key, value in kept.items()
            if not (key == "title" and isinstance(value, str))
        }

    inlined: Schema = plain(schema)
    return inlined


def toml(value: Any) -> str:
    """Return a value as one line of TOML."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(name)} = {toml(entry)}" for name, entry in value.items()) + " }"
    if isinstance(value, list | tuple):
        return f"[{', '.join(toml(entry) for entry in value)}]"
    return json.dumps(value, ensure_ascii=False)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)


def _types(node: Schema) -> Iterator[str]:
    branches = node.get("anyOf") or node.get("oneOf")
    if branches:
        for branch in branches:
            yield from _types(branch)
    elif "const" in node or "enum" in node:
        yield from (toml(value) for value in node.get("enum", [node.get("const")]))
    elif node.get("type") == "array":
        yield _array(node)
    elif node.get("type") == "object":
        yield "{ " + ", ".join(node.get("properties", {"…": None})) + " }"
    elif node.get("type") in _NAMES:
        yield " ".join(filter(None, (_NAMES[node["type"]], _range(node))))
    elif node.get("type") != "null":  # TOML has no null: such an option may be left out
        yield "anything"


_NAMES = {"number": "number", "integer": "whole number", "boolean": "true or false", "string": "text"}


def _array(node: Schema) -> str:
    items = node.get("items")
    if isinstance(items, list):
        if [entry.get("type") for entry in items] == ["number", "number"] and not any(map(_range, items)):
            return "[low, high]"
        return f"[{', '.join(' or '.join(_types(entry)) for entry in items)}]"
    return f"[{' or '.join(_types(items))}, …]" if items else "[…]"


def _range(node: Schema) -> str:
    low, high = node.get("minimum"), node.get("maximum")
    above, below = node.get("exclusiveMinimum"), node.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f"from {low:g} to {high:g}"
    bounds = ((low, "at least"), (above, "above"), (high, "at most"), (below, "below"))
    return ", ".join(f"{word} {bound:g}" for bound, word in bounds if bound is not None)
