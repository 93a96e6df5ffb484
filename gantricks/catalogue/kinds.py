"""The kinds of part that a recipe names: the package and the base class of each."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from types import ModuleType

from gantricks.errors import Problem, UserError

SINGULAR = {
    "tricks": "trick",
    "networks": "network",
    "data": "data source",
    "metrics": "metric",
    "extractors": "extractor",
    "loggers": "logger",
}


PACKAGES = {
    "tricks": "gantricks.plugins",
    "networks": "gantricks.networks",
    "data": "gantricks.data",
    "metrics": "gantricks.metrics",
    "extractors": "gantricks.metrics.extractors",
    "loggers": "gantricks.loggers",
}


BASES = {
    "tricks": ("gantricks.trick", "Trick"),
    "networks": ("gantricks.networks.base", "Network"),
    "data": ("gantricks.data.base", "Source"),
    "metrics": ("gantricks.metrics.base", "Metric"),
    "extractors": ("gantricks.metrics.extractors.base", "Extractor"),
    "loggers": ("gantricks.loggers.base", "Logger"),
}


TO_USE = {
    "tricks": "[tricks.{}]",
    "networks": 'network = "{}" to [generator] or [discriminator]',
    "data": 'source = "{}" to [data]',
    "metrics": "[evaluate.{}]",
    "loggers": "[loggers.{}]",
}
"""How a recipe uses a part from a file. Extractors are missing: they are named in the options of metrics, which accept
no files.
"""


def base_of(kind: str) -> type:
    module, name = BASES[kind]
    base: type = getattr(importlib.import_module(module), name)
    return base


def classes_of(kind: str, module: ModuleType) -> list[type]:
    if BASES[kind][0] not in sys.modules:  # otherwise no class can be derived from it
        return []
    base = base_of(kind)
    return [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, base)
        and value is not base
        and value.__module__ == module.__name__
    ]


def only(kind: str, found: list[type], where: str) -> type:
    if len(found) != 1:
        names = ", ".join(cls.__name__ for cls in found) or "none"
        raise UserError(
            Problem(
                f"a {SINGULAR[kind]} file defines exactly one {BASES[kind][1]} class; this one defines {names}", where
            )
        )
    return found[0]
