"""Optimistic updates: against the formulas, under every optimizer of a recipe, and held."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gantricks import Trick, UserError, hookimpl
from gantricks import optimizer_options as planning
from gantricks.engine import optimizers, state
from gantricks.plugins.optimistic import OptimisticUpdate
from gantricks.testing import CONDITIONAL, Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import ROLES, close
from gantricks.testing.record import differences, same_bits, snapshot

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({}, {}),
    "sgd": ({}, CONDITIONAL | {"optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.5}, "n_critic": 2}),
}
REFUSED: dict[str, str] = {"sgd_discriminator": "replace the same part, d_optimizer"}

MISTAKES = {
    "the last change is never taken back": Mistake(
        old="torch._foreach_sub(changes, previous)",
        new="changes",
        caught_by=("trace_law", "test_each_update_is_the_papers"),
    ),
    "it is added, not taken back": Mistake(
        old="torch._foreach_sub(changes, previous)",
        new="torch._foreach_add(changes, previous)",
        caught_by=("trace_law", "test_each_update_is_the_papers"),
    ),
    "the whole move is remembered, correction included": Mistake(
        old="torch._foreach_lerp_(previous, changes, moves)",
        new="torch._foreach_lerp_(previous, torch._foreach_sub([c * 2 for c in changes], previous), moves)",
        caught_by=("trace_law", "test_each_update_is_the_papers"),
    ),
    "a held update is corrected all the same": Mistake(
        old="(1 - held).to(weights[0].dtype)",
        new="torch.ones_like(held).to(weights[0].dtype)",
        caught_by=("fault", "test_a_held_update_moves_nothing"),
    ),
}


def trace_law(played: Played, name: str) -> None:
    """A player moves by 2u_t - u_{t-1}, u the change that its optimizer would make, and by nothing where it is held."""
    config = played.trick(name).config
    for player, role in ROLES.items():
        optimizer = played.game.players[player].optimizer
        assert isinstance(optimizer, OptimisticUpdate) == (role in config.players)
        if role not in config.players:
            continue
        last: dict[str, torch.Tensor] = {}
        parameters = dict(getattr(played.game, role).named_parameters())
        for phase in played.steps_of(player):
            for weight in phase.gradients:
                moved, before = phase.after[weight] - phase.before[weight], last.get(weight, 0)
                if phase.updated:
                    last[weight] = (moved + before) / 2
                else:
                    assert not moved.any(), f"{weight} moved behind a closed gate"
        for weight, change in last.items():
            # halving errors do not grow: each is halved again in the next step
            close(optimizer.state[parameters[weight]]["previous"], change, f"the change of {weight}", 1e-6, 1e-9)


OPTIMIZERS = [
    {"name": "adam", "lr": 0.01},
    {"name": "adamw", "lr": 0.01, "weight_decay": 0.1},
    {"name": "sgd", "lr": 0.05},
    {"name": "sgd", "lr": 0.05, "momentum": 0.9},
]


def made(kind: str, weight: torch.nn.Parameter, lr: float) -> OptimisticUpdate:
    config = planning.Adam(lr=lr, betas=(0.9, 0.999)) if kind == "adam" else planning.SGD(lr=lr)
    return OptimisticUpdate(optimizers.build(config, [weight]))


GO, HOLD = torch.zeros(()), torch.ones(())


@given(st.lists(gs.tensors((4,)), min_size=1, max_size=5), st.floats(1e-4, 1), st.sampled_from(["adam", "sgd"]))
def test_each_update_is_the_papers(path, lr, kind):
    weight = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))
    optimizer, expected, last = made(kind, weight, lr), np.zeros(4), np.zeros(4)
    m, v = np.zeros(4), np.zeros(4)
    for t, gradient in enumerate(path, start=1):
        weight.grad = gradient.clone()
        optimizer.step_unless(GO)
        g = gradient.numpy()
        if kind == "adam":
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            g = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        expected = expected - 2 * lr * g + lr * last
        last = g
        scale = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(weight.detach().numpy(), expected, rtol=1e-9, atol=1e-11 * scale)


@pytest.mark.parametrize("kind", ["adam", "sgd"])
@pytest.mark.parametrize("bad", [1.0, math.nan, math.inf])
def test_a_held_update_moves_nothing(kind, bad):
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = made(kind, weight, 0.1)
    for held in (HOLD, GO, HOLD):
        weight.grad = torch.full((3,), 0.5 if held is GO else bad)
        before = [weight.detach().clone(), *(t.clone() for t in optimizer.state[weight].values())]
        optimizer.step_unless(held)
        same = all(map(same_bits, before, [weight.detach(), *optimizer.state[weight].values()]))
        assert same == (held is HOLD)


# ---------------------------------------------------------------- in a run


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_the_first_update_is_made_twice(optimizer):
    host = TrickHost(optimizer=optimizer)
    plain, twice = host.train(1), host.with_trick("optimistic").train(1)
    (one,), (two,) = plain.steps_of("d"), twice.steps_of("d")
    for weight, after in one.after.items():
        close(two.after[weight] - two.before[weight], 2 * (after - one.before[weight]), weight, 1e-9, 1e-12)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_its_state_exists_before_the_first_step(optimizer):
    game = TrickHost(optimizer=optimizer).with_trick("optimistic").game()
    saved = {name: tensor.data_ptr() for name, tensor in state.tensors(game)["discriminator_optimizer"].items()}
    assert sum(name.endswith(".previous") for name in saved) == len(game.players["d"].parameters)
    game.advance()
    assert {name: t.data_ptr() for name, t in state.tensors(game)["discriminator_optimizer"].items()} == saved


@pytest.mark.parametrize("order", [("optimistic", "lr_decay"), ("lr_decay", "optimistic")])
def test_the_learning_rate_falls_in_either_order(order):
    host = TrickHost(optimizer={"name": "sgd", "lr": 0.1}, steps=3)
    for trick in order:
        host = host.with_trick(trick, **({"gamma": 0.01} if trick == "lr_decay" else {}))
    played = host.train()
    last: dict[str, torch.Tensor] = {}
    for phase in played.steps_of("g"):
        rate = 0.1 * 0.01 ** (phase.step / 2)
        for weight, gradient in phase.gradients.items():
            moved = phase.after[weight] - phase.before[weight]
            close(moved, -2 * rate * gradient - last.get(weight, 0), weight, 1e-5, 1e-9)
            last[weight] = -rate * gradient


@pytest.mark.parametrize(("player", "other"), [("d", "g"), ("g", "d")])
def test_one_player_alone_can_be_optimistic(player, other):
    game = TrickHost().with_trick("optimistic", players=[ROLES[player]]).game()
    assert isinstance(game.players[player].optimizer, OptimisticUpdate)
    assert type(game.players[other].optimizer) is torch.optim.Adam
    game.advance()
    assert not [n for n in snapshot(game)[f"{ROLES[other]}_optimizer"] if n.endswith("previous")]


def test_weights_that_rest_are_left_alone():
    weight, resting = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = OptimisticUpdate(torch.optim.SGD([weight, resting], lr=0.1, fused=True))
    for gradient in (torch.ones(2), None):
        weight.grad, resting.grad = torch.ones(2), gradient
        before = resting.detach().clone()
        optimizer.step_unless(GO)
        assert same_bits(before, resting.detach()) == (gradient is None)


class Own(Trick):
    """D has an optimizer that knows no way to skip an update."""

    @hookimpl
    def transform_optimizer(self, optimizer, player):
        return torch.optim.SGD([p for g in optimizer.param_groups for p in g["params"]], lr=0.1, fused=False)


def test_an_optimizer_that_cannot_wait_is_refused():
    with pytest.raises(UserError, match="SGD cannot be told to skip an update"):
        TrickHost().with_trick(Own, "own").with_trick("optimistic").game()


def test_a_run_differs_from_a_plain_one_in_the_first_step():
    assert differences(TrickHost().train(1).state, TrickHost().with_trick("optimistic").train(1).state)
