"""The verbs that call hooks, the typed record of them, and what the core makes of an objective's terms."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gantricks import AdversarialLoss, Trick, TrickError, hookimpl
from gantricks.engine.dispatch import Hooks, choose, collect, fold, notify
from gantricks.engine.step import means
from gantricks.hooks import KINDS
from gantricks.testing import TrickHost
from gantricks.testing.record import differences, snapshot


class Ctx:
    def __init__(self, name: str) -> None:
        self.name = name


def test_every_hook_of_the_contract_has_a_field_of_its_kind_in_the_same_order() -> None:
    fields = {field.name: str(field.type).partition("[")[0].lower() for field in dataclasses.fields(Hooks)}
    assert list(fields) == list(KINDS)
    assert fields == KINDS
    assert all(implementations == () for implementations in vars(Hooks()).values())


def test_a_fold_hands_on_what_the_last_trick_returned_in_order() -> None:
    hooks = ((lambda value, ctx: value + ctx.name, Ctx("a")), (lambda value, ctx: value + ctx.name, Ctx("b")))
    assert fold(hooks, "x") == "xab"
    assert fold((), "x") == "x"
    assert fold(((lambda value, about, ctx: value + about, Ctx("a")),), 1, 2) == 3


def test_a_fold_that_returns_nothing_is_named() -> None:
    def forgets(value: int, ctx: Ctx) -> None: ...

    with pytest.raises(TrickError, match="late: forgets returned None"):
        fold(((forgets, Ctx("late")),), 1)


def test_the_other_verbs() -> None:
    seen: list[str] = []
    notify(((lambda ctx: seen.append(ctx.name), Ctx("a")), (lambda ctx: seen.append(ctx.name), Ctx("b"))))
    assert seen == ["a", "b"]
    assert choose((), 1) is None
    assert choose(((lambda x, ctx: (x, ctx.name), Ctx("one")),), 1) == (1, "one")
    terms = ((lambda ctx: {"t": torch.ones(())}, Ctx("a")), (lambda ctx: None, Ctx("b")))
    assert list(collect(terms)) == ["a.t"]
    assert list(collect(terms, "/")) == ["a/t"]


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(0, 9)), min_size=1, max_size=9))
def test_the_mean_of_a_term_is_weighted_by_sample(rows: list[tuple[float, float]]) -> None:
    terms = torch.tensor([[term] for term, _ in rows], dtype=torch.float64)
    weights = torch.tensor([[1 + weight] for _, weight in rows], dtype=torch.float64)
    expected = sum(term * (1 + weight) for term, weight in rows) / sum(1 + weight for _, weight in rows)
    for shape in ((-1, 1), (-1,)):
        found = means({"t": terms.view(shape)}, "mine", weights)["t"]
        assert found.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
        assert means({"t": terms.view(shape)}, "mine")["t"].item() == pytest.approx(terms.mean().item(), abs=1e-12)


@pytest.mark.parametrize(("shape", "weighted"), [((), False), ((2, 2), False), ((1, 3), False), ((3,), True)])
def test_a_term_that_is_not_one_number_a_sample_is_named(shape: tuple[int, ...], weighted: bool) -> None:
    with pytest.raises(TrickError, match="mine: the objective's term 'x' has shape"):
        means({"x": torch.zeros(shape)}, "mine", torch.ones(2, 1) if weighted else None)


class Halved(Trick):
    """The first half of the fakes counts, the other does not."""

    @hookimpl
    def g_weights(self, weights):
        keep = torch.arange(len(weights))[:, None] < len(weights) // 2
        return weights * keep


class Doubled(Trick):
    """All fakes count twice, which is as once."""

    @hookimpl
    def g_weights(self, weights):
        return 2 * weights


def test_weights_of_fakes_change_the_mean_of_the_generators_loss_alone() -> None:
    plain, halved = (host.train(1) for host in (TrickHost(), TrickHost().with_trick(Halved)))
    (d_plain, g_plain), (d_halved, g_halved) = plain.phases, halved.phases
    assert d_plain.terms == d_halved.terms
    losses = torch.nn.functional.softplus(-g_plain.fake_out.logits)
    assert g_plain.terms["adversarial"] == pytest.approx(losses.mean().item(), rel=1e-9)
    assert g_halved.terms["adversarial"] == pytest.approx(losses[:4].mean().item(), rel=1e-9)


def test_equal_weights_are_no_weights_to_rounding() -> None:
    plain, doubled = (host.train(1).phases[1] for host in (TrickHost(), TrickHost().with_trick(Doubled)))
    for name, gradient in plain.gradients.items():
        torch.testing.assert_close(doubled.gradients[name], gradient, rtol=1e-9, atol=1e-12)


class Compares(AdversarialLoss):
    """G's loss reads the scores of reals: log σ(s_fake - s_real) for pairs (Jolicoeur-Martineau 2019)."""

    compares = True

    def d_loss(self, real, fake, real_labels, fake_labels, ctx):
        return {"pairs": torch.nn.functional.softplus(fake.logits - real.logits)}

    def g_loss(self, real, fake, labels, ctx):
        assert not real.logits.requires_grad
        return {"pairs": torch.nn.functional.softplus(real.logits - fake.logits)}


class Relativistic(Trick):
    @hookimpl
    def adversarial_loss(self, ctx):
        assert ctx.name == "relativistic"
        return Compares()


def test_a_loss_that_compares_is_given_the_reals_as_the_updated_d_scores_them() -> None:
    played = TrickHost().with_trick(Relativistic).train(3)
    for d, g in zip(played.phases[::2], played.phases[1::2], strict=True):
        assert torch.equal(g.real.images, d.real.images)
        assert not torch.equal(g.real_out.logits, d.real_out.logits)
        expected = torch.nn.functional.softplus(g.real_out.logits - g.fake_out.logits).mean().item()
        assert g.terms["pairs"] == pytest.approx(expected, rel=1e-9)


class Chatty(Trick):
    """Leaves a tensor of its own in its loss's context."""

    @hookimpl
    def adversarial_loss(self, ctx):
        class Loss(AdversarialLoss):
            def d_loss(self, real, fake, real_labels, fake_labels, ctx):
                assert ctx.name == "chatty"
                return {"d": (real.logits - fake.logits + ctx.rng.normal(real.logits.shape)).square()}

            def g_loss(self, real, fake, labels, ctx):
                assert real is None
                return {"g": fake.logits.square()}

        return Loss()


def test_a_loss_is_called_with_the_context_of_the_trick_that_provides_it() -> None:
    host = TrickHost().with_trick(Chatty)
    assert not differences(snapshot(host.train(3).game), snapshot(host.train(3).game))


class Replaces(Trick):
    """Replaces the networks that are sampled and evaluated."""

    replaces = {"generator_for_sampling", "discriminator_for_evaluation"}

    @hookimpl
    def sampling_generator(self, network, ctx):
        return network

    @hookimpl
    def evaluation_discriminator(self, network, ctx):
        return network

    @hookimpl
    def sampling_latents(self, given, ctx):
        return given


class Changes(Replaces):
    """Changes them."""

    replaces = frozenset()


def test_what_replaces_a_network_is_asked_before_what_changes_it() -> None:
    host = TrickHost().with_trick(Changes, "first").with_trick(Replaces, "second").with_trick(Changes, "third")
    plan, game = host.plan(), host.game()
    for hook in ("sampling_generator", "evaluation_discriminator"):
        assert plan.on[hook] == ("second", "first", "third")
        assert [ctx.name for _, ctx in getattr(game.hooks, hook)] == ["second", "first", "third"]
    # every other hook keeps the order of the recipe
    assert plan.on["sampling_latents"] == ("first", "second", "third")
