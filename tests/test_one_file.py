"""A new trick in the tree is one file in plugins/ and one in tests/plugins/: everything else is found or generated."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from string import Template

import pytest

from gantricks.cli.new_trick import _TESTS, _TRICK

ROOT = Path(__file__).parent.parent
REGENERATE = [[sys.executable, "docs/build.py"]]
"""What writes every generated file."""
GENERATED = ("docs/", "gantricks/catalogue/index.json")
FILES = {"plugins/target_jitter.py": _TRICK, "tests/plugins/test_target_jitter.py": _TESTS}


def done(command: list[str], folder: Path) -> str:
    # what is installed must not stand in for the copy, nor may a setting of git reach it
    env = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "PYTEST_"))}
    env |= {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "GIT_CONFIG_GLOBAL": os.devnull}
    ran = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    return ran.stdout


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what git tracks, committed, and so installed that a package finds its plugins and recipes."""
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("this is no checkout of git")
    tree = tmp_path / "tree"
    for name in done(["git", "ls-files", "--cached", "--others", "--exclude-standard"], ROOT).splitlines():
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, tree / name)
    done(["git", "init", "-q"], tree)
    for package in ("plugins", "recipes"):
        (tree / "gantricks" / package).symlink_to(tree / package)
        with (tree / ".git/info/exclude").open("a") as exclude:
            exclude.write(f"/gantricks/{package}\n")
    done(["git", "add", "-A"], tree)
    done(["git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "before"], tree)
    return tree


def test_a_new_trick_is_one_file_and_one_test_file(tree: Path) -> None:
    words = {"name": "target_jitter", "title": "Target jitter", "cls": "TargetJitter", "package": "gantricks.plugins"}
    for path, text in FILES.items():
        (tree / path).write_text(Template(text).substitute(words), encoding="utf-8")
    for command in REGENERATE:
        done(command, tree)
    changed = {line[3:] for line in done(["git", "status", "--porcelain", "-uall"], tree).splitlines()}
    assert changed >= {*FILES, "gantricks/catalogue/index.json", "docs/tricks/target_jitter.md"}
    assert {path for path in changed if not path.startswith(GENERATED)} == set(FILES), changed

    pytest_here = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-k", "target_jitter"]
    suites = ["tests/test_laws.py", "tests/test_mistakes.py", "tests/test_values.py"]
    collected = done([*pytest_here, "--collect-only", "-m", "", *suites], tree)
    for case in (
        "test_laws.py::test_a_trick_has_a_test_file_that_says_everything_of_it[target_jitter]",
        "test_laws.py::test_law[target_jitter-resume]",
        "test_laws.py::test_a_trick_alone_keeps_its_own_law[target_jitter]",
        "test_laws.py::test_every_pair_composes_alone_in_both_orders[target_jitter]",
        "test_mistakes.py::test_the_suite_catches[target_jitter: G's targets move too (trace_law)]",
        "test_values.py::test_a_documented_value_is_trained[tricks.target_jitter=on]",
    ):
        assert case in collected, f"{case} is not among\n{collected}"
    alone = ["tests/test_laws.py::test_a_trick_alone_keeps_its_own_law[target_jitter]", "tests/test_mistakes.py"]
    assert "4 passed" in done([*pytest_here, *alone], tree)
