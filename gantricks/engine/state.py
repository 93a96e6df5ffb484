"""The state of a game: the contents of a checkpoint, loading it, and snapshots."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from gantricks.engine.dispatch import notify
from gantricks.engine.game import Game, Snapshot, Tensors
from gantricks.engine.players import Player
from gantricks.errors import TrickError


def tensors(game: Game) -> dict[str, Tensors]:
    """Return every tensor of a checkpoint, by group and name. These are the live tensors, not copies."""
    state = {"tricks": game.trick_tensors}
    for player in game.players.values():
        state[player.role] = player.network.state_dict()
        state[f"{player.role}_optimizer"] = _optimizer_tensors(player)
    return state | ({"kept": game.snapshot.tensors} if game.snapshot else {})


def counters(game: Game) -> dict[str, Any]:
    """Return every host number of a checkpoint."""
    found = {"step": game.finished, "images_seen": game.feed.cursor, **_numbers(game)}
    found |= {"kept": game.snapshot.numbers} if game.snapshot else {}
    return found | ({"state_from_step": game.restored_step} if game.restored_step is not None else {})


def moving(game: Game) -> list[Tensor]:
    """Return every tensor that a step changes and a later step reads, each once."""
    found = [tensor for name, group in tensors(game).items() if name != "kept" for tensor in group.values()]
    found += game.guard.tensors()
    found += [player.held for player in game.players.values()]
    return list({tensor.data_ptr(): tensor.detach() for tensor in found if tensor.numel()}.values())


def load(game: Game, saved: dict[str, Tensors], numbers: dict[str, Any]) -> None:
    """Load a saved state, in place.

    Raises KeyError or ValueError when the saved tensors and numbers do not fit this game.
    """
    _refuse_unfit(game, saved, numbers)
    game.feed.cursor = numbers["images_seen"]
    game.move_to(numbers["step"])
    game.snapshot = None
    if "kept" in saved:
        copies = {name: tensor.to(game.placement.device, copy=True) for name, tensor in saved["kept"].items()}
        game.snapshot = Snapshot(copies, numbers["kept"])
    game.restored_step = numbers.get("state_from_step")
    _apply(game, saved, numbers)


# ---------------------------------------------------------------- snapshots


def snapshot(game: Game, trick: str) -> None:
    """Save the present state as the snapshot, without the tensors of `trick`, which asks for it."""
    own = {f"tricks/{name}" for name in _tensors_of(game, trick)}
    live = {
        f"{group}/{name}": tensor
        for group, named in tensors(game).items()
        if group != "kept"
        for name, tensor in named.items()
        if f"{group}/{name}" not in own
    }
    numbers = {"step": game.finished, **_numbers(game)}
    if game.snapshot and game.snapshot.tensors.keys() == live.keys():
        _copy_into(game.snapshot.tensors, live, "the kept state")
        game.snapshot.numbers = numbers
    else:
        game.snapshot = Snapshot({name: tensor.detach().clone() for name, tensor in live.items()}, numbers)


def restore(game: Game, trick: str) -> None:
    """Copy the snapshot into the present state, in place. The tensors of `trick` and the number of finished
    steps stay.
    """
    if not game.snapshot:
        raise TrickError(f"{trick}: ctx.restore() was called before ctx.snapshot()")
    phase = game.clock.phase
    state: dict[str, Tensors] = {"tricks": _tensors_of(game, trick)}
    for name, tensor in game.snapshot.tensors.items():
        group, _, key = name.partition("/")
        state.setdefault(group, {})[key] = tensor
    _apply(game, state, game.snapshot.numbers)
    game.restored_step = game.snapshot.numbers["step"]
    game.clock.enter(phase)


@contextmanager
def restoring(players: Iterable[Player]) -> Iterator[None]:
    """Put the weights, buffers and optimizer state of these players back at the end."""
    live = [
        tensor.detach()
        for player in players
        for tensor in (*player.network.state_dict().values(), *_optimizer_tensors(player).values())
    ]
    copies = [tensor.clone() for tensor in live]
    yield
    with torch.no_grad():
        for tensor, copy in zip(live, copies, strict=True):
            tensor.copy_(copy)


def _tensors_of(game: Game, trick: str) -> Tensors:
    return {name: tensor for name, tensor in game.trick_tensors.items() if name.partition("/")[0] == trick}


# ---------------------------------------------------------------- in place


def _numbers(game: Game) -> dict[str, Any]:
    """Return the host numbers of a state, without the number of finished steps."""
    groups = {
        name: [
            {
                key: value
                for key, value in group.items()
                if isinstance(value, int | float | list | tuple) and key != "params"
            }
            for group in player.optimizer.param_groups
        ]
        for name, player in game.players.items()
    }
    return {"batch_size": game.feed.batch_size, "n_critic": game.step.n_critic, "optimizers": groups}


def _apply(game: Game, saved: dict[str, Tensors], numbers: dict[str, Any]) -> None:
    for name, player in game.players.items():
        role = player.role
        _copy_into(player.network.state_dict(), saved[role], role)
        _load_optimizer(player, saved[f"{role}_optimizer"], f"the {role}'s optimizer")
        for group, settings in zip(player.optimizer.param_groups, numbers["optimizers"][name], strict=True):
            group.update({key: tuple(v) if isinstance(v, list) else v for key, v in settings.items()})
    _copy_into(game.trick_tensors, saved["tricks"], "the tricks' state")
    game.feed.batch_size = numbers["batch_size"]
    game.step.n_critic = numbers["n_critic"]
    game.clock.enter("setup")
    notify(game.hooks.on_load)


def _optimizer_tensors(player: Player) -> Tensors:
    names = {id(parameter): name for name, parameter in player.network.named_parameters()}
    found: Tensors = {}
    for parameter, state in player.optimizer.state.items():
        for key, value in state.items():
            if torch.is_tensor(value):
                found[f"{names[id(parameter)]}.{key}"] = value
            elif value is not None:
                raise TrickError(
                    f"{type(player.optimizer).__name__} keeps {key!r} as a Python number, which no checkpoint would "
                    "hold; use an optimizer whose state is tensors"
                )
    for number, group in enumerate(player.optimizer.param_groups):
        found |= {f"group.{number}.{key}": value for key, value in group.items() if torch.is_tensor(value)}
    return found


def _load_optimizer(player: Player, saved: Tensors, what: str) -> None:
    """Copy saved state in place. An optimizer that makes its state in its first update gets copies of the saved
    state.
    """
    live = _optimizer_tensors(player)
    for name, parameter in player.network.named_parameters():
        for key in [key.removeprefix(f"{name}.") for key in saved.keys() - live.keys()]:
            if f"{name}.{key}" in saved:
                made = saved[f"{name}.{key}"].clone()
                player.optimizer.state[parameter][key] = made.to(parameter.device)
    _copy_into(_optimizer_tensors(player), saved, what)


@torch.no_grad()
def _copy_into(live: Tensors, saved: Tensors, what: str) -> None:
    if live.keys() != saved.keys():
        difference = ", ".join(sorted(live.keys() ^ saved.keys()))
        raise KeyError(f"{what} holds other tensors than this recipe makes: {difference}")
    for name, tensor in live.items():
        if tensor.shape != saved[name].shape:
            raise ValueError(f"{what}: {name} is {tuple(saved[name].shape)}, expected {tuple(tensor.shape)}")
        if tensor.dtype != saved[name].dtype:
            raise ValueError(f"{what}: {name} is {saved[name].dtype}, expected {tensor.dtype}")
        tensor.copy_(saved[name])


# ---------------------------------------------------------------- refusing states that do not fit


def _refuse_unfit(game: Game, saved: dict[str, Tensors], numbers: dict[str, Any]) -> None:
    """Raise ValueError for differences between a saved state and this game that copying would not notice."""
    live = tensors(game)
    if differing := ", ".join(sorted((live.keys() ^ saved.keys()) - {"kept"})):
        raise ValueError(f"it holds other groups of tensors than this recipe makes: {differing}")
    if ("kept" in saved) != ("kept" in numbers):
        raise ValueError("it holds the tensors or the numbers of the kept state, but not both")
    for given in (numbers, numbers.get("kept", numbers)):
        _refuse_other_numbers(_numbers(game)["optimizers"], given["optimizers"])
    flat = {f"{group}/{name}": tensor for group, named in live.items() for name, tensor in named.items()}
    for name, tensor in saved.get("kept", {}).items():
        if name not in flat:
            # state that an optimizer makes in its first update exists only after loading
            if not name.partition("/")[0].endswith("_optimizer"):
                raise ValueError(f"the kept state holds {name}, which this recipe does not make")
        elif (tensor.shape, tensor.dtype) != (flat[name].shape, flat[name].dtype):
            raise ValueError(f"the kept state: {name} is {tuple(tensor.shape)} of {tensor.dtype}")
    roles = {player.role for player in game.players.values()}
    networks = {name for name in flat if name.partition("/")[0] in roles}
    if "kept" in saved and (missing := networks - saved["kept"].keys()):
        raise ValueError(f"the kept state lacks {', '.join(sorted(missing))}")


def _refuse_other_numbers(live: dict[str, list[dict[str, Any]]], saved: dict[str, list[dict[str, Any]]]) -> None:
    """Raise ValueError where the settings of a saved optimizer have other kinds of values than those of this game."""
    if live.keys() != saved.keys() or any(len(live[name]) != len(saved[name]) for name in live):
        raise ValueError("it has other optimizers than this recipe makes")
    for name, groups in live.items():
        for group, other in zip(groups, saved[name], strict=True):
            for key, value in group.items():
                if key in other and not _alike(value, other[key]):
                    raise ValueError(f"{key} of {name.upper()}'s optimizer is {other[key]!r:.100}")


def _alike(live: Any, saved: Any) -> bool:
    if isinstance(live, list | tuple):
        return isinstance(saved, list | tuple) and len(saved) == len(live) and all(map(_alike, live, saved))
    if isinstance(live, bool) or not isinstance(live, int | float):
        return type(saved) is type(live)
    if isinstance(saved, bool) or not isinstance(saved, int | float):
        return False
    return math.isfinite(saved) or not math.isfinite(live)
