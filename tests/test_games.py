"""Small games, played by the engine: min_x max_y xy to 1e-10, and the Dirac-GAN (Mescheder et al. 2018, §2).

G makes one point x whatever its latents, D has one weight y and scores a point p as y p, and all reals are 0. Under the
Wasserstein objective D minimises y x and G minimises -y x, so that gradient steps of size η turn (x, y).
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gantricks import Trick, hookimpl
from gantricks.testing import TrickHost

TURN = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
EYE = torch.eye(2, dtype=torch.float64)
rates = st.floats(1e-3, 0.5)


class Point(nn.Module):
    """Latents to the point x."""

    def __init__(self, x: float) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.tensor([[x]], dtype=torch.float64))

    def forward(self, z: Tensor) -> Tensor:
        return self.x.expand(len(z), 1)


class Slope(nn.Module):
    """Points p to y p."""

    def __init__(self, y: float) -> None:
        super().__init__()
        self.y = nn.Parameter(torch.tensor([[y]], dtype=torch.float64))

    def forward(self, points: Tensor) -> Tensor:
        return self.y * points


class Dirac(Trick):
    """The two players, at a start, and reals that are all 0."""

    class Config(Trick.Config):
        x: float = 1.0
        y: float = 1.0

    @hookimpl
    def transform_generator(self, network):
        network.body, network.head = nn.Sequential(Point(self.config.x)), nn.Identity()
        return network

    @hookimpl
    def transform_discriminator(self, network):
        network.body, network.head = nn.Sequential(nn.Identity()), Slope(self.config.y)
        return network

    @hookimpl
    def real_batch(self, batch):
        return batch.with_images(torch.zeros_like(batch.images))


class Simultaneous(Trick):
    """Both players move at once: G learns against the D from before the step."""

    @hookimpl
    def play(self, ctx):
        (y,) = ctx.discriminator.parameters()
        before = y.detach().clone()
        ctx.d_step(0)
        after = y.detach().clone()
        with torch.no_grad():
            y.copy_(before)
        ctx.g_step()
        with torch.no_grad():
            y.copy_(after)


def host(rate: float, objective: str | None = "wasserstein", batch_size: int = 2, **options: object) -> TrickHost:
    sgd = {"name": "sgd", "lr": rate}
    made = TrickHost(sample=(1,), optimizer=sgd, batch_size=batch_size, count=max(40, batch_size), steps=10_000)
    return made.with_trick(objective, **options) if objective else made


def ends(of: TrickHost, start: tuple[float, float], steps: int = 1) -> Tensor:
    """(x, y) after some steps."""
    game = of.with_trick(Dirac, "dirac", x=start[0], y=start[1]).game()
    for _ in range(steps):
        game.advance()
    return torch.cat([p.detach().flatten() for net in (game.generator, game.discriminator) for p in net.parameters()])


def matrix(of: TrickHost, steps: int = 1) -> Tensor:
    """The matrix of some steps of a linear game."""
    return torch.stack([ends(of, start, steps) for start in ((1.0, 0.0), (0.0, 1.0))], 1)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


# ---------------------------------------------------------------- min_x max_y xy


@given(rates)
@settings(max_examples=10)
def test_simultaneous_steps_multiply_the_norm_by_more_than_one(rate):
    found = matrix(host(rate).with_trick(Simultaneous, "simultaneous"))
    close(found, EYE + rate * TURN)
    close(found.T @ found, (1 + rate**2) * EYE)


@given(rates)
@settings(max_examples=10)
def test_alternating_steps_keep_the_area(rate):
    found = matrix(host(rate))
    close(found, torch.tensor([[1 - rate**2, rate], [-rate, 1]], dtype=torch.float64))
    assert abs(float(torch.linalg.det(found)) - 1) < 1e-10


@given(rates)
@settings(max_examples=10)
def test_extragradient_multiplies_the_norm_by_less_than_one(rate):
    found = matrix(host(rate).with_trick("extragradient"))
    close(found, EYE + rate * TURN + rate**2 * TURN @ TURN)
    close(found.T @ found, (1 - rate**2 + rate**4) * EYE)


@given(rates, st.integers(1, 6))
@settings(max_examples=10)
def test_optimistic_steps_follow_their_recurrence(rate, steps):
    now, last = EYE, torch.zeros_like(EYE)
    for _ in range(steps):
        now, last = now + 2 * rate * TURN @ now - rate * TURN @ last, now
    close(matrix(host(rate).with_trick(Simultaneous, "simultaneous").with_trick("optimistic"), steps), now)


def test_optimistic_steps_converge_where_plain_ones_leave():
    of = host(0.1).with_trick(Simultaneous, "simultaneous")
    assert ends(of, (1.0, 1.0), 1000).norm() > 100
    assert ends(of.with_trick("optimistic"), (1.0, 1.0), 1000).norm() < 0.02


@given(rates, st.integers(1, 6), st.floats(0.01, 1.0))
@settings(max_examples=10)
def test_lookahead_multiplies_by_its_matrix(rate, every, alpha):
    of = host(rate).with_trick(Simultaneous, "simultaneous").with_trick("lookahead", every=every, alpha=alpha)
    once = (1 - alpha) * EYE + alpha * torch.linalg.matrix_power(EYE + rate * TURN, every)
    close(matrix(of, 2 * every), once @ once)


@given(rates, st.integers(0, 6), st.floats(0.01, 0.5))
@settings(max_examples=10)
def test_unrolled_steps_have_their_matrix(rate, steps, ahead):
    """After k steps of its own, D would be at y - k ahead x: G goes down -y x + k ahead x², and not -y x."""
    found = matrix(host(rate).with_trick("unrolled", steps=steps, rate=ahead))
    drawn = 2 * steps * rate * ahead
    close(found, torch.tensor([[1 - rate**2 - drawn, rate], [-rate, 1]], dtype=torch.float64))
    assert abs(float(torch.linalg.det(found)) - (1 - drawn)) < 1e-10


def test_unrolled_steps_converge_where_plain_ones_go_round():
    assert ends(host(0.3), (1.0, 1.0), 100).norm() > 0.5
    assert ends(host(0.3).with_trick("unrolled", steps=5, rate=0.1), (1.0, 1.0), 100).norm() < 1e-6


# ---------------------------------------------------------------- the Dirac-GAN


def jacobian(of: TrickHost, rate: float, h: float = 1e-4) -> Tensor:
    """The derivative of the players' direction at the equilibrium (0, 0), from simultaneous steps of size `rate`."""
    of = of.with_trick(Simultaneous, "simultaneous")
    columns = [(ends(of, (h, 0.0)) - ends(of, (-h, 0.0))), (ends(of, (0.0, h)) - ends(of, (0.0, -h)))]
    return (torch.stack(columns, 1) / (2 * h) - EYE) / rate


def eigenvalues_are(found: Tensor, real: float, square: float, within: float) -> None:
    """They are `real` ± √`square`."""
    root = torch.sqrt(torch.tensor(square, dtype=torch.complex128))
    for expected in (real + root, real - root):
        assert (torch.linalg.eigvals(found) - expected).abs().min() < within


@given(st.floats(0.05, 5))
@settings(max_examples=8)
def test_r1_moves_the_eigenvalues_as_the_paper_says(gamma):
    found = jacobian(host(0.01, "minimax").with_trick("r1", weight=gamma), 0.01)
    eigenvalues_are(found, -gamma / 2, gamma**2 / 4 - 0.25, within=1e-6)  # f'(0) = 1/2


def test_without_a_penalty_they_are_on_the_imaginary_axis():
    eigenvalues_are(jacobian(host(0.01, "minimax"), 0.01), 0.0, -0.25, within=1e-6)


@pytest.mark.parametrize("sigma", [0.5, 1.5])
def test_instance_noise_moves_them_in_expectation(sigma):
    """Of noise of variance σ², f''(0) = -1/4 (Mescheder et al. 2018, lemma on instance noise)."""
    of = host(0.01, "minimax", batch_size=40_000).with_trick("instance_noise", sigma=sigma)
    at = -(sigma**2) / 4
    eigenvalues_are(jacobian(of, 0.01, h=1e-2), at, at**2 - 0.25, within=0.02)


@pytest.mark.parametrize(
    ("objective", "trick", "options", "converges"),
    [
        ("minimax", None, {}, False),
        ("minimax", "r1", {"weight": 1.0}, True),
        ("minimax", "r2", {"weight": 1.0}, True),
        ("wasserstein", None, {}, False),
        ("wasserstein", "gradient_penalty", {"weight": 1.0}, False),
        ("wasserstein", "gradient_penalty", {"weight": 1.0, "target": 0.0}, True),
        ("wasserstein", "r1", {"weight": 1.0}, True),
        ("relativistic", None, {}, False),
        ("relativistic", "r1", {"weight": 1.0}, True),
    ],
)
def test_which_games_converge(objective, trick, options, converges):
    of = host(0.1, objective)
    if trick:
        of = of.with_trick(trick, **options)
    late = [float(ends(of, (1.0, 1.0), steps).norm()) for steps in (380, 390, 400)]
    assert (max(late) < 1e-2) is converges
    assert converges or max(late) > 0.3


def test_a_clipped_critic_does_not_converge():
    clipped = host(0.1, clip=0.5)
    late = [ends(clipped, (1.0, 1.0), steps) for steps in (380, 390, 400)]
    assert max(float(at.norm()) for at in late) > 0.3
    assert all(abs(float(at[1])) <= 0.5 for at in late)
