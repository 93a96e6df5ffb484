"""What the README says can be done, done."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "label_jitter.py").write_text(blocks("python")[0], encoding="utf-8")
    (tmp_path / "test_label_jitter.py").write_text(blocks("python")[1], encoding="utf-8")
    return tmp_path


def test_the_example_trick_passes_its_example_tests(folder: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_label_jitter.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert re.search(r"^\d{2} passed(, \d+ skipped)? in", done.stdout, flags=re.MULTILINE), done.stdout + done.stderr


def test_the_example_trick_trains_as_the_readme_says(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gantricks.cli import main

    monkeypatch.chdir(folder)
    command = next(line for line in "".join(blocks("sh")).splitlines() if "--plugin" in line)
    small = ["train.steps=2", "generator.channels=4", "discriminator.channels=4"]
    arguments = command.split()[1:] + [part for setting in small for part in ("--set", setting)]
    assert main(arguments) == 0
    assert (folder / "runs" / "dcgan" / "samples" / "000002.png").exists()


def test_the_example_recipe_is_the_shipped_one() -> None:
    import tomllib

    from gantricks.planning.recipe_files import shipped_recipes

    shipped = tomllib.loads(shipped_recipes()["dcgan_soft_labels"].read_text(encoding="utf-8"))
    assert tomllib.loads(blocks("toml")[0]) == shipped


def test_there_are_exactly_two_set_up_commands_and_ci_runs_the_second() -> None:
    set_up = README.read_text(encoding="utf-8").partition("## Set-up")[2].partition("\n## ")[0]
    commands = re.findall(r"```sh\n(.*?)\n```", set_up, flags=re.DOTALL)
    assert len(commands) == 2
    assert "gantricks train recipes/dcgan_soft_labels.toml" in commands[0]
    assert "pytest -n auto" in commands[1]
