"""Mode seeking: one ratio of mean absolute differences, of pairs of one class, with G's gradient in the samples."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gantricks import UserError
from gantricks.plugins.mode_seeking import mode_seeking
from gantricks.testing import CONDITIONAL, Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import terms_are, value_at

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({"weight": 0.3}, {}),
    "conditional": ({"weight": {"start": 1.0, "end": 0.5}}, CONDITIONAL | {"n_critic": 2}),
}
REFUSED: dict[str, str] = {}

MISTAKES = {
    "pairs of different classes": Mistake(
        old="(classes[1:] == classes[:-1]).to(dtype)",
        new="torch.ones_like(met)",
        caught_by=("test_it_is_the_ratio_of_mean_differences", "trace_law[conditional]"),
    ),
    "the ratio is turned around": Mistake(
        old="some / (ratio + EPSILON)",
        new="some * (ratio + EPSILON)",
        caught_by=("test_it_is_the_ratio_of_mean_differences", "trace_law"),
    ),
    "no latents: samples are pushed apart whatever they come from": Mistake(
        old="of_images / (of_latents + 1 - some)",
        new="of_images / (met.sum() + 1 - some)",
        caught_by=("test_it_is_the_ratio_of_mean_differences", "trace_law"),
    ),
    "squared distances": Mistake(
        old="images.diff(dim=0).abs().mean(1)",
        new="images.diff(dim=0).square().mean(1)",
        caught_by=("test_it_is_the_ratio_of_mean_differences", "trace_law"),
    ),
    "the samples are detached": Mistake(
        old="mode_seeking(ctx.fake.images, ctx.fake_latents, ctx.fake.classes)",
        new="mode_seeking(ctx.fake.images.detach(), ctx.fake_latents, ctx.fake.classes)",
        caught_by="active",
    ),
}


def expected(images, latents, classes) -> float:
    """The formula, pair by pair, in lists."""
    rows = [(x.flatten().tolist(), z.tolist()) for x, z in zip(images, latents, strict=True)]
    order = range(len(rows)) if classes is None else sorted(range(len(rows)), key=lambda i: (int(classes[i]), i))
    order = list(order)
    of_images, of_latents = [], []
    for i, j in pairwise(order):
        if classes is None or classes[i] == classes[j]:
            for sums, part in ((of_images, 0), (of_latents, 1)):
                a, b = rows[i][part], rows[j][part]
                sums.append(sum(abs(x - y) for x, y in zip(a, b, strict=True)) / len(a))
    return 1 / (sum(of_images) / sum(of_latents) + 1e-5) if of_images else 0.0


def trace_law(played: Played, name: str) -> None:
    """G's loss has the weight over the ratio of the mean differences of its fakes and of their latents."""
    weight = played.trick(name).config.weight
    for phase in played.steps_of("g"):
        found = expected(phase.fake.images, phase.fake_latents, phase.fake.classes)
        terms_are(phase, {f"{name}.alike": value_at(played, weight, phase.step) * found})


@given(gs.batches(), gs.rng())
def test_it_is_the_ratio_of_mean_differences(batch, rng) -> None:
    z = rng.normal((batch.size, 3))
    found = mode_seeking(batch.images, z, batch.classes).item()
    assert found == pytest.approx(expected(batch.images, z, batch.classes), rel=1e-9)


@given(gs.tensors((5, 3)), gs.tensors((5, 2)), st.floats(0.1, 10))
def test_only_the_ratio_of_the_scales_counts(images, z, scale) -> None:
    torch.testing.assert_close(mode_seeking(scale * images, scale * z, None), mode_seeking(images, z, None))


def test_without_a_pair_the_term_and_its_gradient_are_zero() -> None:
    images = torch.rand(3, 2, dtype=torch.float64, requires_grad=True)
    found = mode_seeking(images, torch.rand(3, 4, dtype=torch.float64), torch.arange(3))
    (gradient,) = torch.autograd.grad(found, images)
    assert found == 0
    assert not gradient.any()


def test_equal_samples_give_a_finite_term_and_gradient() -> None:
    images = torch.zeros(4, 2, requires_grad=True)
    found = mode_seeking(images, torch.rand(4, 3), None)
    (gradient,) = torch.autograd.grad(found, images)
    assert found.item() == pytest.approx(1e5)
    assert gradient.isfinite().all()


def test_half_precision_is_summed_in_float32() -> None:
    found = mode_seeking(torch.rand(4, 2).bfloat16(), torch.rand(4, 3).bfloat16(), None)
    assert found.dtype == torch.float32


def test_a_batch_of_one_is_refused() -> None:
    with pytest.raises(UserError, match="no pair of samples"):
        TrickHost(batch_size=1).with_trick("mode_seeking").plan()
