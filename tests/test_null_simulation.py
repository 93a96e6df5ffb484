"""Studies of skewed figures in which nothing has an effect: verdicts are as rare as they say."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "null_simulation.py"


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    spec = importlib.util.spec_from_file_location("null_simulation", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_figures_have_no_effect_and_the_skewness_that_is_said(simulation: ModuleType) -> None:
    rng = np.random.default_rng(0)
    shapes = {**simulation.SHAPES, **simulation.HARDER}
    for shape, skewness in zip(shapes.values(), (0, -0.5, -1.1, 0.5, 1.1, 0, 1.75, 2), strict=True):
        drawn = shape(rng, 400_000)
        assert (drawn.mean(), drawn.std()) == (pytest.approx(0, abs=0.01), pytest.approx(1, abs=0.01))
        assert (drawn**3).mean() == pytest.approx(skewness, abs=0.1)


@pytest.mark.parametrize("adjust", ["max-t", "holm"])
@pytest.mark.parametrize("paired", [False, True])
def test_few_studies_without_an_effect_have_a_verdict(simulation: ModuleType, paired: bool, adjust: str) -> None:
    studies = 250
    shapes = [*simulation.SHAPES.values()]
    false = simulation.false_studies(studies, shapes, range(5, 9), range(5, 9), adjust, paired, draws=400)
    assert false <= 0.05 + 3.4 * math.sqrt(0.05 * 0.95 / studies)


def test_an_effect_is_found_by_the_same_code(simulation: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = simulation.family

    def moved(*given: object) -> object:
        made = drawn(*given)
        made.values[1] += 2.0
        return made

    monkeypatch.setattr(simulation, "family", moved)
    assert simulation.false_studies(20, [*simulation.SHAPES.values()], [5], [8], draws=400) >= 0.95


@pytest.mark.slow
def test_of_two_thousand_studies_at_most_six_in_a_hundred_have_a_false_verdict(simulation: ModuleType) -> None:
    shapes = [*simulation.SHAPES.values()]
    assert simulation.false_studies(2000, shapes, range(5, 31), range(5, 25)) <= 0.06
