"""Hinge: D learns from samples inside its margin alone, G from every fake."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gantricks.plugins.hinge import margin_loss
from gantricks.testing import MIXING, Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import adversarial_terms_are

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({}, {}),
    "mixing": ({}, MIXING),
    "far": ({}, {"optimizer": {"name": "adam", "lr": 0.3}}),  # outputs beyond the margin
}
REFUSED: dict[str, str] = {
    "label_flipping": "needs targets",
    "label_smoothing": "needs targets",
    "least_squares": "adversarial_loss",
    "minimax": "adversarial_loss",
    "semi_supervised": "no margin",
    "soft_labels": "needs targets",
}

MISTAKES = {
    "G's loss has a hinge too": Mistake(
        old="-fake.logits",
        new="margin_loss(fake.logits, 1.0)",
        caught_by=("test_the_generator_learns_from_every_fake_alike", "trace_law"),
    ),
    "G's loss has D's sign": Mistake(
        old="-fake.logits",
        new="fake.logits",
        caught_by=("signs", "trace_law"),
    ),
    "the margin is 0, as of a perceptron": Mistake(
        old="(1 - side * outputs).relu()",
        new="(-side * outputs).relu()",
        caught_by=("test_it_is_the_distance_to_the_margin", "trace_law"),
    ),
    "reals and fakes are exchanged": Mistake(
        inside="Objective.d_loss",
        old='{"real": margin_loss(real.logits, 1.0), "fake": margin_loss(fake.logits, -1.0)}',
        new='{"real": margin_loss(real.logits, -1.0), "fake": margin_loss(fake.logits, 1.0)}',
        caught_by=("signs", "trace_law"),
    ),
    "the hinge of the batch's mean": Mistake(
        old="(1 - side * outputs).relu()",
        new="(1 - side * outputs).mean(0, keepdim=True).relu().expand_as(outputs)",
        caught_by=("test_it_is_the_distance_to_the_margin", "trace_law[far]"),
    ),
    "the hinge is left out": Mistake(
        old="(1 - side * outputs).relu()",
        new="1 - side * outputs",
        caught_by=("test_outside_the_margin_there_is_no_gradient_and_inside_it_is_one", "trace_law[far]"),
    ),
    "the distance is squared": Mistake(
        old="(1 - side * outputs).relu()",
        new="(1 - side * outputs).relu().square()",
        caught_by=("test_outside_the_margin_there_is_no_gradient_and_inside_it_is_one", "trace_law"),
    ),
}


def trace_law(played: Played, name: str) -> None:
    """D's losses are max(0, 1 - s) on reals and max(0, 1 + s) on fakes, G's is -s, unless a trick replaces it."""
    adversarial_terms_are(played, lambda s, t: (1 - (2 * t - 1) * s).clamp(min=0), lambda s, t: -s)
    assert played.game.step.loss.undecided == 0


sides = st.sampled_from([1.0, -1.0])


# ---------------------------------------------------------------- the formula


@given(gs.logits(), sides)
def test_it_is_the_distance_to_the_margin(outputs, side) -> None:
    expected = [max(0.0, 1 - side * s) for s in outputs.flatten().tolist()]
    assert margin_loss(outputs, side).flatten().tolist() == expected


@given(gs.logits(), sides)
def test_outside_the_margin_there_is_no_gradient_and_inside_it_is_one(outputs, side) -> None:
    s = outputs.clone().requires_grad_()
    margin_loss(s, side).mean().backward()
    inside = (side * outputs < 1).numpy()
    np.testing.assert_allclose(s.grad.numpy(), -side * inside / len(outputs), rtol=1e-15)


@pytest.mark.parametrize(("share", "best"), [(0.8, 1.0), (0.2, -1.0)])
def test_the_best_output_is_the_sign_of_the_likelier_side(share, best) -> None:
    """Lim & Ye 2017: D* is 1 where reals are likelier than fakes, and -1 where fakes are, here for one point."""
    s = torch.linspace(-3, 3, 601, dtype=torch.float64)[:, None]
    loss = share * margin_loss(s, 1.0) + (1 - share) * margin_loss(s, -1.0)
    assert s[loss.argmin()].item() == pytest.approx(best)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("output", [1e4, -1e4])
def test_far_outputs_give_finite_losses_and_gradients(dtype, output) -> None:
    s = torch.full((2, 1), output, dtype=dtype).requires_grad_()
    for side in (1.0, -1.0):
        s.grad = None
        loss = margin_loss(s, side).mean()
        loss.backward()
        assert loss.item() == pytest.approx(max(0.0, 1 - side * output), rel=0.01)
        assert s.grad.sum().item() == (-side if side * output < 1 else 0)


# ---------------------------------------------------------------- in a run


def test_the_generator_learns_from_every_fake_alike() -> None:
    """G's loss is the mean of -s, and its slope in every output -1/B, however far out that is."""
    game = TrickHost(batch_size=4).with_trick("hinge").game()
    game.step.d_step()
    game.step.g_step()
    fake = game.frame.fake_out.logits.detach()
    assert game.scalars()[0]["loss/g.adversarial"] == pytest.approx(-fake.mean().item(), rel=1e-12)
    for scale in (0.01, 100.0):
        s = (fake * scale).requires_grad_()
        out = game.frame.fake_out._replace(logits=s)
        loss = game.step.loss.g_loss(None, out, torch.ones_like(s), None)["adversarial"].sum()
        (slope,) = torch.autograd.grad(loss, s)
        assert torch.equal(slope, -torch.ones_like(s))


@pytest.mark.parametrize("sample", [(2,), (1, 8, 8)])
def test_a_batch_of_one_plays(sample) -> None:
    played = TrickHost(sample=sample, batch_size=1).with_trick("hinge").train(2)
    trace_law(played, "hinge")
    assert played.game.non_finite() is None
