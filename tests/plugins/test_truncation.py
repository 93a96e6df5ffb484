"""Laws of truncation: the truncated normal distribution by its quantiles, per class, in samples and nowhere else."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gantricks import Latents, UserError
from gantricks.engine import sampling
from gantricks.plugins.truncation import FAR, Truncation, truncate
from gantricks.rng import Clock, Rng
from gantricks.testing import CONDITIONAL, Mistake, Played, Settings, TrickHost
from gantricks.testing.measure import close, standard_uniform
from gantricks.testing.record import differences, same_bits

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({"limit": 0.5}, {}),
    "classes": ({"per_class": [0.5, 9.0, 1.5]}, CONDITIONAL),
}
REFUSED: dict[str, str] = {"spherical_latents": "cuts off the tails of Gaussian latents"}

MISTAKES = {
    "clipped and not drawn anew": Mistake(
        old="(math.sqrt(2) * torch.erfinv(share)).clamp(-bound, bound)",
        new="wide.clamp(-bound, bound)",
        caught_by=("test_it_is_the_truncated_normal_by_quantiles", "trace_law"),
    ),
    "shrunk by a factor": Mistake(
        old="(math.sqrt(2) * torch.erfinv(share)).clamp(-bound, bound)",
        new="(wide * bound).clamp(-bound, bound)",
        caught_by=("test_it_is_the_truncated_normal_by_quantiles", "trace_law"),
    ),
    "infinite far out": Mistake(
        old="(math.sqrt(2) * torch.erfinv(share)).clamp(-bound, bound)",
        new="math.sqrt(2) * torch.erfinv(share)",
        caught_by="test_the_tails_come_near_the_limit_and_stay_within",
    ),
    "training draws truncated latents too": Mistake(
        inside="Truncation",
        new="""
            @hookimpl
            def latents(self, z, ctx):
                return truncate(z, self.config.limit)
        """,
        caught_by="test_training_is_what_it_is_without_the_trick",
    ),
    "limits go by the place in the batch": Mistake(
        old="each[given.classes]",
        new="each[torch.arange(given.z.shape[0]) % len(each)]",
        caught_by="test_each_class_has_its_own_limit",
    ),
    "classes are forgotten": Mistake(
        old="each[given.classes]",
        new="each[:1].expand(given.z.shape[0])",
        caught_by=("test_each_class_has_its_own_limit", "trace_law[classes]"),
    ),
}


def quantiles(z: torch.Tensor, limit: float) -> torch.Tensor:
    """Φ⁻¹(Φ(-l) + Φ(z) (Φ(l) - Φ(-l))), number by number, in the lower half, where Φ has all of its digits."""
    normal = NormalDist()
    tail = normal.cdf(-limit)
    lower = [normal.inv_cdf(tail + normal.cdf(-abs(x)) * (1 - 2 * tail)) for x in z.flatten().tolist()]
    return -torch.tensor(lower, dtype=z.dtype).reshape(z.shape) * z.sign()


def trace_law(played: Played, name: str) -> None:
    """Latents of samples are the quantiles of the truncated normal of their class; nothing else changes."""
    config = played.trick(name).config
    sampling.sample(played.game, 6, seed=3)
    for call in played.of(name, "sampling_latents"):
        (before,), after = call.arguments, call.result
        assert call.phase == "sample"
        assert before.classes is after.classes or same_bits(before.classes, after.classes)
        for row, (z, moved) in enumerate(zip(before.z, after.z, strict=True)):
            limit = config.per_class[int(before.classes[row])] if config.per_class else config.limit
            close(moved, quantiles(z, limit) if limit < FAR else z, "a truncated latent", rtol=1e-8, atol=1e-10)


def normals(*shape: int) -> torch.Tensor:
    return Rng(0, "latents", Clock(), dtype=torch.float64).normal(shape)


# ---------------------------------------------------------------- the map


@pytest.mark.parametrize("limit", [0.04, 0.5, 1.0, 2.0, 5.0])
def test_it_is_the_truncated_normal_by_quantiles(limit):
    z = torch.cat([normals(500), torch.tensor([0.0, 1e-9, -1e-9, 4.0, -4.0], dtype=torch.float64)])
    close(truncate(z, limit), quantiles(z, limit), "a quantile", rtol=1e-8, atol=1e-10)
    tail = NormalDist().cdf(-limit)
    drawn = truncate(normals(20_000), limit)
    standard_uniform((torch.special.ndtr(drawn) - tail) / (1 - 2 * tail), "the distribution function")


@given(st.floats(0.01, 8.9), st.lists(st.floats(-40, 40), min_size=2, max_size=8))
def test_it_is_odd_increasing_and_within_the_limit(limit, numbers):
    z = torch.tensor(sorted(numbers), dtype=torch.float64)
    out = truncate(z, limit)
    assert (out.abs() <= limit).all()
    assert (out.diff() >= 0).all()
    assert same_bits(truncate(-z, limit), -out)
    # the share of the numbers within the limit is below 1, so that every number moves towards 0, but for rounding
    assert (out.abs() <= z.abs() * (1 + 1e-9) + 1e-12).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_tails_come_near_the_limit_and_stay_within(dtype):
    z = torch.tensor([40.0, -40.0, 12.0, 0.0], dtype=dtype)
    for limit in (0.5, 2.0, 8.5):
        out = truncate(z, limit)
        assert out.dtype == dtype
        torch.testing.assert_close(out, torch.tensor([limit, -limit, limit, 0.0], dtype=dtype))


def test_a_limit_that_no_draw_reaches_changes_nothing():
    z = normals(1000, 3)
    assert same_bits(truncate(z, FAR), z)
    assert math.erfc(FAR / math.sqrt(2)) < 1e-18
    # from there on nothing jumps: just below, the map is the identity to the last digits
    close(truncate(z, FAR - 1e-6), z, "a latent", rtol=1e-9)


# ---------------------------------------------------------------- in a run


def test_each_class_has_its_own_limit():
    trick = Truncation(Truncation.Config(per_class=(0.5, 9.0, 1.5)))
    given, classes = normals(40, 3), torch.tensor([2, 2, 0, 1] * 10)
    out = trick.sampling_latents(Latents(given, classes), None)
    assert out.classes is classes
    for k, limit in enumerate((0.5, FAR, 1.5)):
        assert same_bits(out.z[classes == k], truncate(given[classes == k], limit))


def seen_by_g(game, draw) -> torch.Tensor:
    latents: list[torch.Tensor] = []
    handle = sampling.sampling_generator(game, 0).register_forward_pre_hook(lambda _, args: latents.append(args[0]))
    draw()
    handle.remove()
    return torch.cat(latents)


def test_samples_are_made_of_truncated_latents_whoever_stands_before_it():
    host = TrickHost(latent_dim=6)
    plain = host.game()
    before = seen_by_g(plain, lambda: sampling.sample(plain, 70, 5))
    one = host.with_trick("truncation", limit=0.5)
    for each in (one, one.with_trick("ema"), host.with_trick("ema").with_trick("truncation", limit=0.5)):
        game = each.game()
        assert same_bits(seen_by_g(game, lambda game=game: sampling.sample(game, 70, 5)), truncate(before, 0.5))


def test_training_is_what_it_is_without_the_trick():
    host = TrickHost()
    plain, cut = host.train(3), host.with_trick("truncation", limit=0.1).train(3)
    assert not differences(plain.state, cut.state)
    assert not np.array_equal(sampling.sample(plain.game, 4, 0), sampling.sample(cut.game, 4, 0))


def test_walks_stay_within_the_limit_and_do_not_jump():
    game = TrickHost(latent_dim=3).with_trick("truncation", limit=0.7).game()
    z = seen_by_g(game, lambda: sampling.walk(game, 2, 300, seed=0)).reshape(2, 300, 3)
    assert (z.abs() <= 0.7).all()
    assert z.abs().max() > 0.4
    # Φ' is at most 0.4 and the ends are a few standard deviations apart
    assert z.diff(dim=1).abs().max() < 0.05


def test_limits_per_class_need_classes_and_one_limit_for_each():
    with pytest.raises(UserError, match="truncation needs generator_conditional"):
        TrickHost().with_trick("truncation", per_class=[1.0]).plan()
    conditional = TrickHost(sample=(1, 8, 8), classes=3, generator={"conditional": True})
    with pytest.raises(UserError, match="per_class has 2 limits, and the data 3 classes"):
        conditional.with_trick("truncation", per_class=[1.0, 1.0]).plan()
    conditional.with_trick("truncation", per_class=[1.0, 1.0, 2.0]).plan()


@pytest.mark.parametrize("limit", [0.0, -1.0, math.inf, math.nan, 9.5])
def test_limits_that_mean_nothing_are_refused(limit):
    with pytest.raises(ValidationError):
        Truncation.Config(limit=limit)
    with pytest.raises(ValidationError):
        Truncation.Config(per_class=(1.0, limit))
