"""Two time scales: each player's learning rate is the recipe's times a factor, whatever else moves it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gantricks import UserError
from gantricks.plugins.ttur import scale_
from gantricks.testing import Mistake, Played, Settings, TrickHost
from gantricks.testing.measure import ROLES
from gantricks.testing.record import differences

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({}, {}),
    "sgd": ({"discriminator": 3.0}, {"optimizer": {"name": "sgd", "lr": 0.01, "momentum": 0.9}}),
}
REFUSED: dict[str, str] = {}

MISTAKES = {
    "the factors are exchanged": Mistake(
        old='self.config.discriminator if ctx.learns_in(player) == "d" else self.config.generator',
        new='self.config.generator if ctx.learns_in(player) == "d" else self.config.discriminator',
        caught_by=("test_a_run_is_that_of_a_recipe_with_these_rates", "trace_law"),
    ),
    "both players get D's factor": Mistake(
        old='self.config.discriminator if ctx.learns_in(player) == "d" else self.config.generator',
        new="self.config.discriminator",
        caught_by=("test_a_run_is_that_of_a_recipe_with_these_rates", "trace_law"),
    ),
    "only the first group is scaled": Mistake(
        old="optimizer.param_groups",
        new="optimizer.param_groups[:1]",
        caught_by="test_every_group_is_scaled_and_a_tensor_stays_the_same_object",
    ),
    "the factor takes the place of the rate": Mistake(
        old='group["lr"] *= factor',
        new='group["lr"] = factor',
        caught_by=("test_every_group_is_scaled_and_a_tensor_stays_the_same_object", "trace_law"),
    ),
    "a tensor that another trick moves is replaced": Mistake(
        old='group["lr"].mul_(factor)',
        new='group["lr"] = group["lr"] * factor',
        caught_by="test_every_group_is_scaled_and_a_tensor_stays_the_same_object",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """The first step has the recipe's rate times the factor, unless a trick has replaced the whole optimizer."""
    config = played.trick(name).config
    for player, role in ROLES.items():
        calls = [call for call in played.calls["transform_optimizer"] if call.arguments[1] == player]
        assert name in {call.trick for call in calls}
        if all(call.result is call.arguments[0] for call in calls):
            expected = getattr(played.game.plan.recipe, role).keys.optimizer.lr * getattr(config, role)
            found = played.scalars[0][f"learning_rate/{player}"]
            assert math.isclose(found, expected, rel_tol=1e-6), f"{role} learns at {found}, not at {expected}"


factors = st.floats(1e-3, 1e3)


@given(factors, st.floats(1e-6, 1), st.floats(1e-6, 1))
def test_every_group_is_scaled_and_a_tensor_stays_the_same_object(factor, first, second) -> None:
    weights = [torch.nn.Parameter(torch.zeros(2, dtype=torch.float64)) for _ in range(2)]
    rate = torch.tensor(second, dtype=torch.float64)
    optimizer = torch.optim.SGD([{"params": [weights[0]], "lr": first}, {"params": [weights[1]], "lr": rate}])
    scale_(optimizer, factor)
    found = [group["lr"] for group in optimizer.param_groups]
    assert found[0] == first * factor
    assert found[1] is rate
    assert rate.item() == second * factor


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_a_run_is_that_of_a_recipe_with_these_rates(name) -> None:
    host = TrickHost(optimizer={"name": name, "lr": 0.01})
    ours = host.with_trick("ttur", discriminator=2.0, generator=0.5).train(3)
    theirs = host.but(
        discriminator={"optimizer": {"name": name, "lr": 0.02}}, generator={"optimizer": {"name": name, "lr": 0.005}}
    ).train(3)
    assert not differences(ours.state, theirs.state)


@pytest.mark.parametrize("tricks", [("ttur", "lr_decay"), ("lr_decay", "ttur")])
def test_rates_keep_their_ratio_while_they_decay(tricks) -> None:
    host = TrickHost(steps=5, optimizer={"name": "adam", "lr": 0.01})
    for trick in tricks:
        host = host.with_trick(trick)
    for step, scalars in enumerate(host.train().scalars):
        assert scalars["learning_rate/d"] == pytest.approx(0.02 * 0.1 ** (step / 4), rel=1e-6)
        assert scalars["learning_rate/g"] == pytest.approx(0.005 * 0.1 ** (step / 4), rel=1e-6)


def test_after_sgd_discriminator_its_rate_is_scaled() -> None:
    played = TrickHost().with_trick("sgd_discriminator", lr=0.03).with_trick("ttur", discriminator=4.0).train(1)
    assert played.scalars[0]["learning_rate/d"] == pytest.approx(0.12)


@pytest.mark.parametrize("wrong", [{"discriminator": 0.0}, {"generator": -1.0}, {"generator": math.nan}])
def test_factors_that_cannot_work_are_refused(wrong) -> None:
    with pytest.raises(UserError):
        TrickHost().with_trick("ttur", **wrong).plan()
