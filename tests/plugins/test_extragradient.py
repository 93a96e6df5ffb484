"""Extragradient: where both gradients are taken, and from where the players move."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given

from gantricks import UserError
from gantricks.plugins.extragradient import moved
from gantricks.testing import CONDITIONAL, Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.instruments import Poison, Shut
from gantricks.testing.measure import ROLES, close
from gantricks.testing.record import differences, same_bits, snapshot

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({}, {}),
    "sgd": ({}, CONDITIONAL | {"optimizer": {"name": "sgd", "lr": 0.05}}),
}
REFUSED: dict[str, str] = {
    "n_critic_schedule": "one D step for each of G's",
    "network_swap": "other weights in a player's place",
    "optimistic": "both look ahead",
}

MISTAKES = {
    "G looks ahead against a D that has moved": Mistake(
        old="put_(d, d_old)",
        new="",
        caught_by="test_every_gradient_is_taken_where_the_method_says",
    ),
    "G learns from a D that has its new weights": Mistake(
        old="""
            put_(d, d_half)
            ctx.g_step(1)
        """,
        new="""
            put_(d, d_new)
            ctx.g_step(1)
        """,
        caught_by="test_every_gradient_is_taken_where_the_method_says",
    ),
    "the players go on from where they looked": Mistake(
        old="torch._foreach_add(old, torch._foreach_sub(after, half))",
        new="after",
        caught_by=("trace_law", "test_the_move_is_that_of_the_trial_point"),
    ),
}


def trace_law(played: Played, name: str) -> None:
    """Each player has two phases in a step, and ends at its old weights plus the change of the second phase."""
    at_end = bool(played.calls.get("after_step"))
    order = [(phase.player, phase.critic) for phase in played.phases]
    assert len(order) == 4 * len(played.scalars), "a step has not four phases"
    assert [player for player, _ in order] == ["d", "g"] * (len(order) // 2)
    for player, role in ROLES.items():
        phases = played.steps_of(player)
        weights = [weight for weight, _ in getattr(played.game, role).named_parameters()]
        for trial, real in zip(phases[::2], phases[1::2], strict=True):
            after = next((p.before for p in phases if p.step == trial.step + 1), played.state[role])
            for weight in weights:
                assert torch.equal(real.before[weight], trial.after[weight]), f"{weight} is not at the trial point"
                if not at_end:
                    expected = trial.before[weight] + real.after[weight] - real.before[weight]
                    close(after[weight], expected, f"the move of {weight}")


@given(gs.tensors((3,)), gs.tensors((3,)), gs.tensors((3,)))
def test_the_move_is_that_of_the_trial_point(old, half, change):
    (found,) = moved([old], [half], [half + change])
    torch.testing.assert_close(found, old + change, rtol=1e-9, atol=1e-9)
    assert same_bits(moved([old], [half], [half])[0], old)


def host() -> TrickHost:
    return TrickHost().with_trick("extragradient")


def test_every_gradient_is_taken_where_the_method_says():
    """The weights of the other player in each phase, seen at its start."""
    game: Any = host().game()
    seen: list[dict[str, torch.Tensor]] = []

    def watched(play):
        def phase(*arguments):
            seen.append({r: next(getattr(game, r).parameters()).detach().clone() for r in ROLES.values()})
            play(*arguments)
            seen.append({r: next(getattr(game, r).parameters()).detach().clone() for r in ROLES.values()})

        return phase

    game.step.d_step, game.step.g_step = watched(game.step.d_step), watched(game.step.g_step)
    game.advance()
    d, g = ([state[role] for state in seen] for role in ("discriminator", "generator"))
    old_d, old_g, half_d, half_g = d[0], g[0], d[1], g[3]
    assert not torch.equal(old_d, half_d)
    assert not torch.equal(old_g, half_g)
    assert [torch.equal(d[i], old_d) for i in (2, 3)] == [True, True]
    assert torch.equal(g[2], old_g)
    for start in (4, 6):
        assert torch.equal(d[start], half_d)
        assert torch.equal(g[start], half_g)


@pytest.mark.parametrize("player", ["d", "g"])
def test_after_a_fault_the_players_have_their_old_weights(player):
    game = host().with_trick(Poison, "poison", at=2, player=player).game()
    game.advance()
    before = snapshot(game)
    game.advance()
    moves = [name for name in differences(before, snapshot(game)) if "optimizer" not in name]
    assert not moves


def test_behind_closed_gates_nobody_moves():
    game = host().with_trick(Shut, "shut", at=2).game()
    game.advance()
    before = snapshot(game)
    game.advance()
    assert not differences(before, snapshot(game))


def test_several_critic_steps_are_refused():
    with pytest.raises(UserError, match="write n_critic = 1"):
        host().but(n_critic=2).plan()
