"""Learning rate decay: lr₀ · γ^(t/T) in every step, for every optimizer, and nothing at γ = 1."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gantricks import Players, Trick, hookimpl
from gantricks.engine import state
from gantricks.plugins.lr_decay import decayed
from gantricks.testing import Mistake, Played, Settings, TrickHost
from gantricks.testing.measure import ROLES, progress
from gantricks.testing.record import differences, snapshot

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({}, {}),
    "sgd": ({}, {"n_critic": 2, "optimizer": {"name": "sgd", "lr": 0.01, "momentum": 0.9}}),
}
REFUSED: dict[str, str] = {}

MISTAKES = {
    "the rate falls by gamma in each step, not over the run": Mistake(
        old="rate.copy_(decayed(self.starts[name], ctx.value(self.config.gamma), ctx.elapsed))",
        new="rate.mul_(self.config.gamma)",
        caught_by="test_every_step_uses_the_rate_of_its_place_in_the_run",
    ),
    "the decay starts from the rate of the step before": Mistake(
        old="decayed(self.starts[name], ctx.value(self.config.gamma), ctx.elapsed)",
        new="decayed(rate, ctx.value(self.config.gamma), ctx.elapsed)",
        caught_by="test_every_step_uses_the_rate_of_its_place_in_the_run",
    ),
    "the rate falls along a line": Mistake(
        old="torch.pow(gamma, progress)",
        new="1 - (1 - gamma) * progress",
        caught_by="trace_law",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """The rate of step t is lr₀ γ^(t/(T-1)), as logged."""
    config = played.trick(name).config
    for player, role in ROLES.items():
        rates = [scalars[f"learning_rate/{player}"] for scalars in played.scalars]
        gamma = config.gamma if ROLES[player] in config.players else 1.0
        if {call.trick for call in played.calls["transform_optimizer"]} == {name}:
            start = getattr(played.game.plan.recipe, role).keys.optimizer.lr
            assert math.isclose(rates[0], start, rel_tol=1e-6), f"{player} starts at {rates[0]}, not at {start}"
        for step, rate in enumerate(rates):
            expected = rates[0] * gamma ** progress(played, step)
            assert math.isclose(rate, expected, rel_tol=1e-6), f"{player}'s rate {step} is {rate}, not {expected}"


gammas = st.floats(1e-6, 1)
SGD = ("sgd_discriminator", {"lr": 0.05, "momentum": 0.9})
DECAY = ("lr_decay", {"gamma": 0.01})


def double(number: float) -> torch.Tensor:
    return torch.tensor(number, dtype=torch.float64)


# ---------------------------------------------------------------- the formula


@given(st.floats(1e-6, 1), gammas, st.floats(0, 1))
def test_the_rate_is_exponential_in_progress(start, gamma, progress) -> None:
    rate = decayed(double(start), gamma, double(progress)).item()
    assert rate == pytest.approx(start * math.exp(progress * math.log(gamma)), rel=1e-12)


@given(st.floats(1e-6, 1), gammas, st.sampled_from([torch.float32, torch.float64]))
def test_both_ends_are_met(start, gamma, dtype) -> None:
    rate = torch.tensor(start, dtype=dtype)
    assert torch.equal(decayed(rate, gamma, torch.zeros((), dtype=dtype)), rate)
    assert decayed(rate, gamma, torch.ones((), dtype=dtype)).item() == pytest.approx(start * gamma, rel=1e-6)


# ---------------------------------------------------------------- in a run


class Used(Trick):
    """Records the learning rates with which each player has just been updated."""

    def __init__(self, config: object) -> None:
        super().__init__(config)
        self.seen: dict[str, list[float]] = {"d": [], "g": []}

    @hookimpl
    def after_d_step(self, ctx):
        self.seen["d"].append(float(ctx._game.step.d.optimizer.param_groups[0]["lr"]))

    @hookimpl
    def after_g_step(self, ctx):
        self.seen["g"].append(float(ctx._game.step.g.optimizer.param_groups[0]["lr"]))


def rates(host: TrickHost) -> dict[str, list[float]]:
    return host.with_trick(Used).train().game.plan.tricks[-1].trick.seen


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("players", [Players(), Players("generator"), Players("discriminator")])
def test_every_step_uses_the_rate_of_its_place_in_the_run(name, players) -> None:
    host = TrickHost(steps=6, n_critic=2, optimizer={"name": name, "lr": 0.02})
    seen = rates(host.with_trick("lr_decay", gamma=0.1, players=players.written()))
    for player, repeats in (("d", 2), ("g", 1)):
        gamma = 0.1 if ROLES[player] in players else 1.0
        expected = [0.02 * gamma ** (step / 5) for step in range(6) for _ in range(repeats)]
        assert seen[player] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_the_updates_are_those_of_an_optimizer_set_to_that_rate(name) -> None:
    """One run decays by itself, the other has its number in the optimizer changed by hand between steps."""
    host = TrickHost(steps=5, optimizer={"name": name, "lr": 0.02})
    game, by_hand = host.with_trick("lr_decay", gamma=0.1).game(), host.game()
    for step in range(5):
        for player in by_hand.players.values():
            player.optimizer.param_groups[0]["lr"] = float(torch.tensor(0.02 * 0.1 ** (step / 4)))
        game.advance()
        by_hand.advance()
    for ours, theirs in ((game.generator, by_hand.generator), (game.discriminator, by_hand.discriminator)):
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-8)


@pytest.mark.parametrize("tricks", [(SGD, DECAY), (DECAY, SGD)], ids=["sgd first", "decay first"])
def test_it_decays_the_rate_of_sgd_discriminator_in_either_order(tricks) -> None:
    host = TrickHost(steps=6, optimizer={"name": "adam", "lr": 0.02})
    for trick, options in tricks:
        host = host.with_trick(trick, **options)
    seen = rates(host)
    assert seen["d"] == pytest.approx([0.05 * 0.01 ** (step / 5) for step in range(6)], rel=1e-6)
    assert seen["g"] == pytest.approx([0.02 * 0.01 ** (step / 5) for step in range(6)], rel=1e-6)


def test_the_order_beside_sgd_discriminator_changes_no_bit() -> None:
    (a, of_a), (b, of_b) = SGD, DECAY
    one = TrickHost().with_trick(a, **of_a).with_trick(b, **of_b).train()
    other = TrickHost().with_trick(b, **of_b).with_trick(a, **of_a).train()
    assert not differences(one.state, other.state)


@pytest.mark.parametrize("tricks", [(SGD, DECAY), (DECAY, SGD)], ids=["sgd first", "decay first"])
def test_a_resumed_run_goes_on_at_the_same_rate(tricks) -> None:
    host = TrickHost()
    for trick, options in tricks:
        host = host.with_trick(trick, **options)
    whole, resumed = host.game(), host.game()
    for _ in range(4):
        whole.advance()
    state.load(resumed, snapshot(whole), state.counters(whole))
    for player in ("d", "g"):  # the log line of the resumed run shows the rate that was used last
        before, after = (game.players[player].optimizer.param_groups[0]["lr"] for game in (whole, resumed))
        assert float(before) == float(after)
    for game in (whole, resumed):
        game.advance()
    assert not differences(snapshot(whole), snapshot(resumed))


def test_the_rate_that_was_used_is_logged() -> None:
    played = TrickHost(steps=5, optimizer={"name": "adam", "lr": 0.02}).with_trick("lr_decay", gamma=0.1).train()
    for player in ("d", "g"):
        logged = [scalars[f"learning_rate/{player}"] for scalars in played.scalars]
        assert logged == pytest.approx([0.02 * 0.1 ** (step / 4) for step in range(5)], rel=1e-6)


def test_the_rate_is_one_tensor_for_the_whole_run() -> None:
    """What a captured step reads: a number in the optimizer, or a tensor made anew, would freeze there."""
    game = TrickHost().with_trick("lr_decay").game()
    held = {name: player.optimizer.param_groups[0]["lr"] for name, player in game.players.items()}
    pointers = {name: rate.data_ptr() for name, rate in held.items()}
    for _ in range(3):
        game.advance()
    for name, player in game.players.items():
        assert player.optimizer.param_groups[0]["lr"] is held[name]
        assert held[name].data_ptr() == pointers[name]
        assert any(held[name] is tensor for tensor in game.plan.tricks[0].trick.tensors().values())


def test_gamma_one_is_identity_in_float32_too() -> None:
    """Adam's own rate, 2e-4, is no float32 number: as a tensor it would be another one."""
    plain = TrickHost(precision="fp32", optimizer={"name": "adam", "lr": 2e-4})
    neutral = plain.with_trick("lr_decay", gamma=1.0).train()
    assert not differences(neutral.state, plain.train().state)
