"""Consistency: D pays for the distance of its scores of an image and of its flipped and moved copy."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from gantricks import Trick, UserError, hookimpl
from gantricks.plugins.consistency import Consistency, transformed
from gantricks.rng import Clock, Rng
from gantricks.testing import CONDITIONAL, Mistake, Phase, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import standard_normal, terms_are, value_at, within_chance

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({"weight": 2.0}, {}),
    "latents": (
        {"latents": {"start": 3.0, "end": 1.0}, "spread": 0.5, "noise": 0.3},
        CONDITIONAL | {"reuse_fakes": False},
    ),
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
    "one move for all latents of a batch": Mistake(
        old="rng.normal(latents.shape)",
        new="rng.normal((1, latents.shape[1]))",
        caught_by="test_latents_are_moved_each_by_itself_in_every_phase",
    ),
    "latents are moved by the variance": Mistake(
        old="latents + sigma * rng.normal(latents.shape).to(latents.dtype)",
        new="latents + sigma**2 * rng.normal(latents.shape).to(latents.dtype)",
        caught_by="test_latents_are_moved_each_by_itself_in_every_phase",
    ),
    "other latents in place of moved ones": Mistake(
        old="moved(ctx.fake_latents, self.config.noise, ctx.rng)",
        new="ctx.latents(len(ctx.fake_latents)).z",
        caught_by="test_latents_are_moved_each_by_itself_in_every_phase",
    ),
    "neighbours have classes of their own": Mistake(
        old="made.classes if network.conditional else None",
        new="ctx.latents(made.size).classes",
        caught_by="test_latents_are_moved_each_by_itself_in_every_phase",
    ),
    "replayed fakes are compared with G's new ones": Mistake(
        old="images, *described = self.made",
        new="images, *described = ctx.fake",
        caught_by="test_replayed_fakes_have_no_neighbours",
    ),
    "D's distance at latents is not squared": Mistake(
        old="(here - there).square().mean()",
        new="(here - there).abs().mean()",
        caught_by="trace_law[latents]",
    ),
    "D's score of the fake is a constant": Mistake(
        old="(here - there).square().mean()",
        new="(here.detach() - there).square().mean()",
        caught_by="test_d_pays_for_the_distance_of_both_scores",
    ),
    "G pays for reacting to its latents": Mistake(
        old="-ctx.value(self.config.spread) * distance",
        new="ctx.value(self.config.spread) * distance",
        caught_by=("trace_law[latents]", "test_g_is_paid_for_the_distance_of_its_samples"),
    ),
    "G's sample of the moved latents is a constant": Mistake(
        old="ctx.fake.images - self._neighbours(ctx.fake, ctx)",
        new="ctx.fake.images - self._neighbours(ctx.fake, ctx).detach()",
        caught_by="test_g_is_paid_for_the_distance_of_its_samples",
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
        if config.latents:
            weight, term = value_at(played, config.latents, phase.step), phase.terms[f"{name}.latents"]
            assert any(math.isclose(term, weight * gap, rel_tol=1e-9) for gap in gaps_of_halves(phase)), "of no pass"
    for phase in played.steps_of("g"):
        if config.spread:
            weight = value_at(played, config.spread, phase.step)
            assert -4 * weight <= phase.terms[f"{name}.spread"] < 0, "images are in [-1, 1], and G is paid"
    flips, down, right = torch.cat(drawn).unbind(1)
    within_chance(flips == 1, 0.5 if config.flip else 0.0, "flips")
    for each in (down, right):
        within_chance(each > 0, config.shift / (2 * config.shift + 1), "shifts to one side")
        within_chance(each == 0, 1 / (2 * config.shift + 1), "no shift")


def gaps_of_halves(phase: Phase) -> list[float]:
    """The mean squared distance of the logits of both halves, for each pass of D with two batches."""
    halves = [out.logits.chunk(2) for shown, out in phase.passes if len(shown) == 2 * phase.fake.size]
    return [float((first - second).pow(2).mean()) for first, second in halves]


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


# ---------------------------------------------------------------- latents


MOVING = {"weight": 0.0, "latents": 3.0, "spread": 0.5, "noise": 0.3}
GIVEN = IMAGES.but(**CONDITIONAL, optimizer={"name": "sgd", "lr": 1.0})


class Pass(NamedTuple):
    """One pass of G: what it was given, and its images."""

    phase: str
    z: Tensor
    classes: Tensor | None
    images: Tensor


def passes_of_g(host: TrickHost, steps: int) -> tuple[Played, list[Pass]]:
    """A recorded run, and every pass of G in it."""
    seen: list[Pass] = []

    class Seen(Trick):
        @hookimpl
        def on_setup(self, ctx):
            def note(_, given, images):
                if ctx.phase in ("d", "g"):
                    seen.append(Pass(ctx.phase, given[0].clone(), given[1], images.detach().clone()))

            ctx.generator.register_forward_hook(note)

    return host.with_trick(Seen, "seen").train(steps), seen


def test_latents_are_moved_each_by_itself_in_every_phase() -> None:
    """Passes of G come in pairs: the fakes, and their neighbours with the same classes."""
    _, seen = passes_of_g(GIVEN.but(reuse_fakes=False).with_trick("consistency", **MOVING), 20)
    assert [each.phase for each in seen] == ["d", "d", "g", "g"] * 20
    for first, second in zip(seen[::2], seen[1::2], strict=True):
        assert torch.equal(first.classes, second.classes)
    moves = [second.z - first.z for first, second in zip(seen[::2], seen[1::2], strict=True)]
    standard_normal(torch.cat(moves) / 0.3, "moves of latents")


def test_d_pays_for_the_distance_of_both_scores() -> None:
    """D's gradient gains that of λ E (D(G(z)) - D(G(T(z))))², by its definition."""
    played, seen = passes_of_g(GIVEN.with_trick("consistency", **MOVING), 1)
    plain = GIVEN.train(1).steps_of("d")[0]
    phase, network = played.steps_of("d")[0], played.game.discriminator
    weights = {name: phase.before[name].clone().requires_grad_() for name, _ in network.named_parameters()}
    here, there = (torch.func.functional_call(network, weights, (each.images, each.classes)) for each in seen[:2])
    loss = 3 * (here.logits - there.logits).pow(2).mean()
    assert phase.terms["consistency.latents"] == pytest.approx(loss.item(), rel=1e-9)
    gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    for name, gradient in zip(weights, gradients, strict=True):
        wanted = torch.zeros_like(weights[name]) if gradient is None else gradient
        torch.testing.assert_close(phase.gradients[name] - plain.gradients[name], wanted, atol=1e-9, rtol=1e-6)


def test_g_is_paid_for_the_distance_of_its_samples() -> None:
    """G's gradient gains that of -w E (G(z) - G(T(z)))², by its definition."""
    host = GIVEN.with_trick("consistency", weight=0.0, spread=0.5, noise=0.3)
    (played, seen), plain = passes_of_g(host, 1), GIVEN.train(1).steps_of("g")[0]
    phase, network = played.steps_of("g")[0], played.game.generator
    assert [each.phase for each in seen] == ["d", "g"]
    weights = {name: phase.before[name].clone().requires_grad_() for name, _ in network.named_parameters()}
    here, there = (torch.func.functional_call(network, weights, (each.z, each.classes)) for each in seen)
    loss = -0.5 * (here - there).pow(2).mean()
    assert phase.terms["consistency.spread"] == pytest.approx(loss.item(), rel=1e-9)
    gradients = torch.autograd.grad(loss, list(weights.values()))
    for name, wanted in zip(weights, gradients, strict=True):
        torch.testing.assert_close(phase.gradients[name] - plain.gradients[name], wanted, atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize("replay_first", [True, False])
def test_replayed_fakes_have_no_neighbours(replay_first) -> None:
    """Where D's step replays older fakes, the distance is still that of what G has just made."""
    tricks: list[tuple[str, dict[str, object]]] = [
        ("experience_replay", {"p": 1.0}),
        ("consistency", {**MOVING, "spread": 0.0}),
    ]
    host = GIVEN
    for trick, options in tricks if replay_first else tricks[::-1]:
        host = host.with_trick(trick, **options)
    played, seen = passes_of_g(host, 3)
    made = [each for each in seen if each.phase == "d"]
    for phase, first, second in zip(played.steps_of("d"), made[::2], made[1::2], strict=True):
        shown, out = phase.passes[-1]
        assert torch.equal(shown, torch.cat([first.images, second.images]))
        here, there = out.logits.chunk(2)
        terms_are(phase, {"consistency.latents": 3 * (here - there).pow(2).mean()})
    assert not torch.equal(played.steps_of("d")[-1].fake.images, made[-2].images)


def test_what_is_off_costs_nothing_and_has_no_term() -> None:
    played, seen = passes_of_g(IMAGES.with_trick("consistency"), 2)
    assert len(seen) == 2
    assert {term for phase in played.phases for term in phase.terms if "." in term} == {"consistency.real"}


def test_a_condition_that_g_is_not_given_is_refused_for_latents() -> None:
    host = IMAGES.but(condition=2, discriminator={"conditioned": True})
    refused = host.with_trick("consistency", latents=1.0)
    with pytest.raises(UserError, match="latents = 0"):
        refused.plan()


def test_packs_are_scored_whole() -> None:
    host = IMAGES.with_trick("packing", m=2).with_trick("consistency", **MOVING)
    for phase in host.train(2).steps_of("d"):
        assert [len(out.logits) for _, out in phase.passes][-1] == 8


# ---------------------------------------------------------------- where it does not fit


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


@pytest.mark.parametrize(
    "wrong", [{"noise": 0.0}, {"spread": -1.0}, {"latents": -1.0}, {"shift": -1}, {"shift": 1.5}, {"weight": -1.0}]
)
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        Consistency.Config(**wrong)
