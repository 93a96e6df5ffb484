"""The conditions for which a run is sampled: of texts, or rows of numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from gantricks.data.captions import read_rows
from gantricks.data.text import words
from gantricks.errors import Problem, UserError, nearest
from gantricks.planning.plan import Plan

_ROWS = "give the rows of your encoder: --conditions FILE.npy"


def conditions_for(
    plan: Plan,
    texts: Sequence[str] = (),
    rows: np.ndarray | None = None,
    warn: Callable[[str], None] = lambda sentence: None,
) -> np.ndarray | None:
    """Return the conditions (n, E) that stand for `texts`, or the `rows` themselves; None where neither is given.

    `warn` is called with a sentence for each word that no caption of the data has. Raises UserError where the generator
    is given no captions, or where the rows do not fit it.
    """
    if not texts and rows is None:
        return None
    width, where = plan.description.condition, "--text" if texts else "--conditions"
    if texts and rows is not None:
        raise UserError(Problem("texts and conditions are given", "--text, --conditions", "leave one of them out"))
    if not width or "generator_conditioned" not in plan.facts.provided:
        what = "the generator of this run is given no conditions"
        raise UserError(Problem(what, where, "train one on data with captions, such as stackgan_1"))
    if rows is not None:
        if rows.ndim != 2 or rows.shape[1] != width or not len(rows):
            what = f"conditions of this run are rows of {width} numbers, not an array of shape {rows.shape}"
            raise UserError(Problem(what, where, f"save an array of shape (n, {width})"))
        return rows.astype(np.float32)
    found = plan.source.embed(texts)
    if found is None or not plan.description.words:
        raise UserError(Problem("the conditions of this run are not made of texts", where, _ROWS))
    if empty := [text for text in texts if not words(text)]:
        raise UserError(Problem(f"no word in {empty[0]!r}", where, 'write a caption, such as "a red bag"'))
    known = plan.description.words
    for word in dict.fromkeys(word for text in texts for word in words(text)):
        if word not in known:
            advice = nearest(word, known)
            warn(
                f"no caption of the data has the word {word!r}, so it means nothing here" + f"; {advice}" * bool(advice)
            )
    return found


def read_conditions(path: Path) -> np.ndarray:
    """Return the conditions in an .npy file, (n, E). Raises UserError where it holds none."""
    return np.asarray(read_rows(path, "save one row of numbers for each picture: numpy.save(path, rows)"))
