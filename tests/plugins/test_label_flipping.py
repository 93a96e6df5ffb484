"""Label flipping: the assigned class flips, one by one or in bursts of exactly k steps, and only for D."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gantricks import AdversarialLoss, Batch, Out, Trick, UserError, hookimpl
from gantricks.planning.contract import hooks_of
from gantricks.plugins.label_flipping import LabelFlipping, accuracy, flip
from gantricks.testing import Mistake, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import g_targets_are_untouched, share_told, value_at, within_chance
from gantricks.testing.record import Played

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({"p": 0.3}, {}),
    "clock": ({"mode": "burst", "every": 3, "length": 1}, {"n_critic": 2}),
    "accuracy": (
        {"mode": "burst", "trigger": "accuracy", "threshold": 0.5, "window": 2, "length": 2},
        {"optimizer": {"name": "adam", "lr": 0.1}},
    ),
}
OVERRIDES = {"trigger": ["tricks.label_flipping.mode=burst"]}
REFUSED: dict[str, str] = {}

MISTAKES = {
    "the value flips, 1 - t, and soft targets leave their intervals": Mistake(
        old="""
            @hookimpl
            def d_assignment(self, is_real: Tensor, ctx: Context) -> Tensor:
                if self.config.mode == "burst":
                    return flip(is_real, self.left > 0)
                return flip(is_real, ctx.rng.bernoulli(is_real.shape, ctx.value(self.config.p)))
        """,
        new="""
            @hookimpl
            def d_labels(self, labels, ctx):
                flips = self.left > 0
                if self.config.mode == "per_image":
                    flips = ctx.rng.bernoulli(labels.shape, ctx.value(self.config.p))
                return torch.where(flips, 1 - labels, labels)
        """,
        caught_by="test_soft_labels.py::test_flipped_reals_get_targets_in_the_fake_interval_in_either_order",
    ),
    "only reals flip": Mistake(
        old="is_real ^ flips",
        new="is_real & ~flips",
        caught_by=("test_a_flip_calls_reals_fake_and_fakes_real", "trace_law"),
    ),
    "labels flip in the G step": Mistake(
        inside="LabelFlipping",
        new="""
            @hookimpl
            def g_labels(self, labels, ctx):
                flips = self.left > 0
                if self.config.mode == "per_image":
                    flips = ctx.rng.bernoulli(labels.shape, ctx.value(self.config.p))
                return torch.where(flips, 1 - labels, labels)
        """,
        caught_by="test_the_generators_targets_stay_one",
    ),
    "a burst lasts a step longer": Mistake(
        old="(left - 1).clamp(min=0) + length * due",
        new="(left - 1).clamp(min=0) + (length + 1) * due",
        caught_by="test_a_burst_lasts_exactly_its_length_and_the_window_fills_again_before_the_next",
    ),
    "D's accuracy is read on the host": Mistake(
        old="self.accuracies.mean()",
        new="self.accuracies.mean().item()",
        caught_by="no-sync",
    ),
    "one flip for the whole batch": Mistake(
        old="ctx.rng.bernoulli(is_real.shape, ctx.value(self.config.p))",
        new="ctx.rng.bernoulli(1, ctx.value(self.config.p))",
        caught_by="trace_law",
    ),
    "a burst begins after its period": Mistake(
        old="self.config.every - self.config.length",
        new="self.config.every",
        caught_by="trace_law[clock]",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """Each label flips with probability p, or all of D's flip for the steps of a burst; G's targets stay."""
    config = played.trick(name).config
    calls = played.of(name, "d_assignment")
    flips = [call.arguments[0] ^ call.result for call in calls]
    assert len(calls) == 2 * len(played.steps_of("d"))
    if config.mode == "per_image":
        given, flipped = torch.cat([call.arguments[0] for call in calls]), torch.cat(flips)
        p = torch.cat([torch.full(call.result.shape, value_at(played, config.p, call.step)) for call in calls])
        for called_real in (True, False):
            who = given == called_real
            within_chance(flipped[who], p[who], "flipped")
            assert flipped[who].any(), f"those {'not ' if not called_real else ''}called real never flip"
        assert any(each.any() and not each.all() for each in flips), "labels flip together"
        assert any(not torch.equal(a, b) for a, b in pairwise(flips)), "the same labels flip each time"
    else:
        expected = _bursts(played, config)
        for call, flipped in zip(calls, flips, strict=True):
            whole = bool(flipped.all()) if expected[call.step] else not flipped.any()
            assert whole, f"a burst should {'' if expected[call.step] else 'not '}flip all labels of step {call.step}"
        assert any(expected), "no burst"
        assert not all(expected), "nothing but bursts"
    g_targets_are_untouched(played)


def _bursts(played: Played, config: Any) -> list[bool]:
    """For each step, whether a burst flips it."""
    steps = len(played.steps_of("g"))
    if config.trigger == "every":
        return [step % config.every >= config.every - config.length for step in range(steps)]
    told = {phase.step: share_told(played, phase) for phase in played.steps_of("d")}  # by the last D step of each
    flipped: list[bool] = []
    true_steps: list[float] = []
    left = 0
    for step in range(steps):
        flipped.append(left > 0)
        true_steps = [] if left else [*true_steps, told[step]]
        left = max(left - 1, 0)
        recent = true_steps[-config.window :]
        if len(recent) == config.window and sum(recent) / config.window > config.threshold + 1e-9:
            left = config.length
    return flipped


class Watch(Trick):
    """Records every phase's logits and targets."""

    def __init__(self, config: object) -> None:
        super().__init__(config)
        self.d: list[dict[str, torch.Tensor]] = []
        self.g_targets: list[torch.Tensor] = []

    @hookimpl
    def d_loss_terms(self, ctx):
        self.d.append(
            {
                "real_logits": ctx.real_out.logits.detach(),
                "fake_logits": ctx.fake_out.logits.detach(),
                "real_labels": ctx.real_labels,
                "fake_labels": ctx.fake_labels,
            }
        )
        return {}

    @hookimpl
    def g_loss_terms(self, ctx):
        self.g_targets.append(ctx.fake_labels)
        return {}


def flips(played: Played) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """For each D step, which of its reals and which of its fakes were flipped."""
    calls = [call for call in played.calls["d_assignment"] if call.trick == "label_flipping"]
    flipped = [(call.result != call.arguments[0]).flatten() for call in calls]
    return list(zip(flipped[::2], flipped[1::2], strict=True))


def bursts(played: Played) -> list[bool]:
    """For each D step, whether its labels were flipped: all of them or none."""
    steps = [torch.cat(pair) for pair in flips(played)]
    assert all(step.all() or not step.any() for step in steps)
    return [bool(step.all()) for step in steps]


# ---------------------------------------------------------------- the formula


@given(gs.assignments())
def test_flipping_twice_is_identity(is_real) -> None:
    for flipped in (torch.zeros_like(is_real), torch.ones_like(is_real), ~is_real, torch.tensor(True)):
        assert torch.equal(flip(flip(is_real, flipped), flipped), is_real)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=9))
def test_a_flip_calls_reals_fake_and_fakes_real(rows) -> None:
    is_real, flipped = torch.tensor(rows).T[..., None]
    expected = [not called if turned else called for called, turned in rows]
    assert flip(is_real, flipped).flatten().tolist() == expected


@given(gs.logits(), gs.logits())
def test_accuracy_is_the_share_of_origins_told(real, fake) -> None:
    told_real = sum(s > 0 for s in real.flatten().tolist()) / len(real)
    told_fake = sum(s < 0 for s in fake.flatten().tolist()) / len(fake)
    assert accuracy(real, fake).item() == pytest.approx((told_real + told_fake) / 2)
    assert accuracy(real, fake).dtype == torch.float32


# ---------------------------------------------------------------- mode per_image


def test_the_number_flipped_is_binomial() -> None:
    p, size, steps = 0.3, 16, 150
    pairs = flips(TrickHost(batch_size=size).with_trick("label_flipping", p=p).train(steps))
    counts = np.array([int(side.sum()) for pair in pairs for side in pair])
    assert abs(counts.mean() - size * p) < 5 * math.sqrt(size * p * (1 - p) / len(counts))
    pmf = np.array([math.comb(size, k) * p**k * (1 - p) ** (size - k) for k in range(size + 1)])
    pooled = slice(1, 10)  # the rare counts in one cell each
    expected = len(counts) * np.concatenate([[pmf[:1].sum()], pmf[pooled], [pmf[10:].sum()]])
    seen = np.bincount(counts, minlength=size + 1)
    seen = np.concatenate([[seen[:1].sum()], seen[pooled], [seen[10:].sum()]])
    assert ((seen - expected) ** 2 / expected).sum() < 50  # chi-square, 10 degrees of freedom: 1e-6 is at 48


def test_flips_are_drawn_afresh_for_every_batch_and_every_step() -> None:
    p, size = 0.5, 40
    pairs = flips(TrickHost(batch_size=size, n_critic=2).with_trick("label_flipping", p=p).train(8))
    drawn = {tuple(side.tolist()) for pair in pairs for side in pair}
    assert len(drawn) == 2 * 2 * 8


def test_p_one_swaps_the_two_loss_terms() -> None:
    played = TrickHost().with_trick("label_flipping", p=1.0).with_trick(Watch, "watch").train(3)
    for step, scalars in zip(played.game.plan.tricks[-1].trick.d, played.scalars, strict=True):
        real, fake = step["real_logits"].numpy(), step["fake_logits"].numpy()
        assert scalars["loss/d.real"] == pytest.approx(np.log1p(np.exp(real)).mean())
        assert scalars["loss/d.fake"] == pytest.approx(np.log1p(np.exp(-fake)).mean())


@given(gs.logits(), st.floats(0, 1))
def test_expected_loss_is_that_of_smoothing_to_one_minus_p_and_p(logits, p) -> None:
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    for called in (True, False):
        is_real = torch.full_like(logits, called, dtype=torch.bool)
        kept, turned = (flip(is_real, torch.tensor(turn)).double() for turn in (False, True))
        expected = (1 - p) * bce(logits, kept) + p * bce(logits, turned)
        smoothed = torch.full_like(logits, 1 - p if called else p)
        torch.testing.assert_close(expected, bce(logits, smoothed), rtol=1e-9, atol=1e-9)


def test_p_can_follow_a_schedule() -> None:
    pairs = flips(TrickHost().with_trick("label_flipping", p={"start": 0.0, "end": 1.0}).train())
    assert not torch.cat(pairs[0]).any()
    assert torch.cat(pairs[-1]).all()


# ---------------------------------------------------------------- bursts by the clock


@settings(max_examples=15)
@given(st.integers(2, 6), st.data())
def test_a_burst_by_the_clock_is_the_last_steps_of_every_period(every, data) -> None:
    length = data.draw(st.integers(1, every - 1))
    host = TrickHost().with_trick("label_flipping", mode="burst", every=every, length=length)
    expected = [step % every >= every - length for step in range(14)]
    assert bursts(host.train(14)) == expected


def test_all_d_steps_of_a_step_flip_together() -> None:
    host = TrickHost(n_critic=3).with_trick("label_flipping", mode="burst", every=3, length=1)
    assert bursts(host.train(6)) == [False] * 6 + [True] * 3 + [False] * 6 + [True] * 3


# ---------------------------------------------------------------- bursts by accuracy


class Scripted(Trick):
    """A D whose scores are right as often as told: `rights[i]` of the 16 of D step i, by true origin."""

    class Config(Trick.Config):
        rights: tuple[int, ...] = ()

    @hookimpl
    def on_setup(self) -> None:
        self.d_steps = 0

    @hookimpl
    def d_scores(self, real: Batch, fake: Batch, ctx) -> tuple[Out, Out]:
        right = torch.arange(16) < self.config.rights[self.d_steps]
        self.d_steps += 1
        sign = torch.where(right, 1.0, -1.0).double()[:, None]
        outs = []
        for batch, signs in ((real, sign[::2]), (fake, -sign[1::2])):
            out = ctx.discriminator(*batch)
            outs.append(out._replace(logits=0 * out.logits + signs))
        return outs[0], outs[1]


def expected_bursts(rights: list[int], window: int, threshold: float, length: int) -> list[bool]:
    """Which steps flip, from the number right at the last D step of each."""
    flipped, since, left = [], [], 0
    for right in rights:
        flipped.append(left > 0)
        if left:
            left, since = left - 1, []
            continue
        since.append(right / 16)
        if len(since) >= window and sum(since[-window:]) / window > threshold:
            left = length
    return flipped


def by_accuracy(rights: list[int], n_critic: int = 1, **options) -> TrickHost:
    host = TrickHost(n_critic=n_critic).with_trick(Scripted, "scripted", rights=rights)
    return host.with_trick("label_flipping", mode="burst", trigger="accuracy", **options)


@settings(max_examples=30)
@given(
    st.lists(st.integers(8, 16), min_size=14, max_size=14),
    st.integers(1, 4),
    st.sampled_from([0.65, 0.77, 0.9]),
    st.integers(1, 4),
)
def test_a_burst_follows_a_full_window_of_true_steps_above_the_threshold(rights, window, threshold, length) -> None:
    host = by_accuracy(rights, window=window, threshold=threshold, length=length)
    assert bursts(host.train(14)) == expected_bursts(rights, window, threshold, length)


def test_a_burst_lasts_exactly_its_length_and_the_window_fills_again_before_the_next() -> None:
    played = by_accuracy([16] * 14, window=3, length=2).train(14)
    assert bursts(played) == [False, False, False, True, True] * 2 + [False, False, False, True]


def test_the_window_slides() -> None:
    rights = [8, 8, 8, 16, 16, 16, 16, 8, 8, 8]
    expected = [False] * 6 + [True] + [False] * 3
    assert bursts(by_accuracy(rights, window=3, length=1).train(10)) == expected


def test_steps_before_a_burst_and_in_it_are_forgotten() -> None:
    rights = [16, 16, 16, 16, 16, 8, 16, 16]  # after the burst at step 2 one bad step spoils the window
    assert bursts(by_accuracy(rights, window=2, length=3).train(8)) == [False] * 2 + [True] * 3 + [False] * 3


def test_the_threshold_itself_is_not_too_strong() -> None:
    assert not any(bursts(by_accuracy([12] * 6, window=1, threshold=0.75).train(6)))
    assert any(bursts(by_accuracy([13] * 6, window=1, threshold=0.75).train(6)))


def test_the_last_d_step_of_each_step_counts() -> None:
    rights = [8, 16] * 3 + [16, 8] * 3
    flipped = bursts(by_accuracy(rights, n_critic=2, window=3, length=1).train(6))
    assert flipped == [False] * 6 + [True] * 2 + [False] * 4


def test_the_log_says_how_many_steps_of_a_burst_are_left() -> None:
    played = by_accuracy([16] * 6, window=2, length=2).train(6)
    assert [line["label_flipping/steps_left"] for line in played.scalars] == [0, 2, 1, 0, 0, 2]


# ---------------------------------------------------------------- what stays as it is

MODES = {
    "per_image": {"p": 1.0},
    "every": {"mode": "burst", "every": 3, "length": 2},
    "accuracy": {"mode": "burst", "trigger": "accuracy", "threshold": 0.5, "window": 2, "length": 2},
}


@pytest.mark.parametrize("options", MODES.values(), ids=MODES)
def test_the_generators_targets_stay_one(options) -> None:
    played = TrickHost().with_trick("label_flipping", **options).with_trick(Watch, "watch").train(6)
    assert torch.equal(torch.cat(played.game.plan.tricks[-1].trick.g_targets), torch.ones(48, 1, dtype=torch.float64))


def test_it_can_reach_neither_images_nor_classes() -> None:
    folds = set(hooks_of(LabelFlipping)) - {"on_setup", "after_d_step", "after_g_step", "log_scalars"}
    assert folds == {"d_assignment"}


SMOOTHERS = {
    "soft_labels": ({"real": [0.7, 1.2], "fake": [0.0, 0.3]}, (0.7, 1.2), (0.0, 0.3)),
    "label_smoothing": ({"real": 0.8}, (0.8, 0.8), (0.0, 0.0)),
}


@pytest.mark.parametrize("flipping_first", [True, False])
@pytest.mark.parametrize("smoother", SMOOTHERS)
@pytest.mark.parametrize("mode", ["per_image", "every"])
def test_flipped_labels_take_the_values_of_the_class_they_are_called(mode, smoother, flipping_first) -> None:
    options, real, fake = SMOOTHERS[smoother]
    tricks = [("label_flipping", MODES[mode]), (smoother, options)]
    host = TrickHost()
    for name, given_options in tricks if flipping_first else tricks[::-1]:
        host = host.with_trick(name, **given_options)
    played = host.with_trick(Watch, "watch").train(6)
    for step, flipped in zip(played.game.plan.tricks[-1].trick.d, bursts(played), strict=True):
        for labels, (low, high) in (
            (step["real_labels"], fake if flipped else real),
            (step["fake_labels"], real if flipped else fake),
        ):
            assert labels.min() >= low
            assert labels.max() <= high
    assert any(bursts(played))


# ---------------------------------------------------------------- what is refused


class WithoutTargets(Trick):
    @hookimpl
    def adversarial_loss(self) -> AdversarialLoss: ...


def test_objectives_without_targets_are_refused() -> None:
    with pytest.raises(UserError, match="label_flipping needs targets"):
        TrickHost().with_trick(WithoutTargets).with_trick("label_flipping").plan()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"p": 1.5}, "p"),
        ({"p": {"start": 0.1, "end": -0.1}}, "p"),
        ({"every": 100}, "every does nothing"),
        ({"length": 2}, "length does nothing"),
        ({"mode": "burst", "p": 0.2}, "p does nothing"),
        ({"mode": "burst", "window": 10}, "window does nothing"),
        ({"mode": "burst", "trigger": "accuracy", "every": 100}, "every does nothing"),
        ({"mode": "burst", "every": 5, "length": 5}, "length below 5"),
        ({"mode": "burst", "trigger": "accuracy", "threshold": 0.4}, "threshold"),
        ({"mode": "burst", "trigger": "accuracy", "threshold": 1.0}, "threshold"),
        ({"mode": "burst", "length": 0}, "length"),
        ({"mode": "sometimes"}, "mode"),
    ],
)
def test_options_that_do_nothing_or_cannot_work_are_refused(options, reason) -> None:
    with pytest.raises(UserError, match=reason):
        TrickHost().with_trick("label_flipping", **options).plan()


def test_accuracy_is_read_where_the_objective_is_undecided():
    """Least squares decides at ½: D at 0.2 on everything takes all of it for fake, and is right half of the time."""
    options = {"mode": "burst", "trigger": "accuracy", "threshold": 0.6, "window": 1, "length": 1}
    game = TrickHost().with_trick("least_squares").with_trick("label_flipping", **options).game()
    with torch.no_grad():
        game.discriminator.head.weight.zero_()
        game.discriminator.head.bias.fill_(0.2)
    game.clock.enter("d")
    seen = []
    flipping = game.plan.tricks[1].trick
    hook = flipping.after_d_step

    def spy(ctx):
        hook(ctx)
        seen.append(float(flipping.accuracies[0]))

    game.step.hooks = replace(game.hooks, after_d_step=((spy, game.hooks.after_d_step[0][1]),))
    game.step.d_step()
    assert seen == [0.5]
