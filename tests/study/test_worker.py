"""One run of a study in this process: trained, measured, written down; taken up again; its faults told apart."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gantricks.errors import UserError
from gantricks.planning.validation import load_recipe
from gantricks.runs import checkpoint
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


DIE = """
import os, signal
from pathlib import Path
from gantricks import Trick, hookimpl


class Die(Trick):
    \"\"\"The machine goes off in the sixth step of the first attempt.\"\"\"

    @hookimpl
    def on_boundary(self, ctx):
        told = Path(__file__).with_name("died")
        if ctx.step == 5 and not told.exists():
            told.touch()
            os.kill(os.getpid(), signal.SIGKILL)
"""
CONSTANT = '''
import copy
import torch
from gantricks import Trick, hookimpl


class Constant(Trick):
    """Samples from a generator that has forgotten its latents."""

    @hookimpl
    def sampling_generator(self, network):
        twin = copy.deepcopy(network)
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.zero_()
        return twin
'''


EXIT = '''
import sys
from gantricks import Trick, hookimpl


class Exit(Trick):
    """Ends the program in the third step of a run."""

    @hookimpl
    def on_boundary(self, ctx):
        if ctx.step == 2:
            sys.exit("no licence")
'''


def measured(value: float, floor: float | None = None) -> worker.Figures:
    return worker.Figures({"d": value, "other": 1.0}, {"samples": 7}, None if floor is None else {"d": floor})


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
            "metrics": ["loss"],
            "figure": "d",
            "floor": False,
            "device": "cpu",
            "plugins": plugins,
            "session": 3,
        }

    def play(self, value: Any = 0.25, **task: Any) -> Outcome | None:
        def measure(task: Any) -> Any:
            assert task["metrics"] == ["loss"]
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
    assert outcome.step_seconds is not None
    assert 0 < outcome.step_seconds < outcome.seconds
    assert (outcome.values, outcome.facts, outcome.floor) == ({"d": 0.25, "other": 1.0}, {"samples": 7}, {"d": 0.5})
    assert "seed = 4" in (bench.run / "recipe.toml").read_text()
    assert (outcome.session, len(outcome.data)) == (3, 32)
    assert read_outcome(bench.run) == outcome


def test_the_curve_of_a_run_that_measures_while_it_trains_is_in_its_outcome(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.recipe.write_text(bench.recipe.read_text() + "\n[evaluate.mixture_coverage]\n")
    measures = ["evaluate.every=2", "evaluate.samples=64"]
    bench.recipe.write_text(load_recipe(bench.recipe, measures).as_toml())
    task = bench.task | {"metrics": ["mixture_coverage"], "figure": "modes"}
    outcome = worker.play(task, lambda step: None, lambda task: worker.Figures({"modes": 3.0}, {}))
    assert outcome
    assert [step for step, _ in outcome.curve] == [2, 4, 5]
    assert read_outcome(bench.run) == outcome


def test_the_recipe_s_other_metrics_are_measured_beside_the_study_s(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.recipe.write_text(bench.recipe.read_text() + "\n[evaluate.mixture_coverage]\npoints = 64\n")
    bench.recipe.write_text(bench.recipe.read_text() + '[evaluate.near]\nuse = "mixture_coverage"\npoints = 32\n')
    task = bench.task | {"metrics": ["near", "mixture_coverage"], "figure": "modes", "floor": True}
    outcome = worker.play(task, lambda step: None)
    assert outcome
    assert outcome.value == outcome.values["modes"]
    own = [name for name in outcome.values if "." not in name]
    assert [*outcome.values] == [*own, *(f"mixture_coverage.{name}" for name in own)]
    assert outcome.floor
    assert outcome.floor.keys() == outcome.values.keys()
    assert outcome.facts["samples"] == 32


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
    assert outcome.step_seconds is None  # no step was seen
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


def state_of(run: Path) -> dict[str, bytes]:
    """What a run leaves that depends on nothing but the recipe."""
    (last,) = (path for step, path in checkpoint.checkpoints(run).items() if step == 7)
    files = [*last.glob("*.safetensors"), run / "metrics.jsonl", run / "recipe.toml"]
    return {path.name: path.read_bytes() for path in files}


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is killed so there")
def test_a_run_whose_machine_went_off_goes_on_from_its_last_checkpoint_to_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "die.py").write_text(DIE)
    bench = Bench(tmp_path, "die", plugins=(str(tmp_path / "die.py"),))
    bench.recipe.write_text(bench.recipe.read_text().replace("steps = 5", "steps = 7"))
    words = [sys.executable, "-P", "-m", "gantricks.study.worker"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stdin
        process.stdin.write(json.dumps(bench.task) + "\n")
        process.stdin.flush()
        assert process.wait(120) == -9
    steps = [*checkpoint.checkpoints(bench.run)]
    assert steps in ([2], [2, 4])  # the last is written beside the training
    outcome = bench.play()
    assert outcome
    assert (outcome.status, outcome.steps) == ("done", 7)
    disturbed = state_of(bench.run)
    sessions = json.loads((bench.run / "manifest.json").read_text())["sessions"]
    assert sessions[-1]["from_step"] == steps[-1]

    calm = tmp_path / "calm" / "seed-4"
    assert bench.play(run=str(calm))
    assert state_of(calm) == disturbed


@pytest.mark.parametrize("left", [("recipe.toml",), ("recipe.toml", "manifest.json", "metrics.jsonl"), ()])
def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(tmp_path: Path, left: tuple[str, ...]) -> None:
    bench = Bench(tmp_path)
    calm = tmp_path / "calm" / "seed-4"
    first = bench.play(run=str(calm))
    bench.run.mkdir()
    for name in left:
        (bench.run / name).write_bytes((calm / name).read_bytes())
    if "metrics.jsonl" in left:
        (bench.run / "metrics.jsonl").write_text('{"step": 1, "loss/d": 7}\n{"step": 2, "lo')
    outcome = bench.play()
    assert outcome
    assert first
    assert (outcome.status, outcome.steps) == ("done", 5)
    last = "checkpoints/000005"
    for path in [*(calm / last).glob("*.safetensors"), calm / "metrics.jsonl"]:
        assert (bench.run / path.relative_to(calm)).read_bytes() == path.read_bytes()


def test_a_generator_that_gives_one_point_has_collapsed(tmp_path: Path) -> None:
    (tmp_path / "constant.py").write_text(CONSTANT)
    bench = Bench(tmp_path, "constant", plugins=(str(tmp_path / "constant.py"),))
    outcome = bench.play()
    assert outcome
    assert (outcome.status, outcome.value, outcome.collapsed) == ("done", 0.25, True)
    assert read_outcome(bench.run) == outcome
    other = tmp_path / "other"
    other.mkdir()
    outcome = Bench(other).play()
    assert outcome
    assert not outcome.collapsed


def test_one_point_is_told_from_one_mode_and_each_class_looked_at_by_itself() -> None:
    draw = np.random.default_rng(0)
    reals = draw.normal(0, 0.7, (200, 2))
    point = np.tile([0.3, -1.0], (64, 1))
    assert worker.one_point(point, reals)
    assert worker.one_point(point + draw.normal(0, 1e-4, point.shape), reals)
    assert not worker.one_point(point + draw.normal(0, 0.02, point.shape), reals), "a mode of the ring has a width"
    classes = np.tile(draw.normal(0, 1, (4, 2)), (16, 1))
    assert not worker.one_point(classes, reals)
    assert worker.one_point(classes, reals, classes=4)
    assert not worker.one_point(draw.normal(0, 1, (64, 2)), reals, classes=4)
    assert not worker.one_point(draw.normal(0, 1, (64, 2)), reals, classes=1000)


def test_a_loss_that_is_not_finite_is_a_result(tmp_path: Path) -> None:
    (tmp_path / "explode.py").write_text(EXPLODE)
    bench = Bench(tmp_path, "explode", plugins=(str(tmp_path / "explode.py"),))
    outcome = bench.play()
    assert outcome
    assert (outcome.status, outcome.value) == ("diverged", None)
    assert "not finite at step 3" in outcome.reason
    assert "in fault/000003" in outcome.reason  # the folder is another one on other machines
    assert read_outcome(bench.run) == outcome
    assert bench.measurements == 0


def test_a_trick_that_ends_the_program_is_told_in_words_and_the_worker_goes_on(tmp_path: Path) -> None:
    (tmp_path / "exit.py").write_text(EXIT)
    bench = Bench(tmp_path, "exit", plugins=(str(tmp_path / "exit.py"),))
    outcome = bench.play()
    assert outcome
    assert (outcome.status, bench.measurements) == ("refused", 0)
    assert outcome.reason == f"{tmp_path / 'exit.py'}:12: this plugin ended the program: no licence"
    assert not (bench.run / "result.json").exists()


def test_a_signal_that_ends_the_process_is_no_outcome(tmp_path: Path) -> None:
    def measure(task: Any) -> Any:
        raise SystemExit(143)  # as the handler does outside of training

    with pytest.raises(SystemExit):
        worker.play(Bench(tmp_path).task, lambda step: None, measure)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_figure_that_is_not_finite_is_no_number_in_a_mean(tmp_path: Path, value: float) -> None:
    bench = Bench(tmp_path)
    outcome = bench.play(value)
    assert outcome
    assert (outcome.status, outcome.value, outcome.reason) == ("diverged", None, "d is not finite")
    assert json.loads((bench.run / "result.json").read_text())["values"] == {"d": None, "other": 1.0}


@pytest.mark.parametrize(
    ("error", "status"), [(UserError("too few samples"), "refused"), (ZeroDivisionError("by zero"), "failed")]
)
def test_what_goes_wrong_is_told_and_is_no_result(tmp_path: Path, error: Exception, status: str, capsys: Any) -> None:
    bench = Bench(tmp_path)
    outcome = bench.play(error)
    assert outcome
    assert outcome.status == status
    assert str(error) in outcome.reason
    assert not (bench.run / "result.json").exists()
    again = bench.play()
    assert again
    assert again.status == "done"


DAMAGED = {
    "cut off": b'{"variant": "full"',
    "empty": b"",
    "not UTF-8": b"\xff\xfe{}",
    "a list": b"[]",
    "of another run": b'{"variant": "full", "seed": 5, "status": "done", "value": 1.0}',
    "of another variant": b'{"variant": "bare", "seed": 4, "status": "done", "value": 1.0}',
    "no number": b'{"variant": "full", "seed": 4, "status": "done", "value": "1.0"}',
    "not finite": b'{"variant": "full", "seed": 4, "status": "done", "value": Infinity}',
    "no figure": b'{"variant": "full", "seed": 4, "status": "done", "value": null}',
    "diverged with a figure": b'{"variant": "full", "seed": 4, "status": "diverged", "value": 1.0}',
    "no result": b'{"variant": "full", "seed": 4, "status": "failed"}',
    "unknown key": b'{"variant": "full", "seed": 4, "status": "done", "value": 1.0, "valeu": 2.0}',
    "a huge number": b'{"variant": "full", "seed": ' + b"9" * 5000 + b', "status": "done", "value": 1.0}',
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_result_is_said_to_be_one(tmp_path: Path, text: bytes) -> None:
    bench = Bench(tmp_path)
    bench.run.mkdir()
    (bench.run / "result.json").write_bytes(text)
    outcome = bench.play()
    assert outcome
    assert outcome.status == "refused"
    assert "the file is damaged: " in outcome.reason
    assert str(bench.run / "result.json") in outcome.reason
    assert "remove it to measure the run anew" in outcome.reason
    assert bench.measurements == 0


def test_a_result_that_is_a_folder_cannot_be_read(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    (bench.run / "result.json").mkdir(parents=True)
    outcome = bench.play()
    assert outcome
    assert outcome.status == "refused"
    assert "the file cannot be read" in outcome.reason


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
    assert last["outcome"] == json.loads(json.dumps(asdict(read_outcome(bench.run))))  # type: ignore[arg-type]


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
