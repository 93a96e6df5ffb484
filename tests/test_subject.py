"""What metrics see of a game, and that looking changes nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gantricks import Context, Trick, TrickError, UserError, hookimpl
from gantricks.data.base import Dataset
from gantricks.engine import sampling, state
from gantricks.engine.game import Game
from gantricks.engine.subject import GameSubject, evaluate
from gantricks.metrics.base import Measurement, Metric, as_generated
from gantricks.testing import TrickHost
from gantricks.testing.host import MadeUp
from gantricks.testing.record import differences, snapshot

HOSTS = {
    "vectors": TrickHost(),
    "images": TrickHost(sample=(1, 8, 8), classes=3, generator={"conditional": True}),
}


class NoisyG(Trick):
    """Noise after G's first block, in eval mode too, and latents that are moved."""

    @hookimpl
    def transform_generator(self, network: Any, ctx: Context) -> Any:
        class Noise(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x + ctx.rng.normal(x.shape)

        network.body.append(Noise())
        return network

    @hookimpl
    def latents(self, z: torch.Tensor, ctx: Context) -> torch.Tensor:
        return z + ctx.rng.uniform(z.shape)


class Classifies(Trick):
    """D has class logits."""

    provides = {"class_logits"}

    @hookimpl
    def transform_discriminator(self, network: Any, ctx: Context) -> Any:
        network.class_head = ctx.build("class_head", lambda: nn.Linear(network.feature_dim, 3), like=network)
        return network


def subject(game: Game, samples: int = 10, seed: int = 0) -> GameSubject:
    return GameSubject(game, samples, seed)


def joined(batches: Any) -> tuple[np.ndarray, np.ndarray | None]:
    images, classes = zip(*batches, strict=True)
    return np.concatenate(images), None if classes[0] is None else np.concatenate(classes)


# ---------------------------------------------------------------- generated samples


@settings(max_examples=8)
@given(host=st.sampled_from(list(HOSTS)), count=st.integers(1, 200), seed=st.integers(0, 2**62))
def test_a_sample_depends_on_the_state_the_seed_and_its_number_alone(host, count, seed):
    game = HOSTS[host].with_trick(NoisyG).train(1).game
    most, classes = joined(subject(game, seed=seed).generated(200))
    few, few_classes = joined(subject(game, seed=seed).generated(count))
    assert few.dtype == np.float32
    np.testing.assert_array_equal(few, most[:count])
    if classes is not None:
        np.testing.assert_array_equal(few_classes, np.arange(count) % 3)
    assert len(np.unique(most.reshape(200, -1), axis=0)) == 200
    assert (joined(subject(game, seed=seed + 1).generated(count))[0] != few).any()
    assert np.array_equal(sampling.sample(game, count, seed), few)


def test_samplings_that_run_side_by_side_do_not_meet():
    game = HOSTS["images"].with_trick(NoisyG).train(1).game
    alone = joined(subject(game).generated(150))[0]
    one, other = subject(game).generated(150), subject(game).generated(150)
    beside = [(next(one), next(other)) for _ in range(3)]
    np.testing.assert_array_equal(joined([a for a, _ in beside])[0], alone)
    np.testing.assert_array_equal(joined([b for _, b in beside])[0], alone)


def test_images_are_within_their_range_and_samples_that_are_not_finite_are_refused():
    game = HOSTS["images"].train(1).game
    game.generator.head = nn.Sequential(game.generator.head, _Scale(40.0))
    images, _ = joined(subject(game).generated(70))
    assert (images.min(), images.max()) == (-1.0, 1.0)
    game.generator.head = nn.Sequential(game.generator.head, _Scale(float("nan")))
    with pytest.raises(UserError, match=r"not finite .* after 1 steps"):
        list(subject(game).generated(1))


class _Scale(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


# ---------------------------------------------------------------- real samples


@pytest.mark.parametrize("host", HOSTS)
def test_reals_come_once_each_in_an_order_of_the_seed_and_in_the_form_of_generated_ones(host):
    game = HOSTS[host].but(count=600, precision="fp32").game()
    first, classes = joined(subject(game, seed=1).reals(600))
    again, _ = joined(subject(game, seed=1).reals(600))
    other, _ = joined(subject(game, seed=2).reals(600))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert first.dtype == np.float32
    everything, all_classes = as_generated(game.dataset, np.arange(600))
    assert sorted(map(bytes, first)) == sorted(map(bytes, everything))
    shown = game.feed.take(torch.arange(600))
    np.testing.assert_array_equal(everything, shown.images.numpy())
    by_image = dict(zip(map(bytes, everything), [None] * 600 if all_classes is None else all_classes, strict=True))
    if classes is not None:
        assert [by_image[bytes(image)] for image in first] == list(classes)


@given(count=st.integers(0, 40), more=st.integers(0, 40))
def test_the_second_part_of_the_reals_is_disjoint_from_the_first(count, more):
    looked_at = subject(REALS)
    if count + more > 40:
        more = 40 - count
    parts = [list(map(bytes, x)) for n, w in ((count, 0), (more, 1)) for x, _ in looked_at.reals(n, w)]
    seen = [row for part in parts for row in part]
    assert len(seen) == len(set(seen)) == count + more


REALS = HOSTS["vectors"].game()


def test_more_reals_than_there_are_are_refused():
    with pytest.raises(UserError, match="41 real samples are wanted, and the data holds 40"):
        list(subject(REALS).reals(41))


# ---------------------------------------------------------------- D as a classifier


def classifying(**changes: Any) -> TrickHost:
    return TrickHost(sample=(1, 8, 8), classes=3, **changes).with_trick(Classifies)


def test_classify_is_the_evaluated_d_in_eval_mode_sample_by_sample():
    game = classifying(discriminator={"batch_norm": True, "depth": 2}).train(2).game
    images = np.random.default_rng(0).uniform(-1, 1, (300, 1, 8, 8)).astype(np.float32)
    logits = subject(game).classify(images)
    assert logits.shape == (300, 3)
    assert logits.dtype == np.float32
    assert game.discriminator.training
    np.testing.assert_allclose(subject(game).classify(images[7:9]), logits[7:9], atol=1e-6)
    game.discriminator.eval()
    with torch.no_grad():
        wanted = game.discriminator(torch.from_numpy(images).double()).class_logits
    np.testing.assert_allclose(logits, wanted.numpy(), atol=1e-6)


def test_evaluation_uses_the_discriminator_that_a_trick_puts_in_place():
    class Another(Trick):
        @hookimpl
        def evaluation_discriminator(self, network, ctx):
            assert ctx.phase == "sample"
            calls.append(network)
            return flipped

    calls: list[Any] = []
    game = classifying().with_trick(Another).train(1).game
    images = np.zeros((2, 1, 8, 8), np.float32)
    flipped = classifying(seed=5).game().discriminator
    found = subject(game).classify(images)
    assert calls == [game.discriminator]
    assert flipped.training
    flipped.eval()
    with torch.no_grad():
        np.testing.assert_allclose(found, flipped(torch.from_numpy(images).double()).class_logits.numpy(), atol=1e-6)


def test_a_d_that_cannot_be_asked_for_the_class_says_so():
    images = np.zeros((2, 1, 8, 8), np.float32)
    with pytest.raises(UserError, match="does not predict classes"):
        subject(TrickHost(sample=(1, 8, 8), classes=3).game()).classify(images)
    told = classifying(generator={"conditional": True}, discriminator={"conditional": True})
    with pytest.raises(UserError, match="is given the class"):
        subject(told.game()).classify(images)


# ---------------------------------------------------------------- evaluating within a run


class Everything(Metric):
    """Looks at all there is, training a little network on the way."""

    figures = {"seen": "higher", "rest": "lower"}

    def measure(self, looked_at: Any) -> Measurement:
        images, _ = joined(looked_at.generated(70))
        reals, _ = joined(looked_at.reals(20))
        if looked_at.description.is_images:
            looked_at.classify(reals)
        layer = nn.utils.skip_init(nn.Linear, reals[0].size, 1)
        nn.init.zeros_(layer.weight)
        layer(torch.from_numpy(reals).flatten(1)).sum().backward()
        return Measurement({"seen": float(images.mean()), "rest": float(reals.mean())})


class Looks(Trick):
    """Evaluates at every boundary, between two draws of its own."""

    @hookimpl
    def on_setup(self, ctx: Context) -> None:
        self.found: list[float] = []
        self.drawn: list[float] = []

    @hookimpl
    def on_boundary(self, ctx: Context) -> None:
        self.drawn.append(float(ctx.rng.uniform(1)))
        if looking:
            before = ctx.phase, ctx._game.clock.step
            self.found.append(ctx.evaluate("everything"))
            assert before == (ctx.phase, ctx._game.clock.step)
        self.drawn.append(float(ctx.rng.uniform(1)))

    @hookimpl
    def latents(self, z: torch.Tensor, ctx: Context) -> torch.Tensor:
        return z + ctx.rng.normal(z.shape)


looking = True


def played(host: TrickHost) -> tuple[Game, Any]:
    game = host.with_trick(Looks).with_metric(Everything).game()
    while game.finished < 5:
        game.advance()
    return game, next(planned.trick for planned in game.plan.tricks if planned.name == "looks")


@pytest.mark.parametrize("images", [False, True], ids=["vectors", "images"])
def test_a_run_with_evaluations_is_bit_identical_to_one_without(images, monkeypatch):
    host = classifying(discriminator={"batch_norm": True, "depth": 2}) if images else TrickHost()
    host = host.with_trick(NoisyG).with_trick("ema")
    game, looks = played(host)
    monkeypatch.setitem(globals(), "looking", False)
    undisturbed, plain = played(host)
    assert not differences(snapshot(game), snapshot(undisturbed))
    assert state.counters(game) == state.counters(undisturbed)
    assert looks.drawn == plain.drawn
    assert len(set(looks.drawn)) == 10
    assert len(set(looks.found)) == 5
    assert all(parameter.training for parameter in game.discriminator.modules())


def test_evaluating_gives_the_main_figure_of_the_state_at_hand():
    game, looks = played(TrickHost())
    assert looks.found[-1] != evaluate(game, "everything")
    wanted = Everything(Everything.Config()).measure(GameSubject(game, 64, game.seed))
    assert evaluate(game, "everything") == wanted.values["seen"]
    assert game.contexts["looks"].better("everything") == "higher"


def test_a_metric_that_the_recipe_has_not_is_named_and_the_step_is_no_place_to_evaluate():
    class Asks(Trick):
        @hookimpl
        def before_g_step(self, ctx):
            ctx.evaluate("everything")

    with pytest.raises(TrickError, match=r"no metric 'sharpness' in \[evaluate\]; it has: none"):
        evaluate(TrickHost().game(), "sharpness")
    with pytest.raises(TrickError, match=r"ctx\.evaluate acts on the host"):
        TrickHost().with_trick(Asks).train(1)


def test_modes_of_single_layers_survive_a_look():
    game = HOSTS["images"].game()
    frozen = next(iter(game.generator.body.modules()))
    child = list(game.generator.modules())[-1]
    child.eval()
    sampling.sample(game, 3, 0)
    assert not child.training
    assert frozen.training


def test_held_out_samples_are_those_of_the_source():
    class Holds(MadeUp):
        def held_out(self, progress=None):
            return Dataset(np.zeros((3, 2), np.float32))

    game = TrickHost().game()
    assert subject(game).held_out is None
    game = TrickHost().game()
    object.__setattr__(game.plan, "source", Holds(MadeUp.Config()))
    assert len(subject(game).held_out.samples) == 3
