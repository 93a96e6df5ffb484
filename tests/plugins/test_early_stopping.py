"""Laws of early stopping: when it stops, that the best state comes back to the bit, that training does not notice."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import gantricks.runs.session
from gantricks import Measurement, Metric, Subject, Trick, UserError, hookimpl, resume, train
from gantricks.catalogue.registry import Registry
from gantricks.data.stand_in import POINTS
from gantricks.engine import sampling, state
from gantricks.engine.game import Game
from gantricks.engine.subject import GameSubject, evaluate
from gantricks.plugins.early_stopping import EarlyStopping, improves
from gantricks.runs import checkpoint
from gantricks.testing import CONDITIONAL, Mistake, Played, Settings, TrickHost, trick_suite
from gantricks.testing.measure import ROLES
from gantricks.testing.record import differences, snapshot

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({"every": 2, "patience": 50}, {}),
    "conditional": ({"every": 1, "patience": 50, "min_delta": 0.01}, CONDITIONAL | {"n_critic": 2}),
}
OVERRIDES = {"": ["evaluate.mixture_coverage=on", "tricks.early_stopping.every=1"]}
REFUSED: dict[str, str] = {}

MISTAKES = {
    "the state after the last step is not measured": Mistake(
        inside="EarlyStopping.on_finish",
        old="self._measure(ctx)",
        new="",
        caught_by="test_the_last_state_counts_too_whether_or_not_it_is_due",
    ),
    "the run ends with its last state and not with its best": Mistake(
        old="ctx.restore()",
        new="pass",
        caught_by="test_the_best_state_is_restored_bit_for_bit",
    ),
    "a figure that is no number counts as an improvement": Mistake(
        old="gain > min_delta",
        new="not gain <= min_delta",
        caught_by="test_without_one_figure_that_is_a_number_nothing_is_restored",
    ),
    "the best state is not kept": Mistake(
        inside="EarlyStopping._measure",
        old="ctx.snapshot()",
        new="",
        caught_by="trace_law",
    ),
    "the worst figure is taken for the best": Mistake(
        old="gain > min_delta",
        new="gain < min_delta",
        caught_by="trace_law",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """The figure is measured every so many steps, the best is told at every log, and its state is kept to the bit."""
    config, better = played.trick(name).config, played.trick(name).better
    best, best_step = -math.inf if better == "higher" else math.inf, 0
    for step, logged in enumerate(played.scalars):  # what the boundary before this step has left
        now, at_step = logged[f"{name}/best"], logged[f"{name}/best_step"]
        if at_step != best_step:
            assert at_step == step, f"measured at {at_step} and told after step {step}"
            assert at_step % config.every == 0
            gain = now - best if better == "higher" else best - now
            assert gain > config.min_delta, f"{now} is called better than {best}"
        else:
            assert now == best
        best, best_step = now, at_step
        measured = step // config.every * config.every
        waited = (measured - best_step) / config.every
        assert logged[f"{name}/waited"] == waited, f"{logged[f'{name}/waited']} measurements, not {waited}"
    assert best_step, "nothing was ever measured"
    step = int(best_step)
    for player, role in ROLES.items():
        phases = played.steps_of(player)
        after, before = (
            [p for p in phases if p.step == step - 1][-1].after,
            next(p for p in phases if p.step == step).before,
        )
        kept = {key: played.state["kept"][f"{role}/{key}"] for key in after}
        # between the two, others may have changed it, and buffers move in the other player's phase
        weights = [key for key, _ in getattr(played.game, role).named_parameters()]
        same = [all(torch.equal(kept[key], state[key]) for key in weights) for state in (after, before)]
        assert any(same), f"the {role} that is kept is not that after step {step}"


HOST = TrickHost(steps=12)


def first_weight(game: Game) -> float:
    """A function of the state, such as a metric is."""
    return next(game.generator.parameters()).sum().item()


def figure_of(figure: Callable[[Game], float], better: Any = "higher") -> type[Metric]:
    """A metric that finds what `figure` makes of the game."""

    class Figure(Metric):
        figures = {"figure": better}

        def measure(self, subject: Subject) -> Measurement:
            return Measurement({"figure": figure(subject._game)})

    return Figure


def watching(host: TrickHost, figure: Callable[[Game], float] = first_weight, better: str = "higher") -> TrickHost:
    """This host with such a metric."""
    return host.with_metric(figure_of(figure, better), "figure")


test_early_stopping = trick_suite(
    "early_stopping",
    host=watching(HOST.but(steps=8)),
    beside=["ema", "network_swap", "experience_replay", "packing", "lr_decay", "sgd_discriminator"],
)


def told(*figures: float):
    """A metric that finds these figures, one after the other, whatever the state."""
    found = iter(figures)
    return lambda game: next(found)


def by_step(figures: dict[int, float], otherwise: float = 0.0):
    return lambda game: figures.get(game.finished, otherwise)


def stopping(host: TrickHost = HOST, **options) -> TrickHost:
    """The host with the trick, and with a metric where it has none."""
    host = host if host.metrics else watching(host)
    return host.with_trick("early_stopping", **{"every": 2, "patience": 3} | options)


def ended(game: Game) -> Game:
    """Play until the run is over, as a session does."""
    while game.finished < game.steps and game.advance():
        pass
    game.finish()
    return game


def but_its_own(state):
    kept = {group: dict(tensors) for group, tensors in state.items() if group != "kept"}
    kept["tricks"] = {name: t for name, t in kept["tricks"].items() if not name.startswith("early_stopping/")}
    return kept


def state_after(host: TrickHost, step: int):
    """That of a run without the trick."""
    game = host.game()
    for _ in range(step):
        game.advance()
    return snapshot(game)


# ---------------------------------------------------------------- when it stops


def by_hand(figures: list[float], patience: int, min_delta: float, better: str) -> tuple[int, int]:
    """How many figures are looked at, and which is the best of them, counted from 1; 0 for none."""
    best, best_number, number, waited = None, 0, 0, 0
    for number, figure in enumerate(figures, 1):
        new = not math.isnan(figure) and (
            best is None or (figure - best if better == "higher" else best - figure) > min_delta
        )
        best, best_number, waited = (figure, number, 0) if new else (best, best_number, waited + 1)
        if waited == patience:
            break
    return number, best_number


FIGURES = st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0, math.nan]), min_size=6, max_size=6)


@given(FIGURES, st.integers(1, 4), st.sampled_from([0.0, 0.5, 0.7]), st.sampled_from(["higher", "lower"]))
@settings(max_examples=25)
def test_it_stops_after_exactly_so_many_figures_without_an_improvement(figures, patience, min_delta, better):
    host = watching(HOST, told(*figures), better)  # one more would raise StopIteration
    game = ended(stopping(host, patience=patience, min_delta=min_delta).game())
    looked_at, best = by_hand(figures, patience, min_delta, better)
    assert game.finished == 2 * looked_at
    assert game.trick_tensors["early_stopping/best_step"] == 2 * best
    assert game.restored_step == (2 * best or None)
    if looked_at < 6:
        assert f"that after step {2 * best}, in {patience} measurements" in game.stop_reason


@given(st.floats(-5, 5), st.floats(-5, 5), st.floats(0, 2), st.sampled_from(["higher", "lower"]))
def test_an_improvement_is_more_than_min_delta_in_the_metrics_own_direction(figure, best, min_delta, better):
    assert improves(figure, best, better, min_delta) == (
        figure - best > min_delta if better == "higher" else best - figure > min_delta
    )
    assert not improves(best, best, better, min_delta)
    assert not improves(math.nan, best, better, min_delta)


@pytest.mark.parametrize(("better", "sign"), [("higher", 1), ("lower", -1)])
def test_with_a_metric_that_only_improves_it_never_stops_and_nothing_is_taken_back(better, sign):
    numbers = count()
    host = watching(HOST, lambda game: sign * next(numbers), better)
    game = ended(stopping(host, patience=1).game())
    assert game.finished == 12
    assert game.stop_reason is None
    assert not differences(but_its_own(snapshot(game)), state_after(HOST, 12))
    assert game.restored_step == 12


def test_it_measures_where_it_says_and_at_the_end():
    measured = []
    host = watching(HOST.but(steps=11), lambda game: measured.append(game.finished) or 0.0)
    ended(stopping(host, every=3, patience=100).game())
    assert measured == [3, 6, 9, 11]


class Mean(Metric):
    """The mean of the generated samples."""

    figures = {"mean": "higher"}

    def measure(self, subject: Subject) -> Measurement:
        return Measurement(
            {"mean": float(np.mean([images.mean() for images, _ in subject.generated(subject.samples)]))}
        )


@pytest.mark.parametrize("stream", ["own", "evaluation"])
@pytest.mark.parametrize("seed", [0, 3])
def test_it_watches_the_samples_that_evaluation_draws_where_it_is_told_to_and_others_otherwise(stream, seed):
    host = TrickHost(steps=4, seed=seed).with_metric(Mean)
    game = host.with_trick("early_stopping", every=2, stream=stream).game()
    while game.finished < game.steps and game.advance():
        pass
    game.finish()
    picked = game.trick_tensors["early_stopping/best"].item()
    drawn = [Mean(Mean.Config()).measure(GameSubject(game, 64, number)).values["mean"] for number in range(20)]
    assert picked in (drawn if stream == "evaluation" else [evaluate(game, "mean", "early_stopping")])
    assert (picked == drawn[seed]) == (stream == "evaluation")
    assert (picked in drawn) == (stream == "evaluation")


@pytest.mark.parametrize("steps", [11, 12])
def test_the_last_state_counts_too_whether_or_not_it_is_due(steps):
    host = watching(HOST.but(steps=steps), by_step({4: 1.0, steps: 2.0}))
    game = ended(stopping(host, patience=100).game())
    assert game.restored_step == steps
    assert not differences(but_its_own(snapshot(game)), state_after(HOST.but(steps=steps), steps))


# ---------------------------------------------------------------- what comes back

HOSTS = {
    "plain": HOST,
    "momentum": HOST.but(optimizer={"name": "sgd", "lr": 0.05, "momentum": 0.9}),
    "tricks": HOST.with_trick("ema", decay=0.9).with_trick("experience_replay", capacity=6).with_trick("lr_decay"),
    "batch norm": HOST.but(sample=(1, 8, 8), generator={"batch_norm": True, "depth": 2}),
}


@pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS)
@pytest.mark.parametrize("best", [2, 6])
def test_the_best_state_is_restored_bit_for_bit(host, best):
    game = ended(stopping(watching(host, by_step({best: 1.0, 4: 0.5}))).game())
    assert game.finished == best + 6
    then = state_after(host, best)
    assert not differences(but_its_own(snapshot(game)), then)
    plain = host.game()
    state.load(plain, then, {**state.counters(plain), "step": best})
    assert (sampling.sample(game, 7, seed=3) == sampling.sample(plain, 7, seed=3)).all()


def test_a_run_that_another_trick_stops_ends_with_its_best_state_too():
    class Stopper(Trick):
        @hookimpl
        def on_boundary(self, ctx):
            if ctx.step == 7:
                ctx.stop("seven are enough")

    game = ended(stopping(watching(HOST, by_step({4: 1.0}))).with_trick(Stopper).game())
    assert (game.finished, game.restored_step) == (7, 4)
    assert not differences(but_its_own(snapshot(game)), state_after(HOST, 4))


def test_without_one_figure_that_is_a_number_nothing_is_restored():
    game = ended(stopping(watching(HOST, told(*[math.nan] * 6)), patience=100).game())
    assert game.restored_step is None
    assert not differences(but_its_own(snapshot(game)), state_after(HOST, 12))


def test_while_it_does_not_stop_training_is_bit_identical_to_a_run_without_it():
    host = HOSTS["tricks"]
    game, plain = stopping(host, patience=100).game(), host.game()
    for _ in range(12):
        game.advance(), plain.advance()
        assert not differences(but_its_own(snapshot(game)), snapshot(plain))


def test_after_a_fault_nothing_is_measured_or_kept():
    class Poison(Trick):
        @hookimpl
        def on_setup(self, ctx):
            self.count = torch.zeros((), dtype=ctx.dtype)

        def tensors(self):
            return {"count": self.count}

        @hookimpl
        def d_loss_terms(self, ctx):
            self.count.add_(1)
            return {"poison": torch.where(self.count > 4, torch.nan, self.count * 0)}

    measured = []
    host = watching(HOST, lambda game: measured.append(game.finished) or float(game.finished))
    game = ended(stopping(host).with_trick(Poison).game())
    assert measured == [2, 4]
    assert game.non_finite() is not None
    assert game.restored_step is None


# ---------------------------------------------------------------- resuming

NOISY = watching(HOST, lambda game: math.sin(1e3 * first_weight(game)))


@pytest.mark.parametrize("patience", [1, 2, 100])
def test_resumed_at_any_step_it_ends_as_the_run_that_was_not_stopped(patience):
    host = stopping(NOISY, patience=patience)
    whole, saved = host.game(), []
    while whole.finished < whole.steps and whole.advance():
        saved.append((snapshot(whole), json.loads(json.dumps(state.counters(whole)))))
    whole.finish()
    for tensors, counters in saved:
        game = host.game()
        state.load(game, tensors, counters)
        ended(game)
        assert not differences(snapshot(game), snapshot(whole))
        assert json.dumps(state.counters(game)) == json.dumps(state.counters(whole))
        assert game.stop_reason == whole.stop_reason


@pytest.mark.parametrize("figures", [{4: 1.0}, {12: 1.0, 2: 0.5, 6: 0.7}], ids=["stopped", "finished"])
def test_a_run_that_has_ended_does_not_train_on_from_its_best_state(figures):
    host = stopping(watching(HOST, by_step(figures)))
    game = ended(host.game())
    again = host.but(steps=20).game()
    state.load(again, snapshot(game), json.loads(json.dumps(state.counters(game))))
    before = snapshot(again)
    ended(again)
    assert again.finished == game.finished
    assert "the run has ended already" in again.stop_reason
    assert not differences(snapshot(again), before)
    assert again.restored_step == max(figures, key=figures.get)


# ---------------------------------------------------------------- sessions

SMALL = [
    "data.samples=300",
    *(f"{player}.hidden=[8]" for player in ("generator", "discriminator")),
    "train.steps=12",
    "train.checkpoint_every=3",
    "train.keep=all",
    "train.log_every=1",
    "train.sample_every=5",
    "data.batch_size=8",
    "train.precision=fp32",
    "train.device=cpu",
    "evaluate.figure=on",
    "tricks.early_stopping.every=2",
    "tricks.early_stopping.patience=3",
]


@pytest.fixture
def best_at(monkeypatch: pytest.MonkeyPatch):
    """Let runs have a metric, "figure", that is highest at one step."""

    def let(step: int) -> None:
        figure = figure_of(lambda game: float(game.finished == step))
        registry = partial(Registry, given={"metrics": {"figure": figure}})
        for module in (gantricks.runs.api, gantricks.runs.opening):
            monkeypatch.setattr(module, "Registry", registry)

    return let


def files(run: Path, step: int) -> dict[str, bytes]:
    folder = run / "checkpoints" / checkpoint.checkpoint_name(step)
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".safetensors"}


def test_the_last_checkpoint_picture_and_manifest_are_of_the_best_state(best_at, tmp_path):
    best_at(6)
    plain = train("ring_mlp", overrides=SMALL[:-2], run_dir=tmp_path / "plain")
    run = train("ring_mlp", overrides=SMALL, run_dir=tmp_path / "run")
    assert (run.finished, run.state_from) == (12, 6)
    best, last = files(plain.run, 6), files(run.run, 12)
    for name in ("generator", "discriminator", "generator_optimizer", "discriminator_optimizer"):
        assert last[f"{name}.safetensors"] == best[f"{name}.safetensors"], name
        assert files(plain.run, 12)[f"{name}.safetensors"] != best[f"{name}.safetensors"]
    (session,) = json.loads((run.run / "manifest.json").read_text())["sessions"]
    assert session["state_from_step"] == 6
    assert checkpoint.read_state(run.run / "checkpoints" / "000012")["state_from_step"] == 6
    shown = (run.run / "samples" / "000012.png").read_bytes()
    assert shown != (plain.run / "samples" / "000012.png").read_bytes()
    gantricks.sample(run.run, POINTS).save(tmp_path / "of_last.png")
    gantricks.sample(plain.run, POINTS, step=6).save(tmp_path / "of_best.png")
    assert (tmp_path / "of_last.png").read_bytes() == (tmp_path / "of_best.png").read_bytes()


def test_a_stopped_run_says_why_and_resuming_it_changes_nothing(best_at, tmp_path):
    best_at(2)
    first = train("ring_mlp", overrides=SMALL, run_dir=tmp_path / "run")
    assert (first.finished, first.state_from) == (8, 2)
    assert first.stopped == "early_stopping: figure has not improved on 1, that after step 2, in 3 measurements"
    before = files(first.run, 8)
    again = resume(first.run)
    assert (again.finished, again.state_from) == (8, 2)
    assert "ended already" in again.stopped
    assert files(first.run, 8) == before
    assert list(checkpoint.checkpoints(first.run)) == [3, 6, 8]


def test_resumed_from_an_earlier_checkpoint_a_run_ends_as_it_did(best_at, tmp_path):
    best_at(4)
    run = train("ring_mlp", overrides=SMALL, run_dir=tmp_path / "run").run
    before = files(run, 10)
    again = resume(run, step=3)
    assert (again.finished, again.state_from) == (10, 4)
    assert files(run, 10) == before


# ---------------------------------------------------------------- what refuses


def test_a_recipe_without_a_metric_is_refused_with_one_to_add():
    with pytest.raises(UserError) as caught:
        TrickHost().with_trick("early_stopping", every=2).plan()
    (problem,) = caught.value.problems
    assert "needs metric" in problem.what
    assert "[evaluate." in problem.hint


def test_a_metric_that_is_not_there_and_a_run_too_short_are_refused():
    with pytest.raises(UserError, match=r"no metric 'fid' in \[evaluate\]; it has: figure"):
        stopping(metric="fid").plan()
    with pytest.raises(UserError, match="every = 13 measures once, at the end of a run of 12 steps"):
        stopping(every=13).plan()
    stopping(metric="figure", every=12).plan()


def test_two_of_them_are_refused():
    with pytest.raises(UserError, match="final_state"):
        stopping().with_trick("early_stopping", "again", every=2).plan()


@pytest.mark.parametrize("wrong", [{"every": 0}, {"patience": 0}, {"min_delta": -0.1}, {"metric": 3}])
def test_options_outside_their_bounds_are_refused(wrong):
    with pytest.raises(ValidationError):
        EarlyStopping.Config(**wrong)
