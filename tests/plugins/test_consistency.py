"""Consistency: D pays for the distance of its scores of an image and of its flipped and moved copy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from gantricks import UserError
from gantricks.plugins.consistency import Consistency, transformed
from gantricks.rng import Clock, Rng
from gantricks.testing import CONDITIONAL, Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import terms_are, value_at, within_chance

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({"weight": 2.0}, {}),
    "fakes": ({"weight": {"start": 2.0, "end": 1.0}, "fakes": True, "shift": 2}, CONDITIONAL | {"n_critic": 2}),
}
REFUSED: dict[str, str] = {}

MISTAKES = {
    "one flip for the whole batch": Mistake(
        old="rng.bernoulli(count, 0.5)",
        new="rng.bernoulli(1, 0.5).expand(count)",
        caught_by="test_every_image_is_transformed_by_itself",
    ),
    "one shift for the whole batch": Mistake(
        old="rng.randint(count, 2 * far + 1)",
        new="rng.randint(1, 2 * far + 1).expand(count)",
        caught_by="test_every_image_is_transformed_by_itself",
    ),
    "shifts to one side alone": Mistake(
        old="rng.randint(count, 2 * far + 1) - far",
        new="rng.randint(count, far + 1)",
        caught_by="test_all_flips_and_shifts_are_as_likely",
    ),
    "always flipped": Mistake(
        old="rng.bernoulli(count, 0.5)",
        new="rng.bernoulli(count, 1.0)",
        caught_by=("test_all_flips_and_shifts_are_as_likely", "trace_law"),
    ),
    "the score of the image is a constant": Mistake(
        old="(logits - out.logits)",
        new="(logits.detach() - out.logits)",
        caught_by="test_gradients_flow_through_both_scores",
    ),
    "the score of the copy is a constant": Mistake(
        old="(logits - out.logits)",
        new="(logits - out.logits.detach())",
        caught_by="test_gradients_flow_through_both_scores",
    ),
    "the distance is not squared": Mistake(
        old="(logits - out.logits).square().mean()",
        new="(logits - out.logits).abs().mean()",
        caught_by="trace_law",
    ),
    "fakes are compared with copies of reals": Mistake(
        old="self._distance(ctx.fake_in, ctx.fake_out.logits, ctx)",
        new="self._distance(ctx.real_in, ctx.fake_out.logits, ctx)",
        caught_by="trace_law[fakes]",
    ),
    "copies are transformed by other tricks again": Mistake(
        old="ctx.discriminator(*batch.with_images(copies))",
        new="ctx.discriminate(batch.with_images(copies), True)",
        caught_by="test_copies_are_of_what_d_has_seen",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """D scores copies of its inputs, and pays λ times the mean squared distance to the scores of the inputs."""
    config = played.trick(name).config
    drawn: list[Tensor] = []
    for phase in played.steps_of("d"):
        weight = value_at(played, config.weight, phase.step)
        for side in ("real", "fake") if config.fakes else ("real",):
            images = getattr(phase, f"{side}_in").images
            passes = [(transforms_of(images, seen, config), out) for seen, out in phase.passes]
            found = [(which, out) for which, out in passes if which is not None]
            assert len(found) == 1, f"{len(found)} passes of copies of the {side}s"
            ((which, out),) = found
            drawn.append(which)
            distance = (getattr(phase, f"{side}_out").logits - out.logits).pow(2).mean()
            terms_are(phase, {f"{name}.{side}": weight * distance})
    flips, down, right = torch.cat(drawn).unbind(1)
    within_chance(flips == 1, 0.5 if config.flip else 0.0, "flips")
    for each in (down, right):
        within_chance(each > 0, config.shift / (2 * config.shift + 1), "shifts to one side")
        within_chance(each == 0, 1 / (2 * config.shift + 1), "no shift")


def copy_of(images: Tensor, flip: bool, down: int, right: int) -> Tensor:
    """All images moved down and to the right, then flipped, by numpy."""
    pad = max(abs(down), abs(right))
    wide = np.pad(images.numpy(), [(0, 0), (0, 0), (pad, pad), (pad, pad)], mode="reflect")
    height, width = images.shape[2:]
    part = wide[:, :, pad - down : pad - down + height, pad - right : pad - right + width]
    return torch.from_numpy((part[..., ::-1] if flip else part).copy())


def transforms_of(images: Tensor, copies: Tensor, config: Consistency.Config) -> Tensor | None:
    """The flip and the two shifts of each copy, (B, 3), or None if these are no copies of the images."""
    if images.shape != copies.shape or torch.equal(images, copies):
        return None
    found = torch.full((len(images), 3), -99)
    for flip in (False, True):
        for down in range(-config.shift, config.shift + 1):
            for right in range(-config.shift, config.shift + 1):
                same = (copy_of(images, flip, down, right) == copies).flatten(1).all(1)
                found[same] = torch.tensor([int(flip), down, right])
    return None if (found == -99).any() else found


# ---------------------------------------------------------------- the transformation


def drawn(images: Tensor, shift: int, rng: Rng) -> Tensor:
    found = transforms_of(images, transformed(images, shift, True, rng), Consistency.Config(shift=shift))
    assert found is not None
    return found


def a_stream() -> Rng:
    return Rng(0, "tricks/a", Clock(), dtype=torch.float64)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_every_image_is_transformed_by_itself() -> None:
    # wide: a flip of a narrow image is one of its moves, as what comes in is its reflection
    flips, down, right = drawn(noise(40, 2, 5, 12), 3, a_stream()).unbind(1)
    assert flips.unique().tolist() == [0, 1]
    assert min(len(down.unique()), len(right.unique())) > 4
    assert not torch.equal(down, right)


def test_all_flips_and_shifts_are_as_likely() -> None:
    flips, down, right = drawn(noise(2000, 1, 4, 4), 1, a_stream()).unbind(1)
    within_chance(flips == 1, 0.5, "flips")
    for each in (down, right):
        for shift in (-1, 0, 1):
            within_chance(each == shift, 1 / 3, f"a shift of {shift}")


@given(gs.rng(), st.integers(1, 7), st.integers(1, 7), st.integers(0, 6))
def test_images_smaller_than_the_shift_are_moved_within_their_reflection(rng, height, width, shift):
    images = noise(4, 1, height, width)
    copies = transformed(images, shift, True, rng)
    assert copies.shape == images.shape
    candidates = torch.stack(
        [
            copy_of(images, flip, down, right)
            for flip in (False, True)
            for down in range(-shift, shift + 1)
            for right in range(-shift, shift + 1)
        ]
    )
    assert (candidates == copies).flatten(2).all(2).any(0).all()


@given(gs.batches(shape=(2, 4, 4), classes=0), gs.rng())
def test_no_shift_and_no_flip_is_identity(batch, rng):
    assert torch.equal(transformed(batch.images, 0, False, rng), batch.images)


# ---------------------------------------------------------------- in a run


IMAGES = TrickHost(sample=(1, 8, 8))


def test_gradients_flow_through_both_scores() -> None:
    host = TrickHost(sample=(1, 8, 8), n_critic=1, optimizer={"name": "sgd", "lr": 1.0})
    plain, held = host.train(1), host.with_trick("consistency", weight=1.0).train(1)
    (phase,) = held.steps_of("d")
    network = held.game.discriminator
    copies = next(
        seen for seen, _ in phase.passes if transforms_of(phase.real_in.images, seen, Consistency.Config()) is not None
    )
    weights = {name: phase.before[name].clone().requires_grad_() for name, _ in network.named_parameters()}
    scores = [
        torch.func.functional_call(network, weights, (images,)).logits for images in (phase.real_in.images, copies)
    ]
    gradients = torch.autograd.grad((scores[0] - scores[1]).pow(2).mean(), list(weights.values()), allow_unused=True)
    (without,) = plain.steps_of("d")
    for name, gradient in zip(weights, gradients, strict=True):
        added = phase.gradients[name] - without.gradients[name]
        torch.testing.assert_close(
            added, torch.zeros_like(added) if gradient is None else gradient, atol=1e-9, rtol=1e-6
        )


def test_copies_are_of_what_d_has_seen() -> None:
    played = IMAGES.with_trick("instance_noise", sigma=1.0).with_trick("consistency").train(2)
    for phase in played.steps_of("d"):
        copies = [transforms_of(phase.real_in.images, seen, Consistency.Config()) for seen, _ in phase.passes]
        assert sum(each is not None for each in copies) == 1


def test_no_term_is_added_to_g() -> None:
    played = IMAGES.with_trick("consistency", fakes=True).train(2)
    assert all(set(phase.terms) == {"adversarial"} for phase in played.steps_of("g"))


def test_vectors_are_refused() -> None:
    with pytest.raises(UserError, match="image data"):
        TrickHost().with_trick("consistency").plan()


def test_batch_norm_in_d_is_warned_of():
    host = TrickHost(sample=(1, 8, 8), discriminator={"batch_norm": True, "depth": 2}).with_trick("consistency")
    (warning,) = host.plan().warnings
    assert "discriminator_batch_norm" in warning


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_batch_of_one_plays_in_every_precision(precision):
    host = TrickHost(sample=(1, 8, 8), batch_size=1, precision=precision, generator={"batch_norm": False})
    assert host.with_trick("consistency", fakes=True).train(2).game.non_finite() is None


# ---------------------------------------------------------------- options


@pytest.mark.parametrize("wrong", [{"shift": -1}, {"shift": 1.5}, {"weight": -1.0}])
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        Consistency.Config(**wrong)
