"""Separate batches: the same game for a D that looks at one sample at a time, another one for a D that mixes them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gantricks import Trick, UserError, hookimpl
from gantricks.engine.game import Game
from gantricks.engine.step import score_jointly
from gantricks.networks.base import mixes_samples
from gantricks.plugins.separate_batches import SeparateBatches
from gantricks.records import Batch
from gantricks.testing import MIXING, Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import rows_in
from gantricks.testing.record import copied

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({}, {}),
    "mixing": ({}, MIXING),
}
REFUSED: dict[str, str] = {}

MISTAKES = {
    "reals and fakes still share a pass": Mistake(
        old="return ctx.discriminator(*real), ctx.discriminator(*fake)",
        new="""
            import torch

            classes = None if real.classes is None else torch.cat([real.classes, fake.classes])
            out = ctx.discriminator(torch.cat([real.images, fake.images]), classes)
            return out.split(real.size)
        """,
        caught_by="test_each_pass_sees_one_provenance_only",
    ),
    "reals and fakes are scored jointly": Mistake(
        old="return ctx.discriminator(*real), ctx.discriminator(*fake)",
        new="""
            from gantricks.engine.step import score_jointly

            return score_jointly(ctx.discriminator, real, fake)
        """,
        caught_by="trace_law",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """D scores reals and fakes in passes of their own, in both steps: no pass holds both."""
    calls = [call for call in played.of(name, "d_scores") if call.phase == "d"]  # others may score so in the G step
    for phase, call in zip(played.steps_of("d"), calls, strict=True):
        for batch, out in zip(call.arguments, call.result, strict=True):
            said = [said for shown, said in phase.passes if torch.equal(shown, batch.images)]
            assert any(torch.equal(out.logits, each.logits) for each in said), "scores of no pass of this batch"
    for phase in played.phases:
        alone = [batch.images for batch in (phase.real_in, phase.fake_in) if batch is not None]
        for images in alone:
            assert any(torch.equal(images, shown) for shown, _ in phase.passes), f"none of its own in {phase.player}"
        for shown, _ in phase.passes:
            fake = rows_in(shown, phase.fake_in.images)
            whole = rows_in(phase.fake_in.images, shown).all()
            # other tricks may have changed versions of fakes scored, in passes that hold a few as they are
            assert fake.all() or not whole, f"a pass in {phase.player} is mixed"


# two blocks, since batch norm comes from the second on
PLAIN = TrickHost(sample=(1, 8, 8), discriminator={"depth": 2, "batch_norm": False})
MIXING_HOST = TrickHost(sample=(1, 8, 8), discriminator={"depth": 2, "batch_norm": True})
CONDITIONAL_HOST = PLAIN.but(
    classes=3, generator={"conditional": True}, discriminator={"conditional": True, "batch_norm": False}
)


class Watch(Trick):
    """Records what D says of the fakes in each phase, and what it was shown."""

    def __init__(self, config: object) -> None:
        super().__init__(config)
        self.fakes: dict[str, list[tuple[Batch, torch.Tensor]]] = {"d": [], "g": []}

    def _record(self, ctx) -> dict:
        self.fakes[ctx.phase].append(copied((ctx.fake_in, ctx.fake_out.logits)))
        return {}

    @hookimpl
    def d_loss_terms(self, ctx):
        return self._record(ctx)

    @hookimpl
    def g_loss_terms(self, ctx):
        return self._record(ctx)


def either(host: TrickHost, mode: str) -> TrickHost:
    return host.with_trick("separate_batches") if mode == "separate" else host


def passes(game: Game) -> list[torch.Tensor]:
    """The images of each pass through D, from now on."""
    seen: list[torch.Tensor] = []
    game.discriminator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
    return seen


# ---------------------------------------------------------------- the same fakes in both phases


@pytest.mark.parametrize("mode", ["joint", "separate"])
@pytest.mark.parametrize("host", [PLAIN, MIXING_HOST, CONDITIONAL_HOST], ids=["plain", "mixing", "conditional"])
def test_with_the_same_weights_a_fake_gets_the_same_logit_in_both_phases(host, mode) -> None:
    game = either(host, mode).with_trick(Watch, "watch").game()
    game.players["d"].move = lambda: None  # D is the same in the G step as in the D step
    for _ in range(3):
        game.advance()
    fakes = game.plan.tricks[-1].trick.fakes
    for (shown_d, logits_d), (shown_g, logits_g) in zip(fakes["d"], fakes["g"], strict=True):
        assert torch.equal(shown_d.images, shown_g.images)
        torch.testing.assert_close(logits_d, logits_g, rtol=1e-12, atol=1e-12)


def test_fakes_alone_would_be_scored_by_another_discriminator_after_a_joint_step() -> None:
    game = MIXING_HOST.with_trick(Watch, "watch").game()
    game.players["d"].move = lambda: None
    game.advance()
    ((shown, logits),) = game.plan.tricks[-1].trick.fakes["g"]
    alone = game.discriminator(*shown).logits
    assert (alone - logits).abs().max() > 1e-3 * logits.abs().max()


def test_in_joint_mode_the_generator_step_has_the_layout_of_the_discriminator_step() -> None:
    game = MIXING_HOST.game()
    seen = passes(game)
    game.advance()
    in_d_step, in_g_step = seen
    assert torch.equal(in_d_step, in_g_step)  # the same reals first, the same fakes after them


# ---------------------------------------------------------------- one sample at a time: the same game


@settings(max_examples=20)
@given(st.data(), st.integers(1, 5), st.integers(1, 5))
def test_without_cross_sample_layers_both_ways_score_the_same(data, reals, fakes) -> None:
    network = data.draw(gs.discriminators())
    real = data.draw(gs.batches(st.just(reals), shape=(1, 8, 8), classes=0))
    fake = data.draw(gs.batches(st.just(fakes), shape=(1, 8, 8), classes=0))
    separate = SeparateBatches(None).d_scores(real, fake, SimpleNamespace(discriminator=network))
    for ours, joint in zip(separate, score_jointly(network, real, fake), strict=True):
        torch.testing.assert_close(ours.logits, joint.logits, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(ours.features, joint.features, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("host", [PLAIN, CONDITIONAL_HOST], ids=["plain", "conditional"])
def test_without_cross_sample_layers_loss_and_gradients_are_the_same_to_rounding(host) -> None:
    games = {mode: either(host, mode).game() for mode in ("joint", "separate")}
    for phase in ("d_step", "g_step"):
        losses, gradients = [], []
        for game in games.values():
            getattr(game.step, phase)()
            losses.append(game.scalars()[0])
            gradients.append([p.grad for p in game.players[phase[0]].parameters])
        for name, loss in losses[0].items():
            assert losses[1][name] == pytest.approx(loss, rel=1e-9), name
        for joint, separate in zip(*gradients, strict=True):
            torch.testing.assert_close(separate, joint, rtol=1e-9, atol=1e-12)


# ---------------------------------------------------------------- batch norm: another game


def test_with_batch_norm_the_two_ways_differ() -> None:
    joint, separate = (either(MIXING_HOST, mode).train(1).scalars[0] for mode in ("joint", "separate"))
    assert abs(joint["loss/d"] - separate["loss/d"]) > 1e-4


@pytest.mark.parametrize("host", [PLAIN, MIXING_HOST], ids=["plain", "mixing"])
def test_each_pass_sees_one_provenance_only(host) -> None:
    game = host.but(n_critic=2).with_trick("separate_batches").with_trick(Watch, "watch").game()
    reals, draw = [], game.feed.next
    game.feed.next = lambda: reals.append(draw()) or reals[-1]
    seen = passes(game)
    game.advance()
    fakes = game.plan.tricks[-1].trick.fakes
    expected = [
        image for real, (fake, _) in zip(reals, fakes["d"], strict=True) for image in (real.images, fake.images)
    ] + [fakes["g"][0][0].images]
    assert len(seen) == len(expected)
    for images, wanted in zip(seen, expected, strict=True):
        assert torch.equal(images, wanted)


def test_a_fake_is_scored_without_regard_to_the_reals() -> None:
    game = MIXING_HOST.with_trick("separate_batches").game()
    scores, ctx = game.hooks.d_scores[0]
    real, fake = game.feed.next(), game.feed.next()
    other = real.with_images(-real.images)
    assert torch.equal(scores(real, fake, ctx)[1].logits, scores(other, fake, ctx)[1].logits)
    joint = [score_jointly(game.discriminator, batch, fake)[1].logits for batch in (real, other)]
    assert not torch.allclose(*joint)


@pytest.mark.parametrize(("mode", "updates"), [("joint", 2), ("separate", 3)])
def test_running_statistics_see_two_updates_in_a_separate_discriminator_step(mode, updates) -> None:
    game = either(MIXING_HOST, mode).game()
    assert mixes_samples(game.discriminator)
    game.advance()
    counts = [b.item() for name, b in game.discriminator.named_buffers() if name.endswith("num_batches_tracked")]
    assert counts == [updates]


# ---------------------------------------------------------------- in a recipe


class NeedsIt(Trick):
    """A trick that cannot have reals and fakes in one pass, as minibatch discrimination."""

    needs = {"separate_passes"}

    @hookimpl
    def before_d_step(self) -> None: ...


def test_it_provides_what_minibatch_tricks_need() -> None:
    with pytest.raises(UserError, match="separate_batches"):
        PLAIN.with_trick(NeedsIt).plan()
    PLAIN.with_trick(NeedsIt).with_trick("separate_batches").plan()


class AnotherWay(Trick):
    @hookimpl
    def d_scores(self, real, fake, ctx): ...


def test_the_way_of_scoring_is_an_exclusive_choice() -> None:
    with pytest.raises(UserError, match="d_scores"):
        PLAIN.with_trick(AnotherWay).with_trick("separate_batches").plan()
