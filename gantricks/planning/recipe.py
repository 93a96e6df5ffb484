"""A validated recipe as data, and its text as a file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import tomli_w

from gantricks.catalogue.registry import Found
from gantricks.errors import Problem, UserError
from gantricks.options import Options
from gantricks.planning.keys import DataKeys, DiscriminatorKeys, EvaluateKeys, GeneratorKeys, TrainKeys
from gantricks.planning.recipe_files import Places

K = TypeVar("K", bound=Options)


@dataclass(frozen=True)
class Part(Generic[K]):
    """A section of a recipe: the core's keys, the class that it names, and the options of that class."""

    keys: K
    found: Found
    options: Options


@dataclass(frozen=True)
class TrickPart:
    """A trick of a recipe. `name` is the name of the instance, `found.name` that of the trick."""

    name: str
    found: Found
    options: Options


@dataclass(frozen=True)
class MetricPart:
    """A metric of a recipe. `name` is the name of the instance, `found.name` that of the metric."""

    name: str
    found: Found
    options: Options


@dataclass(frozen=True)
class LoggerPart:
    """A logger of a recipe. `name` is the name of the instance, `found.name` that of the logger."""

    name: str
    found: Found
    options: Options


Instance = TrickPart | MetricPart | LoggerPart


@dataclass(frozen=True)
class Recipe:
    """A validated recipe with all defaults filled in."""

    name: str
    seed: int
    data: Part[DataKeys]
    generator: Part[GeneratorKeys]
    discriminator: Part[DiscriminatorKeys]
    train: TrainKeys
    tricks: tuple[TrickPart, ...] = ()
    evaluate: EvaluateKeys = field(default_factory=EvaluateKeys)
    metrics: tuple[MetricPart, ...] = ()
    loggers: tuple[LoggerPart, ...] = ()
    places: Places = field(default_factory=lambda: Places(), compare=False, repr=False)

    def as_dict(self, *, defaults: bool = True) -> dict[str, Any]:
        """Return the recipe as plain data, in the order and shape of a recipe file. Paths are absolute.

        `defaults=False` leaves out the options that have their default.
        """

        def plain_of(options: Options) -> dict[str, Any]:
            return options.model_dump(mode="json", exclude_none=True, exclude_defaults=not defaults)

        def options(part: Part[Any] | Instance) -> dict[str, Any]:
            plain = plain_of(part.options)
            for key in getattr(part.found.cls, "paths", ()):
                if key in plain:  # a path may be left out
                    plain[key] = str(Path(plain[key]).expanduser().absolute())
            return plain

        def table(part: Part[Any]) -> dict[str, Any]:
            return plain_of(part.keys) | options(part)

        def instances(parts: tuple[Instance, ...]) -> dict[str, Any]:
            return {
                part.name: ({"use": part.found.name} if part.found.name != part.name else {}) | options(part)
                for part in parts
            }

        keys = {
            "name": self.name,
            "seed": self.seed,
            "data": table(self.data),
            "generator": table(self.generator),
            "discriminator": table(self.discriminator),
            "train": plain_of(self.train),
            "evaluate": plain_of(self.evaluate) | instances(self.metrics),
        }
        if self.tricks:
            keys["tricks"] = instances(self.tricks)
        if self.loggers:
            keys["loggers"] = instances(self.loggers)
        return keys

    def as_toml(self) -> str:
        """Return the recipe as TOML, which `load_recipe` reads back to an equal recipe."""
        return tomli_w.dumps(self.as_dict())


class RecipeError(UserError):
    """A recipe with problems. `rest` is the recipe without the wrong keys, or None where too little is left."""

    def __init__(self, problems: list[Problem], rest: Recipe | None) -> None:
        super().__init__(*problems)
        self.rest = rest
