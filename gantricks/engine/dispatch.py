"""The hooks of one run, and the four functions that call them: one for each kind of hook."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pluggy

from gantricks.errors import TrickError
from gantricks.hooks import KINDS, HookSpecs
from gantricks.planning.contract import in_order
from gantricks.planning.facts import PlannedTrick

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from gantricks.losses import AdversarialLoss
    from gantricks.networks.base import Discriminator, Generator
    from gantricks.records import Batch, Companion, Latents, Out, Sampler


class Named(Protocol):
    """The part of a trick's context that a call needs."""

    name: str


T = TypeVar("T")
C = TypeVar("C", bound=Named)
Fold = tuple[tuple[Callable[..., T], Any], ...]
"""The implementations of a fold over values of type T, each with the context of its trick, in recipe order."""
Choice = tuple[tuple[Callable[..., T], Any], ...]
"""The one implementation of a choice that returns a T, or an empty tuple."""
Term = tuple[tuple[Callable[..., "Mapping[str, T]"], Any], ...]
"""The implementations of a term with values of type T."""
Event = tuple[tuple[Callable[..., None], Any], ...]


@dataclass(frozen=True)
class Hooks:
    """Every hook of one run: a field for each, in the order of `gantricks.hooks`.

    A hook that no trick of the recipe implements is an empty tuple, which costs nothing.
    """

    d_stem: Choice[nn.Module] = ()
    transform_generator: Fold[Generator] = ()
    transform_discriminator: Fold[Discriminator] = ()
    companions: Term[Companion] = ()
    transform_optimizer: Fold[Optimizer] = ()
    adversarial_loss: Choice[AdversarialLoss] = ()
    on_setup: Event = ()
    on_load: Event = ()
    on_run_start: Event = ()
    on_boundary: Event = ()
    play: Choice[None] = ()
    before_d_step: Event = ()
    latents: Fold[Tensor] = ()
    real_batch: Fold[Batch] = ()
    generated_batch: Fold[Batch] = ()
    fake_batch: Fold[Batch] = ()
    d_input: Fold[Batch] = ()
    d_scores: Choice[tuple[Out, Out]] = ()
    d_assignment: Fold[Tensor] = ()
    d_labels: Fold[Tensor] = ()
    d_loss_terms: Term[Tensor] = ()
    after_d_backward: Event = ()
    d_gate: Fold[Tensor] = ()
    after_d_step: Event = ()
    before_g_step: Event = ()
    g_scores: Choice[tuple[Out, Out] | None] = ()
    g_labels: Fold[Tensor] = ()
    g_weights: Fold[Tensor] = ()
    g_objective: Choice[Mapping[str, Tensor]] = ()
    g_loss_terms: Term[Tensor] = ()
    after_g_backward: Event = ()
    g_gate: Fold[Tensor] = ()
    after_g_step: Event = ()
    after_step: Event = ()
    sampling_generator: Fold[Generator] = ()
    sampling_latents: Fold[Latents] = ()
    sampler: Fold[Sampler] = ()
    evaluation_companion: Fold[nn.Module] = ()
    evaluation_discriminator: Fold[Discriminator] = ()
    log_scalars: Term[Tensor] = ()
    on_log: Event = ()
    on_metrics: Event = ()
    on_finish: Event = ()
    on_run_end: Event = ()


def freeze(tricks: Collection[PlannedTrick], contexts: Mapping[str, Named]) -> Hooks:
    """Register the tricks with pluggy, which checks them against the specs, and make each hook a plain tuple.

    pluggy's own calls are not used: they run the last registered trick first, drop None and cannot pass one result on
    to the next trick.
    """
    manager = pluggy.PluginManager("gantricks")
    manager.add_hookspecs(HookSpecs)
    for planned in tricks:
        manager.register(planned.trick, planned.name)
    manager.check_pending()
    hooks: dict[str, Any] = {}
    for hook in KINDS:
        specified = tuple(inspect.signature(getattr(HookSpecs, hook)).parameters)[1:]
        found = {i.plugin_name: i for i in getattr(manager.hook, hook).get_hookimpls()}
        hooks[hook] = tuple(
            (_with_all_arguments(found[name].function, found[name].argnames, specified), contexts[name])
            for name in (planned.name for planned in in_order(hook, tricks))
        )
    return Hooks(**hooks)


def _with_all_arguments(
    function: Callable[..., Any], taken: Collection[str], specified: tuple[str, ...]
) -> Callable[..., Any]:
    """Return `function` itself when it takes every argument in order, otherwise a version that passes on those it
    takes.
    """
    if tuple(taken) == specified:
        return function
    positions = [specified.index(name) for name in taken]

    def adapted(*arguments: Any) -> Any:
        return function(*(arguments[position] for position in positions))

    adapted.__name__ = function.__name__
    return adapted


# ---------------------------------------------------------------- calling hooks


def notify(hooks: Event) -> None:
    """Call an event."""
    for hook, ctx in hooks:
        hook(ctx)


def fold(hooks: Fold[T], value: T, *about: Any) -> T:
    """Pass a value through every trick in recipe order. `about` are further arguments, the same for all tricks.

    Raises TrickError where a trick returns None.
    """
    for hook, ctx in hooks:
        value = hook(value, *about, ctx) if about else hook(value, ctx)  # unpacking nothing doubles a call's time
        if value is None:
            raise TrickError(
                f"{ctx.name}: {hook.__name__} returned None; a fold returns the value it was given, or another"
            )
    return value


def choose(hooks: Choice[T], *about: Any) -> T | None:
    """Return the result of the one provider, or None where there is no provider."""
    for hook, ctx in hooks:
        return hook(*about, ctx)
    return None


def collect(hooks: Term[Tensor], joint: str = ".") -> dict[str, Tensor]:
    """Return the terms of all tricks, each under `<trick><joint><name>`. Raises TrickError where a term is not a
    scalar.
    """
    terms = gather(hooks, joint)
    for name, term in terms.items():
        if getattr(term, "ndim", 0):
            trick, _, own = name.partition(joint)
            raise TrickError(
                f"{trick}: {hooks[0][0].__name__} returned the term {own!r} of shape {tuple(term.shape)}; a term is a "
                "scalar"
            )
    return terms


def gather(hooks: Term[T], joint: str = ".") -> dict[str, T]:
    """Return the values of all tricks, each under `<trick><joint><name>`."""
    return {f"{ctx.name}{joint}{name}": value for hook, ctx in hooks for name, value in (hook(ctx) or {}).items()}
