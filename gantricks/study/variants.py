"""The variants that a study trains, each the recipe with tricks removed or added, and the contrasts between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from gantricks.catalogue.index import shipped
from gantricks.catalogue.registry import Registry
from gantricks.engine.start import try_surgery
from gantricks.errors import Problem, UserError, nearest
from gantricks.planning.plan import Plan
from gantricks.planning.prepare import plan_recipe, prepare
from gantricks.planning.recipe import Recipe
from gantricks.planning.recipe_files import RecipeFile
from gantricks.planning.validation import load_recipe

Mode = Literal["leave-one-out", "add-one", "pairs"]
"""The designs with contrasts between variants that share their seeds. Others have modules of their own."""

FULL, PLAIN, BARE = "full", "plain", "bare"
"""Names of variants: the recipe with all its tricks; the recipe to which tricks are added; the recipe without
tricks.
"""

LOG_LINES = 20
"""The approximate number of lines in metrics.jsonl for a run of a study."""


@dataclass(frozen=True)
class Variant:
    """A recipe to train. `recipe` is None where it cannot be trained; `impossible` is the reason."""

    name: str
    recipe: Recipe | None
    impossible: str = ""


@dataclass(frozen=True)
class Contrast:
    """A quantity to estimate: the sum of figures of the variants `plus` minus those of `minus`, for runs with one seed.

    `name` says whose effect it is: a trick, "the whole set", or two tricks. With `interaction`, it is the effect of two
    tricks together beyond their separate effects.
    """

    name: str
    plus: tuple[str, ...]
    minus: tuple[str, ...]
    interaction: bool = False

    @property
    def variants(self) -> tuple[str, ...]:
        return self.plus + self.minus


@dataclass(frozen=True)
class Design:
    """The variants of a study and the contrasts between them. The first variant is the reference."""

    variants: tuple[Variant, ...]
    contrasts: tuple[Contrast, ...]

    @property
    def reference(self) -> Variant:
        return self.variants[0]

    @property
    def possible(self) -> dict[str, Recipe]:
        """The recipes that can be trained, by name of the variant."""
        return {variant.name: variant.recipe for variant in self.variants if variant.recipe}


@dataclass(frozen=True)
class Base:
    """The recipe of a study, read once. Every variant is `file` with `overrides` and a change. `plan` is that of the
    recipe without a change.
    """

    file: RecipeFile
    overrides: tuple[str, ...]
    registry: Registry
    plan: Plan

    @property
    def recipe(self) -> Recipe:
        return self.plan.recipe


def base(file: RecipeFile, overrides: Sequence[str], registry: Registry, steps: int) -> Base:
    """Return the recipe in the form that a study trains for `steps` steps.

    Unless `overrides` say otherwise, runs of a study store little: one picture, a few log lines, one checkpoint.
    Checkpoints are written as often as in the recipe, so that a killed machine loses only the steps since the last one.
    Raises UserError with everything that is wrong with the recipe.
    """
    sparing = [f"train.log_every={max(1, steps // LOG_LINES)}", f"train.sample_every={steps}", "train.keep=1"]
    given = (*sparing, *overrides)
    plan, _ = plan_recipe(file, given, registry)
    return Base(file, given, registry, plan)


def design(base: Base, mode: Mode, tricks: Sequence[str] = (), options: Sequence[str] = ()) -> Design:
    """Return the variants of a recipe.

    `tricks` are those to compare, by default all: of the recipe, or in add-one, of all that exist. `options` are
    overrides of tricks that add-one adds, such as `tricks.ema.decay=0.99`. Raises UserError when there is nothing to
    compare. Variants that `check` refuses are included, with its sentences.
    """
    designing = _Designing(base)
    if mode == "add-one":
        return designing.add_one(tricks_to_add(tricks, options, base.registry), options)
    if options:
        raise UserError(
            Problem(f"{mode} adds no trick that could have options", f"--with {options[0]}", "leave it out")
        )
    named = designing.of_the_recipe(tricks, 2 if mode == "pairs" else 1)
    return designing.pairs(named) if mode == "pairs" else designing.leave_one_out(named)


class _Designing:
    def __init__(self, base: Base) -> None:
        self.base = base
        self.tricks = [trick.name for trick in base.recipe.tricks]

    def of_the_recipe(self, tricks: Sequence[str], least: int) -> list[str]:
        """Return `tricks` in the recipe's order; all of its tricks where `tricks` is empty."""
        if problems := [
            Problem(
                f"the recipe has no trick {name!r}",
                "--tricks",
                nearest(name, self.tricks) or f"it has: {', '.join(self.tricks) or 'none'}",
            )
            for name in tricks
            if name not in self.tricks
        ]:
            raise UserError(*problems)
        chosen = [name for name in self.tricks if name in tricks or not tricks]
        if len(chosen) < least:
            raise UserError(
                Problem(
                    "one trick alone makes no pair" if chosen else "the recipe has no trick that could be left out",
                    self.base.file.name,
                    "--mode add-one tries tricks that it does not have",
                )
            )
        return chosen

    def leave_one_out(self, tricks: list[str]) -> Design:
        variants = [self._reference(FULL), *(self._without(name) for name in tricks)]
        contrasts = [Contrast(name, (FULL,), (_without(name),)) for name in tricks]
        if len(self.tricks) > 1:
            variants.append(self._without(*self.tricks, called=BARE))
            contrasts.append(Contrast("the whole set", (FULL,), (BARE,)))
        return feasible(variants, contrasts)

    def add_one(self, tricks: list[str], options: Sequence[str]) -> Design:
        variants, contrasts = [self._reference(PLAIN)], []
        for name in tricks:
            added = f"with-{name}"
            if name in self.tricks:
                variants.append(Variant(added, None, "it is in the recipe already"))
                continue
            own = [option for option in options if trick_of(option) == name]
            variants.append(self._variant(added, [f"tricks.{name}={{}}", *own]))
            contrasts.append(Contrast(name, (added,), (PLAIN,)))
        return feasible(variants, contrasts)

    def pairs(self, tricks: list[str]) -> Design:
        variants = [self._reference(FULL), *(self._without(name) for name in tricks)]
        contrasts = [Contrast(name, (FULL,), (_without(name),)) for name in tricks]
        for a, b in combinations(tricks, 2):
            variants.append(self._without(a, b))
            contrasts += [
                Contrast(f"{a} + {b}", (FULL,), (_without(a, b),)),
                Contrast(f"{a} × {b}", (FULL, _without(a, b)), (_without(a), _without(b)), interaction=True),
            ]
        return feasible(variants, contrasts)

    def _reference(self, name: str) -> Variant:
        return reference(self.base, name)

    def _without(self, *tricks: str, called: str = "") -> Variant:
        return self._variant(called or _without(*tricks), [f"tricks.{name}=off" for name in tricks])

    def _variant(self, name: str, changes: Sequence[str]) -> Variant:
        return try_variant(self.base, name, changes)


def reference(base: Base, name: str) -> Variant:
    """Return the recipe itself as a variant. Raises UserError where a trick refuses its networks."""
    try_surgery(base.plan)
    return Variant(name, base.recipe)


def try_variant(base: Base, name: str, changes: Sequence[str]) -> Variant:
    """Return the recipe under further overrides, checked, as a variant; where it cannot be trained, with the reason."""
    try:
        return Variant(name, tried(base, changes))
    except UserError as error:
        return Variant(name, None, "; ".join(problem.what for problem in error.problems))


def tried(base: Base, changes: Sequence[str]) -> Recipe:
    """Return the recipe under further overrides. Raises UserError with all for which it cannot be trained."""
    recipe = load_recipe(base.file, [*base.overrides, *changes], base.registry)
    plan, _ = prepare(recipe, base.registry)
    try_surgery(plan)
    return recipe


def _without(*tricks: str) -> str:
    return "-".join(("without", *tricks))


def feasible(variants: Sequence[Variant], contrasts: Sequence[Contrast]) -> Design:
    """Return the design of these variants, with the contrasts of those that can be trained. Raises UserError where
    fewer than two can.
    """
    possible = {variant.name for variant in variants if variant.recipe}
    if len(possible) < 2:
        raise UserError(
            *(Problem(f"it cannot be trained: {v.impossible}", v.name) for v in variants if v.impossible),
            Problem("nothing is left to compare the recipe with"),
        )
    return Design(tuple(variants), tuple(c for c in contrasts if possible.issuperset(c.variants)))


def tricks_to_add(tricks: Sequence[str], options: Sequence[str], registry: Registry) -> list[str]:
    """Return the tricks that a study adds: the named ones; otherwise those with options; otherwise all that ship."""
    problems = [
        Problem("it is not about a trick", f"--with {option}", "write tricks.NAME.OPTION=VALUE or 'tricks.NAME={…}'")
        for option in options
        if not trick_of(option)
    ]
    optioned = list(dict.fromkeys(name for option in options if (name := trick_of(option))))
    known = registry.names("tricks")
    problems += [
        Problem(f"there is no trick {name!r}", "--tricks", nearest(name, known) or "gantricks tricks lists them")
        for name in tricks
        if name not in known and name not in optioned
    ]
    problems += [
        Problem(f"{name!r} has options and is not among the tricks to add", "--with", f"add it to --tricks: {name}")
        for name in optioned
        if tricks and name not in tricks
    ]
    if problems:
        raise UserError(*problems)
    return list(dict.fromkeys(tricks)) or optioned or shipped("tricks")


def trick_of(option: str) -> str:
    """Return the trick that an override is about, or nothing."""
    keys = [key.strip() for key in option.partition("=")[0].split(".")]
    return keys[1] if len(keys) > 1 and keys[0] == "tricks" and "=" in option else ""
