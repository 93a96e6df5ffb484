"""Metrics while a run trains: their figures, where they go, and that the run does not notice."""

from __future__ import annotations

import gc
import hashlib
import json
import math
import os
import shutil
import signal
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from poison import POISON
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gantricks import Context, Measurement, Metric, Subject, Trick, UserError, evaluate, hookimpl, resume, train
from gantricks.catalogue.registry import Registry
from gantricks.data.base import Source
from gantricks.engine import subject
from gantricks.engine.capture import INDUCTOR, INTERPRETER, Capturing
from gantricks.engine.game import Game
from gantricks.engine.subject import GameSubject, measure
from gantricks.errors import Diverged
from gantricks.metrics.extractors.classifier import Classifier
from gantricks.planning.prepare import plan_recipe
from gantricks.runs import checkpoint
from gantricks.runs.reporter import Reporter, Result
from gantricks.testing import TrickHost, run_suite, trick_suite
from gantricks.testing.record import differences, snapshot

STEPS = 8
RECIPE = """
name = "measured"
seed = 3
[data]
source = "npz"
path = "{data}"
batch_size = 4
[generator]
network = "dcgan"
channels = 4
depth = 2
conditional = true
latent_dim = 3
optimizer = {{ name = "adam", lr = 0.1 }}
[discriminator]
network = "dcgan"
channels = 4
depth = 2
conditional = true
[train]
steps = 8
log_every = 2
sample_every = 4
checkpoint_every = 1
keep = "all"
precision = "fp32"
device = "cpu"
[evaluate]
every = 3
samples = 140
[evaluate.frechet_distance]
extractor = {{ name = "classifier", steps = 2 }}
[evaluate.sureness]
use = "classifier_score"
extractor = {{ name = "classifier", steps = 2 }}
splits = 2
[tricks.ema]
decay = 0.7
[tricks.instance_noise]
[tricks.generator_noise]
[tricks.rejection_sampling]
"""
DUE = [3, 6, 8]
NAMES = ["metric/frechet_distance/frechet_distance", "metric/sureness/classifier_score"]

FOLLOWER = '''
"""A trick that follows the figures, by a tensor, by the rate of a term, and by its own draws."""
import math

import torch
from gantricks import Trick, hookimpl


class Follower(Trick):
    """Pulls G the harder, the worse the last figure is; ends the run where it is told to."""

    needs = {"measurements"}
    trial = {}

    class Config(Trick.Config):
        stop_at: int = 0

    @hookimpl
    def on_setup(self, ctx):
        self.last = torch.zeros((), device=ctx.device)

    def tensors(self):
        return {"last": self.last}

    @hookimpl
    def on_metrics(self, figures, ctx):
        figure = next(iter(figures.values()))
        self.last.fill_(0.0 if math.isnan(figure) else math.tanh(figure) + float(ctx.rng.uniform(1)))
        if ctx.step == self.config.stop_at:
            ctx.stop(f"it is step {ctx.step}")

    @hookimpl
    def g_loss_terms(self, ctx):
        return {"pull": self.last * ctx.fake.images.square().mean()}
'''


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "set.npz"
    labels = np.arange(150) % 2
    # the classifier learns dark from bright in two steps
    images = np.random.default_rng(0).normal(110 + 35 * labels[:, None, None], 30, (150, 8, 8)).clip(0, 255)
    np.savez(path, images=images.astype(np.uint8), labels=labels)
    return path


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GANTRICKS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def recipe(data: Path, tmp_path: Path) -> Path:
    return written(data, tmp_path)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing has stopped, with a checkpoint at every step."""
    folder = tmp_path_factory.mktemp("whole")
    return train(written(data, folder), run_dir=folder / "run").run


@pytest.fixture(scope="module")
def follower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plugin") / "follower.py"
    path.write_text(FOLLOWER)
    return path


@pytest.fixture(scope="module")
def followed(data: Path, follower: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run with a trick that follows its figures."""
    folder = tmp_path_factory.mktemp("followed")
    overrides = ["tricks.follower=on"]
    return train(written(data, folder), overrides=overrides, plugins=[follower], run_dir=folder / "run").run


def written(data: Path, folder: Path) -> Path:
    path = folder / "recipe.toml"
    path.write_text(RECIPE.format(data=data), encoding="utf-8")
    return path


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def figures(run: Path) -> dict[int, dict[str, float]]:
    """The figures in metrics.jsonl, by step. Each step has one line at most."""
    found = [line for line in lines(run) if any(name.startswith("metric/") for name in line)]
    assert len({line["step"] for line in found}) == len(found)
    assert all(name.startswith("metric/") for line in found for name in line.keys() - {"step"})
    return {line.pop("step"): line for line in found}


def digests(run: Path, *patterns: str) -> dict[str, str]:
    paths = [path for pattern in patterns for path in run.glob(pattern)]
    assert len(paths) >= len(patterns)
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def everything(run: Path, step: int = STEPS) -> dict[str, str]:
    return digests(run, "recipe.toml", "metrics.jsonl", "samples/*", f"checkpoints/{step:06d}/*")


def cut(run: Path, step: int, copy: Path) -> Path:
    """A copy of `run` as it was when it had just written the checkpoint at `step`, with later log lines in it."""
    shutil.copytree(run, copy)
    for later, folder in checkpoint.checkpoints(copy).items():
        if later > step:
            shutil.rmtree(folder)
    return copy


# ---------------------------------------------------------------- the run does not notice


def test_a_run_with_metrics_is_the_run_without_to_the_bit(recipe: Path, tmp_path: Path) -> None:
    runs = {
        every: train(recipe, overrides=[f"evaluate.every={every}"], run_dir=tmp_path / every).run
        for every in ("1", "off")
    }
    same = ("checkpoints/*/*", "samples/*")
    assert digests(runs["1"], *same) == digests(runs["off"], *same)
    other = [line for line in lines(runs["1"]) if not any(name in line for name in NAMES)]
    assert other == lines(runs["off"])
    assert list(figures(runs["1"])) == list(range(1, STEPS + 1))
    assert not figures(runs["off"])


def test_a_captured_step_does_not_notice_measurements_either() -> None:
    host = TrickHost(sample=(1, 8, 8), classes=3, generator={"conditional": True}, steps=6)
    for trick in ("ema", "instance_noise", "generator_noise", "rejection_sampling"):
        host = host.with_trick(trick)
    measured, plain = host.with_metric(Scale).but(every=1).game(), host.game()
    for game in (measured, plain):
        game.play = Capturing(game, INTERPRETER)
    for _ in range(6):
        assert measured.advance() == plain.advance()
        assert measured.play.backend == INTERPRETER, measured.warnings  # type: ignore[attr-defined]
        assert not differences(snapshot(measured), snapshot(plain))
    assert measured.scalars() == plain.scalars()
    assert len(measured.plan.measured) == 1


def test_figures_are_measured_at_every_so_many_steps_and_at_the_last(whole: Path) -> None:
    assert list(figures(whole)) == DUE
    assert [list(found) for found in figures(whole).values()] == [NAMES] * 3
    assert len({found[NAMES[0]] for found in figures(whole).values()}) == 3
    # the line of the scalars comes first where both have one
    assert [line["step"] for line in lines(whole)] == [2, 3, 4, 6, 6, 8, 8]
    assert NAMES[0] in lines(whole)[4]


@pytest.mark.parametrize("step", DUE)
def test_figures_are_those_of_evaluate_at_that_checkpoint_to_the_bit(whole: Path, step: int) -> None:
    found = evaluate(whole, step=step, floor=False)
    named = {f"metric/{each.metric}/{name}": value for each in found for name, value in each.measurement.values.items()}
    assert named == figures(whole)[step]


@pytest.mark.slow
def test_a_compiled_run_has_the_figures_of_evaluate_too(tmp_path: Path) -> None:
    small = ["train.capture=on", "train.steps=6", "train.checkpoint_every=2"]
    run, plain = (
        train("ring_mlp", overrides=[*small, f"evaluate.every={every}"], run_dir=tmp_path / every).run
        for every in ("2", "off")
    )
    assert json.loads((run / "manifest.json").read_text())["capture"] == INDUCTOR
    assert digests(run, "checkpoints/*/*") == digests(plain, "checkpoints/*/*")
    for step in (2, 4, 6):
        (found,) = evaluate(run, step=step, floor=False)
        assert figures(run)[step]["metric/mixture_coverage/reverse_kl"] == found.measurement.values["reverse_kl"]


# ---------------------------------------------------------------- resuming


@pytest.mark.parametrize("step", range(1, STEPS))
def test_a_run_that_is_resumed_at_any_step_writes_the_same_bytes(step: int, whole: Path, tmp_path: Path) -> None:
    run = cut(whole, step, tmp_path / "run")
    resume(run)
    assert everything(run) == everything(whole)


def test_tensorboard_has_each_figure_once_also_after_a_resume(whole: Path, tmp_path: Path) -> None:
    run = cut(whole, 6, tmp_path / "run")
    resume(run)
    board = EventAccumulator(str(run), purge_orphaned_data=True).Reload()
    for name in NAMES:
        curve = [(event.step, event.value) for event in board.Scalars(name)]
        assert curve == [(step, pytest.approx(found[name], rel=1e-6)) for step, found in figures(run).items()]


@pytest.mark.parametrize("step", range(1, STEPS))
def test_what_a_trick_makes_of_figures_is_resumed_too(
    step: int, followed: Path, follower: Path, whole: Path, tmp_path: Path
) -> None:
    run = cut(followed, step, tmp_path / "run")
    resume(run, plugins=[follower])
    assert everything(run) == everything(followed)
    assert figures(followed)[3] == figures(whole)[3]
    assert figures(followed)[6] != figures(whole)[6]


def test_a_lengthened_run_keeps_the_figures_of_its_former_end(recipe: Path, tmp_path: Path) -> None:
    run = train(recipe, overrides=["train.steps=4"], run_dir=tmp_path / "run").run
    assert list(figures(run)) == [3, 4]
    resume(run, steps=7)
    assert list(figures(run)) == [3, 4, 6, 7]


# ---------------------------------------------------------------- tricks


def test_a_trick_is_told_the_figures_between_two_steps(recipe: Path, tmp_path: Path) -> None:
    told: list[tuple[int, str, dict[str, float]]] = []

    class Listens(Trick):
        @hookimpl
        def on_metrics(self, figures: dict[str, float], ctx: Context) -> None:
            told.append((ctx.step, ctx.phase, dict(figures)))
            figures.clear()  # it is the trick's own copy

        @hookimpl
        def on_finish(self, ctx: Context) -> None:
            told.append((ctx.step, "finish", {}))

    host = TrickHost(every=3, steps=STEPS).with_metric(Scale)
    host.with_trick(Listens).with_trick(Listens, "again").train()
    name = "metric/scale/scale"
    assert [(step, phase, list(found)) for step, phase, found in told] == [
        (step, "metrics", [name]) for step in (3, 3, 6, 6, 8, 8)
    ]
    assert told[0][2] == told[1][2]
    assert len({found[name] for _, _, found in told}) == 3


class Scale(Metric):
    """The mean magnitude of samples, and that of reals."""

    figures: ClassVar = {"scale": "higher"}

    def measure(self, subject: Subject) -> Measurement:
        images = np.concatenate([images for images, _ in subject.generated(subject.samples)])
        return Measurement({"scale": float(np.abs(images).mean())})


def test_draws_of_a_trick_that_listens_are_its_own(recipe: Path) -> None:
    class Draws(Trick):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.drawn: list[float] = []

        @hookimpl
        def on_boundary(self, ctx: Context) -> None:
            self.drawn.append(float(ctx.rng.uniform(1)))

        @hookimpl
        def on_log(self, ctx: Context) -> None:
            self.drawn.append(float(ctx.rng.uniform(1)))

        @hookimpl
        def on_metrics(self, ctx: Context) -> None:
            self.drawn.append(float(ctx.rng.uniform(1)))

    played = TrickHost(every=1, steps=4).with_metric(Scale).with_trick(Draws).train()
    drawn = played.trick("draws").drawn  # type: ignore[attr-defined]
    assert len(drawn) == len(set(drawn)) == 12


def test_a_trick_may_stop_the_run_by_its_figures(
    recipe: Path, follower: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[str] = []
    save = checkpoint.Writer.save

    def noting(writer: checkpoint.Writer, folder: Path, *rest: Any, **named: Any) -> None:
        saved.append(folder.name)
        save(writer, folder, *rest, **named)

    monkeypatch.setattr(checkpoint.Writer, "save", noting)
    overrides = ["tricks.follower.stop_at=6"]
    result = train(recipe, overrides=overrides, plugins=[follower], run_dir=tmp_path / "run")
    assert (result.finished, result.stopped) == (6, "follower: it is step 6")
    assert list(figures(result.run)) == [3, 6]
    # a kill before the end must not leave a checkpoint from which a resumed run goes on
    assert saved == [f"{step:06d}" for step in range(1, 7)]
    run = cut(result.run, 5, tmp_path / "again")
    assert resume(run, plugins=[follower]).stopped == result.stopped
    assert everything(run, 6) == everything(result.run, 6)


def test_what_a_trick_says_at_the_last_step_has_not_stopped_the_run(
    recipe: Path, follower: Path, tmp_path: Path
) -> None:
    overrides = [f"tricks.follower.stop_at={STEPS}"]
    result = train(recipe, overrides=overrides, plugins=[follower], run_dir=tmp_path / "run")
    assert (result.finished, result.stopped) == (STEPS, None)


def test_a_run_that_a_trick_ends_between_measurements_is_measured_once_more(recipe: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "stopper.py"
    plugin.write_text(STOPPER)
    overrides = ["tricks.stopper=on"]
    result = train(recipe, overrides=overrides, plugins=[plugin], run_dir=tmp_path / "run")
    assert (result.finished, list(figures(result.run))) == (5, [3, 5])
    before = everything(result.run, 5)
    again = resume(result.run, plugins=[plugin])  # it is ended again, and nothing is written twice
    assert (again.finished, everything(result.run, 5)) == (5, before)
    board = EventAccumulator(str(result.run), purge_orphaned_data=True).Reload()
    assert [event.step for event in board.Scalars(NAMES[0])] == [3, 5]


STOPPER = '''
"""A trick that ends the run."""
from gantricks import Trick, hookimpl


class Stopper(Trick):
    """Ends the run after five steps."""

    @hookimpl
    def on_boundary(self, ctx):
        if ctx.step == 5:
            ctx.stop("enough")
'''


def test_figures_come_before_the_last_word_of_the_tricks(recipe: Path, tmp_path: Path) -> None:
    """The last figure is that of the trained state, so a trick may choose by it what to finish with."""
    plugin = tmp_path / "zeroes.py"
    plugin.write_text(ZEROES)
    overrides = ["tricks.zeroes=on", "tricks.ema=off"]
    run = train(recipe, overrides=overrides, plugins=[plugin], run_dir=tmp_path / "run").run
    plain = train(recipe, overrides=["tricks.ema=off"], run_dir=tmp_path / "plain").run
    assert figures(run) == figures(plain)
    (found,) = evaluate(run, ["frechet_distance"], floor=False, plugins=[plugin])
    assert found.measurement.values["frechet_distance"] != figures(run)[STEPS][NAMES[0]]


ZEROES = '''
"""A trick that changes the last state."""
import torch
from gantricks import Trick, hookimpl


class Zeroes(Trick):
    """Ends with a generator of zeroes."""

    @hookimpl
    def on_finish(self, ctx):
        with torch.no_grad():
            for parameter in ctx.generator.parameters():
                parameter.zero_()
'''


def test_a_trick_that_needs_figures_is_refused_without_them(recipe: Path, follower: Path) -> None:
    with pytest.raises(UserError) as caught:
        plan_recipe(recipe, ["tricks.follower=on", "evaluate.every=off"], Registry([follower]))
    assert "follower needs measurements" in str(caught.value)
    assert "every = 1000 in [evaluate]" in str(caught.value)


class Leans(Trick):
    """Leans on the last figure."""

    needs: ClassVar = {"measurements"}

    @hookimpl
    def on_setup(self, ctx: Context) -> None:
        self.last = torch.zeros((), device=ctx.device)

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"last": self.last}

    @hookimpl
    def on_metrics(self, figures: dict[str, float]) -> None:
        (figure,) = figures.values()
        self.last.fill_(figure)

    @hookimpl
    def g_loss_terms(self, ctx: Context) -> dict[str, torch.Tensor]:
        return {"lean": self.last * ctx.fake.images.square().mean()}


class Forgets(Leans):
    """Leans on the last figure, and loses it when the run is resumed."""

    def tensors(self) -> dict[str, torch.Tensor]:
        return {}


test_the_generic_laws_hold_of_a_trick_that_listens = trick_suite(Leans)


def test_the_generic_laws_catch_a_trick_that_forgets_the_figure() -> None:
    failed = {outcome.id for outcome in run_suite(Forgets) if outcome.status == "failed"}
    assert "resume" in failed


# ---------------------------------------------------------------- what cannot be measured


def test_a_run_that_diverges_is_told_as_such_and_not_by_a_metric(recipe: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "poison.py"
    plugin.write_text(POISON)
    overrides = ["tricks.poison=on", "train.log_every=100", "train.checkpoint_every=100"]
    with pytest.raises(Diverged, match=r"d\.poison\.bad is not finite at step 3"):
        train(recipe, overrides=overrides, plugins=[plugin], run_dir=tmp_path / "run")
    assert (tmp_path / "run" / "fault" / "000003").is_dir()
    assert not figures(tmp_path / "run")


class Listener(Reporter):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.told: list[tuple[int, dict[str, float]]] = []
        self.progress: list[str] = []

    def warn(self, sentence: str) -> None:
        self.warnings.append(sentence)

    def measuring(self, what: str, done: int, total: int) -> None:
        self.progress.append(what)

    def measured(self, finished: int, figures: Mapping[str, float], seconds: float) -> None:
        assert seconds > 0
        self.told.append((finished, dict(figures)))


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (UserError("the cache is full"), "step 3: frechet_distance is not measured: the cache is full"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
            "step 3: frechet_distance is not measured: the memory of cpu does not suffice",
        ),
    ],
    ids=["refused", "memory"],
)
def test_a_metric_that_fails_in_one_state_costs_its_figure_alone(
    fault: Exception, said: str, recipe: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gantricks.metrics.frechet_distance import FrechetDistance

    known = FrechetDistance.measure

    def fails(metric: FrechetDistance, of: Any) -> Measurement:
        if of._game.finished == 3:
            raise fault
        return known(metric, of)

    monkeypatch.setattr(FrechetDistance, "measure", fails)
    listener = Listener()
    run = train(recipe, run_dir=tmp_path / "run", reporter=listener).run
    assert listener.warnings == [said]
    assert math.isnan(listener.told[0][1][NAMES[0]])
    assert figures(run) == figures(whole) | {3: figures(whole)[3] | {NAMES[0]: None}}
    assert digests(run, "checkpoints/*/*") == digests(whole, "checkpoints/*/*")


def test_samples_that_are_not_finite_are_told_and_end_no_run(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "gantricks.engine.sampling.samples", lambda *_: iter([(np.full((64, 1, 8, 8), np.inf, np.float32), None)])
    )
    listener = Listener()
    result = train(recipe, run_dir=tmp_path / "run", overrides=["train.sample_every=100"], reporter=listener)
    assert result.finished == STEPS
    assert "frechet_distance is not measured: the generator's samples are not finite" in listener.warnings[0]
    assert all(value is None for found in figures(result.run).values() for value in found.values())


def test_a_fault_of_a_metric_is_a_fault(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gantricks.metrics.frechet_distance import FrechetDistance

    def breaks(metric: FrechetDistance, of: Any) -> Measurement:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(FrechetDistance, "measure", breaks)
    with pytest.raises(RuntimeError, match="shapes differ"):
        train(recipe, run_dir=tmp_path / "run")


# ---------------------------------------------------------------- signals


class Ends(Listener):
    """Sends the signal that Ctrl-C would while the features of samples are computed, at one step."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step, self.after, self.finished = step, 0, 0

    def stepped(self, finished: int) -> None:
        self.finished = finished

    def measuring(self, what: str, done: int, total: int) -> None:
        assert not self.after, "the metric goes on after the signal"
        if self.finished == self.step and what == "features of generated images":
            self.after = 1
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("step", DUE)
def test_a_signal_while_metrics_are_measured_saves_at_once_and_costs_no_figure(
    step: int, recipe: Path, followed: Path, follower: Path, tmp_path: Path
) -> None:
    extra: dict[str, Any] = {"plugins": [follower]}
    overrides = ["tricks.follower=on", "train.checkpoint_every=100"]
    result = train(recipe, overrides=overrides, run_dir=tmp_path / "run", reporter=Ends(step), **extra)
    assert (result.signal, result.finished, result.unmeasured) == (signal.SIGINT, step, True)
    assert list(checkpoint.checkpoints(result.run)) == [step]
    assert step not in figures(result.run)
    # killed as soon as it has measured, it measures again, for the trick's sake
    killed = cut(result.run, step, tmp_path / "killed")
    state = {path: path.read_bytes() for path in (killed / "checkpoints").rglob("*") if path.is_file()}
    with pytest.raises(_Killed):
        resume(killed, reporter=Kills(), **extra)
    assert step in figures(killed)
    assert {path: path.read_bytes() for path in (killed / "checkpoints").rglob("*") if path.is_file()} == state
    for run in (result.run, killed):
        went_on = resume(run, **extra)
        assert (went_on.finished, went_on.unmeasured) == (STEPS, False)
        wanted = ("metrics.jsonl", "samples/000008.png", f"checkpoints/{STEPS:06d}/*.safetensors")
        assert digests(run, *wanted) == digests(followed, *wanted)
        assert resume(run, **extra).run == run  # it is finished, and measures no more


class _Killed(Exception):
    pass


class Kills(Reporter):
    """Ends the process, as it were, when the first metrics are measured."""

    def measured(self, finished: int, figures: Mapping[str, float], seconds: float) -> None:
        raise _Killed


def test_a_signal_before_the_metrics_are_due_leaves_them_to_the_resumed_run(recipe: Path, tmp_path: Path) -> None:
    class Early(Listener):
        def stepped(self, finished: int) -> None:
            if finished == 6:
                os.kill(os.getpid(), signal.SIGTERM)

    listener = Early()
    result = train(recipe, run_dir=tmp_path / "run", reporter=listener)
    assert (result.finished, result.unmeasured, list(figures(result.run))) == (6, True, [3])
    assert [step for step, _ in listener.told] == [3]
    resume(result.run)
    assert list(figures(result.run)) == DUE


# ---------------------------------------------------------------- what is computed once


def test_what_follows_from_the_data_is_computed_once_a_run(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {"prepared": 0, "reals": 0, "generated": 0}

    def counting(cls: type, method: str, what: str) -> None:
        known = getattr(cls, method)

        def counted(*arguments: Any) -> Any:
            counts[what] += 1
            return known(*arguments)

        monkeypatch.setattr(cls, method, counted)

    counting(Classifier, "prepare", "prepared")
    counting(GameSubject, "reals", "reals")
    counting(GameSubject, "generated", "generated")
    train(recipe, run_dir=tmp_path / "run")
    # the features of samples, and the probabilities of the second metric
    assert counts == {"prepared": 1, "reals": 1, "generated": 2 * len(DUE)}


def test_nothing_of_a_state_is_kept_between_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    host = TrickHost(sample=(1, 8, 8), classes=2, count=150, every=1, evaluated=140, steps=3)
    host = host.with_metric("frechet_distance", extractor={"name": "classifier", "steps": 2})
    made: list[weakref.ref[Any]] = []
    known = GameSubject.__init__

    def noting(self: GameSubject, *arguments: Any, **named: Any) -> None:
        made.append(weakref.ref(self))
        known(self, *arguments, **named)

    monkeypatch.setattr(GameSubject, "__init__", noting)
    game = host.train().game
    gc.collect()
    assert len(made) == 3
    assert all(subject() is None for subject in made)
    (kept,) = game.remembered.values()
    arrays = [value for value in kept.values() if isinstance(value, np.ndarray)]
    assert sorted(array.shape for array in arrays) == [(140, 128), (150,)]  # features of reals, and their order


def test_a_trick_that_asks_for_a_figure_shares_what_the_run_has_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared: list[int] = []
    known = Classifier.prepare
    monkeypatch.setattr(Classifier, "prepare", lambda self, of: (prepared.append(1), known(self, of))[1])
    host = TrickHost(sample=(1, 8, 8), classes=2, count=150, evaluated=140, every=2, steps=4)
    game = host.with_metric("frechet_distance", extractor={"name": "classifier", "steps": 2}).game()
    game.advance()
    found = [subject.evaluate(game, "frechet_distance") for _ in range(2)]
    (figure,) = measure(game)[0].values()
    assert found == [figure, figure]  # the seed of the run is that of evaluations here
    assert len(prepared) == 1


def test_held_out_samples_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    game = TrickHost().game()
    read: list[int] = []
    monkeypatch.setattr(Source, "held_out", lambda self, progress: read.append(1))
    for _ in range(3):
        assert GameSubject(game, 1, 0).held_out is None
    assert len(read) == 1


# ---------------------------------------------------------------- the recipe


def plan(recipe: Path | str, *overrides: str) -> Any:
    return plan_recipe(recipe, overrides, Registry(installed=False))[0]


def test_without_metrics_of_its_own_a_recipe_measures_those_that_suit_its_data(data: Path, tmp_path: Path) -> None:
    text = RECIPE.format(data=data).partition("[evaluate.frechet_distance]")[0]
    (tmp_path / "bare.toml").write_text(text)
    planned = plan(tmp_path / "bare.toml")
    assert [each.name for each in planned.measured] == ["frechet_distance", "kernel_distance"]
    assert planned.metrics == ()
    assert plan(tmp_path / "bare.toml", "evaluate.every=off").measured == ()
    assert [each.name for each in plan("ring_mlp", "evaluate.every=7").measured] == ["mixture_coverage"]


def test_one_that_would_suit_and_cannot_be_measured_is_left_out_with_a_warning(data: Path, tmp_path: Path) -> None:
    text = RECIPE.format(data=data).partition("[evaluate.frechet_distance]")[0]
    (tmp_path / "bare.toml").write_text(text)
    planned = plan(tmp_path / "bare.toml", "evaluate.samples=20")
    assert [each.name for each in planned.measured] == ["kernel_distance"]
    (warning,) = planned.warnings
    assert warning.startswith("frechet_distance is not measured: 20 samples do not determine a covariance")


def test_everything_in_the_way_of_metrics_is_told_at_once(recipe: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        plan(
            recipe,
            "evaluate.samples=1",
            "evaluate.held_out_error=on",
            "evaluate.mixture_coverage=on",
            "tricks.wasserstein=on",
            "tricks.soft_labels=on",
        )
    told = str(caught.value)
    for words in (
        "frechet_distance: 1 samples do not determine a covariance",
        "sureness: 1 samples do not make 2 parts",
        "held_out_error: it needs held_out",
        "mixture_coverage: it needs mixture",
        "soft_labels needs targets",
    ):
        assert words in told, words
    unlabelled = tmp_path / "unlabelled.npz"
    np.savez(unlabelled, images=np.zeros((150, 8, 8), np.uint8))
    text = RECIPE.format(data=unlabelled).partition("[evaluate.frechet_distance]")[0].replace("conditional = true", "")
    (tmp_path / "bare.toml").write_text(text)
    with pytest.raises(UserError) as caught:
        plan(tmp_path / "bare.toml", "tricks.label_flipping.p=2")
    assert "none is known to suit its data" in str(caught.value)
    assert "frechet_distance" in str(caught.value)
    assert "tricks.label_flipping.p" in str(caught.value)


@pytest.mark.parametrize("wrong", ["0", "-1", "true", "often", "2.5"])
def test_steps_between_measurements_are_a_whole_number_or_off(wrong: str, recipe: Path) -> None:
    with pytest.raises(UserError) as caught:
        plan(recipe, f"evaluate.every={wrong}")
    assert "evaluate.every" in str(caught.value)
    assert '"off"' in str(caught.value)


def test_a_run_that_is_resumed_with_another_number_is_refused(whole: Path, tmp_path: Path) -> None:
    run = cut(whole, 4, tmp_path / "run")
    path = run / "recipe.toml"
    path.write_text(path.read_text().replace("every = 3", "every = 2"))
    with pytest.raises(UserError, match=r"evaluate\.every is 2 and was 3 when the run began"):
        resume(run)


def test_every_session_hears_of_the_figures(recipe: Path, tmp_path: Path) -> None:
    listener = Listener()
    result: Result = train(recipe, run_dir=tmp_path / "run", reporter=listener)
    assert dict(listener.told) == figures(result.run)
    assert {"generating", "features of generated images", "probabilities of generated images"} <= set(listener.progress)


def test_the_games_own_state_is_untouched_by_a_measurement() -> None:
    game: Game = TrickHost(every=5, steps=4).with_metric(Scale).game()
    game.advance()
    before = game.clock.place, game.clock.step, game.feed.cursor
    found = measure(game)[0]
    assert found == measure(game)[0]
    assert before == (game.clock.place, game.clock.step, game.feed.cursor)
