"""A state that is kept and brought back: to the bit, with everything in it, through a checkpoint, and in a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gantricks import Trick, TrickError, hookimpl
from gantricks.engine import sampling, state
from gantricks.engine.capture import INTERPRETER, Capturing
from gantricks.engine.game import Game
from gantricks.testing import TrickHost
from gantricks.testing.record import differences, same_bits, snapshot


class Keeper(Trick):
    """Keeps the state at one step and brings it back at another; counts the boundaries."""

    class Config(Trick.Config):
        keep: int = 2
        back: int = 4

    @hookimpl
    def on_setup(self, ctx):
        self.boundaries = torch.zeros(())

    def tensors(self):
        return {"boundaries": self.boundaries}

    @hookimpl
    def on_boundary(self, ctx):
        self.boundaries.add_(1)
        if ctx.step == self.config.keep:
            ctx.snapshot()
        if ctx.step == self.config.back:
            ctx.restore()


STATEFUL = {
    "plain": TrickHost(),
    "momentum": TrickHost(optimizer={"name": "sgd", "lr": 0.05, "momentum": 0.9}),
    "tricks": TrickHost(n_critic=2)
    .with_trick("ema", decay=0.9)
    .with_trick("experience_replay", capacity=6)
    .with_trick("lr_decay")
    .with_trick("historical_averaging", strength=0.3),
    "batch norm": TrickHost(sample=(1, 8, 8), generator={"batch_norm": True, "depth": 2}),
    "schedules": TrickHost(steps=8)
    .with_trick("n_critic_schedule", start=1, end=3, at=0.4)
    .with_trick("batch_size_schedule", start=4, end=8, at=0.4),
    "growing": TrickHost(sample=(1, 16, 16), generator={"depth": 3}, discriminator={"depth": 3}).with_trick(
        "grow", until=0.8
    ),
}
HOSTS = pytest.mark.parametrize("host", STATEFUL.values(), ids=STATEFUL)


def keeping(host: TrickHost, keep: int = 2, back: int = 4) -> TrickHost:
    """With the keeper in front: what it keeps is what the step has left, before others prepare for the next one."""
    return host.but(tricks=(*TrickHost().with_trick(Keeper, "keeper", keep=keep, back=back).tricks, *host.tricks))


def advanced(game: Game, steps: int) -> Game:
    for _ in range(steps):
        assert game.advance()
    return game


def besides_the_keeper(state):
    kept = {group: dict(tensors) for group, tensors in state.items() if group != "kept"}
    kept["tricks"] = {name: t for name, t in kept["tricks"].items() if not name.startswith("keeper/")}
    return kept


def bring_back_at(game: Game, step: int) -> None:
    """The boundary before step `step` + 1, and nothing of the step."""
    assert game.finished == step
    game.clock.enter("boundary")
    for hook, ctx in game.hooks.on_boundary:
        if ctx.name == "keeper":
            hook(ctx)


# ---------------------------------------------------------------- what comes back


@HOSTS
@pytest.mark.parametrize("keep", [1, 3])
def test_every_tensor_and_every_setting_of_the_kept_state_comes_back_to_the_bit(host, keep):
    game = keeping(host, keep, 6).game()
    advanced(game, keep)
    then, counters = besides_the_keeper(snapshot(game)), state.counters(game)
    sampled = sampling.sample(game, 5, seed=1)
    advanced(game, 6 - keep)
    assert differences(besides_the_keeper(snapshot(game)), then)
    bring_back_at(game, 6)
    assert not differences(besides_the_keeper(snapshot(game)), then)
    now = state.counters(game)
    assert {name: now[name] for name in ("batch_size", "n_critic", "optimizers")} == {
        name: counters[name] for name in ("batch_size", "n_critic", "optimizers")
    }
    assert (now["step"], now["state_from_step"]) == (6, keep)
    assert (sampling.sample(game, 5, seed=1) == sampled).all()


def test_the_tensors_stay_where_they_are_and_the_keepers_own_stay_what_they_are():
    game = keeping(STATEFUL["tricks"]).game()
    places = {name: tensor.data_ptr() for group in state.tensors(game).values() for name, tensor in group.items()}
    advanced(game, 4)
    own = game.trick_tensors["keeper/boundaries"]
    assert own == 4
    bring_back_at(game, 4)
    assert own == 5
    now = {g: tensors for g, tensors in state.tensors(game).items() if g != "kept"}
    assert {name: tensor.data_ptr() for group in now.values() for name, tensor in group.items()} == places


def test_what_is_kept_does_not_follow_the_run_and_keeping_does_not_change_it():
    game, plain = keeping(TrickHost(), 2, 99).game(), TrickHost().game()
    advanced(game, 2), advanced(plain, 2)
    kept = None
    for _ in range(4):
        advanced(game, 1), advanced(plain, 1)
        assert not differences(besides_the_keeper(snapshot(game)), snapshot(plain))
        now = snapshot(game)["kept"]
        assert kept is None or all(same_bits(tensor, kept[name]) for name, tensor in now.items())
        kept = now


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4, unique=True))
@settings(max_examples=6)
def test_the_state_that_was_kept_last_is_the_one_that_comes_back(steps):
    game = keeping(TrickHost(), -1, 7).game()
    states = {}
    for step in range(7):
        if step in steps:
            state.snapshot(game, "keeper")
            states[step] = besides_the_keeper(snapshot(game))
        advanced(game, 1)
    bring_back_at(game, 7)
    assert not differences(besides_the_keeper(snapshot(game)), states[max(steps)])


def test_nothing_can_be_brought_back_before_something_is_kept():
    with pytest.raises(TrickError, match="was called before"):
        advanced(keeping(TrickHost(), 5, 2).game(), 3)


class InTheStep(Trick):
    @hookimpl
    def after_g_step(self, ctx):
        ctx.snapshot()


def test_the_step_is_no_place_for_it():
    with pytest.raises(TrickError, match="acts on the host"):
        TrickHost().with_trick(InTheStep).train(1)


def test_grown_networks_shrink_back_and_their_weights_rest_again():
    host = STATEFUL["growing"]
    game = keeping(host, 1, 7).game()
    advanced(game, 1)
    resting = {name for name, p in game.discriminator.named_parameters() if not p.requires_grad}
    assert resting
    advanced(game, 6)
    assert all(p.requires_grad for p in game.discriminator.parameters() if p.grad is not None)
    bring_back_at(game, 7)
    assert {name for name, p in game.discriminator.named_parameters() if not p.requires_grad} == resting


# ---------------------------------------------------------------- checkpoints and captured steps


@HOSTS
def test_resumed_at_any_step_the_run_is_the_one_that_was_not_stopped(host):
    host = keeping(host, 2, 5)
    whole, saved = host.game(), []
    for _ in range(8):
        advanced(whole, 1)
        saved.append((snapshot(whole), json.loads(json.dumps(state.counters(whole)))))
    for tensors, counters in saved[:-1]:
        game = host.game()
        state.load(game, tensors, counters)
        advanced(game, 8 - counters["step"])
        assert not differences(snapshot(game), saved[-1][0])
        assert json.loads(json.dumps(state.counters(game))) == saved[-1][1]


def test_a_run_that_keeps_nothing_has_checkpoints_as_ever():
    game = TrickHost().train(2).game
    assert "kept" not in state.tensors(game)
    assert state.counters(game).keys() == {"step", "images_seen", "batch_size", "n_critic", "optimizers"}


def test_a_captured_run_keeps_and_brings_back_what_the_eager_one_does():
    host = keeping(STATEFUL["tricks"], 2, 5)
    eager, captured = host.game(), host.game()
    captured.play = Capturing(captured, INTERPRETER)
    advanced(eager, 8), advanced(captured, 8)
    assert captured.play.backend == INTERPRETER
    assert not differences(snapshot(eager), snapshot(captured))


def test_a_checkpoint_of_a_kept_state_loads_again(tmp_path: Path):
    from gantricks import store
    from gantricks.runs import checkpoint

    game = advanced(keeping(STATEFUL["tricks"], 2, 99).game(), 4)
    folder = store.save(tmp_path / "000004", state.tensors(game), state.counters(game))
    again = keeping(STATEFUL["tricks"], 2, 99).game()
    state.load(again, *checkpoint.load(folder))
    assert not differences(snapshot(again), snapshot(game))
    assert json.dumps(state.counters(again)) == json.dumps(state.counters(game))
