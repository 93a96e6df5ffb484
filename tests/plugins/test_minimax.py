"""Minimax: log(1 - D(G(z))) exactly, stable for any logit, and a zero-sum game on the fakes."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gantricks.plugins.minimax import discriminator_loss, generator_loss
from gantricks.testing import MIXING, Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import adversarial_terms_are, cross_entropy

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({}, {}),
    "mixing": ({}, MIXING),
}
REFUSED: dict[str, str] = {}

MISTAKES = {
    "G's loss has D's sign": Mistake(
        old='-binary_cross_entropy_with_logits(logits, 1 - targets, reduction="none")',
        new='binary_cross_entropy_with_logits(logits, 1 - targets, reduction="none")',
        caught_by="test_the_generator_minimises_log_one_minus_d",
    ),
    "G's loss is the non-saturating one": Mistake(
        old='-binary_cross_entropy_with_logits(logits, 1 - targets, reduction="none")',
        new='binary_cross_entropy_with_logits(logits, targets, reduction="none")',
        caught_by=("test_the_generators_gradient_vanishes_where_it_is_rejected", "trace_law"),
    ),
    "log(1 - D) from D, which rounds to 1": Mistake(
        old='-binary_cross_entropy_with_logits(logits, 1 - targets, reduction="none")',
        new="targets * (1 - logits.sigmoid()).log() + (1 - targets) * logits.sigmoid().log()",
        caught_by="test_far_logits_give_finite_losses_and_gradients",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """D's losses are cross-entropies against its targets t, G's is minus that against 1 - t."""
    adversarial_terms_are(played, cross_entropy, lambda s, t: -cross_entropy(s, 1 - t))


numbers = st.floats(-30, 30, allow_subnormal=False)
targets = st.floats(0, 1, allow_subnormal=False)
pairs = st.lists(st.tuples(numbers, targets), min_size=1, max_size=9)


def column(values) -> torch.Tensor:
    return torch.tensor([[float(value)] for value in values], dtype=torch.float64)


def logs(logit: float) -> tuple[float, float]:
    """Log D and log(1 - D), D = 1/(1 + exp(-s)), by exact arithmetic."""
    with localcontext() as context:
        context.prec = 60
        probability = 1 / (1 + (-Decimal(logit)).exp())
        return float(probability.ln()), float((1 - probability).ln())


# ---------------------------------------------------------------- the formulas


@given(pairs)
def test_the_discriminators_loss_is_cross_entropy(rows) -> None:
    expected = sum(-t * logs(s)[0] - (1 - t) * logs(s)[1] for s, t in rows) / len(rows)
    loss = discriminator_loss(column(s for s, _ in rows), column(t for _, t in rows)).mean()
    assert loss.item() == pytest.approx(expected, rel=1e-12)


@given(st.lists(numbers, min_size=1, max_size=9))
def test_the_generator_minimises_log_one_minus_d(logits) -> None:
    loss = generator_loss(column(logits), torch.ones(len(logits), 1, dtype=torch.float64)).mean()
    assert loss.item() == pytest.approx(sum(logs(s)[1] for s in logits) / len(logits), rel=1e-12)


@given(pairs)
def test_other_targets_mix_what_the_generator_wants_and_its_opposite(rows) -> None:
    expected = sum(t * logs(s)[1] + (1 - t) * logs(s)[0] for s, t in rows) / len(rows)
    loss = generator_loss(column(s for s, _ in rows), column(t for _, t in rows)).mean()
    assert loss.item() == pytest.approx(expected, rel=1e-12)


@given(gs.logits())
def test_the_game_is_zero_sum_on_the_fakes(logits) -> None:
    ones = torch.ones_like(logits)
    assert torch.equal(generator_loss(logits, ones), -discriminator_loss(logits, 0 * ones))


@given(numbers, targets)
def test_gradients_are_those_of_the_formulas(logit, target) -> None:
    for loss, expected in (
        (discriminator_loss, lambda s, t: 1 / (1 + math.exp(-s)) - t),
        (generator_loss, lambda s, t: 1 - t - 1 / (1 + math.exp(-s))),
    ):
        s = column([logit]).requires_grad_()
        loss(s, column([target])).backward()
        assert s.grad.item() == pytest.approx(expected(logit, target), rel=1e-9, abs=1e-13)


@given(st.floats(0.01, 0.99))
def test_the_best_logit_is_that_of_the_share_of_reals(share) -> None:
    """Goodfellow et al. 2014, prop. 1: D* = p_data / (p_data + p_model), here for one point."""
    s = column([math.log(share / (1 - share))]).requires_grad_()
    one = torch.ones_like(s)
    loss = share * discriminator_loss(s, one) + (1 - share) * discriminator_loss(s, 0 * one)
    (gradient,) = torch.autograd.grad(loss, s, create_graph=True)
    (curvature,) = torch.autograd.grad(gradient, s)
    assert abs(gradient.item()) < 1e-14
    assert curvature.item() > 0


def test_the_generators_gradient_vanishes_where_it_is_rejected() -> None:
    """What the card warns of, and what tells this objective from the non-saturating one."""
    s = column([-20.0]).requires_grad_()
    generator_loss(s, torch.ones_like(s)).mean().backward()
    assert -1e-8 < s.grad.item() < 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("logit", [1e4, -1e4])
@pytest.mark.parametrize("target", [0.0, 0.25, 1.0])
def test_far_logits_give_finite_losses_and_gradients(dtype, logit, target) -> None:
    s = torch.full((2, 1), logit, dtype=dtype).requires_grad_()
    t = torch.full_like(s, target)
    cross_entropy = (1 - target) * 1e4 if logit > 0 else target * 1e4
    opposite = target * 1e4 if logit > 0 else (1 - target) * 1e4
    for loss, expected, slope in (
        (discriminator_loss, cross_entropy, (logit > 0) - target),
        (generator_loss, -opposite, 1 - target - (logit > 0)),
    ):
        s.grad = None
        value = loss(s, t).mean()
        value.backward()
        assert value.item() == pytest.approx(expected, rel=0.01 if dtype == torch.bfloat16 else 1e-6)
        assert s.grad.sum().item() == pytest.approx(slope, rel=1e-6)


# ---------------------------------------------------------------- in a run


def test_the_discriminator_trains_as_under_the_default_objective() -> None:
    plain, minimax = TrickHost().game(), TrickHost().with_trick("minimax").game()
    for game in (plain, minimax):
        game.step.d_step()
    for a, b in zip(plain.players["d"].parameters, minimax.players["d"].parameters, strict=True):
        assert torch.equal(a, b)


def test_the_generators_loss_is_the_formula_of_its_logits() -> None:
    host = TrickHost().with_trick("minimax").with_trick("label_smoothing", real=0.8)
    game = host.game()
    game.step.d_step()
    game.step.g_step()
    logits = game.frame.fake_out.logits.detach().flatten().tolist()
    logged = game.scalars()[0]
    assert logged["loss/g.adversarial"] == pytest.approx(sum(logs(s)[1] for s in logits) / len(logits), rel=1e-12)
    real, fake = (game.frame.logits[side].flatten().tolist() for side in ("real", "fake"))
    expected = sum(-0.8 * logs(s)[0] - 0.2 * logs(s)[1] for s in real) / len(real)
    assert logged["loss/d.real"] == pytest.approx(expected, rel=1e-12)
    assert logged["loss/d.fake"] == pytest.approx(sum(-logs(s)[1] for s in fake) / len(fake), rel=1e-12)
