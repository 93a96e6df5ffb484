"""What a recorded run holds, and a trick's own law on it: alone, in pairs, and as a check of the suite."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gantricks import Trick, hookimpl
from gantricks.catalogue.registry import Registry
from gantricks.testing import Case, Played, TrickHost, pair_holds, run_suite, trick_suite
from gantricks.testing.record import same_bits

SGD = {"name": "sgd", "lr": 0.1}


class Doubling(Trick):
    """Doubles D's gradient, gives it a wider head and stands still behind a gate in G."""

    @hookimpl
    def transform_discriminator(self, network, ctx):
        width = network.feature_dim
        made = nn.Sequential(nn.Linear(width, 3), nn.Linear(3, 1))
        network.head = ctx.build("head", lambda: made, like=network)
        return network

    @hookimpl
    def after_d_backward(self, ctx):
        for weight in ctx.discriminator.parameters():
            weight.grad.mul_(2)

    @hookimpl
    def g_gate(self, open, ctx):
        return open * 0


class Scaling(Trick):
    """Scales D's targets."""

    @hookimpl
    def d_labels(self, labels, ctx):
        return 0.9 * labels


def scales(played: Played, name: str) -> None:
    """Holds beside any other trick: it compares what came in with what went out."""
    for call in played.of(name, "d_labels"):
        torch.testing.assert_close(call.result, 0.9 * call.arguments[0])


def starts_from_ones(played: Played, name: str) -> None:
    """Holds alone, and not behind a trick that changes labels."""
    assert all(((call.arguments[0] == 0) | (call.arguments[0] == 1)).all() for call in played.of(name, "d_labels"))


# ---------------------------------------------------------------- the record


@pytest.fixture
def played() -> Played:
    return TrickHost(n_critic=2, optimizer=SGD).with_trick("instance_noise", sigma=0.3).train(3)


def test_phases_and_calls_are_in_the_order_of_the_run(played: Played) -> None:
    step = [("d", 0), ("d", 1), ("g", 0)]
    assert [(p.step, p.player, p.critic) for p in played.phases] == [(n, *phase) for n in range(3) for phase in step]
    shown = [(call.step, call.phase, call.critic, call.arguments[1]) for call in played.of("instance_noise", "d_input")]
    kinds = [("d", 0, True), ("d", 0, False), ("d", 1, True), ("d", 1, False), ("g", 0, False)]
    assert shown == [(n, *kind) for n in range(3) for kind in kinds]
    assert played.steps_of("g") == played.phases[2::3]


def test_a_players_weights_move_from_phase_to_phase_along_its_gradients(played: Played) -> None:
    for player, role in (("d", "discriminator"), ("g", "generator")):
        now = played.start[role]
        for phase in played.steps_of(player):
            assert phase.updated
            for name, weight in now.items():
                assert same_bits(phase.before[name], weight)
                torch.testing.assert_close(phase.after[name], weight - 0.1 * phase.gradients[name])
            now = phase.after
        assert all(same_bits(now[name], weight) for name, weight in played.state[role].items())


def test_a_phase_holds_what_its_tricks_and_its_loss_saw(played: Played) -> None:
    noisy = iter(call.result.images for call in played.of("instance_noise", "d_input"))
    for phase in played.phases:
        if phase.player == "d":
            assert same_bits(phase.real_in.images, next(noisy))
            assert (phase.real_labels == 1).all()
            assert (phase.fake_labels == 0).all()
            (shown, said), *others = phase.passes
            assert not others
            assert same_bits(shown, torch.cat([phase.real_in.images, phase.fake_in.images]))
            assert same_bits(said.logits, torch.cat([phase.real_out.logits, phase.fake_out.logits]))
        else:
            assert phase.real_in is phase.real_out is phase.real_labels is None
            assert (phase.fake_labels == 1).all()
        assert same_bits(phase.fake_in.images, next(noisy))
        assert phase.real.size == phase.fake.size == 8
    last = {phase.player: phase for phase in played.phases}
    for player in "dg":
        assert played.scalars[-1][f"loss/{player}"] == sum(last[player].terms.values())


def test_a_call_holds_what_it_changed_in_place() -> None:
    run = TrickHost(optimizer=SGD).with_trick(Doubling, "doubling").train(2)
    for call, phase in zip(run.of("doubling", "after_d_backward"), run.steps_of("d"), strict=True):
        assert call.before.keys() == call.after.keys() == dict(run.game.discriminator.named_parameters()).keys()
        for name, gradient in call.before.items():
            assert same_bits(call.after[name], 2 * gradient)
            assert same_bits(phase.gradients[name], call.after[name])
    (surgery,) = run.of("doubling", "transform_discriminator")
    assert isinstance(surgery.before["head"], nn.Linear)
    assert surgery.after["head"] is run.game.discriminator.head
    assert surgery.after.keys() - surgery.before.keys() == {"head.0", "head.1"}
    assert all(call.before == call.after == {} for call in run.of("doubling", "g_gate"))


def test_a_closed_gate_shows() -> None:
    run = TrickHost().with_trick(Doubling, "doubling").train(2)
    assert [phase.updated for phase in run.phases] == [True, False, True, False]
    for phase in run.steps_of("g"):
        assert any(gradient.any() for gradient in phase.gradients.values())
        assert all(same_bits(phase.before[name], weight) for name, weight in phase.after.items())


def test_a_law_is_read_off_some_call() -> None:
    run = TrickHost().with_trick(Scaling, "scaling").train(1)
    assert run.trick("scaling") is run.game.plan.tricks[0].trick
    with pytest.raises(AssertionError, match="scaling was never called on g_labels"):
        run.of("scaling", "g_labels")


# ---------------------------------------------------------------- the law as a check


test_one_line = trick_suite(Scaling, beside=["soft_labels", "label_flipping"], trace=scales)


def test_a_law_that_is_broken_fails_alone_and_in_every_pair() -> None:
    def wrong(played: Played, name: str) -> None:
        assert not played.of(name, "d_labels"), "it is called"

    outcomes = {outcome.id: outcome for outcome in run_suite(Scaling, beside=["instance_noise"], trace=wrong)}
    failed = {identity: outcome for identity, outcome in outcomes.items() if not outcome.ok}
    assert failed.keys() == {"trace", "pair:instance_noise"}
    assert all("scaling breaks its own law: it is called" in outcome.detail for outcome in failed.values())
    assert all(outcome.hint for outcome in failed.values())
    reasons = dict.fromkeys(failed, "known")
    assert all(o.ok for o in run_suite(Scaling, beside=["instance_noise"], trace=wrong, expected_failures=reasons))


def test_a_law_can_hold_alone_and_break_in_a_pair() -> None:
    outcomes = run_suite(Scaling, beside=["soft_labels", "instance_noise"], trace=starts_from_ones)
    assert [outcome.id for outcome in outcomes if not outcome.ok] == ["pair:soft_labels"]
    assert "trace" not in {outcome.id for outcome in run_suite(Scaling)}


def test_a_pair_is_held_to_the_laws_of_both() -> None:
    asked: list[tuple[str, list[str]]] = []

    def note(played: Played, name: str) -> None:
        asked.append((name, [planned.name for planned in played.game.plan.tricks]))

    noise = Registry(installed=False).load("tricks", "instance_noise").cls
    pair_holds(Case(Scaling, name="scaling", trace=note), Case(noise, name="noise", trace=note))
    assert asked == [("scaling", ["scaling", "noise"]), ("noise", ["scaling", "noise"])]


def test_a_pair_that_is_to_be_refused_is_refused_in_these_words() -> None:
    words = {"minimax": "adversarial_loss", "soft_labels": "", "label_smoothing": "two cooks"}
    options = {"conflicts": {"label_smoothing": "both smooth"}}
    smoothing = type("Smoothing", (Scaling,), options)
    outcomes = {outcome.id: outcome for outcome in run_suite(smoothing, refused=words)}
    assert "are not refused" in outcomes["refused:soft_labels"].detail
    assert "are not refused" in outcomes["refused:minimax"].detail
    assert "for another reason" in outcomes["refused:label_smoothing"].detail
    holds = {outcome.id: outcome for outcome in run_suite(smoothing, refused={"label_smoothing": "both smooth"})}
    assert holds["refused:label_smoothing"].status == "passed"
