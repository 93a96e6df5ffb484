"""min_x max_y xy, played by tricks that change how a step is made: exact matrices, to 1e-10."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from gantricks.plugins.extragradient import moved
from gantricks.plugins.lookahead import synchronise_
from gantricks.plugins.optimistic import OptimisticUpdate

rates = st.floats(1e-3, 0.5)


def start() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.tensor([w], dtype=torch.float64)) for w in (0.8, -0.6)]


def field(x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
    """Both gradients at one point: x minimises xy, and y maximises it."""
    return [y.detach().clone(), -x.detach().clone()]


def norm(weights: list[torch.Tensor]) -> float:
    return math.hypot(*(float(w.detach()) for w in weights))


def step(at: list[torch.Tensor], rate: float) -> list[torch.Tensor]:
    return [w.detach() - rate * slope for w, slope in zip(at, field(*at), strict=True)]


@given(rates)
def test_extragradient_multiplies_the_norm_by_a_known_factor(rate):
    old = [w.detach() for w in start()]
    half = step(old, rate)
    after = moved(old, half, step(half, rate))
    assert abs(norm(after) - math.sqrt(1 - rate**2 + rate**4)) < 1e-10


@given(rates, st.integers(1, 6))
def test_optimistic_updates_follow_their_recurrence(rate, steps):
    weights = start()
    players = [OptimisticUpdate(torch.optim.SGD([w], lr=rate, fused=True)) for w in weights]
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    now = torch.cat([w.detach() for w in weights])
    last = torch.zeros(2, dtype=torch.float64)
    for _ in range(steps):
        for w, slope in zip(weights, field(*weights), strict=True):
            w.grad = slope
        for player in players:
            player.step_unless(torch.zeros(()))
        now, last = now - 2 * rate * turn @ now + rate * turn @ last, now
    torch.testing.assert_close(torch.cat([w.detach() for w in weights]), now, rtol=0, atol=1e-10)


@given(rates, st.integers(1, 6), st.floats(0.0, 1.0))
def test_lookahead_multiplies_by_its_matrix(rate, every, alpha):
    slow = [w.detach().clone() for w in start()]
    fast = [w.clone() for w in slow]
    identity = torch.eye(2, dtype=torch.float64)
    once = identity - rate * torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    expected = ((1 - alpha) * identity + alpha * torch.matrix_power(once, every)) @ torch.cat(slow)
    for _ in range(every):
        fast = step(fast, rate)
    synchronise_(slow, fast, alpha, torch.ones(()))
    torch.testing.assert_close(torch.cat(fast), expected, rtol=0, atol=1e-10)
