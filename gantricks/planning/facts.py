"""The instances of a recipe's parts, and facts about them that are known before a tensor exists."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from gantricks.data.base import Description, Source
from gantricks.data.mixtures import Mixture
from gantricks.loggers.base import Logger
from gantricks.metrics.base import EvaluationFacts, Metric, compared
from gantricks.planning.contract import hooks_of
from gantricks.planning.recipe import Recipe
from gantricks.trick import Setting, Trick

if TYPE_CHECKING:
    from gantricks.networks.base import Shapes

ROLES = ("generator", "discriminator")


@dataclass(frozen=True)
class PlannedTrick:
    """An instance of a trick in a recipe. `place` is the line or override that names it."""

    name: str
    use: str
    trick: Trick
    origin: str
    place: str


@dataclass(frozen=True)
class PlannedMetric:
    """An instance of a metric in a recipe. `place` is the line or override that names it."""

    name: str
    use: str
    metric: Metric
    place: str


@dataclass(frozen=True)
class PlannedLogger:
    """An instance of a logger in a recipe."""

    name: str
    use: str
    logger: Logger
    origin: str


@dataclass(frozen=True)
class Facts:
    """A recipe, the instances of its parts, and the description of its data."""

    recipe: Recipe
    source: Source
    description: Description
    tricks: tuple[PlannedTrick, ...]
    metrics: tuple[PlannedMetric, ...]
    begins: bool = True

    @cached_property
    def shapes(self) -> Shapes:
        from gantricks.networks.base import Shapes

        description = self.description
        latent_dim = self.recipe.generator.keys.latent_dim
        return Shapes(description.shape, latent_dim, description.classes, description.condition)

    @cached_property
    def able(self) -> Mapping[str, Collection[str]]:
        """The capabilities of each network, by role."""
        parts = {role: getattr(self.recipe, role) for role in ROLES}
        return {role: part.found.cls.capabilities(role, part.options, self.shapes) for role, part in parts.items()}

    @cached_property
    def provided(self) -> frozenset[str]:
        """The capabilities that the recipe provides to tricks."""
        provided = {"input_grad"}
        if not any("adversarial_loss" in hooks_of(type(planned.trick)) for planned in self.tricks):
            from gantricks.losses import NonSaturating

            provided |= NonSaturating.provides
        if self.description.classes:
            provided.add("classes")
        if self.description.condition:
            provided.add("conditions")
        if self.description.is_images:
            provided.add("images")
        if self.recipe.metrics:
            provided.add("metric")
        if self.recipe.evaluate.every != "off":
            provided.add("measurements")
        provided |= {f"{role}_{name}" for role, able in self.able.items() for name in able}
        for planned in self.tricks:
            provided |= set(planned.trick.provides)
        return frozenset(provided)

    @cached_property
    def evaluation(self) -> EvaluationFacts:
        """The facts that metrics may use."""
        provided = set(self.provided)
        if not self.description.is_images:
            provided.add("vectors")
        if self.description.held_out:
            provided.add("held_out")
        if isinstance(self.source, Mixture):
            provided.add("mixture")
        held_out = self.recipe.evaluate.reals == "held_out"
        return EvaluationFacts(
            self.recipe.evaluate.samples,
            self.source,
            compared(self.description, held_out),
            frozenset(provided),
            held_out,
        )

    @cached_property
    def setting(self) -> Setting:
        """The facts that tricks may use."""
        recipe, description = self.recipe, self.description
        setting = Setting(
            shape=description.shape,
            count=description.count,
            classes=description.classes,
            condition=description.condition,
            batch_size=recipe.data.keys.batch_size,
            batch_sizes=(recipe.data.keys.batch_size,),
            latent_dim=recipe.generator.keys.latent_dim,
            steps=recipe.train.steps,
            n_critic=recipe.train.n_critic,
            generator=recipe.generator.options,
            discriminator=recipe.discriminator.options,
            generator_maps=self._maps("generator"),
            discriminator_maps=self._maps("discriminator"),
            group=group(self.tricks),
            begins=self.begins,
            metrics={planned.name: next(iter(planned.metric.figures.values())) for planned in self.metrics},
        )
        set_by_tricks = sorted({size for planned in self.tricks for size in planned.trick.batch_sizes(setting)})
        return replace(setting, batch_sizes=tuple(set_by_tricks)) if set_by_tricks else setting

    def _maps(self, role: str) -> tuple[tuple[int, int], ...]:
        part = getattr(self.recipe, role)
        # a network that does not fit the data is reported elsewhere
        fits = not part.found.cls.problems(role, part.options, self.shapes)
        return tuple(part.found.cls.maps(role, part.options, self.shapes)) if fits else ()


def parameters(recipe: Recipe, shapes: Shapes) -> dict[str, int]:
    """Return the number of parameters of each network. Nothing is allocated."""
    import torch

    from gantricks.networks.base import count_parameters

    counts = {}
    for role in ROLES:
        part = getattr(recipe, role)
        with torch.device("meta"):
            counts[role] = count_parameters(getattr(part.found.cls, role)(part.options, shapes))
    return counts


def group(tricks: Collection[PlannedTrick]) -> int:
    """Return the number of samples that D judges at once."""
    return max((planned.trick.group for planned in tricks), default=1)
