"""Network swap: who steps in when, that nobody learns who is away, and that the present returns as it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gantricks import Trick, UserError, hookimpl
from gantricks.engine import sampling, state
from gantricks.engine.capture import INTERPRETER, Capturing
from gantricks.engine.dispatch import fold
from gantricks.engine.game import Game
from gantricks.plugins.network_swap import due
from gantricks.testing import CONDITIONAL, Mistake, Played, Settings, TrickHost, measure
from gantricks.testing.measure import stays_behind_a_closed_gate
from gantricks.testing.record import differences, same_bits, snapshot

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({"keep_every": 1, "capacity": 2, "swap_every": 2, "length": 1}, {}),
    "conditional": ({"keep_every": 2, "swap_every": 3, "length": 2}, CONDITIONAL | {"n_critic": 2}),
}
REFUSED: dict[str, str] = {
    "grow": "network_swap does not go with grow",
}

MISTAKES = {
    "the past player goes on learning": Mistake(
        old='open * (1 - self.away["g"])',
        new="open",
        caught_by=("test_the_past_player_is_a_kept_state_is_not_updated_and_the_present_returns", "trace_law"),
    ),
    "the present player is lost": Mistake(
        old="copy_(self.live[player], self.present[player])",
        new="",
        caught_by="test_the_past_player_is_a_kept_state_is_not_updated_and_the_present_returns",
    ),
    "samples are drawn from the past": Mistake(
        old="copy_([*present.state_dict().values()], self.present[player])",
        new="pass",
        caught_by="test_samples_are_of_the_present_g_while_it_is_away",
    ),
    "the present player never returns": Mistake(
        old="copy_(self.live[player], self.present[player])",
        new="pass",
        caught_by="trace_law",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """In a swap a player has the weights of a kept past state and keeps them; then its present ones come back."""
    config, steps = played.trick(name).config, len(played.steps_of("g"))
    away: dict[int, str] = {}
    for swap in range(1, steps):
        start, player = swap * config.swap_every, "dg"[(swap - 1) % 2]
        if start > config.keep_every:  # there is a state to go back to
            away |= dict.fromkeys(range(start, start + config.length), player)
    assert set(range(steps)) & away.keys(), "no swap"
    for player, role in measure.ROLES.items():
        weights = [weight for weight, _ in getattr(played.game, role).named_parameters()]

        def only(tensors: Mapping[str, Tensor], weights: list[str] = weights) -> list[Tensor]:
            return [tensors[weight] for weight in weights]

        present, kept = only(played.start[role]), []
        for step in range(steps):
            phases = [phase for phase in played.steps_of(player) if phase.step == step]
            playing, is_away = only(phases[0].before), away.get(step) == player
            candidates = kept if is_away else [present]
            assert any(all(map(torch.equal, playing, state)) for state in candidates), f"{player} in step {step}"
            if step and step % config.keep_every == 0:
                kept = [*kept, present][-config.capacity :]
            if not is_away:
                present = only(phases[-1].after)
            for phase in phases:
                stays_behind_a_closed_gate(played, phase, may_move=not is_away)
        for call in played.of(name, f"{player}_gate"):
            assert call.result == call.arguments[0] * (away.get(call.step) != player)


OPTIONS = {"keep_every": 2, "capacity": 3, "swap_every": 5, "length": 2}
HOST = TrickHost(steps=40, sample=(1, 8, 8), generator={"batch_norm": True}, discriminator={"batch_norm": False})
ROLES = {"d": "discriminator", "g": "generator"}


def of(player: str, state: dict) -> dict[str, dict[str, torch.Tensor]]:
    """The player's weights, buffers and optimizer in a snapshot."""
    return {group: tensors for group, tensors in state.items() if group.startswith(ROLES[player])}


def steps(game: Game, count: int) -> Iterator[tuple[str | None, dict, dict]]:
    """Play; yields who was away in a step, and the states after its boundary and after it."""
    trick = game.plan.tricks[-1].trick
    for _ in range(count):
        game.clock.enter("boundary")
        for hook, ctx in game.hooks.on_boundary:
            hook(ctx)
        away = [player for player, flag in trick.away.items() if flag]
        assert len(away) <= 1, "both are away: nobody would learn"
        between = snapshot(game)
        game.step()
        game.move_to(game.finished + 1)
        yield (away[0] if away else None), between, snapshot(game)


@given(st.integers(0, 10_000), st.integers(2, 50), st.data())
def test_a_swap_begins_every_so_many_steps_and_lasts_its_length(step, every, data):
    length = data.draw(st.integers(1, every - 1))
    begins, ends, swaps = due(step, every, length)
    assert begins == (step in range(every, 20_000, every))
    assert ends == (step - length in range(every, 20_000, every))
    assert swaps == step // every
    assert not (begins and ends)


def test_players_are_swapped_in_turn_for_as_long_as_the_recipe_says():
    away = [who for who, _, _ in steps(HOST.with_trick("network_swap", **OPTIONS).game(), 27)]
    expected = [None] * 5 + ["d", "d", None, None, None, "g", "g", None, None, None] * 2 + ["d", "d"]
    assert away == expected[:27]


@pytest.mark.parametrize("optimizer", [{"name": "adam", "lr": 0.01}, {"name": "sgd", "lr": 0.01, "momentum": 0.9}])
def test_the_past_player_is_a_kept_state_is_not_updated_and_the_present_returns(optimizer):
    game = HOST.but(optimizer=optimizer).with_trick("network_swap", **OPTIONS).game()
    history: list[dict] = [snapshot(game)]
    present: dict = {}
    swaps = 0
    for number, (away, between, after) in enumerate(steps(game, 28)):
        if away and not present:
            swaps += 1
            present = {away: of(away, history[-1])}
            kept = range(max(0, (number - 1) // 2 - 2) * 2, number, 2)
            role = ROLES[away]
            matching = [s for s in kept if s and not differences({role: history[s][role]}, {role: between[role]})]
            assert matching, "what stepped in is none of the kept states"
            assert matching[0] in list(kept)[-3:]
        elif not away and present:
            ((player, then),) = present.items()
            assert not differences(then, of(player, between)), f"{player} did not return as it was"
            present = {}
        for player in ROLES:
            weights = {n for n, _ in getattr(game, ROLES[player]).named_parameters()}
            moved = [
                name
                for name in differences(of(player, between), of(player, after))
                if name.partition("/")[2] in weights or "_optimizer/" in name
            ]
            assert bool(moved) == (player != away), f"step {number}: {player} moved {moved[:3]} with {away} away"
        history.append(after)
    assert swaps == 5


def test_samples_are_of_the_present_g_while_it_is_away():
    game = HOST.with_trick("network_swap", **OPTIONS).game()
    plain = HOST.game()
    for away, between, _ in steps(game, 12):
        if away != "g":
            last = between["generator"]
            continue
        trick = game.plan.tricks[-1].trick
        sampled = sampling.sample(game, 5, seed=1)
        saved = snapshot(plain)
        present = dict(zip(trick.names["g"], trick.present["g"], strict=True))
        assert not all(same_bits(present[name], last[name]) for name in present), "G has learned since"
        state.load(plain, saved | {"generator": present}, state.counters(plain))
        assert same_bits(torch.from_numpy(sampled), torch.from_numpy(sampling.sample(plain, 5, seed=1)))
        return
    raise AssertionError("G was never away")


def test_an_average_of_g_does_not_take_in_the_past():
    game = HOST.with_trick("ema", decay=0.5).with_trick("network_swap", **OPTIONS).game()
    seen = set()
    for away, between, after in steps(game, 13):
        shadow = [name for name in differences(between, after) if name.startswith("tricks/ema/")]
        assert bool(shadow) == (away != "g")
        seen.add(away)
    assert seen == {None, "d", "g"}


def present_of(game: Game, trick, player: str) -> dict[str, torch.Tensor]:
    """The state of a player's own network, whoever plays."""
    live = getattr(game, ROLES[player]).state_dict()
    return dict(zip(trick.names[player], trick.present[player], strict=True)) if trick.away[player] else live


BOTH_NORMED = HOST.but(discriminator={"batch_norm": True, "depth": 2}, n_critic=2)


@pytest.mark.parametrize("swap_first", [True, False])
@pytest.mark.parametrize("backend", [None, INTERPRETER])
def test_averages_of_both_take_in_weights_and_statistics_of_the_present_players_alone(swap_first, backend):
    host = BOTH_NORMED.but(precision="fp32")
    host = host.with_trick("network_swap", **OPTIONS) if swap_first else host
    host = host.with_trick("ema", decay=0.5, players="all")
    game = (host if swap_first else host.with_trick("network_swap", **OPTIONS)).game()
    game.play = Capturing(game, backend)
    swap, ema = (
        next(planned.trick for planned in game.plan.tricks if planned.name == name) for name in ("network_swap", "ema")
    )
    seen = set()
    for _ in range(23):
        game.advance()
        for player, average in (("d", ema.averages["discriminator"]), ("g", ema.averages["generator"])):
            shadow, present = average.shadow.state_dict(), present_of(game, swap, player)
            buffers = [name for name, _ in average.shadow.named_buffers()]
            assert buffers
            away = bool(swap.away[player])
            assert all(same_bits(shadow[name], present[name]) for name in buffers), (player, away)
            live = getattr(game, ROLES[player]).state_dict()
            assert all(same_bits(shadow[name], live[name]) for name in buffers) != away
            seen.add((player, away))
        assert sampling.evaluated_discriminator(game) is ema.averages["discriminator"].shadow
    assert len(seen) == 4


def test_evaluation_asks_the_present_players_also_during_a_swap():
    game = BOTH_NORMED.with_trick("network_swap", **OPTIONS).game()
    trick, seen = game.plan.tricks[0].trick, set()
    for _ in range(13):
        game.advance()
        before = snapshot(game)
        with sampling.aside(game, 0):
            generator = fold(game.hooks.sampling_generator, game.generator)
        for player, asked in (("d", sampling.evaluated_discriminator(game)), ("g", generator)):
            state, present = asked.state_dict(), present_of(game, trick, player)
            assert all(same_bits(state[name], present[name]) for name in present)
            assert (asked is getattr(game, ROLES[player])) == (not trick.away[player])
            seen.add((player, bool(trick.away[player])))
        assert not differences(before, snapshot(game))
    assert len(seen) == 4


class GeneratorFirst(Trick):
    """G's step, then D's."""

    @hookimpl
    def play(self, ctx) -> None:
        ctx.g_step()
        ctx.d_step(0)


def test_averages_follow_the_present_players_whatever_the_order_of_the_phases():
    host = BOTH_NORMED.but(n_critic=1, reuse_fakes=False).with_trick("separate_batches")
    host = host.with_trick("network_swap", **OPTIONS)
    game = host.with_trick("ema", decay=0.5, players=["discriminator"]).with_trick(GeneratorFirst).game()
    swap, ema = (planned.trick for planned in game.plan.tricks[1:3])
    seen = set()
    for _ in range(23):
        game.advance()
        shadow, present = ema.averages["discriminator"].shadow.state_dict(), present_of(game, swap, "d")
        assert all(same_bits(shadow[n], present[n]) for n, _ in ema.averages["discriminator"].shadow.named_buffers())
        seen.add(bool(swap.away["d"]))
    assert len(seen) == 2


def test_without_a_kept_state_nothing_is_swapped():
    game = HOST.with_trick("network_swap", keep_every=30, swap_every=5, length=2).game()
    assert {away for away, _, _ in steps(game, 12)} == {None}


def test_a_run_resumed_during_a_swap_goes_on_with_it():
    host = HOST.with_trick("network_swap", **OPTIONS)
    whole = host.game()
    for _ in range(6):
        whole.advance()
    assert whole.plan.tricks[0].trick.away["d"] == 1
    resumed = host.game()
    state.load(resumed, snapshot(whole), state.counters(whole))
    for _ in range(8):
        whole.advance()
        resumed.advance()
    assert not differences(snapshot(whole), snapshot(resumed))


def test_a_boundary_played_twice_swaps_once():
    """The state that a fault leaves is taken up at the boundary before it."""
    game = HOST.with_trick("network_swap", **OPTIONS).game()
    for _ in range(5):
        game.advance()
    for _ in range(2):
        game.clock.enter("boundary")
        for hook, ctx in game.hooks.on_boundary:
            hook(ctx)
    once = HOST.with_trick("network_swap", **OPTIONS).game()
    for _ in range(5):
        once.advance()
    once.clock.enter("boundary")
    for hook, ctx in once.hooks.on_boundary:
        hook(ctx)
    assert not differences(snapshot(game), snapshot(once))


def test_swaps_that_never_end_are_refused():
    with pytest.raises(UserError, match="leave no step with both present; write a length below 5"):
        HOST.with_trick("network_swap", swap_every=5, length=5).plan()


def test_beside_growing_it_is_refused():
    host = TrickHost(sample=(1, 8, 8), discriminator={"depth": 2}, generator={"depth": 2})
    with pytest.raises(UserError, match="a past state of a smaller network is no state of the grown one"):
        host.with_trick("grow").with_trick("network_swap").plan()
