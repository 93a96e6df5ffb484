"""Recipes: merging, overrides, and messages that say what, where and what to write instead."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from gantricks import UserError, load_recipe
from gantricks.options import Schedule
from gantricks.recipe import shipped_recipes

PLAIN = """
name = "plain"
[data]
source = "ring"
samples = 500
batch_size = 16
[generator]
network = "mlp"
hidden = [8]
latent_dim = 2
[discriminator]
network = "mlp"
hidden = [8]
[train]
steps = 4
"""


def write(folder: Path, text: str, name: str = "recipe.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def problems(path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_recipe(path, overrides)
    return str(caught.value)


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_every_shipped_recipe_loads_and_survives_a_round_trip(name: str, tmp_path: Path) -> None:
    # a relative path is kept as an absolute one
    recipe = load_recipe(name, ["data.path=/pictures"] if "path" in load_recipe(name).as_dict()["data"] else [])
    again = load_recipe(write(tmp_path, recipe.as_toml()))
    assert again == recipe
    assert again.as_toml() == recipe.as_toml()


def test_a_round_trip_keeps_trick_order_instances_and_schedules(tmp_path: Path) -> None:
    text = PLAIN + (
        '[tricks.late]\nuse = "instance_noise"\nsigma = { start = 0.3, end = 0.1, until = 0.5 }\n'
        "[tricks.soft_labels]\n[tricks.instance_noise]\n"
    )
    recipe = load_recipe(write(tmp_path, text))
    assert [trick.name for trick in recipe.tricks] == ["late", "soft_labels", "instance_noise"]
    assert recipe.tricks[0].options.sigma == Schedule(start=0.3, end=0.1, until=0.5)
    assert load_recipe(write(tmp_path, recipe.as_toml())) == recipe


def test_extends_lays_the_child_over_its_parent(tmp_path: Path) -> None:
    write(tmp_path, PLAIN + "[tricks.soft_labels]\nreal = [0.8, 1.0]\nfake = [0.1, 0.2]\n", "parent.toml")
    child = write(
        tmp_path,
        'extends = "parent.toml"\nname = "child"\n[tricks.instance_noise]\n[tricks.soft_labels]\nreal = [0.9, 1.0]\n',
    )
    recipe = load_recipe(child)
    assert recipe.name == "child"
    assert recipe.data.keys.batch_size == 16
    assert [trick.name for trick in recipe.tricks] == ["soft_labels", "instance_noise"], "the parent's come first"
    assert recipe.tricks[0].options.real == (0.9, 1.0)
    assert recipe.tricks[0].options.fake == (0.1, 0.2)


def test_extends_finds_a_shipped_recipe_from_anywhere(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path, 'extends = "dcgan.toml"\nname = "mine"\n')).generator.found.name == "dcgan"


def test_naming_another_network_or_optimizer_starts_its_options_afresh(tmp_path: Path) -> None:
    write(
        tmp_path,
        PLAIN.replace("latent_dim = 2", 'latent_dim = 2\noptimizer = { name = "adam", betas = [0, 0.9] }'),
        "p.toml",
    )
    child = write(tmp_path, 'extends = "p.toml"\n[generator]\noptimizer = { name = "sgd", momentum = 0.9 }\n')
    recipe = load_recipe(child)
    assert recipe.generator.keys.optimizer.name == "sgd"
    assert recipe.generator.options.hidden == (8,)
    other = load_recipe(child, ["data.source=grid"])
    assert other.data.options.samples == 100_000, "the ring's options are not the grid's"
    assert other.data.keys.batch_size == 16


def test_a_circle_of_parents_is_refused(tmp_path: Path) -> None:
    write(tmp_path, 'extends = "b.toml"', "a.toml")
    write(tmp_path, 'extends = "a.toml"', "b.toml")
    assert "circle" in problems(tmp_path / "a.toml")


def test_overrides_take_toml_values_bare_words_and_off(tmp_path: Path) -> None:
    path = write(tmp_path, PLAIN + "[tricks.soft_labels]\n[tricks.instance_noise]\n")
    recipe = load_recipe(
        path,
        ["tricks.soft_labels.real=[0.8, 1.0]", "tricks.instance_noise=off", "name=other", "tricks.separate_batches={}"],
    )
    assert recipe.name == "other"
    assert [trick.name for trick in recipe.tricks] == ["soft_labels", "separate_batches"]
    assert recipe.tricks[0].options.real == (0.8, 1.0)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("batch_size = 16", "batch_sise = 16", ["recipe.toml:6", "data.batch_sise: unknown key", "'batch_size'"]),
        ("samples = 500", "sampels = 500", ["recipe.toml:5", "data.sampels", "'samples'"]),
        ("steps = 4", "step = 4", ["recipe.toml:15", "train.step", "'steps'", "train.steps: this key is missing"]),
        ('source = "ring"', 'source = "rng"', ["recipe.toml:4", "no data source 'rng'", "'ring'"]),
        ("hidden = [8]\nlatent", "hiden = [8]\nlatent", ["recipe.toml:9", "generator.hiden", "'hidden'"]),
        ("steps = 4", 'steps = "4"', ["recipe.toml:15", "train.steps", "whole number", '"4"']),
        ("steps = 4", "steps = true", ["recipe.toml:15", "train.steps"]),
        ("steps = 4", "steps = 0", ["recipe.toml:15", "train.steps", "at least 1, not 0"]),
        ("steps = 4", "steps = 4\ndevice = 'gpu'", ["recipe.toml:16", "train.device", "auto, cpu, cuda or cuda:N"]),
        ("latent_dim = 2", "optimizer = { name = 'adam', lr = nan }", ["recipe.toml:10", "lr"]),
        ("latent_dim = 2", "optimizer = { name = 'adm' }", ["recipe.toml:10", "generator.optimizer", "adam"]),
        ("latent_dim = 2", "optimizer = { name = 'adam', beta = [0, 0.9] }", ["recipe.toml:10", "'betas'"]),
        ('name = "plain"', 'name = "../up"', ["recipe.toml:2", "name"]),
        ("[train]\nsteps = 4\n", "", ["[train] is missing"]),
        ("steps = 4", "steps = = 4", ["recipe.toml:15", "not valid TOML"]),
        ('name = "plain"', 'name = "plain"\nnmae = 1', ["recipe.toml:3", "nmae", "'name'"]),
    ],
)
def test_a_mistake_is_named_with_its_line_and_the_mend(tmp_path: Path, old: str, new: str, said: list[str]) -> None:
    assert old in PLAIN
    message = problems(write(tmp_path, PLAIN.replace(old, new)))
    for part in said:
        assert part in message, message


@pytest.mark.parametrize(
    ("trick", "said"),
    [
        ("[tricks.soft_label]\n", ["recipe.toml:16", "no trick 'soft_label'", "'soft_labels'"]),
        ("[tricks.soft_labels]\nreel = [0.7, 1.0]\n", ["recipe.toml:17", "tricks.soft_labels.reel", "'real'"]),
        ("[tricks.soft_labels]\nreal = [1.0, 0.7]\n", ["recipe.toml:17", "[0.7, 1.0]"]),
        ("[tricks.soft_labels]\nreal = 0.7\n", ["recipe.toml:17", "tricks.soft_labels.real"]),
        ("[tricks.soft_labels]\nreal = [nan, 1.0]\n", ["recipe.toml:17", "finite"]),
        ("[tricks.instance_noise]\nsigma = -1\n", ["recipe.toml:17", "sigma", "at least 0"]),
        ("[tricks.instance_noise]\nsigma = { start = 0.1 }\n", ["recipe.toml:17", "sigma.end", "missing"]),
        ("[tricks.instance_noise]\nsigma = { start = 0.1, end = 0, til = 1 }\n", ["sigma.til", "'until'"]),
        ('[tricks.instance_noise]\nsigma = "high"\n', ["recipe.toml:17", "sigma", "number"]),
        ("[tricks]\nsoft_labels = 3\n", ["recipe.toml:17", "must be a table"]),
        ('[tricks."x.y"]\nuse = "soft_labels"\n', ["letters from A to Z, digits and _"]),
    ],
)
def test_a_mistake_in_a_trick_is_named_with_its_line_and_the_mend(tmp_path: Path, trick: str, said: list[str]) -> None:
    message = problems(write(tmp_path, PLAIN + trick))
    for part in said:
        assert part in message, message


def test_several_problems_are_reported_together(tmp_path: Path) -> None:
    text = PLAIN.replace("steps = 4", "steps = 0").replace('source = "ring"', 'source = "rng"') + "[tricks.no_such]\n"
    message = problems(write(tmp_path, text))
    for part in ("train.steps", "'rng'", "'no_such'"):
        assert part in message


def test_a_fault_in_an_override_names_the_override(tmp_path: Path) -> None:
    path = write(tmp_path, PLAIN)
    assert "--set train.steps=-1" in problems(path, "train.steps=-1")
    assert "--set train.stepps=5" in problems(path, "train.stepps=5")
    assert "KEY=VALUE" in problems(path, "train.steps")


def test_a_missing_recipe_suggests_the_nearest_shipped_one(tmp_path: Path) -> None:
    assert "'dcgan_soft_labels'" in problems(Path("dcgan_soft_label.toml"))


def test_the_resolved_recipe_holds_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("folder_dcgan", ["data.path=here"])
    assert tomllib.loads(recipe.as_toml())["data"]["path"] == str(tmp_path / "here")


def test_an_override_is_one_value_and_unreadable_toml_is_told(tmp_path: Path) -> None:
    path = write(tmp_path, PLAIN)
    assert "train.steps" in problems(path, "train.steps=5\nx=3")
    assert "no TOML that can be read" in problems(write(tmp_path, f"name = {'9' * 5000}"))
    assert "TOML" in problems(write(tmp_path, "name = " + "[" * 20000))


def test_a_byte_order_mark_is_no_part_of_the_recipe(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(b"\xef\xbb\xbf" + PLAIN.encode())
    assert load_recipe(path).name == "plain"


# ---------------------------------------------------------------- [evaluate]


def test_metrics_are_named_like_tricks_and_survive_a_round_trip(tmp_path: Path) -> None:
    text = PLAIN + (
        '[evaluate]\nsamples = 700\n[evaluate.many]\nuse = "mixture_coverage"\npoints = 9000\n'
        "[evaluate.mixture_coverage]\n"
    )
    recipe = load_recipe(write(tmp_path, text))
    assert recipe.evaluate.samples == 700
    assert [(part.name, part.found.name) for part in recipe.metrics] == [
        ("many", "mixture_coverage"),
        ("mixture_coverage", "mixture_coverage"),
    ]
    assert [part.options.points for part in recipe.metrics] == [9000, 2500]
    again = load_recipe(write(tmp_path, recipe.as_toml()))
    assert again == recipe
    assert again.as_toml() == recipe.as_toml()


def test_a_recipe_without_evaluate_has_the_default_number_and_no_metric(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, PLAIN))
    assert (recipe.evaluate.samples, recipe.metrics) == (5000, ())


def test_metrics_are_inherited_switched_off_and_replaced(tmp_path: Path) -> None:
    write(
        tmp_path,
        PLAIN + '[evaluate]\nsamples = 700\n[evaluate.coverage]\nuse = "mixture_coverage"\npoints = 9\n',
        "a.toml",
    )
    child = write(tmp_path, 'extends = "a.toml"\n[evaluate.mixture_coverage]\n')
    recipe = load_recipe(child, ["evaluate.samples=800", "evaluate.mixture_coverage.points=11"])
    assert recipe.evaluate.samples == 800
    assert {part.name: part.options.points for part in recipe.metrics} == {"coverage": 9, "mixture_coverage": 11}
    assert [part.name for part in load_recipe(child, ["evaluate.coverage=off"]).metrics] == ["mixture_coverage"]
    # another metric starts its options afresh: points means nothing to it
    other = load_recipe(child, ['evaluate.coverage.use="test_error"'])
    assert (other.metrics[0].found.name, other.metrics[0].options.model_dump()) == ("test_error", {})


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("[evaluate]\nsmaples = 5", ["recipe.toml:17: evaluate.smaples: unknown key", "did you mean 'samples'?"]),
        ("[evaluate]\nsamples = 0", ["recipe.toml:17: evaluate.samples: "]),
        ("[evaluate.mixture_coverag]", ["recipe.toml:16: there is no metric", "did you mean 'mixture_coverage'?"]),
        (
            "[evaluate.mixture_coverage]\npoint = 5",
            ["recipe.toml:17: evaluate.mixture_coverage.point: unknown key", "did you mean 'points'?"],
        ),
        ("[evaluate.mixture_coverage]\npoints = 0", ["recipe.toml:17: evaluate.mixture_coverage.points: "]),
        ("[evaluate.a]\nuse = 3", ["recipe.toml:17: use must be the name of a metric, not 3"]),
        ('[evaluate."a b"]\nuse = "mixture_coverage"', ["recipe.toml:16: a metric is named in letters"]),
        ("[evaluate.soft_labels]", ["recipe.toml:16: there is no metric 'soft_labels'"]),
    ],
)
def test_a_mistake_in_evaluate_is_named_with_its_line_and_the_mend(tmp_path: Path, lines: str, said: list[str]) -> None:
    found = problems(write(tmp_path, PLAIN + lines + "\n"))
    for words in said:
        assert words in found


def test_evaluate_itself_must_be_a_table(tmp_path: Path) -> None:
    assert "evaluate must be a table, not 3" in problems(write(tmp_path, "evaluate = 3\n" + PLAIN))


def test_every_mistake_in_evaluate_is_reported_at_once(tmp_path: Path) -> None:
    lines = "[evaluate]\nsamples = -1\n[evaluate.nothing]\n[evaluate.mixture_coverage]\npoints = 0\n"
    found = problems(write(tmp_path, PLAIN + lines))
    assert found.count("recipe.toml:") == 3
