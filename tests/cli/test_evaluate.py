"""`gantricks evaluate`, as a person meets it."""

import json
from pathlib import Path
from typing import Any


def test_the_figures_of_a_run_stand_beside_those_of_real_data(gantricks: Any, run: Path) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    outcome = gantricks("evaluate", run)
    assert (outcome.status, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert lines[0] == "run after 4 steps, seed 0"
    assert lines[2].split() == ["metric", "figure", "value", "real", "data", "better"]
    (main,) = [line.split() for line in lines if "total_variation" in line]
    assert (main[0], main[-1]) == ("mixture_coverage", "lower")
    (modes,) = [line.split() for line in lines if "modes " in line and "higher" in line]
    assert modes[2:] == ["8", "higher"]
    assert "samples 2,500, of modes 8" in outcome.out
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_json_holds_the_same_figures_and_nothing_else(gantricks: Any, run: Path) -> None:
    words = ("evaluate", run, "--json", "--step", 2, "--seed", 5)
    outcome = gantricks(*words)
    assert outcome.status == 0, outcome.err
    told = json.loads(outcome.out)
    assert (told["run"], told["step"], told["seed"]) == ("run", 2, 5)
    (metric,) = told["metrics"]
    assert metric["metric"] == metric["use"] == "mixture_coverage"
    assert metric["figures"]["modes"]["floor"] == 8
    assert [figure["better"] for figure in metric["figures"].values()] == [
        "lower",
        "lower",
        "higher",
        "higher",
        "lower",
    ]
    assert metric["facts"]["samples"] == metric["floor_facts"]["samples"] == 2500
    again = json.loads(gantricks(*words).out)
    assert again["metrics"][0]["figures"] == metric["figures"]


def test_an_instance_is_named_with_what_it_is_an_instance_of(gantricks: Any) -> None:
    override = ("--set", "evaluate.few.use=mixture_coverage", "--set", "evaluate.few.points=30")
    steps = ("--set", "train.steps=1", "--run-dir", "run")
    trained = gantricks("train", "ring_mlp", *gantricks.small, *override, *steps)
    assert "few (mixture_coverage)" in trained.out
    outcome = gantricks("evaluate", "run", "--metric", "few")
    assert outcome.status == 0, outcome.err
    assert "mixture_coverage; samples 30, " in outcome.out


def test_a_finished_run_is_measured_by_other_options_of_evaluate(gantricks: Any, run: Path) -> None:
    few = ("--set", "evaluate.few={use='mixture_coverage',points=30}", "--metric", "few")
    assert "mixture_coverage; samples 30, " in gantricks("evaluate", run, *few).out
    wrong = ("train.steps=9", "evaluat.samples=3", "evaluate.mixture_coverage.pionts=3")
    outcome = gantricks("evaluate", run, *(word for one in wrong for word in ("--set", one)))
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err.count("only keys of [evaluate] can be set") == 2
    assert all(f"--set {one}" in outcome.err for one in wrong)
    assert gantricks("evaluate", run, "--set", wrong[0]).status == 2
    assert "did you mean 'points'?" in outcome.err


def test_what_is_wrong_is_told_with_the_hint(gantricks: Any, run: Path) -> None:
    outcome = gantricks("evaluate", run, "--metric", "mixture_coverag", "--metric", "held_out_error")
    assert (outcome.status, outcome.out) == (2, "")
    assert "did you mean 'mixture_coverage'?" in outcome.err
    assert "it needs held_out: a part of the data that training never sees" in outcome.err
    assert "3 problems" in outcome.err
    assert gantricks("evaluate", run, "--samples", 0).status == 2
    assert "there are: 2, 4" in gantricks("evaluate", run, "--step", 3).err


def test_check_tells_what_a_recipes_metrics_need(gantricks: Any) -> None:
    outcome = gantricks("check", "ring_mlp", "--set", "evaluate.held_out_error={}", "--set", "evaluate.sharpness={}")
    assert outcome.status == 2
    assert "there is no metric 'sharpness'" in outcome.err
    outcome = gantricks("check", "ring_mlp", "--set", "evaluate.held_out_error={}", "--json")
    told = [problem["what"] for problem in json.loads(outcome.out)["problems"]]
    assert len(told) == 2
    assert told[0].startswith("held_out_error: it needs class_logits")
    outcome = gantricks("check", "ring_mlp", "--set", "evaluate.mixture_coverage={}", "--json")
    plan = json.loads(outcome.out)["plan"]
    assert plan["metrics"] == [{"name": "mixture_coverage", "use": "mixture_coverage"}]


def test_a_finished_run_is_measured_with_tricks_that_act_on_samples_alone(gantricks: Any, run: Path) -> None:
    def figures(*words: str) -> Any:
        told = json.loads(gantricks("evaluate", run, "--json", *words).out)
        return told["metrics"][0]["figures"], told.get("set")

    cut = ("--set", "tricks.truncation.limit=0.01")
    assert figures()[1] is None
    assert figures(*cut)[1] == ["tricks.truncation.limit=0.01"]
    assert figures(*cut)[0] == figures(*cut)[0] != figures()[0]
    # nothing of it stays in the run
    assert "truncation" not in (run / "recipe.toml").read_text(encoding="utf-8")
    assert figures("--set", "tricks.truncation.limit=9.0")[0] == figures()[0]
    outcome = gantricks("evaluate", run, *cut, "--set", "tricks.ema=on")
    assert (outcome.status, outcome.out) == (2, "")
    assert "ema acts in training, and the run is trained: only tricks that act on samples alone" in outcome.err
    assert "--set tricks.ema=on" in outcome.err
