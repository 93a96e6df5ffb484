"""A checkpoint taken up by a game, or refused where it does not fit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from gantricks.engine.game import Game
from gantricks.errors import Problem, UserError
from gantricks.runs.folder import RECIPE
from gantricks.store import Tensors

Saved = tuple[Tensors, dict[str, Any]]
"""What a checkpoint holds: tensors by group, and numbers."""


def take_up(game: Game, saved: Saved, run: Path) -> None:
    """Go on from a checkpoint. Raises UserError where it is not one of this recipe."""
    try:
        _refuse_unfit(game, *saved)
        game.load(*saved)
    except (KeyError, ValueError) as error:
        raise UserError(
            Problem(
                f"the checkpoint does not fit the recipe: {error.args[0]}",
                str(run / RECIPE),
                "the recipe, a plugin or the data has changed since it was written; put it back, or train afresh",
            )
        ) from error


def _refuse_unfit(game: Game, tensors: Tensors, counters: dict[str, Any]) -> None:
    """Raise ValueError where a checkpoint holds what no game of this recipe does and `Game.load` takes on trust."""
    live = game.state()
    if differing := ", ".join(sorted((live.keys() ^ tensors.keys()) - {"kept"})):
        raise ValueError(f"it holds other groups of tensors than this recipe makes: {differing}")
    if ("kept" in tensors) != ("kept" in counters):
        raise ValueError("of the state to come back to it holds a half")
    for numbers in (counters, counters.get("kept", counters)):
        _refuse_other_numbers(game.counters()["optimizers"], numbers["optimizers"])
    flat = {f"{group}/{name}": tensor for group, named in live.items() for name, tensor in named.items()}
    for name, tensor in tensors.get("kept", {}).items():
        if name not in flat:
            # what an optimizer makes at its first step is there only after loading
            if not name.partition("/")[0].endswith("_optimizer"):
                raise ValueError(f"the state to come back to holds {name}, which this recipe does not make")
        elif (tensor.shape, tensor.dtype) != (flat[name].shape, flat[name].dtype):
            raise ValueError(f"the state to come back to: {name} is {tuple(tensor.shape)} of {tensor.dtype}")
    networks = {name for name in flat if name.partition("/")[0] in ("generator", "discriminator")}
    if "kept" in tensors and (missing := networks - tensors["kept"].keys()):
        raise ValueError(f"the state to come back to lacks {', '.join(sorted(missing))}")


def _refuse_other_numbers(live: dict[str, list[dict[str, Any]]], saved: dict[str, list[dict[str, Any]]]) -> None:
    """Raise ValueError where the settings of optimizers are not of the kind that these optimizers have."""
    if live.keys() != saved.keys() or any(len(live[name]) != len(saved[name]) for name in live):
        raise ValueError("it has other optimizers than this recipe makes")
    for name, groups in live.items():
        for group, other in zip(groups, saved[name], strict=True):
            for key, value in group.items():
                if key in other and not _alike(value, other[key]):
                    raise ValueError(f"{key} of {name.upper()}'s optimizer is {other[key]!r:.100}")


def _alike(live: Any, saved: Any) -> bool:
    if isinstance(live, list | tuple):
        return isinstance(saved, list) and len(saved) == len(live) and all(map(_alike, live, saved))
    if isinstance(live, bool) or not isinstance(live, int | float):
        return type(saved) is type(live)
    if isinstance(saved, bool) or not isinstance(saved, int | float):
        return False
    return math.isfinite(saved) or not math.isfinite(live)
