"""Laws of historical averaging, its formulas against numpy and autograd, and the game of the paper."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gantricks import Trick, hookimpl
from gantricks.plugins.historical_averaging import HistoricalAveraging, add_gradient_, join_means_, penalty
from gantricks.testing import CONDITIONAL, Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import ROLES, close, value_at
from gantricks.testing.record import differences

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({"strength": 0.3}, {}),
    "conditional": ({"strength": {"start": 0.3, "end": 0.1}}, CONDITIONAL | {"n_critic": 2}),
}
REFUSED: dict[str, str] = {}

MISTAKES = {
    "the penalty has an optimizer step of its own, after the real one": Mistake(
        old="""
            @hookimpl
            def after_d_backward(self, ctx: Context) -> None:
                self._pull("d", ctx)


            @hookimpl
            def after_g_backward(self, ctx: Context) -> None:
                self._pull("g", ctx)


            @hookimpl
            def after_d_step(self, ctx: Context) -> None:
                self._remember("d", ctx)
        """,
        new="""
            @hookimpl
            def after_d_backward(self, ctx: Context) -> None:
                pass


            @hookimpl
            def after_g_backward(self, ctx):
                self._pull("g", ctx)


            @hookimpl
            def after_d_step(self, ctx):
                torch._foreach_zero_([p.grad for p in ctx.discriminator.parameters()])
                self._pull("d", ctx)
                ctx._game.step.d.optimizer.step()
                self._remember("d", ctx)
        """,
        caught_by="test_the_one_optimizer_step_sees_the_losses_gradient_plus_the_pull",
    ),
    "the mean is an EMA": Mistake(
        old="updated.to(dtype) / count.to(dtype)",
        new="0.1 * updated.to(dtype)",
        caught_by=("test_the_online_mean_is_the_mean_of_the_trajectory", "trace_law"),
    ),
    "the gradient goes through the mean": Mistake(
        old="add_gradient_(gradients, [*used.values()], means, ctx.value(self.config.strength))",
        new="""
            through = 1 - 1 / past.count[0]
            add_gradient_(gradients, [*used.values()], means, ctx.value(self.config.strength) * through)
        """,
        caught_by="test_the_one_optimizer_step_sees_the_losses_gradient_plus_the_pull",
    ),
    "buffers are averaged": Mistake(
        old="dict(network.named_parameters())",
        new="{n: t for n, t in network.state_dict(keep_vars=True).items() if t.is_floating_point()}",
        caught_by="test_it_keeps_one_copy_of_the_weights_and_nothing_of_the_buffers",
    ),
    "the mean leaves the present weights out": Mistake(
        old="means = [past.means[name] for name in used]",
        new="""
            past_only = (past.count[0] - 1).clamp(min=1)
            means = [past.means[n] + (past.means[n] - p.detach()) / past_only for n, p in used.items()]
        """,
        caught_by="test_the_one_optimizer_step_sees_the_losses_gradient_plus_the_pull",
    ),
    "half of the pull": Mistake(
        old="[strength + strength]",
        new="[strength]",
        caught_by="trace_law",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """Each gradient gains 2λ(θ - θ̄), θ̄ the mean of every θ that the player has had; θ̄ is kept exactly."""
    config = played.trick(name).config
    for player, role in ROLES.items():
        phases, calls = played.steps_of(player), played.of(name, f"after_{player}_backward")
        network: Any = getattr(played.game, role)
        history = {weight: [played.start[role][weight]] for weight, _ in network.named_parameters()}
        held = ROLES[player] in config.players
        for phase, call in zip(phases, calls, strict=True):
            strength = value_at(played, config.strength, phase.step) if held else 0.0
            for weight, gradient in call.before.items():
                past = history[weight]
                pull = 2 * strength * (phase.before[weight] - sum(past) / len(past))
                close(call.after[weight], gradient + pull, f"the gradient of {weight}")
                if phase.updated and not phase.trial:
                    past.append(phase.after[weight])
        for weight, past in history.items():
            if held:
                mean = played.state["tricks"][f"{name}/{player}.mean.{weight}"]
                close(mean, sum(past) / len(past), f"the mean of {weight}")


HEALTHY = torch.ones(())
IMAGES = {"sample": (1, 8, 8)}


@st.composite
def trajectories(draw: st.DrawFn) -> list[list[Tensor]]:
    """The weights of a player, two tensors, at each of a number of steps."""
    length = draw(st.integers(1, 20))
    path = draw(gs.tensors((length, 10), scale=draw(st.sampled_from([1e-3, 1.0, 1e3]))))
    return [[weights[:6].reshape(2, 3), weights[6:]] for weights in path]


def mean_of(trajectory: list[list[Tensor]]) -> list[Tensor]:
    first, *others = trajectory
    means, count = [tensor.clone() for tensor in first], torch.ones(())
    for weights in others:
        join_means_(means, count, weights, HEALTHY)
    return means


class Spy(Trick):
    """Copies of both players' weights and gradients, whenever they have changed."""

    @hookimpl
    def on_setup(self, ctx) -> None:
        self.weights = {"d": [copies(ctx.discriminator)], "g": [copies(ctx.generator)]}
        self.gradients = {"d": [], "g": []}

    @hookimpl
    def after_d_backward(self, ctx) -> None:
        self.gradients["d"].append({n: p.grad.clone() for n, p in ctx.discriminator.named_parameters()})

    @hookimpl
    def after_g_backward(self, ctx) -> None:
        self.gradients["g"].append({n: p.grad.clone() for n, p in ctx.generator.named_parameters()})

    @hookimpl
    def after_d_step(self, ctx) -> None:
        self.weights["d"].append(copies(ctx.discriminator))

    @hookimpl
    def after_g_step(self, ctx) -> None:
        self.weights["g"].append(copies(ctx.generator))


def copies(network: torch.nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


def host(**options) -> TrickHost:
    """A run with batch norm, watched before and after the trick."""
    return (
        TrickHost(**IMAGES)
        .with_trick(Spy, "before")
        .with_trick("historical_averaging", **options)
        .with_trick(Spy, "after")
    )


def spies(played) -> tuple[Spy, Spy]:
    tricks = {planned.name: planned.trick for planned in played.game.plan.tricks}
    return tricks["before"], tricks["after"]


# ---------------------------------------------------------------- the formulas


@given(trajectories())
def test_the_online_mean_is_the_mean_of_the_trajectory(trajectory):
    for mean, path in zip(mean_of(trajectory), zip(*trajectory, strict=True), strict=True):
        expected = np.mean([weights.numpy() for weights in path], axis=0)
        scale = max(float(weights.abs().max()) for weights in path)
        np.testing.assert_allclose(mean.numpy(), expected, rtol=0, atol=1e-13 * scale)


@given(trajectories(), st.randoms())
def test_every_step_of_the_past_weighs_alike_whatever_its_age(trajectory, random):
    shuffled = random.sample(trajectory, len(trajectory))
    scale = max(float(weights.abs().max()) for step in trajectory for weights in step)
    for mean, other in zip(mean_of(trajectory), mean_of(shuffled), strict=True):
        torch.testing.assert_close(mean, other, rtol=0, atol=1e-13 * scale)


@given(gs.tensors((3, 2)), st.integers(1, 50))
def test_a_constant_trajectory_has_no_penalty_and_no_pull(weights, length):
    means = mean_of([[weights]] * length)
    strength, gradient = torch.tensor(3.0, dtype=torch.float64), torch.zeros_like(weights)
    add_gradient_([gradient], [weights], means, strength)
    assert torch.equal(means[0], weights)
    assert not gradient.any()
    assert penalty([weights], means, strength) == 0


@given(gs.tensors((3, 2)), gs.tensors((4,)), gs.tensors((3, 2)), gs.tensors((4,)), st.floats(0, 10))
def test_the_closed_form_is_the_gradient_of_the_penalty_with_the_mean_held_constant(a, b, mean_a, mean_b, strength):
    parameters = [a.requires_grad_(), b.requires_grad_()]
    weight = torch.tensor(strength, dtype=torch.float64)
    loss = strength * (((a - mean_a) ** 2).sum() + ((b - mean_b) ** 2).sum())
    expected = torch.autograd.grad(loss, parameters)

    torch.testing.assert_close(penalty(parameters, [mean_a, mean_b], weight), loss, rtol=1e-12, atol=1e-12)
    gradients = [torch.full_like(p, 0.25) for p in parameters]
    add_gradient_(gradients, parameters, [mean_a, mean_b], weight)
    for gradient, pull in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, pull + 0.25, rtol=1e-12, atol=1e-12)


@given(gs.tensors((3, 2)), gs.tensors((3, 2)), st.integers(1, 1000))
def test_after_a_fault_mean_and_count_stay(mean, weights, count):
    means, terms = [mean.clone()], torch.tensor(float(count))
    join_means_(means, terms, [weights], torch.zeros(()))
    assert torch.equal(means[0], mean)
    assert terms == count


def test_float64_means_are_not_rounded_to_float32():
    means = mean_of([[torch.tensor([x], dtype=torch.float64)] for x in (0.0, 0.0, 1.0)])
    assert means[0].item() == pytest.approx(1 / 3, rel=1e-15)


@pytest.mark.parametrize("work", ["join", "pull"])
def test_the_number_of_kernels_does_not_grow_with_the_number_of_tensors(work):
    def operations(tensors: int) -> list[str]:
        means, weights, gradients = ([torch.ones(3) for _ in range(tensors)] for _ in range(3))
        with Operations() as seen:
            if work == "join":
                join_means_(means, torch.ones(()), weights, HEALTHY)
            else:
                add_gradient_(gradients, weights, means, torch.ones(()))
        return seen.names

    assert operations(2) == operations(40)
    assert sum("_foreach_" in name for name in operations(2)) <= 3


class Operations(TorchDispatchMode):
    """The names of the operations called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


# ---------------------------------------------------------------- in a run


def test_nothing_pulls_in_the_first_step():
    plain, held = TrickHost(**IMAGES), TrickHost(**IMAGES).with_trick("historical_averaging", strength=100.0)
    assert not differences(plain.train(1).state, held.train(1).state, besides=("tricks",))
    assert differences(plain.train(2).state, held.train(2).state, besides=("tricks",))


@pytest.mark.parametrize("n_critic", [1, 3])
def test_the_means_are_those_of_each_players_own_updates(n_critic):
    played = host(strength=0.3).but(n_critic=n_critic).train(4)
    _, spy = spies(played)
    tensors = played.game.trick_tensors
    for player, updates in (("d", 4 * n_critic), ("g", 4)):
        assert len(spy.weights[player]) == updates + 1
        assert (tensors[f"historical_averaging/{player}.count"] == updates + 1).all()
        for name in spy.weights[player][0]:
            path = np.stack([weights[name].numpy() for weights in spy.weights[player]])
            mean = tensors[f"historical_averaging/{player}.mean.{name}"].numpy()
            np.testing.assert_allclose(mean, path.mean(0), rtol=0, atol=1e-14)


def test_the_one_optimizer_step_sees_the_losses_gradient_plus_the_pull():
    played = host(strength=0.3).but(n_critic=2).train(4)
    before, after = spies(played)
    for player in ("d", "g"):
        rounds = zip(before.gradients[player], after.gradients[player], strict=True)
        for number, (without, with_pull) in enumerate(rounds):
            for name, gradient in without.items():
                path = [weights[name].numpy() for weights in after.weights[player][: number + 1]]
                pull = 2 * 0.3 * (path[-1] - np.mean(path, axis=0))
                np.testing.assert_allclose(with_pull[name].numpy(), gradient.numpy() + pull, rtol=0, atol=1e-14)
        optimizer = played.game.players[player].optimizer
        updates = {float(state["step"]) for state in optimizer.state.values()}
        assert updates == {len(before.gradients[player])}, (
            "the optimizer steps once per update, not once more for the penalty"
        )


def test_a_step_takes_no_further_backward():
    def backward_calls(setting: TrickHost) -> int:
        with Operations() as seen:
            setting.train(1)
        return sum("backward" in name for name in seen.names)

    plain = TrickHost(**IMAGES)
    assert backward_calls(plain) > 0
    assert backward_calls(plain.with_trick("historical_averaging")) == backward_calls(plain)


def test_it_keeps_one_copy_of_the_weights_and_nothing_of_the_buffers():
    game = TrickHost(**IMAGES).with_trick("historical_averaging").game()
    networks = {"d": game.discriminator, "g": game.generator}
    assert any(True for _ in game.generator.buffers())
    tensors = game.plan.tricks[0].trick.tensors()
    expected = {f"{player}.mean.{name}" for player, net in networks.items() for name, _ in net.named_parameters()}
    assert tensors.keys() == expected | {"d.count", "g.count"}
    weights = sum(p.nbytes for net in networks.values() for p in net.parameters())
    counts = 4 * sum(len([*net.parameters()]) for net in networks.values())
    assert sum(tensor.nbytes for tensor in tensors.values()) == weights + counts


@pytest.mark.parametrize(("players", "other"), [("d", "g"), ("g", "d")])
def test_one_player_alone_can_be_held(players, other):
    played = host(strength=0.5, players=[ROLES[players]]).train(3)
    before, after = spies(played)
    for name, gradient in before.gradients[other][-1].items():
        assert torch.equal(gradient, after.gradients[other][-1][name])
    assert any(not torch.equal(g, after.gradients[players][-1][n]) for n, g in before.gradients[players][-1].items())
    assert {name.split(".")[0] for name in played.game.plan.tricks[1].trick.tensors()} == {players}
    assert f"historical_averaging/penalty_{other}" not in played.scalars[-1]


def test_the_value_of_the_penalty_is_logged():
    played = host(strength=0.3).train(4)
    _, spy = spies(played)
    for player in ("d", "g"):
        total = 0.0
        for name in spy.weights[player][0]:
            path = np.stack([weights[name].numpy() for weights in spy.weights[player]])
            total += 0.3 * np.sum((path[-1] - path.mean(0)) ** 2)
        assert total > 0
        assert played.scalars[-1][f"historical_averaging/penalty_{player}"] == pytest.approx(total, rel=1e-10)


def test_a_schedule_that_ends_at_zero_lets_go_in_the_last_step():
    played = host(strength={"start": 1.0, "end": 0.0}).but(steps=4).train()
    before, after = spies(played)
    for player in ("d", "g"):
        pulled = [
            any(not torch.equal(g, held[name]) for name, g in free.items())
            for free, held in zip(before.gradients[player], after.gradients[player], strict=True)
        ]
        assert pulled == [False, True, True, False]


@pytest.mark.parametrize("precision", ["fp64", "fp32", "bf16"])
def test_neutral_with_batch_norm_is_bit_identical(precision):
    plain = TrickHost(**IMAGES, precision=precision)
    neutral = plain.with_trick("historical_averaging", **HistoricalAveraging.neutral)
    assert not differences(plain.train().state, neutral.train().state, besides=("tricks",))


@pytest.mark.parametrize("strength", [-0.1, math.nan, math.inf, {"start": 0.1, "end": -0.1}])
def test_a_strength_that_pushes_away_is_refused(strength):
    with pytest.raises(ValidationError):
        HistoricalAveraging.Config(strength=strength)


# ---------------------------------------------------------------- the game of the paper: (f(x) − 1)(y − 1)


def f(x: float) -> float:
    return x if x < 0 else x * x


def slope(x: float) -> float:
    return 1.0 if x < 0 else 2 * x


def play(steps: int, strength: float, alternating: bool = False) -> list[float]:
    """The distance to the equilibrium (1, 1) after each step, x minimising and y maximising, from (2, 2.5)."""
    weights = torch.tensor([[2.0], [2.5]], dtype=torch.float64)
    x, y = players = list(weights)
    means, count = [player.clone() for player in players], torch.ones(())
    λ = torch.tensor(strength, dtype=torch.float64)
    gradient_x, gradient_y = gradients = [torch.zeros_like(player) for player in players]
    distances = []
    for _ in range(steps):
        at_x, at_y = weights.flatten().tolist()
        gradient_x.fill_(slope(at_x) * (at_y - 1))
        if alternating:
            at_x -= 0.05 * gradient_x.item()
        gradient_y.fill_(1 - f(at_x))
        if strength:
            add_gradient_(gradients, players, means, λ)
        torch._foreach_add_(players, gradients, alpha=-0.05)
        join_means_(means, count, players, HEALTHY)
        distances.append(math.hypot(x.item() - 1, y.item() - 1))
        if distances[-1] > 1e6:
            break
    return distances


def test_without_it_alternating_play_orbits():
    distances = play(5000, 0.0, alternating=True)
    late = distances[-1000:]
    assert min(late) > 0.9
    assert 1.5 < max(late) < 2.1


def test_without_it_simultaneous_play_diverges():
    distances = play(700, 0.0)
    assert len(distances) < 650
    assert distances[-1] > 1e6


def test_with_it_simultaneous_play_converges_to_the_equilibrium():
    distances = play(20_000, 0.1)
    assert distances[999] < 0.05
    assert distances[-1] < 1e-3


def test_a_player_that_was_not_updated_leaves_its_history_as_it_was():
    class Closed(Trick):
        @hookimpl
        def g_gate(self, open):
            return open * 0

    played = TrickHost(**IMAGES).with_trick("historical_averaging").with_trick(Closed, "closed").train(3)
    assert (played.game.trick_tensors["historical_averaging/d.count"] == 4).all()
    assert (played.game.trick_tensors["historical_averaging/g.count"] == 1).all()
