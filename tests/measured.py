"""A tiny run whose recipe has one metric, "figure": a number that the test makes up from the game."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

from gantricks.engine.game import Game
from gantricks.planning.facts import Facts
from gantricks.planning.plan import Plan
from gantricks.testing import TrickHost
from gantricks.trick import Setting


def first_weight(game: Game) -> float:
    """A function of the state, such as a metric is."""
    return next(game.generator.parameters()).sum().item()


@dataclass(frozen=True)
class Measured(TrickHost):
    """`figure` takes the place of what measuring would find, and `better` is its direction."""

    figure: Callable[[Game], float] = first_weight
    better: str = "higher"

    def plan(self) -> Plan:
        setting, provided = Facts.setting.func, Facts.provided.func

        def with_metric(facts: Facts) -> Setting:
            return replace(setting(facts), metrics={"figure": self.better})

        with (
            mock.patch.object(Facts, "setting", property(with_metric)),
            mock.patch.object(Facts, "provided", property(lambda facts: provided(facts) | {"metric"})),
        ):
            return super().plan()

    def game(self, wrap: Any = None) -> Game:
        game = super().game(wrap)

        def evaluate(metric: str, stream: str = "") -> float:
            assert metric == "figure"
            return self.figure(game)

        game.frame.evaluate = evaluate
        return game
