"""Confirmation: a few finalists against the recipe itself, in blocks of fresh hyper-parameters and a fresh seed.

What is going to be played and asked is written down before the first run (plan.md, study.json).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gantricks.errors import Problem, UserError
from gantricks.files import write_whole
from gantricks.study.draws import Settings, seed_of, settings_of
from gantricks.study.folder import Folder, choose
from gantricks.study.playing import Figure, Reporter, conduct
from gantricks.study.pool import WORKER
from gantricks.study.screening import ratios_of
from gantricks.study.spread import Spread, read_spread
from gantricks.study.statistics import Adjust
from gantricks.study.study import SharedSeeds, begin, open_study, rules_of, write_table, written
from gantricks.study.table import Rules, Table
from gantricks.study.variants import (
    PLAIN,
    Base,
    Contrast,
    Design,
    Variant,
    trick_of,
    tricks_to_add,
    try_variant,
)

PLAN = "plan.md"


@dataclass(frozen=True)
class Block:
    """One draw of hyper-parameters and a seed, with which the control and every finalist are played."""

    number: int
    seed: int
    settings: Settings

    @property
    def name(self) -> str:
        return f"block-{self.number:02d}"


@dataclass(frozen=True)
class Plan:
    """What a confirmation plays: the design, its blocks, and the recipe of each variant in each block, by both."""

    design: Design
    blocks: tuple[Block, ...]
    recipes: dict[tuple[str, str], Variant]


def plan_of(base: Base, finalists: Sequence[str], blocks: int, options: Sequence[str]) -> Plan:
    """Return the plan of a confirmation.

    A finalist that cannot be trained in one of the blocks is not played. Raises UserError where none is left, or where
    a name is wrong.
    """
    if not finalists:
        raise UserError(Problem("which tricks are to be confirmed?", "--finalists", "write --finalists A,B,…"))
    named = tricks_to_add(finalists, options, base.registry)
    ratios, _ = ratios_of(base)
    seed, drawn = base.recipe.seed, range(blocks)
    every = tuple(Block(i, seed_of(seed, "confirm", i), settings_of(base.recipe, "confirm", i, ratios)) for i in drawn)
    own = {trick.name for trick in base.recipe.tricks}
    variants, recipes = list[Variant](), dict[tuple[str, str], Variant]()
    for name in [None, *named]:
        called = f"with-{name}" if name else PLAIN
        changes = [f"tricks.{name}={{}}", *(o for o in options if trick_of(o) == name)] if name else []
        alone = (
            Variant(called, None, "it is in the recipe already") if name in own else try_variant(base, called, changes)
        )
        if alone.recipe:
            played = {b.name: try_variant(base, called, [*changes, *b.settings.overrides(base.recipe)]) for b in every}
            refused = next((f"in {block}: {v.impossible}" for block, v in played.items() if v.impossible), "")
            if refused:
                alone = Variant(called, None, refused)
            else:
                recipes |= {(called, block): variant for block, variant in played.items()}
        variants.append(alone)
    if len(recipes) < 2 * blocks or variants[0].impossible:
        raise UserError(
            *(Problem(f"it cannot be trained: {v.impossible}", v.name) for v in variants if v.impossible),
            Problem("nothing is left to confirm"),
        )
    contrasts = tuple(
        Contrast(variant.name.removeprefix("with-"), (variant.name,), (PLAIN,))
        for variant in variants[1:]
        if variant.recipe
    )
    return Plan(Design(tuple(variants), contrasts), every, recipes)


class _Blocks(SharedSeeds):
    """The runs of a confirmation: each variant has a recipe of its own in each block."""

    def __init__(
        self,
        home: Folder,
        plan: Plan,
        compared: Figure,
        plugins: Sequence[Path],
        reporter: Reporter,
        rules: Rules,
        expected: Spread | None,
    ) -> None:
        self._block = {block.seed: block for block in plan.blocks}
        seeds = tuple(self._block)
        super().__init__(
            home, plan.design, seeds, compared, plugins, reporter, rules=rules, expected=expected, slim=True
        )

    def recipe(self, variant: str, seed: int) -> Path:
        return self.home.recipe(f"{variant}/{self._block[seed].name}")


def confirm(
    recipe: str | Path,
    *,
    finalists: Sequence[str],
    blocks: int = 24,
    adjust: Adjust = "max-t",
    margin: float | None = None,
    spread: str | None = None,
    metric: str | None = None,
    figure: str | None = None,
    options: Sequence[str] = (),
    overrides: Sequence[str] = (),
    jobs: int = 1,
    folder: Path | None = None,
    plugins: Sequence[Path] = (),
    reporter: Reporter | None = None,
    worker: Sequence[str] = WORKER,
) -> tuple[Path, Table]:
    """Play the recipe and each finalist in `blocks` fresh blocks, and compare them block by block.

    `adjust`, `margin` and `spread` are as for `ablate`. `options` are overrides of finalists, such as
    `tricks.r1.weight=1.0`. The same call continues a study that was
    stopped. Returns the study's folder and its table, which is also written there. Raises UserError with everything
    that is wrong; Interrupted, after the workers have saved their runs.
    """
    reporter = reporter or Reporter()
    opened = open_study(recipe, metric, figure, overrides, jobs, plugins)
    plan = plan_of(opened.base, finalists, blocks, options)
    rules = rules_of(opened.compared, "paired", adjust, margin)
    expected = read_spread(spread, opened.compared, rules) if spread else None
    definition = _definition(opened.base, plan, opened.compared, rules)
    home = choose(folder, f"{opened.base.recipe.name}-confirm", definition)
    recipes = {f"{variant}/{block}": found.recipe for (variant, block), found in plan.recipes.items() if found.recipe}

    def written_down() -> Iterator[str]:
        if home.study() is None:
            write_whole(home.path / PLAN, _in_words(opened.base, plan, opened.compared))
        yield from begin(home, recipes, definition, opened.threads)

    def end(played: _Blocks) -> Table:
        table = played.table(opened.base.recipe.name, "confirm")
        write_table(home, table)
        return table

    return home.path, conduct(
        home,
        written_down,
        lambda: _Blocks(home, plan, opened.compared, opened.plugins, reporter, rules, expected),
        end,
        jobs=jobs,
        threads=opened.threads,
        worker=worker,
        reporter=reporter,
    )


def _definition(base: Base, plan: Plan, compared: Figure, rules: Rules) -> dict[str, Any]:
    return {
        "mode": "confirm",
        "metric": compared.metric,
        "figure": compared.name,
        **asdict(rules),
        "steps": base.recipe.train.steps,
        "variants": {
            variant.name: written(variant.recipe) if variant.recipe else {"impossible": variant.impossible}
            for variant in plan.design.variants
        },
        "hypotheses": _hypotheses(plan, compared),
        "blocks": [asdict(block) for block in plan.blocks],
    }


def _hypotheses(plan: Plan, compared: Figure) -> list[str]:
    told = f"changes {compared.name} of {compared.metric}, where {compared.better} is better"
    return [f"{contrast.name} {told}, against the recipe without it" for contrast in plan.design.contrasts]


def _in_words(base: Base, plan: Plan, compared: Figure) -> str:
    """Return the text of plan.md."""
    blocks = "\n".join(f"- {block.name}: seed {block.seed}, {block.settings.words}" for block in plan.blocks)
    hypotheses = "\n".join(f"{number}. {told}." for number, told in enumerate(_hypotheses(plan, compared), 1))
    impossible = "".join(f"\n\n{v.name} is not played: {v.impossible}." for v in plan.design.variants if v.impossible)
    return f"""# {base.recipe.name}: what is to be confirmed

Written before the first run.

Figure: {compared.name} of {compared.metric}; {compared.better} is better. Steps: {base.recipe.train.steps:,} a run.

Variants, each played in every block: {", ".join(plan.design.possible)}.{impossible}

Hypotheses, two-sided, tested together:

{hypotheses}

{len(plan.blocks)} blocks of hyper-parameters, each with a seed that no screening has played. Runs are compared within
their block:

{blocks}
"""
