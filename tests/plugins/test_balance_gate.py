"""Balance gate: what accuracy is, who is held by it, and for how long."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gantricks import AdversarialLoss, UserError
from gantricks.plugins.balance_gate import push_, share_fooled, share_told
from gantricks.testing import MIXING, Mistake, Played, Settings, TrickHost, measure
from gantricks.testing import strategies as gs
from gantricks.testing.measure import stays_behind_a_closed_gate
from gantricks.testing.record import differences, same_bits, snapshot

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({"discriminator": 0.9, "generator": 0.2, "window": 2}, {}),
    "mixing": ({"discriminator": 0.5, "generator": 1.0, "window": 1}, MIXING | {"n_critic": 2}),
}
REFUSED: dict[str, str] = {}

MISTAKES = {
    "accuracy is that of one batch": Mistake(
        old="recent.sum() / filled",
        new="value",
        caught_by="test_a_player_is_held_exactly_while_its_running_accuracy_is_above_the_limit",
    ),
    "the player that is behind is held": Mistake(
        old="mean <= limit + 1e-5",
        new="mean > limit",
        caught_by="test_a_player_is_held_exactly_while_its_running_accuracy_is_above_the_limit",
    ),
    "the player that is behind is held, and one at its limit too": Mistake(
        old="mean <= limit + 1e-5",
        new="mean >= limit + 1e-5",
        caught_by="trace_law",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """A player is updated where its accuracy, averaged over its last updates, is within its limit; else it stays."""
    config = played.trick(name).config
    for player, limit in (("d", config.discriminator), ("g", config.generator)):
        phases, calls = played.steps_of(player), played.of(name, f"{player}_gate")
        recent: list[float] = []
        for phase, call in zip(phases, calls, strict=True):
            fooled = float((phase.fake_out.logits > played.game.step.loss.undecided).double().mean())
            recent = [*recent, measure.share_told(played, phase) if player == "d" else fooled][-config.window :]
            open_before, open_after = float(call.arguments[0]), float(call.result)
            assert open_after == open_before * (statistics.fmean(recent) <= limit + 1e-9), f"{player} at {recent}"
            stays_behind_a_closed_gate(played, phase, may_move=open_after > 0)


VECTORS = TrickHost()
HOLDS_D = {"discriminator": 0.5, "generator": 1.0, "window": 1}
HOLDS_G = {"discriminator": 1.0, "generator": 0.0, "window": 1}


@given(gs.tensors((6, 1)), gs.tensors((9, 1)), st.sampled_from([0.0, 0.5]))
def test_accuracies_are_shares_of_right_and_of_fooled_judgements(real, fake, undecided):
    right = (np.mean(real.numpy() > undecided) + np.mean(fake.numpy() < undecided)) / 2
    assert float(share_told(real, fake, undecided)) == pytest.approx(right, abs=1e-6)
    assert float(share_fooled(fake, undecided)) == pytest.approx(np.mean(fake.numpy() > undecided), abs=1e-6)


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=30), st.integers(1, 8))
def test_the_running_mean_is_that_of_the_last_updates(values, window):
    recent, filled = torch.zeros(window), torch.zeros(())
    for number, value in enumerate(values, start=1):
        mean = push_(recent, filled, torch.tensor(value))
        assert float(mean) == pytest.approx(np.mean(values[max(0, number - window) : number]), abs=1e-6)


def host(**options) -> TrickHost:
    return VECTORS.but(steps=30, optimizer={"name": "adam", "lr": 0.03}).with_trick("balance_gate", **options)


@pytest.mark.parametrize("window", [1, 4])
def test_a_player_is_held_exactly_while_its_running_accuracy_is_above_the_limit(window):
    game = host(discriminator=0.7, generator=0.6, window=window).but(seed=1).game()
    values = {"d": [], "g": []}
    outcomes = {"d": set(), "g": set()}
    loss_d, loss_g = game.step.loss.d_loss, game.step.loss.g_loss

    class Seen(AdversarialLoss):
        def d_loss(self, real, fake, *labels_and_ctx):
            found = (np.mean(real.logits.detach().numpy() > 0) + np.mean(fake.logits.detach().numpy() < 0)) / 2
            values["d"].append(found)
            return loss_d(real, fake, *labels_and_ctx)

        def g_loss(self, real, fake, *labels_and_ctx):
            values["g"].append(np.mean(fake.logits.detach().numpy() > 0))
            return loss_g(real, fake, *labels_and_ctx)

    game.step.loss = Seen()
    for _ in range(30):
        before = snapshot(game)
        game.advance()
        after = snapshot(game)
        for player, role in (("d", "discriminator"), ("g", "generator")):
            changed = [n for n in differences(before, after) if n.startswith((f"{role}/", f"{role}_optimizer/"))]
            held = np.mean(values[player][-window:]) > {"d": 0.7, "g": 0.6}[player] + 1e-5
            assert bool(changed) != held
            outcomes[player].add(held)
    assert outcomes == {"d": {True, False}, "g": {True, False}}, "one of the cases did not come up"


@pytest.mark.parametrize(("options", "held", "other"), [(HOLDS_D, "d", "g"), (HOLDS_G, "g", "d")])
def test_losses_and_gradients_of_a_held_player_are_there_all_the_same(options, held, other):
    played = host(**options).train(20)
    plain = VECTORS.but(steps=30, optimizer={"name": "adam", "lr": 0.03}).train(1)
    assert {name for name in played.scalars[0] if not name.startswith("balance_gate/")} == set(plain.scalars[0])
    assert played.scalars[0][f"loss/{held}"] == plain.scalars[0][f"loss/{held}"]
    open_ = {player: [s[f"balance_gate/open_{player}"] for s in played.scalars] for player in "dg"}
    assert set(open_[other]) == {1.0}
    assert 0.0 in open_[held]


@pytest.mark.parametrize("player", ["d", "g"])
def test_the_optimizer_of_a_held_player_counts_no_step(player):
    game = host(**(HOLDS_D if player == "d" else HOLDS_G)).game()
    held = 0
    for _ in range(20):
        game.advance()
        held += game.scalars()[0][f"balance_gate/open_{player}"] == 0
        counts = {float(state["step"]) for state in game.players[player].optimizer.state.values()}
        assert counts == {game.finished - held}
    assert held > 0


def test_an_average_of_g_does_not_move_while_g_is_held():
    game = VECTORS.with_trick("ema", decay=0.5).with_trick("balance_gate", **HOLDS_G).game()
    held = 0
    for _ in range(8):
        shadow = [t.clone() for t in game.plan.tricks[0].trick.tensors().values()]
        game.advance()
        if game.scalars()[0]["balance_gate/open_g"] == 0:
            held += 1
            now = game.plan.tricks[0].trick.tensors().values()
            assert all(same_bits(a, b) for a, b in zip(shadow, now, strict=True))
    assert held > 0


def test_accuracy_is_read_where_the_objective_is_undecided():
    """Least squares decides at ½: with outputs of 0.2 and 0.3, D takes everything for fake."""
    game = VECTORS.with_trick("least_squares").with_trick("balance_gate", window=1).game()
    with torch.no_grad():
        game.discriminator.head.weight.zero_()
        game.discriminator.head.bias.fill_(0.2)
    game.advance()
    scalars = game.scalars()[0]
    assert scalars["balance_gate/accuracy_d"] == 0.5
    assert scalars["balance_gate/accuracy_g"] == 0.0


@given(st.floats(0, 1), st.floats(0, 1))
def test_limits_that_could_hold_both_for_good_are_refused(discriminator, generator):
    """Of the same n scores D tells (r + n - g)/2 of n and G fools g of n: both above is possible with r = n."""
    just_above = np.nextafter(generator, 2)
    possible = any(1 - fooled / 2 > discriminator and generator < fooled <= 1 for fooled in (just_above, 1.0))
    trick = VECTORS.with_trick("balance_gate", discriminator=discriminator, generator=generator)
    if possible and discriminator + generator / 2 < 1 - 1e-9:
        with pytest.raises(UserError, match="both players can be held at once"):
            trick.plan()
    elif not possible:
        trick.plan()


@pytest.mark.parametrize(("discriminator", "generator"), [(0.0, 1.0), (1.0, 0.0)])
def test_a_limit_of_one_holds_nobody_and_lets_the_other_be_any(discriminator, generator):
    VECTORS.with_trick("balance_gate", discriminator=discriminator, generator=generator).plan()


def test_an_accuracy_at_the_limit_is_not_above_it():
    """9 of 10 right in each of 50 updates is 0.9, whatever a sum of floats makes of it."""
    game = VECTORS.with_trick("balance_gate", window=50).game()
    trick, ctx = game.plan.tricks[0].trick, game.contexts["balance_gate"]
    for _ in range(60):
        assert trick._opened("d", torch.tensor(0.9), ctx.value(0.9)) == 1
    assert trick._opened("d", torch.tensor(1.0), ctx.value(0.9)) == 0
