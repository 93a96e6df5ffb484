"""DRAGAN: around the reals, with noise for every number, and the norm of D's slope there."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from slopes import passes_again
from torch import Tensor

from gantricks.plugins.dragan import Dragan, around, slope_penalty
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
    "epsilon outside the root": Mistake(
        old="(slopes.reshape(logits.shape[0], -1).square().sum(1) + 1e-12).sqrt()",
        new="slopes.reshape(logits.shape[0], -1).square().sum(1).sqrt() + 1e-12",
        caught_by="test_a_flat_critic_has_a_finite_gradient",
    ),
    "the norm over one dimension alone": Mistake(
        old="slopes.reshape(logits.shape[0], -1).square().sum(1)",
        new="slopes.square().sum(1)",
        caught_by="test_a_linear_critic_pays_for_its_norm",
    ),
    "the mean over the numbers of an image in place of the sum": Mistake(
        old="slopes.reshape(logits.shape[0], -1).square().sum(1)",
        new="slopes.reshape(logits.shape[0], -1).square().mean(1)",
        caught_by=("test_a_linear_critic_pays_for_its_norm", "trace_law"),
    ),
    "one norm for the whole batch": Mistake(
        old="slopes.reshape(logits.shape[0], -1).square().sum(1)",
        new="slopes.square().sum()[None]",
        caught_by=("test_a_quadratic_critic_pays_at_each_sample", "trace_law"),
    ),
    "the distance to the target is not squared": Mistake(
        old="(norms - target).square().mean()",
        new="(norms - target).abs().mean()",
        caught_by="test_a_linear_critic_pays_for_its_norm",
    ),
    "the slope is a constant": Mistake(
        old="torch.autograd.grad(logits.sum(), images, create_graph=True)",
        new="torch.autograd.grad(logits.sum(), images, retain_graph=True)",
        caught_by="test_the_gradient_agrees_with_finite_differences",
    ),
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
        old="rng.uniform(images.shape)",
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
        assert math.isclose(phase.terms[f"{name}.penalty"], expected, rel_tol=1e-6, abs_tol=1e-9)
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
    noise = rng.uniform(batch.images.shape)
    torch.testing.assert_close(points, batch.images + 0.5 * spread * noise, rtol=1e-12, atol=1e-12)


def test_one_number_alone_has_no_noise():
    images = torch.ones((1, 1), dtype=torch.float64)
    assert torch.equal(around(images, Rng(0, "tricks/a", Clock(), dtype=torch.float64)), images)


# ---------------------------------------------------------------- the penalty


@given(gs.tensors((6,)), gs.batches(shape=(2, 1, 3), classes=0), st.sampled_from([0.0, 1.0, 3.0]))
def test_a_linear_critic_pays_for_its_norm(weights, batch, target):
    images = batch.images.requires_grad_()
    penalty = slope_penalty(images.flatten(1) @ weights[:, None] + 3, images, target)
    assert penalty.shape == ()
    assert penalty.item() == pytest.approx((math.hypot(*weights.tolist()) - target) ** 2, rel=1e-6, abs=1e-9)


@given(gs.tensors((3, 3)), gs.tensors((8, 3)), st.sampled_from([1, 2, 4]))
def test_a_quadratic_critic_pays_at_each_sample(matrix, points, group):
    images = points.clone().requires_grad_()
    logits = (images @ matrix * images).sum(1).reshape(-1, group).sum(1, keepdim=True)
    norms = [math.hypot(*pack.flatten().tolist()) for pack in (points @ (matrix + matrix.T)).split(group)]
    expected = sum((norm - 1) ** 2 for norm in norms) / len(norms)
    assert slope_penalty(logits, images, 1.0).item() == pytest.approx(expected, rel=1e-6, abs=1e-9)


@given(gs.rng(), gs.tensors((5, 3)), gs.tensors((3, 4)))
def test_the_gradient_agrees_with_finite_differences(rng, points, matrix):
    head = rng.normal((4, 1))

    def penalty(weights: Tensor) -> Tensor:
        images = points.clone().requires_grad_()
        return slope_penalty((images @ weights).tanh() @ head, images, 1.0)

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
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_a_flat_critic_has_a_finite_gradient(dtype, target):
    images = torch.ones((1, 1, 2, 2), dtype=dtype, requires_grad=True)
    weights = torch.zeros((4, 1), dtype=dtype, requires_grad=True)
    penalty = slope_penalty(images.flatten(1) @ weights + 2, images, target)
    (gradient,) = torch.autograd.grad(penalty, weights)
    assert penalty.item() == pytest.approx(target**2, abs=1e-5)
    assert gradient.isfinite().all()


@pytest.mark.parametrize(("target", "converges"), [(0.0, True), (1.0, False)])
def test_the_dirac_gan_converges_with_the_zero_centred_penalty_alone(target, converges):
    """Mescheder et al. 2018, §2: G is at θ, D(x) = ψx, the data at 0."""
    theta, psi = (torch.tensor([[1.0]], dtype=torch.float64, requires_grad=True) for _ in range(2))
    for _ in range(600):
        gain = torch.nn.functional.logsigmoid(psi * theta).sum()
        at = (theta.detach() / 2).requires_grad_()
        (for_theta,) = torch.autograd.grad(gain, theta, retain_graph=True)
        (for_psi,) = torch.autograd.grad(gain + slope_penalty(psi * at, at, target), psi)
        theta = (theta + 0.1 * for_theta).detach().requires_grad_()
        psi = (psi - 0.1 * for_psi).detach().requires_grad_()
    assert (math.hypot(theta.item(), psi.item()) < 1e-3) is converges


# ---------------------------------------------------------------- in a run


def test_batch_norm_in_d_is_warned_of():
    host = TrickHost(sample=(1, 8, 8), discriminator={"batch_norm": True, "depth": 2}).with_trick("dragan")
    (warning,) = host.plan().warnings
    assert "discriminator_batch_norm" in warning
    assert host.train(2).game.non_finite() is None


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("sample", [(1, 8, 8), (3,)])
def test_a_batch_of_one_is_penalised_in_every_precision(precision, sample):
    host = TrickHost(sample=sample, batch_size=1, precision=precision, generator={"batch_norm": False})
    played = host.with_trick("dragan").train(2)
    assert played.game.non_finite() is None
    assert played.scalars[-1]["loss/d.dragan.penalty"] > 0


def test_with_packing_d_judges_packs_of_points():
    played = TrickHost().with_trick("packing").with_trick("dragan").train(4)
    trace_law(played, "dragan")


# ---------------------------------------------------------------- options


@pytest.mark.parametrize("wrong", [{"weight": -1.0}])
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        Dragan.Config(**wrong)
