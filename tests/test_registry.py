"""Finding tricks, networks and data sources by name."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from importlib.metadata import EntryPoint
from importlib.resources import files
from pathlib import Path

import pytest

import gantricks
from gantricks import Trick, UserError, registry
from gantricks.hooks import KINDS
from gantricks.metrics.base import NEEDS
from gantricks.plan import Hooks, contract_problems
from gantricks.registry import Registry, build_index, index, shipped


def test_the_index_is_what_the_files_say() -> None:
    fresh = json.loads(json.dumps(build_index()))
    assert fresh == json.loads((files("gantricks") / "index.json").read_text(encoding="utf-8")), (
        "run: python -m gantricks.registry"
    )


@pytest.mark.parametrize("name", shipped("tricks"))
def test_every_shipped_trick_keeps_the_contract_and_has_a_card(name: str) -> None:
    cls = Registry(installed=False).load("tricks", name).cls
    assert not list(contract_problems(cls))
    card = index()["tricks"][name]
    assert len(card["summary"]) < 160
    assert "Source" in card["card"]


def test_plugins_import_only_public_names() -> None:
    for name in shipped("tricks"):
        path = Path(str(files("gantricks.plugins"))) / f"{name}.py"
        for line in path.read_text(encoding="utf-8").splitlines():
            assert not line.startswith(("from gantricks.", "import gantricks.")), f"{path.name}: {line}"
            if line.startswith("from gantricks import"):
                assert {n.strip(" ()") for n in line.partition("import")[2].split(",")} - {""} <= set(gantricks.__all__)


def test_the_core_names_no_trick() -> None:
    root = Path(gantricks.__file__).parent
    for path in root.rglob("*.py"):
        strings = {
            node.value
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        # within longer strings too, such as an override, but not in words for people
        named = {word for string in strings if " " not in string for word in re.findall(r"\w+", string)}
        assert not named & set(shipped("tricks")), path


def test_every_kind_of_hook_has_its_place_in_a_frozen_run() -> None:
    assert list(vars(Hooks())) == list(KINDS)


PLUGIN = "from gantricks import Trick, hookimpl\nclass Mine(Trick):\n    '''Mine.'''\n"


def test_a_local_file_is_a_trick_named_for_it(tmp_path: Path) -> None:
    path = tmp_path / "my_trick.py"
    path.write_text(PLUGIN)
    found = Registry([path], installed=False).load("tricks", "my_trick")
    assert issubclass(found.cls, Trick)
    assert str(path) in found.origin


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\ny = = 2\n", "my_trick.py:2"),
        ("import no_such_module\n", "no_such_module"),
        ("x = 1\n\n1 / 0\n", "my_trick.py:3"),
        ("x = 1\n", "exactly one Trick class; this one defines none"),
        (PLUGIN + PLUGIN.replace("Mine", "Yours"), "Mine, Yours"),
    ],
)
def test_a_broken_local_file_is_named_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "my_trick.py"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        Registry([path], installed=False).load("tricks", "my_trick")
    assert said in str(caught.value)
    assert "my_trick.py" in str(caught.value)


def points(monkeypatch: pytest.MonkeyPatch, *found: EntryPoint) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda group: [point for point in found if point.group == group])


def test_a_broken_installed_plugin_is_a_warning_until_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    points(monkeypatch, EntryPoint("broken", "no_such_module_at_all:X", "gantricks.tricks"))
    found = Registry()
    assert "'broken'" in found.warnings()[0]
    assert found.load("tricks", "soft_labels")
    with pytest.raises(UserError, match="no_such_module_at_all"):
        found.load("tricks", "broken")
    assert not found.warnings(["broken"])


def test_an_installed_plugin_that_is_no_trick_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    points(monkeypatch, EntryPoint("path", "pathlib:Path", "gantricks.tricks"))
    with pytest.raises(UserError, match="not a subclass of Trick"):
        Registry().load("tricks", "path")


def test_an_installed_plugin_cannot_replace_a_shipped_one(monkeypatch: pytest.MonkeyPatch) -> None:
    points(monkeypatch, EntryPoint("soft_labels", "pathlib:Path", "gantricks.tricks"))
    assert Registry().load("tricks", "soft_labels").origin == "gantricks"
    assert "shadowed" in Registry().warnings()[0]


@pytest.mark.parametrize("name", shipped("metrics"))
def test_every_shipped_metric_has_figures_a_card_and_known_needs(name: str) -> None:
    cls = Registry(installed=False).load("metrics", name).cls
    assert set(cls.figures.values()) <= {"higher", "lower"}
    assert cls.figures
    assert set(cls.needs) <= set(NEEDS)
    card = index()["metrics"][name]
    assert len(card["summary"]) < 160
    assert "Source" in card["card"]
    assert card["figures"] == cls.figures


def test_installed_metrics_and_extractors_are_found_and_must_be_such(monkeypatch: pytest.MonkeyPatch) -> None:
    points(
        monkeypatch,
        EntryPoint("sharpness", "gantricks.metrics.mixture_coverage:MixtureCoverage", "gantricks.metrics"),
        EntryPoint("path", "pathlib:Path", "gantricks.metrics"),
        EntryPoint("pixels", "gantricks.metrics.extractors.base:Extractor", "gantricks.extractors"),
    )
    assert Registry().load("metrics", "sharpness").cls.__name__ == "MixtureCoverage"
    assert Registry().load("extractors", "pixels").cls.__name__ == "Extractor"
    with pytest.raises(UserError, match="not a subclass of Metric"):
        Registry().load("metrics", "path")
    with pytest.raises(UserError, match=r"there is no metric 'sharpnes'\n.*'sharpness'"):
        Registry().load("metrics", "sharpnes")


def test_importing_gantricks_imports_no_torch() -> None:
    modules = "gantricks, gantricks.registry, gantricks.recipe, gantricks.metrics.mixture_coverage"
    code = f"import sys, {modules}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_there() -> None:
    for name in gantricks.__all__:
        assert getattr(gantricks, name) is not None


def test_a_local_file_that_is_not_there_or_is_named_like_a_shipped_trick_is_refused(tmp_path: Path) -> None:
    (tmp_path / "soft_labels.py").write_text(PLUGIN)
    with pytest.raises(UserError) as caught:
        Registry([tmp_path / "soft_labels.py", tmp_path / "nothing.py"])
    assert "ships with gantricks" in str(caught.value)
    assert "nothing.py: there is no such file" in str(caught.value)
