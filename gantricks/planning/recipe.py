"""Recipes: TOML to a validated `Recipe`. Every mistake is reported with its file and line, all of them at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import tomli_w
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

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
from gantricks.planning.optimizers import Adam, Optimizer
from gantricks.planning.recipe_files import Places, find_recipe, read_recipe, shipped_recipes

__all__ = [
    "SECTIONS",
    "DataKeys",
    "DiscriminatorKeys",
    "EvaluateKeys",
    "GeneratorKeys",
    "MetricPart",
    "Part",
    "Recipe",
    "RecipeError",
    "Top",
    "TrainKeys",
    "TrickPart",
    "find_recipe",
    "load_recipe",
    "shipped_recipes",
    "validate_recipe",
]

KeyPath = tuple[str, ...]
K = TypeVar("K", bound=Options)

LISTED = 20
"""How many unknown names of one table are told one by one."""
INSTANCES = 100
"""How many tricks, and how many metrics, a recipe may have."""
MOST_STEPS = 1_000_000_000


def _in_words(pattern: str, refusal: Callable[[str], str]) -> AfterValidator:
    """A text of this form; of any other, `refusal` says what is wrong."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise PydanticCustomError("form", "{words}", {"words": refusal(text)})
        return text

    return AfterValidator(check)


def _name_refusal(text: str) -> str:
    what = "a name is made of letters from A to Z, digits, ., _ and -, and begins with a letter or a digit"
    mended = re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._-")
    return f"{what}, not {shown(text)}" + (f"; write {shown(mended)}" if mended and len(text) <= 60 else "")


def _device_refusal(text: str) -> str:
    numbers = re.findall(r"\d+", text)
    if re.fullmatch(r"(cuda:)?\d+(\s*,\s*(cuda:)?\d+)+", text.strip()):
        hint = f"a run computes on one device; write cuda:{int(numbers[0][:3])}"
    elif text.strip().isdigit():
        hint = f"write cuda:{int(numbers[0][:3])}"
    elif text.strip().lower() in ("gpu", "nvidia", "cuda:", "cuda0", "rocm", "hip"):
        hint = "write cuda, or cuda:0 for the first of several"
    elif text.strip().lower() in ("mps", "metal", "xpu", "tpu", "xla", "npu", "hpu", "vulkan", "dml"):
        hint = "gantricks computes on CPUs and CUDA devices; write cpu"
    else:
        hint = "write auto, cpu, cuda or cuda:N"
    return f"there is no device {shown(text)}; {hint}"


_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_DEVICE = r"auto|cpu|cuda(:\d{1,3})?"


class Top(Options):
    """The keys above the first table."""

    name: Annotated[
        str,
        Field(
            max_length=100,
            description="the run's folder is named for it",
            json_schema_extra={"pattern": f"^{_NAME}$"},
        ),
        _in_words(_NAME, _name_refusal),
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

    steps: Annotated[int, Field(ge=1, le=MOST_STEPS, description="generator updates")]
    schedule_steps: Annotated[
        int | None,
        Field(
            ge=1, le=MOST_STEPS, description="steps that schedules run over, to rest then at their end; left out: all"
        ),
    ] = None
    n_critic: Annotated[int, Field(ge=1, le=1000, description="D steps per G step")] = 1
    reuse_fakes: Annotated[bool, Field(description="the last D step and the G step share one generator forward")] = True
    device: Annotated[
        str,
        Field(description="auto, cpu, cuda or cuda:N", json_schema_extra={"pattern": f"^({_DEVICE})$"}),
        _in_words(_DEVICE, _device_refusal),
    ] = "auto"
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp64"], Field(description="bf16 is autocast; fp64 is for tests")
    ] = "auto"
    capture: Annotated[
        Literal["auto", "on", "off"],
        Field(description="play the step as one compiled call; auto: on a GPU, and in runs long enough to repay it"),
    ] = "auto"
    log_every: Annotated[int, Field(ge=1, le=MOST_STEPS, description="steps between two lines of metrics.jsonl")] = 50
    sample_every: Annotated[int, Field(ge=1, le=MOST_STEPS, description="steps between two pictures")] = 500
    checkpoint_every: Annotated[int, Field(ge=1, le=MOST_STEPS, description="steps between two checkpoints")] = 500
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


def load_recipe(
    recipe: str | Path,
    overrides: Iterable[str] = (),
    registry: Registry | None = None,
) -> Recipe:
    """Read, merge and validate a recipe.

    `recipe` is a file, or the name of a shipped recipe. `overrides` are `KEY=VALUE` strings as for `--set`. Raises
    UserError with every problem found.
    """
    read = read_recipe(recipe, overrides, SECTIONS | {"evaluate": EvaluateKeys}, _SELECTORS)
    return _Validation(read.table, registry or Registry(), read.places, read.problems).recipe()


def validate_recipe(raw: Mapping[str, Any], registry: Registry, places: Places | None = None) -> Recipe:
    """Validate plain data against the core's keys and the options of everything it names."""
    return _Validation(raw, registry, places or Places()).recipe()


def _plain(options: Options) -> dict[str, Any]:
    return options.model_dump(mode="json", exclude_none=True)


# ---------------------------------------------------------------- validation


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
        """What the keys of each table are read as, as far as that is known."""
        self.misspelt: list[tuple[int, KeyPath, str]] = []
        """Unknown keys: which problem they are, and the advice that their own table gives."""

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
        self._advise()
        recipe = None
        if top and data and generator and discriminator and train and evaluate:
            recipe = Recipe(
                top.name, top.seed, data, generator, discriminator, train, tricks, evaluate, metrics, self.places
            )
        if self.problems or not recipe:
            raise RecipeError(self.problems, recipe if self.all_found else None)
        return recipe

    def _report(self, path: KeyPath, what: str, hint: str = "", place: str = "") -> None:
        dotted = shortened(".".join(path), 120)
        self.problems.append(Problem(f"{dotted}: {what}" if dotted else what, place or self.places.of(*path), hint))

    def _leave_out(self, path: KeyPath) -> None:
        """Take a key out of the recipe, or the list that it is in, and leave the caller's table as it is."""
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
        selector = _SELECTORS[section]
        if section not in self.raw:
            self._missing(section, f'{selector} = "…"')
            return None
        table = self._table(section)
        core = {key: value for key, value in table.items() if key in model.model_fields}
        own = {key: value for key, value in table.items() if key not in model.model_fields}
        keys = self._options(model, core, (section,))
        name = self._text(table.get(selector), section, selector)
        if not isinstance(name, str):
            return None  # its absence is among the problems of the core keys
        found = self._find("data" if section == "data" else "networks", name, (section, selector))
        config = found and self._config_of(section, found)
        if not found or not config:
            return None
        options = self._options(config, own, (section,), known=model.model_fields)
        if options is not None and not self._homes(found, options, section):
            return None
        return Part(keys, found, options) if keys and options is not None else None

    def _homes(self, found: Found, options: Options, section: str) -> bool:
        """Whether every path that begins with ~ names a home folder that there is."""
        known = True
        for key in getattr(found.cls, "paths", ()):
            try:
                Path(getattr(options, key)).expanduser()
            except RuntimeError:
                self._report((section, key), "there is no such home folder", "write the path in full")
                known = False
        return known

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
        keys = {name: value for name, value in self._table("evaluate").items() if not _is_instance(name, value)}
        evaluate = self._options(EvaluateKeys, keys, ("evaluate",))
        return evaluate, tuple(MetricPart(*parts) for parts in self._instances("metrics", "evaluate"))

    def _instances(self, kind: str, section: str = "tricks") -> Iterator[tuple[str, Found, Options]]:
        """The name of each table of `section`, what it is an instance of, and its options."""
        if section not in self.raw:
            return
        table = self._table(section)
        names = [
            name
            for name, value in table.items()
            if value != "off" and (section == "tricks" or _is_instance(name, value))
        ]
        if len(names) > INSTANCES:
            what = f"{len(names):,} {kind} are more than a recipe can have, which is {INSTANCES}"
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
                    if config is not None:
                        yield name, found, config

    def _find(self, kind: str, name: str, path: KeyPath) -> Found | None:
        try:
            return self.registry.load(kind, name)
        except UserError as error:
            for problem in error.problems:
                where = self.places.of(*path) + (f": {problem.where}" if problem.where else "")
                named = published.advice(name, index()["metrics"]) if kind == "metrics" else ""
                self.problems.append(Problem(shortened(problem.what, 200), where, named or problem.hint))
            self.all_found = False
            return None

    def _text(self, value: Any, *path: str) -> Any:
        """A value whose key is a text: what an override has for it is taken as it is written."""
        written = self.places.text_of(*path)
        return value if isinstance(value, str) or value is None or written is None else written

    def _options(self, model: type[K], table: dict[str, Any], path: KeyPath, known: Iterable[str] = ()) -> K | None:
        self.models[path] = model
        table = self._with_texts(model, table, path)
        errors = list(check_options(model, table, known, LISTED))
        if not errors:
            return validated(model, table)
        unknown = 0
        for keys, what, hint in errors:
            unknown += what == UNKNOWN
            if what != UNKNOWN or unknown <= LISTED:
                if what == UNKNOWN:
                    self.misspelt.append((len(self.problems), (*path, *keys), hint))
                self._report((*path, *keys), what, hint, "" if keys or not path else self.places.about(what, path))
        if unknown > LISTED:
            self._report(path, f"and {unknown - LISTED:,} more unknown keys")
        # without the wrong keys, the rest can still be looked at for further problems
        wrong = {keys[0] for keys, _, _ in errors if keys}
        rest = {key: value for key, value in table.items() if key not in wrong}
        return validated(model, rest) if wrong and not any(check_options(model, rest)) else None

    def _with_texts(self, model: type[Options], table: dict[str, Any], path: KeyPath) -> dict[str, Any]:
        """The table with the written text of each override whose key is a text, whatever TOML makes of it."""
        written = {key: text for key in table if (text := self.places.text_of(*path, key)) is not None}
        if not any(not isinstance(table[key], str) for key in written):
            return table
        wanted = texts_wanted(model, table)
        return {key: written[key] if key in written and (key,) in wanted else value for key, value in table.items()}

    # ------------------------------------------------------------ advice on names that stand in the wrong table

    def _advise(self) -> None:
        """A key that is known in another table may have been meant there."""
        if not self.misspelt:
            return
        elsewhere = self._elsewhere()
        for position, path, advice in self.misspelt:
            exact = [dotted for dotted in elsewhere.get(path[-1], ()) if dotted != ".".join(path)]
            if not exact and not advice.startswith("did you mean"):
                exact = elsewhere.get(closest(path[-1][:100], elsewhere) or "", [])
            if exact:
                problem = self.problems[position]
                hint = f"did you mean {' or '.join(exact[:4])}?"
                self.problems[position] = Problem(problem.what, problem.where, hint)

    def _elsewhere(self) -> dict[str, list[str]]:
        """Every key that this recipe could have below its top, with its full names; tricks and metrics are such."""
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
        for path, model in self.models.items():
            if path:
                add(model, path)
        add(EvaluateKeys, ("evaluate",))
        for kind, section in (("tricks", "tricks"), ("metrics", "evaluate")):
            for name in self.registry.names(kind):
                found.setdefault(name, []).append(f"{section}.{name}")
        return found


def _is_instance(name: str, value: Any) -> bool:
    """Whether a key of [evaluate] names a metric: its value is a table, or switches one off."""
    return name not in EvaluateKeys.model_fields and (isinstance(value, Mapping) or value == "off")
