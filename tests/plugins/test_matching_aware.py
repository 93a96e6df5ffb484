"""Matching-aware D: real images beside other images' conditions are fakes, and reals count twice."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import softplus

from gantricks import UserError
from gantricks.plugins.matching_aware import mismatched
from gantricks.testing import Mistake, Played, Settings, TrickHost
from gantricks.testing.measure import cross_entropy, rows_in, value_at

# ---------------------------------------------------------------- what the generic suites are told

PAIRS = {"condition": 3, "generator": {"conditioned": True}, "discriminator": {"conditioned": True}}
SETTINGS: Settings = {
    "": ({"weight": 0.5}, {}),
    "images": ({"weight": {"start": 1.0, "end": 0.2}}, PAIRS | {"sample": (1, 8, 8), "n_critic": 2}),
}
REFUSED = {
    "class_batch_norm": "a condition says more than the class",
    "projection_discriminator": "a condition says more than the class",
    "auxiliary_classifier": "a condition says more than the class",
    "label_injection": "a condition says more than the class",
    "mode_seeking": "no two fakes of a batch share it",
    "packing": "D would judge a pack by one condition",
}

MISTAKES = {
    "an image may keep its own condition": Mistake(
        old="1 + (start + places[: count - 1]) % (count - 1)",
        new="(start + places[: count - 1]) % (count - 1)",
        caught_by=(
            "test_every_row_gets_another_one_that_differs",
            "test_all_different_rows_move_by_start_and_one",
        ),
    ),
    "equal conditions of other images count as other ones": Mistake(
        old="(condition[:, None] != condition[None]).any(2)",
        new="(condition[:, None] != condition[None]).any(2) | True",
        caught_by="test_every_row_gets_another_one_that_differs",
    ),
    "mismatched pairs are called real": Mistake(
        old="ctx.d_loss(ctx.real_out, out)", new="ctx.d_loss(out, ctx.fake_out)", caught_by="trace_law"
    ),
    "reals do not count again": Mistake(
        old="ctx.d_loss(ctx.real_out, out)",
        new="ctx.d_loss(ctx.real_out, out) - ctx.d_loss(ctx.real_out, ctx.fake_out)",
        caught_by="trace_law",
    ),
    "fakes are mismatched, and not reals": Mistake(
        old="images, classes, condition = ctx.real_in",
        new="images, classes, condition = ctx.fake_in",
        caught_by="trace_law",
    ),
    "the same partner in every step": Mistake(
        old="start = ctx.rng.randint(1, max(len(condition) - 1, 1))",
        new="start = torch.zeros(1, dtype=torch.int64)",
        caught_by="test_partners_change",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """D judges the reals again in a pass of their own; where the objective is the default one, the term is the loss of
    reals and of these as fakes.
    """
    plain = not played.calls.get("adversarial_loss")
    for phase in played.steps_of("d"):
        again = [out for images, out in phase.passes if torch.equal(images, phase.real_in.images)]
        assert again, "no pass of the reals alone"
        if plain:
            weight = value_at(played, played.trick(name).config.weight, phase.step)
            reals = cross_entropy(phase.real_out.logits, phase.real_labels).mean()
            expected = [float(weight * (reals + cross_entropy(out.logits, phase.fake_labels).mean())) for out in again]
            found = phase.terms[f"{name}.mismatched"]
            assert any(found == pytest.approx(value, rel=1e-9) for value in expected), (found, expected)


@given(st.lists(st.integers(0, 3), min_size=2, max_size=9), st.data())
def test_every_row_gets_another_one_that_differs(kinds, data) -> None:
    condition = torch.tensor(kinds)[:, None] * torch.tensor([[1.0, 2.0]])
    start = torch.tensor([data.draw(st.integers(0, len(kinds) - 2))])
    others = mismatched(condition, start)
    assert rows_in(others, condition).all()
    if len({*kinds}) > 1:
        assert (others != condition).any(1).all()


def test_all_different_rows_move_by_start_and_one() -> None:
    condition = torch.arange(5.0)[:, None]
    for start in range(4):
        assert mismatched(condition, torch.tensor([start])).flatten().tolist() == [
            (i + start + 1) % 5 for i in range(5)
        ]


def test_partners_change() -> None:
    game, seen = TrickHost(**PAIRS, batch_size=40, steps=6).with_trick("matching_aware").game(), []

    def note(_: object, inputs: tuple[torch.Tensor, ...], out: object) -> None:
        if len(inputs[0]) == 40:  # neither both batches, nor the fakes of a G step
            images, _, condition = inputs
            own = game.frame.real_in
            if own is not None and torch.equal(images, own.images):
                seen.append(int((own.condition == condition[0]).all(1).nonzero()[0]))

    game.discriminator.register_forward_hook(note)
    with game.training():
        for _ in range(6):
            game.advance()
    assert len(seen) == 6
    assert 0 not in seen
    assert len({*seen}) > 2


def test_at_weight_1_the_loss_is_twice_that_of_reed() -> None:
    played = TrickHost(**PAIRS).with_trick("matching_aware").train(1)
    (phase,) = played.steps_of("d")
    (wrong,) = [out.logits for images, out in phase.passes if torch.equal(images, phase.real_in.images)]
    reals, fakes = phase.real_out.logits, phase.fake_out.logits
    reed = softplus(-reals).mean() + (softplus(fakes).mean() + softplus(wrong).mean()) / 2
    assert sum(phase.terms.values()) == pytest.approx(2 * reed.item(), rel=1e-9)


def test_a_batch_of_one_is_refused() -> None:
    with pytest.raises(UserError, match="a batch of 1 has no other condition"):
        TrickHost(**PAIRS, batch_size=1).with_trick("matching_aware").plan()
