"""Relativistic: only differences of outputs count, for both players, and G's are those of the updated D."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gantricks import Out, UserError
from gantricks.plugins.relativistic import OBJECTIVES, average_losses, paired_loss
from gantricks.testing import MIXING, Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import g_mean, terms_are

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({}, {}),
    "average": ({"mode": "average"}, {"n_critic": 2}),
    "mixing": ({}, MIXING),
}
REFUSED: dict[str, str] = {
    "balance_gate": "needs decision",
    "hinge": "adversarial_loss",
    "label_flipping": "needs targets",
    "label_smoothing": "needs targets",
    "least_squares": "adversarial_loss",
    "minimax": "adversarial_loss",
    "semi_supervised": "that of one image alone",
    "soft_labels": "needs targets",
    "wasserstein": "adversarial_loss",
}

MISTAKES = {
    "G's loss is the non-saturating one": Mistake(
        inside="Paired.g_loss",
        old="paired_loss(fake.logits, real.logits)",
        new="-logsigmoid(fake.logits)",
        caught_by=("test_a_constant_added_to_all_outputs_changes_nothing", "trace_law"),
    ),
    "G minimises D's loss": Mistake(
        inside="Paired.g_loss",
        old="paired_loss(fake.logits, real.logits)",
        new="paired_loss(real.logits, fake.logits)",
        caught_by=("signs", "trace_law"),
    ),
    "G maximises D's loss": Mistake(
        inside="Paired.g_loss",
        old="paired_loss(fake.logits, real.logits)",
        new="-paired_loss(real.logits, fake.logits)",
        caught_by="trace_law",
    ),
    "every real meets every fake": Mistake(
        old="-logsigmoid(above - below)",
        new="-logsigmoid(above - below.T).mean(1, keepdim=True)",
        caught_by=("test_each_row_is_the_loss_of_one_pair", "trace_law"),
    ),
    "the difference of the means": Mistake(
        old="-logsigmoid(above - below)",
        new="-logsigmoid((above - below).mean(0, keepdim=True)).expand_as(above)",
        caught_by=("test_each_row_is_the_loss_of_one_pair", "trace_law"),
    ),
    "reals and fakes are sorted before they meet": Mistake(
        old="-logsigmoid(above - below)",
        new="-logsigmoid(above.sort(0).values - below.sort(0).values)",
        caught_by=("test_each_row_is_the_loss_of_one_pair", "trace_law"),
    ),
    "the average form leaves the reals out of G's loss": Mistake(
        inside="Average.g_loss",
        old='{"adversarial": of_fakes, "real": of_reals}',
        new='{"adversarial": of_fakes}',
        caught_by=("test_gradients_are_those_of_the_formulas", "trace_law[average]"),
    ),
    "the mean of the other side carries no gradient": Mistake(
        old="-logsigmoid(above - below.mean()), -logsigmoid(above.mean() - below)",
        new="-logsigmoid(above - below.mean().detach()), -logsigmoid(above.mean().detach() - below)",
        caught_by="test_gradients_are_those_of_the_formulas",
    ),
    "both sides are compared with the mean of all": Mistake(
        old="-logsigmoid(above - below.mean()), -logsigmoid(above.mean() - below)",
        new="-logsigmoid(above - (above + below).mean() / 2), -logsigmoid((above + below).mean() / 2 - below)",
        caught_by=("test_gradients_are_those_of_the_formulas", "trace_law[average]"),
    ),
    "G's loss has the outputs of the D step, before D's update": Mistake(
        old="""
            def d_loss(
                self, real: Out, fake: Out, real_labels: Tensor, fake_labels: Tensor, ctx: Context
            ) -> dict[str, Tensor]:
                return {"pairs": paired_loss(real.logits, fake.logits)}

            def g_loss(self, real: Out | None, fake: Out, labels: Tensor, ctx: Context) -> dict[str, Tensor]:
                assert real is not None
                return {"adversarial": paired_loss(fake.logits, real.logits)}
        """,
        new="""
            def d_loss(self, real, fake, real_labels, fake_labels, ctx):
                self.last = real.detach()
                return {"pairs": paired_loss(real.logits, fake.logits)}

            def g_loss(self, real, fake, labels, ctx):
                return {"adversarial": paired_loss(fake.logits, self.last.logits)}
        """,
        caught_by=("test_the_generators_loss_has_the_same_reals_under_the_updated_d", "trace_law"),
    ),
}


def log1p_exp(x: Tensor) -> Tensor:
    """log(1 + exp(x)), number by number, without torch's softplus."""
    return x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))


def trace_law(played: Played, name: str) -> None:
    """Both players' losses are log(1 + exp(difference)), of pairs by row or against the mean of the other side."""
    average = played.trick(name).config.mode == "average"
    for phase in played.steps_of("d"):
        assert phase.real_out is not None
        r, f = phase.real_out.logits, phase.fake_out.logits
        if average:
            terms_are(phase, {"real": log1p_exp(f.mean() - r).mean(), "fake": log1p_exp(f - r.mean()).mean()})
        else:
            terms_are(phase, {"pairs": log1p_exp(f - r).mean()})
    for phase in played.steps_of("g"):
        if played.calls.get("g_objective"):
            assert "adversarial" not in phase.terms
            continue
        assert phase.real_out is not None
        r, f = phase.real_out.logits, phase.fake_out.logits
        expected = {"adversarial": log1p_exp((r.mean() if average else r) - f)}
        if average:
            expected["real"] = log1p_exp(r - f.mean())
        terms_are(phase, {term: g_mean(played, phase, losses) for term, losses in expected.items()})
    assert played.game.step.loss.undecided is None


modes = st.sampled_from(sorted(OBJECTIVES))


@st.composite
def sides(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """D's outputs on reals and on fakes, as many of each."""
    size, scale = draw(gs.SIZES), draw(st.sampled_from([0.0, 1.0, 10.0]))
    return tuple(draw(gs.tensors((size, 1), scale=scale)) for _ in range(2))


def losses(mode: str, real: Tensor, fake: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """D's and G's terms."""
    r, f = (Out(logits, logits) for logits in (real, fake))
    objective, unused = OBJECTIVES[mode](), torch.full_like(real, torch.nan)
    return objective.d_loss(r, f, unused, unused, None), objective.g_loss(r, f, unused, None)


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack([term.mean() for term in terms.values()]).sum()


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


# ---------------------------------------------------------------- the formulas


@given(sides())
def test_each_row_is_the_loss_of_one_pair(pair) -> None:
    rows = zip(*(side.flatten().tolist() for side in pair), strict=True)
    expected = [math.log1p(math.exp(b - a)) for a, b in rows]
    np.testing.assert_allclose(paired_loss(*pair).flatten(), expected, rtol=1e-12, atol=1e-15)


@given(sides())
def test_the_average_form_compares_with_the_mean_of_the_other_side(pair) -> None:
    a, b = (side.flatten().tolist() for side in pair)
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    first, second = average_losses(*pair)
    np.testing.assert_allclose(first.flatten(), [math.log1p(math.exp(mean_b - x)) for x in a], rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(second.flatten(), [math.log1p(math.exp(x - mean_a)) for x in b], rtol=1e-11, atol=1e-14)


@given(modes, sides())
def test_gradients_are_those_of_the_formulas(mode, pair) -> None:
    """Of a pair: ∓σ(∓(r - f)) / B for D. The average form's outputs also move the means that others meet."""
    real, fake = (side.clone().requires_grad_() for side in pair)
    r, f = (side.numpy() for side in pair)
    d, g = (torch.autograd.grad(total(terms), [real, fake], retain_graph=True) for terms in losses(mode, real, fake))
    size = len(r)
    if mode == "paired":
        of_d = -sigmoid(f - r) / size, sigmoid(f - r) / size
        of_g = sigmoid(r - f) / size, -sigmoid(r - f) / size
    else:
        of_real, of_fake = sigmoid(f.mean() - r) / size, sigmoid(f - r.mean()) / size
        of_d = -of_real - of_fake.mean(), of_fake + of_real.mean()
        of_fake, of_real = sigmoid(r.mean() - f) / size, sigmoid(r - f.mean()) / size
        of_g = of_real + of_fake.mean(), -of_fake - of_real.mean()
    for found, expected in zip((*d, *g), (*of_d, *of_g), strict=True):
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10, atol=1e-14)


@given(modes, sides(), st.floats(-100, 100))
def test_a_constant_added_to_all_outputs_changes_nothing(mode, pair, shift) -> None:
    for plain, moved in zip(losses(mode, *pair), losses(mode, *(side + shift for side in pair)), strict=True):
        torch.testing.assert_close(total(moved), total(plain), rtol=1e-11, atol=1e-11)


@given(modes, sides())
def test_the_generators_loss_is_the_discriminators_with_the_sides_exchanged(mode, pair) -> None:
    real, fake = pair
    torch.testing.assert_close(
        total(losses(mode, real, fake)[1]), total(losses(mode, fake, real)[0]), rtol=1e-12, atol=1e-14
    )


@given(modes, gs.logits())
def test_equal_batches_cost_both_players_alike(mode, outputs) -> None:
    d, g = losses(mode, outputs, outputs)
    torch.testing.assert_close(total(d), total(g), rtol=1e-12, atol=1e-14)
    if mode == "paired":
        assert total(d).item() == pytest.approx(math.log(2), rel=1e-12)


@given(modes, sides())
def test_terms_are_one_number_a_sample(mode, pair) -> None:
    for terms in losses(mode, *pair):
        assert all(term.shape == pair[0].shape for term in terms.values())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("output", [1e4, -1e4])
@pytest.mark.parametrize("mode", sorted(OBJECTIVES))
def test_far_outputs_give_finite_losses_and_gradients(mode, output, dtype) -> None:
    real = torch.full((2, 1), output, dtype=dtype).requires_grad_()
    fake = (-real.detach()).requires_grad_()
    for terms in losses(mode, real, fake):
        gradients = torch.autograd.grad(total(terms), [real, fake], retain_graph=True)
        assert total(terms).isfinite()
        assert all(gradient.isfinite().all() for gradient in gradients)


# ---------------------------------------------------------------- in a run


@pytest.mark.parametrize("mode", sorted(OBJECTIVES))
@pytest.mark.parametrize("setting", [{}, MIXING], ids=["plain", "mixing"])
def test_the_generators_loss_has_the_same_reals_under_the_updated_d(mode, setting) -> None:
    played = TrickHost(**setting).with_trick("relativistic", mode=mode).train(2)
    for d, g in zip(played.steps_of("d"), played.steps_of("g"), strict=True):
        assert torch.equal(g.real.images, d.real.images)
        assert not torch.equal(g.real_out.logits, d.real_out.logits)
        r, f = g.real_out.logits.flatten().tolist(), g.fake_out.logits.flatten().tolist()
        mean = sum(r) / len(r)
        rivals = r if mode == "paired" else [mean] * len(f)
        expected = sum(math.log1p(math.exp(b - a)) for a, b in zip(f, rivals, strict=True)) / len(f)
        assert g.terms["adversarial"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("mode", sorted(OBJECTIVES))
@pytest.mark.parametrize("sample", [(2,), (1, 8, 8)])
def test_a_batch_of_one_plays(mode, sample) -> None:
    played = TrickHost(sample=sample, batch_size=1).with_trick("relativistic", mode=mode).train(2)
    trace_law(played, "relativistic")
    assert played.game.non_finite() is None


def test_another_mode_is_refused() -> None:
    with pytest.raises(UserError, match="mode"):
        TrickHost().with_trick("relativistic", mode="both").plan()
