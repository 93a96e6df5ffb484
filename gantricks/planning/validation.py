"""From the table of a recipe to a `Recipe`. All mistakes are reported together, each with its file and line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from gantricks.catalogue.index import index
from gantricks.catalogue.kinds import SINGULAR
from gantricks.catalogue.registry import Found, Registry
from gantricks.errors import Problem, UserError, closest
from gantricks.metrics import published
from gantricks.option_errors import (
    UNKNOWN,
    check_options,
    models_of,
    shortened,
    shown,
    texts_wanted,
    unreadable,
    validated,
)
from gantricks.options import Options
from gantricks.planning.keys import (
    INSTANCES,
    SECTIONS,
    SELECTORS,
    DataKeys,
    DiscriminatorKeys,
    EvaluateKeys,
    GeneratorKeys,
    Top,
    TrainKeys,
)
from gantricks.planning.recipe import LoggerPart, MetricPart, Part, Recipe, RecipeError, TrickPart
from gantricks.planning.recipe_files import Places, RecipeFile, read_recipe

KeyPath = tuple[str, ...]
K = TypeVar("K", bound=Options)

LISTED = 20
"""The number of unknown names in one table that are reported one by one."""


MOST = 100
"""The largest number of tricks, of metrics, and of loggers, in a recipe."""


class _Validation:
    """One pass over a recipe that collects every problem."""

    def __init__(
        self, raw: Mapping[str, Any], registry: Registry, places: Places, problems: Iterable[Problem] = ()
    ) -> None:
        self.registry, self.places = registry, places
        self.problems = list(problems)
        self.raw = dict(raw)
        wrong = {path: what for path, what in unreadable(raw) if path}
        for path, what in list(wrong.items())[:LISTED]:
            self._report(path, what)
        if len(wrong) > LISTED:
            self._report((), f"and {len(wrong) - LISTED:,} more values that cannot be read")
        for path in wrong:
            self._leave_out(path)
        self.all_found = True
        self.models: dict[KeyPath, type[Options]] = {}
        """The model of each table's keys, as far as it is known."""
        self.misspelt: list[tuple[int, KeyPath, str]] = []
        """Unknown keys: the index of their problem, and the hint from their own table."""

    def recipe(self) -> Recipe:
        tables = (*SECTIONS, *INSTANCES)
        top = self._options(Top, {k: v for k, v in self.raw.items() if k not in tables}, (), known=tables)
        data = self._part("data", DataKeys)
        generator = self._part("generator", GeneratorKeys)
        discriminator = self._part("discriminator", DiscriminatorKeys)
        train = self._options(TrainKeys, self._table("train"), ("train",)) if "train" in self.raw else None
        if "train" not in self.raw:
            self._missing("train", "steps = 3000")
        tricks = tuple(TrickPart(*parts) for parts in self._instances("tricks"))
        evaluate, metrics = self._evaluate()
        loggers = tuple(LoggerPart(*parts) for parts in self._instances("loggers"))
        elsewhere = _known_keys(self.models, self.registry) if self.misspelt else {}
        for position, path, advice in self.misspelt:
            self.problems[position] = _advised(self.problems[position], path, advice, elsewhere)
        recipe = None
        if top and data and generator and discriminator and train and evaluate:
            players = data, generator, discriminator
            recipe = Recipe(top.name, top.seed, *players, train, tricks, evaluate, metrics, loggers, self.places)
        if self.problems or not recipe:
            raise RecipeError(self.problems, recipe if self.all_found else None)
        return recipe

    def _report(self, path: KeyPath, what: str, hint: str = "", place: str = "") -> None:
        dotted = shortened(".".join(path), 120)
        self.problems.append(Problem(f"{dotted}: {what}" if dotted else what, place or self.places.of(*path), hint))

    def _leave_out(self, path: KeyPath) -> None:
        """Remove a key, or the list that contains it, from the recipe. The caller's table is not changed."""
        table = self.raw
        for key in path[:-1]:
            inner = table.get(key)
            if not isinstance(inner, Mapping):
                table.pop(key, None)
                return
            table[key] = table = dict(inner)
        table.pop(path[-1], None)

    def _missing(self, section: str, example: str) -> None:
        self.problems.append(
            Problem(f"the table [{section}] is missing", self.places.file, f"add [{section}] with {example}")
        )

    def _table(self, *path: str) -> dict[str, Any]:
        value: Any = self.raw
        for key in path:
            value = value[key]
        if isinstance(value, Mapping):
            return dict(value)
        dotted = ".".join(path)
        hint = f"write [{dotted}]"
        if len(path) == 2:
            hint += f", or --set {dotted}=on, for one with its defaults"
        what = f"{shortened(dotted, 120)} must be a table, not {shown(value)}"
        self.problems.append(Problem(what, self.places.of(*path), shortened(hint, 200)))
        return {}

    def _part(self, section: str, model: type[K]) -> Part[K] | None:
        selector = SELECTORS[section]
        if section not in self.raw:
            self._missing(section, f'{selector} = "…"')
            return None
        table = self._table(section)
        core = {key: value for key, value in table.items() if key in model.model_fields}
        own = {key: value for key, value in table.items() if key not in model.model_fields}
        keys = self._options(model, core, (section,))
        name = self._text(table.get(selector), section, selector)
        if not isinstance(name, str):
            return None  # the missing key is reported with the core keys
        found = self._find("data" if section == "data" else "networks", name, (section, selector))
        config = found and self._config_of(section, found)
        if not found or not config:
            return None
        options = self._options(config, own, (section,), known=model.model_fields)
        if options is not None and not self._homes(found, options, (section,)):
            return None
        return Part(keys, found, options) if keys and options is not None else None

    def _homes(self, found: Found, options: Options, path: KeyPath) -> bool:
        """Return whether every path that begins with ~ names an existing home folder."""
        known = True
        for key in getattr(found.cls, "paths", ()):
            try:
                Path(getattr(options, key) or "").expanduser()
            except RuntimeError:
                self._report((*path, key), "there is no such home folder", "write the path in full")
                known = False
        return known

    def _config_of(self, section: str, found: Found) -> type[Options] | None:
        if section == "data":
            options: type[Options] = getattr(found.cls, "Config")  # noqa: B009
            return options
        config: type[Options] | None = getattr(found.cls, f"{section.capitalize()}Config")
        if config is None:
            self.problems.append(
                Problem(f"the network {found.name!r} has no {section}", self.places.of(section, "network"))
            )
        return config

    def _evaluate(self) -> tuple[EvaluateKeys | None, tuple[MetricPart, ...]]:
        if "evaluate" not in self.raw:
            return EvaluateKeys(), ()
        keys = {name: value for name, value in self._table("evaluate").items() if not _is_instance(name, value)}
        evaluate = self._options(EvaluateKeys, keys, ("evaluate",))
        return evaluate, tuple(MetricPart(*parts) for parts in self._instances("evaluate"))

    def _instances(self, section: str) -> Iterator[tuple[str, Found, Options]]:
        """Yield the name of each table of `section`, the class that it is an instance of, and its options."""
        if section not in self.raw:
            return
        table, kind = self._table(section), INSTANCES[section]
        names = [
            name
            for name, value in table.items()
            if value != "off" and (section != "evaluate" or _is_instance(name, value))
        ]
        if len(names) > MOST:
            what = f"{len(names):,} {kind} are more than a recipe can have, which is {MOST}"
            self.problems.append(Problem(what, self.places.of(section)))
            self.all_found = False
            return
        found_here: dict[str, Found | None] = {}
        for name in names:
            path = (section, name)
            options = self._table(*path)
            use = self._text(options.pop("use", name), *path, "use")
            if not isinstance(use, str):
                what = f"use must be the name of a {SINGULAR[kind]}, not {shown(use)}"
                self.problems.append(Problem(what, self.places.of(*path, "use")))
            elif not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,99}", name):
                what = f"a {SINGULAR[kind]} is named in letters from A to Z, digits and _, not {shown(name)}"
                self.problems.append(Problem(what, self.places.of(*path)))
            else:
                if use not in found_here or found_here[use] is None:
                    found_here[use] = self._find(kind, use, path)
                if found := found_here[use]:
                    config = self._options(found.cls.Config, options, path, known=("use",))  # type: ignore[attr-defined]
                    if config is not None and self._homes(found, config, path):
                        yield name, found, config

    def _find(self, kind: str, name: str, path: KeyPath) -> Found | None:
        try:
            return self.registry.load(kind, name)
        except UserError as error:
            for problem in error.problems:
                where = self.places.of(*path) + (f": {problem.where}" if problem.where else "")
                named = published.advice(name, index()["metrics"]) if kind == "metrics" else ""
                self.problems.append(Problem(shortened(problem.what, 200), where, named or problem.hint))
            if kind != "loggers":  # the rest can be planned without it
                self.all_found = False
            return None

    def _text(self, value: Any, *path: str) -> Any:
        """Return the value of a key that takes a text: the written text where it comes from an override."""
        written = self.places.text_of(*path)
        return value if isinstance(value, str) or value is None or written is None else written

    def _options(self, model: type[K], table: dict[str, Any], path: KeyPath, known: Iterable[str] = ()) -> K | None:
        self.models[path] = model
        table = self._with_texts(model, table, path)
        errors = list(check_options(model, table, known, LISTED))
        if not errors:
            found: K | None = validated(model, table)
            return found
        unknown = 0
        for keys, what, hint in errors:
            unknown += what == UNKNOWN
            if what != UNKNOWN or unknown <= LISTED:
                if what == UNKNOWN:
                    self.misspelt.append((len(self.problems), (*path, *keys), hint))
                self._report((*path, *keys), what, hint, "" if keys or not path else self.places.about(what, path))
        if unknown > LISTED:
            self._report(path, f"and {unknown - LISTED:,} more unknown keys")
        # without the wrong keys, the rest can still be checked for further problems
        wrong = {keys[0] for keys, _, _ in errors if keys}
        rest = {key: value for key, value in table.items() if key not in wrong}
        return validated(model, rest) if wrong and not any(check_options(model, rest)) else None

    def _with_texts(self, model: type[Options], table: dict[str, Any], path: KeyPath) -> dict[str, Any]:
        """Return the table with the written text of each override whose key takes a text, whatever value TOML
        gives it.
        """
        written = {key: text for key in table if (text := self.places.text_of(*path, key)) is not None}
        if not any(not isinstance(table[key], str) for key in written):
            return table
        wanted = texts_wanted(model, table)
        return {key: written[key] if key in written and (key,) in wanted else value for key, value in table.items()}


# ---------------------------------------------------------------- hints on keys in the wrong table


def _advised(problem: Problem, path: KeyPath, advice: str, elsewhere: Mapping[str, Sequence[str]]) -> Problem:
    """Return the problem of an unknown key at `path` with a hint, since the key may belong to another table.

    `advice` is the hint from its own table. `elsewhere` maps every key that this recipe could have to its full names.
    """
    exact = [dotted for dotted in elsewhere.get(path[-1], ()) if dotted != ".".join(path)]
    if not exact and not advice.startswith("did you mean"):
        exact = [*elsewhere.get(closest(path[-1][:100], elsewhere) or "", ())]
    return replace(problem, hint=f"did you mean {' or '.join(exact[:4])}?") if exact else problem


def _known_keys(models: Mapping[KeyPath, type[Options]], registry: Registry) -> dict[str, list[str]]:
    """Return every key that a recipe with these models could have below its top level, with its full names. Tricks,
    metrics and loggers are included.
    """
    found: dict[str, list[str]] = {}

    def add(model: type[Any], path: KeyPath, depth: int = 0) -> None:
        for name, described in model.model_fields.items():
            dotted = ".".join((*path, name))
            if dotted not in found.setdefault(name, []):
                found[name].append(dotted)
            for inner in models_of(described.annotation) if depth < 2 else ():
                add(inner, (*path, name), depth + 1)

    for section, model in SECTIONS.items():
        add(model, (section,))
    for path, model in models.items():
        if path:
            add(model, path)
    add(EvaluateKeys, ("evaluate",))
    for section, kind in INSTANCES.items():
        for name in registry.names(kind):
            found.setdefault(name, []).append(f"{section}.{name}")
    return found


def _is_instance(name: str, value: Any) -> bool:
    """Return whether a key of [evaluate] names a metric: its value is a table, or switches one off."""
    return name not in EvaluateKeys.model_fields and (isinstance(value, Mapping) or value == "off")


def load_recipe(
    recipe: str | Path | RecipeFile, overrides: Iterable[str] = (), registry: Registry | None = None
) -> Recipe:
    """Read, merge and validate a recipe.

    `recipe` is a file, the name of a shipped recipe, or the result of `read_recipe`. `overrides` are `KEY=VALUE`
    strings as for `--set`. Raises UserError with every problem found.
    """
    read = (recipe if isinstance(recipe, RecipeFile) else read_recipe(recipe)).under(overrides)
    return _Validation(read.table, registry or Registry(), read.places, read.problems).recipe()


def validate_recipe(raw: Mapping[str, Any], registry: Registry, places: Places | None = None) -> Recipe:
    """Validate plain data against the core's keys and the options of every part that it names."""
    return _Validation(raw, registry, places or Places()).recipe()
