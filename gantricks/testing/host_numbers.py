"""Finds the host numbers of a trick, in any attribute, list, dict or variable."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gantricks.engine import state
from gantricks.engine.game import Game
from gantricks.trick import Trick


@dataclass(frozen=True)
class HostNumber:
    """A number in an attribute, a list, a dict or a variable, or an undeclared tensor.

    `value` is the number, or the tensor's sum. `set` changes it and `restore` restores it.
    """

    value: float
    set: Callable[[Any], None]
    restore: Callable[[], None]


def host_numbers(game: Game, trick: Trick) -> dict[str, HostNumber]:
    """Return the numbers of a trick that no checkpoint holds, by their path.

    They may be on the trick and the objects it holds, on its class, in its module, on its own optimizers, and on the
    networks and their layers.
    """
    declared = [tensor for tensors in state.tensors(game).values() for tensor in tensors.values()]
    return _Numbers({tensor.untyped_storage().data_ptr() for tensor in declared}).of(game, trick)


class _Numbers:
    def __init__(self, declared: set[int]) -> None:
        self.found: dict[str, HostNumber] = {}
        self._declared = declared
        self._seen: set[int] = set()

    def of(self, game: Game, trick: Trick) -> dict[str, HostNumber]:
        home = type(trick).__module__
        self._object(trick, "self", 4)
        for player in game.players.values():
            for name, layer in player.network.named_modules():
                self._object(
                    layer, f"{player.name.upper()}.{name}".rstrip("."), 2 if type(layer).__module__ == home else 1
                )
            if _of_a_plugin(player.optimizer):
                self._object(player.optimizer, f"{player.name.upper()}'s optimizer", 2)
        for cls in type(trick).__mro__:
            if cls.__module__ == home:
                for key, value in list(vars(cls).items()):
                    self._value(value, f"{cls.__name__}.{key}", _setter(cls, key), 2)
        shared = vars(sys.modules[home]) if home in sys.modules else {}
        for key, value in list(shared.items()):
            if not key.startswith("__") and not isinstance(value, type | ModuleType | FunctionType):
                self._value(value, key, _item_setter(shared, key), 2)
        return self.found

    def _object(self, holder: Any, path: str, depth: int) -> None:
        if id(holder) in self._seen or not depth:
            return
        self._seen.add(id(holder))
        is_layer = isinstance(holder, nn.Module)
        held = dict(getattr(holder, "__dict__", {}))
        if _of_a_plugin(holder):  # class attributes that an object may replace by its own
            classes = [cls for cls in type(holder).__mro__ if cls.__module__ == type(holder).__module__]
            started = {key: value for cls in classes for key, value in vars(cls).items() if type(value) in _PLAIN}
            held = started | held
        for key, value in held.items():
            if not (is_layer and (key.startswith("_") or key in ("training", "call_super_init"))) and key != "config":
                self._value(value, f"{path}.{key}", _setter(holder, key), depth)

    def _value(self, value: Any, path: str, put: Callable[[Any], None], depth: int) -> None:
        if isinstance(value, int | float | np.number | np.bool_):
            self.found[path] = HostNumber(value, put, lambda: put(value))  # type: ignore[arg-type]
        elif isinstance(value, count):
            at = int(repr(value).partition("(")[2].partition(",")[0].rstrip(")"))
            self.found[path] = HostNumber(at, lambda number: put(count(int(number))), lambda: put(count(at)))
        elif isinstance(value, Tensor | np.ndarray):
            self._array(value, path)
        elif not depth or isinstance(value, type) or id(value) in self._seen:
            return
        elif isinstance(value, dict | list | deque):
            self._seen.add(id(value))
            for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
                self._value(item, f"{path}[{key!r}]", _item_setter(value, key), depth - 1)
        elif isinstance(value, FunctionType | MethodType | partial):
            self._function(value, path, depth)
        elif isinstance(value, nn.Module) or _of_a_plugin(value):
            self._object(value, path, depth - 1)

    def _array(self, value: Any, path: str) -> None:
        array = isinstance(value, np.ndarray)
        if not array and (value.requires_grad or value.untyped_storage().data_ptr() in self._declared):
            return
        if (value.size if array else value.numel()) > _LARGE or (array and value.dtype.kind not in "biuf"):
            return
        copy = value.copy() if array else value.detach().clone()

        def put(number: Any) -> None:
            value[...] = number

        self.found[path] = HostNumber(float(copy.sum()), put, lambda: put(copy))

    def _function(self, value: Any, path: str, depth: int) -> None:
        self._seen.add(id(value))
        if isinstance(value, partial):
            for number, item in enumerate(value.args):
                self._value(item, f"{path}'s argument {number}", lambda _: None, depth - 1)
            return
        plain = value.__func__ if isinstance(value, MethodType) else value
        for name, cell in zip(plain.__code__.co_freevars, plain.__closure__ or (), strict=False):
            try:
                held = cell.cell_contents
            except ValueError:  # the variable has no value yet
                continue
            self._value(held, f"{path}'s variable {name}", _setter(cell, "cell_contents"), depth - 1)


_PLAIN = (int, float, bool)


_LARGE = 4096
"""Arrays and tensors of more numbers than this are data, and not counters."""


def _of_a_plugin(value: Any) -> bool:
    """Return whether the object's class is defined in a plugin, not in torch or the core."""
    home = type(value).__module__
    ours = home.startswith(("torch", "numpy", "gantricks.", "builtins", "pydantic", "collections", "functools"))
    return hasattr(value, "__dict__") and (not ours or home.startswith("gantricks.plugins."))


def _setter(holder: Any, key: str) -> Callable[[Any], None]:
    return lambda value: setattr(holder, key, value)


def _item_setter(holder: Any, key: Any) -> Callable[[Any], None]:
    return lambda value: holder.__setitem__(key, value)


def held_by(trick: Trick, kind: type | tuple[type, ...], depth: int = 4) -> list[Any]:
    """Return the objects of a kind that a trick holds, in its attributes or in what these hold."""
    found: list[Any] = []
    seen: set[int] = set()

    def look(value: Any, left: int) -> None:
        if id(value) in seen or left < 0:
            return
        seen.add(id(value))
        if isinstance(value, kind):
            found.append(value)
        if isinstance(value, dict):
            items = list(value.values())
        elif isinstance(value, list | tuple | set):
            items = list(value)
        elif isinstance(value, Tensor | nn.Module | torch.optim.Optimizer | type):
            items = []
        elif _of_a_plugin(value):
            items = list(getattr(value, "__dict__", {}).values())
        else:
            items = []
        for item in items:
            look(item, left - 1)

    look(trick, depth)
    return found
