"""Soft and noisy labels: uniform in their interval, fresh for every image, by assignment and never by origin."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from gantricks import AdversarialLoss, Interval, Trick, UserError, hookimpl
from gantricks.planning.contract import hooks_of
from gantricks.plugins.soft_labels import SoftLabels, soften
from gantricks.rng import Clock, Rng
from gantricks.testing import CONDITIONAL, Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import g_targets_are_untouched, standard_uniform

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({"real": (0.7, 1.2), "fake": (0.0, 0.3)}, {}),
    "conditional": ({}, CONDITIONAL | {"n_critic": 2, "reuse_fakes": False}),
}
REFUSED: dict[str, str] = {}

MISTAKES = {
    "one draw for the whole batch": Mistake(
        old="rng.uniform(labels.shape)",
        new="rng.uniform((1, 1))",
        caught_by="test_draws_are_fresh_for_every_image_and_every_call",
    ),
    "G's targets are softened": Mistake(
        inside="SoftLabels",
        new="""
            @hookimpl
            def g_labels(self, labels, ctx):
                return soften(labels, labels > 0, self.config.real, self.config.fake, ctx.rng)
        """,
        caught_by="test_the_generators_targets_stay_one",
    ),
    "one share for the whole batch": Mistake(
        old="rng.uniform(labels.shape)",
        new="rng.uniform(1)",
        caught_by="trace_law",
    ),
    "fakes reach up to the targets of reals": Mistake(
        old="torch.full_like(labels, fake.high)",
        new="torch.full_like(labels, real.low)",
        caught_by="trace_law",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """Targets lie in the interval of what their sample is called, drawn afresh each time; G's stay."""
    config = played.trick(name).config
    calls = played.of(name, "d_labels")
    assert len(calls) == 2 * len(played.steps_of("d"))
    shares = []
    for call in calls:
        _, called_real = call.arguments
        for interval, where in ((config.real, called_real), (config.fake, ~called_real)):
            low, high = (min(max(end, 0), 1) if config.clip else end for end in interval)
            targets = call.result[where]
            assert ((targets >= low) & (targets <= high)).all(), f"{targets} is not within [{low}, {high}]"
            shares.append((targets[(targets > low) & (targets < high)] - low) / (high - low))
    standard_uniform(torch.cat(shares), "targets as shares of their interval")
    g_targets_are_untouched(played)


REAL, FAKE = Interval(0.7, 1.2), Interval(0.0, 0.3)
FLIP_ALL = ("label_flipping", {"p": 1.0})
SOFT = ("soft_labels", {})


def stream(seed: int = 0) -> Rng:
    return Rng(seed, "tricks/soft_labels", Clock(), dtype=torch.float64)


def drawn(called_real: bool, size: int, clip: bool = False) -> torch.Tensor:
    is_real = torch.full((size, 1), called_real)
    return soften(is_real.double(), is_real, REAL, FAKE, stream(), clip)


# ---------------------------------------------------------------- the draws


@given(gs.assignments(), gs.intervals(), gs.intervals(), gs.rng(), st.booleans())
def test_targets_lie_in_the_interval_of_what_they_are_called(is_real, real, fake, rng, clip) -> None:
    labels = rng.uniform(is_real.shape)  # whatever an earlier trick made of them
    targets = soften(labels, is_real, real, fake, rng, clip)
    assert targets.shape == labels.shape
    assert targets.dtype == labels.dtype
    for target, called in zip(targets.flatten().tolist(), is_real.flatten().tolist(), strict=True):
        low, high = real if called else fake
        if clip:
            low, high = min(max(low, 0.0), 1.0), min(max(high, 0.0), 1.0)
        assert low <= target <= high


@pytest.mark.parametrize(("called_real", "interval"), [(True, REAL), (False, FAKE)])
def test_draws_are_uniform(called_real, interval) -> None:
    size = 20_000
    ordered = np.sort(drawn(called_real, size).numpy().ravel())
    uniform = (ordered - interval.low) / (interval.high - interval.low)
    ranks = np.arange(size)
    distance = max(np.max((ranks + 1) / size - uniform), np.max(uniform - ranks / size))
    assert distance * math.sqrt(size) < 2.7  # Kolmogorov: 1e-6


@given(gs.rng())
def test_draws_are_fresh_for_every_image_and_every_call(rng) -> None:
    is_real = torch.ones((6, 1), dtype=torch.bool)
    calls = [soften(is_real.double(), is_real, REAL, FAKE, rng) for _ in range(3)]
    assert len({value for call in calls for value in call.flatten().tolist()}) == 18


@given(gs.assignments(), gs.rng())
def test_degenerate_intervals_are_plain_labels(is_real, rng) -> None:
    labels = is_real.double()
    assert torch.equal(soften(labels, is_real, Interval(1, 1), Interval(0, 0), rng), labels)


def test_clipping_moves_draws_above_one_to_one() -> None:
    free, clipped = drawn(True, 1000), drawn(True, 1000, clip=True)
    assert (free > 1).any()
    assert clipped.flatten().tolist() == [min(target, 1.0) for target in free.flatten().tolist()]


@pytest.mark.parametrize(("called_real", "mean", "width"), [(True, 0.95, 0.5), (False, 0.15, 0.3)])
@pytest.mark.parametrize("logit", [-3.0, 0.5, 4.0])
def test_the_expected_loss_is_the_loss_at_the_expected_target(called_real, mean, width, logit) -> None:
    size = 40_000
    losses = bce(torch.full((size, 1), logit, dtype=torch.float64), drawn(called_real, size), reduction="none")
    expected = math.log1p(math.exp(logit)) - mean * logit
    deviation = abs(logit) * width / math.sqrt(12)
    assert abs(losses.mean().item() - expected) < 5.5 * deviation / math.sqrt(size)
    assert losses.std().item() == pytest.approx(deviation, rel=0.05)


# ---------------------------------------------------------------- in a run


class Watch(Trick):
    """Records each player's targets at the end of its folds."""

    def __init__(self, config: object) -> None:
        super().__init__(config)
        self.seen: dict[str, list[torch.Tensor]] = {"real": [], "fake": [], "g": []}

    @hookimpl
    def d_loss_terms(self, ctx):
        self.seen["real"].append(ctx.real_labels)
        self.seen["fake"].append(ctx.fake_labels)
        return {}

    @hookimpl
    def g_loss_terms(self, ctx):
        self.seen["g"].append(ctx.fake_labels)
        return {}


def targets(*tricks: tuple[str, dict], **changes) -> dict[str, torch.Tensor]:
    """Every target of a run of four steps: D's for reals and fakes by origin, and G's."""
    host = TrickHost(**changes)
    for name, options in tricks:
        host = host.with_trick(name, **options)
    played = host.with_trick(Watch, "watch").train(4)
    return {side: torch.cat(seen) for side, seen in played.game.plan.tricks[-1].trick.seen.items()}


def within(values: torch.Tensor, interval: Interval) -> bool:
    return bool(((values >= interval.low) & (values <= interval.high)).all())


def test_every_target_of_a_run_is_a_draw_of_its_own() -> None:
    seen = targets(SOFT, n_critic=2)
    assert within(seen["real"], REAL)
    assert within(seen["fake"], FAKE)
    positions = torch.cat([(seen["real"] - 0.7) / 0.5, seen["fake"] / 0.3])  # reals and fakes share no draw either
    assert len(positions.mul(1e9).round().unique()) == 2 * 2 * 4 * 8


def test_the_generators_targets_stay_one() -> None:
    assert set(targets(SOFT)["g"].flatten().tolist()) == {1.0}
    assert hooks_of(SoftLabels) == ["d_labels"]


@pytest.mark.parametrize("tricks", [(FLIP_ALL, SOFT), (SOFT, FLIP_ALL)], ids=["flip first", "soft first"])
def test_flipped_reals_get_targets_in_the_fake_interval_in_either_order(tricks) -> None:
    seen = targets(*tricks)
    assert within(seen["real"], FAKE)
    assert within(seen["fake"], REAL)
    assert set(seen["g"].flatten().tolist()) == {1.0}


def test_the_order_of_flipping_and_softening_does_not_matter() -> None:
    some = ("label_flipping", {"p": 0.5})
    one, other = targets(some, SOFT), targets(SOFT, some)
    for side in one:
        assert torch.equal(one[side], other[side])


# ---------------------------------------------------------------- what is refused


class WithoutTargets(Trick):
    @hookimpl
    def adversarial_loss(self) -> AdversarialLoss: ...


def test_objectives_without_targets_are_refused() -> None:
    with pytest.raises(UserError, match="soft_labels needs targets"):
        TrickHost().with_trick(WithoutTargets).with_trick("soft_labels").plan()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"real": [1.2, 0.7]}, "above the high end"),
        ({"real": [0.9, 1.2]}, "no minimum"),
        ({"fake": [-0.3, 0.2]}, "no minimum"),
        ({"fake": [0.9, 1.0], "real": [0.0, 0.1]}, "label_flipping"),
        ({"real": [0.0, 5.0]}, "within"),
        ({"fake": [-3.0, 0.3], "clip": True}, "within"),
    ],
)
def test_intervals_that_cannot_work_are_refused(options, reason) -> None:
    with pytest.raises(UserError, match=reason):
        TrickHost().with_trick("soft_labels", **options).plan()


def test_clipping_allows_a_mean_above_one() -> None:
    TrickHost().with_trick("soft_labels", real=[0.9, 1.2], clip=True).plan()
