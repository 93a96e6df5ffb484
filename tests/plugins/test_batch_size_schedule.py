"""Laws of the batch-size schedule: the size of each step's batches, and that no sample is lost or doubled by it."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gantricks import Trick, TrickError, UserError, hookimpl
from gantricks.engine import state
from gantricks.plugins.batch_size_schedule import BatchSizeSchedule, batch_size_at
from gantricks.testing import MIXING, Mistake, Played, Settings, TrickHost
from gantricks.testing.measure import progress
from gantricks.testing.record import differences, snapshot

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({"start": 4, "end": 8, "at": 0.4}, {}),
    "mixing": ({"start": 4, "end": 6}, MIXING | {"reuse_fakes": False}),
}
REFUSED: dict[str, str] = {}

MISTAKES = {
    "the batch grows at half of its time": Mistake(
        old="start if progress < at else end",
        new="start if progress < at / 2 else end",
        caught_by="trace_law",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """Every batch of a step holds as many samples as the schedule says."""
    config = played.trick(name).config
    for phase in played.phases:
        size = config.start if progress(played, phase.step) < config.at else config.end
        assert phase.fake.size == phase.real.size == size, f"{phase.fake.size} fakes and {phase.real.size} reals"
    assert {phase.real.size for phase in played.phases} == {config.start, config.end}


class Seen(Trick):
    """Shows the batches that D is given."""

    @hookimpl
    def d_input(self, batch, is_real, ctx):
        return batch


def shown(host: TrickHost) -> tuple[list[torch.Tensor], list[int]]:
    """The real batches of a run, and the sizes of the fake ones in D's and G's steps."""
    calls = [call.arguments for call in host.with_trick(Seen).train().calls["d_input"] if call.trick == "seen"]
    return [b.images for b, is_real in calls if is_real], [b.size for b, is_real in calls if not is_real]


@given(st.integers(2, 99), st.integers(2, 99), st.floats(0, 1), st.floats(0, 1))
def test_it_is_the_start_before_the_change_and_the_end_from_it_on(start, end, at, progress):
    assert batch_size_at(progress, start, end, at) == (end if progress >= at else start)


@pytest.mark.parametrize("reuse_fakes", [True, False])
@given(st.integers(2, 9), st.integers(2, 9), st.sampled_from([0, 0.25, 0.5, 1]))
@settings(max_examples=8)
def test_each_steps_batches_have_exactly_the_scheduled_size_reals_and_fakes_alike(reuse_fakes, start, end, at):
    host = TrickHost(steps=5, n_critic=2, reuse_fakes=reuse_fakes)
    real, fake = shown(host.with_trick("batch_size_schedule", start=start, end=end, at=at))
    expected = [end if Fraction(step, 4) >= Fraction(at) else start for step in range(5)]
    assert [len(images) for images in real] == [size for size in expected for _ in range(2)]
    assert fake == [size for size in expected for _ in range(3)]


@given(st.integers(2, 9), st.integers(2, 9), st.floats(0, 1))
@settings(max_examples=15)
def test_every_sample_comes_once_per_epoch_across_the_change(start, end, at):
    host = TrickHost(count=11, steps=8)
    real, _ = shown(host.with_trick("batch_size_schedule", start=start, end=end, at=at))
    stream = torch.cat(real)
    for epoch in stream.split(11):
        assert len(torch.unique(epoch, dim=0)) == len(epoch)
    # the order itself is that of any other batch size
    plain, _ = shown(host.but(batch_size=9))
    both = min(len(stream), 8 * 9)
    assert torch.equal(stream[:both], torch.cat(plain)[:both])


def test_a_constant_schedule_is_the_recipes_own_batch_size_bit_for_bit():
    plain = TrickHost(batch_size=6).train()
    scheduled = TrickHost(batch_size=3).with_trick("batch_size_schedule", start=6, end=6).train()
    assert not differences(plain.state, scheduled.state)


@pytest.mark.parametrize("step", range(1, 8))
def test_a_run_resumed_at_any_step_goes_on_with_the_same_size(step):
    host = TrickHost().with_trick("batch_size_schedule", start=4, end=8, at=0.5)
    whole, resumed = host.game(), host.game()
    for _ in range(step):
        whole.advance()
    state.load(resumed, snapshot(whole), state.counters(whole))
    assert resumed.feed.batch_size == whole.feed.batch_size == (4 if step <= 4 else 8)
    while whole.finished < host.steps:
        whole.advance()
        resumed.advance()
    assert not differences(snapshot(whole), snapshot(resumed))
    assert whole.feed.cursor == resumed.feed.cursor == 4 * 4 + 4 * 8


@pytest.mark.parametrize("option", ["start", "end"])
def test_a_batch_larger_than_the_data_is_refused_before_the_run(option):
    sizes = {"start": 4, "end": 4} | {option: 12}
    with pytest.raises(UserError, match=f"{option} = 12 and the data holds 11 samples"):
        TrickHost(count=11).with_trick("batch_size_schedule", **sizes).plan()
    TrickHost(count=12).with_trick("batch_size_schedule", **sizes).plan()


@pytest.mark.parametrize("hook", ["before_d_step", "after_g_step"])
def test_setting_it_inside_the_step_is_an_error(hook):
    class Meddler(Trick):
        """Sets the batch size where it must not."""

    def meddle(self, ctx):
        ctx.set_batch_size(2)

    meddle.__name__ = hook
    setattr(Meddler, hook, hookimpl(meddle))
    with pytest.raises(TrickError, match=r"meddler: ctx\.set_batch_size .* on_boundary"):
        TrickHost().with_trick(Meddler).train(1)


@pytest.mark.parametrize("size", [0, -1, 41])
def test_a_size_that_the_data_cannot_fill_is_an_error(size):
    game = TrickHost(count=40).with_trick("batch_size_schedule", start=4, end=8).game()
    with pytest.raises(TrickError, match="1 to 40 samples"):
        game.contexts["batch_size_schedule"].set_batch_size(size)


def test_a_batch_may_hold_all_of_the_data():
    host = TrickHost(count=12).with_trick("batch_size_schedule", start=12, end=12)
    assert host.train(2).game.feed.cursor == 24


@pytest.mark.parametrize("size", [0, 100_000])
def test_sizes_out_of_range_are_refused(size):
    with pytest.raises(ValidationError):
        BatchSizeSchedule.Config(start=size)
