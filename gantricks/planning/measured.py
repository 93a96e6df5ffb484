"""The metrics that suit the data, and those that are measured while a run trains."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from gantricks.catalogue.registry import Found, Registry
from gantricks.errors import Problem, UserError
from gantricks.metrics.base import Metric, obstacles
from gantricks.planning.facts import Facts, PlannedMetric

DEFAULTS: tuple[tuple[set[str], str, dict[str, Any]], ...] = (
    ({"mixture"}, "mixture_coverage", {}),
    ({"images", "classes"}, "frechet_distance", {"extractor": "classifier"}),
    ({"images", "classes"}, "kernel_distance", {"extractor": "classifier"}),
    ({"held_out", "class_logits"}, "held_out_error", {}),
)
"""For each metric that is measured by default: what the recipe must have for it, and the metric's options."""


def suitable(provided: Collection[str], registry: Registry) -> list[PlannedMetric]:
    """Return the metrics that suit a recipe with these capabilities, for one that names none."""
    return [
        at_options(registry.load("metrics", name), options, "the metrics that suit the data")
        for needs, name, options in DEFAULTS
        if needs <= set(provided)
    ]


def at_options(found: Found, options: Mapping[str, Any], place: str) -> PlannedMetric:
    """Return a metric at these options, under its own name."""
    metric: Metric = found.make(found.cls.Config(**options))  # type: ignore[attr-defined]
    return PlannedMetric(found.name, found.name, metric, place)


def while_training(facts: Facts) -> tuple[tuple[PlannedMetric, ...], tuple[str, ...]]:
    """Return the metrics that are measured while the run trains: those of the recipe, or, where it names none, those
    that suit its data; and a sentence for each of the latter that cannot be measured.

    Raises UserError where metrics are to be measured, and none can be.
    """
    every, places = facts.recipe.evaluate.every, facts.recipe.places
    if every == "off":
        return (), ()
    if facts.metrics:
        return facts.metrics, ()
    registry, found, left_out = Registry(installed=False), [], []
    for planned in suitable(facts.evaluation.provided, registry):
        problems = obstacles(planned.metric, facts.evaluation)
        left_out += [f"{planned.name} is not measured: {sentence}" for sentence in problems]
        found += [] if problems else [planned]
    if not found:
        why = "; ".join(left_out) or "none is known to suit its data"
        what = f"metrics are to be measured every {every:,} steps, and the recipe names none: {why}"
        known = ", ".join(sorted(registry.names("metrics")))
        raise UserError(Problem(what, places.of("evaluate", "every"), f"add one as [evaluate.NAME]: {known}"))
    return tuple(found), tuple(left_out)
