"""Laws of the fault guard: from the first value that is not finite on nothing moves, and that value is remembered."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from torch import Tensor

from gantricks import Trick, hookimpl
from gantricks.engine import optimizers
from gantricks.engine.capture import INTERPRETER, Capturing
from gantricks.engine.guard import Guard, NonFinite
from gantricks.optimizer_options import OptimizerOptions
from gantricks.testing import TrickHost
from gantricks.testing.record import differences, same_bits, snapshot

BAD = [math.nan, math.inf, -math.inf]
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adam": {"name": "adam"},
    "adam with weight decay": {"name": "adam", "weight_decay": 0.1},
    "adamw": {"name": "adamw"},
    "sgd": {"name": "sgd"},
    "sgd with momentum": {"name": "sgd", "momentum": 0.9},
    "sgd with nesterov and weight decay": {"name": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
}
UNFUSED = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


def new_guard() -> Guard:
    return Guard(torch.device("cpu"), torch.float64)


def look(guard: Guard, player: str, step: int = 1, gradient: float = 0.5, **terms: float) -> None:
    guard.step.fill_(step)
    named = {name: torch.tensor(value, dtype=torch.float64) for name, value in terms.items()}
    gradients = [torch.tensor([3.0, gradient], dtype=torch.float64), torch.zeros(2, 2).double()]
    guard.inspect(player, named, {player: gradients})


# ---------------------------------------------------------------- what is remembered


def test_without_a_fault_the_latest_values_are_reported():
    guard = new_guard()
    look(guard, "d", step=1, adversarial=2.0, penalty=0.5, gradient=4.0)
    look(guard, "d", step=2, adversarial=1.0, penalty=0.25, gradient=0.0)
    look(guard, "g", step=2, adversarial=7.0, gradient=4.0)
    terms, fault = guard.report()
    assert fault is None
    assert terms == {
        "d": {"step": 2, "adversarial": 1.0, "penalty": 0.25, "gradient_norm/d": 3.0},
        "g": {"step": 2, "adversarial": 7.0, "gradient_norm/g": 5.0},
    }


@pytest.mark.parametrize("bad", BAD)
def test_the_first_fault_is_remembered_and_later_ones_are_not(bad):
    guard = new_guard()
    for step in (1, 2, 3):
        look(guard, "d", step, adversarial=1.0, penalty=2.0)
        look(guard, "g", step, adversarial=3.0)
    look(guard, "d", 4, adversarial=1.5, penalty=bad)
    look(guard, "g", 4, adversarial=math.nan, gradient=math.nan)
    look(guard, "d", 5, adversarial=math.nan, penalty=0.0)
    look(guard, "g", 5, adversarial=9.0)
    terms, fault = guard.report()
    assert fault == NonFinite("d", 4, ("penalty",))
    assert terms["d"]["adversarial"] == 1.5
    assert terms["g"] == {"step": 3, "adversarial": 3.0, "gradient_norm/g": math.hypot(3, 0.5)}


def test_a_fault_of_the_second_player_leaves_the_first_players_healthy_values():
    guard = new_guard()
    look(guard, "d", 1, adversarial=1.0)
    look(guard, "g", 1, adversarial=math.inf)
    look(guard, "d", 2, adversarial=math.nan)
    terms, fault = guard.report()
    assert fault == NonFinite("g", 1, ("adversarial",))
    assert terms["d"]["adversarial"] == 1.0


@pytest.mark.parametrize("bad", BAD)
def test_a_loss_that_is_not_finite_is_a_fault_though_its_gradient_is_finite(bad):
    guard = new_guard()
    look(guard, "g", 3, adversarial=bad)
    assert guard.report()[1] == NonFinite("g", 3, ("adversarial",))


@pytest.mark.parametrize("bad", BAD)
def test_a_gradient_that_is_not_finite_is_a_fault_though_its_loss_is_finite(bad):
    guard = new_guard()
    look(guard, "g", 3, adversarial=1.0, gradient=bad)
    assert guard.report()[1] == NonFinite("g", 3, ("gradient_norm/g",))


def test_every_value_that_was_not_finite_is_named():
    guard = new_guard()
    look(guard, "d", 2, adversarial=math.inf, penalty=1.0, other=math.nan, gradient=math.nan)
    assert guard.report()[1] == NonFinite("d", 2, ("adversarial", "other", "gradient_norm/d"))


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.sampled_from(BAD), st.data())
def test_one_bad_number_anywhere_in_the_gradients_is_found(sizes, bad, data):
    gradients = [torch.ones(size) for size in sizes]
    guard = Guard(torch.device("cpu"), torch.float32)
    guard.inspect("d", {"adversarial": torch.tensor(1.0)}, {"d": gradients})
    assert guard.report()[1] is None
    which = data.draw(st.integers(0, len(sizes) - 1))
    gradients[which][data.draw(st.integers(0, sizes[which] - 1))] = bad
    guard.inspect("d", {"adversarial": torch.tensor(1.0)}, {"d": gradients})
    assert guard.report()[1] is not None


def test_a_term_of_another_type_than_the_runs_is_looked_at():
    guard = Guard(torch.device("cpu"), torch.float32)
    for value in (1.0, math.nan):
        guard.inspect("d", {"a": torch.tensor(value, dtype=torch.float64)}, {"d": [torch.ones(2)]})
    assert guard.report()[1] == NonFinite("d", 0, ("a",))


# ---------------------------------------------------------------- the flag


def test_healthy_is_one_until_the_first_fault_and_zero_ever_after():
    guard = new_guard()
    flag, healthy = guard.flag, guard.healthy
    seen = []
    for adversarial in (1.0, 2.0, math.nan, 1.0, math.inf, 1.0):
        look(guard, "d", adversarial=adversarial)
        seen.append((flag.item(), healthy.item()))
    assert seen == [(0, 1), (0, 1), (1, 0), (1, 0), (1, 0), (1, 0)]
    assert guard.flag is flag, "optimizers hold it"
    assert guard.healthy is healthy
    assert healthy.dtype == torch.float32
    assert healthy.dim() == 0


# ---------------------------------------------------------------- optimizers


def trained(name: str, guard: Guard) -> tuple[list[Tensor], torch.optim.Optimizer]:
    config = TypeAdapter(OptimizerOptions).validate_python({"lr": 0.1, **OPTIMIZERS[name]})
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((3, 4), (5,))]
    optimizer = optimizers.build(config, [parameter.requires_grad_() for parameter in parameters])
    optimizer.found_inf = guard.flag  # type: ignore[attr-defined]
    return parameters, optimizer


def descend(parameters: list[Tensor], optimizer: torch.optim.Optimizer, scale: float) -> Tensor:
    loss = scale * sum((parameter**2).sum() for parameter in parameters)
    optimizer.zero_grad()
    loss.backward()
    return loss.detach()


def everything(parameters: list[Tensor], optimizer: torch.optim.Optimizer) -> list[Tensor]:
    state = [tensor for parameter in parameters for tensor in optimizer.state[parameter].values()]
    return [tensor.detach().clone() for tensor in (*parameters, *state) if torch.is_tensor(tensor)]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_that_watches_the_flag_moves_like_any_other_while_all_is_well(name):
    guard = new_guard()
    parameters, optimizer = trained(name, guard)
    plain = [parameter.detach().clone().requires_grad_() for parameter in parameters]
    options = {key: value for key, value in optimizer.defaults.items() if key in ("lr", "betas", "eps", "weight_decay")}
    options |= {key: value for key, value in OPTIMIZERS[name].items() if key in ("momentum", "nesterov")}
    reference = UNFUSED[OPTIMIZERS[name]["name"]](plain, **options)
    for _ in range(5):
        loss = descend(parameters, optimizer, 0.3)
        guard.inspect("d", {"loss": loss}, {"d": [p.grad for p in parameters]})
        optimizer.step()
        descend(plain, reference, 0.3)
        reference.step()
    for parameter, expected in zip(parameters, plain, strict=True):
        torch.testing.assert_close(parameter, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_from_the_fault_on_neither_weights_nor_optimizer_state_move(name, bad):
    guard = new_guard()
    parameters, optimizer = trained(name, guard)

    def step(scale: float) -> None:
        loss = descend(parameters, optimizer, scale)
        guard.inspect("d", {"loss": loss}, {"d": [p.grad for p in parameters]})
        optimizer.step()

    start = everything(parameters, optimizer)
    step(0.3)
    step(0.3)
    before = everything(parameters, optimizer)
    assert not same_bits(before[0], start[0])
    for scale in (bad, 0.3, bad, 0.3):
        step(scale)
        after = everything(parameters, optimizer)
        assert all(same_bits(a, b) for a, b in zip(before, after, strict=True))


# ---------------------------------------------------------------- watched tensors


def watched() -> tuple[Guard, list[Tensor]]:
    tensors = [torch.tensor([1.0, 2.0], dtype=torch.float64), torch.tensor(3), torch.tensor(0.5)]
    guard = new_guard()
    guard.watch(tensors)
    return guard, tensors


def spoil(tensors: list[Tensor]) -> None:
    tensors[0].fill_(math.nan)
    tensors[1].add_(1)
    tensors[2].fill_(math.inf)


def test_watched_tensors_keep_what_healthy_phases_make_of_them():
    guard, tensors = watched()
    for count in (1, 2):
        guard.begin()
        for tensor in tensors:
            tensor.add_(1)
        look(guard, "d", adversarial=1.0)
        guard.end()
        assert [tensor.tolist() for tensor in tensors] == [[1.0 + count, 2.0 + count], 3 + count, 0.5 + count]


def test_watched_tensors_go_back_to_the_start_of_the_phase_of_the_fault():
    guard, tensors = watched()
    guard.begin()
    tensors[0].mul_(10)
    look(guard, "d", adversarial=1.0)
    guard.end()
    places = [tensor.data_ptr() for tensor in tensors]
    for _ in range(3):
        guard.begin()
        spoil(tensors)
        look(guard, "g", adversarial=math.nan)
        spoil(tensors)  # after the optimizer, as hooks may
        guard.end()
        assert [tensor.tolist() for tensor in tensors] == [[10.0, 20.0], 3, 0.5]
    assert [tensor.data_ptr() for tensor in tensors] == places, "they are put back in place"


def test_phases_after_the_fault_are_undone_though_their_own_values_are_finite():
    guard, tensors = watched()
    look(guard, "d", adversarial=math.nan)
    guard.begin()
    spoil(tensors)
    look(guard, "g", adversarial=1.0)
    guard.end()
    assert [tensor.tolist() for tensor in tensors] == [[1.0, 2.0], 3, 0.5]


def test_the_end_of_a_phase_does_not_void_a_graph_that_another_phase_walks():
    """The G step backpropagates through the forward of the D step, whose saved tensors include watched buffers."""
    guard = new_guard()
    buffer = torch.tensor([2.0, 3.0], dtype=torch.float64)
    weight = torch.ones(2, dtype=torch.float64, requires_grad=True)
    guard.watch([buffer])
    guard.begin()
    shared = (weight * buffer).sum()
    look(guard, "d", adversarial=1.0)
    guard.end()
    shared.backward()
    assert torch.equal(weight.grad, buffer)


# ---------------------------------------------------------------- weights that a trick trains itself


class Further(Trick):
    """A third network: its part of D's loss is finite, its gradient is not from step 2 on. `own` makes the loss its own
    and walks it back itself, after D's step."""

    class Config(Trick.Config):
        own: bool = False
        safe: bool = False

    @hookimpl
    def on_setup(self, ctx):
        self.weight = torch.nn.Parameter(torch.ones(3, dtype=ctx.dtype))
        self.mean = torch.zeros(3, dtype=ctx.dtype)
        self.count = torch.zeros(())

    def tensors(self):
        return {"weight": self.weight, "mean": self.mean, "count": self.count}

    def loss(self):
        # sqrt has no derivative at 0, where it is finite
        return torch.sqrt((self.weight * torch.where(self.count >= 1, 0.0, 1.0)).square().sum())

    @hookimpl
    def d_loss_terms(self, ctx):
        self.weight.grad = None
        return {} if self.config.own else {"further": self.loss()}

    @hookimpl
    def after_d_step(self, ctx):
        if self.config.own:
            with torch.enable_grad():
                (self.weight.grad,) = torch.autograd.grad(self.loss(), self.weight)
        with torch.no_grad():
            self.mean.lerp_(self.weight.grad, 0.5)
            self.weight.sub_(0.1 * self.mean)

    @hookimpl
    def after_g_step(self):
        self.count.add_(1)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("backend", [None, INTERPRETER])
def test_a_further_networks_gradient_that_is_not_finite_is_a_fault_and_nothing_of_it_stays(own, backend):
    host = TrickHost().with_trick(Further, "further", own=own)
    game, healthy = host.game(), host.game()
    game.play = Capturing(game, backend)
    for step in range(4):
        game.advance()
        if step == 0:
            healthy.advance()
    fault = game.non_finite()
    assert fault is not None
    assert (fault.step, [fault.in_words(name) for name in fault.names]) == (
        2,
        ["the weights of further" if own else "the gradient of the weights of further"],
    )
    assert not differences({"tricks": snapshot(healthy)["tricks"]}, {"tricks": snapshot(game)["tricks"]})
    if not own:  # its gradient was there before D moved
        assert not differences(snapshot(healthy), snapshot(game))
    assert "gradient of further" not in str(game.scalars()[0])


@pytest.mark.slow
@pytest.mark.parametrize("bad", BAD)
def test_a_compiled_guard_sees_what_an_eager_one_sees(bad):
    def look(values: Tensor) -> Tensor:
        guard = Guard(torch.device("cpu"), torch.float32)
        guard.inspect("d", {"a": values[0], "b": values[1]}, {"d": [values]})
        return guard.flag

    compiled = torch.compile(look)
    for position in range(3):
        values = torch.ones(3)
        assert compiled(values) == look(values) == 0
        values[position] = bad
        assert compiled(values) == look(values) == 1
