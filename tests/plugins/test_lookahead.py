"""Lookahead: when both players are put back, and to where."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gantricks import Trick, UserError, hookimpl
from gantricks.engine import state
from gantricks.plugins.lookahead import synchronise_
from gantricks.testing import CONDITIONAL, Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.instruments import Poison
from gantricks.testing.measure import ROLES, close
from gantricks.testing.record import differences, same_bits, snapshot

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({"every": 2, "alpha": 0.3}, {}),
    "conditional": ({"every": 3}, CONDITIONAL | {"n_critic": 2}),
}
REFUSED: dict[str, str] = {"network_swap": "averaged with its slow weights"}

MISTAKES = {
    "only G is put back": Mistake(
        old='networks = {**ctx.learners("d"), **ctx.learners("g")}',
        new='networks = {**ctx.learners("g")}',
        caught_by=("trace_law", "test_both_players_are_put_back_at_once"),
    ),
    "the slow weights move, and the players stay": Mistake(
        old="torch._foreach_lerp_(fast, slow, [due] * len(slow))",
        new="",
        caught_by=("trace_law", "test_where_it_is_due_both_are_the_point_between"),
    ),
    "alpha is the share of the slow weights": Mistake(
        old="alpha * due",
        new="(1 - alpha) * due",
        caught_by=("trace_law", "test_where_it_is_due_both_are_the_point_between"),
    ),
    "the slow weights are an average of every step": Mistake(
        old="torch._foreach_lerp_(slow, fast, [alpha * due] * len(slow))",
        new="torch._foreach_lerp_(slow, fast, [torch.full_like(due, alpha)] * len(slow))",
        caught_by=("trace_law", "test_where_it_is_not_due_nothing_moves"),
    ),
    "the first synchronisation comes a step early": Mistake(
        old="self.since == self.config.every",
        new="self.since == self.config.every - 1",
        caught_by="trace_law",
    ),
    "batch norm's statistics are averaged": Mistake(
        old="net.named_parameters()",
        new="[(n, t) for n, t in net.state_dict(keep_vars=True).items() if t.is_floating_point()]",
        caught_by="test_buffers_and_optimizers_stay_as_they_are",
    ),
    "it goes on after a fault": Mistake(
        old="""
            self.since.add_(ctx.healthy)
            due = (self.since == self.config.every) * ctx.healthy
        """,
        new="""
            self.since.add_(1)
            due = (self.since == self.config.every) * torch.ones_like(self.since)
        """,
        caught_by=("fault", "test_after_a_fault_nobody_is_put_back"),
    ),
}


def trace_law(played: Played, name: str) -> None:
    """After every k-th step φ ← φ + alpha (θ - φ), and θ is φ in the next step; between them θ goes on as it is."""
    config, kept = played.trick(name).config, played.state["tricks"]
    for player, role in ROLES.items():
        phases, weights = played.steps_of(player), [w for w, _ in getattr(played.game, role).named_parameters()]
        steps = [[phase for phase in phases if phase.step == step] for step in range(len(played.scalars))]
        slow = {weight: played.start[role][weight] for weight in weights}
        at_ends = not played.calls.get("play")  # else the weights may move after the last phase
        for number, within in enumerate(steps, start=1):
            due = number % config.every == 0
            before_next = steps[number][0].before if number < len(steps) else played.state[role]
            for weight in weights:
                last = within[-1].after[weight]
                if due and at_ends:
                    slow[weight] = slow[weight] + config.alpha * (last - slow[weight])
                elif due:
                    slow[weight] = before_next[weight]
                if due or at_ends:
                    close(before_next[weight], slow[weight] if due else last, f"{weight} after step {number}")
        for weight, expected in slow.items():
            close(kept[f"{name}/{player}.slow.{weight}"], expected, f"the slow {weight}")


alphas = st.floats(0.0, 1.0)
IMAGES = {"sample": (1, 8, 8), "discriminator": {"batch_norm": True, "depth": 2}}


def host(**options) -> TrickHost:
    return TrickHost(**IMAGES).with_trick("lookahead", **options)


# ---------------------------------------------------------------- the formula


@given(gs.tensors((2, 3)), gs.tensors((2, 3)), alphas)
def test_where_it_is_due_both_are_the_point_between(slow, fast, alpha):
    φ, θ = [slow.clone()], [fast.clone()]
    synchronise_(φ, θ, alpha, torch.ones(()))
    expected = (1 - alpha) * slow.numpy() + alpha * fast.numpy()
    scale = max(1.0, float(slow.abs().max()), float(fast.abs().max()))
    np.testing.assert_allclose(φ[0].numpy(), expected, rtol=0, atol=1e-14 * scale)
    assert torch.equal(θ[0], φ[0])


@given(gs.tensors((2, 3)), gs.tensors((2, 3)), alphas)
def test_where_it_is_not_due_nothing_moves(slow, fast, alpha):
    φ, θ = [slow.clone()], [fast.clone()]
    synchronise_(φ, θ, alpha, torch.zeros(()))
    assert same_bits(φ[0], slow)
    assert same_bits(θ[0], fast)


# ---------------------------------------------------------------- in a run


def test_until_the_first_synchronisation_the_run_is_a_plain_one():
    plain = TrickHost(**IMAGES)
    for steps, same in ((3, True), (4, False)):
        changed = differences(plain.train(steps).state, host(every=4).train(steps).state, besides=("tricks",))
        assert (not changed) == same


def test_both_players_are_put_back_at_once():
    before, after = (snapshot(host(every=3, alpha=alpha).train(3).game) for alpha in (1.0, 0.5))
    start = snapshot(host().game())
    for role in ROLES.values():
        for weight, _ in getattr(host().game(), role).named_parameters():
            halfway = (start[role][weight] + before[role][weight]) / 2
            torch.testing.assert_close(after[role][weight], halfway, rtol=1e-12, atol=1e-14)


def test_buffers_and_optimizers_stay_as_they_are():
    plain, put_back = TrickHost(**IMAGES).train(2), host(every=2).train(2)
    weights = {f"{role}/{w}" for role in ROLES.values() for w, _ in getattr(plain.game, role).named_parameters()}
    assert set(differences(plain.state, put_back.state, besides=("tricks",))) <= weights
    assert [*plain.game.discriminator.buffers()]


def test_after_a_fault_nobody_is_put_back():
    game = host(every=3).with_trick(Poison, "poison", at=3).game()
    for _ in range(2):
        game.advance()
    before = snapshot(game)
    for _ in range(3):
        game.advance()
    assert not differences(before, snapshot(game))


def test_a_resumed_run_is_put_back_in_the_same_steps():
    whole, first = host(every=3).train(6), host(every=3).train(2)
    resumed = host(every=3).game()
    state.load(resumed, snapshot(first.game), state.counters(first.game))
    while resumed.finished < 6:
        resumed.advance()
    assert not differences(whole.state, snapshot(resumed))


def test_weights_that_join_later_start_from_where_they_rested():
    grown = {"sample": (1, 16, 16), "generator": {"depth": 2}, "discriminator": {"depth": 2}, "steps": 12}
    played = TrickHost(**grown).with_trick("grow", until=0.5).with_trick("lookahead", every=3, alpha=0.5).train()
    trace_law(played, "lookahead")
    assert played.game.non_finite() is None


class Shut(Trick):
    @hookimpl
    def d_gate(self, open):
        return open * 0


def test_a_player_behind_a_closed_gate_stays():
    played = host(every=2).with_trick(Shut, "shut").train(4)
    for weight, _ in played.game.discriminator.named_parameters():
        assert same_bits(played.state["discriminator"][weight], played.start["discriminator"][weight])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_at_alpha_1_no_bit_changes(precision):
    plain = TrickHost(**IMAGES, precision=precision)
    neutral = plain.with_trick("lookahead", every=2, alpha=1.0)
    assert not differences(plain.train().state, neutral.train().state, besides=("tricks",))


@pytest.mark.parametrize("options", [{"every": 0}, {"alpha": 0.0}, {"alpha": 1.5}, {"alpha": float("nan")}])
def test_settings_that_cannot_work_are_refused(options):
    with pytest.raises(UserError):
        TrickHost().with_trick("lookahead", **options).plan()
