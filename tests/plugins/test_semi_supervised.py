"""Laws of semi-supervised learning: the softmax over K + 1 classes, labels that few images have, three passes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gantricks import Batch, Rng, Trick, UserError, hookimpl
from gantricks.data.base import Dataset
from gantricks.engine import state
from gantricks.engine.start import start
from gantricks.labels import labelled_subset, positions
from gantricks.networks.base import Out
from gantricks.planning.device import place
from gantricks.plugins.semi_supervised import SemiSupervised, supervised_loss, verdict
from gantricks.rng import Clock
from gantricks.testing import MIXING, Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import class_cross_entropy, close, cross_entropy, rows_in, terms_are, value_at
from gantricks.testing.record import differences, same_bits

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({"labels": 6}, {}),
    "mixing": (
        {"labels": 9, "labelled_batch": 5, "unsupervised": {"start": 0.5, "end": 1.0}},
        MIXING | {"n_critic": 2},
    ),
}
OVERRIDES = {"": ["tricks.semi_supervised.labels=20"]}
REFUSED: dict[str, str] = {
    "auxiliary_classifier": "class logits a meaning",
    "label_injection": "nothing to recognise",
    "least_squares": "adversarial_loss",
    "minibatch_discrimination": "does not work at all",
    "minibatch_stddev": "d_head",
    "minimax": "adversarial_loss",
}

MISTAKES = {
    "the two unsupervised terms have no half": Mistake(
        old="0.5 * ctx.value(options.unsupervised)",
        new="ctx.value(options.unsupervised)",
        caught_by=("test_the_terms_are_those_of_the_k_plus_one_softmax", "trace_law"),
    ),
    "the class fake is not in the softmax of the verdict": Mistake(
        old="torch.logsumexp",
        new="torch.amax",
        caught_by="test_d_of_x_is_one_less_the_probability_of_the_class_fake",
    ),
    "exponentials of the logits are summed as they are": Mistake(
        old="torch.logsumexp",
        new="lambda l, d, keepdim: l.exp().sum(d, keepdim).log()",
        caught_by="test_logits_of_ten_thousand_give_finite_losses_and_gradients",
    ),
    "the labels of all images are used": Mistake(
        old="subset.take(positions(len(subset), options.labelled_batch or ctx.real.size, ctx.rng))",
        new="ctx.real",
        caught_by="test_classes_of_unlabelled_images_are_never_read",
    ),
    "labelled images have each other's classes": Mistake(
        old='cross_entropy(class_logits, classes, reduction="none")',
        new='cross_entropy(class_logits, classes.flip(0), reduction="none")',
        caught_by="trace_law",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """D(x) = 1 - p(fake) of the softmax over K + 1 classes, and D's terms are its cross-entropies: of labelled images
    and their class, halved of the others being real and of fakes being fake."""
    trick, game = played.trick(name), played.game
    everything = game.feed.take(torch.arange(game.feed.count))
    known = trick.subset.take(torch.arange(len(trick.subset)))
    assert known.classes.bincount(minlength=game.feed.classes).tolist() == [len(known.images) // game.feed.classes] * 3
    for image, label in zip(known.images, known.classes, strict=True):
        assert label in everything.classes[rows_in(everything.images, image[None])], "a label is not that of its image"
    for phase in played.phases:
        outs = [out for out in (phase.real_out, phase.fake_out) if out is not None]
        for out in (*outs, *(said for _, said in phase.passes)):
            close(out.logits, out.class_logits.exp().sum(1, keepdim=True).log(), "D's logit")
        if phase.player == "g":
            continue
        half = value_at(played, trick.config.unsupervised, phase.step) / 2
        unlabelled = half * cross_entropy(phase.real_out.logits, phase.real_labels).mean()
        fake = half * cross_entropy(phase.fake_out.logits, phase.fake_labels).mean()
        terms_are(phase, {"unlabelled": unlabelled, "fake": fake})
        if not played.calls.get("d_input"):  # what D is shown can be told by its looks
            losses = []
            for shown, said in phase.passes:
                if rows_in(shown, known.images).all():
                    order = (shown.flatten(1)[:, None] == known.images.flatten(1)[None]).all(2).int().argmax(1)
                    losses.append(class_cross_entropy(said, Batch(shown, known.classes[order])).item())
            assert any(math.isclose(loss, phase.terms["labelled"], rel_tol=1e-9) for loss in losses), "labelled"


VECTORS = TrickHost(classes=3).with_trick("separate_batches")
IMAGES = VECTORS.but(sample=(1, 8, 8))
MIXING_HOST = IMAGES.but(discriminator={"batch_norm": True, "depth": 2})
HOSTS = pytest.mark.parametrize("host", [VECTORS, IMAGES, MIXING_HOST], ids=["vectors", "images", "mixing"])


# ---------------------------------------------------------------- the formulas, against the softmax over K + 1 classes


def softmax(class_logits: torch.Tensor) -> np.ndarray:
    """Probabilities (B, K + 1) with the logit of the last class, "fake", fixed at 0."""
    logits = np.concatenate([class_logits.detach().numpy(), np.zeros((len(class_logits), 1))], 1)
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


@st.composite
def judged(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    size, classes = draw(st.integers(1, 9)), draw(st.integers(2, 6))
    class_logits = draw(gs.tensors((size, classes), scale=draw(st.sampled_from([0.0, 1.0, 8.0]))))
    return class_logits, draw(gs.rng()).randint(size, classes)


@given(judged())
def test_d_of_x_is_one_less_the_probability_of_the_class_fake(pair):
    class_logits, _ = pair
    found = torch.sigmoid(verdict(class_logits))
    assert found.shape == (len(class_logits), 1)
    np.testing.assert_allclose(1 - found.numpy()[:, 0], softmax(class_logits)[:, -1], rtol=1e-9, atol=1e-12)


@given(judged())
def test_the_supervised_loss_is_minus_the_log_of_the_probability_of_the_class_given_real(pair):
    class_logits, classes = pair
    p = softmax(class_logits)
    expected = -np.log(p[np.arange(len(p)), classes.numpy()] / (1 - p[:, -1])).mean()
    assert supervised_loss(class_logits, classes).mean().item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(judged(), st.floats(-5, 5))
def test_a_shift_of_all_class_logits_moves_the_verdict_and_not_the_class(pair, shift):
    class_logits, classes = pair
    torch.testing.assert_close(verdict(class_logits + shift), verdict(class_logits) + shift)
    torch.testing.assert_close(
        supervised_loss(class_logits + shift, classes), supervised_loss(class_logits, classes), rtol=1e-9, atol=1e-12
    )


@given(judged(), st.sampled_from([torch.float32, torch.bfloat16]), st.sampled_from([-1e4, 1e4]))
def test_logits_of_ten_thousand_give_finite_losses_and_gradients(pair, dtype, size):
    class_logits, classes = pair
    class_logits = (torch.sign(class_logits) * size).to(dtype)
    class_logits.view(-1)[0] = -size
    class_logits.requires_grad_()
    s = verdict(class_logits)
    assert s.dtype == torch.float32
    assert s.isfinite().all()
    losses = supervised_loss(class_logits, classes).mean() + torch.nn.functional.softplus(-s).mean()
    losses = losses + torch.nn.functional.softplus(s).mean()
    losses.backward()
    assert losses.isfinite()
    assert class_logits.grad.isfinite().all()


# ---------------------------------------------------------------- the labelled images


@given(st.integers(2, 5), st.integers(1, 4), st.integers(0, 2**63 - 1), gs.rng())
def test_each_class_has_as_many_labels(count, each, seed, rng):
    classes = torch.cat([torch.arange(count).repeat(each + 1), rng.randint(20, count)])
    chosen = labelled_subset(classes, count, each * count, rng.seeded(seed))
    assert chosen.unique().numel() == each * count
    assert classes[chosen].bincount(minlength=count).tolist() == [each] * count
    assert same_bits(chosen, labelled_subset(classes, count, each * count, rng.seeded(seed)))


def test_the_seed_chooses_the_images_evenly():
    classes, times, rng = torch.arange(20) % 2, torch.zeros(20), Rng(0, "tricks/a", Clock())
    for seed in range(400):
        times[labelled_subset(classes, 2, 10, rng.seeded(seed))] += 1
    assert ((times - 200).abs() < 5 * math.sqrt(400 / 4)).all()


def test_more_labels_than_a_class_has_samples_are_refused_by_name():
    with pytest.raises(ValueError, match="class 1 has 1 samples, and 2 are to be labelled"):
        labelled_subset(torch.tensor([0, 1, 0, 2, 2, 0]), 3, 6, Rng(0, "tricks/a", Clock()))
    plan = VECTORS.with_trick("semi_supervised", labels=30).plan()
    data = plan.source.load()
    lopsided = Dataset(data.samples, np.where(np.arange(40) < 35, 0, data.classes))
    with pytest.raises(UserError, match="class 1 has 1 samples, and 10 are to be labelled"):
        start(plan, lopsided, place("cpu", "fp64"))


@given(st.integers(1, 12), st.integers(1, 30), gs.rng())
def test_positions_are_drawn_without_replacement_as_far_as_they_reach(count, size, rng):
    drawn = positions(count, size, rng)
    assert drawn.shape == (size,)
    times = drawn.bincount(minlength=count)
    assert times.numel() == count
    assert times.max() - times.min() <= 1


# ---------------------------------------------------------------- in a run


class Watch(Trick):
    """Keeps what D said of the labelled, the unlabelled and the fake batch of each D step, as the loss saw it."""

    def __init__(self, config: object) -> None:
        super().__init__(config)
        self.seen: list[tuple[Out, Out, Out]] = []
        self.passes: list[Out] = []

    @hookimpl
    def on_setup(self, ctx):
        ctx.discriminator.register_forward_hook(lambda network, args, out: self.passes.append(out.detach()))

    @hookimpl
    def before_d_step(self):
        self.passes.clear()

    @hookimpl
    def d_loss_terms(self, ctx):
        assert len(self.passes) == 3, "the labelled, the unlabelled and the fake batch go through D by themselves"
        assert same_bits(self.passes[0].logits, ctx.real_out.logits.detach())
        assert same_bits(self.passes[1].logits, ctx.fake_out.logits.detach())
        self.seen.append((self.passes[2], self.passes[0], self.passes[1]))
        return {}


def labelled_rows(game) -> tuple[torch.Tensor, torch.Tensor]:
    """The labelled images and their classes."""
    subset = next(p.trick for p in game.plan.tricks if isinstance(p.trick, SemiSupervised)).subset
    images, classes, _ = subset.take(torch.arange(len(subset)))
    return images, classes


@HOSTS
@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_the_terms_are_those_of_the_k_plus_one_softmax(host, weight):
    # as many labelled images as a batch holds: each batch is all of them, in some order
    host = host.but(batch_size=9).with_trick("semi_supervised", labels=9, unsupervised=weight)
    game = host.with_trick(Watch).game()
    watch = game.plan.tricks[-1].trick
    for _ in range(3):
        game.advance()
        labelled, unlabelled, fake = watch.seen[-1]
        scalars = game.scalars()[0]
        p_real, p_fake = softmax(unlabelled.class_logits), softmax(fake.class_logits)
        expected = -0.5 * weight * np.log(1 - p_real[:, -1]).mean()
        assert scalars["loss/d.unlabelled"] == pytest.approx(expected, rel=1e-9)
        assert scalars["loss/d.fake"] == pytest.approx(-0.5 * weight * np.log(p_fake[:, -1]).mean(), rel=1e-9)
        assert labelled.class_logits.shape == (9, 3)
        for out in (labelled, unlabelled, fake):
            np.testing.assert_allclose(
                torch.sigmoid(out.logits).numpy()[:, 0], 1 - softmax(out.class_logits)[:, -1], rtol=1e-9
            )
        assert {name for name in scalars if name.startswith("loss/d.")} == {
            f"loss/d.{term}" for term in ("labelled", "unlabelled", "fake")
        }


def test_the_supervised_term_is_that_of_the_labelled_images_and_their_classes():
    game = VECTORS.but(batch_size=9).with_trick("semi_supervised", labels=9).game()
    images, classes = labelled_rows(game)
    before = game.discriminator(images).class_logits.detach()
    game.step.d_step()
    p = softmax(before)
    expected = -np.log(p[np.arange(9), classes.numpy()] / (1 - p[:, -1])).mean()
    assert game.scalars()[0]["loss/d.labelled"] == pytest.approx(expected, rel=1e-12)


def test_classes_of_unlabelled_images_are_never_read():
    host = VECTORS.with_trick("semi_supervised", labels=6)
    honest, spoilt = host.game(), host.game()
    subset = next(p.trick for p in honest.plan.tricks if isinstance(p.trick, SemiSupervised)).subset
    unlabelled = torch.ones(honest.feed.count, dtype=torch.bool)
    unlabelled[subset._rows] = False
    spoilt.feed._classes[unlabelled] = (spoilt.feed._classes[unlabelled] + 1) % 3
    for _ in range(3):
        honest.advance()
        spoilt.advance()
    assert not differences(state.tensors(honest), state.tensors(spoilt))
    spoilt.plan.tricks[-1].trick.subset.classes.add_(1).remainder_(3)
    honest.advance()
    spoilt.advance()
    assert differences(state.tensors(honest), state.tensors(spoilt)), "classes of labelled images are not read either"


def test_unlabelled_images_give_nothing_to_the_supervised_term():
    game = VECTORS.with_trick("semi_supervised", labels=6, unsupervised=0.0).game()
    other = VECTORS.with_trick("semi_supervised", labels=6, unsupervised=0.0).game()
    rows = game.plan.tricks[-1].trick.subset._rows
    kept = other.feed._samples[rows].clone()
    other.feed._samples.add_(1)
    other.feed._samples[rows] = kept
    for _ in range(3):
        game.step.d_step()
        other.step.d_step()
    for name, weight in game.discriminator.state_dict().items():
        assert same_bits(weight, other.discriminator.state_dict()[name]), name


def test_the_subset_follows_its_own_seed_and_not_that_of_the_run():
    def rows(**options):
        return VECTORS.but(seed=options.pop("run", 0)).with_trick("semi_supervised", labels=9, **options).game()

    images = labelled_rows(rows())[0]
    assert same_bits(images, labelled_rows(rows(run=7))[0])
    assert not same_bits(images, labelled_rows(rows(subset_seed=1))[0])


@pytest.mark.parametrize("budget", [None, 0], ids=["resident", "streamed"])
def test_the_subset_is_the_same_wherever_the_data_is(budget):
    plan = IMAGES.with_trick("semi_supervised", labels=9).plan()
    game = start(plan, plan.source.load(), place("cpu", "fp64"), budget=budget)
    assert game.feed.resident == (budget is None)
    images, classes = labelled_rows(game)
    plain = labelled_rows(IMAGES.with_trick("semi_supervised", labels=9).game())
    assert same_bits(images, plain[0])
    assert same_bits(classes, plain[1])
    data = plan.source.load()
    stored = torch.from_numpy(data.samples).permute(0, 3, 1, 2).double() / 127.5 - 1
    for image, label in zip(images, classes, strict=True):
        at = [i for i, row in enumerate(stored) if torch.allclose(row, image)]
        assert [data.classes[i] for i in at] == [label]


@pytest.mark.parametrize(("option", "size"), [(None, 8), (5, 5), (20, 20)])
def test_labelled_batches_are_as_large_as_asked(option, size):
    host = VECTORS.with_trick("semi_supervised", labels=6, labelled_batch=option).with_trick(Watch)
    watch = host.train(2).game.plan.tricks[-1].trick
    assert [len(labelled.logits) for labelled, _, _ in watch.seen] == [size] * 2


def test_labelled_batches_are_drawn_afresh():
    watch = VECTORS.with_trick("semi_supervised", labels=30, labelled_batch=4, unsupervised=0.0).with_trick(Watch)
    game = watch.game()
    game.step.d_step()
    first = game.plan.tricks[-1].trick.seen[-1][0].features
    game.clock.step += 1
    game.step.d_step(critic=1)
    second = game.plan.tricks[-1].trick.seen[-1][0].features
    assert not torch.allclose(first, second)


@HOSTS
def test_the_generator_alone_makes_d_say_real(host):
    game = host.with_trick("semi_supervised", labels=6).game()
    game.advance()
    s = game.frame.fake_out.logits.detach().numpy()
    scalars = game.scalars()[0]
    assert scalars["loss/g.adversarial"] == pytest.approx(np.log1p(np.exp(-s)).mean(), rel=1e-9)


@HOSTS
def test_feature_matching_takes_the_generators_place(host):
    played = host.with_trick("semi_supervised", labels=6).with_trick("feature_matching").train(3)
    assert "loss/g.feature_matching.distance" in played.scalars[-1]
    assert "loss/g.adversarial" not in played.scalars[-1]


def test_labels_of_real_and_fake_can_be_smoothed():
    game = VECTORS.with_trick("semi_supervised", labels=6).with_trick("label_smoothing", real=0.8).game()
    game.step.d_step()
    s = game.frame.real_out.logits.detach().numpy()
    expected = 0.5 * (0.8 * np.log1p(np.exp(-s)) + 0.2 * np.log1p(np.exp(s))).mean()
    assert game.scalars()[0]["loss/d.unlabelled"] == pytest.approx(expected, rel=1e-9)


def test_it_learns_classes_from_few_labels_and_the_rest_of_the_data():
    """Two labels a class, on made-up clusters: at least as good on the other points as chance allows by far."""
    host = VECTORS.but(count=300, batch_size=32, steps=150).with_trick("semi_supervised", labels=6)
    game = host.game()
    angle = game.feed._classes * (2 * math.pi / 3)
    centres = torch.stack([angle.cos(), angle.sin()], 1)
    game.feed._samples.mul_(0.15).add_(centres.float())
    for _ in range(150):
        game.advance()
    everything = game.feed.take(torch.arange(300))
    found = game.discriminator.eval()(everything.images).class_logits.argmax(1)
    assert (found == everything.classes).double().mean() > 0.9


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("host", "options", "words"),
    [
        (VECTORS, {"labels": 10}, "10 labels cannot be as many for each of 3 classes; write labels = 9"),
        (VECTORS, {"labels": 1}, "write labels = 3"),
        (VECTORS, {"labels": 42}, "42 images are to be labelled, and the data holds 40"),
        (VECTORS.but(classes=1), {"labels": 3}, "one class only"),
        (VECTORS.but(classes=0), {"labels": 3}, "needs classes"),
        (TrickHost(classes=3), {"labels": 6}, r"needs separate_passes"),
        (
            VECTORS.but(generator={"conditional": True}, discriminator={"conditional": True}),
            {"labels": 6},
            "a D that is given the class of each image has nothing to recognise",
        ),
    ],
)
def test_what_cannot_work_is_refused_when_the_recipe_is_checked(host, options, words):
    with pytest.raises(UserError, match=words):
        host.with_trick("semi_supervised", **options).plan()


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ("minibatch_discrimination", "does not work at all"),
        ("minibatch_stddev", "d_head"),
        ("least_squares", "adversarial_loss"),
        ("minimax", "adversarial_loss"),
        ("auxiliary_classifier", "class logits a meaning"),
    ],
)
def test_tricks_that_it_does_not_go_with_are_refused_with_the_reason(other, words):
    host = VECTORS.but(generator={"conditional": True})
    for pair in (("semi_supervised", other), (other, "semi_supervised")):
        both = host
        for trick in pair:
            both = both.with_trick(trick, **({"labels": 6} if trick == "semi_supervised" else {}))
        with pytest.raises(UserError, match=words):
            both.plan()


@pytest.mark.parametrize(
    ("other", "words"),
    [("hinge", "no margin"), ("wasserstein", "no critic's value"), ("relativistic", "that of one image alone")],
)
def test_an_objective_without_a_probability_is_refused(other, words):
    with pytest.raises(UserError, match=words):
        VECTORS.with_trick("semi_supervised", labels=6).with_trick(other).plan()


@pytest.mark.parametrize("wrong", [{"labels": 0}, {"labelled_batch": 0}, {"unsupervised": -1.0}, {"subset_seed": -1}])
def test_options_outside_their_bounds_are_refused(wrong):
    with pytest.raises(ValidationError):
        SemiSupervised.Config(**wrong)
