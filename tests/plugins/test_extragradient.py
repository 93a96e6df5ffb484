"""Extragradient: where both gradients are taken, and from where the players move."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gantricks import UserError
from gantricks.testing import CONDITIONAL, Mistake, Played, Settings, TrickHost
from gantricks.testing.instruments import Accompanied, Poison, Shut
from gantricks.testing.measure import ROLES, close
from gantricks.testing.record import differences, snapshot

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
            ctx.g_step(1, start=g_old)
        """,
        new="""
            ctx.g_step(1, start=g_old)
        """,
        caught_by="test_every_gradient_is_taken_where_the_method_says",
    ),
    "the players go on from where they looked": Mistake(
        old="ctx.g_step(1, start=g_old)",
        new="ctx.g_step(1)",
        caught_by="trace_law",
    ),
    "those that follow a player see where it has looked": Mistake(
        old="ctx.g_step(0, trial=True)",
        new="ctx.g_step(0)",
        caught_by="test_an_average_takes_in_the_new_weights_alone",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """Each player has two phases in a step. The second is at the trial point, and is applied to the old weights."""
    at_end = bool(played.calls.get("after_step"))
    order = [(phase.player, phase.critic) for phase in played.phases]
    assert len(order) == 4 * len(played.scalars), "a step has not four phases"
    assert [player for player, _ in order] == ["d", "g"] * (len(order) // 2)
    plain = played.game.plan.recipe.generator.keys.optimizer.name == "sgd" and len(played.game.plan.tricks) == 1
    for player, role in ROLES.items():
        phases = played.steps_of(player)
        weights = [weight for weight, _ in getattr(played.game, role).named_parameters()]
        for trial, real in zip(phases[::2], phases[1::2], strict=True):
            after = next((p.before for p in phases if p.step == trial.step + 1), played.state[role])
            for weight in weights:
                assert torch.equal(real.before[weight], trial.after[weight]), f"{weight} is not at the trial point"
                assert torch.equal(real.origin[weight], trial.before[weight]), f"{weight} moves from elsewhere"
                if not at_end:
                    assert torch.equal(after[weight], real.after[weight]), f"{weight} has not its new value"
                if not real.updated:
                    assert torch.equal(real.after[weight], trial.before[weight]), f"{weight} is not at its old value"
                if plain:
                    rate = played.scalars[real.step][f"learning_rate/{player}"]
                    expected = trial.before[weight] - rate * real.gradients[weight]
                    close(real.after[weight], expected, f"the move of {weight}")


def host() -> TrickHost:
    return TrickHost().with_trick("extragradient")


def test_every_gradient_is_taken_where_the_method_says():
    """The weights of the other player in each phase, seen at its start."""
    game: Any = host().game()
    seen: list[dict[str, torch.Tensor]] = []

    def watched(play):
        def phase(*arguments, **named):
            seen.append({r: next(getattr(game, r).parameters()).detach().clone() for r in ROLES.values()})
            play(*arguments, **named)
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


def test_an_average_takes_in_the_new_weights_alone():
    game = host().with_trick("ema", decay=0.5, warmup=False, players="all").game()
    expected = {role: [p.detach().clone() for p in getattr(game, role).parameters()] for role in ROLES.values()}
    for _ in range(3):
        game.advance()
        for role, averages in expected.items():
            present = getattr(game, role).parameters()
            expected[role] = [(a + p.detach()) / 2 for a, p in zip(averages, present, strict=True)]
    average = game.plan.tricks[-1].trick.averages
    for role, averages in expected.items():
        for found, wanted in zip(average[role].shadow.parameters(), averages, strict=True):
            close(found, wanted, f"the average of the {role}")


def test_companions_look_ahead_with_their_players():
    game = TrickHost().with_trick(Accompanied, "beside").with_trick("extragradient").game()
    before, seen = snapshot(game), []
    play = game.step.d_step
    game.step.d_step = lambda *a, **k: (seen.append(snapshot(game)), play(*a, **k))[1]
    game.advance()
    moved = {n.partition("/")[0] for n in differences(before, snapshot(game)) if "optimizer" not in n}
    assert {"beside.judge", "beside.encoder", "discriminator", "generator"} <= moved
    half = {n for n in differences(before, seen[1]) if n.startswith("beside.") and "optimizer" not in n}
    assert {n.partition("/")[0] for n in half} == {"beside.judge", "beside.encoder"}


def test_several_critic_steps_are_refused():
    with pytest.raises(UserError, match="write n_critic = 1"):
        host().but(n_critic=2).plan()
