"""Recipes: merging, overrides, and messages that say what, where and what to write instead."""

from __future__ import annotations

import datetime
import math
import tomllib
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gantricks import UserError, load_recipe
from gantricks.catalogue.index import index
from gantricks.catalogue.registry import Registry
from gantricks.cli.options import inline
from gantricks.option_errors import check_options, models_of, shown
from gantricks.options import Options, Schedule
from gantricks.planning.keys import SECTIONS, EvaluateKeys, Top
from gantricks.planning.plan import make_plan
from gantricks.planning.recipe_files import LONGEST, PARENTS, shipped_recipes
from gantricks.planning.validation import validate_recipe

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
    paths = ["data.path=/pictures"] if "path" in load_recipe(name).as_dict()["data"] else []
    paths += ["tricks.first_stage.run=/run"] if name == "stackgan_2" else []
    recipe = load_recipe(name, paths)
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
def test_a_mistake_is_named_with_its_line_and_the_hint(tmp_path: Path, old: str, new: str, said: list[str]) -> None:
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
def test_a_mistake_in_a_trick_is_named_with_its_line_and_the_hint(tmp_path: Path, trick: str, said: list[str]) -> None:
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
    assert "not readable as TOML" in problems(write(tmp_path, f"name = {'9' * 5000}"))
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
    other = load_recipe(child, ['evaluate.coverage.use="held_out_error"'])
    assert (other.metrics[0].found.name, other.metrics[0].options.model_dump()) == (
        "held_out_error",
        {"classifier": None},
    )


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
def test_a_mistake_in_evaluate_is_named_with_its_line_and_the_hint(tmp_path: Path, lines: str, said: list[str]) -> None:
    found = problems(write(tmp_path, PLAIN + lines + "\n"))
    for words in said:
        assert words in found


def test_evaluate_itself_must_be_a_table(tmp_path: Path) -> None:
    assert "evaluate must be a table, not 3" in problems(write(tmp_path, "evaluate = 3\n" + PLAIN))


def test_every_mistake_in_evaluate_is_reported_at_once(tmp_path: Path) -> None:
    lines = "[evaluate]\nsamples = -1\n[evaluate.nothing]\n[evaluate.mixture_coverage]\npoints = 0\n"
    found = problems(write(tmp_path, PLAIN + lines))
    assert found.count("recipe.toml:") == 3


# ---------------------------------------------------------------- every option and every type of TOML

ODD = [
    {"start": 0.1, "end": 0.0},
    {"start": {}, "end": []},
    {},
    {"a": {"b": [{}]}},
    [],
    [[1], {"x": 2}],
    [1, "x"],
    "",
    "x" * 5000,
    "кот",
    True,
    -(10**18),
    10**5000,
    1e300,
    math.nan,
    -math.inf,
    5e-324,
    datetime.datetime(2024, 5, 1, 10),
    datetime.date(2024, 5, 1),
    datetime.time(10),
]


def models() -> Iterator[tuple[str, type[Options]]]:
    """Everything that has options, by name."""
    for section, model in {"": Top, **SECTIONS, "evaluate": EvaluateKeys}.items():
        yield section, model
        for key, field in model.model_fields.items():
            yield from ((f"{section}.{key}.{inner.__name__}", inner) for inner in models_of(field.annotation))  # type: ignore[misc]
    registry = Registry(installed=False)
    for kind in index():
        for name in index()[kind]:
            cls: Any = registry.load(kind, name).cls
            parts = ("GeneratorConfig", "DiscriminatorConfig") if kind == "networks" else ("Config",)
            yield from ((f"{kind}.{name}", getattr(cls, part)) for part in parts if getattr(cls, part))


def raw_recipe(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    raw: dict[str, Any] = tomllib.loads(PLAIN)
    table = raw
    for key in path[:-1]:
        table = table.setdefault(key, {})
    table[path[-1]] = value
    return raw


@pytest.mark.parametrize(("name", "model"), [pytest.param(*found, id=found[0] or "top") for found in models()])
def test_an_option_that_is_given_any_type_is_refused_in_a_sentence_or_taken(name: str, model: type[Options]) -> None:
    schema = inline(model.model_json_schema())["properties"] if model.model_fields else {}
    for key, entry in schema.items():
        branches = entry.get("anyOf", [entry])
        for value in ODD:
            if isinstance(value, int) and abs(value) > 2**63:
                continue  # refused before anything is asked what it takes: see below
            for _, what, _ in check_options(model, {key: value}):
                assert "Input should" not in what
                assert "pattern" not in what
                assert len(what) < 400
        types = {branch.get("type") for branch in branches} - {"null"}
        if types <= {"number", "integer", "string", "boolean", "array"} and key not in ("extractor", "optimizer"):
            [(keys, what, _)] = (error for error in check_options(model, {key: ODD[0]}) if error.keys == (key,))
            assert "no schedule" in what, f"{name}.{keys}: {what}"


@pytest.mark.parametrize(
    "value", [10**5000, -(2**63) - 1, 1e31, "a\0b", datetime.date(2024, 5, 1), "\udcff"], ids=shown
)
@pytest.mark.parametrize("path", ["name", "train.steps", "generator.optimizer.lr", "generator.hidden", "tricks.x.p"])
def test_what_is_no_value_of_a_recipe_is_told_with_its_key(path: str, value: Any) -> None:
    for nested in (value, [value], [[{"x": value}]]):
        raw = raw_recipe(tuple(path.split(".")), nested)
        with pytest.raises(UserError) as caught:
            validate_recipe(raw, Registry(installed=False))
        assert any(problem.what.startswith(path) for problem in caught.value.problems), caught.value
        assert raw == raw_recipe(tuple(path.split(".")), nested), "the caller's table is not changed"


def numbers(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if schema.get("type") in ("number", "integer"):
        yield path, schema
    for branch in schema.get("anyOf", []) + schema.get("oneOf", []):
        if set(branch.get("properties", ())) != {"start", "end", "until"}:  # bounded where it is an option
            yield from numbers(branch, path)
    for key, entry in schema.get("properties", {}).items():
        yield from numbers(entry, f"{path}.{key}")
    items = schema.get("items", [])
    for entry in items if isinstance(items, list) else [items]:
        yield from numbers(entry, f"{path}[]")


def test_every_number_of_every_option_has_bounds_that_can_be_computed_with() -> None:
    unbounded = []
    for name, model in models():
        if model is Schedule:
            continue
        for path, schema in numbers(inline(model.model_json_schema()), name):
            low = schema.get("minimum", schema.get("exclusiveMinimum"))
            high = schema.get("maximum", schema.get("exclusiveMaximum"))
            if low is None or high is None or high > 2**63:
                unbounded.append(path)
    # the ends of an interval of labels: any number is a label
    assert unbounded == ["tricks.soft_labels.real[]"] * 2 + ["tricks.soft_labels.fake[]"] * 2


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.device=mps", ["write cpu"]),
        ("train.device=0,1", ["one device", "write cuda:0"]),
        ("train.device=1", ["write cuda:1"]),
        ("train.device=gpu", ["write cuda"]),
        ("train.device=cuda:99999999999999999999", ["cuda:N"]),
        ("name=my run", ["letters", 'write "my_run"']),
        ("name=привет", ["привет"]),
        ("generator.activation=relo", ['"softplus" or "maxout", not "relo"', 'did you mean "relu"?']),
        ("generator.optimizer.name=adm", ["generator.optimizer.name", 'not "adm"', 'did you mean "adam"?']),
        ("generator.optimizer=adam", ["generator.optimizer: it must be a table"]),
        ("discriminator.optimizer={name='adam',betas=[0.5]}", ["too few values"]),
        ("discriminator.optimizer.lr=0.5", ["name is missing", 'write name = "adam", "adamw" or "sgd"']),
        ("generator.optimizer={name='sgd',nesterov=true}", ["needs a momentum above 0"]),
        ("generator.hidden=[]", ["hold 1 values or more"]),
        ("train.steps=1e3", ["a whole number, not 1000.0"]),
        ("train.steps=1000000001", ["at most 1,000,000,000"]),
        ("tricks.instance_noise.sigma=high", ["a number or a schedule { start, end, until }"]),
    ],
)
def test_a_wrong_value_is_told_in_words(tmp_path: Path, override: str, said: list[str]) -> None:
    message = problems(write(tmp_path, PLAIN), override)
    for words in said:
        assert words in message
    assert f"--set {override}: " in message
    assert "\\u" not in message
    assert "^" not in message


# ---------------------------------------------------------------- overrides


def test_the_order_of_overrides_of_different_keys_does_not_matter(tmp_path: Path) -> None:
    overrides = ["generator.optimizer.lr=0.5", "generator.optimizer.name=sgd", "data.source=grid", "data.samples=77"]
    recipes = [load_recipe(write(tmp_path, PLAIN), order) for order in permutations(overrides)]
    assert all(recipe == recipes[0] for recipe in recipes)
    assert recipes[0].generator.keys.optimizer.lr == 0.5
    assert recipes[0].data.options.samples == 77


def test_of_two_overrides_of_one_key_the_last_wins(tmp_path: Path) -> None:
    path = write(tmp_path, PLAIN)
    assert load_recipe(path, ["train.steps=5", "train.steps=6"]).train.steps == 6
    assert load_recipe(path, ["tricks.ema.decay=0.5", "tricks.ema=off"]).tricks == ()
    assert load_recipe(path, ["tricks.ema=off", "tricks.ema.decay=0.5"]).tricks[0].options.decay == 0.5


@pytest.mark.parametrize("switch", ["on", "true", "{}"])
def test_on_switches_on_whatever_stands_beside_it(tmp_path: Path, switch: str) -> None:
    path = write(tmp_path, PLAIN)
    assert load_recipe(path, [f"tricks.ema={switch}"]) == load_recipe(write(tmp_path, PLAIN + "[tricks.ema]", "b.toml"))
    for order in permutations(["tricks.ema.decay=0.5", f"tricks.ema={switch}"]):
        assert load_recipe(path, order).tricks[0].options.decay == 0.5
    assert len(load_recipe(path, [f"evaluate.mixture_coverage={switch}"]).metrics) == 1


def test_a_recipe_may_say_on_and_off_as_an_override_does(tmp_path: Path) -> None:
    text = PLAIN + '[tricks]\nema = "on"\nsoft_labels = true\nlabel_flipping = "off"\npacking = false\n'
    assert [trick.name for trick in load_recipe(write(tmp_path, text)).tricks] == ["ema", "soft_labels"]
    write(tmp_path, PLAIN + "[tricks.ema]\ndecay = 0.5\n", "parent.toml")
    child = write(tmp_path, 'extends = "parent.toml"\n[tricks]\nema = "on"\n')
    assert load_recipe(child).tricks[0].options.decay == 0.5


@given(st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1, max_size=12).map(str.strip))
def test_a_text_is_taken_as_it_is_written(text: str) -> None:
    if text and text[0] not in "\"'~":
        assert load_recipe("folder_dcgan", [f"data.path={text}"]).data.options.path == text


@pytest.mark.parametrize(
    "text", ["2024", "2024-05-01", "2024-05-01T10:00:00", "10:00", "1e5", "true", "[1]", "{}", "nan"]
)
def test_a_text_that_toml_reads_as_something_else_stays_a_text(tmp_path: Path, text: str) -> None:
    assert load_recipe("folder_dcgan", [f"data.path={text}"]).data.options.path == text
    assert load_recipe("folder_dcgan", [f"data.path='{text}'"]).data.options.path == text
    assert load_recipe("folder_dcgan", [f'data={{source="folder",path="{text}"}}']).data.options.path == text
    assert f"there is no data source '{text}'" in problems(write(tmp_path, PLAIN), f"data.source={text}")


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("steps=5", "train.steps"),
        ("batch_size=5", "data.batch_size"),
        ("data.steps=5", "train.steps"),
        ("lr=5", "generator.optimizer.lr or discriminator.optimizer.lr"),
        ("optimizer.lr=5", "generator.optimizer or discriminator.optimizer"),
        ("generator.lr=5", "generator.optimizer.lr"),
        ("ema=on", "tricks.ema"),
        ("ema.decay=0.5", "tricks.ema"),
        ("sigma=0.5", "tricks.noisy.sigma"),
        ("points=5", "evaluate.mixture_coverage.points"),
        ("stesp=5", "train.steps"),
    ],
)
def test_a_key_of_another_table_is_named_in_full(tmp_path: Path, override: str, meant: str) -> None:
    text = PLAIN + '[tricks.noisy]\nuse = "instance_noise"\n[evaluate.mixture_coverage]\n'
    message = problems(write(tmp_path, text), override)
    assert f"did you mean {meant}" in message
    assert message.startswith(f"--set {override}: ")


def test_every_fault_of_overrides_is_told_beside_those_of_the_recipe(tmp_path: Path) -> None:
    message = problems(write(tmp_path, PLAIN), "x", "extends=dcgan", "train.steps=0", "=3", "a..b=3", "\udcff=3")
    assert message.count("--set") == 6
    assert "name that recipe itself" in message


def test_a_table_within_an_override_is_at_the_override(tmp_path: Path) -> None:
    path = write(tmp_path, PLAIN + "[tricks.ema]\ndecay = 0.5\n")
    assert problems(path, "tricks.ema={decay=7}").startswith("--set tricks.ema={decay=7}: ")
    child = write(tmp_path, 'extends = "recipe.toml"\n\ntricks = { ema = { decay = 7 } }\n', "child.toml")
    assert problems(child).startswith(f"{child}:3: ")


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_a_recipe_is_read_in_any_encoding_that_it_declares(tmp_path: Path, encoding: str, newline: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(("# кот\n" + PLAIN).replace("\n", newline).encode(encoding))
    assert load_recipe(path).name == "plain"


@pytest.mark.parametrize("raw", ["кот".encode("cp1251"), PLAIN.encode("utf-16-le"), b"\xff\xfea", b"# \xe9"])
def test_another_encoding_is_told_with_what_to_do(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(raw)
    assert "save it as UTF-8" in problems(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[train]\nsteps = 1\nlog_every = 2\nsteps = 3", ["recipe.toml:4", "train.steps is given twice", "line 2"]),
        ("[train]\nsteps = 1\n[data]\n[train]\n", ["recipe.toml:4", "[train] stands here twice", "line 1"]),
        ("a = 1\n[a]\nb = 1", ["recipe.toml:2", "a is given in line 1"]),
        ("a = { b = 1 }\na.c = 2", ["recipe.toml:2", "a is given in line 1"]),
        ('x = """\n\n"""\n"y z" = 1\n"y z" = """\n"""', ["recipe.toml:5", "y z is given twice", "line 4"]),
        ("[train]\ndevice = cpu", ["recipe.toml:2", "not valid TOML", 'device = "cpu"']),
        ("a = 1\nb = " + "9" * 5000, ["recipe.toml:2", "thousands of digits"]),
        ("a." * 5000 + "b = 1", ["deep"]),
        ("[" + "a." * 5000 + "b]", ["deep"]),
        ("a = " + "[" * 5000, ["deep"]),
        ("x = 1\n" * 3, ["x is given twice"]),
        ("a = '\0'", ["recipe.toml"]),
    ],
)
def test_a_text_that_is_no_recipe_is_told_with_line_and_key(tmp_path: Path, text: str, said: list[str]) -> None:
    message = problems(write(tmp_path, text))
    for words in said:
        assert words in message


def test_a_recipe_has_an_end(tmp_path: Path) -> None:
    path = write(tmp_path, PLAIN + "#" * LONGEST)
    assert "too long" in problems(path)
    half = write(tmp_path, PLAIN + "#" * (LONGEST - 1000 - len(PLAIN)), "half.toml")
    assert load_recipe(half).name == "plain"
    assert "too long" in problems(write(tmp_path, 'extends = "half.toml"\n' + "#" * 2000, "other.toml"))


def test_recipes_extend_one_another_so_far_and_no_further(tmp_path: Path) -> None:
    for number in range(999):
        write(tmp_path, f'extends = "c{number + 1}.toml"', f"c{number}.toml")
    write(tmp_path, PLAIN, "c999.toml")
    assert load_recipe(tmp_path / f"c{1000 - PARENTS}.toml").name == "plain"
    assert f"more than {PARENTS} recipes" in problems(tmp_path / "c0.toml")


def test_thousands_of_unknown_names_are_counted(tmp_path: Path) -> None:
    keys = "".join(f"k{number} = 1\n" for number in range(3000))
    message = problems(write(tmp_path, PLAIN + keys))
    assert message.count("unknown key") == 21
    assert "and 2,980 more unknown keys" in message
    message = problems(write(tmp_path, PLAIN + "".join(f"[tricks.t{number}]\n" for number in range(3000))))
    assert "recipe.toml:16: 3,000 tricks are more than a recipe can have" in message
    hidden = f"hidden = [{'0, ' * 3000}]"
    assert problems(write(tmp_path, PLAIN.replace("hidden = [8]", hidden, 1))).count("at least 1") <= 3
    message = problems(write(tmp_path, PLAIN + "x = [" + "1979-01-01, " * 3000 + "]"))
    assert message.count("no option is a date") == 1


def test_what_is_shown_is_never_long(tmp_path: Path) -> None:
    long = "x" * 5000
    for text in (f'device = "{long}"', f"{long} = 1", f"[tricks]\n{long} = 3", f'[tricks.a]\nuse = "{long}"'):
        assert len(problems(write(tmp_path, PLAIN + text + "\n"))) < 1500
    assert len(problems(write(tmp_path, PLAIN), f"train.device={long}", f"{long}=1")) < 3000


def test_a_home_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert "no such home folder" in problems(Path("folder_dcgan"), "data.path=~nobody-of-this-name/x")


# ---------------------------------------------------------------- names of papers


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("fid", ["FID is the metric frechet_distance", 'extractor "inception"']),
        ("kid", ["kernel_distance", "inception"]),
        ("inception_score", ["classifier_score", "inception"]),
        ("recall", ["a figure of the metric precision_recall", "classifier"]),
    ],
)
def test_a_metric_by_its_published_name_is_told_by_ours(tmp_path: Path, name: str, said: list[str]) -> None:
    message = problems(write(tmp_path, PLAIN + f"[evaluate.{name}]\n"))
    for words in said:
        assert words in message


# ---------------------------------------------------------------- what cannot fit


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["generator.hidden=[8192,8192,8192]", "generator.activation=maxout", "generator.pieces=64"], "a generator of"),
        (["discriminator.hidden=[8192,8192,8192]", "train.precision=fp64"], "a discriminator of"),
    ],
)
def test_networks_that_no_memory_holds_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str], said: str
) -> None:
    monkeypatch.setattr("gantricks.planning.device.machine_memory", lambda: 1 << 30)
    recipe = load_recipe(write(tmp_path, PLAIN), ["train.device=cpu", *overrides])
    with pytest.raises(UserError) as caught:
        make_plan(recipe)
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"--set {overrides[0]}: ")
    monkeypatch.setattr("gantricks.planning.device.machine_memory", lambda: None)
    assert make_plan(recipe)
