"""Checks of a recipe whose keys are all valid: everything that can be known before a tensor exists."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from gantricks.data.base import Description
from gantricks.errors import Problem
from gantricks.hooks import KINDS
from gantricks.metrics.base import obstacles
from gantricks.planning.contract import contract_problems, in_order
from gantricks.planning.facts import ROLES, Facts, PlannedTrick, parameters
from gantricks.planning.keys import DataKeys
from gantricks.planning.recipe import Part, Recipe
from gantricks.planning.recipe_files import Places
from gantricks.trick import CAPABILITIES

# ---------------------------------------------------------------- checks of tricks


def hooks_in_use(tricks: Iterable[PlannedTrick]) -> dict[str, tuple[str, ...]]:
    """Return the names of the tricks on each hook, in the order in which they are asked."""
    given = list(tricks)
    on = {hook: tuple(planned.name for planned in in_order(hook, given)) for hook in KINDS}
    return {hook: names for hook, names in on.items() if names}


def of_tricks(tricks: Sequence[PlannedTrick], on: Mapping[str, Sequence[str]], places: Places) -> Iterator[Problem]:
    """Yield a problem for each trick that breaks the contract, and for tricks that cannot share a hook or a part."""
    for planned in tricks:
        for problem in contract_problems(type(planned.trick)):
            yield Problem(f"the trick {planned.use!r} breaks the contract: {problem}", planned.place)
    for hook, names in on.items():
        if KINDS[hook] == "choice" and len(names) > 1:
            what = f"{_listed(names)} provide {hook}, and a recipe has one"
            yield Problem(what, _of_tricks(places, *reversed(names)), "keep one of them")
    for part in sorted({part for planned in tricks for part in planned.trick.replaces}):
        names = [planned.name for planned in tricks if part in planned.trick.replaces]
        if len(names) > 1:
            what = f"{_listed(names)} replace the same part, {part}"
            yield Problem(what, _of_tricks(places, *reversed(names)), "keep one of them")


def conflicts(tricks: Sequence[PlannedTrick], places: Places, provided: Collection[str]) -> Iterator[Problem]:
    """Yield a problem for each trick that conflicts with another one, or with what the recipe provides."""
    reported = set()
    for planned in tricks:
        rest = [other for other in tricks if other is not planned]
        for other, reason in planned.trick.conflicts.items():
            pair = frozenset({planned.use, other})
            if other in _others(rest, provided) and pair not in reported:
                reported.add(pair)
                culprits = [one.name for one in rest if other in _names(one)]
                place = _of_tricks(places, planned.name, *culprits)
                yield Problem(f"{planned.name} does not go with {other}: {reason}", place, "switch one off")


def cautions(tricks: Sequence[PlannedTrick], provided: Collection[str]) -> Iterator[str]:
    """Yield a sentence for each pair of tricks that work badly together."""
    for planned in tricks:
        others = _others([other for other in tricks if other is not planned], provided)
        for other, reason in planned.trick.cautions.items():
            if other in others:
                yield f"{planned.name} beside {other}: {reason}"


def unknown_names(tricks: Sequence[PlannedTrick], known: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield each name in a trick's `conflicts` or `cautions` that refers to nothing, with the trick's own name.

    It refers to nothing if it is neither a `known` trick, nor one of the recipe, nor a capability.
    """
    meant = {*known, *CAPABILITIES}
    for planned in tricks:
        meant |= {*_names(planned), *planned.trick.provides}
    told = set()
    for planned in tricks:
        for name in {**planned.trick.conflicts, **planned.trick.cautions}:
            if name not in meant and (planned.use, name) not in told:
                told.add((planned.use, name))
                yield planned.use, name


def _names(planned: PlannedTrick) -> tuple[str, ...]:
    """Return the names by which other tricks can refer to this one."""
    return planned.use, planned.name, *planned.trick.needs


def _others(rest: Iterable[PlannedTrick], provided: Collection[str]) -> set[str]:
    # "input_grad" is always provided, so a conflict with it means a trick that needs it
    return {name for other in rest for name in _names(other)} | (set(provided) - {"input_grad"})


def _of_tricks(places: Places, *names: str) -> str:
    return places.of_any(*(("tricks", name) for name in names))


def _listed(names: Sequence[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


# ---------------------------------------------------------------- checks of networks and data


def of_parts(facts: Facts, to_train: bool) -> Iterator[Problem]:
    """Yield problems of networks, tricks and metrics with each other and with the data."""
    yield from _networks(facts)
    yield from _batch_size(facts)
    yield from _single_samples(facts)
    yield from _needs(facts)
    places = facts.recipe.places
    for planned in facts.tricks:
        for sentence in planned.trick.problems(facts.setting):
            yield Problem(f"{planned.name}: {sentence}", places.about(sentence, ("tricks", planned.name)))
    without = [*held_out(facts.recipe, facts.description)]
    yield from without if to_train else ()
    for measured in facts.metrics if to_train and not without else ():
        for sentence in obstacles(measured.metric, facts.evaluation):
            place = places.about(sentence, ("evaluate", measured.name), ("data", "source"))
            yield Problem(f"{measured.name}: {sentence}", place)


def held_out(recipe: Recipe, description: Description) -> Iterator[Problem]:
    """Yield a problem where metrics are to compare with what the data holds out, and it holds out too little."""
    if recipe.evaluate.reals == "held_out" and description.held_out < 2:
        what = "evaluate.reals: the data holds out nothing that samples could be compared with"
        hint = 'write reals = "data", or take data with such a part: an .npz archive with x_test and y_test has one'
        yield Problem(what, recipe.places.of("evaluate", "reals"), hint)


def _networks(facts: Facts) -> Iterator[Problem]:
    places = facts.recipe.places
    for role in ROLES:
        part = getattr(facts.recipe, role)
        for sentence in part.found.cls.problems(role, part.options, facts.shapes):
            yield Problem(sentence, places.about(sentence, (role,), (role, "network"), ("data", "source")))
    for key, what in (("conditional", "class"), ("conditioned", "condition")):
        if key in facts.able["discriminator"] and key not in facts.able["generator"]:
            yield Problem(
                f"the discriminator is {key} and the generator is not, so fakes have no {what} to be judged by",
                places.of_any(("discriminator", key), ("generator", key)),
                f"make G {key} too: {places.to_set('true', 'generator', key)}",
            )


def _batch_size(facts: Facts) -> Iterator[Problem]:
    data, places = facts.recipe.data, facts.recipe.places
    batch_size, count = data.keys.batch_size, facts.description.count
    if batch_size > count:
        yield Problem(
            f"batch_size is {batch_size} and the data holds {count} samples",
            places.of_any(("data", "batch_size"), *(("data", key) for key in _named_in(data))),
            f"{places.to_set(str(count), 'data', 'batch_size')} at most",
        )


def _named_in(part: Part[DataKeys]) -> list[str]:
    """Return the keys of [data] that decide the number of samples. Which of the source's keys do is unknown, so all are
    named.
    """
    return ["source", *type(part.options).model_fields]


def _single_samples(facts: Facts) -> Iterator[Problem]:
    """Yield a problem where batch norm meets batches of one vector, which have no statistics. A single image has those
    of its pixels.
    """
    if 1 not in facts.setting.batch_sizes:
        return
    places = facts.recipe.places
    separate = any("separate_passes" in planned.trick.provides for planned in facts.tricks)
    for role in ROLES:
        able = facts.able[role]
        replaced = any(f"{role}_batch_norm" in planned.trick.replaces for planned in facts.tricks)
        alone = role == "generator" or separate
        if "batch_norm" in able and "convolutions" not in able and alone and not replaced:
            yield Problem(
                f"batch norm in the {role} needs more than one sample in a pass, and a batch holds 1",
                places.of_any(("data", "batch_size"), (role, "batch_norm"), (role, "network")),
                "let batches hold 2 samples or more, or do without batch norm: "
                + places.to_set("false", role, "batch_norm"),
            )


def _needs(facts: Facts) -> Iterator[Problem]:
    for planned in facts.tricks:
        for need in sorted(set(planned.trick.needs) - facts.provided):
            meaning = CAPABILITIES.get(need, "no trick of this recipe provides it")
            player = need.partition("_")[0]
            cause = (player, "network") if player in ROLES else ("data", "source")
            place = facts.recipe.places.about(meaning, ("tricks", planned.name), cause)
            yield Problem(f"{planned.name} needs {need}", place, f"it is {meaning}")


# ---------------------------------------------------------------- checks of the machine


def memory(facts: Facts, to_train: bool) -> Iterator[Problem]:
    """Yield a problem where this machine lacks the memory. Linux grants any amount at first, and later kills the
    process.
    """
    import torch

    from gantricks.planning.device import machine_memory

    recipe, held = facts.recipe, machine_memory()
    # a GPU reports its own errors, but networks are made on the CPU first in any case
    trains = to_train and (recipe.train.device == "cpu" or not torch.cuda.is_available())
    number, batch_size = 8 if recipe.train.precision == "fp64" else 4, recipe.data.keys.batch_size
    counts = parameters(recipe, facts.shapes)
    needed = {role: number * count * (_copies(recipe, role) if trains else 1) for role, count in counts.items()}
    needed["data"] = 2 * number * batch_size * math.prod(facts.description.shape) if trains else 0
    if held is None or sum(needed.values()) <= held:
        return
    largest = max(needed, key=lambda part: needed[part])
    if largest == "data":
        what, keys = f"batches of {batch_size:,}", ("batch_size", "image_size")
    else:
        what = f"a {largest} of {counts[largest]:,} parameters"
        keys = tuple(type(getattr(recipe, largest).options).model_fields)
    yield Problem(
        f"the memory does not suffice: {what} alone would take {needed[largest] / 2**30:,.0f} GiB, "
        f"and this machine has {held / 2**30:,.0f}",
        recipe.places.of_any((largest,), *((largest, key) for key in keys), ("data", "image_size")),
        "smaller networks, images or batches need less",
    )


def _copies(recipe: Recipe, role: str) -> int:
    """Return how many numbers training holds for each weight: the weight, its gradient and the optimizer's state."""
    optimizer = getattr(recipe, role).keys.optimizer
    return 4 if optimizer.name != "sgd" else 3 if optimizer.momentum else 2
