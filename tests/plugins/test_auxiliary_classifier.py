"""AC-GAN: D and G both minimise cross-entropy of the class, beside what they minimise anyway."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gantricks import Batch, Trick, UserError, hookimpl
from gantricks.engine import sampling
from gantricks.plugins.auxiliary_classifier import class_loss
from gantricks.testing import MIXING, Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import class_cross_entropy, close, samples, terms_are, value_at
from gantricks.testing.record import differences, snapshot

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({}, {}),
    "mixing": (
        {"generator": {"start": 0.1, "end": 1.0}},
        {
            "sample": (1, 8, 8),
            "generator": {"conditional": True},
            "discriminator": MIXING["discriminator"],
            "n_critic": 2,
        },
    ),
}
REFUSED: dict[str, str] = {}

MISTAKES = {
    "D has no class loss on fakes": Mistake(
        old="ctx.value(self.config.fake)",
        new="0",
        caught_by="test_both_players_add_the_class_loss_of_what_was_asked",
    ),
    "fakes are judged by the classes of the real batch": Mistake(
        inside="AuxiliaryClassifier.d_loss_terms",
        old="class_loss(ctx.fake_out.class_logits, ctx.fake_in.classes)",
        new="class_loss(ctx.fake_out.class_logits, ctx.real_in.classes)",
        caught_by="test_both_players_add_the_class_loss_of_what_was_asked",
    ),
    "G has no class loss": Mistake(
        old="ctx.value(self.config.generator)",
        new="0",
        caught_by="test_the_generator_learns_from_the_class_loss_alone",
    ),
    "class scores are compared with another sample's class": Mistake(
        old="cross_entropy(class_logits.to(torch.promote_types(class_logits.dtype, torch.float32)), classes)",
        new="cross_entropy(class_logits.to(torch.promote_types(class_logits.dtype, torch.float32)), classes.flip(0))",
        caught_by="trace_law",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """Both losses hold -E log P(class), of reals and fakes for D and of fakes for G, by a head on D's features."""
    config, head = played.trick(name).config, played.game.discriminator.class_head
    for phase in played.phases:
        of_fakes = config.fake if phase.player == "d" else config.generator
        loss = class_cross_entropy(phase.fake_out, phase.fake_in)
        expected = {f"{name}.class_fake": value_at(played, of_fakes, phase.step) * loss}
        if phase.player == "d":
            loss = class_cross_entropy(phase.real_out, phase.real_in)
            expected[f"{name}.class_real"] = value_at(played, config.real, phase.step) * loss
        terms_are(phase, expected)
    network = played.game.discriminator
    was_training = network.training
    batch = samples(played, "discriminator")
    out = network.eval()(*batch)  # in training there may be noise before the head
    seen = out.features if network.pairing is None else network.pairing(torch.cat([out.features, batch.condition], 1))
    expected_logits = head(seen)
    network.train(was_training)
    close(out.class_logits, expected_logits, "class logits")


HOST = TrickHost(classes=3, generator={"conditional": True})
IMAGES = HOST.but(sample=(1, 8, 8))
MIXING_HOST = IMAGES.but(discriminator={"batch_norm": True, "depth": 2})


def cross_entropy(class_logits, classes) -> float:
    """-E log softmax, row by row."""
    total = 0.0
    for row, label in zip(class_logits.detach().tolist(), classes.tolist(), strict=True):
        top = max(row)
        total += top + math.log(sum(math.exp(value - top) for value in row)) - row[label]
    return total / len(classes)


# ---------------------------------------------------------------- the formula


@st.composite
def judged(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    size, classes = draw(st.integers(1, 9)), draw(st.integers(2, 5))
    class_logits = draw(gs.tensors((size, classes), scale=draw(st.sampled_from([0.0, 1.0, 1e4]))))
    return class_logits, draw(gs.rng()).randint(size, classes)


@given(judged())
def test_the_class_loss_is_cross_entropy(pair) -> None:
    assert class_loss(*pair).item() == pytest.approx(cross_entropy(*pair), rel=1e-12, abs=1e-12)


@given(judged())
def test_its_gradient_is_the_probability_less_the_truth(pair) -> None:
    class_logits, classes = pair[0].requires_grad_(), pair[1]
    class_loss(class_logits, classes).backward()
    values = class_logits.detach().numpy()
    weights = np.exp(values - values.max(1, keepdims=True))
    expected = weights / weights.sum(1, keepdims=True) - np.eye(values.shape[1])[classes.numpy()]
    np.testing.assert_allclose(class_logits.grad.numpy(), expected / len(classes), rtol=0, atol=1e-14)


@given(judged())
def test_it_is_computed_in_float32_at_least(pair) -> None:
    for dtype, result in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        assert class_loss(pair[0].to(dtype), pair[1]).dtype == result


# ---------------------------------------------------------------- in a run


class Watch(Trick):
    """Records what each player's class loss is made of."""

    def __init__(self, config: object) -> None:
        super().__init__(config)
        self.seen: list[dict[str, float]] = []

    @hookimpl
    def d_loss_terms(self, ctx):
        real, fake = ctx.real_out, ctx.fake_out
        assert torch.equal(ctx.real.classes, ctx.real_in.classes)
        self.seen.append(
            {
                "d.class_real": cross_entropy(real.class_logits, ctx.real.classes),
                "d.class_fake": cross_entropy(fake.class_logits, ctx.fake.classes),
            }
        )
        return {}

    @hookimpl
    def g_loss_terms(self, ctx):
        self.seen[-1]["g.class_fake"] = cross_entropy(ctx.fake_out.class_logits, ctx.fake.classes)
        return {}


@pytest.mark.parametrize("host", [HOST, IMAGES, MIXING_HOST], ids=["vectors", "images", "mixing"])
@pytest.mark.parametrize("others", [[], ["soft_labels", "label_flipping"]], ids=["alone", "label tricks"])
def test_both_players_add_the_class_loss_of_what_was_asked(host, others) -> None:
    host = host.with_trick("auxiliary_classifier", real=2.0, fake=0.5, generator=0.1)
    for trick in others:
        host = host.with_trick(trick)
    played = host.with_trick(Watch).train(3)
    weights = {"d.class_real": 2.0, "d.class_fake": 0.5, "g.class_fake": 0.1}
    for scalars, seen in zip(played.scalars, played.game.plan.tricks[-1].trick.seen, strict=True):
        for name, weight in weights.items():
            player, term = name.split(".")
            logged = scalars[f"loss/{player}.auxiliary_classifier.{term}"]
            assert logged == pytest.approx(weight * seen[name], rel=1e-12)
        assert len([name for name in scalars if "auxiliary_classifier" in name]) == 3


def test_the_default_weighs_all_three_alike() -> None:
    played = HOST.with_trick("auxiliary_classifier").with_trick(Watch).train(1)
    (seen,) = played.game.plan.tricks[-1].trick.seen
    for name, expected in seen.items():
        player, term = name.split(".")
        logged = played.scalars[0][f"loss/{player}.auxiliary_classifier.{term}"]
        assert logged == pytest.approx(expected, rel=1e-12)


class Relabel(Trick):
    """Shows D other fakes than were just made: each of class 2."""

    @hookimpl
    def fake_batch(self, batch):
        return Batch(batch.images, torch.full_like(batch.classes, 2))


def test_classes_follow_the_fakes_that_d_is_shown() -> None:
    game = HOST.with_trick("auxiliary_classifier").with_trick(Relabel).game()
    game.step.d_step()
    class_logits = game.frame.fake_out.class_logits
    expected = cross_entropy(class_logits, torch.full((8,), 2))
    assert game.scalars()[0]["loss/d.auxiliary_classifier.class_fake"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("host", [HOST, MIXING_HOST], ids=["vectors", "mixing"])
def test_the_generator_learns_from_the_class_loss_alone(host) -> None:
    """Its gradient is that of the class loss where the adversarial one is taken away."""
    game = host.but(reuse_fakes=False).with_trick("auxiliary_classifier").with_trick(NothingElse).game()
    game.step.d_step()
    game.step.g_step()
    gradients = [parameter.grad for parameter in game.players["g"].parameters]
    assert all(gradient.abs().sum() > 0 for gradient in gradients[-2:])
    assert game.generator.embedding.weight.grad.abs().sum() > 0


class NothingElse(Trick):
    """G has no objective of its own."""

    @hookimpl
    def g_objective(self, ctx):
        return {"nothing": 0 * ctx.fake_out.logits.sum()}


def test_each_classifier_weight_is_trained_by_d_only() -> None:
    game = HOST.but(reuse_fakes=False).with_trick("auxiliary_classifier").game()
    head = game.discriminator.class_head
    trained = {id(parameter) for parameter in game.players["d"].parameters}
    assert all(id(parameter) in trained for parameter in head.parameters())
    start = head.weight.detach().clone()
    game.step.d_step()
    after_d = head.weight.detach().clone()
    assert not torch.equal(after_d, start)
    game.step.g_step()
    assert torch.equal(head.weight, after_d)


def test_the_discriminator_needs_no_classes_and_its_verdict_is_what_it_was() -> None:
    with_it, plain = HOST.with_trick("auxiliary_classifier").game(), HOST.game()
    assert not with_it.discriminator.conditional
    assert isinstance(with_it.discriminator.class_head, nn.Linear)
    images = with_it.feed.take(torch.arange(5)).images
    assert torch.equal(with_it.discriminator(images).logits, plain.discriminator(images).logits)


@pytest.mark.parametrize("host", [HOST, MIXING_HOST], ids=["vectors", "mixing"])
def test_at_weight_zero_everything_but_the_class_head_trains_as_without_it(host) -> None:
    played = host.with_trick("auxiliary_classifier", real=0.0, fake=0.0, generator=0.0).train()
    moved = differences(played.state, host.train().state, besides=("tricks",))
    assert moved
    assert all(name.split("/")[1].startswith("class_head.") for name in moved)


def test_d_learns_to_classify() -> None:
    """Two classes that are far apart: D's class logits find them within a short run."""
    host = TrickHost(
        classes=2, count=40, steps=150, generator={"conditional": True}, optimizer={"name": "adam", "lr": 0.01}
    )
    game = host.with_trick(Shifted).with_trick("auxiliary_classifier").game()
    for _ in range(host.steps):
        game.advance()
    images, classes, _ = game.feed.take(torch.arange(40))
    shown = shifted(Batch(images, classes)).images
    assert (game.discriminator(shown).class_logits.argmax(1) == classes).all()
    z = sampling.draw_latents(game, 40, game.stream("a"), game.stream("b"))
    with torch.no_grad():
        made = game.discriminator(game.generator(*z)).class_logits.argmax(1)
    assert (made == z[1]).double().mean() > 0.9


def shifted(batch: Batch) -> Batch:
    return batch.with_images(0.3 * batch.images + 4.0 * (2 * batch.classes[:, None] - 1))


class Shifted(Trick):
    """Moves the real samples of each class apart from the other's."""

    @hookimpl
    def d_input(self, batch, is_real):
        return shifted(batch) if is_real else batch


def test_the_class_head_has_a_start_of_its_own() -> None:
    host = IMAGES.with_trick("auxiliary_classifier")
    first, second, other = host.game(), host.game(), host.but(seed=1).game()
    assert not differences(snapshot(first), snapshot(second))
    weights = [game.discriminator.class_head.weight for game in (first, other)]
    assert weights[0].shape == (3, first.discriminator.feature_dim)
    assert not torch.equal(*weights)
    assert 0 < weights[0].std() < 0.1


# ---------------------------------------------------------------- what is refused


class SemiSupervised(Trick):
    @hookimpl
    def d_loss_terms(self):
        return {}


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        (TrickHost(), "needs classes"),
        (TrickHost(classes=3), "needs generator_conditional"),
        (TrickHost(classes=1, generator={"conditional": True}), "one class only"),
        (HOST.with_trick(SemiSupervised, "semi_supervised"), "does not go with semi_supervised"),
    ],
)
def test_what_cannot_work_is_refused(host, reason) -> None:
    with pytest.raises(UserError, match=reason):
        host.with_trick("auxiliary_classifier").plan()


def test_a_discriminator_that_is_fed_classes_is_warned_of() -> None:
    host = HOST.but(discriminator={"conditional": True}).with_trick("label_injection")
    (warning,) = host.with_trick("auxiliary_classifier").plan().warnings
    assert "auxiliary_classifier beside label_injection" in warning
