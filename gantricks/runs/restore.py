"""A checkpoint taken up by a game, or refused where it does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gantricks.engine import state
from gantricks.engine.game import Game
from gantricks.errors import Problem, UserError
from gantricks.runs.folder import RECIPE
from gantricks.store import Tensors

Saved = tuple[Tensors, dict[str, Any]]
"""What a checkpoint holds: tensors by group, and numbers."""


def take_up(game: Game, saved: Saved, run: Path) -> None:
    """Go on from a checkpoint. Raises UserError where it is not one of this recipe."""
    try:
        state.load(game, *saved)
    except (KeyError, ValueError) as error:
        raise UserError(
            Problem(
                f"the checkpoint does not fit the recipe: {error.args[0]}",
                str(run / RECIPE),
                "the recipe, a plugin or the data has changed since it was written; put it back, or train afresh",
            )
        ) from error
