"""Factorial designs: which subsets are played, and that their effects are those of the classical formulas."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gantricks import UserError
from gantricks.catalogue.registry import Registry
from gantricks.planning.recipe_files import read_recipe
from gantricks.study.effects import Effect, judge, percent
from gantricks.study.factorial import Factorial, factorial
from gantricks.study.playing import Figure
from gantricks.study.variants import base

SMALL = ("generator.hidden=[8]", "discriminator.hidden=[8]", "data.samples=500")


def planned(*overrides: str, tricks: tuple[str, ...] = (), options: tuple[str, ...] = ()) -> Factorial:
    begun = base(read_recipe("ring_mlp"), [*SMALL, *overrides], Registry(installed=False), 5000)
    return Factorial(begun, tricks, options)


@pytest.fixture(autouse=True)
def _always_above_0(pretend: Any) -> None:
    pretend.compared = Figure("loss", "d", "lower", ratio=True)


def test_every_subset_of_the_recipes_tricks_is_played() -> None:
    found = planned("tricks.soft_labels={}", "tricks.ema={}", "tricks.label_flipping={}")
    assert found.names == ["soft_labels", "ema", "label_flipping"]
    assert len(found.possible) == 8
    for name, subset in found.possible.items():
        variant = found.variants[subset]
        assert {trick.name for trick in variant.recipe.tricks} == subset
        assert name == ("-".join(trick for trick in found.names if trick in subset) or "none")
    assert found.reference == frozenset(found.names)


def test_named_tricks_of_the_recipe_vary_and_its_others_stay() -> None:
    found = planned("tricks.soft_labels={}", "tricks.ema={}", "tricks.label_flipping={}", tricks=("ema", "soft_labels"))
    assert len(found.possible) == 4
    assert all("label_flipping" in {t.name for t in v.recipe.tricks} for v in found.variants.values())


def test_further_tricks_are_added_with_their_options() -> None:
    found = planned("tricks.ema={}", tricks=("ema", "r1"), options=("tricks.r1.weight=0.5", "tricks.lecam={}"))
    assert found.names == ["ema", "r1", "lecam"]
    both = found.variants[frozenset({"ema", "r1"})].recipe
    assert [trick.name for trick in both.tricks] == ["ema", "r1"]
    assert both.tricks[1].options.weight == 0.5
    assert found.reference == {"ema"}


@pytest.mark.parametrize(
    ("overrides", "tricks", "options", "what"),
    [
        ((), (), (), "a factorial design has 2 to 8 tricks, not 0"),
        (("tricks.ema={}",), (), (), "a factorial design has 2 to 8 tricks, not 1"),
        ((), ("emma", "r1"), (), "there is no trick 'emma'"),
        (("tricks.ema={}",), ("ema", "r1"), ("tricks.ema.decay=0.5",), "an option of its own is set by --set"),
        ((), ("ema", "r1"), ("train.steps=5",), "an option of its own is set by --set"),
    ],
)
def test_what_is_no_factorial_design_is_refused(overrides: Any, tricks: Any, options: Any, what: str) -> None:
    with pytest.raises(UserError) as error:
        planned(*overrides, tricks=tricks, options=options)
    assert what in "; ".join(problem.what for problem in error.value.problems)


def test_effects_are_the_differences_of_means(pretend: Any) -> None:
    # three tricks, effects on the log by hand: an interaction of the first two, none of the third
    def value(name: str, seed: int) -> float:
        a, b = "soft_labels" in name, "ema" in name
        return math.exp(0.5 * a - 0.2 * b + 0.3 * (a and b) + 0.05 * ((seed * 7 + len(name)) % 5 - 2))

    tricks = ("soft_labels", "ema", "lecam")
    names = planned("tricks.soft_labels={}", "tricks.ema={}", tricks=tricks).possible
    values = {f"{name} {seed}": value(name, seed) - 0.01 * seed for name in names for seed in range(1, 5)}
    path, found = pretend(values, by=factorial, overrides=["seed=1"], tricks=tricks, seeds=4)
    assert path == Path("studies/ring_mlp-factorial")
    logs = {(row["variant"], row["seed"]): math.log(value(row["variant"], row["seed"])) for row in found.table}
    assert len(logs) == 32

    def mean(**wanted: bool) -> float:
        return float(
            np.mean([log for (name, _), log in logs.items() if all((t in name) == on for t, on in wanted.items())])
        )

    main, two = ({effect.name: effect for effect in family.effects} for family in found.families)
    for trick in tricks:
        assert main[trick].value == pytest.approx(mean(**{trick: True}) - mean(**{trick: False}))
    with_b, without_b = (mean(soft_labels=True, ema=b) - mean(soft_labels=False, ema=b) for b in (True, False))
    assert two["soft_labels × ema"].value == pytest.approx((with_b - without_b) / 2)
    assert two["soft_labels × ema"].value == pytest.approx(0.15, abs=0.06)
    assert main["soft_labels"].verdict == "hurts"
    assert main["ema"].low < -0.05 < main["ema"].high
    assert all(effect.inflation == pytest.approx(1) for effect in main.values())
    text = (path / "results.md").read_text()
    assert "interactions of more than 2 tricks count as residual" in text
    assert (path / "results.png").is_file()


def test_higher_interactions_are_shown_on_request(pretend: Any) -> None:
    values = {"soft_labels-ema-lecam": 9.0}
    _, found = pretend(
        values, by=factorial, overrides=["seed=1"], tricks=("soft_labels", "ema", "lecam"), seeds=3, order=3
    )
    assert [family.title for family in found.families] == ["main effects", "interactions of two", "interactions of 3"]
    assert [effect.name for effect in found.families[2].effects] == ["soft_labels × ema × lecam"]
    assert found.families[2].effects[0].value > 0


def test_seeds_are_blocks(pretend: Any) -> None:
    # the worker's default figure is that of the seed: with it taken out, nothing is left
    _, found = pretend({}, by=factorial, overrides=["seed=1"], tricks=("soft_labels", "ema"), seeds=4)
    assert found.explained == pytest.approx(1)
    assert found.spread == pytest.approx(0, abs=1e-12)


def test_impossible_subsets_are_dropped_and_what_that_does_is_said(pretend: Any) -> None:
    # hinge and minimax exclude each other: without the subset of both, each effect is one without the other
    effects = {"none": 0.0, "hinge": 0.4, "minimax": -0.3}
    values = {
        f"{name} {s}": math.exp(log + 0.02 * (s % 2)) - 0.01 * s for name, log in effects.items() for s in (1, 2, 3)
    }
    overrides = ["tricks.soft_labels=off", "tricks.ema=off", "seed=1"]
    path, found = pretend(values, by=factorial, overrides=overrides, tricks=("hinge", "minimax"), seeds=3)
    assert "provide adversarial_loss" in found.impossible["hinge-minimax"]
    assert found.runs == 9
    main, two = ({effect.name: effect for effect in family.effects} for family in found.families)
    assert main["hinge"].value == pytest.approx(0.4)
    assert main["minimax"].value == pytest.approx(-0.3)
    assert main["hinge"].inflation == pytest.approx(4 / 3)
    assert two["hinge × minimax"].value is None
    assert two["hinge × minimax"].note == "cannot be told from − 1 − hinge − minimax"
    text = (path / "results.md").read_text()
    assert "1 subset of 4 cannot be trained" in text
    assert "hinge stands for hinge − hinge × minimax" in text


def test_lost_runs_are_compared_as_rates(pretend: Any) -> None:
    values = dict.fromkeys(("ema", "soft_labels-ema"), "diverged")
    _, found = pretend(values, by=factorial, overrides=["seed=1"], tricks=("soft_labels", "ema"), seeds=6)
    main = {effect.name: effect for effect in found.families[0].effects}
    assert main["ema"].verdict == "loses runs more often: 12 of 12 runs against 0 of 12"
    assert main["ema"].value is None
    assert found.used == found.diverged == 12


def test_verdicts_follow_the_interval() -> None:
    def said(low: float, high: float, better: Any = "lower", scale: Any = "log", interaction: bool = False) -> str:
        return judge(Effect("a", (low + high) / 2, low, high), scale, better, interaction).verdict

    assert said(-0.5, -0.2) == said(0.2, 0.5, "higher") == "helps"
    assert said(0.2, 0.5) == "hurts"
    assert said(-0.5, 0.2) == "not established"
    assert said(0.01, 0.09) == "no effect beyond 10 %"
    assert said(0.01, 0.09, scale="raw") == "hurts"
    assert said(-0.5, -0.2, interaction=True) == "stronger together"
    assert judge(Effect("a", 0.3), "log", "lower", False).verdict == "not established"


@pytest.mark.parametrize(
    ("value", "scale", "words"),
    [
        (math.log(0.66), "log", "−34 %"),
        (math.log(1.5), "log", "+50 %"),
        (math.log(30), "log", "× 30"),
        (1e6, "log", "× 1.01e+304"),
        (-0.034, "raw", "−0.034"),
    ],
)
def test_effects_are_written_as_shares(value: float, scale: Any, words: str) -> None:
    assert percent(value, scale) == words


def test_the_same_command_goes_on(pretend: Any) -> None:
    path, _ = pretend({}, by=factorial, overrides=["seed=1"], tricks=("soft_labels", "ema"), seeds=2)
    assert len(pretend.played()) == 8
    again, found = pretend({}, by=factorial, overrides=["seed=1"], tricks=("soft_labels", "ema"), seeds=2)
    assert (again, found.runs, pretend.played()) == (path, 8, [])
    other, _ = pretend({}, by=factorial, overrides=["seed=1"], tricks=("soft_labels", "lecam"), seeds=2)
    assert other != path
