"""A real study by two workers: interrupted, killed, taken up again, and in the end the one that nothing happened to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

WORDS = (
    *(
        "ablate",
        "ring_mlp",
        "--seeds",
        "2",
        "--design",
        "paired",
        "--metric",
        "mixture_coverage",
        "--figure",
        "reverse_kl",
    ),
    *("--set", "tricks.instance_noise={}", "--set", "tricks.ema={}", "--set", "train.steps=1500"),
    *("--set", "generator.hidden=[16]", "--set", "discriminator.hidden=[16]", "--set", "data.batch_size=64"),
)

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="signals are others there")]


def begin(folder: Path, jobs: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "gantricks.cli", *WORDS, "--jobs", str(jobs)],
        cwd=folder,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def stopped_at(run: int, folder: Path, number: int) -> tuple[int, str]:
    process = begin(folder, jobs=2)
    assert process.stdout
    shown = ""
    for line in process.stdout:
        shown += line
        if line.startswith(f"run {run}/"):
            break
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert err == ""
    return process.returncode, shown + out


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "studies/ring_mlp-leave-one-out/results.json").read_text())
    found.pop("seconds")
    for row in found["means"]:
        row.pop("step_seconds")
    for comparison in found["comparisons"]:
        assert comparison.pop("price")["value"] > 0
    return found


def test_a_study_that_is_stopped_twice_finds_what_one_in_peace_finds(tmp_path: Path) -> None:
    calm, disturbed = tmp_path / "calm", tmp_path / "disturbed"
    calm.mkdir()
    disturbed.mkdir()
    process = begin(calm, jobs=1)
    assert (process.communicate(timeout=600)[1], process.returncode) == ("", 0)

    status, shown = stopped_at(2, disturbed, signal.SIGINT)
    assert status == 130
    assert "runs; those under way are saved. To go on:" in shown
    status, shown = stopped_at(4, disturbed, signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert "of the runs are finished already" in shown
    process = begin(disturbed, jobs=2)
    out, err = process.communicate(timeout=600)
    assert (err, process.returncode) == ("", 0)
    assert "failed" not in out

    assert results(disturbed) == results(calm)
    runs = disturbed / "studies/ring_mlp-leave-one-out/runs"
    assert len(list(runs.glob("*/seed-*/result.json"))) == 8
    for run in runs.glob("*/seed-*"):
        lines = (run / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(75, 1501, 75))
