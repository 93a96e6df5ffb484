"""One-sided label smoothing: reals only, D only, and the optimum that the paper gives."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from gantricks import AdversarialLoss, Trick, UserError, hookimpl
from gantricks.planning.contract import hooks_of
from gantricks.plugins.label_smoothing import LabelSmoothing, smooth
from gantricks.testing import Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import g_targets_are_untouched

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({"real": 0.8}, {}),
}
REFUSED: dict[str, str] = {
    "soft_labels": "label_smoothing does not go with soft_labels",
}

MISTAKES = {
    "fakes are smoothed too": Mistake(
        old="labels.masked_fill(is_real, real)",
        new="labels.masked_fill(is_real, real).masked_fill(~is_real, 1 - real)",
        caught_by="test_only_what_is_called_real_is_smoothed",
    ),
    "the helper smooths G's targets": Mistake(
        inside="LabelSmoothing",
        new="""
            @hookimpl
            def g_labels(self, labels):
                return smooth(labels, labels > 0, self.config.real)
        """,
        caught_by="test_reals_get_alpha_fakes_zero_and_the_generator_one",
    ),
    "the helper smooths class labels": Mistake(
        inside="LabelSmoothing",
        new="""
            @hookimpl
            def d_input(self, batch):
                if batch.classes is None:
                    return batch
                return batch._replace(classes=(batch.classes * self.config.real).long())
        """,
        caught_by="test_it_can_reach_neither_the_generators_targets_nor_classes",
    ),
    "fakes move towards one half too": Mistake(
        old="labels.masked_fill(is_real, real)",
        new="real * labels + (1 - real) / 2",
        caught_by="trace_law",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """The target is α where a sample is called real, and what it was elsewhere; G's stay."""
    alpha = played.trick(name).config.real
    calls = played.of(name, "d_labels")
    assert len(calls) == 2 * len(played.steps_of("d"))
    for call in calls:
        labels, called_real = call.arguments
        assert torch.equal(call.result, torch.where(called_real, alpha, labels))
    assert any(call.arguments[1].any() for call in calls)
    g_targets_are_untouched(played)


alphas = st.floats(0.51, 0.99)


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


def targets(host: TrickHost, steps: int = 3) -> dict[str, torch.Tensor]:
    """Every target of a run: D's for reals and fakes by origin, and G's."""
    played = host.with_trick(Watch, "watch").train(steps)
    return {side: torch.cat(seen) for side, seen in played.game.plan.tricks[-1].trick.seen.items()}


# ---------------------------------------------------------------- the formula


@given(gs.assignments(), gs.rng(), alphas)
def test_only_what_is_called_real_is_smoothed(is_real, rng, alpha) -> None:
    labels = rng.uniform(is_real.shape)  # whatever an earlier trick made of them
    smoothed = smooth(labels, is_real, alpha)
    rows = zip(labels.flatten().tolist(), is_real.flatten().tolist(), strict=True)
    assert smoothed.flatten().tolist() == [alpha if called else label for label, called in rows]


@given(gs.assignments(), st.sampled_from([torch.float64, torch.float32, torch.bfloat16]))
def test_one_is_identity(is_real, dtype) -> None:
    labels = is_real.to(dtype)
    assert torch.equal(smooth(labels, is_real, 1.0), labels)
    assert smooth(labels, is_real, 0.9).dtype == dtype


@given(gs.logits(), alphas)
def test_gradient_is_sigmoid_minus_alpha_on_reals_and_sigmoid_on_fakes(logits, alpha) -> None:
    for called, target in ((True, alpha), (False, 0.0)):
        is_real = torch.full_like(logits, called, dtype=torch.bool)
        scores = logits.clone().requires_grad_()
        bce(scores, smooth(is_real.double(), is_real, alpha), reduction="sum").backward()
        s = logits.numpy()
        sigmoid = np.where(s > 0, 1 / (1 + np.exp(-np.abs(s))), np.exp(-np.abs(s)) / (1 + np.exp(-np.abs(s))))
        np.testing.assert_allclose(scores.grad.numpy(), sigmoid - target, atol=1e-12)


@given(alphas)
def test_the_best_logit_for_reals_is_logit_alpha(alpha) -> None:
    s = torch.linspace(-6, 6, 240_001, dtype=torch.float64)[:, None]
    is_real = torch.ones_like(s, dtype=torch.bool)
    loss = bce(s, smooth(torch.ones_like(s), is_real, alpha), reduction="none")
    assert s[loss.argmin()].item() == pytest.approx(math.log(alpha / (1 - alpha)), abs=1e-4)


@given(alphas, st.floats(0.01, 1.0), st.floats(0.01, 1.0))
def test_the_optimal_discriminator_has_no_model_density_in_its_numerator(alpha, p_data, p_model) -> None:
    is_real = torch.tensor([[True], [False]])
    d = alpha * p_data / (p_data + p_model)
    scores = torch.full((2, 1), math.log(d / (1 - d)), dtype=torch.float64, requires_grad=True)
    losses = bce(scores, smooth(is_real.double(), is_real, alpha), reduction="none")
    (torch.tensor([[p_data], [p_model]]) * losses).sum().backward()
    assert scores.grad.sum().item() == pytest.approx(0, abs=1e-7)


# ---------------------------------------------------------------- in a run


def test_reals_get_alpha_fakes_zero_and_the_generator_one() -> None:
    seen = targets(TrickHost(n_critic=2).with_trick("label_smoothing", real=0.8))
    assert set(seen["real"].flatten().tolist()) == {0.8}
    assert set(seen["fake"].flatten().tolist()) == {0.0}
    assert set(seen["g"].flatten().tolist()) == {1.0}


def test_the_default_is_the_papers() -> None:
    assert set(targets(TrickHost().with_trick("label_smoothing"))["real"].flatten().tolist()) == {0.9}


def test_fake_term_and_generator_term_equal_the_baselines() -> None:
    played, plain = TrickHost().with_trick("label_smoothing").train(1), TrickHost().train(1)
    assert played.scalars[0]["loss/d.fake"] == plain.scalars[0]["loss/d.fake"]
    assert played.scalars[0]["loss/d.real"] != plain.scalars[0]["loss/d.real"]


def test_it_can_reach_neither_the_generators_targets_nor_classes() -> None:
    assert hooks_of(LabelSmoothing) == ["d_labels"]


@pytest.mark.parametrize("flipping_first", [True, False])
def test_alpha_belongs_to_what_is_called_real_whatever_its_origin(flipping_first) -> None:
    tricks = [("label_flipping", {"p": 1.0}), ("label_smoothing", {"real": 0.8})]
    host = TrickHost()
    for name, options in tricks if flipping_first else tricks[::-1]:
        host = host.with_trick(name, **options)
    seen = targets(host)
    assert set(seen["real"].flatten().tolist()) == {0.0}
    assert set(seen["fake"].flatten().tolist()) == {0.8}


# ---------------------------------------------------------------- what is refused


class WithoutTargets(Trick):
    @hookimpl
    def adversarial_loss(self) -> AdversarialLoss: ...


def test_objectives_without_targets_are_refused() -> None:
    with pytest.raises(UserError, match="label_smoothing needs targets"):
        TrickHost().with_trick(WithoutTargets).with_trick("label_smoothing").plan()


@pytest.mark.parametrize("first", ["soft_labels", "label_smoothing"])
def test_a_second_choice_of_the_same_targets_is_refused(first) -> None:
    second = {"soft_labels": "label_smoothing", "label_smoothing": "soft_labels"}[first]
    with pytest.raises(UserError, match="does not go with soft_labels"):
        TrickHost().with_trick(first).with_trick(second).plan()


@pytest.mark.parametrize("alpha", [0.5, 0.0, 1.01, -0.9])
def test_values_that_are_not_smoothing_are_refused(alpha) -> None:
    with pytest.raises(UserError, match="real"):
        TrickHost().with_trick("label_smoothing", real=alpha).plan()
