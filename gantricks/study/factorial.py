"""Full factorial designs: every subset of a few tricks, main effects and interactions by least squares."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any

from gantricks.errors import Problem, UserError
from gantricks.study.effects import (
    Family,
    Findings,
    Regression,
    Row,
    direction,
    findings,
    judge,
    regress,
)
from gantricks.study.effects_forest import effects_forest
from gantricks.study.effects_words import as_markdown
from gantricks.study.folder import choose
from gantricks.study.playing import Figure, Playing, Reporter, conduct
from gantricks.study.pool import WORKER
from gantricks.study.regression import MEAN
from gantricks.study.study import begin, open_study, write_results, written
from gantricks.study.variants import Base, Variant, trick_of, tricks_to_add, try_variant
from gantricks.study.words import counted

MOST = 8
"""The largest number of tricks: 256 variants."""
NONE = "none"
TIMES = " × "


class Factorial:
    """The 2^k subsets of the tricks `names`. A trick of the recipe is switched off where it is not in the subset; one
    that the recipe has not is added where it is.
    """

    def __init__(self, base: Base, tricks: Sequence[str], options: Sequence[str]) -> None:
        self.base = base
        own = [trick.name for trick in base.recipe.tricks]
        named = list(dict.fromkeys([*tricks, *(name for option in options if (name := trick_of(option)))]))
        self.names = named or own
        self._refuse(own, tricks, options)
        self.options = {name: [o for o in options if trick_of(o) == name] for name in self.names}
        self.own = {name for name in self.names if name in own}
        self.variants = {subset: self._variant(subset) for subset in self._subsets()}
        self.reference = frozenset(self.own)
        if why := self.variants[self.reference].impossible:
            raise UserError(Problem(f"the recipe itself cannot be trained: {why}", base.file.name))

    def _refuse(self, own: Sequence[str], tricks: Sequence[str], options: Sequence[str]) -> None:
        problems: list[Problem] = []
        if foreign := [name for name in self.names if name not in own]:
            try:
                tricks_to_add(foreign, [o for o in options if trick_of(o) in foreign], self.base.registry)
            except UserError as error:
                problems += error.problems
        if wrong := [option for option in options if trick_of(option) in (*own, "")]:
            what = "--with gives options to tricks that the recipe does not have; an option of its own is set by --set"
            problems.append(Problem(what, f"--with {wrong[0]}", f"--set {wrong[0]}" if trick_of(wrong[0]) else ""))
        if not 2 <= len(self.names) <= MOST:
            what = f"a factorial design has 2 to {MOST} tricks, not {len(self.names)}"
            hint = f"the recipe has: {', '.join(own) or 'none'}; name tricks, of it or to add, with --tricks A,B"
            problems.append(Problem(what, "--tricks", hint))
        if problems:
            raise UserError(*problems)

    def _subsets(self) -> Iterator[frozenset[str]]:
        for chosen in product((False, True), repeat=len(self.names)):
            yield frozenset(name for name, on in zip(self.names, chosen, strict=True) if on)

    def _variant(self, subset: frozenset[str]) -> Variant:
        changes = []
        for name in self.names:
            if name in self.own and name not in subset:
                changes.append(f"tricks.{name}=off")
            elif name in subset and name not in self.own:
                changes += [f"tricks.{name}={{}}", *self.options[name]]
        return try_variant(self.base, "-".join(name for name in self.names if name in subset) or NONE, changes)

    @property
    def possible(self) -> dict[str, frozenset[str]]:
        """The subsets that can be trained, by the name of their variant."""
        return {variant.name: subset for subset, variant in self.variants.items() if variant.recipe}

    def terms(self, order: int) -> dict[str, tuple[str, ...]]:
        """Return the tricks of each effect up to `order`, by the effect's name: main effects first."""
        every = (group for size in range(1, order + 1) for group in combinations(self.names, size))
        return {TIMES.join(group): group for group in every}

    def columns(self, subset: frozenset[str], order: int) -> dict[str, float]:
        """Return the ±1 code of a subset: of each trick +1 with it and -1 without, of an interaction the product."""
        sign = {name: 1.0 if name in subset else -1.0 for name in self.names}
        return {name: math.prod(sign[trick] for trick in group) for name, group in self.terms(order).items()}


def factorial(
    recipe: str | Path,
    *,
    seeds: int = 5,
    order: int = 2,
    metric: str | None = None,
    figure: str | None = None,
    tricks: Sequence[str] = (),
    options: Sequence[str] = (),
    overrides: Sequence[str] = (),
    jobs: int = 1,
    folder: Path | None = None,
    plugins: Sequence[Path] = (),
    reporter: Reporter | None = None,
    worker: Sequence[str] = WORKER,
) -> tuple[Path, Findings]:
    """Train every subset of the named tricks, `seeds` runs each, and estimate main effects and interactions.

    `tricks` are of the recipe, by default all of its own, or further ones, which are added with `options` such as
    `tricks.ema.decay=0.99`. `order` is the largest number of tricks in an interaction; what larger ones do counts as
    residual. The same call continues a study that was stopped. Returns the study's folder and its findings, which are
    also written there. Raises UserError with everything that is wrong; Interrupted, after the workers have saved.
    """
    reporter = reporter or Reporter()
    opened = open_study(recipe, metric, figure, overrides, jobs, plugins)
    planned = Factorial(opened.base, tricks, options)
    first = opened.base.recipe.seed
    numbers = tuple(first + i for i in range(seeds))
    definition = _definition(planned, numbers, opened.compared)
    home = choose(folder, f"{opened.base.recipe.name}-factorial", definition)
    recipes = {v.name: v.recipe for v in planned.variants.values() if v.recipe}

    def runs() -> Playing:
        every = [(variant, seed) for seed in numbers for variant in planned.possible]
        reference = planned.variants[planned.reference].name
        playing = Playing(
            home, every, opened.base.recipe, opened.compared, opened.plugins, reporter, reference=reference
        )
        words = f"{len(recipes)} of {len(planned.variants)} subsets of {', '.join(planned.names)}, {seeds} seeds each"
        why = [f"{v.name} cannot be trained: {v.impossible}" for v in planned.variants.values() if v.impossible]
        reporter.designed(home.path, words, playing.total, len(playing.outcomes), why)
        return playing

    def end(playing: Playing) -> Findings:
        found = analyse(planned, playing, min(order, len(planned.names)))
        write_results(home, found.as_dict(), as_markdown(found), effects_forest(found))
        return found

    return home.path, conduct(
        home,
        lambda: begin(home, recipes, definition, opened.threads),
        runs,
        end,
        jobs=jobs,
        threads=opened.threads,
        worker=worker,
        reporter=reporter,
    )


def _definition(planned: Factorial, seeds: Sequence[int], compared: Figure) -> dict[str, Any]:
    return {
        "mode": "factorial",
        "metric": compared.metric,
        "figure": compared.name,
        "better": compared.better,
        "seeds": [*seeds],
        "steps": planned.base.recipe.train.steps,
        "tricks": planned.names,
        "variants": {
            variant.name: {"impossible": variant.impossible} if variant.recipe is None else written(variant.recipe)
            for variant in planned.variants.values()
        },
    }


def analyse(planned: Factorial, playing: Playing, order: int) -> Findings:
    """Estimate the effects of up to `order` tricks from the runs that have ended."""
    terms, subsets = planned.terms(order), planned.possible
    seeds = sorted({seed for _, seed in playing.every})
    # runs with one seed have its initial weights and data in common: each seed is a block
    rows = [
        Row(outcome, planned.columns(subsets[variant], order) | {f"seed {n}": float(n == seed) for n in seeds[1:]})
        for (variant, seed), outcome in playing.outcomes.items()
    ]
    found = regress(rows, [*(f"seed {n}" for n in seeds[1:]), *terms], playing.compared.ratio)
    better = direction(playing)
    families = []
    for size in range(1, order + 1):
        names = [name for name, group in terms.items() if len(group) == size]
        # ±1 codes: the coefficient is half of what a change from -1 to +1 does
        effects = found.effects(names, lambda row, name: row.columns[name] > 0, factor=2.0)
        judged = (judge(effect, found.scale, better, size > 1) for effect in effects)
        families.append(Family(_title(size), tuple(judged)))
    return findings(
        "factorial",
        planned.base,
        playing,
        found,
        families,
        impossible={v.name: v.impossible for v in planned.variants.values() if v.impossible},
        remarks=tuple(_remarks(planned, found, order)),
        table=tuple(
            {
                "variant": row.outcome.variant,
                "seed": row.outcome.seed,
                "tricks": [name for name in planned.names if name in subsets[row.outcome.variant]],
                "status": row.outcome.status,
                "collapsed": row.outcome.collapsed,
                "values": row.outcome.values,
                "seconds": row.outcome.seconds,
            }
            for row in rows
        ),
    )


def _title(size: int) -> str:
    return {1: "main effects", 2: "interactions of two"}.get(size, f"interactions of {size}")


def _remarks(planned: Factorial, found: Regression, order: int) -> Iterator[str]:
    yield (
        "a main effect is the mean difference between runs with the trick and without it, over all subsets of the "
        "others; an interaction of two is half the difference between a trick's effect with the other and without it; "
        "differences between seeds are taken out"
    )
    if order < len(planned.names):
        yield f"interactions of more than {order} tricks count as residual"
    missing = len(planned.variants) - len(planned.possible)
    if missing:
        yield from _aliasing(planned, found, missing)


def _aliasing(planned: Factorial, found: Regression, missing: int) -> Iterator[str]:
    """Yield what subsets that cannot be trained do to the estimates."""
    yield (
        f"{counted(missing, 'subset')} of {len(planned.variants)} cannot be trained, so the effects are no longer "
        "independent of one another: the inflation of each one's variance stands beside it, and what larger "
        "interactions do is mixed into them"
    )
    aliased: Mapping[str, Mapping[str, float]] = found.fit.aliased if found.fit else {}
    for name, weights in aliased.items():
        mixed = [f"{other} stands for {other} {_signed(w)}{name}" for other, w in weights.items() if other != MEAN]
        so = f": what is written beside {', '.join(mixed)}" if mixed else ""
        yield f"the subsets that would show {name} cannot be trained{so}"


def _signed(weight: float) -> str:
    size = "" if abs(abs(weight) - 1) < 1e-6 else f"{abs(weight):.2g} "
    return f"{'−' if weight < 0 else '+'} {size}"
