"""A confirmation: blocks, the plan that is written first, and pairs by block."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from gantricks import UserError
from gantricks.catalogue.registry import Registry
from gantricks.planning.recipe_files import read_recipe
from gantricks.planning.validation import load_recipe
from gantricks.study.confirm import confirm, plan_of
from gantricks.study.draws import seed_of
from gantricks.study.playing import Interrupted, Reporter
from gantricks.study.variants import base

SMALL = (
    "tricks.soft_labels={}",
    "tricks.ema={}",
    "generator.hidden=[8]",
    "discriminator.hidden=[8]",
    "data.samples=500",
)


def based(*overrides: str) -> Any:
    return base(read_recipe("ring_mlp"), [*SMALL, *overrides], Registry(installed=False), 6)


def test_a_block_is_one_draw_for_the_control_and_every_finalist() -> None:
    plan = plan_of(based(), ["r1", "lecam"], 5, ["tricks.r1.weight=0.5"])
    assert [*plan.design.possible] == ["plain", "with-r1", "with-lecam"]
    assert [contrast.name for contrast in plan.design.contrasts] == ["r1", "lecam"]
    assert len(plan.recipes) == 15
    for block in plan.blocks:
        plain, r1, lecam = (plan.recipes[name, block.name].recipe for name in plan.design.possible)
        assert r1.as_dict() == plain.as_dict() | {"tricks": r1.as_dict()["tricks"]}
        assert lecam.as_dict() == plain.as_dict() | {"tricks": lecam.as_dict()["tricks"]}
        assert r1.tricks[-1].options.weight == 0.5
        assert plain.train.n_critic == block.settings.ratio
    assert len({plan.recipes["plain", block.name].recipe.generator.keys.optimizer.lr for block in plan.blocks}) == 5
    assert plan_of(based(), ["r1"], 3, []).blocks == plan.blocks[:3]


def test_blocks_are_fresh() -> None:
    blocks = plan_of(based(), ["r1"], 20, []).blocks
    screened = {seed_of(0, "screening", i) for i in range(10_000)}
    assert not screened & {block.seed for block in blocks}
    assert len({block.seed for block in blocks}) == 20


def test_what_cannot_be_confirmed_is_refused_or_said() -> None:
    with pytest.raises(UserError, match="which tricks are to be confirmed"):
        plan_of(based(), [], 3, [])
    with pytest.raises(UserError, match="there is no trick 'emma'"):
        plan_of(based(), ["emma"], 3, [])
    with pytest.raises(UserError, match="nothing is left to confirm"):
        plan_of(based(), ["ema"], 3, [])  # the recipe has it
    plan = plan_of(based(), ["ema", "r1", "grow"], 3, [])
    impossible = {variant.name: variant.impossible for variant in plan.design.variants if variant.impossible}
    assert impossible["with-ema"] == "it is in the recipe already"
    assert "needs images" in impossible["with-grow"]
    assert [contrast.name for contrast in plan.design.contrasts] == ["r1"]


def test_the_plan_is_written_before_the_first_run(pretend: Any) -> None:
    seed = seed_of(0, "confirm", 0)
    with pytest.raises(Interrupted):
        pretend(by=confirm, finalists=["r1", "lecam"], blocks=4, values={f"plain {seed}": "stop"})
    path = Path("studies/ring_mlp-confirm")
    assert not list(path.rglob("result.json"))
    definition = json.loads((path / "study.json").read_text())["definition"]
    assert [block["seed"] for block in definition["blocks"]] == [seed_of(0, "confirm", i) for i in range(4)]
    assert definition["hypotheses"] == [
        f"{name} changes d of loss, where lower is better, against the recipe without it" for name in ("r1", "lecam")
    ]
    text = (path / "plan.md").read_text()
    assert "Written before the first run." in text
    assert f"block-00: seed {seed}, learning rates ×" in text
    for variant in ("plain", "with-r1", "with-lecam"):
        for i in range(4):
            recipe = load_recipe(path / f"runs/{variant}/block-{i:02d}/recipe.toml")
            assert recipe.generator.keys.optimizer.lr != based().recipe.generator.keys.optimizer.lr


def test_runs_are_paired_by_block_and_the_same_command_goes_on(pretend: Any) -> None:
    seeds = [seed_of(0, "confirm", i) for i in range(4)]
    values = {}
    for i, seed in enumerate(seeds):  # blocks differ much more than the variants within one
        values |= {
            f"plain {seed}": math.exp(i),
            f"with-r1 {seed}": math.exp(i) * 0.5,
            f"with-lecam {seed}": math.exp(i),
        }
    values = {run: value - 0.01 * int(run.split()[1]) for run, value in values.items()}  # the worker adds it
    path, table = pretend(by=confirm, finalists=["r1", "lecam"], blocks=4, values=values)
    assert pretend.played() == [f"{variant} {seed}" for seed in seeds for variant in ("plain", "with-r1", "with-lecam")]
    assert {comparison.name: comparison.n for comparison in table.comparisons} == {"r1": 4, "lecam": 4}
    assert table.mode == "confirm"
    assert all((path / name).is_file() for name in ("results.json", "results.md", "results.png"))
    again, _ = pretend(by=confirm, finalists=["r1", "lecam"], blocks=4, values=values)
    assert again == path
    assert pretend.played() == []


def test_the_rules_of_a_confirmation_can_be_chosen(pretend: Any) -> None:
    how: dict[str, Any] = {"by": confirm, "finalists": ["r1", "lecam"], "blocks": 3, "values": {"plain": 1.0}}
    said = list[str]()
    reporter = type("Listening", (Reporter,), {"foreseen": lambda self, sentence: said.append(sentence)})()
    path, table = pretend(**how, adjust="holm", margin=0.5, spread="0.2", reporter=reporter)
    assert (table.adjust, table.margin, table.design) == ("holm", 0.5, "paired")
    assert "0.2" in said[0]
    other, _ = pretend(**how)
    assert other != path
