"""Commands run in this process, in an empty folder, on data and networks small enough to train in no time."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from gantricks.cli import main


@dataclass(frozen=True)
class Outcome:
    status: int
    out: str
    err: str


class Shell:
    """Called with the words of a command, it runs it and returns its exit status and what it printed."""

    small = (
        *("--set", "data.samples=500", "--set", "data.batch_size=16"),
        *("--set", "generator.hidden=[8]", "--set", "discriminator.hidden=[8]"),
    )

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *words: object) -> Outcome:
        self._capsys.readouterr()
        status = main([str(word) for word in words])
        return Outcome(status, *self._capsys.readouterr())


@pytest.fixture
def gantricks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setenv("GANTRICKS_CACHE", str(tmp_path / "cache"))
    return Shell(capsys)


@pytest.fixture
def run(gantricks: Shell) -> Path:
    """A finished run of four steps, with checkpoints at 2 and 4."""
    steps = ("--set", "train.steps=4", "--set", "train.checkpoint_every=2")
    outcome = gantricks("train", "ring_mlp", *gantricks.small, *steps, "--run-dir", "run")
    assert outcome.status == 0, outcome.err
    return Path("run")
