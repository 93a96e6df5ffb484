"""A search: what it varies, what it plays and prunes, how it goes on, and what it leaves."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gantricks import UserError
from gantricks.catalogue.registry import Registry
from gantricks.planning.recipe_files import read_recipe
from gantricks.planning.validation import load_recipe
from gantricks.runs import checkpoint
from gantricks.study import study
from gantricks.study.parameters import Choice, Parameter, Range, applies, checked, parameter, parameters
from gantricks.study.playing import Figure, Interrupted, Reporter
from gantricks.study.search import Search
from gantricks.study.trials import JOURNAL, Trial, Trials
from gantricks.study.tune import mean_figure, tune
from gantricks.study.variants import base

pytest.importorskip("optuna", reason="a search needs Optuna: pip install 'gantricks[tune]'")

SMALL = ("generator.hidden=[8]", "discriminator.hidden=[8]", "data.samples=500", "data.batch_size=16")
RATE = "generator.optimizer.lr=1e-4..1e-2:log"

# ---------------------------------------------------------------- parameters

numbers = st.floats(-1e6, 1e6).map(repr)


@given(numbers, numbers, st.booleans())
def test_a_range_is_read_as_it_is_written_or_refused(low: str, high: str, log: bool) -> None:
    word = f"a.b={low}..{high}" + ":log" * log
    if float(low) < float(high) and (float(low) > 0 or not log):
        found = parameter(word)
        assert found == Range("a.b", float(low), float(high), log)
        assert parameter(str(found)) == found
    else:
        with pytest.raises(UserError):
            parameter(word)


@given(st.integers(-(10**9), 10**9), st.integers(1, 10**6))
def test_whole_numbers_stay_whole(low: int, wide: int) -> None:
    found = parameter(f"a.b={low}..{low + wide}:int")
    assert found == Range("a.b", low, low + wide, False, True)
    assert parameter(str(found)) == found


@given(
    st.lists(
        st.recursive(
            st.sampled_from(["0.9", '"a|b"', "off", "{}", "'x]'"]),
            lambda inner: (
                st.lists(inner, min_size=1, max_size=3).map(lambda inside: f"[{', '.join(inside)}]")
                | inner.map(lambda part: f"{{a = {part}, b = 2}}")
                | inner.map(lambda part: f"['|', {part}]")
            ),
            max_leaves=6,
        ),
        min_size=2,
        max_size=4,
        unique=True,
    )
)
def test_a_bar_within_a_value_does_not_end_it(values: list[str]) -> None:
    assert parameter(f"tricks.x= {' | '.join(values)}") == Choice("tricks.x", tuple(values))


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("a.b", "names no key"),
        ("=1..2", "names no key"),
        ("a.b=1", "neither a range nor several values"),
        ("a.b=1..", "neither a range nor several values"),
        ("a.b=1||2", "a value is missing"),
        ("a.b=1|1", "stands there twice"),
        ("a.b=2..1", "2 is not below 1"),
        ("a.b=0..1:log", "above 0"),
        ("a.b=0.5..2:int", "whole numbers"),
        ("a.b=1..2:lgo", "did you mean 'log'"),
        ("a.b=1..1e999", "not finite"),
        ("seed=1..2", "runs have seeds of their own"),
        ("name=a|b", "changes nothing in a run"),
        ("evaluate.samples=10..20", "how trials are measured"),
    ],
)
def test_words_that_are_no_parameter_are_refused(word: str, told: str) -> None:
    with pytest.raises(UserError, match=told) as error:
        parameter(word)
    assert all(problem.where == f"--param {word}" for problem in error.value.problems)


def test_everything_that_is_wrong_with_the_words_is_told_at_once() -> None:
    with pytest.raises(UserError) as error:
        parameters(["a.b=2..1", "seed=1..2", "c=1..2", "c=3..4"])
    assert len(error.value.problems) == 3
    with pytest.raises(UserError, match="nothing is searched"):
        parameters([])


def test_what_is_within_a_trick_that_is_off_is_not_drawn() -> None:
    outer, inner = parameters(["tricks.ema.decay=0.9..0.99", "tricks.ema=off|{}"])
    assert (outer.key, inner.key) == ("tricks.ema", "tricks.ema.decay")
    assert not applies(inner, {"tricks.ema": "off"})
    assert applies(inner, {"tricks.ema": "{}"})
    assert applies(inner, {"tricks.em": "off"})


def space(*words: str) -> list[Parameter]:
    return checked(base(read_recipe("ring_mlp"), SMALL, Registry(installed=False), 50), parameters(words))


def test_a_range_of_a_key_of_whole_numbers_is_one_of_whole_numbers() -> None:
    words = ("train.n_critic=1..4", RATE, "tricks.r1.weight=1..10", "tricks.ema=off|{}")
    found = {one.key: one for one in space(*words)}
    assert found["train.n_critic"] == Range("train.n_critic", 1, 4, whole=True)
    assert not found["tricks.r1.weight"].whole
    assert isinstance(found["train.n_critic"].low, int)


def test_the_space_is_refused_with_everything_that_is_wrong() -> None:
    wrong = ("tricks.ema.decay=0.9..1.5", "generator.optimizer.rate=1..2", "tricks.soft_labels=off|{reel = [0.8, 1.0]}")
    with pytest.raises(UserError) as error:
        space(*wrong, RATE)
    told = {problem.where.removeprefix("--param "): problem.what for problem in error.value.problems}
    assert [*told] == [str(parameter(word)) for word in sorted(wrong)][:3]
    assert "rate" in told[str(parameter(wrong[1]))]
    assert told[str(parameter(wrong[0]))].startswith("1.5: ")
    assert "reel" in told[wrong[2]]


# ---------------------------------------------------------------- trials


def drawn(folder: Path, count: int, seed: int = 0) -> list[dict[str, Any]]:
    trials = Trials(folder, parameters([RATE, "tricks.ema=off|{}", "tricks.ema.decay=0.9..0.99"]), "lower", seed)
    found = []
    for _ in range(count):
        number, values = trials.draw()
        trials.end(number, "done", float(number))
        found.append(values)
    return found


def test_a_search_that_was_stopped_draws_what_it_would_have_drawn(tmp_path: Path) -> None:
    for name in ("calm", "stopped", "other"):
        (tmp_path / name).mkdir()
    calm = drawn(tmp_path / "calm", 14)
    assert drawn(tmp_path / "stopped", 6) + drawn(tmp_path / "stopped", 8) == calm
    assert len({values["generator.optimizer.lr"] for values in calm}) == 14
    assert drawn(tmp_path / "other", 2, seed=1) != calm[:2]


def test_a_journal_whose_last_line_was_cut_off_goes_on(tmp_path: Path) -> None:
    drawn(tmp_path, 2)
    with (tmp_path / JOURNAL).open("a") as file:
        file.write('{"op_code": 4, "wor')
    (tmp_path / f"{JOURNAL}.lock").touch()
    began = time.monotonic()
    drawn(tmp_path, 2)
    assert time.monotonic() - began < 20
    assert len(Trials(tmp_path, parameters([RATE]), "lower", 0)) == 4


def test_a_journal_that_is_none_is_said_to_be_damaged(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).write_text("hello\nworld\n")
    with pytest.raises(UserError, match="damaged"):
        drawn(tmp_path, 1)


def test_the_mean_of_a_ratio_is_geometric() -> None:
    assert mean_figure([1.0, 4.0], ratio=True) == pytest.approx(2.0)
    assert mean_figure([1.0, 4.0], ratio=False) == 2.5
    assert mean_figure([0.0, 4.0], ratio=True) == 0.0
    assert math.isfinite(mean_figure([1e-300, 1e-300], ratio=True))


# ---------------------------------------------------------------- searches

WORKER = """
import json, os, signal, sys, tomllib
from pathlib import Path

played, told = open(sys.argv[1], "a"), json.loads(sys.argv[2])
for line in sys.stdin:
    task = json.loads(line)
    run, name = Path(task["run"]), f"{task['variant']} {task['seed']}"
    lr = tomllib.loads(Path(task["recipe"]).read_text())["generator"]["optimizer"]["lr"]
    said = told.get(name, lr + task["seed"])
    print(name, "floor" * task["floor"], file=played, flush=True)
    outcome = {"variant": task["variant"], "seed": task["seed"], "status": "done", "value": None, "steps": 50}
    outcome |= {"session": task["session"], "data": "these", "seconds": 2.0, "floor": {"d": 0.5}}
    run.mkdir(parents=True, exist_ok=True)
    if said == "stop":
        os.kill(os.getppid(), 2)
        sys.stdin.read()
        sys.exit(143)
    if isinstance(said, str):
        outcome |= {"status": said, "reason": "so it was told"}
    else:
        curve = [[step, said + 1 / step] for step in (10, 20)] if task["watched"] else []
        for point in curve:
            print(json.dumps({"figure": point}), flush=True)
        if said >= 100:
            signal.alarm(20)  # a run that only ends when it is asked to
            sys.stdin.read()
            sys.exit(143)
        outcome |= {"value": said, "curve": curve}
    if outcome["status"] in ("done", "diverged"):
        (run / "result.json").write_text(json.dumps(outcome))
    print(json.dumps({"step": 50}))
    print(json.dumps({"outcome": outcome}), flush=True)
"""


class Listening(Reporter):
    def __init__(self) -> None:
        self.ended = list[tuple[int, str]]()
        self.warned = list[str]()

    def tried(self, trial: Trial, done: int, total: int) -> None:
        self.ended.append((trial.number, trial.state))

    def warn(self, sentence: str) -> None:
        self.warned.append(sentence)


class Pretence:
    """Called like `tune`, with what each trial's runs will find, it makes a search in an empty folder. A run finds its
    learning rate plus its seed where nothing else is told.
    """

    def __init__(self, folder: Path) -> None:
        self.log, self.script = folder / "played.txt", folder / "worker.py"
        self.script.write_text(WORKER)
        self.heard = Listening()

    def __call__(self, told: dict[str, Any] | None = None, **how: Any) -> tuple[Path, Search]:
        command = [sys.executable, str(self.script), str(self.log), json.dumps(told or {})]
        given = [*SMALL, "train.steps=50", *how.pop("overrides", ())]
        words: Sequence[str] = how.pop("space", [RATE])
        return tune("ring_mlp", words, overrides=given, worker=command, reporter=self.heard, **how)

    def played(self) -> list[str]:
        """The runs since the last look, in order."""
        lines = [" ".join(line.split()[:2]) for line in self.log.read_text().splitlines()]
        self.log.write_text("")
        return lines


@pytest.fixture
def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pretence:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(study, "_compared", lambda *given: (Figure("loss", "d", "lower"), []))
    return Pretence(tmp_path)


def test_the_best_trial_is_the_one_with_the_lowest_figure(pretend: Pretence) -> None:
    path, found = pretend(trials=5)
    assert path == Path("studies/ring_mlp-tune")
    assert found.best
    assert found.best.figure == min(trial.figure or math.inf for trial in found.trials)
    assert found.best.figure == found.best.values["generator.optimizer.lr"]
    best = load_recipe(path / "best.toml")
    assert best.generator.keys.optimizer.lr == found.best.figure
    assert best.train.log_every == load_recipe("ring_mlp").train.log_every
    written = json.loads((path / "results.json").read_text())
    assert written["best"]["number"] == found.best.number
    assert [trial["state"] for trial in written["trials"]] == ["done"] * 5
    assert written["floor"] == 0.5
    assert (path / "results.md").read_text().startswith("# ring_mlp: tune")
    assert Image.open(path / "results.png").size[0] == 1200


def test_the_figure_of_a_trial_is_the_mean_over_its_seeds(pretend: Pretence, monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"trial-0000 0": 1.0, "trial-0000 1": 4.0}
    _, found = pretend(told, trials=1, seeds=2)
    assert pretend.played() == ["trial-0000 0", "trial-0000 1"]
    assert (found.trials[0].figure, found.trials[0].steps, found.trials[0].seconds) == (2.5, 100, 4.0)
    monkeypatch.setattr(study, "_compared", lambda *given: (Figure("loss", "d", "lower", True), []))
    _, ratio = pretend(told, trials=1, seeds=2)
    assert ratio.trials[0].figure == pytest.approx(2.0)


def test_pruning_stops_the_worse_trial_and_not_the_better(pretend: Pretence) -> None:
    figures = [1.0, 1.1, 1.2, 1.3, 1.4, 100.0, 0.5, 1.19, 1.1]
    told = {f"trial-{n:04d} 0": value for n, value in enumerate(figures)}
    _, found = pretend(told, trials=9, prune_every=10)
    # the last that is pruned is over before it hears of it
    assert [trial.state for trial in found.trials] == [*["done"] * 5, "pruned", "done", "pruned", "done"]
    worse = found.trials[5]
    assert (worse.figure, worse.steps, worse.curve) == (None, 10, {10: 100.1})
    assert worse.reason == "at step 10, with 100.1"
    assert found.best == found.trials[6]
    assert not found.failed
    assert pretend.heard.ended[5] == (5, "pruned")


def test_with_several_runs_the_mean_at_the_same_step_is_judged(pretend: Pretence) -> None:
    told = {f"trial-{n:04d} {seed}": (1.0 + n) * share for n in range(5) for seed, share in ((0, 1.0), (1, 0.2))}
    told |= {"trial-0005 0": 1.0, "trial-0005 1": 3.0, "trial-0006 0": 2.4, "trial-0006 1": 200.0}
    _, found = pretend(told, trials=7, seeds=2, prune_every=10)
    assert [trial.state for trial in found.trials] == [*["done"] * 6, "pruned"]
    assert found.trials[5].curve == pytest.approx({10: 1.1, 20: 1.05, 60: 2.1, 70: 2.05})
    assert found.trials[6].steps == 60
    assert "of seed 1" in found.trials[6].reason


def test_what_pruning_would_never_measure_is_refused(pretend: Pretence) -> None:
    with pytest.raises(UserError, match="before its end"):
        pretend(trials=1, prune_every=50)


def test_a_search_that_goes_on_repeats_nothing_and_can_be_extended(pretend: Pretence) -> None:
    path, first = pretend(trials=3)
    assert len(pretend.played()) == 3
    assert pretend(trials=3)[1].trials == first.trials
    assert pretend.played() == []
    again, more = pretend(trials=5)
    assert (again, more.trials[:3]) == (path, first.trials)
    assert pretend.played() == ["trial-0003 0", "trial-0004 0"]
    assert len(pretend(trials=1)[1].trials) == 5


@pytest.mark.skipif(sys.platform == "win32", reason="signals are others there")
def test_an_interrupted_search_goes_on_with_the_trial_that_was_under_way(pretend: Pretence) -> None:
    with pytest.raises(Interrupted) as end:
        pretend({"trial-0002 0": "stop"}, trials=4)
    assert (end.value.done, end.value.total) == (2, 4)
    pretend.played()
    _, found = pretend(trials=4)
    assert pretend.played() == ["trial-0002 0", "trial-0003 0"]
    assert [trial.number for trial in found.trials if trial.state == "done"] == [0, 1, 2, 3]


def test_runs_without_a_figure_end_their_trial_and_failed_ones_are_made_again(pretend: Pretence) -> None:
    told = {"trial-0001 0": "diverged", "trial-0002 0": "failed"}
    _, found = pretend(told, trials=4, seeds=2)
    assert [trial.state for trial in found.trials] == ["done", "diverged", "unfinished", "done"]
    assert [*found.failed] == ["trial-0002 seed 0"]
    assert "trial-0001 1" not in pretend.played()
    _, again = pretend(trials=4, seeds=2)
    assert pretend.played() == ["trial-0002 0", "trial-0002 1"]
    assert (again.trials[2].state, again.failed) == ("done", {})


def test_a_first_run_that_is_refused_ends_the_search(pretend: Pretence) -> None:
    with pytest.raises(UserError, match="the first run is refused: so it was told"):
        pretend({"trial-0000 0": "refused"}, trials=4)
    assert len(pretend.played()) == 1


def test_values_that_do_not_go_together_are_a_trial_without_a_run(pretend: Pretence) -> None:
    together = ["tricks.hinge=off|{}", "tricks.minimax=off|{}"]
    _, found = pretend(trials=8, space=together)
    states = {trial.state for trial in found.trials}
    assert states == {"done", "impossible"}
    for trial in found.trials:
        assert (trial.state == "impossible") == ([*trial.values.values()] == ["{}", "{}"])
    assert len(pretend.played()) == sum(trial.state == "done" for trial in found.trials)


def test_another_space_or_number_of_seeds_is_another_search(pretend: Pretence) -> None:
    folder = Path("mine")
    pretend(trials=1, folder=folder)
    for how in ({"space": ["generator.optimizer.lr=1e-4..1e-3:log"]}, {"seeds": 2}, {"seed": 1}, {"prune_every": 10}):
        with pytest.raises(UserError, match="another study"):
            pretend(trials=1, folder=folder, **how)


def test_a_best_recipe_that_somebody_has_changed_is_not_lost(pretend: Pretence) -> None:
    path, _ = pretend(trials=1)
    before = (path / "best.toml").read_text()
    pretend(trials=1)
    assert not (path / "best.toml.replaced").exists()
    (path / "best.toml").write_text("# mine\n" + before)
    pretend(trials=1)
    assert (path / "best.toml").read_text() == before
    assert (path / "best.toml.replaced").read_text() == "# mine\n" + before
    assert "best.toml.replaced" in pretend.heard.warned[-1]


def test_importance_finds_the_key_that_matters(tmp_path: Path) -> None:
    trials = Trials(tmp_path, parameters(["a.x=0..1", "a.y=0..1"]), "higher", 0)
    for _ in range(40):
        number, values = trials.draw()
        trials.end(number, "done", -abs(float(values["a.x"]) - 0.3))
    shares = trials.importance()
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["a.x"] > 0.7
    assert trials.best
    assert abs(float(trials.best.values["a.x"]) - 0.3) < 0.05


def test_a_missing_optuna_is_told(pretend: Pretence, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match="needs Optuna") as error:
        pretend(trials=1)
    assert error.value.problems[0].hint == 'pip install "gantricks[tune]"'


# ---------------------------------------------------------------- real runs

REAL = (*SMALL, "train.steps=6", "evaluate.mixture_coverage={points = 64}", "train.checkpoint_every=2")
Runs = Callable[..., tuple[Path, Search]]


def test_the_best_recipe_trains_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gantricks.runs import api

    monkeypatch.chdir(tmp_path)
    words = [RATE, "tricks.soft_labels=off|{real = [0.8, 1.0]}"]
    path, found = tune("ring_mlp", words, trials=2, overrides=REAL, prune_every=2, folder=Path("mine"))
    assert [trial.state for trial in found.trials] == ["done", "done"]
    assert all([*trial.curve] == [2, 4] for trial in found.trials)
    result = api.train(path / "best.toml", run_dir=tmp_path / "run")
    assert result.finished == 6
    assert found.best
    lost = path / "runs" / found.best.name / "seed-0"
    names = [file.name for file in (lost / "checkpoints/000006").glob("generator.safetensors")]
    assert names
    for name in names:
        one, other = (run / "checkpoints/000006" / name for run in (lost, tmp_path / "run"))
        assert one.read_bytes() == other.read_bytes()


DIE = '''
import os, signal
from pathlib import Path
from gantricks import Trick, hookimpl


class Die(Trick):
    """The machine goes off, the search with it, in the fifth step of the second run."""

    @hookimpl
    def on_boundary(self, ctx):
        here = Path(__file__)
        if ctx.step == 0 and not here.with_name("one").exists():
            here.with_name("one").touch()
        elif ctx.step == 4 and here.with_name("two").exists() and not here.with_name("died").exists():
            here.with_name("died").touch()
            os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        elif ctx.step == 5:
            here.with_name("two").touch()
'''


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is killed so there")
def test_a_killed_trial_goes_on_in_its_own_folder(tmp_path: Path) -> None:
    (tmp_path / "die.py").write_text(DIE)
    words = ["tune", "ring_mlp", "--trials", "2", "--param", RATE, "--plugin", "die.py", "--set", "tricks.die={}"]
    words += [word for override in REAL for word in ("--set", override)]

    def search() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "gantricks.cli", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, env=os.environ)

    assert search().returncode == -signal.SIGKILL
    path = tmp_path / "studies/ring_mlp-tune"
    run = path / "runs/trial-0001/seed-0"
    assert checkpoint.checkpoints(run)
    done = search()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of the trials are finished already" in done.stdout
    sessions = json.loads((run / "manifest.json").read_text())["sessions"]
    assert (len(sessions), sessions[1]["from_step"] > 0, sessions[1]["to_step"]) == (2, True, 6)
    found = json.loads((path / "results.json").read_text())
    assert [trial["state"] for trial in found["trials"]] == ["done", "done"]
    assert len(list((path / "runs").iterdir())) == 2


def test_a_pruned_run_is_saved_and_can_be_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gantricks.study import tune as tuned

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tuned._Searching, "_to_stop", lambda self, name, seed, news: self.number[name] == 0)
    long = [*REAL[:-3], "train.steps=3000000", "train.capture=off", "evaluate.mixture_coverage={points = 64}"]
    shown = "train.checkpoint_every=3000000"
    path, found = tune("ring_mlp", [RATE], trials=1, overrides=[*long, shown], prune_every=4, folder=Path("mine"))
    (trial,) = found.trials
    assert (trial.state, found.best, found.failed) == ("pruned", None, {})
    (step,) = checkpoint.checkpoints(path / "runs/trial-0000/seed-0")
    assert 4 <= step < 3_000_000
    assert not (path / "best.toml").exists()
