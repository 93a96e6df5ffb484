"""DRAGAN: around the reals, with noise for every number, and the norm of D's slope there."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from pydantic import ValidationError
from slopes import passes_again
from torch import Tensor

from gantricks.plugins.dragan import Dragan, around
from gantricks.rng import Clock, Rng
from gantricks.testing import CONDITIONAL, Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import standard_uniform, value_at
from gantricks.testing.record import Phase

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({"weight": 0.3}, {}),
    "critics": ({"weight": 3.0}, {"n_critic": 2}),
    "conditional": ({"weight": {"start": 0.3, "end": 0.1}}, CONDITIONAL),
}
REFUSED: dict[str, str] = {}

MISTAKES = {
    "the standard deviation of each pixel": Mistake(
        old="images.std(correction=0)",
        new="images.std(0, correction=0)",
        caught_by=("test_noise_is_half_a_standard_deviation_of_the_whole_batch", "trace_law"),
    ),
    "a whole standard deviation": Mistake(
        old="0.5 * images.std(correction=0)",
        new="images.std(correction=0)",
        caught_by=("test_noise_is_half_a_standard_deviation_of_the_whole_batch", "trace_law"),
    ),
    "the variance": Mistake(
        old="images.std(correction=0)",
        new="images.var(correction=0)",
        caught_by="trace_law",
    ),
    "one draw for each image": Mistake(
        old="rng.uniform_like(images)",
        new="rng.uniform((images.shape[0], *[1] * (images.dim() - 1))).expand(images.shape)",
        caught_by=("test_noise_is_half_a_standard_deviation_of_the_whole_batch", "trace_law"),
    ),
    "around the fakes": Mistake(
        old="around(ctx.real_in.images.detach(), ctx.rng)",
        new="around(ctx.fake_in.images.detach(), ctx.rng)",
        caught_by="trace_law",
    ),
}

MINIMUM = 1e-9


def trace_law(played: Played, name: str) -> None:
    """One pass of D in each D step is at reals with noise, and its slopes there are what D pays for."""
    config, drawn, checked = played.trick(name).config, [], 0
    for phase in played.steps_of("d"):
        group = played.game.discriminator.group
        draws = [draws_of(phase, images, group) for images, _ in phase.passes]
        found = {number: each for number, each in enumerate(draws) if each is not None}
        assert len(found) == 1, f"{len(found)} passes at such points"
        ((number, own),) = found.items()
        drawn.append(own)
        again = passes_again(played, phase)[number]
        if again is None:
            continue
        checked += 1
        with torch.enable_grad():
            (slopes,) = torch.autograd.grad(again.logits.sum(), again.images)
        norms = slopes.reshape(len(again.logits), -1).norm(dim=1)
        weight = value_at(played, config.weight, phase.step)
        expected = weight * (norms - 1).pow(2).mean()
        # where D is flat, as dropout can make it, the norm is off by 1e-6
        assert math.isclose(phase.terms[f"{name}.penalty"], expected, rel_tol=1e-6, abs_tol=3e-6 * weight)
    standard_uniform(torch.cat(drawn), "the draws")
    assert checked or len(played.game.plan.tricks) > 1


def draws_of(phase: Phase, images: Tensor, group: int) -> Tensor | None:
    """The draws, if these images are the reals of a D step with noise."""
    assert phase.real_in is not None
    real = phase.real_in.images
    if images.shape != real.shape or torch.equal(images, real):
        return None
    draws = 2 * (images - real).flatten() / real.std(correction=0)
    return draws if draws.min() >= -MINIMUM and draws.max() <= 1 + MINIMUM else None


# ---------------------------------------------------------------- the points


@given(gs.batches(classes=0), gs.rng())
def test_noise_is_half_a_standard_deviation_of_the_whole_batch(batch, rng):
    points = around(batch.images, rng)
    rng._clock.enter(rng._clock.phase, rng._clock.critic)  # the same draws again
    numbers = batch.images.flatten().tolist()
    mean = sum(numbers) / len(numbers)
    spread = math.sqrt(sum((number - mean) ** 2 for number in numbers) / len(numbers))
    noise = rng.uniform_like(batch.images)
    torch.testing.assert_close(points, batch.images + 0.5 * spread * noise, rtol=1e-12, atol=1e-12)


def test_one_number_alone_has_no_noise():
    images = torch.ones((1, 1), dtype=torch.float64)
    assert torch.equal(around(images, Rng(0, "tricks/a", Clock(), dtype=torch.float64)), images)


# ---------------------------------------------------------------- in a run


def test_with_packing_d_judges_packs_of_points():
    played = TrickHost().with_trick("packing").with_trick("dragan").train(4)
    trace_law(played, "dragan")


# ---------------------------------------------------------------- options


@pytest.mark.parametrize("wrong", [{"weight": -1.0}])
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        Dragan.Config(**wrong)
