"""Wasserstein: the gap of D's mean outputs, and a D whose weights are clipped after its updates alone."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gantricks import Trick, TrickError, hookimpl
from gantricks.plugins.wasserstein import Wasserstein, clip_
from gantricks.testing import MIXING, Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import adversarial_terms_are
from gantricks.testing.record import differences

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({}, {}),
    "clipped": ({"clip": 0.05}, {"n_critic": 2}),
    "mixing": ({"clip": 0.05}, MIXING),
}
REFUSED: dict[str, str] = {
    "balance_gate": "needs decision",
    "hinge": "adversarial_loss",
    "label_flipping": "needs targets",
    "label_smoothing": "needs targets",
    "least_squares": "adversarial_loss",
    "minimax": "adversarial_loss",
    "semi_supervised": "no critic's value",
    "soft_labels": "needs targets",
}

MISTAKES = {
    "D narrows the gap": Mistake(
        old='{"real": -real.logits, "fake": fake.logits}',
        new='{"real": real.logits, "fake": -fake.logits}',
        caught_by=("signs", "trace_law"),
    ),
    "G widens the gap": Mistake(
        inside="Objective.g_loss",
        old="-fake.logits",
        new="fake.logits",
        caught_by=("signs", "trace_law"),
    ),
    "the loss is taken of a sigmoid": Mistake(
        old='{"real": -real.logits, "fake": fake.logits}',
        new='{"real": -real.logits.sigmoid(), "fake": fake.logits.sigmoid()}',
        caught_by="trace_law",
    ),
    "G's weights are clipped": Mistake(
        old="[*ctx.discriminator.parameters()]",
        new="[*ctx.generator.parameters()]",
        caught_by="other-player",
    ),
    "only the weights of D's head are clipped": Mistake(
        old="[*ctx.discriminator.parameters()]",
        new="[*ctx.discriminator.head.parameters()]",
        caught_by="trace_law[clipped]",
    ),
    "weights are clipped from above alone": Mistake(
        old="weight.clamp_(-bound, bound)",
        new="weight.clamp_(max=bound)",
        caught_by=("test_clipping_brings_each_number_to_the_nearest_within_the_limit", "trace_law[clipped]"),
    ),
    "gradients are clipped, and not weights": Mistake(
        inside="Wasserstein",
        old="clip_([*ctx.discriminator.parameters()], self.config.clip, ctx.updated)",
        new="clip_([p.grad for p in ctx.discriminator.parameters()], self.config.clip, ctx.updated)",
        caught_by="trace_law[clipped]",
    ),
    "weights are clipped behind a closed gate too": Mistake(
        old="torch.full_like(updated, limit, dtype=weights[0].dtype).masked_fill(updated == 0, torch.inf)",
        new="torch.full_like(updated, limit, dtype=weights[0].dtype)",
        caught_by=("test_a_discriminator_that_was_not_updated_is_not_clipped",),
    ),
}


def trace_law(played: Played, name: str) -> None:
    """D's losses are -s on reals and s on fakes, G's is -s. D's weights are within `clip` after each of its updates."""
    adversarial_terms_are(played, lambda s, t: (1 - 2 * t) * s, lambda s, t: -s)
    limit = played.trick(name).config.clip or math.inf
    weights = dict(played.game.discriminator.named_parameters())
    for phase in played.steps_of("d"):
        for weight in weights:
            assert not phase.updated or phase.after[weight].abs().max() <= limit, f"{weight} is beyond {limit}"
    assert played.game.step.loss.undecided is None


limits = st.floats(1e-3, 10)
YES, NO = torch.ones(()), torch.zeros(())


# ---------------------------------------------------------------- the formulas


@given(gs.tensors((3, 2), scale=3.0), gs.tensors((4,), scale=3.0), limits)
def test_clipping_brings_each_number_to_the_nearest_within_the_limit(a, b, limit) -> None:
    expected = [[min(max(x, -limit), limit) for x in tensor.flatten().tolist()] for tensor in (a, b)]
    clip_([a, b], limit, YES)
    assert [a.flatten().tolist(), b.flatten().tolist()] == expected


@given(gs.tensors((3, 2), scale=3.0), limits)
def test_without_an_update_nothing_is_clipped(weights, limit) -> None:
    before = weights.clone()
    clip_([weights], limit, NO)
    assert torch.equal(weights, before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_clipping_keeps_the_type_and_what_is_not_finite(dtype) -> None:
    weights = torch.tensor([3.0, -3.0, 0.25, torch.nan], dtype=dtype)
    clip_([weights], 0.5, YES)
    assert weights.dtype == dtype
    assert weights[:3].tolist() == [0.5, -0.5, 0.25]
    assert weights[3].isnan()  # a fault must not be hidden


# ---------------------------------------------------------------- in a run


def test_the_losses_are_the_gap_and_the_slopes_are_one_over_the_batch() -> None:
    game = TrickHost(batch_size=4).with_trick("wasserstein").game()
    game.step.d_step()
    real, fake = (game.frame.logits[side].mean().item() for side in ("real", "fake"))
    game.step.g_step()
    logged = game.scalars()[0]
    assert logged["loss/d"] == pytest.approx(fake - real, rel=1e-12, abs=1e-15)
    assert logged["loss/g"] == pytest.approx(-game.frame.fake_out.logits.mean().item(), rel=1e-12)


def test_a_constant_added_to_all_outputs_changes_no_gradient() -> None:
    """Only differences of outputs count, which is why none of them means "undecided"."""

    class Raised(Trick):
        @hookimpl
        def d_scores(self, real, fake, ctx):
            outs = ctx.discriminator(*real), ctx.discriminator(*fake)
            return tuple(out._replace(logits=out.logits + 100) for out in outs)

    host = TrickHost(sample=(2,)).with_trick("separate_batches")
    plain = host.with_trick("wasserstein").train(1)
    raised = TrickHost(sample=(2,)).with_trick(Raised).with_trick("wasserstein").train(1)
    for name, gradient in plain.phases[0].gradients.items():
        torch.testing.assert_close(raised.phases[0].gradients[name], gradient, rtol=0, atol=1e-15)


def test_no_output_is_undecided() -> None:
    class Asks(Trick):
        @hookimpl
        def after_d_step(self, ctx):
            ctx.undecided  # noqa: B018

    with pytest.raises(TrickError):
        TrickHost().with_trick("wasserstein").with_trick(Asks).train(1)


def test_a_discriminator_that_was_not_updated_is_not_clipped() -> None:
    class Closed(Trick):
        @hookimpl
        def d_gate(self, open):
            return open * 0

    played = TrickHost().with_trick("wasserstein", clip=1e-3).with_trick(Closed).train(2)
    for phase in played.steps_of("d"):
        for weight in dict(played.game.discriminator.named_parameters()):
            assert torch.equal(phase.after[weight], phase.before[weight])
            assert phase.after[weight].abs().max() > 1e-3 or not phase.after[weight].any()


def test_a_limit_that_no_weight_meets_changes_no_bit() -> None:
    free, wide = (TrickHost().with_trick("wasserstein", **options).train() for options in ({}, {"clip": 1e6}))
    assert not differences(free.state, wide.state)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_weights_are_clipped_in_every_precision(precision) -> None:
    played = TrickHost(precision=precision).with_trick("wasserstein", clip=0.1).train(2)
    sizes = [p.detach().abs().max().item() for p in played.game.discriminator.parameters()]
    assert max(sizes) == pytest.approx(0.1)


@pytest.mark.parametrize("wrong", [0.0, -0.1, math.inf, math.nan])
def test_limits_that_leave_no_weight_are_refused(wrong) -> None:
    with pytest.raises(ValidationError):
        Wasserstein.Config(clip=wrong)
