"""R2: half of γ times the squared slope of D at fakes, and what it does to the game."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from slopes import passes_again, slopes_at

from gantricks.plugins.r2 import R2, squared_slope
from gantricks.testing import CONDITIONAL, Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import terms_are, value_at

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({"weight": 0.3}, {}),
    "lazy": ({"weight": 0.3, "every": 3}, {"n_critic": 2}),
    "conditional": ({"weight": {"start": 0.3, "end": 0.1}}, CONDITIONAL),
}
REFUSED: dict[str, str] = {}

MISTAKES = {
    "the mean over the numbers of an image in place of the sum": Mistake(
        old="slopes.square().sum() / logits.shape[0]",
        new="slopes.square().mean()",
        caught_by=("test_a_linear_critic_pays_for_its_weights", "trace_law"),
    ),
    "the norm in place of its square": Mistake(
        old="slopes.square().sum() / logits.shape[0]",
        new="slopes.flatten(1).norm(dim=1).mean()",
        caught_by=("test_a_quadratic_critic_pays_for_its_slope_at_each_sample", "trace_law"),
    ),
    "the slope is a constant": Mistake(
        old="torch.autograd.grad(logits.sum(), images, create_graph=True)",
        new="torch.autograd.grad(logits.sum(), images, retain_graph=True)",
        caught_by="test_the_gradient_agrees_with_finite_differences",
    ),
    "the slope of the mean logit": Mistake(
        old="logits.sum()",
        new="logits.mean()",
        caught_by=("test_a_quadratic_critic_pays_for_its_slope_at_each_sample", "trace_law"),
    ),
    "the slope of the probability": Mistake(
        old="logits.sum()",
        new="logits.sigmoid().sum()",
        caught_by="test_a_linear_critic_pays_for_its_weights",
    ),
    "the square is not halved": Mistake(
        old="(0.5 * self.config.every)",
        new="self.config.every",
        caught_by="trace_law",
    ),
    "a lazy penalty has the weight of an eager one": Mistake(
        old="(0.5 * self.config.every)",
        new="0.5",
        caught_by="trace_law[lazy]",
    ),
    "a lazy penalty skips the first step": Mistake(
        old="ctx.step % self.config.every == 0",
        new="(ctx.step + 1) % self.config.every == 0",
        caught_by="trace_law[lazy]",
    ),
    "the slope at the other side": Mistake(
        old="squared_slope(logits, ctx.fake_in.images)",
        new="squared_slope(ctx.real_out.logits, ctx.real_in.images)",
        caught_by="trace_law",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """The term is γ/2 times the squared slope, k times as much in each k-th step, and 0 between."""
    config, checked = played.trick(name).config, 0
    for phase in played.steps_of("d"):
        if phase.step % config.every:
            assert phase.terms[f"{name}.penalty"] == 0
            continue
        batch = phase.fake_in
        assert batch is not None
        slopes = slopes_at(passes_again(played, phase), batch.images)
        if slopes is None:
            continue
        checked += 1
        weight = value_at(played, config.weight, phase.step) * config.every / 2
        terms_are(phase, {f"{name}.penalty": weight * slopes.pow(2).sum(1).mean()})
    assert checked or len(played.game.plan.tricks) > 1


# ---------------------------------------------------------------- the formula


@given(gs.tensors((6,)), gs.batches(shape=(2, 1, 3), classes=0))
def test_a_linear_critic_pays_for_its_weights(weights, batch):
    images = batch.images.requires_grad_()
    penalty = squared_slope(images.flatten(1) @ weights[:, None] + 3, images)
    assert penalty.shape == ()
    torch.testing.assert_close(penalty, (weights * weights).sum(), rtol=1e-12, atol=1e-12)


@given(gs.tensors((3, 3)), gs.tensors((7, 3)))
def test_a_quadratic_critic_pays_for_its_slope_at_each_sample(matrix, points):
    images = points.clone().requires_grad_()
    logits = (images @ matrix * images).sum(1, keepdim=True)
    slopes = points @ (matrix + matrix.T)
    torch.testing.assert_close(squared_slope(logits, images), slopes.pow(2).sum(1).mean(), rtol=1e-12, atol=1e-12)


@given(gs.tensors((3, 3)), gs.tensors((8, 3)))
def test_a_pack_pays_for_the_slopes_at_all_its_samples(matrix, points):
    images = points.clone().requires_grad_()
    logits = (images @ matrix * images).sum(1).reshape(4, 2).sum(1, keepdim=True)
    slopes = points @ (matrix + matrix.T)
    torch.testing.assert_close(squared_slope(logits, images), slopes.pow(2).sum() / 4, rtol=1e-12, atol=1e-12)


@given(gs.rng(), gs.tensors((5, 3)), gs.tensors((3, 4)))
def test_the_gradient_agrees_with_finite_differences(rng, points, matrix):
    head = rng.normal((4, 1))

    def penalty(weights):
        images = points.clone().requires_grad_()
        return squared_slope((images @ weights).tanh() @ head, images)

    weights, h = matrix.clone().requires_grad_(), 1e-5
    value = penalty(weights)
    assert value.requires_grad, "no gradient by the weights"
    (gradient,) = torch.autograd.grad(value, weights)
    for place in ((0, 0), (2, 3)):
        step = torch.zeros_like(matrix)
        step[place] = h
        slope = (penalty(matrix + step) - penalty(matrix - step)) / (2 * h)
        torch.testing.assert_close(gradient[place], slope.detach(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_constant_critic_pays_nothing_and_has_a_finite_gradient(dtype):
    images = torch.ones((1, 1, 2, 2), dtype=dtype, requires_grad=True)
    weights = torch.zeros((4, 1), dtype=dtype, requires_grad=True)
    penalty = squared_slope(images.flatten(1) @ weights + 2, images)
    (gradient,) = torch.autograd.grad(penalty, weights)
    assert penalty == 0
    assert not gradient.any()


# ---------------------------------------------------------------- the Dirac-GAN (Mescheder et al. 2018, §2)


def field(place, gamma):
    """The negative gradients of both players, with G at θ, D(x) = ψx, the data at 0, and f(t) = -log(1 + exp(-t))."""
    theta, psi = place
    at = theta.detach().reshape(1, 1).requires_grad_()
    penalty = gamma / 2 * squared_slope(psi * at, at)
    gain = torch.nn.functional.logsigmoid(psi * theta)
    (for_theta,) = torch.autograd.grad(gain, theta, create_graph=True)
    (for_psi,) = torch.autograd.grad(gain + penalty, psi, create_graph=True)
    return torch.stack([for_theta, -for_psi])


@given(st.floats(0.01, 5))
def test_the_eigenvalues_at_the_equilibrium_of_the_dirac_gan_are_those_of_the_paper(gamma):
    jacobian = torch.autograd.functional.jacobian(
        lambda place: field(place, gamma), torch.zeros(2, dtype=torch.float64)
    )
    root = torch.sqrt(torch.tensor(gamma**2 / 4 - 0.25, dtype=torch.complex128))  # f'(0) = 1/2
    found = torch.linalg.eigvals(jacobian)
    for expected in (-gamma / 2 + root, -gamma / 2 - root):
        assert (found - expected).abs().min() < 1e-6
    assert (found.real < 0).all()


@pytest.mark.parametrize(("gamma", "converges"), [(1.0, True), (0.0, False)])
def test_the_dirac_gan_converges_with_it_alone(gamma, converges):
    place = torch.tensor([1.0, 1.0], dtype=torch.float64)
    for _ in range(400):
        place = (place + 0.1 * field(place.requires_grad_(), gamma)).detach()
    assert (math.hypot(*place.tolist()) < 1e-3) is converges


# ---------------------------------------------------------------- in a run


def test_a_lazy_penalty_is_due_in_the_first_step_and_in_every_third_after():
    host = TrickHost().with_trick("r2", every=3)
    values = [scalars["loss/d.r2.penalty"] for scalars in host.train(7).scalars]
    assert [value > 0 for value in values] == [True, False, False, True, False, False, True]


def test_batch_norm_in_d_is_warned_of():
    host = TrickHost(sample=(1, 8, 8), discriminator={"batch_norm": True, "depth": 2})
    (warning,) = host.with_trick("r2").plan().warnings
    assert "discriminator_batch_norm" in warning
    assert host.with_trick("r2").train(2).game.non_finite() is None


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("sample", [(1, 8, 8), (3,)])
def test_a_batch_of_one_is_penalised_in_every_precision(precision, sample):
    host = TrickHost(sample=sample, batch_size=1, precision=precision, generator={"batch_norm": False})
    played = host.with_trick("r2").train(2)
    assert played.game.non_finite() is None
    assert played.scalars[-1]["loss/d.r2.penalty"] > 0


# ---------------------------------------------------------------- options


@pytest.mark.parametrize("wrong", [{"every": 0}, {"every": 2.5}, {"weight": -1.0}])
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        R2.Config(**wrong)
