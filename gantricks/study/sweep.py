"""A study over values: the recipe against itself with other values of its keys."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

from gantricks.errors import Problem, UserError
from gantricks.study.playing import Reporter
from gantricks.study.pool import WORKER
from gantricks.study.spread import read_spread
from gantricks.study.statistics import Adjust
from gantricks.study.study import compare_variants, open_study, rules_of
from gantricks.study.table import StudyDesign, Table
from gantricks.study.variants import Base, Contrast, Design, Variant, feasible, reference, try_variant

MODE = "sweep"
RECIPE = "recipe"
"""The name of the reference: the recipe as it stands."""
MOST = 64
"""The largest number of variants."""
FIXED = {"seed": "runs have seeds of their own", "name": "it changes nothing in a run"}


class Axis(NamedTuple):
    """A key of the recipe and the values that it is given, as they are written."""

    key: str
    values: tuple[str, ...]


def sweep(
    recipe: str | Path,
    axes: Sequence[str],
    *,
    seeds: int = 5,
    design: StudyDesign = "independent",
    adjust: Adjust = "max-t",
    margin: float | None = None,
    spread: str | None = None,
    metric: str | None = None,
    figure: str | None = None,
    overrides: Sequence[str] = (),
    jobs: int = 1,
    folder: Path | None = None,
    plugins: Sequence[Path] = (),
    reporter: Reporter | None = None,
    worker: Sequence[str] = WORKER,
) -> tuple[Path, Table]:
    """Train a recipe with each combination of values, `seeds` runs each, and compare a figure with the recipe's own.

    `axes` are words such as `tricks.ema.decay=0.9,0.99`: a key and its values. All else is as in `ablate`. Raises
    UserError with everything that is wrong; Interrupted, after the workers have saved their runs.
    """
    reporter = reporter or Reporter()
    read = [axis(word) for word in axes]
    opened = open_study(recipe, metric, figure, overrides, jobs, plugins)
    rules = rules_of(opened.compared, design, adjust, margin)
    expected = read_spread(spread, opened.compared, rules) if spread else None
    planned = variants_of(opened.base, read)
    return compare_variants(
        opened, planned, MODE, seeds, rules, expected, folder=folder, jobs=jobs, worker=worker, reporter=reporter
    )


def axis(word: str) -> Axis:
    """Read `KEY=VALUE,VALUE,…`. A comma within brackets, braces or quotes belongs to a value.

    Raises UserError where there is no key, no value, the same value twice, or a key that cannot be compared.
    """
    key, mark, listed = (part.strip() for part in word.partition("="))
    values = tuple(parts(listed, ","))
    hint = "write KEY=VALUE,VALUE,… such as tricks.ema.decay=0.9,0.99"
    if not key or not mark or not all(values):
        raise UserError(Problem("it names no values of a key", word, hint))
    if len({*values}) < len(values):
        raise UserError(Problem("a value stands there twice", word, "leave one out"))
    if key in FIXED:
        raise UserError(Problem(f"{key} cannot be compared: {FIXED[key]}", word, "name another key"))
    return Axis(key, values)


def parts(listed: str, mark: str) -> Iterator[str]:
    """Yield the values of a list with `mark` between them. One within brackets, braces or quotes belongs to a value."""
    depth, quote, value = 0, "", ""
    for letter in listed:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter in "[{":
            depth += 1
        elif letter in "]}":
            depth -= 1
        if letter == mark and not depth and not quote:
            yield value.strip()
            value = ""
        else:
            value += letter
    yield value.strip()


def variants_of(base: Base, axes: Sequence[Axis]) -> Design:
    """Return the recipe, and a variant for each combination of values.

    Raises UserError where a key stands there twice, where there are more than `MOST`, and where nothing is left to
    compare the recipe with.
    """
    keys = [each.key for each in axes]
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        raise UserError(Problem("its values stand in two places", twice, "list them once: KEY=VALUE,VALUE,…"))
    combinations = [[*zip(keys, values, strict=True)] for values in product(*(each.values for each in axes))]
    if len(combinations) > MOST:
        raise UserError(Problem(f"these are {len(combinations)} combinations; {MOST} are the most", ", ".join(keys)))
    short = {key: key.rpartition(".")[2] for key in keys}
    if len({*short.values()}) < len(keys):
        short = {key: key for key in keys}
    found, own = [reference(base, RECIPE)], base.recipe.as_dict()
    for chosen in combinations:
        name = _unlike(",".join(f"{short[key]}={value}" for key, value in chosen), {variant.name for variant in found})
        variant = try_variant(base, name, [f"{key}={value}" for key, value in chosen])
        if variant.recipe and variant.recipe.as_dict() == own:
            variant = Variant(name, None, "it is the recipe as it stands")
        found.append(variant)
    contrasts = [Contrast(variant.name, (variant.name,), (RECIPE,)) for variant in found[1:]]
    return feasible(found, contrasts)


def _unlike(name: str, others: set[str]) -> str:
    """Return a name for a folder that no other variant has."""
    plain = re.sub(r"[^\w.,=+-]+", "_", name)[:100]
    number = 2
    while (numbered := plain if plain not in others else f"{plain}-{number}") in others:
        number += 1
    return numbered
