"""How samples are made: what passes which hook, whose network is asked, and what a walk leaves out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gantricks import Batch, Context, Latents, Sampler, Trick, hookimpl
from gantricks.engine import sampling
from gantricks.engine.sampling import CHUNK
from gantricks.planning.contract import acts_on_samples_alone
from gantricks.testing import TrickHost
from gantricks.testing.record import differences, same_bits, snapshot

CONDITIONAL = TrickHost(
    sample=(1, 8, 8),
    classes=3,
    generator={"conditional": True, "batch_norm": True},
    discriminator={"conditional": True, "batch_norm": True, "depth": 2},
)


class Doubled(Trick):
    """Latents of samples are doubled."""

    @hookimpl
    def sampling_latents(self, given: Latents, ctx: Context) -> Latents:
        assert ctx.phase == "sample"
        return given._replace(z=2 * given.z)


class Added(Trick):
    """A sampler that asks for latents one further along, and adds 1 to what comes."""

    @hookimpl
    def sampler(self, sampler: Sampler, ctx: Context) -> Sampler:
        return lambda given: sampler(given._replace(z=given.z + 1)) + 1


class Halved(Trick):
    """A sampler that halves what comes."""

    @hookimpl
    def sampler(self, sampler: Sampler, ctx: Context) -> Sampler:
        return lambda given: sampler(given) / 2


class Fresh(Trick):
    """A sampler with latents of its own, which keeps classes."""

    @hookimpl
    def sampler(self, sampler: Sampler, ctx: Context) -> Sampler:
        return lambda given: sampler(given._replace(z=ctx.latents(len(given.z)).z))


def given_to_g(game: Any, draw: Any) -> tuple[Tensor, Tensor | None]:
    seen: list[tuple[Any, ...]] = []
    handle = game.generator.register_forward_pre_hook(lambda _, arguments: seen.append(arguments))
    draw()
    handle.remove()
    z, classes = (None if rows[0] is None else torch.cat(rows) for rows in list(zip(*seen, strict=True))[:2])
    return z, classes


def test_the_last_sampler_is_the_outermost_and_the_innermost_passes_latents_on() -> None:
    host = TrickHost()
    plain = host.game()
    z, _ = given_to_g(plain, lambda: sampling.sample(plain, 4, 0))
    images = sampling.sample(host.game(), 4, 0)
    for tricks, expected in (((Added, Halved), lambda x: (x + 1) / 2), ((Halved, Added), lambda x: x / 2 + 1)):
        game = host.with_trick(tricks[0]).with_trick(Doubled).with_trick(tricks[1]).game()
        found = sampling.sample(game, 4, 0)
        moved, _ = given_to_g(game, lambda game=game: sampling.sample(game, 4, 0))
        assert same_bits(moved, 2 * (z + 1))
        with torch.no_grad():
            np.testing.assert_allclose(found, expected(plain.generator.eval()(moved)[:4]), rtol=1e-6)
    assert not np.allclose(images, found)


def test_training_meets_neither_hook() -> None:
    host = TrickHost()
    plain = host.train(3).state
    for trick in (Doubled, Added, Fresh):
        assert not differences(plain, host.with_trick(trick).train(3).state)


def test_a_walk_passes_latents_on_and_leaves_samplers_out() -> None:
    host = TrickHost()
    plain, doubled, added = host.game(), host.with_trick(Doubled).game(), host.with_trick(Added).game()
    z, _ = given_to_g(plain, lambda: sampling.walk(plain, 2, 5, 0))
    moved, _ = given_to_g(doubled, lambda: sampling.walk(doubled, 2, 5, 0))
    assert same_bits(moved, 2 * z)
    assert np.array_equal(sampling.walk(added, 2, 5, 0), sampling.walk(plain, 2, 5, 0))


def test_draws_of_a_sampler_are_a_function_of_seed_and_number() -> None:
    game = CONDITIONAL.with_trick(Fresh).game()
    z, classes = given_to_g(game, lambda: sampling.sample(game, 2 * CHUNK, 0))
    assert classes is not None
    assert classes.tolist() == [number % 3 for number in range(2 * CHUNK)]
    again, _ = given_to_g(game, lambda: sampling.sample(game, CHUNK, 0))
    assert same_bits(again, z[:CHUNK])
    other, _ = given_to_g(game, lambda: sampling.sample(game, CHUNK, 1))
    assert len({tuple(row) for row in torch.cat([z, other]).tolist()}) == 3 * CHUNK
    for _ in range(2):
        game.advance()
    later, _ = given_to_g(game, lambda: sampling.sample(game, CHUNK, 0))
    assert same_bits(later, z[:CHUNK])


@pytest.mark.parametrize("averaged", [False, True])
def test_the_judge_is_the_discriminator_of_evaluation_in_eval_mode(averaged: bool) -> None:
    host = CONDITIONAL.with_trick("instance_noise", sigma=1.0).with_trick(Doubled)
    game = (host.with_trick("ema", players="all", decay=0.5) if averaged else host).train(2).game
    network = sampling.evaluated_discriminator(game)
    assert (network is not game.discriminator) == averaged
    images, classes = torch.from_numpy(sampling.sample(game, 6, 0)).double(), torch.arange(6) % 3
    before = snapshot(game)
    out = game.contexts["doubled"].judge(Batch(images.requires_grad_(), classes))
    assert out.logits.requires_grad, "gradients are as the caller has them"
    assert not differences(before, snapshot(game)), "statistics of batch norm stay"
    assert all(module.training for player in game.players.values() for module in player.network.modules())
    with sampling.eval_mode(network):
        assert same_bits(out.logits.detach(), network(images, classes).logits)


def test_which_tricks_act_on_samples_alone() -> None:
    class WithState(Doubled):
        def tensors(self) -> dict[str, Tensor]:
            return {}

    class InTraining(Added):
        @hookimpl
        def after_step(self, ctx: Context) -> None:
            pass

    assert all(acts_on_samples_alone(trick) for trick in (Doubled, Added, Halved, Fresh))
    assert not acts_on_samples_alone(WithState)
    assert not acts_on_samples_alone(InTraining)
