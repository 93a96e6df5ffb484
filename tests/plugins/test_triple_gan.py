"""Laws of Triple-GAN: the best D is a ratio of three densities, few images have labels, and players learn apart."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import softplus

from gantricks import Out, Trick, UserError
from gantricks.plugins.triple_gan import Pairs, drawn_classes, expected_exposure
from gantricks.testing import MIXING, Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import close, cross_entropy, g_mean, rows_in, terms_are, value_at, within_chance

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({"labels": 6, "generated_from": 0.0, "classifier": {"optimizer": {"name": "adam", "lr": 1e-2}}}, {}),
    "mixing": (
        {"labels": 9, "alpha": 0.3, "generated": {"start": 0.5, "end": 1.0}, "generated_from": 0.5},
        MIXING
        | {"n_critic": 2, "discriminator": {"batch_norm": True, "depth": 2, "conditional": True}}
        | {"classes": 3, "generator": {"conditional": True}},
    ),
}
OVERRIDES = {"": ["tricks.triple_gan.labels=20"]}
REFUSED: dict[str, str] = {
    "conditioning_augmentation": "a condition says more than the class",
    "langevin_sampling": "needs log_ratio",
    "matching_aware": "a condition says more than the class",
    "rejection_sampling": "needs log_ratio",
    "bigan": "pairs of the classifier have nothing else",
    "hinge": "adversarial_loss",
    "least_squares": "adversarial_loss",
    "minimax": "adversarial_loss",
    "packing": "discriminator_conditional",
    "relativistic": "adversarial_loss",
    "semi_supervised": "adversarial_loss",
    "wasserstein": "adversarial_loss",
}

MISTAKES = {
    "G's pairs have the weight of all fakes": Mistake(
        old="(1 - alpha) * binary_cross_entropy_with_logits(fake.logits, fake_labels, reduction='none')",
        new="binary_cross_entropy_with_logits(fake.logits, fake_labels, reduction='none')",
        caught_by=("test_the_best_d_is_the_ratio_of_three_densities", "trace_law"),
    ),
    "the shares of C and G are exchanged": Mistake(
        old="alpha * softplus(told.logits)",
        new="(1 - alpha) * softplus(told.logits)",
        caught_by=("test_the_best_d_is_the_ratio_of_three_densities", "trace_law[mixing]"),
    ),
    "C's pairs are called real": Mistake(
        old="softplus(told.logits)",
        new="softplus(-told.logits)",
        caught_by=("test_the_best_d_is_the_ratio_of_three_densities", "trace_law"),
    ),
    "C hides from D's opposite": Mistake(
        old="-(class_logits.to(dtype).softmax(1) * softplus(scores.detach().to(dtype))).sum(1).mean()",
        new="(class_logits.to(dtype).softmax(1) * softplus(scores.detach().to(dtype))).sum(1).mean()",
        caught_by="test_the_exposure_is_an_expectation_over_classes",
    ),
    "D learns from C's term": Mistake(
        old="scores.detach()",
        new="scores",
        caught_by="test_the_exposure_is_an_expectation_over_classes",
    ),
    "images are scored with each other's classes": Mistake(
        old="images.repeat_interleave(classes, 0)",
        new="images.repeat(classes, *[1] * (images.dim() - 1))",
        caught_by="test_d_scores_each_image_with_each_class",
    ),
    "C is trained on the labels of all images": Mistake(
        old="self.subset.take(positions(len(self.subset), batch.size, ctx.rng))",
        new="batch",
        caught_by=("test_classes_of_unlabelled_images_are_never_read", "trace_law"),
    ),
    "C's images are the labelled ones": Mistake(
        old="""
        self.unlabelled = batch.images
        return self.subset.take(positions(len(self.subset), batch.size, ctx.rng))
        """,
        new="""
        labelled = self.subset.take(positions(len(self.subset), batch.size, ctx.rng))
        self.unlabelled = labelled.images
        return labelled
        """,
        caught_by="test_the_classifier_labels_images_of_all_the_data",
    ),
    "the loss on G's images begins at once": Mistake(
        old="(ctx.elapsed >= options.generated_from).to(ctx.dtype)",
        new="1.0",
        caught_by="trace_law[mixing]",
    ),
    "the likeliest class is taken for a draw": Mistake(
        old="(rng.uniform((len(upto), 1)) >= upto[:, :-1]).sum(1)",
        new="class_logits.argmax(1)",
        caught_by="test_classes_are_drawn_as_often_as_they_are_likely",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """Reals are labelled images with their classes. D's terms are the cross-entropies of three kinds of pairs, with
    weights 1, 1 - α and α; C's are those of labelled images and, later, of fakes.
    """
    trick, game = played.trick(name), played.game
    alpha, config = trick.config.alpha, trick.config
    everything = game.feed.take(torch.arange(game.feed.count))
    known = trick.subset.take(torch.arange(len(trick.subset)))
    assert len(known.images) == config.labels
    for phase in played.phases:
        for image, label in zip(phase.real.images, phase.real.classes, strict=True):
            assert rows_in(image[None], known.images).all(), "a real image that is not labelled"
            assert label in everything.classes[rows_in(everything.images, image[None])], "a label of another image"
        if phase.player == "g":
            if not played.calls.get("g_objective"):
                losses = (1 - alpha) * cross_entropy(phase.fake_out.logits, phase.fake_labels)
                terms_are(phase, {"adversarial": g_mean(played, phase, losses)})
            continue
        real = cross_entropy(phase.real_out.logits, phase.real_labels).mean()
        fake = (1 - alpha) * cross_entropy(phase.fake_out.logits, phase.fake_labels).mean()
        terms_are(phase, {"real": real, "fake": fake})
        alone = [out.logits for shown, out in phase.passes if len(shown) == len(phase.real.images)]
        classified = [alpha * float(cross_entropy(logits, torch.zeros_like(logits)).mean()) for logits in alone]
        assert any(math.isclose(phase.terms["classified"], each, rel_tol=1e-9) for each in classified), "C's pairs"
        weight = value_at(played, config.generated, phase.step)
        if phase.step / (game.steps - 1) < config.generated_from:
            assert phase.terms[f"{name}.generated"] == 0
        else:
            assert (phase.terms[f"{name}.generated"] > 0) == (weight > 0)
    first = played.phases[0]
    classifier = game.companions[f"{name}.classifier"].network
    state = {key: value.clone() for key, value in played.start[f"{name}.classifier"].items()}
    logits = functional_call(classifier, state, (first.real.images,)).logits
    likely = logits.log_softmax(1).gather(1, first.real.classes[:, None])
    terms_are(first, {f"{name}.labelled": -likely.mean()})


HOST = TrickHost(
    classes=3, reuse_fakes=False, generator={"conditional": True}, discriminator={"conditional": True}
).with_trick("triple_gan", labels=6, generated_from=0.0)


def of(game) -> Trick:
    return next(planned.trick for planned in game.plan.tricks if planned.name == "triple_gan")


# ---------------------------------------------------------------- the formulas


@st.composite
def tables(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    shape = draw(st.integers(1, 6)), draw(st.integers(2, 5))
    return draw(gs.tensors(shape)), draw(gs.tensors(shape))


@given(tables())
def test_the_exposure_is_an_expectation_over_classes(pair) -> None:
    class_logits, scores = (table.clone().requires_grad_() for table in pair)
    expected = 0.0
    for logits, row in zip(class_logits.tolist(), scores.tolist(), strict=True):
        weights = [math.exp(logit - max(logits)) for logit in logits]
        for weight, score in zip(weights, row, strict=True):
            expected += weight / sum(weights) * -(max(score, 0) + math.log1p(math.exp(-abs(score))))
    found = expected_exposure(class_logits, scores)
    assert found.item() == pytest.approx(expected / len(scores), rel=1e-9, abs=1e-12)
    found.backward()
    assert scores.grad is None


@given(tables(), st.floats(-5, 5))
def test_where_d_is_undecided_the_classifier_learns_nothing_from_it(pair, score) -> None:
    class_logits = pair[0].clone().requires_grad_()
    expected_exposure(class_logits, torch.full_like(class_logits, score)).backward()
    assert class_logits.grad.abs().max() < 1e-12


def test_classes_are_drawn_as_often_as_they_are_likely() -> None:
    rng = HOST.game().contexts["triple_gan"].rng
    likely = torch.tensor([0.2, 0.0, 0.5, 0.3]).double()
    found = drawn_classes(likely.log().expand(5000, 4), rng)
    for k, p in enumerate(likely.tolist()):
        within_chance(found == k, p, f"class {k}")


# ---------------------------------------------------------------- the game of three players on two points


class Table:
    """A D whose logit of (x, y) stands in a table (2, 2); x is 0 or 1."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    def __call__(self, batch, is_real: bool = True) -> Out:
        return Out(self.logits[batch.images[:, 0].long(), batch.classes][:, None], batch.images)


def pairs(counts: list[list[int]]) -> SimpleNamespace:
    """Samples (x, y), each as often as the table says."""
    of_each = [(x, y) for x in (0, 1) for y in (0, 1) for _ in range(counts[x][y])]
    images, classes = torch.tensor(of_each).unbind(1)
    return SimpleNamespace(images=images[:, None].double(), classes=classes)


def d_loss(d: Table, data, made, told, alpha: float, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """The trick's loss of D for these three kinds of pairs."""
    trick = SimpleNamespace(
        unlabelled=told.images, config=SimpleNamespace(alpha=alpha), classifier=lambda x: SimpleNamespace(logits=None)
    )
    monkeypatch.setitem(Pairs.d_loss.__globals__, "drawn_classes", lambda *_: told.classes)
    real, fake = d(data), d(made)
    ctx = SimpleNamespace(discriminate=d, rng=None)
    terms = Pairs(trick).d_loss(real, fake, torch.ones_like(real.logits), torch.zeros_like(fake.logits), ctx)
    return sum(term.mean() for term in terms.values())


DATA, MADE, TOLD = [[3, 1], [1, 3]], [[2, 2], [1, 3]], [[4, 1], [2, 1]]


def test_the_best_d_is_the_ratio_of_three_densities() -> None:
    """D* = p / (p + (1 - α) p_g + α p_c), found by Newton's method on the trick's own loss."""
    for alpha in (0.5, 0.2):
        with pytest.MonkeyPatch.context() as patch:
            logits = torch.zeros(4).double()

            def loss(flat: Tensor, alpha: float = alpha) -> Tensor:
                return d_loss(Table(flat.reshape(2, 2)), pairs(DATA), pairs(MADE), pairs(TOLD), alpha, patch)

            for _ in range(50):
                slope = torch.autograd.functional.jacobian(loss, logits)
                logits = logits - torch.linalg.solve(torch.autograd.functional.hessian(loss, logits), slope)
        p, g, c = (torch.tensor(counts).double().flatten() / 8 for counts in (DATA, MADE, TOLD))
        close(logits.sigmoid(), p / (p + (1 - alpha) * g + alpha * c), "the best D")


def test_where_all_three_are_the_data_an_undecided_d_is_best() -> None:
    with pytest.MonkeyPatch.context() as patch:
        logits = torch.zeros(2, 2).double().requires_grad_()
        d_loss(Table(logits), pairs(DATA), pairs(DATA), pairs(DATA), 0.3, patch).backward()
    assert logits.grad.abs().max() < 1e-15


# ---------------------------------------------------------------- who learns from what


def test_the_classifier_and_d_learn_from_their_own_terms() -> None:
    """C's gradient is that of its three terms, with D a constant; D's is that of its three, with C a constant."""
    game = HOST.game()
    d, c = copy.deepcopy(game.discriminator), copy.deepcopy(of(game).classifier)
    seen = []
    game.discriminator.register_forward_pre_hook(lambda _, given: seen.append(given))
    game.step.d_step()
    real, fake, x = game.frame.real, game.frame.fake, of(game).unlabelled
    told = next(given for given in seen if len(given[0]) == 8)
    assert torch.equal(told[0], x)

    each = torch.stack([d(x, torch.full((8,), k)).logits[:, 0] for k in range(3)], 1).detach()
    likely = c(x).logits.softmax(1)
    of_c = torch.nn.functional.cross_entropy(c(real.images).logits, real.classes)
    of_c = of_c + 0.5 * (likely * torch.log(1 - each.sigmoid())).sum(1).mean()
    of_c = of_c + 0.1 * torch.nn.functional.cross_entropy(c(fake.images).logits, fake.classes)
    of_d = softplus(-d(*real[:2]).logits).mean() + softplus(d(*fake[:2]).logits).mean() / 2
    of_d = of_d + softplus(d(x, told[1]).logits).mean() / 2
    for network, copied, loss in ((of(game).classifier, c, of_c), (game.discriminator, d, of_d)):
        expected = torch.autograd.grad(loss, [*copied.parameters()])
        for weight, gradient in zip(network.parameters(), expected, strict=True):
            close(weight.grad, gradient, "a gradient")
    assert all(weight.grad is None for weight in game.generator.parameters())
    before = [weight.grad.clone() for weight in of(game).classifier.parameters()]
    game.step.g_step()
    assert all(torch.equal(w.grad, b) for w, b in zip(of(game).classifier.parameters(), before, strict=True))


def test_d_scores_each_image_with_each_class() -> None:
    game = HOST.game()
    trick, x = of(game), game.feed.next().images
    scores = trick._scores(x, 3, game.contexts["triple_gan"])
    for k in range(3):
        close(scores[:, k], game.discriminator(x, torch.full((8,), k)).logits[:, 0].detach(), f"scores with class {k}")
    assert not scores.requires_grad


def test_classes_of_unlabelled_images_are_never_read() -> None:
    """Other classes of all images but the labelled ones leave a run as it is."""
    games = [HOST.game() for _ in range(2)]
    other = games[1].feed
    taken = other.next

    def next_with_other_classes():
        batch = taken()
        return batch._replace(classes=(batch.classes + 1) % 3)

    other.next = next_with_other_classes
    for game in games:
        for _ in range(3):
            game.advance()
    first, second = (game.scalars()[0] for game in games)
    assert first == second


def test_the_classifier_labels_images_of_all_the_data() -> None:
    game = HOST.game()
    seen = set()
    for _ in range(10):
        game.advance()
        seen |= {tuple(image) for image in of(game).unlabelled.tolist()}
    assert len(seen) == game.feed.count


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(("labels", "told"), [(7, "write labels = 6"), (60, "the data holds 40")])
def test_labels_that_do_not_fit_are_refused(labels, told) -> None:
    with pytest.raises(UserError, match=told):
        TrickHost(classes=3, generator={"conditional": True}, discriminator={"conditional": True}).with_trick(
            "triple_gan", labels=labels
        ).plan()
