"""Laws of the critic schedule: how many D steps each step takes, and that nothing else is moved by it."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gantricks import Trick, TrickError, hookimpl
from gantricks.engine import state
from gantricks.plugins.n_critic_schedule import NCriticSchedule, critic_steps
from gantricks.testing import CONDITIONAL, Mistake, Played, Settings, TrickHost
from gantricks.testing.measure import progress
from gantricks.testing.record import differences, snapshot

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({"start": 3, "end": 1, "at": 0.4}, {}),
    "conditional": ({"start": 1, "end": 2, "at": 0.5}, CONDITIONAL | {"reuse_fakes": False}),
}
REFUSED: dict[str, str] = {}

MISTAKES = {
    "the number of D steps never changes": Mistake(
        old="start if progress < at else end",
        new="start if progress <= 1 else end",
        caught_by="trace_law",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """Each step has as many D steps as the schedule says, numbered one by one, and one G step after them."""
    config = played.trick(name).config
    order = [(phase.step, phase.player, phase.critic) for phase in played.phases]
    expected: list[tuple[int, str, int]] = []
    for step in range(len(played.steps_of("g"))):
        count = config.start if progress(played, step) < config.at else config.end
        expected += [*((step, "d", critic) for critic in range(count)), (step, "g", 0)]
    assert order == expected


def counted(host: TrickHost) -> list[int]:
    """The number of D steps in each step of a run."""
    game, calls = host.game(), []
    for player in ("d_step", "g_step"):
        plain = getattr(game.step, player)
        setattr(game.step, player, lambda *a, plain=plain, player=player, **k: (calls.append(player), plain(*a, **k)))
    counts = []
    for _ in range(host.steps):
        calls.clear()
        game.advance()
        assert calls[-1] == "g_step"
        assert calls.count("g_step") == 1
        counts.append(calls.count("d_step"))
    return counts


@given(st.integers(1, 50), st.integers(1, 50), st.floats(0, 1), st.floats(0, 1))
def test_it_is_the_start_before_the_change_and_the_end_from_it_on(start, end, at, progress):
    assert critic_steps(progress, start, end, at) == (end if progress >= at else start)


@given(st.integers(1, 4), st.integers(1, 4), st.sampled_from([0, 0.25, 0.5, 0.8, 1]), st.integers(2, 6))
@settings(max_examples=15)
def test_each_step_takes_exactly_the_scheduled_number_of_d_steps(start, end, at, steps):
    host = TrickHost(steps=steps).with_trick("n_critic_schedule", start=start, end=end, at=at)
    expected = [end if Fraction(step, steps - 1) >= Fraction(str(at)) else start for step in range(steps)]
    assert counted(host) == expected


@pytest.mark.parametrize("n", [1, 3])
def test_a_constant_schedule_is_the_recipes_own_n_critic_bit_for_bit(n):
    plain = TrickHost(n_critic=n).train()
    scheduled = TrickHost(n_critic=2).with_trick("n_critic_schedule", start=n, end=n).train()
    assert not differences(plain.state, scheduled.state)
    assert plain.game.feed.cursor == scheduled.game.feed.cursor


def test_fakes_are_shared_with_the_last_d_step_whatever_their_number():
    host = TrickHost(sample=(1, 8, 8)).with_trick("n_critic_schedule", start=3, end=1, at=0.5)
    game, passes = host.game(), []
    game.generator.register_forward_hook(lambda *_: passes.append(game.finished))
    for _ in range(host.steps):
        game.advance()
    assert [passes.count(step) for step in range(8)] == [3, 3, 3, 3, 1, 1, 1, 1]


@pytest.mark.parametrize("step", range(1, 8))
def test_a_run_resumed_at_any_step_goes_on_with_the_same_number(step):
    host = TrickHost().with_trick("n_critic_schedule", start=3, end=1, at=0.5)
    whole, resumed = host.game(), host.game()
    for _ in range(step):
        whole.advance()
    state.load(resumed, snapshot(whole), state.counters(whole))
    assert resumed.step.n_critic == whole.step.n_critic == (3 if step <= 4 else 1)
    while whole.finished < host.steps:
        whole.advance()
        resumed.advance()
    assert not differences(snapshot(whole), snapshot(resumed))
    assert whole.feed.cursor == resumed.feed.cursor == 8 * (4 * 3 + 4)


@pytest.mark.parametrize("hook", ["before_d_step", "after_g_step"])
def test_setting_it_inside_the_step_is_an_error(hook):
    class Meddler(Trick):
        """Sets the number of D steps where it must not."""

    def meddle(self, ctx):
        ctx.set_n_critic(2)

    meddle.__name__ = hook
    setattr(Meddler, hook, hookimpl(meddle))
    with pytest.raises(TrickError, match=r"meddler: ctx\.set_n_critic .* on_boundary"):
        TrickHost().with_trick(Meddler).train(1)


@pytest.mark.parametrize("n", [0, -1])
def test_a_step_without_d_steps_is_refused(n):
    with pytest.raises(ValidationError):
        NCriticSchedule.Config(start=n)
    with pytest.raises(TrickError, match="at least 1 D step"):
        TrickHost().with_trick(NCriticSchedule).game().contexts["n_critic_schedule"].set_n_critic(n)
