"""Feature matching: the distance of two means, whatever the pairing and the sizes; the gradient is G's alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gantricks import Trick, hookimpl
from gantricks.plugins.feature_matching import feature_distance
from gantricks.testing import CONDITIONAL, Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import terms_are

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({}, {}),
    "conditional": ({"norm": "l1"}, CONDITIONAL),
    "fresh": ({"fresh": True}, {"n_critic": 2}),
}
REFUSED: dict[str, str] = {}

MISTAKES = {
    "elementwise error between paired samples": Mistake(
        old="real.detach().to(dtype).mean(0) - fake.to(dtype).mean(0)",
        new="real.detach().to(dtype)[: len(fake)] - fake.to(dtype)[: len(real)]",
        caught_by="test_permuting_either_batch_changes_nothing",
    ),
    "the real branch carries gradient": Mistake(
        old="real.detach().to(dtype)",
        new="real.to(dtype)",
        caught_by="test_only_the_fakes_carry_gradient",
    ),
    "the sum over features instead of the mean": Mistake(
        old='gap.square().mean() if norm == "l2" else gap.abs().mean()',
        new='gap.square().sum() if norm == "l2" else gap.abs().mean()',
        caught_by="test_it_is_the_mean_over_features_of_the_distance_between_means",
    ),
    "a fresh batch is that of the D step again": Mistake(
        old="ctx.another_real()",
        new="ctx.real",
        caught_by="test_a_fresh_batch_is_the_next_of_the_data",
    ),
    "a fresh batch is shown without what D's input goes through": Mistake(
        old="ctx.d_input(ctx.another_real(), True)",
        new="ctx.another_real()",
        caught_by="test_a_fresh_batch_is_the_next_of_the_data",
    ),
    "samples are matched one by one": Mistake(
        old="real.detach().to(dtype).mean(0) - fake.to(dtype).mean(0)",
        new="real.detach().to(dtype) - fake.to(dtype)",
        caught_by="trace_law",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """G's objective is the distance between the mean features of reals and of its fakes, and nothing adversarial."""
    norm = played.trick(name).config.norm
    assert len(played.of(name, "g_objective")) == len(played.steps_of("g"))
    for phase in played.steps_of("g"):
        if played.trick(name).config.fresh:  # of a batch that the record does not hold
            assert phase.terms[f"{name}.distance"] > 0
        else:
            real, fake = phase.real_out.features, phase.fake_out.features
            pairs = zip(real.T.tolist(), fake.T.tolist(), strict=True)
            gaps = [sum(r) / len(real) - sum(f) / len(fake) for r, f in pairs]
            distances = [gap * gap if norm == "l2" else abs(gap) for gap in gaps]
            terms_are(phase, {f"{name}.distance": sum(distances) / len(distances)})
        assert "adversarial" not in phase.terms


norms = st.sampled_from(["l2", "l1"])
MIXING_HOST = {"sample": (1, 8, 8), "discriminator": {"batch_norm": True, "depth": 2}}


@st.composite
def features(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Features of a real and a fake batch, of any two sizes."""
    width = draw(st.integers(1, 6))
    return tuple(draw(gs.tensors((draw(st.integers(1, 9)), width))) for _ in range(2))


# ---------------------------------------------------------------- the formula


@given(features(), norms)
def test_it_is_the_mean_over_features_of_the_distance_between_means(pair, norm) -> None:
    real, fake = (batch.numpy() for batch in pair)
    gaps = [real[:, a].sum() / len(real) - fake[:, a].sum() / len(fake) for a in range(real.shape[1])]
    expected = sum(gap * gap if norm == "l2" else abs(gap) for gap in gaps) / len(gaps)
    assert feature_distance(*pair, norm).item() == pytest.approx(expected, rel=1e-12, abs=1e-15)


@given(features(), norms)
def test_equal_batches_are_at_distance_zero(pair, norm) -> None:
    assert feature_distance(pair[0], pair[0].clone(), norm).item() == 0


@given(features(), norms, st.randoms(use_true_random=False))
def test_permuting_either_batch_changes_nothing(pair, norm, random) -> None:
    shuffled = [batch[random.sample(range(len(batch)), len(batch))] for batch in pair]
    torch.testing.assert_close(feature_distance(*shuffled, norm), feature_distance(*pair, norm), rtol=0, atol=1e-13)


@given(features(), norms)
def test_repeating_a_batch_changes_nothing(pair, norm) -> None:
    """Only the mean counts: neither the size of a batch nor how its rows would pair with the other's."""
    real, fake = pair
    repeated = feature_distance(real.repeat(3, 1), fake.repeat_interleave(2, 0), norm)
    torch.testing.assert_close(repeated, feature_distance(real, fake, norm), rtol=0, atol=1e-13)


@given(features(), norms)
def test_only_the_fakes_carry_gradient(pair, norm) -> None:
    real, fake = (batch.requires_grad_() for batch in pair)
    feature_distance(real, fake, norm).backward()
    assert real.grad is None
    gap = (fake.detach().mean(0) - real.detach().mean(0)).numpy()
    slope = 2 * gap if norm == "l2" else np.sign(gap)
    expected = np.broadcast_to(slope / (fake.shape[0] * fake.shape[1]), fake.shape)
    np.testing.assert_allclose(fake.grad.numpy(), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("dtype", "result"), [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64,) * 2]
)
def test_means_are_taken_in_float32_at_least(dtype, result) -> None:
    real = torch.ones((300, 1), dtype=dtype)
    real[0] = 100  # in bfloat16 the mean, 1.33, would be rounded by more than 1e-3
    distance = feature_distance(real, torch.ones((300, 1), dtype=dtype), "l1")
    assert distance.dtype == result
    assert distance.item() == pytest.approx(99 / 300, rel=1e-5)


# ---------------------------------------------------------------- in a run


class Watch(Trick):
    """Records what a G step holds when its loss is made."""

    def __init__(self, config: object) -> None:
        super().__init__(config)
        self.seen: list[tuple[Tensor, Tensor]] = []

    @hookimpl
    def g_loss_terms(self, ctx):
        assert not ctx.real_out.features.requires_grad
        self.seen.append((ctx.real_out.features, ctx.fake_out.features.detach()))
        return {}


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("setting", [{}, MIXING_HOST], ids=["plain", "mixing"])
def test_it_replaces_the_generators_loss_and_nothing_else(norm, setting) -> None:
    played = TrickHost(**setting).with_trick("feature_matching", norm=norm).with_trick(Watch).train(4)
    watch = played.game.plan.tricks[-1].trick
    assert len(watch.seen) == len(played.scalars) == 4
    for scalars, (real, fake) in zip(played.scalars, watch.seen, strict=True):
        assert [name for name in scalars if name.startswith("loss/g.")] == ["loss/g.feature_matching.distance"]
        assert [name for name in scalars if name.startswith("loss/d.")] == ["loss/d.real", "loss/d.fake"]
        gap = real.numpy().mean(0) - fake.numpy().mean(0)
        expected = np.square(gap).mean() if norm == "l2" else np.abs(gap).mean()
        assert scalars["loss/g"] == pytest.approx(expected, rel=1e-12)


def test_the_real_features_are_those_of_the_updated_discriminator() -> None:
    host = TrickHost().with_trick("feature_matching").with_trick(Watch)
    game = host.game()
    game.advance()
    real = game.feed.take(game.feed._indices(0, 8))
    expected = game.discriminator(*real).features  # the G step leaves D as the D step made it
    assert torch.equal(game.plan.tricks[-1].trick.seen[0][0], expected)


def test_the_generator_gets_the_gradient_and_the_discriminator_none() -> None:
    game = TrickHost(reuse_fakes=False).with_trick("feature_matching").game()
    game.step.d_step()
    for parameter in game.players["d"].parameters:
        parameter.grad = None
    game.step.g_step()
    assert all(parameter.grad is None for parameter in game.players["d"].parameters)
    assert all(parameter.grad.abs().sum() > 0 for parameter in game.players["g"].parameters)


class Halved(Trick):
    """D sees half of what there is."""

    @hookimpl
    def d_input(self, batch):
        return batch.with_images(batch.images / 2)


def test_a_fresh_batch_is_the_next_of_the_data() -> None:
    played = TrickHost().with_trick("feature_matching", fresh=True).with_trick(Halved).with_trick(Watch).train(1)
    game = played.game
    assert game.feed.cursor == 16, "8 samples for D, 8 for G"
    batch = game.feed.take(game.feed._indices(8, 8))
    expected = game.discriminator(*batch.with_images(batch.images / 2)).features
    fake = game.plan.tricks[-1].trick.seen[0][1]
    distance = played.scalars[0]["loss/g.feature_matching.distance"]
    assert feature_distance(expected, fake).item() == pytest.approx(distance, rel=1e-12)
