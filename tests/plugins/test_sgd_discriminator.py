"""SGD for D: the update rule itself, for D alone, and a state that can be saved from the start."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gantricks import UserError
from gantricks.engine import state
from gantricks.plugins.sgd_discriminator import sgd
from gantricks.testing import Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import ROLES, close
from gantricks.testing.record import differences

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({"momentum": 0.5}, {}),
}
REFUSED: dict[str, str] = {}

MISTAKES = {
    "G is trained by SGD too": Mistake(
        old="""
            if player != "d":
                return optimizer
        """,
        new="",
        caught_by="test_the_generators_optimizer_is_untouched",
    ),
    "momentum is not the option's": Mistake(
        old="torch.optim.SGD(parameters, lr=lr, momentum=momentum, fused=True)",
        new="torch.optim.SGD(parameters, lr=lr, momentum=0.9, fused=True)",
        caught_by="trace_law",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """D moves by m ← momentum · m + g, θ ← θ - lr · m, at the rate that is logged; it starts at `lr`. G does not."""
    config = played.trick(name).config
    optimizers = {player: played.game.players[player].optimizer for player in ROLES}
    assert type(optimizers["d"]) is torch.optim.SGD
    kept = played.game.plan.recipe.generator.keys.optimizer.name
    assert type(optimizers["g"]).__name__.lower() == kept, "G's optimizer is not the recipe's"
    if played.calls["transform_optimizer"][-1].trick == name:  # a later trick may scale the rate
        assert math.isclose(played.scalars[0]["learning_rate/d"], config.lr, rel_tol=1e-6)
    momentum: dict[str, Tensor] = {}
    for phase in played.steps_of("d"):
        rate = played.scalars[phase.step]["learning_rate/d"]
        for weight, gradient in phase.gradients.items():
            moved = phase.after[weight] - phase.origin[weight]
            if phase.updated:
                momentum[weight] = config.momentum * momentum.get(weight, 0) + gradient
                close(moved, -rate * momentum[weight], f"the step of {weight}", rtol=1e-6)
            else:
                assert not moved.any()


momenta = st.one_of(st.just(0.0), st.floats(0.1, 0.99))


@given(st.lists(gs.tensors((5,)), min_size=1, max_size=5), st.floats(1e-4, 1), momenta, st.booleans())
def test_each_update_is_gradient_descent_with_momentum(path, lr, momentum, as_tensor) -> None:
    parameter = torch.nn.Parameter(torch.zeros(5, dtype=torch.float64))
    rate = torch.tensor(lr, dtype=torch.float64) if as_tensor else lr
    optimizer = sgd([parameter], rate, momentum)
    expected, velocity = np.zeros(5), np.zeros(5)
    for gradient in path:
        parameter.grad = gradient.clone()
        optimizer.step()
        velocity = momentum * velocity + gradient.numpy()
        expected = expected - lr * velocity
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_its_state_exists_before_the_first_step(momentum) -> None:
    game = TrickHost().with_trick("sgd_discriminator", momentum=momentum).game()
    saved = {name: tensor.data_ptr() for name, tensor in state.tensors(game)["discriminator_optimizer"].items()}
    assert len(saved) == (len(game.players["d"].parameters) if momentum else 0)
    game.advance()
    assert {name: t.data_ptr() for name, t in state.tensors(game)["discriminator_optimizer"].items()} == saved


def test_the_guard_masks_it_as_it_masks_the_optimizers_of_the_core() -> None:
    assert TrickHost().with_trick("sgd_discriminator").game().players["d"].reads_held


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_discriminator_moves_as_under_a_recipe_with_sgd(momentum) -> None:
    """And G as under its own Adam: the run is the one whose recipe names SGD for D."""
    option = {"optimizer": {"name": "sgd", "lr": 0.03, "momentum": momentum}}
    named = TrickHost(discriminator=option, n_critic=2).train()
    tricked = TrickHost(n_critic=2).with_trick("sgd_discriminator", lr=0.03, momentum=momentum).train()
    assert not differences(tricked.state, named.state)
    assert tricked.scalars == named.scalars
    assert tricked.scalars[-1]["learning_rate/d"] == 0.03


def test_the_generators_optimizer_is_untouched() -> None:
    played = TrickHost().with_trick("sgd_discriminator", lr=0.03).train(1)
    for call in played.calls["transform_optimizer"]:
        optimizer, player = call.arguments
        assert (call.result is optimizer) == (player == "g")
    assert type(played.game.players["g"].optimizer) is torch.optim.Adam
    assert type(played.game.players["d"].optimizer) is torch.optim.SGD


@pytest.mark.parametrize("options", [{"lr": 0.0}, {"lr": -1.0}, {"momentum": 1.0}, {"momentum": -0.1}])
def test_settings_that_cannot_work_are_refused(options) -> None:
    with pytest.raises(UserError):
        TrickHost().with_trick("sgd_discriminator", **options).plan()
