"""Top-k: the k best fakes by D's outputs, no others, and no change where k is the whole batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import softplus

from gantricks import Trick, UserError, hookimpl
from gantricks.plugins.top_k import best
from gantricks.testing import MIXING, Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import value_at
from gantricks.testing.record import differences

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({"share": 0.5}, {}),
    "annealed": ({}, {"n_critic": 2}),
    "mixing": ({"share": 0.3}, MIXING),
}
REFUSED: dict[str, str] = {}

MISTAKES = {
    "the worst fakes are kept": Mistake(
        old="outputs.detach().flatten().argsort(descending=True, stable=True)",
        new="outputs.detach().flatten().argsort(stable=True)",
        caught_by=("test_they_are_the_k_largest_outputs", "trace_law"),
    ),
    "the order is taken for the ranks": Mistake(
        old="order.argsort()",
        new="order",
        caught_by=("test_they_are_the_k_largest_outputs", "trace_law"),
    ),
    "k is fixed, not annealed": Mistake(
        old="ctx.value(self.config.share)",
        new="ctx.value(getattr(self.config.share, 'end', self.config.share))",
        caught_by="trace_law[annealed]",
    ),
    "the first fakes of the batch are kept": Mistake(
        old="(ranks < count)",
        new="(ranks.sort().values < count)",
        caught_by=("test_they_are_the_k_largest_outputs", "trace_law"),
    ),
    "one too many is kept": Mistake(
        old="(ranks < count)",
        new="(ranks <= count)",
        caught_by=("test_k_is_the_share_of_the_batch_rounded", "trace_law"),
    ),
    "a share too small for the batch leaves none": Mistake(
        old="(share * len(outputs)).round().clamp(min=1)",
        new="(share * len(outputs)).round()",
        caught_by="test_k_is_the_share_of_the_batch_rounded",
    ),
    "weights of a trick before it are dropped": Mistake(
        old="weights * best(ctx.fake_out.logits, ctx.value(self.config.share))",
        new="best(ctx.fake_out.logits, ctx.value(self.config.share))",
        caught_by="test_weights_of_another_trick_stay",
    ),
    "of equal outputs all are kept": Mistake(
        old="(ranks < count)",
        new="(outputs >= outputs.flatten()[order][count.long() - 1]).flatten()",
        caught_by="test_they_are_the_k_largest_outputs",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """G's adversarial loss has weight 1 for the k fakes with the largest outputs, and 0 for the rest."""
    config = played.trick(name).config
    if played.calls.get("g_objective"):
        assert not played.calls.get("g_weights")
        return
    calls = played.of(name, "g_weights")
    phases = played.steps_of("g")
    assert len(calls) == len(phases)
    for call, phase in zip(calls, phases, strict=True):
        outputs = phase.fake_out.logits.flatten().tolist()
        count = max(1, round(value_at(played, config.share, phase.step) * len(outputs)))
        places = sorted(range(len(outputs)), key=lambda i: (-outputs[i], i))[:count]
        kept = [[float(i in places)] for i in range(len(outputs))]
        assert torch.equal(call.result, call.arguments[0] * torch.tensor(kept, dtype=torch.float64))


def number(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


shares = st.floats(0, 1)


# ---------------------------------------------------------------- the formula


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=12), shares)
def test_they_are_the_k_largest_outputs(values, share) -> None:
    """With ties: the earlier ones come first."""
    outputs = torch.tensor(values, dtype=torch.float64)[:, None]
    kept = best(outputs, number(share)).flatten().bool()
    count = int(kept.sum())
    assert sorted(outputs[kept].flatten().tolist()) == sorted(values)[len(values) - count :]
    for value in set(values):
        of_value = [bool(k) for k, v in zip(kept, values, strict=True) if v == value]
        assert of_value == sorted(of_value, reverse=True)
    assert count == max(1, np.round(share * len(values)))


@given(gs.SIZES, shares)
def test_k_is_the_share_of_the_batch_rounded(size, share) -> None:
    kept = best(torch.arange(float(size), dtype=torch.float64)[:, None], number(share))
    assert kept.shape == (size, 1)
    assert kept.sum().item() == max(1, round(share * size))


@given(gs.logits())
def test_the_whole_share_keeps_all(outputs) -> None:
    assert torch.equal(best(outputs, number(1.0)), torch.ones_like(outputs))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_weights_have_the_type_of_outputs_and_no_gradient(dtype) -> None:
    outputs = torch.tensor([[1.0], [3.0], [2.0]], dtype=dtype, requires_grad=True)
    kept = best(outputs, torch.tensor(0.67))
    assert kept.dtype == dtype
    assert not kept.requires_grad
    assert kept.flatten().tolist() == [0, 1, 1]


# ---------------------------------------------------------------- in a run


def test_the_generators_loss_is_the_mean_of_the_best_alone() -> None:
    played = TrickHost(batch_size=6).with_trick("top_k", share=0.5).train(3)
    for phase in played.steps_of("g"):
        top = phase.fake_out.logits.flatten().sort().values[3:]
        assert phase.terms["adversarial"] == pytest.approx(softplus(-top).mean().item(), rel=1e-9)


def test_the_discriminator_learns_from_all_fakes() -> None:
    plain, held = TrickHost().train(1), TrickHost().with_trick("top_k", share=0.25).train(1)
    assert plain.phases[0].terms == held.phases[0].terms
    for name, gradient in plain.phases[0].gradients.items():
        assert torch.equal(gradient, held.phases[0].gradients[name])


def test_the_generator_learns_as_from_a_batch_of_the_best() -> None:
    """G's gradient is that of the chosen fakes alone: those left out might as well not have been made."""

    class BestOnly(Trick):
        @hookimpl
        def g_objective(self, ctx):
            return {"best": softplus(-ctx.fake_out.logits.flatten().topk(3).values).mean()}

    ours = TrickHost(batch_size=6).with_trick("top_k", share=0.5).train(1)
    theirs = TrickHost(batch_size=6).with_trick(BestOnly).train(1)
    for name, gradient in ours.phases[1].gradients.items():
        torch.testing.assert_close(gradient, theirs.phases[1].gradients[name], rtol=1e-12, atol=1e-16)


def test_weights_of_another_trick_stay() -> None:
    class Uneven(Trick):
        @hookimpl
        def g_weights(self, weights):
            return weights * torch.arange(2.0, len(weights) + 2, dtype=weights.dtype)[:, None]

    uneven = TrickHost().with_trick(Uneven).with_trick("top_k", share=0.5).train(1)
    (call,) = uneven.of("top_k", "g_weights")
    assert call.result.count_nonzero() == 4
    assert set(call.result.flatten().tolist()) <= {0, *call.arguments[0].flatten().tolist()}


@pytest.mark.parametrize("precision", ["fp64", "fp32", "bf16"])
@pytest.mark.parametrize("batch_size", [7, 8])
def test_the_whole_batch_is_the_baseline_bit_for_bit(precision, batch_size) -> None:
    plain = TrickHost(precision=precision, batch_size=batch_size)
    assert not differences(plain.with_trick("top_k", share=1.0).train().state, plain.train().state)


def test_a_schedule_keeps_all_at_first_and_half_at_the_end() -> None:
    played = TrickHost(steps=5, batch_size=8).with_trick("top_k").train()
    kept = [int(call.result.sum()) for call in played.of("top_k", "g_weights")]
    assert kept == [8, 7, 6, 5, 4]


@pytest.mark.parametrize("objective", ["hinge", "wasserstein", "relativistic", "least_squares"])
def test_it_goes_with_every_objective(objective) -> None:
    trace_law(TrickHost().with_trick(objective).with_trick("top_k", share=0.5).train(2), "top_k")


def test_the_average_relativistic_objective_is_refused() -> None:
    with pytest.raises(UserError, match="leaves out"):
        TrickHost().with_trick("top_k").with_trick("relativistic", mode="average").plan()


@pytest.mark.parametrize("sample", [(2,), (1, 8, 8)])
def test_a_batch_of_one_keeps_its_sample(sample) -> None:
    plain = TrickHost(sample=sample, batch_size=1)
    assert not differences(plain.with_trick("top_k", share=0.1).train(2).state, plain.train(2).state)


@pytest.mark.parametrize("wrong", [-0.1, 1.1, {"start": 1.0, "end": 1.5}])
def test_shares_outside_their_bounds_are_refused(wrong) -> None:
    with pytest.raises(UserError, match="share"):
        TrickHost().with_trick("top_k", share=wrong).plan()
