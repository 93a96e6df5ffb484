"""LeCam: reals pay above the running mean of fakes, fakes below that of reals, both from before the step."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gantricks import Trick, hookimpl
from gantricks.plugins.lecam import Lecam, join_, lecam_penalty
from gantricks.testing import MIXING, Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import value_at

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({"weight": 0.5, "decay": 0.7}, {}),
    "mixing": ({"weight": {"start": 0.5, "end": 0.2}, "decay": 0.5}, MIXING | {"n_critic": 2}),
}
REFUSED: dict[str, str] = {}

MISTAKES = {
    "each side is compared with its own mean": Mistake(
        old="relu(real - fake_mean).square().mean() + relu(real_mean - fake).square().mean()",
        new="relu(real - real_mean).square().mean() + relu(fake_mean - fake).square().mean()",
        caught_by=("test_reals_pay_above_the_mean_of_fakes_and_fakes_below_that_of_reals", "trace_law"),
    ),
    "no square": Mistake(
        old="relu(real - fake_mean).square().mean()",
        new="relu(real - fake_mean).mean()",
        caught_by="test_reals_pay_above_the_mean_of_fakes_and_fakes_below_that_of_reals",
    ),
    "the signs are swapped": Mistake(
        old="relu(real - fake_mean)",
        new="relu(fake_mean - real)",
        caught_by="test_reals_pay_above_the_mean_of_fakes_and_fakes_below_that_of_reals",
    ),
    "the mean has a bias towards its start": Mistake(
        old="(real / share, fake / share)",
        new="(real, fake)",
        caught_by="trace_law",
    ),
    "the penalty acts in the first step, against 0": Mistake(
        old="ctx.value(self.config.weight) * (self.averages[2] > 0)",
        new="ctx.value(self.config.weight)",
        caught_by="trace_law",
    ),
    "the present step enters before the penalty": Mistake(
        inside="Lecam.d_loss_terms",
        old="real_mean, fake_mean = self._means()",
        new="""
            means = ctx.real_out.logits.mean(), ctx.fake_out.logits.mean()
            values = torch.stack([*means, torch.ones_like(means[0])])
            join_(self.averages, values, self.config.decay, ctx.healthy)
            real_mean, fake_mean = self._means()
        """,
        caught_by="trace_law",
    ),
    "decay is the share of the present": Mistake(
        old="1 - decay",
        new="decay",
        caught_by=("test_the_average_is_that_of_the_formula", "trace_law"),
    ),
    "a step that was skipped enters the means": Mistake(
        old="join_(self.averages, values, self.config.decay, ctx.updated)",
        new="join_(self.averages, values, self.config.decay, ctx.healthy)",
        caught_by="test_a_skipped_step_does_not_enter_the_means",
    ),
    "a value that is not finite spoils the mean": Mistake(
        old="torch.where(updated > 0, value.to(average.dtype), average)",
        new="average + updated * (value.to(average.dtype) - average)",
        caught_by="test_where_nothing_was_updated_the_average_stays",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """The term is λ(E relu(r - α_F)² + E relu(α_R - f)²), α the weighted means of all D steps before."""
    config = played.trick(name).config
    past: list[tuple[float, float]] = []
    for phase in played.steps_of("d"):
        assert phase.real_out is not None
        real, fake = phase.real_out.logits, phase.fake_out.logits
        expected = 0.0
        if past:
            ages = [config.decay**age for age in reversed(range(len(past)))]
            of_reals, of_fakes = (
                sum(a * m for a, m in zip(ages, means, strict=True)) / sum(ages) for means in zip(*past, strict=True)
            )
            above, below = (real - of_fakes).clamp(min=0), (of_reals - fake).clamp(min=0)
            weight = value_at(played, config.weight, phase.step)
            expected = weight * float((above**2).mean() + (below**2).mean())
        assert math.isclose(phase.terms[f"{name}.penalty"], expected, rel_tol=1e-9, abs_tol=1e-12)
        if phase.updated and not phase.trial:
            past.append((float(real.mean()), float(fake.mean())))


# ---------------------------------------------------------------- the formulas


@given(gs.logits(), gs.logits(), st.floats(-5, 5), st.floats(-5, 5))
def test_reals_pay_above_the_mean_of_fakes_and_fakes_below_that_of_reals(real, fake, of_reals, of_fakes):
    found = lecam_penalty(real, fake, torch.tensor(of_reals).double(), torch.tensor(of_fakes).double())
    reals = [max(r - of_fakes, 0) ** 2 for r in real.flatten().tolist()]
    fakes = [max(of_reals - f, 0) ** 2 for f in fake.flatten().tolist()]
    assert found.shape == ()
    assert found.item() == pytest.approx(sum(reals) / len(reals) + sum(fakes) / len(fakes), rel=1e-6, abs=1e-9)


@given(gs.logits(), gs.logits())
def test_the_gradient_draws_each_side_towards_the_other(real, fake):
    r, f = real.clone().requires_grad_(), fake.clone().requires_grad_()
    of_reals, of_fakes = torch.tensor(1.0).double(), torch.tensor(-1.0).double()
    for_real, for_fake = torch.autograd.grad(lecam_penalty(r, f, of_reals, of_fakes), (r, f))
    torch.testing.assert_close(for_real, 2 * (real + 1).clamp(min=0) / len(real))
    torch.testing.assert_close(for_fake, -2 * (1 - fake).clamp(min=0) / len(fake))


def test_a_constant_critic_at_its_means_pays_nothing():
    score = torch.full((4, 1), 0.3)
    assert lecam_penalty(score, score, torch.tensor(0.3), torch.tensor(0.3)) == 0


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=20), st.floats(0, 0.999))
def test_the_average_is_that_of_the_formula(values, decay):
    average = torch.zeros((), dtype=torch.float64)
    for value in values:
        join_(average, torch.tensor(value), decay, torch.ones(()))
    expected = sum((1 - decay) * decay**age * v for age, v in enumerate(reversed(values)))
    assert average.item() == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("value", [1.0, math.nan, math.inf])
def test_where_nothing_was_updated_the_average_stays(value):
    average = torch.tensor(0.7)
    join_(average, torch.tensor(value), 0.9, torch.zeros(()))
    assert average == torch.tensor(0.7)


# ---------------------------------------------------------------- in a run


class Closed(Trick):
    """D is not updated."""

    @hookimpl
    def d_gate(self, open):
        return open * 0


def test_a_skipped_step_does_not_enter_the_means():
    played = TrickHost().with_trick("lecam").with_trick(Closed).train(3)
    assert all(not tensor.any() for tensor in played.trick("lecam").tensors().values())
    assert played.scalars[-1]["loss/d.lecam.penalty"] == 0


def test_the_running_means_are_logged():
    played = TrickHost().with_trick("lecam").train(1)
    (phase,) = played.steps_of("d")
    assert played.scalars[-1]["lecam/real_mean"] == pytest.approx(float(phase.real_out.logits.mean()), rel=1e-4)
    assert played.scalars[-1]["lecam/fake_mean"] == pytest.approx(float(phase.fake_out.logits.mean()), rel=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_batch_of_one_is_penalised_in_every_precision(precision):
    host = TrickHost(batch_size=1, precision=precision, generator={"batch_norm": False})
    assert host.with_trick("lecam").train(3).game.non_finite() is None


# ---------------------------------------------------------------- options


@pytest.mark.parametrize("wrong", [{"decay": 1.0}, {"decay": -0.1}, {"weight": -1.0}])
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        Lecam.Config(**wrong)
