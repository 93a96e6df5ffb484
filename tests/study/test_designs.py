"""Studies of every design with real runs of two steps; a killed one goes on, and measured runs are slim."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gantricks.study.slimming import LARGEST, slimmed

STEPS = (
    *("--set", "train.steps=2", "--set", "generator.hidden=[8]", "--set", "discriminator.hidden=[8]"),
    *("--set", "data.batch_size=16", "--set", "data.samples=500", "--metric", "mixture_coverage"),
    *("--figure", "reverse_kl"),
)


def begin(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "gantricks.cli", "ablate", "ring_mlp", *words, *STEPS],
        cwd=folder,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def made(folder: Path, *words: str) -> str:
    process = begin(folder, *words)
    out, err = process.communicate(timeout=600)
    assert (process.returncode, err) == (0, ""), out
    return out


def results(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "results.json").read_text())
    return found


def test_a_measured_run_keeps_what_says_how_it_was_made(tmp_path: Path) -> None:
    (tmp_path / "checkpoints/000002").mkdir(parents=True)
    (tmp_path / "checkpoints/000002/generator.safetensors").write_bytes(b"weights")
    (tmp_path / "samples").mkdir()
    kept = {
        tmp_path / name for name in ("recipe.toml", "manifest.json", "metrics.jsonl", "result.json", "samples/2.png")
    }
    for path in kept:
        path.write_text("it stays")
    with (tmp_path / "samples/film.bin").open("wb") as large:
        large.truncate(LARGEST + 1)
    slimmed(tmp_path)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == kept
    assert not (tmp_path / "checkpoints").exists()
    slimmed(tmp_path)


@pytest.mark.slow
def test_a_factorial_study_from_end_to_end(tmp_path: Path) -> None:
    out = made(tmp_path, "--mode", "factorial", "--tricks", "ema,r1", "--with", "tricks.r1.weight=1.0", "--seeds", "2")
    assert "4 of 4 subsets of ema, r1, 2 seeds each: 8 runs" in out
    assert "interactions of two" in out
    found = results(tmp_path / "studies/ring_mlp-factorial")
    assert (found["runs"], found["used"] + found["collapsed"]) == (8, 8)
    assert "weight = 1.0" in (tmp_path / "studies/ring_mlp-factorial/runs/r1/recipe.toml").read_text()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals are others there")
def test_a_killed_screening_loses_one_run_and_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    words = ("--mode", "screening", "--runs", "6", "--tricks", "ema,r1,lecam,hinge,minimax,instance_noise")
    calm.mkdir()
    killed.mkdir()
    made(calm, *words)
    process = begin(killed, *words)
    assert process.stdout
    for line in process.stdout:
        if line.startswith("run 3/6"):
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = {path: path.stat().st_mtime_ns for path in killed.rglob("result.json")}
    assert len(before) >= 3
    time.sleep(0.1)
    out = made(killed, *words)
    assert "of the runs are finished already" in out
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    ended, undisturbed = (results(folder / "studies/ring_mlp-screening") for folder in (killed, calm))
    figures = [[row["values"] for row in found["table"]] for found in (ended, undisturbed)]
    assert figures[0] == figures[1]
    assert len(figures[0]) == 6
    runs = killed / "studies/ring_mlp-screening/runs"
    assert not list(runs.rglob("checkpoints"))
    assert len(list(runs.glob("*/seed-*/result.json"))) == 6
    assert max(path.stat().st_size for path in runs.rglob("*") if path.is_file()) < LARGEST


@pytest.mark.slow
def test_a_confirmation_from_end_to_end(tmp_path: Path) -> None:
    made(tmp_path, "--mode", "confirm", "--finalists", "ema,r1", "--blocks", "2")
    path = tmp_path / "studies/ring_mlp-confirm"
    found = results(path)
    assert {comparison["name"] for comparison in found["comparisons"]} == {"ema", "r1"}
    assert "Written before the first run." in (path / "plan.md").read_text()
    assert (path / "plan.md").stat().st_mtime_ns < min(p.stat().st_mtime_ns for p in path.rglob("result.json"))
    assert not list(path.rglob("checkpoints"))
