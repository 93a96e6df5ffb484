"""Instance noise: on reals and fakes, in both steps, independent each time, and gone at the end of the run."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gantricks import Schedule, UserError
from gantricks.engine import sampling
from gantricks.plugins.instance_noise import InstanceNoise, add_noise
from gantricks.rng import Clock, Rng
from gantricks.testing import MIXING, Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import standard_normal, value_at

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({"sigma": 0.3}, {}),
    "mixing": ({"sigma": {"start": 0.3, "end": 0.0}}, MIXING),
}
REFUSED: dict[str, str] = {}

MISTAKES = {
    "on reals only": Mistake(
        inside="InstanceNoise",
        new="""
            @hookimpl
            def d_input(self, batch, is_real, ctx):
                if not is_real:
                    return batch
                return batch.with_images(add_noise(batch.images, ctx.value(self.config.sigma), ctx.rng))
        """,
        caught_by="test_reals_and_fakes_are_noisy_in_the_step_of_d_and_in_that_of_g",
    ),
    "none in the G step": Mistake(
        inside="InstanceNoise",
        new="""
            @hookimpl
            def d_input(self, batch, ctx):
                if ctx.phase == "g":
                    return batch
                return batch.with_images(add_noise(batch.images, ctx.value(self.config.sigma), ctx.rng))
        """,
        caught_by="test_reals_and_fakes_are_noisy_in_the_step_of_d_and_in_that_of_g",
    ),
    "noisy images are clamped to [-1, 1]": Mistake(
        old="torch.addcmul(images, sigma.to(images.dtype), rng.normal_like(images).to(images.dtype))",
        new="torch.addcmul(images, sigma.to(images.dtype), rng.normal_like(images).to(images.dtype)).clamp(-1, 1)",
        caught_by="test_saturated_pixels_leave_their_range",
    ),
    "noise is left in samples": Mistake(
        inside="InstanceNoise",
        new="""
            @hookimpl
            def transform_generator(self, network, ctx):
                def noisy(module, args, images):
                    return add_noise(images, ctx.value(self.config.sigma), ctx.rng)

                network.register_forward_hook(noisy)
                return network
        """,
        caught_by="test_samples_and_the_drawn_batches_are_clean",
    ),
    "reals and fakes share their noise": Mistake(
        old="rng.normal_like(images)",
        new='rng.anew("noise").normal_like(images)',
        caught_by="test_noise_is_independent_each_time",
    ),
    "sigma is taken for the variance": Mistake(
        old="sigma.to(images.dtype)",
        new="sigma.sqrt().to(images.dtype)",
        caught_by="test_mean_is_the_image_and_variance_sigma_squared",
    ),
    "sigma is squared": Mistake(
        old="ctx.value(self.config.sigma)",
        new="ctx.value(self.config.sigma) ** 2",
        caught_by="trace_law",
    ),
    "D is shown noise in its own step alone": Mistake(
        old="batch.with_images(add_noise(batch.images, ctx.value(self.config.sigma), ctx.rng))",
        new="""
            batch if ctx.phase == "g" else batch.with_images(
                add_noise(batch.images, ctx.value(self.config.sigma), ctx.rng)
            )
        """,
        caught_by="trace_law",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """What D is shown is what it was plus N(0, σ²), afresh, on reals and on fakes, for D and for G; classes stay."""
    sigma = played.trick(name).config.sigma
    noise: dict[tuple[str, bool], list[Tensor]] = {}
    for call in played.of(name, "d_input"):
        (batch, is_real), strength = call.arguments, value_at(played, sigma, call.step)
        added = call.result.images - batch.images
        assert batch.classes is None or torch.equal(batch.classes, call.result.classes)
        if strength:
            noise.setdefault((call.phase, is_real), []).append(added.flatten() / strength)
        else:
            assert not added.any(), "noise at strength 0"
    assert noise.keys() >= {("d", True), ("d", False), ("g", False)}, f"noise only in {sorted(noise)}"
    for (phase, is_real), parts in noise.items():
        standard_normal(torch.cat(parts), f"noise on {'reals' if is_real else 'fakes'} in phase {phase}")
    standard_normal(torch.cat([part for parts in noise.values() for part in parts]), "all noise")


WIDE = TrickHost(sample=(512,), batch_size=32)  # 16,384 numbers in a batch: its noise can be measured


def scalar(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


# ---------------------------------------------------------------- the formula


@pytest.mark.parametrize("sigma", [0.1, 1.0])
@pytest.mark.parametrize("pixel", [-1.0, 0.3, 1.0])
def test_mean_is_the_image_and_variance_sigma_squared(sigma, pixel) -> None:
    images = torch.full((400, 3, 16, 16), pixel, dtype=torch.float64)
    noisy = add_noise(images, scalar(sigma), Rng(0, "tricks/a", Clock(), dtype=torch.float64))
    z, n = (noisy - images) / sigma, images.numel()
    assert abs(z.mean().item()) < 5.5 / math.sqrt(n)
    assert abs(z.var().item() - 1) < 5.5 * math.sqrt(2 / n)
    assert abs((z**3).mean().item()) < 5.5 * math.sqrt(15 / n)
    assert abs((z**4).mean().item() - 3) < 5.5 * math.sqrt(96 / n)


@given(gs.batches(), gs.rng(), st.floats(0, 10))
def test_noise_is_sigma_times_one_normal_draw_for_every_number(batch, rng, sigma) -> None:
    noisy = add_noise(batch.images, scalar(sigma), rng)
    rng._clock.enter(rng._clock.phase, rng._clock.critic)  # the same draws again
    expected = [
        x + sigma * e
        for x, e in zip(batch.images.flatten().tolist(), rng.normal_like(batch.images).flatten().tolist(), strict=True)
    ]
    torch.testing.assert_close(noisy.flatten(), torch.tensor(expected, dtype=torch.float64), rtol=1e-14, atol=1e-14)


@given(gs.batches(), gs.rng())
def test_zero_sigma_is_identity(batch, rng) -> None:
    assert torch.equal(add_noise(batch.images, scalar(0.0), rng), batch.images)


@given(gs.batches(), gs.rng(), st.floats(0, 10))
def test_the_gradient_of_the_output_by_the_image_is_one(batch, rng, sigma) -> None:
    images = batch.images.clone().requires_grad_()
    weights = torch.arange(1, images.numel() + 1, dtype=torch.float64).reshape(images.shape)
    (weights * add_noise(images, scalar(sigma), rng)).sum().backward()
    assert torch.equal(images.grad, weights)


@given(gs.rng(), st.sampled_from([torch.float64, torch.float32, torch.bfloat16]))
def test_the_images_type_is_kept(rng, dtype) -> None:
    assert add_noise(torch.zeros((2, 1, 4, 4), dtype=dtype), scalar(0.1), rng).dtype == dtype


def test_saturated_pixels_leave_their_range() -> None:
    images = torch.ones((64, 1, 8, 8), dtype=torch.float64)
    noisy = add_noise(images, scalar(0.5), Rng(0, "tricks/a", Clock(), dtype=torch.float64))
    assert (noisy > 1).double().mean().item() == pytest.approx(0.5, abs=0.05)


# ---------------------------------------------------------------- in a run


def noises(host: TrickHost, steps: int) -> list[tuple[bool, torch.Tensor]]:
    """Whether each call of `d_input` was for reals, and the noise it added, in order."""
    calls = host.train(steps).calls["d_input"]
    return [(call.arguments[1], (call.result.images - call.arguments[0].images).flatten()) for call in calls]


def test_reals_and_fakes_are_noisy_in_the_step_of_d_and_in_that_of_g() -> None:
    added = noises(WIDE.with_trick("instance_noise", sigma=0.5), 1)
    assert [is_real for is_real, _ in added] == [True, False, False]  # D: reals, fakes; G: fakes
    for _, noise in added:
        assert noise.std().item() == pytest.approx(0.5, rel=0.04)


def test_what_d_is_fed_is_noisy_in_every_pass() -> None:
    mixing = {"batch_norm": True, "depth": 2}
    host = TrickHost(sample=(1, 8, 8), discriminator=mixing).with_trick("instance_noise", sigma=2.0)
    game, fed = host.game(), []
    game.discriminator.register_forward_pre_hook(lambda _, inputs: fed.append(inputs[0]))
    game.advance()
    assert [len(images) for images in fed] == [16, 16]  # joint passes: in the G step beside noisy reals too
    for images in fed:
        assert (images.flatten(1).abs().amax(1) > 1).all()


@pytest.mark.parametrize("n_critic", [1, 2])
def test_noise_is_independent_each_time(n_critic) -> None:
    added = noises(WIDE.but(n_critic=n_critic).with_trick("instance_noise", sigma=1.0), 2)
    assert len(added) == 2 * (2 * n_critic + 1)
    for (_, one), (_, other) in combinations(added, 2):
        assert abs(torch.corrcoef(torch.stack([one, other]))[0, 1].item()) < 5.5 / math.sqrt(len(one))


def test_noise_of_different_images_is_independent() -> None:
    (_, noise), *_ = noises(WIDE.with_trick("instance_noise", sigma=1.0), 1)
    rows = noise.reshape(32, 512)
    between = torch.corrcoef(rows) - torch.eye(32, dtype=torch.float64)
    assert between.abs().max().item() < 6 / math.sqrt(512)


def test_by_default_sigma_falls_from_a_tenth_to_exactly_zero_over_the_run() -> None:
    added = noises(WIDE.with_trick("instance_noise"), 8)
    for call, (_, noise) in enumerate(added):
        sigma = 0.1 * (1 - (call // 3) / 7)
        assert noise.std().item() == pytest.approx(sigma, rel=0.04)
    for _, noise in added[-3:]:
        assert not noise.any()
    by_step = [added[3 * step][1].std().item() for step in range(8)]
    assert by_step == sorted(by_step, reverse=True)


def test_a_schedule_that_ends_early_rests_at_its_end() -> None:
    host = WIDE.with_trick("instance_noise", sigma={"start": 0.2, "end": 0.0, "until": 0.5})
    silent = [not noise.any() for _, noise in noises(host, 8)][::3]
    assert silent == [False] * 4 + [True] * 4


def test_samples_and_the_drawn_batches_are_clean() -> None:
    host = TrickHost(sample=(1, 8, 8)).with_trick("instance_noise", sigma=5.0)
    played = host.train(2)
    assert abs(sampling.sample(played.game, 16, seed=0)).max() <= 1
    for call in played.calls["d_input"]:
        assert call.arguments[0].images.abs().max() <= 1


def test_classes_stay_with_their_images() -> None:
    host = TrickHost(classes=3, generator={"conditional": True}, discriminator={"conditional": True})
    for call in host.with_trick("instance_noise").train(2).calls["d_input"]:
        assert torch.equal(call.arguments[0].classes, call.result.classes)


# ---------------------------------------------------------------- options


def test_the_default_is_a_tenth_falling_to_zero() -> None:
    assert InstanceNoise.Config().sigma == Schedule(start=0.1, end=0.0)


@pytest.mark.parametrize("sigma", [-0.1, {"start": 0.1, "end": -0.1}, 11.0])
def test_sigma_out_of_range_is_refused(sigma) -> None:
    with pytest.raises(UserError, match="sigma"):
        TrickHost().with_trick("instance_noise", sigma=sigma).plan()
