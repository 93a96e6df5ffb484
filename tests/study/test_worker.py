"""One run of a study in this process: trained, measured, written down; taken up again; its faults told apart."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gantricks import checkpoint
from gantricks.errors import UserError
from gantricks.recipe import load_recipe
from gantricks.study import worker
from gantricks.study.folder import Outcome, read_outcome
from gantricks.study.pool import Pool

EXPLODE = '''
from gantricks import Trick, hookimpl


class Explode(Trick):
    """A loss that is not finite from step 3 on."""

    @hookimpl
    def g_loss_terms(self, ctx):
        return {"bang": ctx.fake_out.logits.sum() * self.scale}

    @hookimpl
    def on_setup(self, ctx):
        self.scale = ctx.rng.normal(()) * 0

    def tensors(self):
        return {"scale": self.scale}

    @hookimpl
    def on_boundary(self, ctx):
        if ctx.step == 2:
            self.scale.fill_(float("inf"))
'''
INTERRUPT = '''
import os, signal
from gantricks import Trick, hookimpl


class Interrupt(Trick):
    """Asks for the end of the run in its third step."""

    @hookimpl
    def on_boundary(self, ctx):
        if ctx.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
'''


def measured(value: float, floor: float | None = None) -> Any:
    return SimpleNamespace(
        measurement=SimpleNamespace(values={"d": value, "other": 1.0}, facts={"samples": 7}),
        floor=None if floor is None else SimpleNamespace(values={"d": floor}),
    )


class Bench:
    """A task for one run of five steps, and how often its metric was measured."""

    def __init__(self, folder: Path, *overrides: str, plugins: tuple[str, ...] = ()) -> None:
        small = ["generator.hidden=[8]", "discriminator.hidden=[8]", "data.samples=500", "data.batch_size=16"]
        sparing = ["train.steps=5", "train.log_every=1", "train.checkpoint_every=2"]
        self.recipe = folder / "recipe.toml"
        self.recipe.write_text(load_recipe("ring_mlp", [*small, *sparing]).as_toml())
        for override in overrides:
            self.recipe.write_text(self.recipe.read_text() + f"\n[tricks.{override}]\n")
        self.run, self.measurements = folder / "seed-4", 0
        self.task = {
            "run": str(self.run),
            "recipe": str(self.recipe),
            "variant": "full",
            "seed": 4,
            "metric": "loss",
            "figure": "d",
            "floor": False,
            "device": "cpu",
            "plugins": plugins,
        }

    def play(self, value: Any = 0.25, **task: Any) -> Outcome | None:
        def measure(task: Any) -> Any:
            assert (task["run"], task["metric"]) == (str(self.run), "loss")
            self.measurements += 1
            if isinstance(value, Exception):
                raise value
            return measured(value, 0.5 if task["floor"] else None)

        return worker.play(self.task | task, lambda step: None, measure)


def test_a_run_is_trained_with_its_seed_measured_and_written_down(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    outcome = bench.play(floor=True)
    assert outcome
    assert (outcome.status, outcome.value, outcome.steps) == ("done", 0.25, 5)
    assert (outcome.values, outcome.facts, outcome.floor) == ({"d": 0.25, "other": 1.0}, {"samples": 7}, {"d": 0.5})
    assert "seed = 4" in (bench.run / "recipe.toml").read_text()
    assert read_outcome(bench.run) == outcome


def test_a_finished_run_is_neither_trained_nor_measured_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    first = bench.play()
    before = {path: path.read_bytes() for path in bench.run.rglob("*") if path.is_file()}
    assert bench.play(0.75) == first
    assert bench.measurements == 1
    assert before == {path: path.read_bytes() for path in bench.run.rglob("*") if path.is_file()}


def test_a_run_that_was_trained_and_not_measured_is_only_measured(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.play()
    (bench.run / "result.json").unlink()
    events = sorted(bench.run.glob("events*"))
    outcome = bench.play(0.75)
    assert outcome
    assert (outcome.status, outcome.value, outcome.steps) == ("done", 0.75, 5)
    assert sorted(bench.run.glob("events*")) == events


def test_a_run_that_was_interrupted_is_resumed_from_its_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "interrupt.py").write_text(INTERRUPT)
    bench = Bench(tmp_path, "interrupt", plugins=(str(tmp_path / "interrupt.py"),))
    assert bench.play() is None
    assert list(checkpoint.checkpoints(bench.run)) == [2, 3]
    assert bench.measurements == 0
    assert not (bench.run / "result.json").exists()
    outcome = bench.play()
    assert outcome
    assert (outcome.status, outcome.steps) == ("done", 5)
    lines = (bench.run / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5]


def test_a_loss_that_is_not_finite_is_a_result(tmp_path: Path) -> None:
    (tmp_path / "explode.py").write_text(EXPLODE)
    bench = Bench(tmp_path, "explode", plugins=(str(tmp_path / "explode.py"),))
    outcome = bench.play()
    assert outcome
    assert (outcome.status, outcome.value) == ("diverged", None)
    assert "not finite at step 3" in outcome.reason
    assert read_outcome(bench.run) == outcome
    assert bench.measurements == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_figure_that_is_not_finite_is_no_number_in_a_mean(tmp_path: Path, value: float) -> None:
    bench = Bench(tmp_path)
    outcome = bench.play(value)
    assert outcome
    assert (outcome.status, outcome.value, outcome.reason) == ("diverged", None, "d is not finite")
    assert json.loads((bench.run / "result.json").read_text())["values"] == {"d": None, "other": 1.0}


@pytest.mark.parametrize(
    ("fault", "status"), [(UserError("too few samples"), "refused"), (ZeroDivisionError("by zero"), "failed")]
)
def test_what_goes_wrong_is_told_and_is_no_result(tmp_path: Path, fault: Exception, status: str, capsys: Any) -> None:
    bench = Bench(tmp_path)
    outcome = bench.play(fault)
    assert outcome
    assert outcome.status == status
    assert str(fault) in outcome.reason
    assert not (bench.run / "result.json").exists()
    again = bench.play()
    assert again
    assert again.status == "done"


def test_a_damaged_result_is_said_to_be_one(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.play()
    (bench.run / "result.json").write_text('{"variant": "full"')
    outcome = bench.play()
    assert outcome
    assert outcome.status == "refused"
    assert "damaged" in outcome.reason


def test_the_protocol_is_a_line_in_and_lines_out(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    sink = io.StringIO()
    task = json.dumps(bench.task) + "\n"
    assert worker.serve(io.StringIO(), sink, lambda task: measured(0.25)) == 0
    assert sink.getvalue() == ""

    reading, writing = os.pipe()
    with os.fdopen(reading) as source, os.fdopen(writing, "w") as told:

        class Sink(io.StringIO):
            def flush(self) -> None:
                if "outcome" in self.getvalue() and not told.closed:
                    told.close()  # as a study does when nothing is left

        answers = Sink()
        told.write(task)
        told.flush()
        assert worker.serve(source, answers, lambda task: measured(0.25)) == 0
    *steps, last = [json.loads(line) for line in answers.getvalue().splitlines()]
    assert steps[0] == {"step": 0}
    assert last["outcome"] == asdict(read_outcome(bench.run))  # type: ignore[arg-type]


def test_a_worker_whose_study_has_gone_saves_its_run_and_ends(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    text = bench.recipe.read_text().replace("steps = 5", "steps = 1000000").replace("_every = 2", "_every = 1000000")
    text = text.replace('capture = "auto"', 'capture = "off"')
    bench.recipe.write_text(text)
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "gantricks.study.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    assert process.stdout
    process.stdin.write(json.dumps(bench.task) + "\n")
    process.stdin.flush()
    assert "step" in process.stdout.readline()
    process.stdout.readline()
    _, complaints = process.communicate(timeout=60)
    assert (process.returncode, complaints) == (143, "")
    (step,) = checkpoint.checkpoints(bench.run)
    assert 0 < step < 1_000_000


def test_a_pool_survives_answers_that_make_no_sense() -> None:
    program = "import sys\nfor line in sys.stdin: print('hello', flush=True)"
    tasks = [{"variant": "full", "seed": seed} for seed in range(3)]
    with Pool(1, 1, [sys.executable, "-c", program]) as pool:
        told = list(pool.play(lambda: tasks.pop(0) if tasks else None))
    assert [(item.status, item.seed) for _, item in told if isinstance(item, Outcome)] == [
        ("failed", 0),
        ("failed", 1),
        ("failed", 2),
    ]
