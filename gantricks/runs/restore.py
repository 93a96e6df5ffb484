"""Loads a checkpoint into a game."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gantricks.engine import state
from gantricks.engine.game import Game
from gantricks.errors import Problem, UserError
from gantricks.runs.folder import RECIPE
from gantricks.store import Tensors

Saved = tuple[Tensors, dict[str, Any]]
"""The contents of a checkpoint: tensors by group, and numbers."""


def load_state(game: Game, saved: Saved, run: Path) -> None:
    """Load a checkpoint into the game. Raises UserError where it does not fit the recipe."""
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
