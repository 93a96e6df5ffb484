"""The slope of D and the penalties on it: closed forms, second derivatives, and what all four have in common."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from gantricks import slope_distances, squared_slopes
from gantricks.catalogue.registry import Registry
from gantricks.testing import TrickHost
from gantricks.testing import strategies as gs

PENALTIES = ("r1", "r2", "gradient_penalty", "dragan")

# ---------------------------------------------------------------- the formulas


@given(gs.tensors((6,)), gs.batches(shape=(2, 1, 3), classes=0), st.sampled_from([0.0, 1.0, 3.0]))
def test_a_linear_critic_has_the_slope_of_its_weights(weights, batch, target):
    images = batch.images.requires_grad_()
    logits = images.flatten(1) @ weights[:, None] + 3
    square = sum(weight * weight for weight in weights.tolist())
    assert squared_slopes(logits, images).tolist() == pytest.approx([square] * batch.size, rel=1e-12, abs=1e-12)
    expected = [(math.sqrt(square) - target) ** 2] * batch.size
    assert slope_distances(logits, images, target).tolist() == pytest.approx(expected, rel=1e-6, abs=1e-9)


@given(gs.tensors((3, 3)), gs.tensors((8, 3)), st.sampled_from([1, 2, 4]))
def test_a_quadratic_critic_has_a_slope_at_each_sample_and_one_of_packs_at_each_pack(matrix, points, group):
    images = points.clone().requires_grad_()
    logits = (images @ matrix * images).sum(1).reshape(-1, group).sum(1, keepdim=True)
    norms = [math.hypot(*pack.flatten().tolist()) for pack in (points @ (matrix + matrix.T)).split(group)]
    assert squared_slopes(logits, images).tolist() == pytest.approx([n * n for n in norms], rel=1e-9, abs=1e-12)
    found = slope_distances(logits, images, 1.0).tolist()
    assert found == pytest.approx([(n - 1) ** 2 for n in norms], rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("target", [None, 0.0, 1.0])
@given(gs.rng(), gs.tensors((5, 3)), gs.tensors((3, 4)))
def test_second_derivatives_agree_with_finite_differences(target, rng, points, matrix):
    head = rng.normal((4, 1))

    def penalty(weights: Tensor) -> Tensor:
        images = points.clone().requires_grad_()
        logits = (images @ weights).tanh() @ head
        found = squared_slopes(logits, images) if target is None else slope_distances(logits, images, target)
        return found.mean()

    weights, h = matrix.clone().requires_grad_(), 1e-5
    value = penalty(weights)
    assert value.requires_grad, "no gradient by the weights"
    (gradient,) = torch.autograd.grad(value, weights)
    for place in ((0, 0), (2, 3)):
        step = torch.zeros_like(matrix)
        step[place] = h
        slope = (penalty(matrix + step) - penalty(matrix - step)) / (2 * h)
        torch.testing.assert_close(gradient[place], slope.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("target", [None, 0.0, 1.0])
def test_a_flat_critic_has_a_finite_gradient(dtype, target):
    images = torch.ones((1, 1, 2, 2), dtype=dtype, requires_grad=True)
    weights = torch.zeros((4, 1), dtype=dtype, requires_grad=True)
    logits = images.flatten(1) @ weights + 2
    found = squared_slopes(logits, images) if target is None else slope_distances(logits, images, target)
    (gradient,) = torch.autograd.grad(found.sum(), weights)
    assert found.item() == pytest.approx((target or 0) ** 2, abs=1e-5)
    assert gradient.isfinite().all()


# ---------------------------------------------------------------- in a run


@pytest.mark.parametrize("trick", ["r1", "r2"])
def test_a_lazy_penalty_is_due_in_the_first_step_and_in_every_third_after(trick):
    scalars = TrickHost().with_trick(trick, every=3).train(7).scalars
    due = [line[f"loss/d.{trick}.penalty"] > 0 for line in scalars]
    assert due == [True, False, False, True, False, False, True]


@pytest.mark.parametrize("trick", PENALTIES)
def test_batch_norm_in_d_is_warned_of(trick):
    host = TrickHost(sample=(1, 8, 8), discriminator={"batch_norm": True, "depth": 2}).with_trick(trick)
    (warning,) = host.plan().warnings
    assert "discriminator_batch_norm" in warning
    assert host.train(2).game.non_finite() is None


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("sample", [(1, 8, 8), (3,)])
@pytest.mark.parametrize("trick", PENALTIES)
def test_a_batch_of_one_is_penalised_in_every_precision(trick, precision, sample):
    host = TrickHost(sample=sample, batch_size=1, precision=precision, generator={"batch_norm": False})
    played = host.with_trick(trick).train(2)
    assert played.game.non_finite() is None
    assert played.scalars[-1][f"loss/d.{trick}.penalty"] > 0


@pytest.mark.parametrize("trick", ["gradient_penalty", "dragan"])
def test_a_conditioned_d_is_asked_at_points_with_the_conditions_of_the_reals(trick):
    given_too = {"conditioned": True}
    game = TrickHost(condition=3, generator=given_too, discriminator=given_too).with_trick(trick).game()
    conditions: list[Tensor] = []
    game.discriminator.register_forward_pre_hook(lambda _, inputs: conditions.append(inputs[2]))
    game.step.d_step()
    assert torch.equal(conditions[-1], game.frame.real.condition)


@pytest.mark.parametrize("trick", PENALTIES)
@pytest.mark.parametrize("wrong", [{"every": 0}, {"every": 2.5}, {"weight": -1.0}, {"target": -1.0}])
def test_options_out_of_range_are_refused(trick, wrong):
    with pytest.raises(ValidationError):
        Registry(installed=False).load("tricks", trick).cls.Config(**wrong)
