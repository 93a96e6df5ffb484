"""Describes errors in options: turns pydantic's errors into sentences."""

from __future__ import annotations

import datetime
import json
import math
import re
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from gantricks.errors import closest, nearest
from gantricks.options import Schedule

KeyPath = tuple[str, ...]
UNKNOWN = "unknown key"

DEEPEST = 16
"""The largest depth of nested tables and lists. No option needs half of it."""
LARGEST = 1e30
"""The largest number in a recipe. Products of two larger numbers do not fit into single precision."""
_INTEGERS = 1 << 63
_OF_A_LIST = 3
"""The number of wrong values of a list that are reported one by one."""


class OptionError(NamedTuple):
    """A wrong key, by its path within the table, with the mistake and what to write instead."""

    keys: KeyPath
    what: str
    hint: str


def check_options(
    model: type[BaseModel], table: Mapping[str, Any], known: Iterable[str] = (), listed: int = 20
) -> Iterator[OptionError]:
    """Yield every error of `table` as options of `model`.

    `known` are further keys that may stand in the same table, for the hint on a misspelt key. Only the first `listed`
    unknown keys get this hint.
    """
    messages: dict[KeyPath, list[Any]] = {}
    errors = list(_errors(model, table))
    tables = {keys[:depth] for keys, error in errors if not _is_scalar(error) for depth in range(1, len(keys) + 1)}
    advised = 0
    for keys, error in errors:
        if error["type"] == "extra_forbidden":
            advised += 1
            yield OptionError(keys, UNKNOWN, advice(model, keys, table, known) if advised <= listed else "")
        elif not (_is_scalar(error) and isinstance(error["input"], dict) and keys in tables):
            # otherwise the user has written a table, and this error is about the number that the option takes too
            messages.setdefault(keys, []).append(error)
    in_lists: dict[KeyPath, int] = {}
    for keys, found in messages.items():
        if len(keys) > 1 and keys[-1].isdecimal():
            in_lists[keys[:-1]] = in_lists.get(keys[:-1], 0) + 1
            if in_lists[keys[:-1]] > _OF_A_LIST:
                continue
        described = description(model, keys)
        hint = _meant(found) or _names(model, keys, found) or (f"{keys[-1]}: {described}" if keys and described else "")
        yield OptionError(keys, _sentence(found), hint)


def first_error(error: ValidationError) -> str:
    """Return the first error in a file that gantricks wrote, and where in the file it is."""
    first = error.errors(include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else first["msg"]


def texts_wanted(model: type[BaseModel], table: Mapping[str, Any]) -> set[KeyPath]:
    """Return the keys of `table` whose value is not a text although `model` wants one."""
    return {keys for keys, error in _errors(model, table) if error["type"] == "string_type"}


def unreadable(value: Any, path: KeyPath = (), depth: int = 0) -> Iterator[tuple[KeyPath, str]]:
    """Yield every value within `value` that no option can have, by path, with the reason.

    TOML has dates, and its integers end at 64 bits. A text with a NUL cannot name a file, and a text that is not UTF-8
    cannot be written into a run's recipe.
    """
    if depth > DEEPEST:
        yield path, f"tables and lists stand in each other more than {DEEPEST} deep"
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield from unreadable(entry, (*path, str(key)), depth + 1)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from unreadable(entry, path, depth + 1)
    elif isinstance(value, bool):
        return
    elif isinstance(value, int) and not -_INTEGERS <= value < _INTEGERS:
        yield path, f"it must be a whole number of less than 20 digits, not {shown(value)}"
    elif isinstance(value, float) and math.isfinite(value) and abs(value) > LARGEST:
        yield path, f"it must be a number of at most {LARGEST:g}, not {shown(value)}"
    elif isinstance(value, datetime.date | datetime.time):
        yield path, f'no option is a date or a time; a text stands in quotes: "{value}"'
    elif isinstance(value, str) and "\0" in value:
        yield path, f"a text cannot hold the character NUL: {shown(value)}"
    elif isinstance(value, str) and not is_text(value):
        yield path, "it holds bytes that are not UTF-8; rename the file or folder that it names"


def is_text(value: str) -> bool:
    """Return whether `value` can be written as UTF-8. Command-line words that are not UTF-8 hold lone surrogates."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(value: Any, width: int = 60) -> str:
    """Return a value in the form of a recipe, shortened in the middle where it is long."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= _INTEGERS:
        # Python refuses to write integers of thousands of digits
        digits = int(math.log10(abs(value))) + 1 if value.bit_length() < 1000 else int(value.bit_length() * 0.30103) + 1
        return f"one of {digits:,} digits"
    if isinstance(value, Mapping):
        return "a table"
    return shortened(json.dumps(value, default=str, ensure_ascii=False), width)


def shortened(text: str, width: int = 60) -> str:
    """Return `text`, shortened in the middle where it is longer than `width`."""
    half = width // 2
    return text if len(text) <= width else f"{text[:half]} … {text[-half:]}"


def advice(model: type[BaseModel], keys: KeyPath, table: Mapping[str, Any], known: Iterable[str] = ()) -> str:
    """Return the known key that an unknown key is close to, or else all known keys, as a hint."""
    names = [*_fields(model, keys[:-1], table), *(known if len(keys) == 1 else ())]
    return nearest(keys[-1][:100], names) or (f"known keys: {', '.join(names)}" if names else "it takes no keys")


def description(model: type[BaseModel], keys: KeyPath) -> str:
    """Return the model's description of a key."""
    described = model.model_fields.get(keys[0]) if len(keys) == 1 else None
    return described.description or "" if described else ""


def models_of(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models among the types of an option."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from models_of(inner)


# ---------------------------------------------------------------- errors of pydantic


def validated(model: type[Any], table: Mapping[str, Any]) -> Any:
    """Return the validated options. Raises ValidationError."""
    # as JSON, which makes pydantic strict about types but lets a list stand for a tuple
    return model.model_validate_json(json.dumps(table, default=str), strict=True)


def _errors(model: type[BaseModel], table: Mapping[str, Any]) -> Iterator[tuple[KeyPath, Any]]:
    try:
        validated(model, table)
    except ValidationError as refused:
        for error in refused.errors(include_url=False):
            keys = tuple(str(part) for part in _written(error, table))
            if error["type"] == "union_tag_invalid":
                tag = error["ctx"]["discriminator"].strip("'")
                keys, error["input"] = (*keys, tag), error["input"].get(tag)
            yield keys, error


def _written(error: Any, table: Any) -> list[int | str]:
    """Return the part of a pydantic location that the user wrote. Pydantic adds branches of unions, which are not in
    the file.
    """
    written: list[int | str] = []
    value = table
    for position, part in enumerate(error["loc"]):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and isinstance(part, int):
            if part >= len(value):
                break  # the list is too short: the error is about the list
            value = value[part]
        elif error["type"] == "missing" and position == len(error["loc"]) - 1:
            pass
        else:
            continue
        written.append(part)
    return written


_WANTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "a text in quotes",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "dataclass_type": "a table",
    "none_required": "left out",
}
_TABLES = {"dict_type", "model_type", "model_attributes_type", "dataclass_type"}
_CHOICES = {"literal_error": "expected", "enum": "expected", "union_tag_invalid": "expected_tags"}
_BOUNDS = {
    "greater_than_equal": ("ge", "at least {}"),
    "greater_than": ("gt", "more than {}"),
    "less_than_equal": ("le", "at most {}"),
    "less_than": ("lt", "less than {}"),
    "multiple_of": ("multiple_of", "a multiple of {}"),
}
_LENGTHS = {
    "too_short": "hold {min_length} values or more, not {actual_length}",
    "too_long": "hold {max_length} values at most, not {actual_length}",
    "string_too_short": "be a text of {min_length} characters or more",
    "string_too_long": "be a text of {max_length} characters at most",
}


def _is_scalar(error: Any) -> bool:
    """Return whether the error is that of a table in place of a scalar."""
    wants_none = error["type"] in _WANTED.keys() - _TABLES or error["type"] in _CHOICES
    return wants_none and isinstance(error["input"], dict)


def _sentence(errors: Sequence[Any]) -> str:
    """Return one sentence for the errors of all branches of an option."""
    value = errors[0]["input"]
    wanted = list(dict.fromkeys(filter(None, map(_wanted, errors))))
    others = list(dict.fromkeys(_message(error) for error in errors if not _wanted(error)))
    if not wanted:
        return "; or ".join(others)
    if isinstance(value, dict) and {"start", "end"} & value.keys():
        return "; or ".join([f"it takes {' or '.join(wanted)} and no schedule", *others])
    return "; or ".join([f"it must be {' or '.join(wanted)}, not {shown(value)}", *others])


def _wanted(error: Any) -> str:
    """Return the type or the range that is wanted, where the error is about either."""
    kind, context = error["type"], error.get("ctx", {})
    if kind in _CHOICES:
        return _either(context[_CHOICES[kind]])
    if kind in _TABLES and context.get("class_name") == Schedule.__name__:
        return "a schedule { start, end, until }"
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return words.format(f"{context[name]:,}" if isinstance(context[name], int) else f"{context[name]:g}")
    return "a finite number" if kind == "finite_number" else _WANTED.get(kind, "")


def _message(error: Any) -> str:
    """Return a sentence for any other kind of error."""
    kind, context, value = error["type"], error.get("ctx", {}), error["input"]
    if kind == "missing":
        return "too few values" if isinstance(error["loc"][-1], int) else "this key is missing"
    if kind in _LENGTHS:
        return f"it must {_LENGTHS[kind].format(**context)}"
    if kind == "union_tag_not_found":
        return f"it must say which it is: {context['discriminator']} is missing".replace("'", "")
    if kind == "string_pattern_mismatch":  # users need not know regular expressions
        return f"it does not have the right form: {shown(value)}"
    message = str(error["msg"]).replace("Input should be", "it must be").removeprefix("Value error, ")
    message = message.removeprefix("Assertion failed, ")
    return f"{message}, not {shown(value)}" if message.startswith("it must be") else message


def _either(choices: str) -> str:
    *most, last = re.split(", | or ", choices.replace("'", '"'))
    return f"{', '.join(most)} or {last}" if most else last


def _meant(errors: Sequence[Any]) -> str:
    """Return a hint on a misspelt choice."""
    written = errors[0]["input"]
    choices = [one for e in errors if e["type"] in _CHOICES for one in e["ctx"][_CHOICES[e["type"]]].split("'")[1::2]]
    close = closest(written[:100], choices) if isinstance(written, str) else None
    return f"did you mean {shown(close)}?" if close else ""


def _names(model: type[BaseModel], keys: KeyPath, errors: Sequence[Any]) -> str:
    """Return a hint on a table that lacks the key which says its kind."""
    if errors[0]["type"] != "union_tag_not_found" or len(keys) != 1:
        return ""
    named = [one.model_fields["name"].default for one in models_of(model.model_fields[keys[0]].annotation)]
    return f"write name = {_either(', '.join(map(shown, named)))} in it"


def _fields(model: type[BaseModel], parents: KeyPath, table: Mapping[str, Any]) -> list[str]:
    """Return the keys that may stand in the table at `parents`."""
    value: Any = table
    models: list[type[BaseModel]] = [model]
    for key in parents:
        value = value.get(key) if isinstance(value, Mapping) else None
        fields = [candidate.model_fields[key] for candidate in models if key in candidate.model_fields]
        models = [inner for field in fields for inner in models_of(field.annotation)]
        models = [inner for inner in models if _chosen(inner, value)] or models
    return list(dict.fromkeys(name for candidate in models for name in candidate.model_fields))


def _chosen(model: type[BaseModel], value: Any) -> bool:
    """Return whether a table's `name` selects this model."""
    name = model.model_fields.get("name")
    return name is not None and isinstance(value, Mapping) and value.get("name", name.default) == name.default
