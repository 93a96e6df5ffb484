"""Games of two weights, played by the engine: min_x max_y xy to 1e-10, the Dirac-GAN (Mescheder et al. 2018, §2), and
the page that is written of them.

Under the Wasserstein objective D minimises y x and G minimises -y x, so that gradient steps of size η turn (x, y).
"""

from __future__ import annotations

import importlib.util
import math
import re
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gantricks import Trick, UserError, hookimpl
from gantricks.testing import TwoWeights

DOCS = Path(__file__).parents[1] / "docs"
TURN = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
EYE = torch.eye(2, dtype=torch.float64)
rates = st.floats(1e-3, 0.5)


@pytest.fixture(scope="module")
def games():
    spec = importlib.util.spec_from_file_location("docs_games", DOCS / "games.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "docs_games", module)  # dataclasses look their module up
        spec.loader.exec_module(module)
        yield module


def bilinear(rate: float, **changes: object) -> TwoWeights:
    return TwoWeights(rate, **changes).with_trick("wasserstein")


def at_once(rate: float) -> TwoWeights:
    return bilinear(rate, simultaneous=True)


def end(game: TwoWeights, start: tuple[float, float], steps: int) -> Tensor:
    """(x, y) after some steps."""
    return game.path(start, steps)[-1]


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


# ---------------------------------------------------------------- min_x max_y xy


@given(rates)
@settings(max_examples=10)
def test_simultaneous_steps_multiply_the_norm_by_more_than_one(rate):
    found = at_once(rate).matrix()
    close(found, EYE + rate * TURN)
    close(found.T @ found, (1 + rate**2) * EYE)


@given(rates)
@settings(max_examples=10)
def test_alternating_steps_keep_the_area(rate):
    found = bilinear(rate).matrix()
    close(found, torch.tensor([[1 - rate**2, rate], [-rate, 1]], dtype=torch.float64))
    assert abs(float(torch.linalg.det(found)) - 1) < 1e-10


@given(rates)
@settings(max_examples=10)
def test_extragradient_multiplies_the_norm_by_less_than_one(rate):
    found = bilinear(rate).with_trick("extragradient").matrix()
    close(found, EYE + rate * TURN + rate**2 * TURN @ TURN)
    close(found.T @ found, (1 - rate**2 + rate**4) * EYE)


@given(rates, st.integers(1, 6))
@settings(max_examples=10)
def test_optimistic_steps_follow_their_recurrence(rate, steps):
    now, last = EYE, torch.zeros_like(EYE)
    for _ in range(steps):
        now, last = now + 2 * rate * TURN @ now - rate * TURN @ last, now
    game = at_once(rate).with_trick("optimistic")
    close(torch.stack([end(game, start, steps) for start in ((1.0, 0.0), (0.0, 1.0))], 1), now)


def test_optimistic_steps_converge_where_plain_ones_leave():
    assert end(at_once(0.1), (1.0, 1.0), 1000).norm() > 100
    assert end(at_once(0.1).with_trick("optimistic"), (1.0, 1.0), 1000).norm() < 0.02


@given(rates, st.integers(1, 6), st.floats(0.01, 1.0))
@settings(max_examples=10)
def test_lookahead_multiplies_by_its_matrix(rate, every, alpha):
    game = at_once(rate).with_trick("lookahead", every=every, alpha=alpha)
    once = (1 - alpha) * EYE + alpha * torch.linalg.matrix_power(EYE + rate * TURN, every)
    for start in ((1.0, 0.0), (0.0, 1.0)):
        close(end(game, start, 2 * every), once @ once @ torch.tensor(start, dtype=torch.float64))


@given(rates, st.integers(0, 6), st.floats(0.01, 0.5))
@settings(max_examples=10)
def test_unrolled_steps_have_their_matrix(rate, steps, ahead):
    """After k steps of its own, D would be at y - k ahead x: G goes down -y x + k ahead x², and not -y x."""
    found = bilinear(rate).with_trick("unrolled", steps=steps, rate=ahead).matrix()
    drawn = 2 * steps * rate * ahead
    close(found, torch.tensor([[1 - rate**2 - drawn, rate], [-rate, 1]], dtype=torch.float64))
    assert abs(float(torch.linalg.det(found)) - (1 - drawn)) < 1e-10


def test_unrolled_steps_converge_where_plain_ones_go_round():
    assert end(bilinear(0.3), (1.0, 1.0), 100).norm() > 0.5
    assert end(bilinear(0.3).with_trick("unrolled", steps=5, rate=0.1), (1.0, 1.0), 100).norm() < 1e-6


# ---------------------------------------------------------------- the Dirac-GAN


@pytest.mark.parametrize("sigma", [0.5, 1.5])
def test_instance_noise_acts_by_the_moments_of_its_draws(sigma):
    """At (0, 0) D's direction changes with y by -1/4 of the squared noise on reals and on fakes, G's by 1/2."""
    game = TwoWeights(0.1, simultaneous=True, batch_size=50).with_trick("minimax")
    game = game.with_trick("instance_noise", sigma=sigma)
    calls = defaultdict(list)
    game.host((0.0, 0.0)).game(calls).advance()
    noise = [call.result.images for call in calls["d_input"] if call.phase == "d"]
    assert len(noise) == 2
    damping = sum(seen.square().mean() for seen in noise) / 4
    close((game.matrix() - EYE) / 0.1, torch.tensor([[0.0, 0.5], [-0.5, -damping]], dtype=torch.float64))


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
    game = TwoWeights(0.1).with_trick(objective)
    if trick:
        game = game.with_trick(trick, **options)
    late = game.path(steps=400)[380:].norm(dim=1).max()
    assert (late < 1e-2) == converges
    assert converges or late > 0.3


def test_a_clipped_critic_does_not_converge():
    late = TwoWeights(0.1).with_trick("wasserstein", clip=0.5).path(steps=400)[380:]
    assert late.norm(dim=1).max() > 0.3
    assert (late[:, 1].abs() <= 0.5).all()


# ---------------------------------------------------------------- the game itself


def test_a_matrix_takes_in_what_is_remembered():
    game = at_once(0.1).with_trick("optimistic")
    names = list(game.states(steps=1))
    assert names[:2] == ["x", "y"]
    assert [name.partition("/")[0] for name in names[2:]] == ["discriminator_optimizer", "generator_optimizer"]
    found = game.matrix()
    changes = torch.stack([found[3], found[2]])  # of G and of D, in the order of x and y
    close(changes[:, :2], 0.1 * TURN)
    close(found[:2, :2], EYE + 0.2 * TURN)
    close(found[:2, [3, 2]], -EYE)


def test_a_matrix_is_the_derivative_of_paths():
    """Of a game that bends: minimax with noise, away from the equilibrium, over some steps."""
    game = TwoWeights(0.3).with_trick("minimax").with_trick("instance_noise", sigma=0.5)
    found, width = game.matrix(at=(0.7, -0.4), steps=3), 1e-5
    for column, (dx, dy) in enumerate(((width, 0.0), (0.0, width))):
        there, back = (end(game, (0.7 + sign * dx, -0.4 + sign * dy), 3) for sign in (1, -1))
        torch.testing.assert_close(found[:, column], (there - back) / (2 * width), rtol=0, atol=1e-8)


def test_steps_before_it_are_played_before_a_matrix_is_taken():
    game = at_once(0.1).with_trick("historical_averaging", strength=0.1)
    shares = [game.matrix(after=after)[2, 2].item() for after in (0, 3)]  # of the old mean in the new one
    pulled = 2 * 0.1 * 0.1
    assert shares == pytest.approx([1 - share + share * pulled for share in (1 / 2, 1 / 5)])


def test_points_and_slopes_are_functions_of_the_weights():
    game = TwoWeights(0.1, point=lambda x: x.square(), slope=lambda y: 3 * y, simultaneous=True)
    x, y = end(game.with_trick("wasserstein"), (2.0, 1.0), 1).tolist()
    assert x == pytest.approx(2 + 0.1 * 3 * 1 * 2 * 2)
    assert y == pytest.approx(1 - 0.1 * 3 * 4)


def test_players_that_move_at_once_take_one_step_each():
    with pytest.raises(UserError, match="n_critic"):
        TwoWeights(simultaneous=True, n_critic=2).path(steps=1)


def test_a_trick_of_ones_own_is_played():
    class Still(Trick):
        @hookimpl
        def after_g_backward(self, ctx):
            for weight in ctx.generator.parameters():
                weight.grad.zero_()

    path = bilinear(0.1).with_trick(Still).path((1.0, 0.0), 3)
    assert path[:, 0].tolist() == [1.0] * 4
    assert path[-1, 1].item() == pytest.approx(-0.3)


# ---------------------------------------------------------------- the page


def rows(games):
    return [
        *games.bilinear_rows(),
        *(one.row for one in games.objectives()),
        *games.penalty_rows(),
        *games.salimans_rows(),
    ]


def test_every_eigenvalue_of_the_page_is_that_of_the_theory(games):
    found = rows(games)
    assert len(found) > 35
    assert [row.played for row in found if not row.agrees()] == []
    assert [row.played for row in found if row.within > 1e-9] == ["minimax, instance_noise (σ = 1)"]


def test_the_page_has_what_is_played_now(games):
    page = (DOCS / "games.md").read_text(encoding="utf-8").split("\n")
    assert games.step_line(games.bilinear_rows()[4]) in page
    assert games.penalty_line(games.penalty_rows()[0]) in page
    assert games.objective_line(games.objectives()[3]) in page
    # the others: what is played and what it has as eigenvalues
    for row in rows(games):
        told = [line for line in page if line.startswith(f"| {row.played} |")]
        digits = 5 if row.direction else 6
        shown = row.measured if row.direction else games.largest(row.measured)
        assert any(f"| {games.values(shown, digits)} |" in line for line in told), row.played


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.5, 0.57, 0.9])
def test_the_curves_of_the_page_are_what_a_step_multiplies_by(games, rate):
    for curve in games.CURVES:
        # at 1/2 both eigenvalues of optimistic steps meet, where a difference of 1e-16 is one of its root
        assert curve.measured(rate) == pytest.approx(curve.formula(rate), abs=1e-9 if rate != 0.5 else 1e-6), curve.name


def test_historical_averaging_holds_the_players_above_its_threshold(games):
    """η(1 + (2λ/ω)²) < 4λ/ω², for many terms in the mean; ω is 1 in the bilinear game and 2 in that of Salimans."""
    for turn, told in ((1.0, lambda s: 4 * s / (1 + 4 * s**2)), (2.0, lambda s: s / (1 + s**2))):
        for strength in (0.01, 0.1, 1.0):
            largest = [
                max(map(abs, games.remembered(turn, told(strength) * times, strength, 10**9))) for times in (0.99, 1.01)
            ]
            assert largest[0] < 1 < largest[1]


def test_the_power_of_historical_averaging_is_that_of_its_slow_eigenvalue(games):
    for turn, strength in ((1.0, 0.1), (1.0, 1.0), (2.0, 0.5)):
        count = 10**6
        slowest = max(map(abs, games.remembered(turn, 0.1, strength, count)))
        assert -math.log(slowest) * count == pytest.approx(games.slow(turn, strength), rel=1e-4)


def test_the_example_of_the_page_runs(capsys):
    (example,) = re.findall(
        r"^```python\n(.*?)^```", (DOCS / "games.md").read_text(encoding="utf-8"), flags=re.DOTALL | re.M
    )
    exec(example, {})
    assert "0.9900" in capsys.readouterr().out


def test_numbers_are_told_without_signs_of_nothing(games):
    assert games.values([complex(-1e-9, 0.5), complex(-1e-9, -0.5)]) == "±0.50000i"
    assert games.values([complex(-0.5, 1e-9), complex(-0.5, -1e-9), 1.0]) == "1.00000, −0.50000"
    assert games.values([complex(0.25, 0.1), complex(0.25, -0.1)], 2) == "0.25 ± 0.10i"
    assert [games.distance(value) for value in (688.4, 0.318, 1.6e-6, math.inf)] == ["688", "0.318", "1.6 · 10⁻⁶", "∞"]
    assert games.factor([-8, 1], steps=3) == pytest.approx(2)
