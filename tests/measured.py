"""A tiny run whose recipe has one metric, "figure": a number that the test makes up from the game."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gantricks import Measurement, Metric
from gantricks.engine.game import Game
from gantricks.planning.recipe import Recipe
from gantricks.testing import TrickHost


def first_weight(game: Game) -> float:
    """A function of the state, such as a metric is."""
    return next(game.generator.parameters()).sum().item()


@dataclass(frozen=True)
class Measured(TrickHost):
    """`figure` is what measuring finds, and `better` its direction."""

    figure: Callable[[Game], float] = first_weight
    better: str = "higher"

    def recipe(self) -> Recipe:
        figure = self.figure

        class Figure(Metric):
            """A number made up from the game."""

            figures = {"figure": self.better}

            def measure(self, subject: Any) -> Measurement:
                return Measurement({"figure": figure(subject._game)})

        return super(Measured, self.but(metrics=()).with_metric(Figure)).recipe()
