"""How far runs of one variant differ by chance: given by hand, or measured by an earlier study."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gantricks.errors import Problem, UserError
from gantricks.study.playing import Figure
from gantricks.study.statistics import deviation
from gantricks.study.table import Rules

HINT = "write a number, such as 0.2 or 20%, or the results.json of a study of the same figure"


@dataclass(frozen=True)
class Spread:
    """The standard deviation of the scaled figure between runs, and where it is known from."""

    value: float
    source: str


def read_spread(text: str, compared: Figure, rules: Rules) -> Spread:
    """Return the spread that `text` gives: a number, or the results.json of a study (or its folder).

    The number is a share of figures that are compared as ratios (0.2 or 20%), and a standard deviation of others.
    Raises UserError where it is neither, or where the study measured something else.
    """
    where = f"--spread {text}"
    try:
        number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        return _of_study(Path(text), compared, rules, where)
    if not 0 < number < math.inf or (text.endswith("%") and not rules.logs):
        what = "it is no share, since differences are compared" if 0 < number < math.inf else "it must be above 0"
        raise UserError(Problem(what, where, HINT))
    return Spread(math.log1p(number) if rules.logs else number, "assumed")


def _of_study(path: Path, compared: Figure, rules: Rules, where: str) -> Spread:
    file = path / "results.json" if path.is_dir() else path
    try:
        found: Any = json.loads(file.read_text(encoding="utf-8"))
        of = (found["metric"], found["figure"])
        runs = [[float(value) for value in row["values"].values()] for row in found["means"]]
    except OSError as error:
        raise UserError(Problem(f"the file cannot be read: {error.strerror}", where, HINT)) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(Problem("the file holds no results of variants with seeds", where, HINT)) from error
    if of != (compared.metric, compared.name):
        raise UserError(Problem(f"that study compares {of[1]} of {of[0]}, not {compared.name}", where, HINT))
    if rules.logs:
        runs = [[math.log(value) for value in row if value > 0] for row in runs]
    squares = [(len(row) - 1, deviation(row) or 0.0) for row in runs if len(row) > 1]
    freedom = sum(count for count, _ in squares)
    spread = math.sqrt(sum(count * sd**2 for count, sd in squares) / freedom) if freedom else 0.0
    if not spread:
        raise UserError(Problem("the runs of that study do not spread", where, HINT))
    return Spread(spread, f"as in {file}")
