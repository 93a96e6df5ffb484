"""Least squares: half the mean squared distance of D's output to its target, for both players."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gantricks.plugins.least_squares import least_squares_loss
from gantricks.testing import MIXING, Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import adversarial_terms_are

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({}, {}),
    "mixing": ({}, MIXING),
}
REFUSED: dict[str, str] = {
    "minimax": "adversarial_loss",
}

MISTAKES = {
    "G brings its fakes to D's target for them": Mistake(
        inside="Objective.g_loss",
        old="least_squares_loss(fake.logits, labels)",
        new="least_squares_loss(fake.logits, 1 - labels)",
        caught_by="test_each_player_is_judged_by_its_own_targets",
    ),
    "a sigmoid before the distance": Mistake(
        old="(outputs - targets).square()",
        new="(outputs.sigmoid() - targets).square()",
        caught_by="test_it_is_half_the_mean_squared_distance_to_the_target",
    ),
    "the distance is not halved": Mistake(
        old="0.5 * (outputs - targets).square()",
        new="(outputs - targets).square()",
        caught_by="trace_law",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """The losses are ½ E (s - t)²; for G too, unless a trick replaces its objective."""
    adversarial_terms_are(played, lambda s, t: (s - t) ** 2 / 2, lambda s, t: (s - t) ** 2 / 2)


@given(gs.logits(), gs.rng())
def test_it_is_half_the_mean_squared_distance_to_the_target(outputs, rng) -> None:
    targets = rng.uniform(outputs.shape)
    rows = zip(outputs.flatten().tolist(), targets.flatten().tolist(), strict=True)
    expected = sum((s - t) * (s - t) / 2 for s, t in rows) / len(outputs)
    assert least_squares_loss(outputs, targets).mean().item() == pytest.approx(expected, rel=1e-12)


@given(gs.logits(), gs.rng())
def test_the_gradient_is_the_distance_over_the_batch_size(outputs, rng) -> None:
    targets = rng.uniform(outputs.shape)
    s = outputs.clone().requires_grad_()
    least_squares_loss(s, targets).mean().backward()
    expected = (outputs.numpy() - targets.numpy()) / len(outputs)
    np.testing.assert_allclose(s.grad.numpy(), expected, rtol=1e-12, atol=1e-15)


@given(st.floats(0, 1), st.floats(-1, 1), st.floats(-1, 1))
def test_the_best_output_is_the_mean_target(share, fake, real) -> None:
    """Mao et al. 2017, eq. 5: D* = (b p_data + a p_model) / (p_data + p_model), here for one point."""
    s = torch.full((1, 1), share * real + (1 - share) * fake, dtype=torch.float64, requires_grad=True)
    targets = [torch.full_like(s, target) for target in (real, fake)]
    loss = share * least_squares_loss(s, targets[0]) + (1 - share) * least_squares_loss(s, targets[1])
    (gradient,) = torch.autograd.grad(loss, s)
    assert abs(gradient.item()) < 1e-14


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("output", [1e4, -1e4])
def test_far_outputs_give_finite_losses_and_gradients(dtype, output) -> None:
    s = torch.full((2, 1), output, dtype=dtype).requires_grad_()
    loss = least_squares_loss(s, torch.ones_like(s)).mean()
    loss.backward()
    assert loss.item() == pytest.approx((output - 1) ** 2 / 2, rel=1e-6)
    assert s.grad.sum().item() == pytest.approx(output - 1, rel=1e-6)


# ---------------------------------------------------------------- in a run


@pytest.mark.parametrize(("smoothing", "target"), [([], 1.0), ([0.8], 0.8)], ids=["plain", "smoothed"])
def test_each_player_is_judged_by_its_own_targets(smoothing, target) -> None:
    host = TrickHost().with_trick("least_squares")
    for real in smoothing:
        host = host.with_trick("label_smoothing", real=real)
    game = host.game()
    game.step.d_step()
    game.step.g_step()
    real, fake = (game.frame.logits[side].numpy() for side in ("real", "fake"))
    outputs = game.frame.fake_out.logits.detach().numpy()
    logged = game.scalars()[0]
    assert logged["loss/d.real"] == pytest.approx(np.square(real - target).mean() / 2, rel=1e-12)
    assert logged["loss/d.fake"] == pytest.approx(np.square(fake).mean() / 2, rel=1e-12)
    assert logged["loss/g.adversarial"] == pytest.approx(np.square(outputs - 1).mean() / 2, rel=1e-12)
