"""new-trick: what it writes, what it refuses, and whether what it wrote works."""

import json
import keyword
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gantricks.catalogue.index import shipped
from gantricks.cli.new_trick import _class_name
from gantricks.testing import LAWS

MADE = {
    "README.md",
    "pyproject.toml",
    "src/gantricks_target_jitter/__init__.py",
    "src/gantricks_target_jitter/target_jitter.py",
    "tests/test_target_jitter.py",
}
TRICK = "src/gantricks_target_jitter/target_jitter.py"
ALONE = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
SOON = 300


def files(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
        for path in folder.rglob("*")
        if path.is_file()
    }


def recipe_of(package: Path) -> str:
    """The recipe in the package's README."""
    blocks = re.findall(r"```toml\n(.*?)```", (package / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 1
    return str(blocks[0])


def pytest_in(folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=folder,
        env=ALONE,
        capture_output=True,
        text=True,
        timeout=SOON,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# ---------------------------------------------------------------- what it writes


def test_a_package_is_written_with_its_names(gantricks: Any) -> None:
    outcome = gantricks("new-trick", "target_jitter")
    assert (outcome.status, outcome.err) == (0, "")
    package = Path("gantricks-target-jitter")
    written = files(package)
    assert written.keys() == MADE
    assert not any("$" in text for text in written.values())

    project = tomllib.loads(written["pyproject.toml"])["project"]
    assert (project["name"], project["version"]) == ("gantricks-target-jitter", "0.1.0")
    assert project["dependencies"] == ["gantricks"]
    assert project["optional-dependencies"] == {"test": ["gantricks[test]"]}
    assert project["entry-points"] == {"gantricks.tricks": {"target_jitter": "gantricks_target_jitter:TargetJitter"}}


def test_what_was_made_and_what_to_do_next_is_told(gantricks: Any) -> None:
    Path("my tricks").mkdir()
    told = gantricks("new-trick", "target_jitter", "--dir", "my tricks").out
    for name in MADE:
        path = Path("my tricks/gantricks-target-jitter", name)
        assert path.is_file()
        assert str(path) in told or path.name == "__init__.py"
    assert f"--plugin 'my tricks/gantricks-target-jitter/{TRICK}'" in told
    assert "pip install -e './my tricks/gantricks-target-jitter[test]'" in told
    assert "gantricks tricks target_jitter --check" in told


@given(st.from_regex(r"[a-z][a-z0-9_]{0,12}", fullmatch=True))
def test_every_name_makes_a_class_that_python_takes(name: str) -> None:
    made = _class_name(name)
    assert made.isidentifier()
    assert not keyword.iskeyword(made)
    assert made not in {"Trick", "Config", "Rng", "Context", "Field", "Tensor", "Annotated", "Exception"}


@pytest.mark.parametrize("name", ["trick", "config", "none", "exception", "x", "a__b_", "match", "pull_in", "test_it"])
def test_odd_names_make_tricks_that_work(gantricks: Any, name: str) -> None:
    assert gantricks("new-trick", name).status == 0
    (package,) = Path().glob("gantricks-*")
    assert re.fullmatch(r"gantricks-[a-z0-9]+(-[a-z0-9]+)*", package.name)
    outcome = gantricks("tricks", name, "--json", "--plugin", package / f"src/gantricks_{name}/{name}.py")
    assert outcome.status == 0, outcome.err
    card = json.loads(outcome.out)
    assert card["hooks"] == ["d_labels"]
    compile((package / f"tests/test_{name}.py").read_text(encoding="utf-8"), name, "exec")


# ---------------------------------------------------------------- what it refuses


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("Target-Jitter", "new-trick target_jitter"),
        ("TargetJitter", "new-trick target_jitter"),
        ("../escape", "new-trick escape"),
        ("2nd", "new-trick target_jitter"),
        ("jitter\n", "new-trick jitter"),
        ("jittér", "new-trick jitt_r"),
        ("", "new-trick target_jitter"),
        ("soft_labels", "new-trick my_soft_labels"),
        ("Soft-Labels", "new-trick target_jitter"),
        ("lambda", "new-trick my_lambda"),
    ],
)
def test_unfit_names_are_refused_with_one_that_fits(gantricks: Any, name: str, instead: str) -> None:
    outcome = gantricks("new-trick", name)
    assert outcome.status == 2
    assert outcome.out == ""
    assert outcome.err.rstrip().endswith(instead)
    assert not list(Path().iterdir())
    assert gantricks(*outcome.err.rstrip().rpartition("gantricks ")[2].split()).status == 0


def test_shipped_names_are_refused(gantricks: Any) -> None:
    assert {gantricks("new-trick", name).status for name in shipped("tricks")} == {2}
    assert not list(Path().iterdir())


@pytest.mark.parametrize("kind", ["empty folder", "folder", "file", "link to nowhere"])
def test_what_is_there_stays_as_it_is(gantricks: Any, kind: str) -> None:
    there = Path("gantricks-target-jitter")
    if kind == "file":
        there.write_text("mine")
    elif kind == "link to nowhere":
        there.symlink_to("nowhere")
    else:
        there.mkdir()
        if kind == "folder":
            (there / "README.md").write_text("mine")
    before = sorted(Path().rglob("*"))
    outcome = gantricks("new-trick", "target_jitter")
    assert outcome.status == 2
    assert "nothing is overwritten" in outcome.err
    assert "--dir" in outcome.err
    assert sorted(Path().rglob("*")) == before
    assert all(path.read_text() == "mine" for path in before if path.is_file())


def test_a_folder_that_is_not_there_is_not_made(gantricks: Any) -> None:
    outcome = gantricks("new-trick", "target_jitter", "--dir", "no such")
    assert outcome.status == 2
    assert "mkdir -p 'no such'" in outcome.err
    Path("file").touch()
    assert "not a folder" in gantricks("new-trick", "target_jitter", "--dir", "file").err


# ---------------------------------------------------------------- whether it works


def test_it_trains_from_its_file_in_the_recipe_of_its_readme(gantricks: Any) -> None:
    gantricks("new-trick", "target_jitter")
    package = Path("gantricks-target-jitter")
    Path("mine.toml").write_text(recipe_of(package))
    plugin = ("--plugin", package / TRICK)
    checked = gantricks("check", "mine.toml", *plugin)
    assert checked.status == 0, checked.err
    assert "target_jitter" in checked.out
    trained = gantricks("train", "mine.toml", *gantricks.small, "--set", "train.steps=2", *plugin)
    assert trained.status == 0, trained.err
    assert json.loads(Path("runs/ring_target_jitter/metrics.jsonl").read_text().splitlines()[-1])["step"] == 2


def test_the_command_that_tries_it_works_as_told(gantricks: Any) -> None:
    lines = gantricks("new-trick", "target_jitter", "--dir", ".").out.splitlines()
    (told,) = [shlex.split(line) for line in lines if line.startswith("  gantricks train")]
    tried = gantricks(*told[1:], *gantricks.small, "--set", "train.steps=2")
    assert tried.status == 0, tried.err
    assert Path("runs/target_jitter/metrics.jsonl").exists()


def test_it_obeys_the_laws_at_its_defaults(gantricks: Any) -> None:
    gantricks("new-trick", "target_jitter")
    checked = gantricks("tricks", "target_jitter", "--check", "--json", "--plugin", f"gantricks-target-jitter/{TRICK}")
    assert checked.status == 0, checked.out
    outcomes = {check["id"]: check["status"] for check in json.loads(checked.out)["checks"]}
    assert {law for law, status in outcomes.items() if status != "passed"} == SILENT
    assert set(outcomes.values()) == {"passed", "skipped"}


SILENT = {"classes", "conditions", "both-sides", "latents", "learns", "gates"}
"""The laws that say nothing of a trick on D's targets."""


def test_its_tests_pass_as_they_are(gantricks: Any) -> None:
    gantricks("new-trick", "target_jitter")
    # beside the laws its own, two properties, and two mistakes, one of them caught twice
    passed = f"^{len(LAWS) + 1 + 2 + 3 - len(SILENT)} passed, {len(SILENT)} skipped in"
    assert re.search(passed, pytest_in(Path("gantricks-target-jitter")), flags=re.MULTILINE)


def test_the_command_imports_no_heavy_package(tmp_path: Path) -> None:
    program = """
import sys
from gantricks.cli import main
assert main(["new-trick", "target_jitter"]) == 0
assert not {"torch", "PIL", "tensorboard", "numpy"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=SOON)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_tried_as_a_new_user_would(gantricks: Any, tmp_path: Path) -> None:
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode:
        pytest.skip("there is no pip")
    gantricks("new-trick", "target_jitter")
    package, site = tmp_path / "gantricks-target-jitter", tmp_path / "site"

    trick = package / TRICK
    text = trick.read_text(encoding="utf-8")
    assert "] = 0.5\n" in text
    text = text.replace("] = 0.5\n", "] = 0.25\n").replace("Target jitter: each", "Mine: each")
    trick.write_text(text, encoding="utf-8")

    def pip(*words: str) -> None:
        command = [sys.executable, "-m", "pip", *words, "--no-deps", "--no-index", "--disable-pip-version-check"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=SOON)
        if "No module named 'setuptools'" in done.stderr or "Cannot import 'setuptools" in done.stderr:
            pytest.skip("pip cannot build a wheel here: there is no setuptools")
        assert done.returncode == 0, done.stdout + done.stderr

    pip("wheel", "--no-build-isolation", "--wheel-dir", "wheels", str(package))
    (wheel,) = (tmp_path / "wheels").iterdir()
    assert wheel.name == "gantricks_target_jitter-0.1.0-py3-none-any.whl"
    pip("install", "--target", str(site), str(wheel))

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine.toml").write_text(recipe_of(package).replace("strength = 0.5\n", ""))

    def command(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "gantricks.cli", *words],
            cwd=elsewhere,
            env=ALONE | {"PYTHONPATH": str(site), "GANTRICKS_CACHE": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
            timeout=SOON,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    listed = {found["name"]: found for found in json.loads(command("tricks", "--json"))}
    assert listed["target_jitter"]["origin"] == "gantricks-target-jitter 0.1.0"
    assert "from gantricks-target-jitter 0.1.0" in command("tricks")
    card = command("tricks", "target_jitter")
    assert "Mine: each of D's targets" in card
    assert "0.25" in card
    assert "target_jitter" in command("check", "mine.toml")
    steps = ("--set", "train.steps=4", "--set", "train.checkpoint_every=2")
    command("train", "mine.toml", *gantricks.small, *steps, "--run-dir", "run")
    lines = (elsewhere / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 4
    command("resume", "run", "--step", "2")
    assert (elsewhere / "run" / "metrics.jsonl").read_text().splitlines()[-1] == lines[-1]
    assert "finished" in command("resume", "run")
    assert "0 failed" in command("tricks", "target_jitter", "--check")
