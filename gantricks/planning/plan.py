"""From a recipe to a plan: which trick acts on which hook, in which order, and everything that cannot work together."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pluggy

from gantricks.data.base import Description, Source
from gantricks.data.mixtures import Mixture
from gantricks.errors import Problem, TrickError, UserError, nearest
from gantricks.hooks import KINDS, HookSpecs
from gantricks.metrics.base import EvaluationFacts, Metric, obstacles
from gantricks.planning.keys import DataKeys
from gantricks.planning.recipe import Part, Recipe
from gantricks.planning.recipe_files import Places
from gantricks.trick import CAPABILITIES, Setting, Trick

if TYPE_CHECKING:
    from gantricks.engine.context import Context
    from gantricks.networks.base import Shapes

HookTuple = tuple[tuple[Callable[..., Any], "Context"], ...]


@dataclass(frozen=True)
class PlannedTrick:
    """An instance of a trick in a recipe; `place` is where the recipe names it."""

    name: str
    use: str
    trick: Trick
    origin: str
    place: str


@dataclass(frozen=True)
class PlannedMetric:
    """An instance of a metric in a recipe; `place` is where the recipe names it."""

    name: str
    use: str
    metric: Metric
    place: str


@dataclass(frozen=True)
class Plan:
    """A recipe whose tricks are known to fit together. `on` lists, for each hook in use, the tricks on it in order;
    `facts` are what `metrics` can know of it.
    """

    recipe: Recipe
    source: Source
    description: Description
    shapes: Shapes
    tricks: tuple[PlannedTrick, ...]
    on: dict[str, tuple[str, ...]]
    metrics: tuple[PlannedMetric, ...]
    facts: EvaluationFacts
    warnings: tuple[str, ...] = ()

    @property
    def convolutions(self) -> bool:
        """Whether both networks have convolutions."""
        parts = (("generator", self.recipe.generator), ("discriminator", self.recipe.discriminator))
        return all(
            "convolutions" in part.found.cls.capabilities(role, part.options, self.shapes)  # type: ignore[attr-defined]
            for role, part in parts
        )

    @property
    def group(self) -> int:
        """How many samples D judges at once."""
        return _group(self.tricks)

    def parameters(self) -> dict[str, int]:
        """How many parameters each network has before any trick's surgery; nothing is allocated."""
        return _parameters(self.recipe, self.shapes)

    @property
    def multiply_adds(self) -> int | None:
        """How many multiply–adds the larger network's pass over a batch takes: one for each weight and sample. None
        with convolutions, which use a weight many times.
        """
        return None if self.convolutions else max(self.parameters().values()) * self.recipe.data.keys.batch_size

    def any_trick(self, fact: str, value: str) -> bool:
        """Whether any trick's `needs`, `provides` or `replaces` (`fact`) holds `value`."""
        return any(value in getattr(planned.trick, fact) for planned in self.tricks)


class Hooks:
    """Every hook of one run, frozen: an attribute per hook, a tuple of (function, context) in recipe order."""

    def __init__(self, **implementations: HookTuple) -> None:
        for hook in KINDS:
            setattr(self, hook, implementations.get(hook, ()))

    if TYPE_CHECKING:

        def __getattr__(self, hook: str) -> HookTuple: ...


def make_plan(
    recipe: Recipe, warnings: Collection[str] = (), *, to_train: bool = True, trained: Description | None = None
) -> Plan:
    """Instantiate the recipe's tricks and metrics and check everything that can be known before a tensor exists.

    A run that is only to be looked at (`to_train` is false) is not refused for a metric that nobody asks for. `trained`
    describes the data that a run was trained on, in place of the source, which is not asked then. Raises UserError with
    every problem found.
    """
    return _Planning(recipe).plan(warnings, to_train, trained)


def describe(source: Source, places: Places) -> Description:
    """What the source says of its data. Raises UserError, with the key of the recipe that says where the data is."""
    try:
        return source.describe()
    except UserError as error:
        place = places.of_any(*(("data", key) for key in source.paths[:1]), ("data", "source"))
        problems = [Problem(p.what, f"{place}: {p.where}".rstrip(": "), p.hint) for p in error.problems]
        raise UserError(*problems) from error


def on_data(plan: Plan, description: Description) -> Plan:
    """The plan of a run that is to be measured on this data. Raises UserError where samples or classes are not of the
    form of those that the run was trained on."""
    trained, problems = plan.description, []
    where = plan.recipe.places.of("data", *plan.source.paths[:1])
    if description.shape != trained.shape:
        what = f"the samples are {_size(description)}, and the run was trained on {_size(trained)}"
        problems.append(Problem(what, where, "set the keys of [data] so that they are the same"))
    if description.classes != trained.classes:
        what = f"the data has {description.classes} classes, and the run was trained on {trained.classes}"
        problems.append(Problem(what, where, "set the keys of [data] to data with as many classes"))
    if problems:
        raise UserError(*problems)
    provided = (plan.facts.provided - {"held_out"}) | ({"held_out"} if description.held_out else set())
    return replace(plan, description=description, facts=replace(plan.facts, description=description, provided=provided))


def _size(description: Description) -> str:
    return " × ".join(map(str, description.shape))


class _Planning:
    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.places = recipe.places
        self.problems: list[Problem] = []

    def plan(self, warnings: Collection[str], to_train: bool, trained: Description | None) -> Plan:
        recipe = self.recipe
        tricks = tuple(
            PlannedTrick(
                part.name,
                part.found.name,
                part.found.make(part.options),
                part.found.origin,
                self.places.of("tricks", part.name),
            )
            for part in recipe.tricks
        )
        metrics = tuple(
            PlannedMetric(
                part.name, part.found.name, part.found.make(part.options), self.places.of("evaluate", part.name)
            )
            for part in recipe.metrics
        )
        source: Source = recipe.data.found.make(recipe.data.options)
        description = trained
        if not trained:
            try:
                description = describe(source, self.places)
            except UserError as error:
                self.problems += error.problems
        on = self._hooks(tricks)
        self._choices(on)
        self._replacements(tricks)
        if description:
            self._networks(self._shapes(description))
            setting = self._setting(tricks, metrics, description)
            self._batch_size(description)
            self._single_samples(tricks, self._shapes(description), setting)
            self._needs(tricks, description)
            for planned in tricks:
                for sentence in planned.trick.problems(setting):
                    place = self.places.about(sentence, ("tricks", planned.name))
                    self.problems.append(Problem(f"{planned.name}: {sentence}", place))
            facts = self._evaluation_facts(tricks, source, description)
            for measured in metrics if to_train else ():
                for sentence in obstacles(measured.metric, facts):
                    place = self.places.about(sentence, ("evaluate", measured.name), ("data", "source"))
                    self.problems.append(Problem(f"{measured.name}: {sentence}", place))
            if not self.problems:
                self._memory(description, to_train)
        cautions = list(self._conflicts(tricks, description))
        if self.problems or not description:
            raise UserError(*self.problems)
        notes = [f"[data]: {note}" for note in description.notes]
        shapes, warnings = self._shapes(description), (*warnings, *notes, *cautions)
        return Plan(recipe, source, description, shapes, tricks, on, metrics, facts, warnings)

    def _shapes(self, description: Description) -> Shapes:
        from gantricks.networks.base import Shapes

        return Shapes(description.shape, self.recipe.generator.keys.latent_dim, description.classes)

    def _hooks(self, tricks: tuple[PlannedTrick, ...]) -> dict[str, tuple[str, ...]]:
        on: dict[str, list[str]] = {hook: [] for hook in KINDS}
        for planned in tricks:
            for problem in contract_problems(type(planned.trick)):
                self.problems.append(
                    Problem(f"the trick {planned.use!r} breaks the contract: {problem}", planned.place)
                )
            for hook in hooks_of(type(planned.trick)):
                on.get(hook, []).append(planned.name)
        return {hook: tuple(names) for hook, names in on.items() if names}

    def _choices(self, on: dict[str, tuple[str, ...]]) -> None:
        for hook, names in on.items():
            if KINDS[hook] == "choice" and len(names) > 1:
                self.problems.append(
                    Problem(
                        f"{_listed(names)} provide {hook}, and a recipe has one",
                        self._of_tricks(*reversed(names)),
                        "keep one of them",
                    )
                )

    def _replacements(self, tricks: tuple[PlannedTrick, ...]) -> None:
        for part in sorted({part for planned in tricks for part in planned.trick.replaces}):
            names = [planned.name for planned in tricks if part in planned.trick.replaces]
            if len(names) > 1:
                self.problems.append(
                    Problem(
                        f"{_listed(names)} replace the same part, {part}",
                        self._of_tricks(*reversed(names)),
                        "keep one of them",
                    )
                )

    def _of_tricks(self, *names: str) -> str:
        return self.places.of_any(*(("tricks", name) for name in names))

    def _provided(self, tricks: tuple[PlannedTrick, ...], description: Description) -> set[str]:
        provided = {"input_grad"}
        if not any("adversarial_loss" in hooks_of(type(planned.trick)) for planned in tricks):
            from gantricks.losses import NonSaturating

            provided |= NonSaturating.provides
        if description.classes:
            provided.add("classes")
        if description.is_images:
            provided.add("images")
        if self.recipe.metrics:
            provided.add("metric")
        for role in ("generator", "discriminator"):
            part = getattr(self.recipe, role)
            able = part.found.cls.capabilities(role, part.options, self._shapes(description))
            provided |= {f"{role}_{name}" for name in able}
        for planned in tricks:
            provided |= set(planned.trick.provides)
        return provided

    def _evaluation_facts(
        self, tricks: tuple[PlannedTrick, ...], source: Source, description: Description
    ) -> EvaluationFacts:
        provided = self._provided(tricks, description)
        if not description.is_images:
            provided.add("vectors")
        if description.held_out:
            provided.add("held_out")
        if isinstance(source, Mixture):
            provided.add("mixture")
        return EvaluationFacts(self.recipe.evaluate.samples, source, description, frozenset(provided))

    def _needs(self, tricks: tuple[PlannedTrick, ...], description: Description) -> None:
        provided = self._provided(tricks, description)
        for planned in tricks:
            for need in sorted(set(planned.trick.needs) - provided):
                meaning = CAPABILITIES.get(need, "no trick of this recipe provides it")
                player = need.partition("_")[0]
                keys = {"generator": (player, "network"), "discriminator": (player, "network")}
                cause = keys.get(player, ("data", "source"))
                place = self.places.about(meaning, ("tricks", planned.name), cause)
                self.problems.append(Problem(f"{planned.name} needs {need}", place, f"it is {meaning}"))

    def _conflicts(self, tricks: tuple[PlannedTrick, ...], description: Description | None) -> Iterator[str]:
        """Adds conflicts to the problems and yields cautions."""
        # always at hand, so it says nothing of the recipe that it is provided
        provided = self._provided(tricks, description) - {"input_grad"} if description else set()
        reported = set()
        for planned in tricks:
            rest = [other for other in tricks if other is not planned]
            others = {name for other in rest for name in (other.use, other.name, *other.trick.needs)}
            for other, reason in planned.trick.conflicts.items():
                pair = frozenset({planned.use, other})
                if other in others | provided and pair not in reported:
                    reported.add(pair)
                    culprits = [one.name for one in rest if other in (one.use, one.name, *one.trick.needs)]
                    place = self._of_tricks(planned.name, *culprits)
                    self.problems.append(
                        Problem(f"{planned.name} does not go with {other}: {reason}", place, "switch one off")
                    )
            for other, reason in planned.trick.cautions.items():
                if other in others | provided:
                    yield f"{planned.name} beside {other}: {reason}"

    def _networks(self, shapes: Shapes) -> None:
        for role in ("generator", "discriminator"):
            part = getattr(self.recipe, role)
            for sentence in part.found.cls.problems(role, part.options, shapes):
                place = self.places.about(sentence, (role,), (role, "network"), ("data", "source"))
                self.problems.append(Problem(sentence, place))
        conditional = {
            role: "conditional" in part.found.cls.capabilities(role, part.options, shapes)
            for role in ("generator", "discriminator")
            for part in [getattr(self.recipe, role)]
        }
        if conditional["discriminator"] and not conditional["generator"]:
            self.problems.append(
                Problem(
                    "the discriminator is conditional and the generator is not, so fakes have no class to be judged by",
                    self.places.of_any(("discriminator", "conditional"), ("generator", "conditional")),
                    f"give G classes too: {self.places.to_set('true', 'generator', 'conditional')}",
                )
            )

    def _batch_size(self, description: Description) -> None:
        batch_size = self.recipe.data.keys.batch_size
        if batch_size > description.count:
            self.problems.append(
                Problem(
                    f"batch_size is {batch_size} and the data holds {description.count} samples",
                    self.places.of_any(("data", "batch_size"), *(("data", key) for key in _named_in(self.recipe.data))),
                    f"{self.places.to_set(str(description.count), 'data', 'batch_size')} at most",
                )
            )

    def _memory(self, description: Description, to_train: bool) -> None:
        """Refuse what this machine cannot hold: Linux promises any amount of memory, and kills whoever uses it."""
        import torch

        from gantricks.planning.device import machine_memory

        recipe, held = self.recipe, machine_memory()
        # a GPU says by itself what does not fit; networks are made on the CPU first all the same
        trains = to_train and (recipe.train.device == "cpu" or not torch.cuda.is_available())
        number = 8 if recipe.train.precision == "fp64" else 4
        counts = _parameters(recipe, self._shapes(description))
        needed = {role: number * count * (_copies(recipe, role) if trains else 1) for role, count in counts.items()}
        needed["data"] = 2 * number * recipe.data.keys.batch_size * math.prod(description.shape) if trains else 0
        if held is None or sum(needed.values()) <= held:
            return
        largest = max(needed, key=lambda part: needed[part])
        if largest == "data":
            what, keys = f"batches of {recipe.data.keys.batch_size:,}", ("batch_size", "image_size")
        else:
            what = f"a {largest} of {counts[largest]:,} parameters"
            keys = tuple(type(getattr(recipe, largest).options).model_fields)
        self.problems.append(
            Problem(
                f"the memory does not suffice: {what} alone would take {needed[largest] / 2**30:,.0f} GiB, "
                f"and this machine has {held / 2**30:,.0f}",
                self.places.of_any((largest,), *((largest, key) for key in keys), ("data", "image_size")),
                "smaller networks, images or batches need less",
            )
        )

    def _single_samples(self, tricks: tuple[PlannedTrick, ...], shapes: Shapes, setting: Setting) -> None:
        """Batch norm over one vector has no statistics; over one image it has those of its pixels."""
        if 1 not in setting.batch_sizes:
            return
        separate = any("separate_passes" in planned.trick.provides for planned in tricks)
        for role in ("generator", "discriminator"):
            part = getattr(self.recipe, role)
            able = part.found.cls.capabilities(role, part.options, shapes)
            replaced = any(f"{role}_batch_norm" in planned.trick.replaces for planned in tricks)
            alone = role == "generator" or separate
            if "batch_norm" in able and "convolutions" not in able and alone and not replaced:
                self.problems.append(
                    Problem(
                        f"batch norm in the {role} needs more than one sample in a pass, and a batch holds 1",
                        self.places.of_any(("data", "batch_size"), (role, "batch_norm"), (role, "network")),
                        "let batches hold 2 samples or more, or do without batch norm: "
                        + self.places.to_set("false", role, "batch_norm"),
                    )
                )

    def _maps(self, role: str, shapes: Shapes) -> tuple[tuple[int, int], ...]:
        part = getattr(self.recipe, role)
        # a network that does not fit the data has been complained of already
        fits = not part.found.cls.problems(role, part.options, shapes)
        return tuple(part.found.cls.maps(role, part.options, shapes)) if fits else ()

    def _setting(
        self, tricks: tuple[PlannedTrick, ...], metrics: tuple[PlannedMetric, ...], description: Description
    ) -> Setting:
        recipe = self.recipe
        setting = Setting(
            shape=description.shape,
            count=description.count,
            classes=description.classes,
            batch_size=recipe.data.keys.batch_size,
            batch_sizes=(recipe.data.keys.batch_size,),
            latent_dim=recipe.generator.keys.latent_dim,
            steps=recipe.train.steps,
            n_critic=recipe.train.n_critic,
            generator=recipe.generator.options,
            discriminator=recipe.discriminator.options,
            group=_group(tricks),
            metrics={planned.name: next(iter(planned.metric.figures.values())) for planned in metrics},
            **{f"{role}_maps": self._maps(role, self._shapes(description)) for role in ("generator", "discriminator")},
        )
        set_by_tricks = sorted({size for planned in tricks for size in planned.trick.batch_sizes(setting)})
        return replace(setting, batch_sizes=tuple(set_by_tricks)) if set_by_tricks else setting


def _parameters(recipe: Recipe, shapes: Shapes) -> dict[str, int]:
    """How many parameters each network has; nothing is allocated."""
    import torch

    from gantricks.networks.base import count_parameters

    counts = {}
    for role in ("generator", "discriminator"):
        part = getattr(recipe, role)
        with torch.device("meta"):
            counts[role] = count_parameters(getattr(part.found.cls, role)(part.options, shapes))
    return counts


def _copies(recipe: Recipe, role: str) -> int:
    """How many numbers training holds for each weight: itself, its gradient and what the optimizer keeps."""
    optimizer = getattr(recipe, role).keys.optimizer
    return 4 if optimizer.name != "sgd" else 3 if optimizer.momentum else 2


def _group(tricks: Collection[PlannedTrick]) -> int:
    return max((planned.trick.group for planned in tricks), default=1)


def _named_in(part: Part[DataKeys]) -> list[str]:
    """The keys of [data] that decide how many samples there are, as far as that is known: all of the source's own."""
    return ["source", *type(part.options).model_fields]


def _listed(names: Sequence[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def hooks_of(trick: type) -> list[str]:
    """The names of the methods of a trick class that are marked with `@hookimpl`."""
    return [name for name in dir(trick) if hasattr(getattr(trick, name, None), "gantricks_impl")]


def contract_problems(trick: type) -> Iterator[str]:
    """Every way in which a trick class breaks the contract of `gantricks.hooks`, in sentences."""
    for name in hooks_of(trick):
        if name not in KINDS:
            yield f"there is no hook {name!r}; {nearest(name, KINDS) or 'gantricks.hooks lists them'}"
            continue
        implementation = getattr(trick, name)
        if any(value for key, value in implementation.gantricks_impl.items() if key != "specname"):
            yield f"{name}: hook options such as tryfirst are not used here; recipe order decides"
        parameters = list(inspect.signature(implementation).parameters.values())[1:]
        known = list(inspect.signature(getattr(HookSpecs, name)).parameters)[1:]
        for parameter in parameters:
            if parameter.name not in known:
                yield f"{name} has no argument {parameter.name!r}; it has {', '.join(known)}"
            if parameter.default is not parameter.empty:
                yield f"{name}: the argument {parameter.name!r} has a default value, and hooks take none"


def freeze(tricks: Collection[PlannedTrick], contexts: dict[str, Context]) -> Hooks:
    """Register the tricks with pluggy, which validates them against the specs, and freeze each hook to a plain tuple.

    pluggy's own calls run last registered first, drop None and cannot feed one result to the next, so they are used
    for the contract and not for the calls.
    """
    manager = pluggy.PluginManager("gantricks")
    manager.add_hookspecs(HookSpecs)
    for planned in tricks:
        manager.register(planned.trick, planned.name)
    manager.check_pending()
    hooks: dict[str, HookTuple] = {}
    order = {planned.name: position for position, planned in enumerate(tricks)}
    for hook in KINDS:
        specified = tuple(inspect.signature(getattr(HookSpecs, hook)).parameters)[1:]
        implementations = sorted(getattr(manager.hook, hook).get_hookimpls(), key=lambda i: order[i.plugin_name])
        hooks[hook] = tuple(
            (_with_all_arguments(i.function, i.argnames, specified), contexts[i.plugin_name]) for i in implementations
        )
    return Hooks(**hooks)


def _with_all_arguments(
    function: Callable[..., Any], taken: Collection[str], specified: tuple[str, ...]
) -> Callable[..., Any]:
    """`function` itself when it takes every argument in order, otherwise a version that passes on those it takes."""
    if tuple(taken) == specified:
        return function
    positions = [specified.index(name) for name in taken]

    def adapted(*arguments: Any) -> Any:
        return function(*(arguments[position] for position in positions))

    adapted.__name__ = function.__name__
    return adapted


def notify(hooks: HookTuple) -> None:
    """Run an event."""
    for hook, ctx in hooks:
        hook(ctx)


def fold(hooks: HookTuple, value: Any, *about: Any) -> Any:
    """Hand a value through every trick in recipe order."""
    for hook, ctx in hooks:
        value = hook(value, *about, ctx) if about else hook(value, ctx)  # unpacking nothing doubles a call's time
        if value is None:
            raise TrickError(
                f"{ctx.name}: {hook.__name__} returned None; a fold returns the value it was given, or another"
            )
    return value
