"""Growing: what the networks are before, while and after a block joins, and which weights move."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import avg_pool2d

from gantricks import Batch, UserError
from gantricks.engine.game import Game
from gantricks.networks.base import Shapes
from gantricks.networks.dcgan import DCGAN
from gantricks.plugins.grow import Grow, enlarge, fade, shrink, stage
from gantricks.testing import LAWS, MIXING, Case, Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import ROLES, close, progress
from gantricks.testing.record import differences, same_bits, snapshot

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({"until": 0.7}, {}),
    "mixing": ({"until": 0.9, "fade": 1.0}, MIXING | {"sample": (2, 16, 12), "n_critic": 2}),
}
REFUSED: dict[str, str] = {}

MISTAKES = {
    "reals do not fade": Mistake(
        old="not (is_real and self.growth.fading)",
        new="True",
        caught_by=("test_reals_fade_with_the_block_in_both_steps_and_fakes_do_not", "trace_law"),
    ),
    "the fade is not mirrored in D": Mistake(
        old="x = fade(self.enter(growth.take_passing_by(x)), x, growth.alpha)",
        new="growth.take_passing_by(x)",
        caught_by="test_at_alpha_zero_the_networks_are_the_ones_before_enlarged",
    ),
    "weights that join never reach the optimizers": Mistake(
        old="module.joins <= added",
        new="module.joins == 0",
        caught_by="test_old_weights_and_their_optimizer_state_stay_and_new_ones_reach_the_optimizers",
    ),
    "growing draws the old weights anew": Mistake(
        old="self.alpha.fill_(1)",
        new="""
            self.alpha.fill_(1)
            ctx.generator.body[0][0].weight.data.normal_()
        """,
        caught_by="test_old_weights_and_their_optimizer_state_stay_and_new_ones_reach_the_optimizers",
    ),
    "a resumed run starts small again": Mistake(
        old="self._stand(int(self.added), bool(self.fading), ctx)",
        new="pass",
        caught_by="resume",
    ),
    "the weight of a fade is frozen in the step": Mistake(
        old="ctx.elapsed / period",
        new="torch.tensor(ctx._game.schedules.progress) / period",
        caught_by="test_the_step_within_a_fade_keeps_the_laws_of_the_step",
    ),
    "small images are enlarged by interpolation": Mistake(
        old='interpolate(images, size=size, mode="nearest")',
        new='interpolate(images, size=size, mode="bilinear")',
        caught_by="trace_law",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """Blocks join when they are due: until then their weights rest and images are those of the smaller size, enlarged;
    while one fades in, reals are mixed as images are. All other weights keep their values.
    """
    config, growth = played.trick(name).config, played.trick(name).growth
    *smaller, full = growth.sizes
    assert full == tuple(played.game.generator.shape[1:])
    period = config.until / (len(smaller) + config.fade)
    stages = []
    for step, logged in enumerate(played.scalars):
        added = min(int(progress(played, step) / period), len(smaller))
        since = progress(played, step) / period - added
        fading = added > 0 and since < config.fade
        stages.append((added, since / config.fade if fading else None))
        assert logged[f"{name}/blocks"] == added
        if fading:
            assert math.isclose(logged[f"{name}/alpha"], since / config.fade, rel_tol=1e-6, abs_tol=1e-9)
    assert stages[0][0] == 0
    assert stages[-1] == (len(smaller), None)

    for call in played.of(name, "d_input"):
        (batch, is_real), (added, alpha) = call.arguments, stages[call.step]
        expected = batch.images
        if is_real and alpha is not None:
            coarse = _pixels(avg_pool2d(expected, _factors(full, growth.sizes[added - 1])), full)
            expected = (1 - alpha) * coarse + alpha * expected
        close(call.result.images, expected, "what D is shown", rtol=1e-6, atol=1e-6)

    for player, role in ROLES.items():
        network: Any = getattr(played.game, role)
        now = played.start[role]
        joining = {
            f"{place}.{weight}": block.joins
            for place, block in network.named_modules()
            if hasattr(block, "joins")
            for weight, _ in block.named_parameters()
        }
        assert joining
        for phase in played.steps_of(player):
            added, _ = stages[phase.step]
            early = {weight for weight, joins in joining.items() if joins > added}
            assert not early & phase.gradients.keys(), "weights take part before their time"
            for weight, _ in network.named_parameters():
                # between phases, tricks that play the step or act at its end may move weights that take part
                if weight in early or not (played.calls.get("play") or played.calls.get("after_step")):
                    assert torch.equal(phase.before[weight], now[weight]), f"{weight} changed between two phases"
                if weight not in phase.gradients:
                    assert torch.equal(phase.after[weight], phase.before[weight]), f"{weight} is to rest and moved"
            now = phase.after
            if player == "g":
                height, width = _factors(full, growth.sizes[added])
                images = phase.fake.images
                enlarged = _pixels(images[..., ::height, ::width], full)
                assert torch.equal(enlarged, images), f"images are finer than {growth.sizes[added]}"
        assert {weight for weight in joining if ".from_image." not in weight} <= phase.gradients.keys()


def _pixels(maps: Tensor, full: tuple[int, int]) -> Tensor:
    """Maps (B, C, h, w) with each pixel repeated to fill (H, W)."""
    height, width = _factors(full, tuple(maps.shape[2:]))
    return maps.repeat_interleave(height, 2).repeat_interleave(width, 3)


def _factors(full: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    assert full[0] % size[0] == full[1] % size[1] == 0
    return full[0] // size[0], full[1] // size[1]


IMAGES = TrickHost(sample=(2, 16, 12), generator={"depth": 3, "channels": 2}, discriminator={"depth": 3, "channels": 2})
MIXING_HOST = IMAGES.but(discriminator={"depth": 3, "channels": 2, "batch_norm": True})
RESNET = IMAGES.but(
    generator={"network": "resnet", "depth": 3, "channels": 2},
    discriminator={"network": "densenet", "depth": 3, "channels": 4, "growth": 2, "layers": 1},
)
NETWORKS = pytest.mark.parametrize(
    "host", [IMAGES, MIXING_HOST, RESNET], ids=["dcgan", "dcgan mixing", "resnet, densenet"]
)


def grown(host: TrickHost = IMAGES, **options) -> Game:
    return host.with_trick("grow", **options).game()


def stand(game: Game, added: int, fading: bool = False, alpha: float = 1.0) -> None:
    """Bring the networks there as a boundary does."""
    trick = game.plan.tricks[-1].trick
    game.clock.enter("boundary")
    trick._stand(added, fading, game.contexts["grow"])
    trick.alpha.fill_(alpha)


@contextmanager
def evaluating(game: Game) -> Iterator[None]:
    game.generator.eval()
    game.discriminator.eval()
    with torch.no_grad():
        yield
    game.generator.train()
    game.discriminator.train()


def played_images(game: Game, seed: int = 0) -> torch.Tensor:
    z = torch.randn(3, game.generator.latent_dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return game.generator(z)


def images(seed: int = 0) -> torch.Tensor:
    return torch.rand(3, 2, 16, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2 - 1


# ---------------------------------------------------------------- the functions


@given(gs.tensors((2, 3)), gs.tensors((2, 3)), st.floats(0, 1))
def test_a_fade_is_the_weighted_mean_and_exact_at_both_ends(old, new, alpha):
    mixed = fade(old, new, torch.tensor(alpha, dtype=torch.float64))
    np.testing.assert_allclose(mixed, (1 - alpha) * old.numpy() + alpha * new.numpy(), rtol=1e-9, atol=1e-9)
    assert same_bits(fade(old, new, torch.zeros(())), old)
    assert same_bits(fade(old, new, torch.ones(())), new)


@given(gs.tensors((2, 3, 4, 6)))
def test_shrinking_takes_means_and_enlarging_repeats(x):
    means = x.numpy().reshape(2, 3, 2, 2, 3, 2).mean((3, 5))
    np.testing.assert_allclose(shrink(x, (2, 3)), means, rtol=1e-12, atol=1e-12)
    assert same_bits(enlarge(x, (8, 12)), x.repeat_interleave(2, 2).repeat_interleave(2, 3))
    torch.testing.assert_close(shrink(enlarge(x, (8, 12)), (4, 6)), x, rtol=1e-12, atol=1e-12)


@given(st.integers(1, 6), st.floats(0.05, 1), st.floats(0, 1), st.lists(st.floats(0, 1), min_size=2, max_size=30))
def test_blocks_join_evenly_one_by_one_and_the_last_is_there_in_time(blocks, until, share, moments):
    places = [stage(moment, blocks, until, share) for moment in sorted(moments)]
    assert stage(0, blocks, until, share) == (0, False)
    assert stage(1, blocks, until, share)[0] == blocks
    assert [added for added, _ in places] == sorted(added for added, _ in places)
    period = until / (blocks + share)
    for block in range(1, blocks + 1):
        assert stage(block * period * 1.0001, blocks, until, share)[0] == block
        assert stage(block * period * 0.9999, blocks, until, share)[0] == block - 1
        if share > 0.01:
            assert stage((block + share / 2) * period, blocks, until, share) == (block, True)
        if share < 0.99:
            assert stage((block + (1 + share) / 2) * period, blocks, until, share) == (block, False)


# ---------------------------------------------------------------- what the networks are


@NETWORKS
def test_at_alpha_zero_the_networks_are_the_ones_before_enlarged(host):
    game = grown(host)
    for added in range(game.plan.tricks[0].trick.growth.last):
        stand(game, added)
        with evaluating(game):
            before = played_images(game), game.discriminator(images()).logits
            stand(game, added + 1, fading=True, alpha=0.0)
            after = played_images(game), game.discriminator(images()).logits
            stand(game, added + 1, fading=True, alpha=0.5)
            between = played_images(game), game.discriminator(images()).logits
        for a, b, c in zip(before, after, between, strict=True):
            assert same_bits(a, b)
            assert not same_bits(a, c)


@NETWORKS
def test_at_alpha_one_the_networks_are_the_ones_after(host):
    game = grown(host)
    for added in range(1, game.plan.tricks[0].trick.growth.last + 1):
        with evaluating(game):
            stand(game, added, fading=True, alpha=1.0)
            fading = played_images(game), game.discriminator(images()).logits
            stand(game, added)
            whole = played_images(game), game.discriminator(images()).logits
        assert all(same_bits(a, b) for a, b in zip(fading, whole, strict=True))


@NETWORKS
def test_whole_they_are_the_networks_of_the_recipe(host):
    game, plain = grown(host), host.game()
    stand(game, game.plan.tricks[0].trick.growth.last)
    for network, recipes in ((game.generator, plain.generator), (game.discriminator, plain.discriminator)):
        mine = {name.replace("head.head.", "head."): tensor for name, tensor in network.state_dict().items()}
        for name, tensor in recipes.state_dict().items():
            assert same_bits(mine[name], tensor), f"{name} starts from another value"
    with evaluating(game), evaluating(plain):
        assert same_bits(played_images(game), played_images(plain))
        assert same_bits(game.discriminator(images()).logits, plain.discriminator(images()).logits)


@pytest.mark.parametrize(("added", "size"), [(0, (4, 3)), (1, (8, 6)), (2, (16, 12))])
def test_images_are_as_coarse_as_the_stage(added, size):
    game = grown()
    stand(game, added)
    with evaluating(game):
        made = played_images(game)
        coarse = enlarge(shrink(images(), size), (16, 12))
        judged = [game.discriminator(batch).logits for batch in (images(), coarse)]
    assert made.shape == (3, 2, 16, 12)
    torch.testing.assert_close(made, enlarge(shrink(made, size), (16, 12)), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(*judged, rtol=1e-10, atol=1e-12)
    finer = (size[0] // 2, size[1] // 2)
    assert not torch.allclose(made, enlarge(shrink(made, finer), (16, 12)))


def test_a_fade_against_the_layers_written_out():
    game = grown()
    stand(game, 1, fading=True, alpha=0.25)
    g, d, x = game.generator, game.discriminator, images()
    z = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with evaluating(game):
        small = torch.nn.Sequential(*g.body.project.children(), *g.body.up1.children())(z)
        bigger = torch.nn.Sequential(*g.body.up2.children())(small)
        made = 0.75 * enlarge(g.head.early[0](small), (16, 12)) + 0.25 * enlarge(g.head.early[1](bigger), (16, 12))
        torch.testing.assert_close(g(z), made, rtol=1e-12, atol=1e-12)

        down2 = [layer for name, layer in d.body.down2.named_children() if name != "from_image"]
        new = torch.nn.Sequential(d.body.down2.from_image, *down2)(
            x.unflatten(2, (8, 2)).unflatten(4, (6, 2)).mean((3, 5))
        )
        old = d.body.down3.from_image(x.unflatten(2, (4, 4)).unflatten(4, (3, 4)).mean((3, 5)))
        down3 = [layer for name, layer in d.body.down3.named_children() if name != "from_image"]
        features = torch.nn.Sequential(*down3)(0.75 * old + 0.25 * new).flatten(1)
        torch.testing.assert_close(d(x).logits, d.head(features), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("host", [IMAGES, MIXING_HOST], ids=["joint", "mixing"])
def test_reals_fade_with_the_block_in_both_steps_and_fakes_do_not(host):
    game = grown(host)
    stand(game, 2, fading=True, alpha=0.25)
    game.clock.enter("d")
    (hook, ctx), *_ = game.hooks.d_input
    x = images()
    faded = hook(Batch(x), True, ctx).images
    torch.testing.assert_close(faded, 0.75 * enlarge(shrink(x, (8, 6)), (16, 12)) + 0.25 * x, rtol=1e-12, atol=1e-12)
    assert hook(Batch(x), False, ctx).images is x
    stand(game, 2)
    game.clock.enter("d")
    assert hook(Batch(x), True, ctx).images is x


# ---------------------------------------------------------------- which weights move


def taking_part(game: Game) -> set[str]:
    return {
        f"{role}/{name}"
        for role in ("generator", "discriminator")
        for name, parameter in getattr(game, role).named_parameters()
        if parameter.requires_grad
    }


@pytest.mark.parametrize("optimizer", [{"name": "adam", "lr": 1e-2}, {"name": "sgd", "lr": 1e-2, "momentum": 0.9}])
def test_old_weights_and_their_optimizer_state_stay_and_new_ones_reach_the_optimizers(optimizer):
    game = grown(IMAGES.but(steps=9, optimizer=optimizer), until=0.8, fade=0.5)
    trick = game.plan.tricks[0].trick
    initial = snapshot(game)
    joined = 0
    while game.finished < 9:
        before, parts, added = snapshot(game), taking_part(game), trick.growth.added
        game.clock.enter("boundary")
        (hook, ctx), *_ = game.hooks.on_boundary
        hook(ctx)
        assert not differences(before, snapshot(game), besides=("tricks",)), "a weight or its state moved between steps"
        now = taking_part(game)
        if trick.growth.added > added:
            joined += 1
            assert now > parts - {name for name in parts if "early" in name or "from_image" in name}
            for name in now - parts:
                group, _, weight = name.partition("/")
                assert same_bits(snapshot(game)[group][weight], initial[group][weight]), (
                    f"{name} moved before it joined"
                )
        eval_mode = snapshot(game)
        game.step()
        game.move_to(game.finished + 1)
        moved = {name for name in differences(eval_mode, snapshot(game)) if name in now or name in parts}
        assert now >= moved, "a weight that takes no part moved"
        weights = {name for name in now if not name.endswith("bias")}
        assert moved >= weights, "weights that take part did not move"
    assert joined == trick.growth.last == 2
    every = {
        f"{role}/{n}" for role in ("generator", "discriminator") for n, _ in getattr(game, role).named_parameters()
    }
    assert taking_part(game) == {name for name in every if "head.early" not in name and "from_image" not in name}
    assert trick.growth.fading is False


def test_weights_to_come_have_no_gradient_and_those_that_left_neither():
    game = grown(IMAGES.but(steps=9))
    for _ in range(9):
        game.advance()
        parts = taking_part(game)
        for role in ("generator", "discriminator"):
            for name, parameter in getattr(game, role).named_parameters():
                assert (parameter.grad is not None) == (f"{role}/{name}" in parts), name


def test_the_step_within_a_fade_keeps_the_laws_of_the_step():
    case = Case(Grow, {"until": 1.0, "fade": 1.0}, IMAGES.but(steps=40), "grow")
    original = TrickHost.game

    def later(self, calls=None):
        game = original(self, calls)
        while not game.plan.tricks[-1].trick.growth.fading:
            game.advance()
        return game

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrickHost, "game", later)
        for law in ("no-sync", "same-step", "other-player", "gradients"):
            LAWS[law].check(case)


def test_alpha_rises_from_zero_to_one_with_progress():
    played = IMAGES.but(steps=101).with_trick("grow", until=0.9, fade=0.5).train()
    period = 0.9 / 2.5
    for step, scalars in enumerate(played.scalars):
        progress = step / 100
        added = min(int(progress / period), 2)
        share = (progress / period - added) / 0.5
        assert scalars["grow/blocks"] == added
        expected = 1.0 if added == 0 or share >= 1 else share
        assert scalars["grow/alpha"] == pytest.approx(expected, abs=1e-6)


# ---------------------------------------------------------------- beside others


def test_an_average_grows_with_its_generator():
    game = grown(IMAGES.but(steps=9).with_trick("ema", decay=0.9), until=0.8)
    for _ in range(9):
        game.advance()
    ema = game.plan.tricks[0].trick
    with evaluating(game):
        z = torch.zeros(2, 4, dtype=torch.float64)
        made = ema.averages["generator"].shadow.eval()(z)
    assert not torch.allclose(made, enlarge(shrink(made, (8, 6)), (16, 12))), "the average is still a small network"


def test_the_history_of_weights_that_join_begins_then():
    game = grown(IMAGES.but(steps=9).with_trick("historical_averaging", strength=0.1), until=0.8)
    for _ in range(9):
        game.advance()
    past = game.plan.tricks[0].trick.histories["g"]
    counts = dict(zip(past.parameters, past.count.tolist(), strict=True))
    assert counts["body.project.linear.weight"] == 10
    assert 1 < counts["body.up2.conv.weight"] < 10
    assert 1 < counts["head.head.conv.weight"] < counts["body.up2.conv.weight"]


def test_virtual_batch_norm_keeps_its_reference_out_of_a_fade():
    host = IMAGES.but(generator=IMAGES.generator | {"batch_norm": True})
    host = host.with_trick("virtual_batch_norm", reference=5)
    game = grown(host)
    for added in (1, 2):
        stand(game, added, fading=True, alpha=0.5)
        z = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            together, alone = game.generator(z), game.generator(z[1:2])
        torch.testing.assert_close(together[1:2], alone, rtol=1e-10, atol=1e-12)


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize("blocks", [3, 6])
def test_more_blocks_than_can_join_are_refused(blocks):
    with pytest.raises(UserError, match=f"blocks = {blocks} are more than can join later; the most is blocks = 2"):
        IMAGES.with_trick("grow", blocks=blocks).plan()


def test_a_network_that_halves_once_is_refused():
    with pytest.raises(UserError, match="no block to add later"):
        TrickHost(sample=(1, 8, 8), discriminator={"depth": 1}).with_trick("grow").plan()


def test_vectors_are_refused():
    with pytest.raises(UserError, match="grow needs discriminator_convolutions"):
        TrickHost().with_trick("grow").plan()


def test_a_block_that_is_no_plain_sequence_is_refused(monkeypatch):
    class Twice(torch.nn.Sequential):
        def forward(self, x):
            return super().forward(x) * 2

    original = DCGAN.generator

    def generator(config, shapes: Shapes):
        network = original(config, shapes)
        network.body.up1 = Twice(*network.body.up1.children())
        return network

    monkeypatch.setattr(DCGAN, "generator", staticmethod(generator))
    with pytest.raises(UserError, match="the block up1 is a Twice"):
        grown()
