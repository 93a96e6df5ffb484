"""Recipes: TOML to a validated `Recipe`. Every fault is reported with its file and line, all of them at once."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import tomli_w
from pydantic import BaseModel, Field, ValidationError

from gantricks.errors import Problem, UserError, legible, nearest
from gantricks.optimizers import Adam, Optimizer
from gantricks.options import Options
from gantricks.registry import SINGULAR, Found, Registry
from gantricks.toml_lines import key_lines, line_of

NAME_IT_ANEW = "rename the file or folder, or make a link to it whose name is UTF-8"

KeyPath = tuple[str, ...]
K = TypeVar("K", bound=Options)


class Top(Options):
    """The keys above the first table."""

    name: Annotated[
        str,
        Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100, description="the run's folder is named for it"),
    ]
    seed: Annotated[int, Field(ge=0, lt=2**63, description="every random stream of the run derives from it")] = 0


class DataKeys(Options):
    """`[data]`; further keys are the source's own."""

    source: Annotated[str, Field(description="name of a data source")]
    batch_size: Annotated[int, Field(ge=1, le=65536, description="real samples per D step")] = 64


class GeneratorKeys(Options):
    """`[generator]`; further keys are the network's own."""

    network: Annotated[str, Field(description="name of a network")]
    latent_dim: Annotated[int, Field(ge=1, le=65536, description="dimension of z")] = 100
    optimizer: Annotated[Optimizer, Field(description="what trains G")] = Adam()


class DiscriminatorKeys(Options):
    """`[discriminator]`; further keys are the network's own."""

    network: Annotated[str, Field(description="name of a network")]
    optimizer: Annotated[Optimizer, Field(description="what trains D")] = Adam()


class TrainKeys(Options):
    """`[train]`."""

    steps: Annotated[int, Field(ge=1, description="generator updates")]
    schedule_steps: Annotated[
        int | None, Field(ge=1, description="steps that schedules run over, to rest then at their end; left out: all")
    ] = None
    n_critic: Annotated[int, Field(ge=1, le=1000, description="D steps per G step")] = 1
    reuse_fakes: Annotated[bool, Field(description="the last D step and the G step share one generator forward")] = True
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N")] = "auto"
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp64"], Field(description="bf16 is autocast; fp64 is for tests")
    ] = "auto"
    capture: Annotated[
        Literal["auto", "on", "off"],
        Field(description="play the step as one compiled call; auto: on a GPU, and in runs long enough to repay it"),
    ] = "auto"
    log_every: Annotated[int, Field(ge=1, description="steps between two lines of metrics.jsonl")] = 50
    sample_every: Annotated[int, Field(ge=1, description="steps between two pictures")] = 500
    checkpoint_every: Annotated[int, Field(ge=1, description="steps between two checkpoints")] = 500
    keep: Annotated[
        Annotated[int, Field(ge=1, le=1_000_000)] | Literal["all"],
        Field(description='how many checkpoints are kept, the newest of them; "all": every one'),
    ] = 3

    @property
    def length(self) -> int:
        """Steps that schedules run over."""
        return self.schedule_steps or self.steps


class EvaluateKeys(Options):
    """`[evaluate]`; every table in it is a metric."""

    samples: Annotated[
        int, Field(ge=1, le=10_000_000, description="generated samples per metric, unless it has a number of its own")
    ] = 5000


SECTIONS: dict[str, type[Options]] = {
    "data": DataKeys,
    "generator": GeneratorKeys,
    "discriminator": DiscriminatorKeys,
    "train": TrainKeys,
}
_SELECTORS = {"data": "source", "generator": "network", "discriminator": "network"}


@dataclass(frozen=True)
class Part(Generic[K]):
    """A section of a recipe: the core's keys, what it names, and that one's own options."""

    keys: K
    found: Found
    options: Options


@dataclass(frozen=True)
class TrickPart:
    """A trick of a recipe. `name` is its instance's, `found.name` the trick's."""

    name: str
    found: Found
    options: Options


@dataclass(frozen=True)
class MetricPart:
    """A metric of a recipe. `name` is its instance's, `found.name` the metric's."""

    name: str
    found: Found
    options: Options


@dataclass(frozen=True)
class Recipe:
    """A validated recipe; every default is filled in."""

    name: str
    seed: int
    data: Part[DataKeys]
    generator: Part[GeneratorKeys]
    discriminator: Part[DiscriminatorKeys]
    train: TrainKeys
    tricks: tuple[TrickPart, ...] = ()
    evaluate: EvaluateKeys = field(default_factory=EvaluateKeys)
    metrics: tuple[MetricPart, ...] = ()
    places: Places = field(default_factory=lambda: Places(), compare=False, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """The recipe as plain data, in the order and shape of a recipe file; paths are absolute."""

        def table(part: Part[Any]) -> dict[str, Any]:
            plain = _plain(part.keys) | _plain(part.options)
            for key in getattr(part.found.cls, "paths", ()):
                plain[key] = str(Path(plain[key]).expanduser().absolute())
            return plain

        def instances(parts: tuple[TrickPart, ...] | tuple[MetricPart, ...]) -> dict[str, Any]:
            return {
                part.name: ({"use": part.found.name} if part.found.name != part.name else {}) | _plain(part.options)
                for part in parts
            }

        return {
            "name": self.name,
            "seed": self.seed,
            "data": table(self.data),
            "generator": table(self.generator),
            "discriminator": table(self.discriminator),
            "train": _plain(self.train),
            "evaluate": _plain(self.evaluate) | instances(self.metrics),
        } | ({"tricks": instances(self.tricks)} if self.tricks else {})

    def as_toml(self) -> str:
        """The recipe as a file that `load_recipe` reads back to an equal one."""
        return tomli_w.dumps(self.as_dict())


class RecipeError(UserError):
    """A recipe with problems. `rest` is the recipe without the wrong keys, where there is enough left of it."""

    def __init__(self, problems: list[Problem], rest: Recipe | None) -> None:
        super().__init__(*problems)
        self.rest = rest


class Places:
    """Where each key came from: a line of a file, or an override."""

    def __init__(self) -> None:
        self._of: dict[KeyPath, str] = {}
        self._files: dict[KeyPath, tuple[str, dict[KeyPath, int]]] = {}
        self.file = ""

    def add_file(self, label: str, text: str) -> None:
        lines = key_lines(text)
        self.file = label
        for path in lines:
            self._of[path] = f"{label}:{line_of(lines, path)}"

    def add_override(self, path: KeyPath, label: str) -> None:
        self._of[path] = label
        if path[0] == "tricks":  # a trick that no file names is where its first option was set
            self._of.setdefault(path[:2], label)

    def of(self, *path: str) -> str:
        """The place of this key, or of its nearest parent."""
        while path and path not in self._of:
            path = path[:-1]
        return self._of.get(path, self.file)


def load_recipe(
    recipe: str | Path,
    overrides: Iterable[str] = (),
    registry: Registry | None = None,
) -> Recipe:
    """Read, merge and validate a recipe.

    `recipe` is a file, or the name of a shipped recipe. `overrides` are `KEY=VALUE` strings as for `--set`. Raises
    UserError with every problem found.
    """
    places = Places()
    raw = _read_with_parents(find_recipe(recipe), places, ())
    for override in overrides:
        _override(raw, override, places)
    return validate_recipe(raw, registry or Registry(), places)


def find_recipe(recipe: str | Path) -> Path:
    """The file that `recipe` names: a path, or the name of a shipped recipe with or without `.toml`."""
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
            mend=nearest(path.name.removesuffix(".toml"), known) or f"shipped recipes: {', '.join(known)}",
        )
    )


def shipped_recipes() -> dict[str, Path]:
    """The recipes that ship with gantricks, by name."""
    folder = Path(str(files("gantricks.recipes")))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def validate_recipe(raw: Mapping[str, Any], registry: Registry, places: Places | None = None) -> Recipe:
    """Validate plain data against the core's keys and the options of everything it names."""
    return _Validation(raw, registry, places or Places()).recipe()


def _plain(options: Options) -> dict[str, Any]:
    return options.model_dump(mode="json", exclude_none=True)


# ---------------------------------------------------------------- reading and merging


def _read_with_parents(path: Path, places: Places, children: tuple[Path, ...]) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as fault:
        raise UserError(Problem("it is not UTF-8 text", where=str(path))) from fault
    except OSError as fault:
        raise UserError(Problem(f"it cannot be read: {fault.strerror}", where=str(path))) from fault
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as fault:
        line = re.search(r"\(at line (\d+)", str(fault))
        where = f"{path}:{line[1]}" if line else str(path)
        raise UserError(Problem(f"not valid TOML: {fault}", where=where)) from fault
    except (ValueError, RecursionError) as fault:
        raise UserError(Problem(f"no TOML that can be read: {fault}", where=str(path))) from fault
    parent = raw.pop("extends", None)
    merged: dict[str, Any] = {}
    if parent is not None:
        if not isinstance(parent, str):
            raise UserError(Problem('extends names one recipe, such as "dcgan.toml"', where=str(path)))
        merged = _read_with_parents(_find_parent(parent, path, children), places, (*children, path))
    places.add_file(str(path), text)
    return _merge(merged, raw, ())


def _find_parent(parent: str, path: Path, children: tuple[Path, ...]) -> Path:
    beside = path.parent / parent
    shipped = shipped_recipes().get(parent.removesuffix(".toml"))
    found = beside if beside.is_file() else shipped
    if found is None:
        raise UserError(
            Problem(
                f"extends names {parent!r}, which is neither beside this file nor a shipped recipe",
                where=str(path),
                mend=nearest(parent.removesuffix(".toml"), shipped_recipes()),
            )
        )
    if found.resolve() in [child.resolve() for child in (*children, path)]:
        raise UserError(Problem(f"extends goes round in a circle: {parent!r} is its own parent", where=str(path)))
    return found


def _merge(base: dict[str, Any], over: Mapping[str, Any], path: KeyPath) -> dict[str, Any]:
    """Lay `over` on `base`, table by table. Naming another source, network, optimizer, trick or metric starts its own
    options afresh, since those of the former one mean nothing to it.
    """
    merged = dict(base)
    selector = _selector(path)
    if selector and over.get(selector, merged.get(selector)) != merged.get(selector):
        kept = SECTIONS[path[0]].model_fields if len(path) == 1 else ()
        merged = {key: value for key, value in merged.items() if key in kept}
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = _merge(dict(merged[key]), value, (*path, key))
        else:
            merged[key] = value
    return merged


def _selector(path: KeyPath) -> str | None:
    if len(path) == 1:
        return _SELECTORS.get(path[0])
    if len(path) == 2:
        return "use" if path[0] in ("tricks", "evaluate") else "name" if path[1] == "optimizer" else None
    return None


def _override(raw: dict[str, Any], override: str, places: Places) -> None:
    label = legible(f"--set {override}")
    if label != f"--set {override}":
        raise UserError(Problem("it is not UTF-8, as recipes are", label, NAME_IT_ANEW))
    dotted, equals, written = override.partition("=")
    keys = tuple(part.strip() for part in dotted.split("."))
    if not equals or not all(keys):
        raise UserError(Problem("an override is KEY=VALUE, such as train.steps=100", where=label))
    try:
        table = tomllib.loads(f"value = {written}")
        value = table["value"] if len(table) == 1 else written.strip()
    except (ValueError, RecursionError):
        value = written.strip()
    nested: Any = value
    for key in reversed(keys):
        nested = {key: nested}
    merged = _merge(raw, nested, ())
    raw.clear()
    raw.update(merged)
    places.add_override(keys, label)


# ---------------------------------------------------------------- validation


class _Validation:
    """One pass over a recipe that collects every problem."""

    def __init__(self, raw: Mapping[str, Any], registry: Registry, places: Places) -> None:
        self.raw, self.registry, self.places = raw, registry, places
        self.problems: list[Problem] = []
        self.all_found = True

    def recipe(self) -> Recipe:
        tables = (*SECTIONS, "tricks", "evaluate")
        top = self._options(Top, {k: v for k, v in self.raw.items() if k not in tables}, (), known=tables)
        data = self._part("data", DataKeys)
        generator = self._part("generator", GeneratorKeys)
        discriminator = self._part("discriminator", DiscriminatorKeys)
        train = self._options(TrainKeys, self._table("train"), ("train",)) if "train" in self.raw else None
        if "train" not in self.raw:
            self._missing("train", "steps = 3000")
        tricks = tuple(TrickPart(*parts) for parts in self._instances("tricks"))
        evaluate, metrics = self._evaluate()
        recipe = None
        if top and data and generator and discriminator and train and evaluate:
            recipe = Recipe(
                top.name, top.seed, data, generator, discriminator, train, tricks, evaluate, metrics, self.places
            )
        if self.problems or not recipe:
            raise RecipeError(self.problems, recipe if self.all_found else None)
        return recipe

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
        self.problems.append(
            Problem(f"{dotted} must be a table, not {value!r}", self.places.of(*path), f"write [{dotted}]")
        )
        return {}

    def _part(self, section: str, model: type[K]) -> Part[K] | None:
        selector = _SELECTORS[section]
        if section not in self.raw:
            self._missing(section, f'{selector} = "…"')
            return None
        table = self._table(section)
        core = {key: value for key, value in table.items() if key in model.model_fields}
        own = {key: value for key, value in table.items() if key not in model.model_fields}
        keys = self._options(model, core, (section,))
        if not isinstance(table.get(selector), str):
            return None  # its absence is among the problems of the core keys
        found = self._find("data" if section == "data" else "networks", table[selector], (section, selector))
        config = found and self._config_of(section, found)
        if not found or not config:
            return None
        options = self._options(config, own, (section,), known=model.model_fields)
        return Part(keys, found, options) if keys and options is not None else None

    def _config_of(self, section: str, found: Found) -> type[Options] | None:
        if section == "data":
            return found.cls.Config  # type: ignore[attr-defined]
        config: type[Options] | None = getattr(found.cls, f"{section.capitalize()}Config")
        if config is None:
            self.problems.append(
                Problem(f"the network {found.name!r} has no {section}", self.places.of(section, "network"))
            )
        return config

    def _evaluate(self) -> tuple[EvaluateKeys | None, tuple[MetricPart, ...]]:
        if "evaluate" not in self.raw:
            return EvaluateKeys(), ()
        keys = {name: value for name, value in self._table("evaluate").items() if not _is_instance(value)}
        evaluate = self._options(EvaluateKeys, keys, ("evaluate",))
        return evaluate, tuple(MetricPart(*parts) for parts in self._instances("metrics", "evaluate"))

    def _instances(self, kind: str, section: str = "tricks") -> Iterator[tuple[str, Found, Options]]:
        """The name of each table of `section`, what it is an instance of, and its options."""
        if section not in self.raw:
            return
        for name, value in self._table(section).items():
            if value == "off" or (section == "evaluate" and not _is_instance(value)):
                continue
            path = (section, name)
            table = self._table(*path)
            use = table.pop("use", name)
            if not isinstance(use, str):
                self.problems.append(
                    Problem(f"use must be the name of a {SINGULAR[kind]}, not {use!r}", self.places.of(*path, "use"))
                )
                continue
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                self.problems.append(
                    Problem(
                        f"a {SINGULAR[kind]} is named in letters, digits and _, not {name!r}", self.places.of(*path)
                    )
                )
                continue
            if found := self._find(kind, use, path):
                options = self._options(found.cls.Config, table, path, known=("use",))  # type: ignore[attr-defined]
                if options is not None:
                    yield name, found, options

    def _find(self, kind: str, name: str, path: KeyPath) -> Found | None:
        try:
            return self.registry.load(kind, name)
        except UserError as fault:
            for problem in fault.problems:
                where = self.places.of(*path) + (f": {problem.where}" if problem.where else "")
                self.problems.append(Problem(problem.what, where, problem.mend))
            self.all_found = False
            return None

    def _options(self, model: type[K], table: dict[str, Any], path: KeyPath, known: Iterable[str] = ()) -> K | None:
        problems = list(check_options(model, table, known))
        if not problems:
            return self._validated(model, table)
        for keys, what, mend in problems:
            dotted = ".".join((*path, *keys))
            self.problems.append(Problem(f"{dotted}: {what}", self.places.of(*path, *keys), mend))
        # without the wrong keys, the rest can still be looked at for further problems
        wrong = {keys[0] for keys, _, _ in problems if keys}
        rest = {key: value for key, value in table.items() if key not in wrong}
        return self._validated(model, rest) if wrong and not list(check_options(model, rest)) else None

    @staticmethod
    def _validated(model: type[K], table: dict[str, Any]) -> K:
        # as JSON: strict about types as TOML is, while a list may stand for a tuple
        return model.model_validate_json(json.dumps(table, default=str), strict=True)


def _is_instance(value: Any) -> bool:
    """Whether a key of [evaluate] names a metric: its value is a table, or switches one off."""
    return isinstance(value, Mapping) or value == "off"


def check_options(
    model: type[BaseModel], table: Mapping[str, Any], known: Iterable[str] = ()
) -> Iterator[tuple[KeyPath, str, str]]:
    """Every fault of `table` as options of `model`: (path of the key, what is wrong, what to write instead).

    `known`: further keys that may stand in the same table, for the advice on a misspelt one.
    """
    try:
        model.model_validate_json(json.dumps(table, default=str), strict=True)
    except ValidationError as fault:
        seen: dict[KeyPath, list[str]] = {}
        for error in fault.errors():
            if error["type"] == "float_type" and isinstance(error["input"], dict):
                continue  # the number branch of an option that is also a schedule, and a table was written
            keys = tuple(str(part) for part in _shown(error, table))
            if error["type"] == "extra_forbidden":
                yield (*keys,), "unknown key", _advice(model, keys, table, known)
                continue
            message = _message(error)
            if message not in seen.setdefault(keys, []):
                seen[keys].append(message)
        for keys, messages in seen.items():
            description = _description(model, keys)
            yield keys, "; or ".join(messages), f"{keys[-1]}: {description}" if keys and description else ""


def _shown(error: Any, table: Any) -> list[int | str]:
    """The part of a pydantic location that the user wrote: branches of unions are not in the file."""
    shown: list[int | str] = []
    value = table
    for position, part in enumerate(error["loc"]):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and isinstance(part, int):
            value = value[part] if part < len(value) else None
        elif error["type"] == "missing" and position == len(error["loc"]) - 1:
            pass
        else:
            continue
        shown.append(part)
    return shown


def _message(error: Any) -> str:
    if error["type"] == "missing":
        return "this key is missing"
    message = str(error["msg"]).replace("Input should be", "it must be").replace("Value error, ", "")
    shown = error["input"]
    return message if isinstance(shown, dict) else f"{message}, not {json.dumps(shown, default=str)}"


def _advice(model: type[BaseModel], keys: KeyPath, table: Mapping[str, Any], known: Iterable[str]) -> str:
    names = [*_fields(model, keys[:-1], table), *(known if len(keys) == 1 else ())]
    return nearest(keys[-1], names) or (f"known keys: {', '.join(names)}" if names else "it takes no keys")


def _fields(model: type[BaseModel], parents: KeyPath, table: Mapping[str, Any]) -> list[str]:
    schema = model.model_json_schema()
    node: dict[str, Any] = schema
    value: Any = table
    for key in parents:
        value = value.get(key) if isinstance(value, Mapping) else None
        node = _resolve(node.get("properties", {}).get(key, {}), schema, value)
    return list(node.get("properties", {}))


def _resolve(node: dict[str, Any], schema: dict[str, Any], value: Any) -> dict[str, Any]:
    if "discriminator" in node and isinstance(value, Mapping):
        mapping = node["discriminator"]["mapping"]
        chosen = mapping.get(value.get(node["discriminator"]["propertyName"]))
        node = {"$ref": chosen} if chosen else node
    for branch in node.get("anyOf", []):
        if "$ref" in branch:
            node = branch
    if "$ref" in node:
        resolved: dict[str, Any] = schema["$defs"][node["$ref"].rpartition("/")[2]]
        return resolved
    return node


def _description(model: type[BaseModel], keys: KeyPath) -> str:
    described = model.model_fields.get(keys[0]) if len(keys) == 1 else None
    return described.description or "" if described else ""
