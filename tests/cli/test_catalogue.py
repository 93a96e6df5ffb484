"""tricks, recipes, schema and doctor: what can be looked up."""

import json
import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Annotated, Any

import pytest

from gantricks.catalogue.index import shipped
from gantricks.catalogue.kinds import SINGULAR
from gantricks.catalogue.registry import Registry
from gantricks.cli import doctor as examination
from gantricks.cli.options import inline, options, toml
from gantricks.cli.schema import recipe_schema
from gantricks.options import Interval, Options, Probability, Schedule, Scheduled
from gantricks.planning.recipe_files import shipped_recipes
from gantricks.planning.validation import load_recipe

THEIRS = '''
from gantricks import Trick, hookimpl


class Moonlight(Trick):
    """Shines on D's labels."""

    @hookimpl
    def d_labels(self, labels, ctx):
        return labels
'''


@pytest.fixture
def installed(gantricks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that offers a good trick and a broken one."""
    Path("moonlight_package.py").write_text(THEIRS)
    Path("broken_package.py").write_text("import no_such_package_anywhere")
    monkeypatch.syspath_prepend(Path().absolute())
    points = [
        EntryPoint("moonlight", "moonlight_package:Moonlight", "gantricks.tricks"),
        EntryPoint("broken", "broken_package:Broken", "gantricks.tricks"),
    ]

    def offered(group: str) -> list[EntryPoint]:
        return points if group == "gantricks.tricks" else []

    monkeypatch.setattr("gantricks.catalogue.registry.entry_points", offered)


# ---------------------------------------------------------------- tricks


def test_every_shipped_trick_is_listed(gantricks: Any) -> None:
    listed = json.loads(gantricks("tricks", "--json").out)
    assert {trick["name"] for trick in listed} >= set(shipped("tricks"))
    table = gantricks("tricks").out
    for trick in listed:
        told = trick.get("summary", f"from {trick['origin']}")
        assert any(line.startswith(trick["name"]) and told in line for line in table.splitlines())


@pytest.mark.parametrize("name", shipped("tricks"))
def test_the_lines_to_paste_make_the_trick_with_its_defaults(gantricks: Any, name: str) -> None:
    card = json.loads(gantricks("tricks", name, "--json").out)
    assert card["card"]
    assert card["hooks"]
    assert all(option["type"] for option in card["options"])
    config = Registry().load("tricks", name).cls.Config  # type: ignore[attr-defined]
    if not any(option["required"] for option in card["options"]):
        pasted = tomllib.loads(card["toml"])["tricks"][name]
        assert config.model_validate_json(json.dumps(pasted), strict=True) == config()


def test_a_card_says_where_more_stands(gantricks: Any, tmp_path: Path) -> None:
    assert "More on it: docs/tricks/ema.md\n" in gantricks("tricks", "ema").out
    assert json.loads(gantricks("tricks", "ema", "--json").out)["details"]
    path = tmp_path / "moonlight.py"
    path.write_text('"""Moonlight.\n\nIt is not seen by day.\n"""' + THEIRS)
    assert f"More on it: {path}\n" in gantricks("tricks", "moonlight", "--plugin", str(path)).out
    path.write_text(THEIRS)
    assert "More on it" not in gantricks("tricks", "moonlight", "--plugin", str(path)).out


@pytest.mark.parametrize("width", [60, 120])
def test_a_card_fits_its_terminal(gantricks: Any, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for words in (("tricks",), ("tricks", "soft_labels"), ("recipes",)):
        outcome = gantricks(*words)
        assert outcome.status == 0
        assert max(map(len, outcome.out.splitlines())) <= width
        assert "…" not in outcome.out


@pytest.mark.usefixtures("installed")
def test_tricks_of_other_packages_are_listed_without_importing_them(gantricks: Any) -> None:
    listed = {trick["name"]: trick for trick in json.loads(gantricks("tricks", "--json").out)}
    assert listed["broken"] == {"name": "broken", "origin": "an installed package"}
    assert "moonlight" in gantricks("tricks").out
    card = gantricks("tricks", "moonlight")
    assert "Shines on D's labels." in card.out
    broken = gantricks("tricks", "broken")
    assert broken.status == 2
    assert "no_such_package_anywhere" in broken.err


def test_a_trick_is_checked_against_the_laws_and_a_wrong_one_is_told_how_to_mend(
    gantricks: Any, tmp_path: Path
) -> None:
    checked = json.loads(gantricks("tricks", "label_smoothing", "--check", "--json").out)
    counts = checked["counts"]
    assert counts.keys() <= {"passed", "skipped"}
    assert counts["passed"] > 3 * counts["skipped"]
    wrong = tmp_path / "wrong_noise.py"
    wrong.write_text(
        "import torch\nfrom gantricks import Trick, hookimpl\n"
        "class Wrong(Trick):\n    '''Noise.'''\n"
        "    @hookimpl\n    def g_labels(self, labels): return labels + 0.1 * torch.randn_like(labels)\n"
    )
    broken = gantricks("tricks", "wrong_noise", "--check", "--plugin", str(wrong))
    assert broken.status == 2
    assert "draw from ctx.rng only" in broken.out
    assert gantricks("tricks", "--check").status == 2


def test_options_are_told_in_the_words_of_a_recipe() -> None:
    class Config(Options):
        strength: Annotated[float | Schedule, Scheduled(0, 1)] = 0.5
        chance: Probability = 0.1
        span: Interval = Interval(0.0, 1.0)
        depth: int | None = None
        path: str

    told = {option.name: option for option in options(Config.model_json_schema())}
    assert told["strength"].type == "number from 0 to 1 or { start, end, until }"
    assert told["chance"].type == "number from 0 to 1"
    assert (told["span"].type, told["span"].default) == ("[low, high]", "[0.0, 1.0]")
    assert (told["depth"].type, told["depth"].default, told["depth"].required) == ("whole number", None, False)
    assert told["path"].required


@pytest.mark.parametrize("value", [1, 1e-8, True, 'a "b"\n', [1, [2.5]], {"start": 0.1, "odd key": ["x"]}])
def test_values_are_written_as_toml(value: object) -> None:
    assert tomllib.loads(f"value = {toml(value)}")["value"] == value


# ---------------------------------------------------------------- recipes


def test_every_shipped_recipe_has_a_summary_and_is_shown_as_it_is(gantricks: Any) -> None:
    listed = {recipe["name"]: recipe["summary"] for recipe in json.loads(gantricks("recipes", "--json").out)}
    assert listed.keys() == shipped_recipes().keys()
    assert all(listed.values())
    for name, path in shipped_recipes().items():
        assert gantricks("recipes", name).out == path.read_text(encoding="utf-8").rstrip("\n") + "\n"


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_copied_recipe_stands_by_itself(gantricks: Any, name: str) -> None:
    Path("copies").mkdir()
    assert gantricks("recipes", name, "--copy", "copies").status == 0
    copy = Path("copies") / f"{name}.toml"
    assert load_recipe(copy).as_dict() == load_recipe(name).as_dict()


# ---------------------------------------------------------------- schema


def errors(value: Any, schema: dict[str, Any], at: str = "") -> Iterator[str]:
    """What is wrong with `value`, by the part of draft 7 that the schema uses."""
    types = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
    kind = schema.get("type")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "number":
        right = number
    elif kind == "integer":
        right = number and value == int(value)
    else:
        right = kind is None or isinstance(value, types[kind])
    if not right:
        yield f"{at}: not of type {kind}"
        return
    if "const" in schema and value != schema["const"]:
        yield f"{at}: not {schema['const']!r}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{at}: not one of {schema['enum']}"
    for branches in (schema.get("anyOf"), schema.get("oneOf")):
        if branches and not any(not list(errors(value, branch, at)) for branch in branches):
            yield f"{at}: fits no branch"
    if "not" in schema and not list(errors(value, schema["not"], at)):
        yield f"{at}: fits what it must not"
    if "if" in schema and not list(errors(value, schema["if"], at)):
        yield from errors(value, schema["then"], at)
    if number:
        for key, wrong in (
            ("minimum", lambda bound: value < bound),
            ("maximum", lambda bound: value > bound),
            ("exclusiveMinimum", lambda bound: value <= bound),
            ("exclusiveMaximum", lambda bound: value >= bound),
        ):
            if key in schema and wrong(schema[key]):
                yield f"{at}: {key}"
    if isinstance(value, list):
        items = schema.get("items", {})
        schemas = items if isinstance(items, list) else [items] * len(value)
        if not len(schemas) == len(value) >= schema.get("minItems", 0):
            yield f"{at}: length"
        for number_, (entry, own) in enumerate(zip(value, schemas, strict=False)):
            yield from errors(entry, own, f"{at}[{number_}]")
    if isinstance(value, dict):
        yield from (f"{at}.{key}: missing" for key in schema.get("required", ()) if key not in value)
        for key, entry in value.items():
            own = schema.get("properties", {}).get(key, schema.get("additionalProperties", {}))
            if own is False:
                yield f"{at}.{key}: unknown key"
            else:
                yield from errors(entry, own, f"{at}.{key}")


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_fits_the_schema(name: str) -> None:
    schema = recipe_schema()
    raw = tomllib.loads(shipped_recipes()[name].read_text(encoding="utf-8"))
    assert list(errors(raw, schema)) == []
    assert list(errors(load_recipe(name).as_dict(), schema)) == []


@pytest.mark.parametrize(
    ("table", "keys"),
    [
        ("data", {"modees": 3}),
        ("data", {"batch_size": 0}),
        ("data", {"source": "rings"}),
        ("generator", {"hidden": "wide"}),
        ("generator", {"optimizer": {"name": "adam", "lr": 0}}),
        ("discriminator", {"optimizer": {"name": "adam", "momentum": 0.5}}),
        ("train", {"steps": 0}),
        ("train", {"stepps": 5}),
        ("tricks", {"soft_labels": {"reel": [0, 1]}}),
        ("tricks", {"soft_labels": {"real": [0, "x"]}}),
        ("tricks", {"late": {"use": "soft_labels", "reel": [0, 1]}}),
        ("tricks", {"soft_labels": 3}),
        ("evaluate", {"samples": 0}),
        ("evaluate", {"smaples": 5}),
        ("evaluate", {"mixture_coverage": {"points": 0}}),
        ("evaluate", {"mixture_coverage": "yes"}),
        ("evaluate", {"many": {"use": "mixture_coverage", "point": 5}}),
        ("loggers", {"mine": 3}),
        ("loggers", {"mine": {"use": 3}}),
    ],
)
def test_the_schema_refuses_what_the_recipe_refuses(table: str, keys: dict[str, Any]) -> None:
    raw = load_recipe("ring_mlp").as_dict()
    raw[table] = raw.get(table, {}) | keys
    assert list(errors(raw, recipe_schema()))


def test_the_schema_knows_instances_and_tricks_that_are_off() -> None:
    raw = load_recipe("ring_mlp").as_dict()
    raw["tricks"] = {
        "soft_labels": "off",
        "ema": "on",
        "label_flipping": True,
        "late": {"use": "soft_labels", "clip": True},
        "my_own": {"anything": 1},
        "separate_batches": {"use": "soft_labels"},
    }
    assert list(errors(raw, recipe_schema())) == []


def test_the_schema_allows_loggers_of_any_name() -> None:
    raw = load_recipe("ring_mlp").as_dict()
    raw["loggers"] = {"mine": {"anything": 1}, "other": {"use": "mine"}, "third": "off", "fourth": True}
    assert list(errors(raw, recipe_schema())) == []


def test_the_schema_knows_metrics_as_it_knows_tricks() -> None:
    raw = load_recipe("ring_mlp").as_dict()
    raw["evaluate"] = {
        "samples": 10,
        "mixture_coverage": "off",
        "many": {"use": "mixture_coverage", "points": 9},
        "my_own": {"anything": 1},
    }
    assert list(errors(raw, recipe_schema())) == []


def test_only_a_recipe_that_extends_may_leave_tables_out() -> None:
    schema = recipe_schema()
    assert list(errors({"extends": "dcgan.toml", "data": {"batch_size": 8}}, schema)) == []
    assert list(errors({"name": "alone"}, schema))


def test_the_schema_has_no_references(gantricks: Any) -> None:
    printed = gantricks("schema")
    assert printed.status == 0
    assert '"$ref"' not in printed.out
    assert json.loads(printed.out) == json.loads(json.dumps(recipe_schema()))


def test_an_option_may_be_named_like_a_word_of_the_schema_language() -> None:
    class Config(Options):
        title: str = "x"

    assert inline(Config.model_json_schema())["properties"]["title"]["default"] == "x"


# ---------------------------------------------------------------- doctor


def test_doctor_reports_and_its_status_is_what_it_found(gantricks: Any) -> None:
    outcome = gantricks("doctor", "--json")
    report = json.loads(outcome.out)
    assert report["sound"] == (outcome.status == 0)
    topics = {finding["topic"] for finding in report["findings"]}
    assert topics == {"versions", "cpu", "cuda", "cache", "shipped", "plugins"}
    assert not Path("cache").exists()


@pytest.mark.usefixtures("installed")
def test_doctor_does_not_blame_us_for_a_broken_package(gantricks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "_shipped", lambda: iter(()))
    outcome = gantricks("doctor")
    assert outcome.status == 0
    assert "no_such_package_anywhere" in outcome.out
    assert "'moonlight'" in outcome.out


def test_doctor_fails_when_something_of_ours_is_broken(gantricks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "index", lambda: {kind: {"gone": {}} for kind in SINGULAR})
    outcome = gantricks("doctor")
    assert outcome.status == 1
    assert "stale about" in outcome.out


def test_doctor_sees_a_cache_that_cannot_be_written(gantricks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("file").write_text("")
    monkeypatch.setenv("GANTRICKS_CACHE", str(Path("file/cache").absolute()))
    (finding,) = examination._cache()
    assert finding.state == "note"
    assert "GANTRICKS_CACHE" in finding.what
