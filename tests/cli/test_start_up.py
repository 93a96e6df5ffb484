"""What the light commands load, and how the program ends when it is interrupted or its reader goes away."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gantricks.cli import main

HEAVY = {"torch", "tensorboard", "PIL", "optuna"}
SOON = 60
ENDLESS = (
    *("--set", "data.samples=500", "--set", "generator.hidden=[8]", "--set", "discriminator.hidden=[8]"),
    *("--set", "train.steps=1000000", "--set", "train.log_every=1"),
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and pipes are others there")


def start(*words: str, folder: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "gantricks.cli", *words],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def saved(run: Path) -> int:
    """The step of the only checkpoint."""
    (checkpoint,) = (run / "checkpoints").iterdir()
    return int(checkpoint.name)


def test_light_commands_import_no_heavy_package(tmp_path: Path) -> None:
    program = f"""
import contextlib, io, sys
from gantricks.cli import main
for words in (["--help"], ["train", "--help"], ["tune", "--help"], ["tricks"], ["tricks", "soft_labels"], ["recipes"],
              ["recipes", "dcgan"], ["schema"], ["--version"]):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        status = main(words)
    assert status == 0 and out.getvalue(), words
    loaded = {HEAVY!r} & set(sys.modules)
    assert not loaded, (words, loaded)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=SOON)
    assert done.returncode == 0, done.stderr


def test_check_imports_no_tensorboard_and_no_optuna(tmp_path: Path) -> None:
    program = """
import sys
from gantricks.cli import main
assert main(["check", "ring_mlp"]) == 0
assert not [name for name in sys.modules if name.startswith(("tensorboard", "torch.utils.tensorboard", "optuna"))]
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=SOON)
    assert done.returncode == 0, done.stderr


def test_ctrl_c_saves_the_run_and_resume_finishes_it(tmp_path: Path) -> None:
    process = start("train", "ring_mlp", *ENDLESS, "--run-dir", "run", folder=tmp_path)
    assert process.stdout
    for line in process.stdout:
        if line.startswith("step 3/"):
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=SOON)

    assert (process.returncode, err) == (130, "")
    step = saved(tmp_path / "run")
    assert f"Interrupted after {step:,} of 1,000,000 steps" in out
    assert out.rstrip().endswith("gantricks resume run")

    # what is left of a million steps is cut to four
    assert main(["resume", str(tmp_path / "run"), "--steps", str(step + 4)]) == 0
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, step + 5))


def test_a_run_outlives_the_reader_of_its_output_and_sigterm_saves_it(tmp_path: Path) -> None:
    process = start("train", "ring_mlp", *ENDLESS, "--run-dir", "run", folder=tmp_path)
    assert process.stdout
    assert process.stderr
    process.stdout.readline()
    process.stdout.close()
    deadline = time.monotonic() + SOON
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") > 3) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert (process.wait(timeout=SOON), process.stderr.read()) == (143, "")
    process.stderr.close()
    assert saved(tmp_path / "run") > 3


@pytest.mark.parametrize("words", [("schema",), ("recipes", "dcgan")])
def test_a_reader_that_leaves_causes_no_traceback(tmp_path: Path, words: tuple[str, ...]) -> None:
    process = start(*words, folder=tmp_path)
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    assert (process.wait(timeout=SOON), process.stderr.read()) == (0, "")
    process.stderr.close()
