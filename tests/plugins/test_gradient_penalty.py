"""Gradient penalty: between reals and fakes, with one share for each pair, and the norm of D's slope there."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from pydantic import ValidationError
from slopes import passes_again
from torch import Tensor

from gantricks.plugins.gradient_penalty import GradientPenalty, between
from gantricks.testing import CONDITIONAL, Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import standard_uniform, value_at
from gantricks.testing.record import Phase

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({"weight": 0.3}, {}),
    "zero-centred": ({"weight": 0.3, "target": 0.0}, {"n_critic": 2}),
    "conditional": ({"weight": {"start": 0.3, "end": 0.1}}, CONDITIONAL),
}
REFUSED: dict[str, str] = {}

MISTAKES = {
    "one share for the whole batch": Mistake(
        old="rng.uniform((real.shape[0] // group, 1)).to(real.dtype).expand(-1, group)",
        new="rng.uniform((1, 1)).to(real.dtype).expand(real.shape[0] // group, group)",
        caught_by=("test_every_pair_has_a_share_of_its_own", "trace_law"),
    ),
    "a share for every number": Mistake(
        old="torch.lerp(fake, real, shares.reshape(-1, *[1] * (real.dim() - 1)))",
        new="torch.lerp(fake, real, rng.uniform(real.shape))",
        caught_by=("test_every_pair_has_a_share_of_its_own", "trace_law"),
    ),
    "a share outside [0, 1]": Mistake(
        old="rng.uniform((real.shape[0] // group, 1))",
        new="rng.normal((real.shape[0] // group, 1))",
        caught_by="trace_law",
    ),
    "what D sees is transformed again": Mistake(
        old="ctx.discriminator(*ctx.real_in.with_images(points))",
        new="ctx.discriminate(ctx.real_in.with_images(points), True)",
        caught_by="test_inputs_that_d_has_seen_are_not_transformed_again",
    ),
}

MINIMUM = 1e-9


def trace_law(played: Played, name: str) -> None:
    """One pass of D in each D step is at points between reals and fakes, and its slopes there are what D pays for."""
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
        expected = weight * (norms - config.target).pow(2).mean()
        # where D is flat, as dropout can make it, the norm is off by 1e-6
        assert math.isclose(phase.terms[f"{name}.penalty"], expected, rel_tol=1e-6, abs_tol=3e-6 * weight)
    standard_uniform(torch.cat(drawn), "the draws")
    assert checked or len(played.game.plan.tricks) > 1


def draws_of(phase: Phase, images: Tensor, group: int) -> Tensor | None:
    """The shares of the reals in each pack, if these are points between the reals and fakes of a D step."""
    assert phase.real_in is not None
    real, fake = phase.real_in.images.flatten(1), phase.fake_in.images.flatten(1)
    if len(images) != len(real) or any(torch.equal(images.flatten(1), seen) for seen in (real, fake)):
        return None
    gap, points = real - fake, images.flatten(1)
    shares = ((points - fake) * gap).sum(1) / gap.pow(2).sum(1)
    on_line = torch.allclose(points, fake + shares[:, None] * gap, rtol=0, atol=1e-9)
    packs = shares.reshape(-1, group)
    same = torch.allclose(packs, packs[:, :1].expand_as(packs), rtol=0, atol=1e-9)
    return packs[:, 0] if on_line and same and shares.min() >= -MINIMUM and shares.max() <= 1 + MINIMUM else None


# ---------------------------------------------------------------- the points


@given(gs.batches(classes=0), gs.rng())
def test_every_pair_has_a_share_of_its_own(batch, rng):
    real, fake = batch.images, batch.images.flip(0) - 2
    points = between(real, fake, rng)
    shares = ((points - fake) / (real - fake)).flatten(1)
    assert points.shape == real.shape
    torch.testing.assert_close(shares, shares[:, :1].expand_as(shares), rtol=0, atol=1e-12)
    assert shares[:, 0].unique().numel() == len(real)
    assert shares.min() >= -MINIMUM
    assert shares.max() <= 1 + MINIMUM


@given(gs.rng(), gs.tensors((8, 2)))
def test_a_pack_has_one_share(rng, real):
    shares = between(real, real - 1, rng, group=4) - (real - 1)
    torch.testing.assert_close(shares[:4], shares[:1, :1].expand(4, 2))
    torch.testing.assert_close(shares[4:], shares[4:5, :1].expand(4, 2))
    assert (shares[0, 0] - shares[4, 0]).abs() > 1e-9


def test_inputs_that_d_has_seen_are_not_transformed_again():
    played = TrickHost().with_trick("instance_noise", sigma=1.0).with_trick("gradient_penalty").train(2)
    trace_law(played, "gradient_penalty")


# ---------------------------------------------------------------- in a run


def test_with_packing_d_judges_packs_of_points():
    played = TrickHost().with_trick("packing").with_trick("gradient_penalty").train(4)
    trace_law(played, "gradient_penalty")


# ---------------------------------------------------------------- options


@pytest.mark.parametrize("wrong", [{"target": -1.0}, {"weight": -1.0}])
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        GradientPenalty.Config(**wrong)
