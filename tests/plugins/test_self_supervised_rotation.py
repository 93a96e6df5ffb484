"""SS-GAN: D learns rotations of reals, and G is rewarded for fakes whose rotation D can tell."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gantricks import Out, Trick, UserError, hookimpl
from gantricks.plugins.self_supervised_rotation import SelfSupervisedRotation, rotation_loss, rotations
from gantricks.testing import MIXING, Mistake, Phase, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import value_at, within_chance
from gantricks.testing.record import differences

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({}, {}),
    "mixing": ({"real": {"start": 2.0, "end": 0.5}, "fake": 0.7}, MIXING | {"n_critic": 2}),
}
REFUSED: dict[str, str] = {}

MISTAKES = {
    "D learns rotations of fakes": Mistake(
        old="self._loss(ctx.real, True, ctx)",
        new="(self._loss(ctx.real, True, ctx) + self._loss(ctx.fake, False, ctx)) / 2",
        caught_by=("trace_law", "cost"),
    ),
    "D is asked about the fakes alone": Mistake(
        old="self._loss(ctx.real, True, ctx)",
        new="self._loss(ctx.fake, False, ctx)",
        caught_by="test_d_learns_on_reals_and_g_on_its_fakes",
    ),
    "G has no rotation loss": Mistake(
        old="self._loss(ctx.fake, False, ctx)",
        new="self._loss(ctx.fake.detach(), False, ctx).detach()",
        caught_by="test_g_learns_from_the_rotation_loss_alone",
    ),
    "images stay upright": Mistake(
        old="batch.with_images(rotate_images(batch.images, quarters))",
        new="batch",
        caught_by=("trace_law", "test_d_learns_to_tell_rotations"),
    ),
    "the rotation is that of another image": Mistake(
        old="rotation_loss(network.get_submodule(HEAD)(features), told)",
        new="rotation_loss(network.get_submodule(HEAD)(features), told.roll(1))",
        caught_by=("trace_law", "test_d_learns_to_tell_rotations"),
    ),
    "D and G change weights": Mistake(
        old="ctx.value(self.config.fake)",
        new="ctx.value(self.config.real)",
        caught_by=("trace_law", "test_the_defaults_are_the_authors"),
    ),
    "every batch starts upright": Mistake(
        old="rng.randint(1, ways)",
        new="0 * rng.randint(1, ways)",
        caught_by="test_each_image_is_rotated_by_each_quarter_as_often",
    ),
    "images of a pack are rotated one by one": Mistake(
        old="told.repeat_interleave(group, output_size=batch.size)",
        new="told.repeat(group)",
        caught_by="test_a_pack_is_rotated_as_one",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """Each player's term is its weight times the cross-entropy of the rotations, of one further pass of D."""
    config = played.trick(name).config
    head: dict[str, Tensor] = {}
    for phase in played.phases:
        if phase.player == "d":
            head = phase.before
        if "rotation_head.weight" not in head:
            continue  # another trick computes the head's weights from other ones
        if phase.player == "g" and played.calls.get("play"):
            continue  # the D of this phase need not be that of the last D step
        weight = value_at(played, config.real if phase.player == "d" else config.fake, phase.step)
        found = phase.terms[f"{name}.rotation"]
        expected = [weight * loss(head, out.features, start) for out, start in rotated_passes(played, phase)]
        assert any(math.isclose(found, value, rel_tol=1e-9, abs_tol=1e-12) for value in expected), (
            f"{name}.rotation is {found} in {phase.player.upper()}'s step, and none of {expected}"
        )
        head = phase.after if phase.player == "d" else head


def loss(head: dict[str, Tensor], features: Tensor, start: int) -> float:
    """The cross-entropy of the rotations in turn, from `start` on."""
    scores = features @ head["rotation_head.weight"].T + head["rotation_head.bias"]
    logs = scores - scores.exp().sum(1, keepdim=True).log()
    rows, ways = torch.arange(len(scores)), scores.shape[1]
    return -float(logs[rows, (rows + start) % ways].mean())


def rotated_passes(played: Played, phase: Phase) -> Iterator[tuple[Out, int]]:
    """D's passes in this phase that may be of the rotated batch, with the first rotation. Where D sees images as they
    are, only those that are.
    """
    batch = phase.real if phase.player == "d" else phase.fake
    _, height, width = batch.images.shape[1:]
    turn, ways = (1, 4) if height == width else (2, 2)
    places = torch.arange(batch.size) // played.game.discriminator.group
    for images, out in phase.passes:
        for start in range(ways):
            if len(images) == batch.size and (
                played.calls.get("d_input")
                or all(
                    torch.equal(image, torch.rot90(upright, turn * int(place + start), (1, 2)))
                    for image, upright, place in zip(images, batch.images, places, strict=True)
                )
            ):
                yield out, start


IMAGES = TrickHost(sample=(1, 8, 8))


@given(gs.tensors((6, 4), scale=3.0), st.lists(st.integers(0, 3), min_size=6, max_size=6))
def test_the_loss_is_cross_entropy(scores, quarters) -> None:
    expected = 0.0
    for row, quarter in zip(scores.tolist(), quarters, strict=True):
        expected += math.log(sum(math.exp(value) for value in row)) - row[quarter]
    found = rotation_loss(scores, torch.tensor(quarters))
    assert found.item() == pytest.approx(expected / 6, rel=1e-12)
    assert rotation_loss(scores.bfloat16(), torch.tensor(quarters)).dtype == torch.float32


@given(gs.rng(), st.integers(1, 20), st.sampled_from([2, 4]))
def test_a_batch_holds_the_rotations_in_turn(rng, count, ways) -> None:
    found = rotations(count, ways, rng).tolist()
    assert found == [(found[0] + i) % ways for i in range(count)]


def test_each_image_is_rotated_by_each_quarter_as_often() -> None:
    host = IMAGES.but(batch_size=1, steps=120)
    counts = torch.zeros(4)
    for phase in host.with_trick("self_supervised_rotation").train().steps_of("d"):
        images = phase.passes[-1][0]
        turned = [torch.equal(images[0], torch.rot90(phase.real.images[0], k, (1, 2))) for k in range(4)]
        counts[turned.index(True)] += 1
    assert counts.sum() == 120
    for count in counts:
        within_chance(torch.arange(120) < count, 0.25, "rotations")


@pytest.mark.parametrize("changes", [{}, {"discriminator": {"batch_norm": True, "depth": 2}}], ids=["plain", "mixing"])
def test_d_learns_on_reals_and_g_on_its_fakes(changes) -> None:
    for phase in IMAGES.but(**changes).with_trick("self_supervised_rotation").train(2).phases:
        batch = phase.real if phase.player == "d" else phase.fake
        images, _ = phase.passes[-1]
        for image, upright in zip(images, batch.images, strict=True):
            assert any(torch.equal(image, torch.rot90(upright, k, (1, 2))) for k in range(4))


class NothingElse(Trick):
    """G has no objective of its own."""

    @hookimpl
    def g_objective(self, ctx):
        return {"nothing": 0 * ctx.fake_out.logits.sum()}


def test_g_learns_from_the_rotation_loss_alone() -> None:
    game = IMAGES.but(reuse_fakes=False).with_trick("self_supervised_rotation").with_trick(NothingElse).game()
    game.step.d_step()
    game.step.g_step()
    assert all(parameter.grad.abs().sum() > 0 for parameter in game.players["g"].parameters[-2:])


def test_d_learns_to_tell_rotations() -> None:
    """Images with a bright side: D's head finds it within a short run."""
    host = TrickHost(sample=(1, 8, 8), steps=60, optimizer={"name": "adam", "lr": 0.01})
    game = host.with_trick("self_supervised_rotation", real=5.0).game()
    lit = torch.full((8, 1, 8, 8), -1.0).double()
    lit[:, :, :2] = 1
    take = game.feed.next
    game.feed.next = lambda: take().with_images(lit)
    for _ in range(host.steps):
        game.advance()
    for k in range(4):
        scores = game.discriminator.rotation_head(game.discriminator(torch.rot90(lit, k, (2, 3))).features)
        assert (scores.argmax(1) == k).all()


def test_at_weight_zero_everything_but_the_head_trains_as_without_it() -> None:
    played = IMAGES.with_trick("self_supervised_rotation", real=0.0, fake=0.0).train()
    moved = differences(played.state, IMAGES.train().state, besides=("tricks",))
    assert moved
    assert all(name.split("/")[1].startswith("rotation_head.") for name in moved)


def test_a_pack_is_rotated_as_one() -> None:
    host = IMAGES.with_trick("packing", m=2).with_trick("self_supervised_rotation")
    for phase in host.train(2).steps_of("d"):
        images, out = phase.passes[-1]
        assert out.features.shape[0] == 4
        for first in range(0, 8, 2):
            turned = [
                [torch.equal(images[i], torch.rot90(phase.real.images[i], k, (1, 2))) for k in range(4)].index(True)
                for i in (first, first + 1)
            ]
            assert turned[0] == turned[1]


def test_real_and_fake_are_judged_on_upright_images() -> None:
    for phase in IMAGES.with_trick("self_supervised_rotation").train(2).steps_of("d"):
        assert torch.equal(phase.passes[0][0], torch.cat([phase.real_in.images, phase.fake_in.images]))


# ---------------------------------------------------------------- options


def test_the_defaults_are_the_authors() -> None:
    options = SelfSupervisedRotation.Config()
    assert (options.real, options.fake) == (1.0, 0.2)
    played = IMAGES.with_trick("self_supervised_rotation").train(1)
    for player, weight in (("d", 1.0), ("g", 0.2)):
        # a head that has just been made knows nothing
        found = played.scalars[0][f"loss/{player}.self_supervised_rotation.rotation"]
        assert found == pytest.approx(weight * math.log(4), rel=0.2)


def test_what_cannot_be_rotated_is_refused() -> None:
    with pytest.raises(UserError, match="needs images"):
        TrickHost().with_trick("self_supervised_rotation").plan()


def test_images_that_are_not_square_are_turned_by_half() -> None:
    played = TrickHost(sample=(1, 8, 12)).with_trick("self_supervised_rotation").train(2)
    assert played.game.discriminator.rotation_head.weight.shape[0] == 2
    for phase in played.steps_of("d"):
        for image, upright in zip(phase.passes[-1][0], phase.real.images, strict=True):
            assert any(torch.equal(image, torch.rot90(upright, k, (1, 2))) for k in (0, 2))


def test_augmentation_that_rotates_is_warned_of() -> None:
    host = IMAGES.with_trick("adaptive_augment").with_trick("self_supervised_rotation")
    (warning,) = host.plan().warnings
    assert "self_supervised_rotation beside adaptive_augment" in warning
