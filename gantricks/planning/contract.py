"""Checks a trick class against the hooks. Nothing here imports torch."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from gantricks.errors import nearest
from gantricks.hooks import KINDS, HookSpecs
from gantricks.trick import Trick

if TYPE_CHECKING:
    from gantricks.planning.facts import PlannedTrick


def hooks_of(trick: type) -> list[str]:
    """Return the names of the methods of a trick class that are marked with `@hookimpl`."""
    return [name for name in dir(trick) if hasattr(getattr(trick, name, None), "gantricks_impl")]


BESIDE_TRAINING = frozenset(
    {"sampling_generator", "sampling_latents", "sampler", "evaluation_discriminator", "evaluation_companion"}
)
"""The hooks that no training step reaches."""


REPLACED = {
    "sampling_generator": "generator_for_sampling",
    "evaluation_discriminator": "discriminator_for_evaluation",
}
"""The hooks that give a network to sampling and evaluation, and the part that a trick replaces there."""


def in_order(hook: str, tricks: Iterable[PlannedTrick]) -> list[PlannedTrick]:
    """Return the tricks on a hook in the order in which they are asked: recipe order, but that a trick which replaces
    the network for sampling or evaluation comes before those that change it. Otherwise the change would be lost.
    """
    part = REPLACED.get(hook, "")
    return sorted(
        (planned for planned in tricks if hasattr(getattr(type(planned.trick), hook, None), "gantricks_impl")),
        key=lambda planned: part not in planned.trick.replaces,
    )


def acts_on_samples_alone(trick: type[Trick]) -> bool:
    """Return whether a run is trained, and its checkpoints are written, as without this trick."""
    return set(hooks_of(trick)) <= BESIDE_TRAINING and trick.tensors is Trick.tensors


def contract_problems(trick: type) -> Iterator[str]:
    """Yield a sentence for every way in which a trick class breaks the contract of `gantricks.hooks`."""
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
