"""A tiny run for one trick, or a few: small networks, made-up data, no files. All hook calls and phases are
recorded.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from gantricks.catalogue.kinds import classes_of
from gantricks.catalogue.registry import Registry
from gantricks.data.base import Dataset, Description, Progress, Source, silent
from gantricks.engine.game import Game
from gantricks.engine.start import assemble, build
from gantricks.engine.subject import measure
from gantricks.errors import UserError
from gantricks.hooks import hookimpl
from gantricks.metrics.base import Measurement, Metric, Subject
from gantricks.options import Options
from gantricks.planning.device import place
from gantricks.planning.plan import Plan, make_plan
from gantricks.planning.recipe import Recipe
from gantricks.planning.validation import validate_recipe
from gantricks.records import Batch, Out
from gantricks.testing.record import Call, Played, record_phases, recorded, snapshot
from gantricks.trick import Trick


@dataclass(frozen=True)
class TrickHost:
    """Describes a tiny run. `with_trick` and `with_metric` add to it; `train` plays it.

    `sample` is the shape of one sample: (D,) plays on vectors with the `mlp` network, (C, H, W) on images with `dcgan`.
    `generator` and `discriminator` are further options of the networks. `precision` is "fp64", "fp32" or "bf16".
    `evaluated` is the number of samples that metrics use, `condition` the number of numbers that describe each sample.
    `every` is the number of steps from one measurement to the next, for the hook `on_metrics`; None: no measurements.
    """

    sample: tuple[int, ...] = (2,)
    classes: int = 0
    condition: int = 0
    count: int = 40
    batch_size: int = 8
    latent_dim: int = 4
    steps: int = 8
    seed: int = 0
    n_critic: int = 1
    reuse_fakes: bool = True
    precision: str = "fp64"
    device: str = "cpu"
    generator: Mapping[str, Any] = field(default_factory=dict)
    discriminator: Mapping[str, Any] = field(default_factory=dict)
    optimizer: Mapping[str, Any] = field(default_factory=lambda: {"name": "adam", "lr": 1e-2})
    tricks: tuple[tuple[str, str | type[Trick], Mapping[str, Any]], ...] = ()
    metrics: tuple[tuple[str, str | type[Metric], Mapping[str, Any]], ...] = ()
    evaluated: int = 64
    every: int | None = None

    @classmethod
    def for_trick(cls, *tricks: Trick | type[Trick], **changes: Any) -> TrickHost:
        """Return the smallest host that provides what these tricks need. The tricks are not added to it. Classes are
        asked for their needs at their `trial` options.
        """
        instances = [made(trick, trick.trial) if isinstance(trick, type) else trick for trick in tricks]
        needs = {need for trick in instances for need in trick.needs}
        needs -= {provided for trick in instances for provided in trick.provides}
        wants_images = any(
            need.endswith(("_batch_norm", "_convolutions", "_styles", "_stages")) or need == "images" for need in needs
        )
        wants_classes = any(need.endswith("_conditional") or need == "classes" for need in needs)
        options: dict[str, Any] = {"sample": (1, 8, 8) if wants_images else (2,), "classes": 3 if wants_classes else 0}
        options["condition"] = 3 if any(need.endswith(("_conditioned", "conditions")) for need in needs) else 0
        for role in ("generator", "discriminator"):
            options[role] = {key: True for key in ("conditional", "conditioned") if f"{role}_{key}" in needs}
            if wants_images:
                # two halvings, because D's first block never has batch norm
                options[role] |= {"batch_norm": f"{role}_batch_norm" in needs, "depth": 2}
        for key in ("conditional", "conditioned"):
            if f"discriminator_{key}" in needs:
                options["generator"][key] = True
        if "generator_styles" in needs:
            options["generator"].pop("batch_norm")
            options["generator"] |= {"network": "style", "style_dim": 4, "mapping_layers": 2}
        elif "generator_two_stages" in needs:
            options["generator"] |= {"network": "stackgan", "blocks": 1, "first": {"channels": 4}}
            del options["generator"]["depth"]
        if "discriminator_max_pool" in needs:
            # with 4 channels, or at 8x8, all units of a small D can be dead at the start
            options["discriminator"] |= {"network": "resnet", "pool": "max", "channels": 8}
            options["sample"] = (1, 8, 12)
        host = cls(**(options | changes))
        if "separate_passes" in needs:
            host = host.with_trick(SeparatePasses)
        if needs & {"metric", "measurements"}:
            host = host.with_metric(Spread)
        return host.but(every=2) if "measurements" in needs else host

    def with_trick(self, trick: str | type[Trick], name: str | None = None, **options: Any) -> TrickHost:
        """Return this host with one more trick, by name or by class, as the instance `name`."""
        return replace(self, tricks=(*self.tricks, (name or name_of(trick), trick, options)))

    def with_metric(self, metric: str | type[Metric], name: str | None = None, **options: Any) -> TrickHost:
        """Return this host with one more metric in `[evaluate]`, for `ctx.evaluate`."""
        return replace(self, metrics=(*self.metrics, (name or name_of(metric), metric, options)))

    def but(self, **changes: Any) -> TrickHost:
        """Return this host with other settings."""
        return replace(self, **changes)

    def recipe(self) -> Recipe:
        """Return the recipe of this run. Raises UserError where an option is wrong."""
        network = "dcgan" if len(self.sample) == 3 else "mlp"
        tricks, given_tricks = _tables(self.tricks)
        metrics, given_metrics = _tables(self.metrics)
        raw = {
            "name": "host",
            "seed": self.seed,
            "data": {
                "source": "made_up",
                "sample": list(self.sample),
                "classes": self.classes,
                "condition": self.condition,
                "count": self.count,
                "batch_size": self.batch_size,
            },
            "generator": {
                **_small("generator", {"network": network, **self.generator}),
                "latent_dim": self.latent_dim,
                "optimizer": dict(self.optimizer),
                **self.generator,
            },
            "discriminator": {
                **_small("discriminator", {"network": network, **self.discriminator}),
                "optimizer": dict(self.optimizer),
                **self.discriminator,
            },
            "train": {
                "steps": self.steps,
                "n_critic": self.n_critic,
                "reuse_fakes": self.reuse_fakes,
                "precision": self.precision,
                "device": self.device,
            },
            "tricks": tricks,
            "evaluate": {"samples": self.evaluated, "every": self.every or "off", **metrics},
        }
        given: dict[str, dict[str, type]] = {"data": {"made_up": MadeUp}}
        given |= {"tricks": given_tricks, "metrics": given_metrics}
        registry = Registry(given=given)
        return validate_recipe(raw, registry)

    def plan(self) -> Plan:
        """Return the plan of this run. Raises UserError with every problem found."""
        return make_plan(self.recipe())

    def game(self, calls: dict[str, list[Call]] | None = None) -> Game:
        """Return the game before its first step. Every hook call is recorded in `calls`, by hook, where that is
        given.
        """
        plan = self.plan()
        train = plan.recipe.train
        game = assemble(plan, plan.source.load(), place(train.device, train.precision))
        if calls is not None:
            game.hooks = recorded(game.hooks, calls)
        build(game)
        if plan.measured:
            game.advance = partial(_advance_and_measure, game)  # type: ignore[method-assign]
        return game

    def train(self, steps: int | None = None) -> Played:
        """Play `steps` steps, by default all, and record every hook call and every phase. A trick may stop the run
        earlier.
        """
        calls: dict[str, list[Call]] = defaultdict(list)
        game = self.game(calls)
        played = Played(game, calls, snapshot(game))
        record_phases(played)
        with game.training():
            for _ in range(self.steps if steps is None else steps):
                if not game.advance():
                    break
                played.scalars.append(game.scalars()[0])
        return played


def _advance_and_measure(game: Game) -> bool:
    """Play one step, and measure the metrics where a run does."""
    advanced = Game.advance(game)
    if advanced and (game.plan.recipe.evaluate.due(game.finished) or game.finished == game.steps):
        game.measured(measure(game)[0])
    return advanced


def made(trick: type[Trick], options: Mapping[str, Any]) -> Trick:
    """Return an instance of the trick at these options, made as in a run. Raises UserError where an option is wrong."""
    (part,) = TrickHost().with_trick(trick, **options).recipe().tricks
    instance: Trick = part.found.cls(part.options)
    return instance


def name_of(used: str | type) -> str:
    """Return the name of this class in a recipe.

    A shipped trick or one in a file of its own has the file's name, an installed one that of its entry point, any other
    the class's name in snake case.
    """
    if isinstance(used, str):
        return used
    kind = "metrics" if issubclass(used, Metric) else "tricks"
    module = sys.modules.get(used.__module__, ModuleType("gone"))
    stem = Path(getattr(module, "__file__", None) or "").stem
    if used.__module__.startswith(("gantricks.plugins.", "gantricks.metrics.", "gantricks_local_plugin_")):
        return stem
    for point in entry_points(group=f"gantricks.{kind}"):
        within = used.__module__ == point.module or used.__module__.startswith(f"{point.module}.")
        if point.attr == used.__qualname__ and within:
            return point.name
    ordinary = stem.isidentifier() and not stem.startswith(("_", "test_", "conftest")) and module.__name__ != "__main__"
    if ordinary and classes_of(kind, module) == [used]:  # a file that --plugin would accept
        return stem
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", used.__name__).lower()


def _small(role: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options for a tiny network, of those that this network has."""
    try:
        network: Any = Registry().load("networks", options["network"]).cls
    except UserError:
        return {"network": options["network"]}  # the recipe says what is wrong with it
    config = getattr(network, f"{role.capitalize()}Config")
    known = config.model_fields if config else {}
    tiny = {"channels": 4, "hidden": [8, 8]} if network.__module__.startswith("gantricks.") else {}
    return {"network": options["network"]} | {key: value for key, value in tiny.items() if key in known}


def _tables(
    instances: Iterable[tuple[str, str | type, Mapping[str, Any]]],
) -> tuple[dict[str, dict[str, Any]], dict[str, type]]:
    """Return the recipe tables of these instances, and the classes that they use, by the instance's name."""
    given = {name: used for name, used, _ in instances if isinstance(used, type)}
    return {name: {"use": name if name in given else used, **options} for name, used, options in instances}, given


class MadeUp(Source):
    """Random samples that are a function of the options."""

    class Config(Options):
        sample: tuple[int, ...] = (2,)
        classes: Annotated[int, Field(ge=0)] = 0
        condition: Annotated[int, Field(ge=0)] = 0
        count: Annotated[int, Field(ge=1)] = 40

    config: Config

    def describe(self) -> Description:
        names = tuple(str(i) for i in range(self.config.classes))
        return Description(tuple(self.config.sample), self.config.count, names, condition=self.config.condition)

    def load(self, progress: Progress = silent) -> Dataset:
        draw = np.random.default_rng(0)
        count, sample = self.config.count, self.config.sample
        classes = np.arange(count, dtype=np.int64) % self.config.classes if self.config.classes else None
        if len(sample) == 3:
            channels, height, width = sample
            samples: np.ndarray = draw.integers(0, 256, (count, height, width, channels), dtype=np.uint8)
        else:
            samples = draw.standard_normal((count, *sample)).astype(np.float32)
        described = self.config.condition
        conditions = draw.standard_normal((count, described)).astype(np.float32) if described else None
        return Dataset(samples, classes, conditions=conditions)


class Spread(Metric):
    """The mean distance of samples from their mean, for tricks that need a metric."""

    figures: ClassVar = {"spread": "higher"}

    def measure(self, subject: Subject) -> Measurement:
        samples = np.concatenate([images for images, _ in subject.generated(subject.samples)])
        return Measurement({"spread": float(samples.std(0).mean())})


class SeparatePasses(Trick):
    """Scores reals and fakes in two passes of D, for tricks that need it."""

    provides = {"separate_passes"}

    @hookimpl
    def d_scores(self, real: Batch, fake: Batch, ctx: Any) -> tuple[Out, Out]:
        return ctx.discriminator(*real), ctx.discriminator(*fake)
