"""Finding tricks, networks and data sources by name."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import ValidationError

import gantricks
from gantricks import Trick, UserError
from gantricks.catalogue import registry
from gantricks.catalogue.imports import entry_points, unreadable
from gantricks.catalogue.index import build_index, describe, index, shipped
from gantricks.catalogue.registry import Registry
from gantricks.engine.dispatch import Hooks
from gantricks.hooks import KINDS
from gantricks.metrics.base import NEEDS
from gantricks.planning.checks import unknown_names
from gantricks.planning.contract import contract_problems
from gantricks.planning.facts import PlannedTrick


def test_the_index_is_what_the_files_say() -> None:
    fresh = json.loads(json.dumps(build_index()))
    assert fresh == json.loads((files("gantricks.catalogue") / "index.json").read_text(encoding="utf-8")), (
        "run: python docs/build.py"
    )


@pytest.mark.parametrize("name", shipped("tricks"))
def test_every_shipped_trick_keeps_the_contract_and_has_a_card(name: str) -> None:
    cls = Registry(installed=False).load("tricks", name).cls
    assert not list(contract_problems(cls))
    card = index()["tricks"][name]
    assert len(card["summary"]) < 160


@pytest.mark.parametrize("name", shipped("tricks"))
def test_a_shipped_card_is_short_and_says_when_it_hurts_and_where_it_is_from(name: str) -> None:
    card = index()["tricks"][name]
    paragraphs = card["card"].split("\n\n")
    assert len(card["card"].split()) <= 120
    assert [text.partition(":")[0] for text in paragraphs[-2:]] == ["When it hurts", "Source"]


def test_details_are_what_the_module_says_below_its_first_paragraph(tmp_path: Path) -> None:
    (tmp_path / "long.py").write_text('"""Long.\n\nThe first.\n\nThe second.\n"""\n' + PLUGIN)
    (tmp_path / "brief.py").write_text('"""One paragraph\nof two lines."""\n' + PLUGIN)
    (tmp_path / "mute.py").write_text(PLUGIN)
    found = Registry([tmp_path / f"{name}.py" for name in ("long", "brief", "mute")], installed=False)
    told = {name: describe("tricks", found.load("tricks", name).cls)["details"] for name in ("long", "brief", "mute")}
    assert told == {"long": "The first.\n\nThe second.", "brief": "", "mute": ""}


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
    assert "hidden by the shipped one" in Registry().warnings()[0]


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


def test_no_logger_ships() -> None:
    assert shipped("loggers") == []
    assert index()["loggers"] == {}


def test_importing_gantricks_imports_no_torch() -> None:
    modules = (
        "gantricks, gantricks.catalogue.registry, gantricks.planning.validation, gantricks.metrics.mixture_coverage, "
        "gantricks.loggers.base"
    )
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


def test_shipped_tricks_go_badly_with_known_names_only() -> None:
    """A name that is misspelt would never be met."""
    tricks = [trick for name in shipped("tricks") for trick in with_every_choice(name)]
    assert not [*unknown_names(tricks, shipped("tricks"))]


def with_every_choice(name: str) -> Iterator[PlannedTrick]:
    """A trick at its defaults, and once for each other choice of an option that has a few."""
    cls: Any = Registry(installed=False).load("tricks", name).cls
    chosen = [
        {option: value}
        for option, described in cls.Config.model_fields.items()
        for value in (get_args(described.annotation) if get_origin(described.annotation) is Literal else ())
    ]
    for options in [{}, *chosen]:
        with contextlib.suppress(ValidationError):  # a choice that wants another option too
            yield PlannedTrick(name, name, cls(cls.Config(**options)), "gantricks", "")


# ---------------------------------------------------------------- plugins of others

NETWORK = "from gantricks.networks.mlp import MLP\nclass Wide(MLP):\n    '''Wide.'''\n"
SOURCE = "from gantricks.data.ring import Ring\nclass Circle(Ring):\n    '''Circle.'''\n"
METRIC = (
    "from gantricks.metrics.mixture_coverage import MixtureCoverage\nclass Sharp(MixtureCoverage):\n    '''Sharp.'''\n"
)
LOGGER = "from gantricks import Logger\nclass Told(Logger):\n    def scalars(self, step, scalars): pass\n"
EXTRACTOR = "from gantricks.metrics.extractors.base import Extractor\nclass Pixels(Extractor):\n    '''Pixels.'''\n"


def local(folder: Path, text: str | bytes, name: str = "mine.py") -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("import sys; sys.exit()", "ends the program"),
        ("import sys; sys.exit('no licence')", "ends the program: no licence"),
        ("raise SystemExit(0)", "ends the program: 0"),
        ("import argparse; argparse.ArgumentParser().parse_args(['--nope'])", "ends the program: 2"),
        ("class Own(BaseException): pass\nraise Own('mine')", "Own: mine"),
        ("class Mute(Exception):\n    def __str__(self): raise ValueError\nraise Mute", "Mute"),
        ("raise ValueError('one\\ntwo \\x1b[31m')", "one two"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("f = lambda: f()\nf()", "RecursionError"),
        ("from gantricks import Trik", "Trik"),
        (b"\0\x80\xff", "importing it fails"),
        (b"x = '\xe9'", "importing it fails"),
        ("x = " + "(" * 1000, "importing it fails"),
    ],
)
def test_whatever_a_file_raises_is_a_sentence_that_names_it(tmp_path: Path, error: str | bytes, said: str) -> None:
    path = local(tmp_path, error)
    with pytest.raises(UserError) as caught:
        Registry([path], installed=False).load("tricks", "mine")
    (problem,) = caught.value.problems
    assert str(path) in problem.where
    assert said in problem.what
    assert not [name for name in sys.modules if name.startswith("gantricks_local_plugin_mine_")]


def test_ctrl_c_while_a_plugin_is_imported_is_ctrl_c(tmp_path: Path) -> None:
    path = local(tmp_path, "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        Registry([path], installed=False).load("tricks", "mine")


def test_a_file_is_imported_once_even_when_it_fails(tmp_path: Path) -> None:
    path = local(tmp_path, f"open({str(tmp_path / 'count')!r}, 'a').write('x')\n1 / 0")
    found = Registry([path], installed=False)
    for _ in range(2):
        with pytest.raises(UserError):
            found.load("tricks", "mine")
        found.names("tricks")
        found.warnings()
    assert (tmp_path / "count").read_text() == "x"


def test_what_is_no_python_file_is_refused_before_anything_is_imported(tmp_path: Path) -> None:
    (tmp_path / "folder.d").mkdir()
    os.mkfifo(tmp_path / "pipe.py")
    with (tmp_path / "huge.py").open("wb") as file:
        file.truncate(1 << 40)
    local(tmp_path, PLUGIN, "trick.txt")
    names = ["folder.d", "pipe.py", "huge.py", "trick.txt", "nothing.py", "x" * 300 + ".py"]
    with pytest.raises(UserError) as caught:
        Registry([tmp_path / name for name in names])
    assert [p.what for p in caught.value.problems] == [
        "it is a folder",
        *["a plugin is a Python file"] * 3,
        "there is no such file",
        "it cannot be read: File name too long",
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_a_sentence(tmp_path: Path) -> None:
    path = local(tmp_path, PLUGIN)
    path.chmod(0)
    with pytest.raises(UserError, match="it cannot be read: Permission denied"):
        Registry([path], installed=False).load("tricks", "mine")


@pytest.mark.parametrize(
    ("kind", "text"),
    [("tricks", PLUGIN), ("networks", NETWORK), ("data", SOURCE), ("metrics", METRIC), ("loggers", LOGGER)],
)
def test_a_file_may_hold_any_part_of_a_recipe(tmp_path: Path, kind: str, text: str) -> None:
    found = Registry([local(tmp_path, text)], installed=False)
    assert found.names(kind)["mine"].endswith("mine.py")
    assert "sha256:" in found.load(kind, "mine").origin
    for other in {"tricks", "networks", "data", "metrics", "loggers"} - {kind}:
        assert "mine" not in found.names(other)
        with pytest.raises(UserError, match="this one defines none"):
            found.load(other, "mine")


def test_a_file_may_hold_one_part_of_each_kind_under_its_name(tmp_path: Path) -> None:
    found = Registry([local(tmp_path, PLUGIN + NETWORK + SOURCE + METRIC + LOGGER)], installed=False)
    kinds = ("tricks", "networks", "data", "metrics", "loggers")
    assert [found.load(kind, "mine").cls.__name__ for kind in kinds] == ["Mine", "Wide", "Circle", "Sharp", "Told"]


def test_an_extractor_comes_from_a_package_and_a_file_that_holds_one_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"an extractor cannot come from a file\n.*gantricks\.extractors"):
        Registry([local(tmp_path, EXTRACTOR)]).load("metrics", "mine")


def test_a_file_named_like_any_part_that_ships_is_refused(tmp_path: Path) -> None:
    files = [local(tmp_path, PLUGIN, f"{name}.py") for name in ("mlp", "ring", "kernel_distance", "inception")]
    with pytest.raises(UserError) as caught:
        Registry(files)
    told = " ".join(problem.what for problem in caught.value.problems)
    assert all(word in told for word in ("network", "data source", "metric", "extractor"))


def test_two_files_of_one_name_are_refused_and_the_same_file_twice_is_one(tmp_path: Path) -> None:
    first, second = local(tmp_path / "a", PLUGIN), local(tmp_path / "b", PLUGIN)
    with pytest.raises(UserError) as caught:
        Registry([first, second])
    assert str(first) in str(caught.value)
    assert str(second) in str(caught.value)
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "mine.py").symlink_to(first)
    assert Registry([first, first, tmp_path / "link" / "mine.py"]).plugins == (first,)


def test_a_name_that_two_plugins_have_is_refused_where_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local(tmp_path, PLUGIN, "one_package.py")
    monkeypatch.syspath_prepend(tmp_path)
    one = EntryPoint("mine", "one_package:Mine", "gantricks.tricks")
    points(monkeypatch, one, EntryPoint("mine", "other_package:Mine", "gantricks.tricks"))
    with pytest.raises(UserError, match=r"two plugins have the trick 'mine': one_package:Mine of .* and other_package"):
        Registry().load("tricks", "mine")
    points(monkeypatch, one, one)
    assert Registry().load("tricks", "mine").cls.__name__ == "Mine"
    path = local(tmp_path, PLUGIN)
    with pytest.raises(UserError, match=rf"two plugins have the trick 'mine': {re.escape(str(path))} and one_package"):
        Registry([path]).load("tricks", "mine")
    points(monkeypatch, EntryPoint("mine", "one_package:Mine", "gantricks.networks"))
    assert Registry([path]).load("tricks", "mine")


def test_a_file_that_no_name_has_led_to_is_told_with_what_to_add(tmp_path: Path) -> None:
    trick, pair = local(tmp_path, PLUGIN), local(tmp_path, NETWORK + METRIC, "pair.py")
    broken = local(tmp_path, "1 / 0", "broken.py")
    found = Registry([trick, pair, broken], installed=False)
    assert found.warnings() == [
        f"--plugin {trick} holds a trick that the recipe does not use: add [tricks.mine]",
        f"--plugin {pair} holds a network and a metric that the recipe does not use: "
        'add network = "pair" to [generator] or [discriminator], [evaluate.pair]',
        f"--plugin {broken} is not used by the recipe, and it is broken: "
        "importing it fails: ZeroDivisionError: division by zero",
    ]
    told = Registry([local(tmp_path, LOGGER, "told.py")], installed=False).warnings()
    assert told == [f"--plugin {tmp_path / 'told.py'} holds a logger that the recipe does not use: add [loggers.told]"]
    found.load("tricks", "mine")
    found.load("networks", "pair")
    assert [sentence.split()[1] for sentence in found.warnings()] == [str(broken)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (PLUGIN + "    Config = 3\n", "Config of Mine is not a subclass of Trick.Config"),
        (PLUGIN + "    class Config: strength = 1\n", "Config of Mine is not a subclass of Trick.Config"),
        (
            "import pydantic\n" + PLUGIN + "    class Config(pydantic.BaseModel): pass\n",
            "not a subclass of Trick.Config",
        ),
        (
            PLUGIN + "    class Config(Trick.Config):\n        model_config = {'arbitrary_types_allowed': True}\n"
            "        what: type(...)\n",
            "an option of a type that no recipe can hold",
        ),
        (PLUGIN + "    needs = 'targets'\n", "needs of Mine is not a collection of names: 'targets'"),
        (PLUGIN + "    provides = 3\n", "provides of Mine"),
        (PLUGIN + "    replaces = {1}\n", "replaces of Mine"),
        (PLUGIN + "    conflicts = {'ema'}\n", "conflicts of Mine is not a mapping of names"),
        (PLUGIN + "    forwards = None\n", "forwards of Mine"),
        (NETWORK + "    GeneratorConfig = dict\n", "GeneratorConfig of Wide is not a subclass of Options"),
        (SOURCE + "    paths = 'path'\n", "paths of Circle"),
        (METRIC + "    figures = {}\n", "figures of Sharp"),
        (METRIC + "    figures = {'a': 'more'}\n", "figures of Sharp"),
        (METRIC + "    ratios = 'modes'\n", "ratios of Sharp is not a collection of names"),
        (METRIC + "    ratios = {'nodes'}\n", "ratios of Sharp names what is no figure of it: {'nodes'}"),
    ],
)
def test_a_class_that_would_break_the_core_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    path = local(tmp_path, text)
    kinds = {"Mine": "tricks", "Wide": "networks", "Circle": "data", "Sharp": "metrics"}
    kind = next(kind for name, kind in kinds.items() if f"class {name}" in text)
    with pytest.raises(UserError) as caught:
        Registry([path], installed=False).load(kind, "mine")
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_constructor_that_fails_is_the_plugin_s_fault(tmp_path: Path) -> None:
    path = local(tmp_path, PLUGIN + "    def __init__(self, config): raise LookupError('no table')\n")
    found = Registry([path], installed=False).load("tricks", "mine")
    with pytest.raises(UserError, match="making Mine with its options fails: LookupError: no table") as caught:
        found.make(found.cls.Config())  # type: ignore[attr-defined]
    assert caught.value.problems[0].where == str(path)
    ours = Registry(installed=False).load("tricks", "ema")
    body = {"__init__": lambda self: None, "__module__": ours.cls.__module__}
    with pytest.raises(TypeError):
        registry.Found("ema", type("Ours", (ours.cls,), body), "gantricks").make(None)


def package(folder: Path, name: str, points: str | bytes | None, metadata: str | bytes | None = "") -> None:
    """An installed package's metadata; `metadata` None leaves the file out."""
    facts = folder / f"{name}-1.0.dist-info"
    facts.mkdir(parents=True)
    if metadata is not None:
        told = metadata or f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        (facts / "METADATA").write_bytes(told if isinstance(told, bytes) else told.encode())
    if points is not None:
        (facts / "entry_points.txt").write_bytes(points if isinstance(points, bytes) else points.encode())


OFFER = "[gantricks.tricks]\nmine = sound_module:Mine\n"


@pytest.mark.parametrize(
    "broken",
    [
        (b"\xff\xfe[\x80", ""),
        ("[gantricks.tricks]\nno equals sign\n", ""),
        ("no section = at all\n", ""),
        (OFFER.replace("mine = sound", "other = absent"), None),
        (OFFER.replace("mine = sound", "other = absent"), "nothing"),
        (OFFER.replace("mine = sound", "other = absent"), b"\xff\xfe\x00"),
        ("[gantricks.tricks]\nother =\n", ""),
        ("[gantricks.tricks]\nother = :::\n", ""),
        ("[gantricks.tricks]\n= x:y\n", ""),
    ],
)
def test_a_package_with_broken_metadata_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: tuple[str | bytes, str | bytes | None]
) -> None:
    local(tmp_path, PLUGIN, "sound_module.py")
    package(tmp_path, "sound", OFFER)
    package(tmp_path, "aaa_broken", *broken)
    monkeypatch.syspath_prepend(tmp_path)
    found = Registry()
    assert found.load("tricks", "mine").origin == "sound 1.0"
    found.warnings()
    found.names("tricks")
    with pytest.raises(UserError):
        found.load("tricks", "other")
    assert "mine" in [point.name for point in entry_points("gantricks.tricks")]
    assert all("aaa_broken" in sentence for sentence in unreadable())
    assert not [sentence for sentence in found.warnings() if "None" in sentence]


def test_a_package_that_exits_when_it_is_imported_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local(tmp_path, "import sys; sys.exit('closed')", "leaving_module.py")
    package(tmp_path, "leaving", OFFER.replace("sound", "leaving"))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"'mine' of leaving 1.0 .*importing it ends the program: closed"):
        Registry().load("tricks", "mine")
