"""What the page of small games says: eigenvalues that the engine's steps have, beside those of the theory.

`python docs/build.py` plays them and writes the page. Every number there is measured, but for those of the formulas.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gantricks.testing import TwoWeights

RATE = 0.1
"""The learning rate η of both players, unless a row says otherwise."""

BILINEAR = TwoWeights(RATE).with_trick("wasserstein")
AT_ONCE = BILINEAR.but(simultaneous=True)

SALIMANS = TwoWeights(
    rate=0.05,
    point=lambda x: torch.where(x < 0, x, x.square()) - 1,
    slope=lambda y: 1 - y,
).with_trick("wasserstein")
"""The game (f(x) - 1)(y - 1), x minimising and y maximising. Salimans et al. 2016, §3.3."""

SALIMANS_AT = (1.0, 1.0)
SALIMANS_START = (2.0, 2.5)


@dataclass(frozen=True)
class Row:
    """A game beside its theory.

    `theory` has the eigenvalues of some `steps` at the equilibrium `at`, after so many steps there; or, of the
    `direction` in which simultaneous steps go, those of its derivative. `draws` is the batch from which they are
    measured where that is a matter of chance, and `within` how near they are to the theory. The `players` alone are
    asked where what a trick remembers does not act on them. A game from `start` on of so many steps (`length`) shows
    who arrives.
    """

    played: str
    game: TwoWeights
    formula: str
    theory: tuple[complex, ...]
    source: str
    steps: int = 1
    after: int = 0
    at: tuple[float, float] = (0.0, 0.0)
    direction: bool = False
    players: bool = False
    draws: int = 0
    within: float = 1e-9
    start: tuple[float, float] = (1.0, 1.0)
    length: int = 300

    @cached_property
    def distances(self) -> Tensor:
        """The distance from the equilibrium before the first step and after each, (`length` + 1,)."""
        away: Tensor = self.game.path(self.start, self.length) - torch.tensor(self.at, dtype=torch.float64)
        lengths: Tensor = torch.linalg.vector_norm(away, dim=1)
        return lengths

    @cached_property
    def measured(self) -> list[complex]:
        """The eigenvalues that the engine's steps have."""
        game = self.game.but(simultaneous=self.game.simultaneous or self.direction)
        matrix = (game.but(batch_size=self.draws) if self.draws else game).matrix(self.at, self.steps, self.after)
        if self.players:
            assert not matrix[:2, 2:].any()
            matrix = matrix[:2, :2]
        if self.direction:
            matrix = (matrix - torch.eye(len(matrix), dtype=matrix.dtype)) / game.rate
        found: list[complex] = torch.linalg.eigvals(matrix).tolist()
        return found

    def agrees(self) -> bool:
        """Whether they are those of the theory: the polynomials that have them as roots are the same."""
        return bool(np.allclose(np.poly(self.measured), np.poly(self.theory), rtol=0, atol=self.within))


# ---------------------------------------------------------------- theory


def both(value: complex) -> tuple[complex, ...]:
    """A number and its conjugate."""
    return value, value.conjugate()


def pair(middle: float, square: float) -> tuple[complex, ...]:
    """`middle` ± √`square`."""
    return middle + cmath.sqrt(square), middle - cmath.sqrt(square)


def alternating(alpha: float) -> tuple[complex, ...]:
    """Eigenvalues of alternating steps, where α² is the product of both rates and of f'(0) squared."""
    return pair(1 - alpha**2 / 2, (1 - alpha**2 / 2) ** 2 - 1)


def remembered(turn: float, rate: float, strength: float, count: int) -> tuple[complex, ...]:
    """Eigenvalues of a simultaneous step with historical averaging, from weights and means of `count` terms.

    Without it the step has the eigenvalues 1 ± η `turn` i.
    """
    share, found = 1 / (count + 1), []
    for sign in (1, -1):
        own, pulled = 1 - 2 * rate * strength + 1j * sign * rate * turn, 2 * rate * strength
        found += np.roots([1, -(own + 1 - share + share * pulled), own * (1 - share)]).tolist()
    return tuple(found)


def slow(turn: float, strength: float) -> float:
    """The power of 1/t with which historical averaging comes closer."""
    return 1 / (1 + (2 * strength / turn) ** 2)


# ---------------------------------------------------------------- the rows

GIDEL = "Gidel et al. 2019"
MESCHEDER = "Mescheder et al. 2018"


@cache
def bilinear_rows() -> list[Row]:
    eta, gamma, ahead, alpha = RATE, 1.0, 0.1, 0.5
    root = math.sqrt(1 - 4 * eta**2)
    drawn = 2 * 5 * eta * ahead
    penalised = AT_ONCE.with_trick("r1", weight=gamma)
    return [
        Row("simultaneous steps", AT_ONCE, "1 ± ηi", both(1 + 1j * eta), f"{GIDEL}, proposition 1"),
        Row(
            "alternating steps",
            BILINEAR,
            "1 − η²/2 ± η√(1 − η²/4) i",
            alternating(eta),
            f"{GIDEL}, proposition 1",
        ),
        Row(
            "alternating, `n_critic = 5`",
            BILINEAR.but(n_critic=5),
            "the same with √5 η",
            alternating(math.sqrt(5) * eta),
            f"{MESCHEDER}, §2",
        ),
        Row(
            "simultaneous, ttur 4 : 1",
            AT_ONCE.with_trick("ttur", discriminator=4.0, generator=1.0),
            "1 ± √4 ηi",
            both(1 + 2j * eta),
            "plain gradient steps",
        ),
        Row(
            "extragradient",
            BILINEAR.with_trick("extragradient"),
            "1 − η² ± ηi",
            both(1 - eta**2 + 1j * eta),
            f"{GIDEL}, proposition 2",
        ),
        Row(
            "simultaneous, optimistic",
            AT_ONCE.with_trick("optimistic"),
            "(1 + √(1 − 4η²))/2 ± ηi",
            (*both((1 + root) / 2 + 1j * eta), *both((1 - root) / 2 + 1j * eta)),
            "Daskalakis et al. 2018, eq. 6",
        ),
        Row(
            "alternating, optimistic",
            BILINEAR.with_trick("optimistic"),
            "z(z − 1)² + η²(2z − 1)² = 0",
            (0, *np.roots([1, -2 + 4 * eta**2, 1 - 4 * eta**2, eta**2]).tolist()),
            "Daskalakis et al. 2018, eq. 6",
        ),
        Row(
            "simultaneous, lookahead (5, α = 0.5)",
            AT_ONCE.with_trick("lookahead", every=5, alpha=alpha),
            "1 − α + α(1 ± ηi)⁵",
            (0, 0, *both(1 - alpha + alpha * (1 + 1j * eta) ** 5)),
            "Chavdarova et al. 2021",
            steps=5,
        ),
        Row(
            "alternating, lookahead (5, α = 0.5)",
            BILINEAR.with_trick("lookahead", every=5, alpha=alpha),
            "1 − α + αλ⁵, λ of alternating steps",
            (0, 0, *both(1 - alpha + alpha * alternating(eta)[0] ** 5)),
            "Chavdarova et al. 2021",
            steps=5,
        ),
        Row(
            "simultaneous, historical_averaging (λ = 0.1), step 100",
            AT_ONCE.with_trick("historical_averaging", strength=0.1),
            "z² − (a + 1 − s + sb)z + a(1 − s) = 0",
            remembered(1.0, eta, 0.1, 100),
            "Salimans et al. 2016, §3.3",
            after=99,
        ),
        Row(
            "alternating, unrolled (k = 5, ρ = 0.1)",
            BILINEAR.with_trick("unrolled", steps=5, rate=ahead),
            "z² − (2 − η² − 2kηρ)z + 1 − 2kηρ = 0",
            tuple(np.roots([1, -(2 - eta**2 - drawn), 1 - drawn]).tolist()),
            "Metz et al. 2017, eq. 6 to 8",
        ),
        Row(
            "simultaneous, r1 (γ = 1)",
            penalised,
            "1 − ηγ/2 ± η√(γ²/4 − 1)",
            pair(1 - eta * gamma / 2, eta**2 * (gamma**2 / 4 - 1)),
            f"{MESCHEDER}, §3",
        ),
        Row(
            "alternating, r1 (γ = 1)",
            penalised.but(simultaneous=False),
            "z² − (2 − η² − ηγ)z + 1 − ηγ = 0",
            tuple(np.roots([1, -(2 - eta**2 - eta * gamma), 1 - eta * gamma]).tolist()),
            "plain gradient steps",
        ),
    ]


@dataclass(frozen=True)
class Objective:
    """An objective: its slope f'(0) at the equilibrium, and `damping` κ, what the curvatures of both losses leave.

    G goes along g(xy) y and D along -d(xy) x; κ = d'(0) - g'(0), and 0 in a game of zero sum.
    """

    row: Row
    slope: float
    damping: float

    def distance(self) -> float:
        """The distance at the end of the row's game in theory, to the first order of the rate."""
        start = math.hypot(*self.row.start)
        return 1 / math.sqrt(1 / start**2 + self.damping * self.row.game.rate * self.row.length / 4)


@cache
def objectives() -> list[Objective]:
    plain = TwoWeights(RATE)
    told = [
        ("minimax", plain.with_trick("minimax"), 0.5, 0.0),
        ("hinge", plain.with_trick("hinge"), 1.0, 0.0),
        ("wasserstein", BILINEAR, 1.0, 0.0),
        ("non-saturating, the default", plain, 0.5, 0.5),
        ("relativistic, paired", plain.with_trick("relativistic"), 0.5, 0.5),
        ("relativistic, average", plain.with_trick("relativistic", mode="average"), 1.0, 1.0),
        ("least_squares", plain.but(level=0.5).with_trick("least_squares"), 0.5, 2.0),
    ]
    return [
        Objective(
            Row(name, game, "±f′(0)i", both(1j * slope), f"{MESCHEDER}, §2", direction=True, length=500),
            slope,
            damping,
        )
        for name, game, slope, damping in told
    ]


@cache
def penalty_rows() -> list[Row]:
    minimax, hinge = TwoWeights(RATE).with_trick("minimax"), TwoWeights(RATE).with_trick("hinge")
    squares = TwoWeights(RATE, level=0.5).with_trick("least_squares")
    paired = TwoWeights(RATE).with_trick("relativistic")
    damped = "−γ/2 ± √(γ²/4 − f′(0)²)"
    noise = "f″(0)σ² ± √(f″(0)²σ⁴ − f′(0)²)"

    def r1(name: str, game: TwoWeights, slope: float, gamma: float) -> Row:
        game = game.with_trick("r1", weight=gamma)
        theory = pair(-gamma / 2, gamma**2 / 4 - slope**2)
        return Row(f"{name}, r1 (γ = {gamma:g})", game, damped, theory, f"{MESCHEDER}, §3", direction=True)

    averaged = tuple((z - 1) / RATE for z in remembered(0.5, RATE, 0.1, 100))
    return [
        r1("minimax", minimax, 0.5, 0.3),
        r1("minimax", minimax, 0.5, 1.0),
        r1("minimax", minimax, 0.5, 2.0),
        r1("least_squares", squares, 0.5, 1.0),
        r1("hinge", hinge, 1.0, 1.0),
        r1("wasserstein", BILINEAR, 1.0, 1.0),
        Row(
            "minimax, r2 (γ = 1)",
            minimax.with_trick("r2", weight=1.0),
            damped,
            pair(-0.5, 0.25 - 0.25),
            f"{MESCHEDER}, §3",
            direction=True,
        ),
        Row(
            "relativistic, r1 and r2 (γ = 0.3 each)",
            paired.with_trick("r1", weight=0.3).with_trick("r2", weight=0.3),
            "−γ ± √(γ² − f′(0)²)",
            pair(-0.3, 0.09 - 0.25),
            "Huang et al. 2024, appendix B, with a square that eq. 12 lacks",
            direction=True,
        ),
        Row(
            "wasserstein, gradient_penalty (λ = 0.5, `target = 0`)",
            BILINEAR.with_trick("gradient_penalty", weight=0.5, target=0.0),
            "−λ ± √(λ² − f′(0)²)",
            pair(-0.5, 0.25 - 1),
            f"{MESCHEDER}, §3",
            direction=True,
        ),
        Row(
            "wasserstein, `clip = 0.5`",
            TwoWeights(RATE).with_trick("wasserstein", clip=0.5),
            "±f′(0)i",
            both(1j),
            f"{MESCHEDER}, §3",
            direction=True,
        ),
        Row(
            "minimax, instance_noise (σ = 1)",
            minimax.but(batch_size=1000).with_trick("instance_noise", sigma=1.0),
            noise,
            pair(-0.25, 0.0625 - 0.25),
            f"{MESCHEDER}, §3",
            direction=True,
            draws=65_536,
            within=5e-3,
        ),
        Row(
            "wasserstein, instance_noise (σ = 1)",
            BILINEAR.but(batch_size=1000).with_trick("instance_noise", sigma=1.0),
            noise,
            both(1j),
            f"{MESCHEDER}, §3",
            direction=True,
        ),
        Row(
            "minimax, unrolled (k = 5, ρ = 0.2)",
            minimax.with_trick("unrolled", steps=5, rate=0.2),
            "−c ± √(c² − f′(0)²), c = kρf′(0)²",
            pair(-0.25, 0.0625 - 0.25),
            "Metz et al. 2017, eq. 6 to 8",
            direction=True,
        ),
        Row(
            "minimax, lecam (λ = 0.3)",
            minimax.with_trick("lecam", weight=0.3),
            "±f′(0)i",
            both(0.5j),
            "Tseng et al. 2021, eq. 4",
            after=3,
            players=True,
            direction=True,
        ),
        Row(
            "minimax, historical_averaging (λ = 0.1), step 100",
            minimax.with_trick("historical_averaging", strength=0.1),
            "(z − 1)/η, z as above with a = 1 − 2ηλ ± f′(0)ηi",
            averaged,
            "Salimans et al. 2016, §3.3",
            after=99,
            direction=True,
        ),
    ]


@cache
def salimans_rows() -> list[Row]:
    eta, turn = SALIMANS.rate, 2.0
    at_once = SALIMANS.but(simultaneous=True)
    place: dict[str, Any] = {"at": SALIMANS_AT, "start": SALIMANS_START, "length": 1000}

    def averaged(strength: float) -> Row:
        return Row(
            f"simultaneous, historical_averaging (λ = {strength:g}), step 100",
            at_once.with_trick("historical_averaging", strength=strength),
            "as for the bilinear game, a = 1 − 2ηλ ± 2ηi",
            remembered(turn, eta, strength, 100),
            "Salimans et al. 2016, §3.3",
            after=99,
            **place,
        )

    return [
        Row("simultaneous steps", at_once, "1 ± 2ηi", both(1 + 2j * eta), f"{GIDEL}, proposition 1", **place),
        Row(
            "alternating steps",
            SALIMANS,
            "1 − 2η² ± 2η√(1 − η²) i",
            alternating(turn * eta),
            f"{GIDEL}, proposition 1",
            **place,
        ),
        averaged(0.01),
        averaged(0.1),
        averaged(1.0),
        Row(
            "extragradient",
            SALIMANS.with_trick("extragradient"),
            "1 − 4η² ± 2ηi",
            both(1 - 4 * eta**2 + 2j * eta),
            f"{GIDEL}, proposition 2",
            **place,
        ),
    ]


# ---------------------------------------------------------------- curves


@dataclass(frozen=True)
class Curve:
    """A way to play the bilinear game at any rate, with what a step multiplies the distance by, as a formula."""

    name: str
    formula: Callable[[float], float]
    game: TwoWeights
    steps: int = 1

    def measured(self, rate: float) -> float:
        """What a step at this rate multiplies the distance by in the end."""
        found = torch.linalg.eigvals(self.game.but(rate=rate).matrix(steps=self.steps)).tolist()
        return factor(found, self.steps)


def factor(found: Sequence[complex], steps: int = 1) -> float:
    """What one step multiplies the distance by in the end, where `steps` of them have these eigenvalues."""
    return math.pow(max(map(abs, found)), 1 / steps)


CURVES = (
    Curve("simultaneous", lambda eta: math.sqrt(1 + eta**2), AT_ONCE),
    Curve("alternating", lambda eta: 1.0, BILINEAR),
    Curve("lookahead", lambda eta: abs(0.5 + 0.5 * (1 + 1j * eta) ** 5) ** 0.2, AT_ONCE.with_trick("lookahead"), 5),
    Curve("extragradient", lambda eta: math.sqrt(1 - eta**2 + eta**4), BILINEAR.with_trick("extragradient")),
    Curve("r1", lambda eta: math.sqrt(1 - eta + eta**2), AT_ONCE.with_trick("r1", weight=1.0)),
    Curve(
        "optimistic",
        lambda eta: max(abs(0.5 + sign * cmath.sqrt(0.25 - eta**2) + 1j * eta) for sign in (1, -1)),
        AT_ONCE.with_trick("optimistic"),
    ),
)
"""Lookahead is that of every 5 steps with α = 0.5, r1 has γ = 1; these two, and optimistic, on simultaneous steps."""


def damped(gamma: float) -> TwoWeights:
    """The Dirac-GAN under minimax with R1 of this strength."""
    return TwoWeights(RATE, simultaneous=True).with_trick("minimax").with_trick("r1", weight=gamma)


def noisy(sigma: float) -> TwoWeights:
    """The Dirac-GAN under minimax with instance noise of this deviation."""
    return (
        TwoWeights(RATE, simultaneous=True, batch_size=65_536)
        .with_trick("minimax")
        .with_trick("instance_noise", sigma=sigma)
    )


def direction(game: TwoWeights) -> list[complex]:
    """The eigenvalues of the direction in which simultaneous steps of a game without memory go."""
    found: list[complex] = torch.linalg.eigvals(game.matrix() - torch.eye(2, dtype=torch.float64)).tolist()
    return [value / game.rate for value in found]


# ---------------------------------------------------------------- the page


def number(value: float, digits: int = 5) -> str:
    """A number with so many decimals, without a 0 that has a sign."""
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def distance(value: float) -> str:
    """A distance with three digits."""
    if math.isinf(value):
        return "∞"
    if value >= 0.001:
        return f"{value:.3g}"
    digits, _, power = f"{value:.1e}".partition("e")
    return f"{digits} · 10{str(int(power)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def values(found: Sequence[complex], digits: int = 5) -> str:
    """Eigenvalues, pairs as a ± bi."""
    told = []
    for value in sorted(found, key=lambda one: (-round(one.real, digits), -one.imag)):
        middle, turn = number(value.real, digits), number(abs(value.imag), digits)
        if float(turn) == 0:
            told.append(middle)
        elif value.imag > 0:
            told.append(f"{middle} ± {turn}i" if middle.strip("−0.") else f"±{turn}i")
    return ", ".join(dict.fromkeys(told))


def largest(found: Sequence[complex]) -> list[complex]:
    """Those of the greatest size, which rule in the end."""
    most = max(map(abs, found))
    return [value for value in found if abs(value) > most - 1e-6]


def line(*cells: str) -> str:
    """A row of a table."""
    return f"| {' | '.join(cells)} |"


def table(head: Sequence[str], lines: Iterable[str]) -> str:
    return "\n".join([line(*head), f"|{'---|' * len(head)}", *lines])


def step_line(row: Row) -> str:
    """What a step makes of the distance from the equilibrium."""
    return line(
        row.played,
        row.formula,
        values(largest(row.theory), 6),
        values(largest(row.measured), 6),
        number(factor(row.measured, row.steps)),
        distance(row.distances[-1].item()),
        row.source,
    )


def step_table(rows: Sequence[Row]) -> str:
    after = f"after {rows[0].length:,} steps"
    return table(("played", "formula", "gives", "measured", "factor a step", after, "source"), map(step_line, rows))


def objective_line(one: Objective) -> str:
    return line(
        one.row.played,
        f"{one.slope:g}",
        values(one.row.theory),
        values(one.row.measured),
        f"{one.damping:g}",
        distance(one.distance()),
        distance(one.row.distances[-1].item()),
    )


def objective_table() -> str:
    head = ("objective", "f′(0)", "±f′(0)i", "measured", "κ", "1/√(1/r₀² + κηt/4)", "after t = 500 steps")
    return table(head, map(objective_line, objectives()))


def penalty_line(row: Row) -> str:
    return line(
        row.played,
        row.formula,
        values(row.theory),
        values(row.measured),
        "yes" if max(value.real for value in row.measured) < -1e-6 else "not by this",
        distance(row.distances[-1].item()),
        row.source,
    )


def penalty_table() -> str:
    head = ("played", "formula", "gives", "measured", "arrives", "after 300 steps", "source")
    return table(head, map(penalty_line, penalty_rows()))


def corner_games() -> dict[str, TwoWeights]:
    """Games whose D has no derivative at the equilibrium, or none that says what happens further away."""
    return {
        "wasserstein, `clip = 0.5`": TwoWeights(RATE).with_trick("wasserstein", clip=0.5),
        "wasserstein, gradient_penalty (λ = 0.5)": BILINEAR.with_trick("gradient_penalty", weight=0.5),
        "wasserstein, dragan (λ = 0.5)": BILINEAR.with_trick("dragan", weight=0.5),
        "minimax, gradient_penalty (λ = 1)": TwoWeights(RATE)
        .with_trick("minimax")
        .with_trick("gradient_penalty", weight=1.0),
    }


def corner_table() -> str:
    told = []
    for played, game in corner_games().items():
        path = game.path(steps=1000)
        late = path[-200:].norm(dim=1)
        last = ", ".join(number(value, 3) for value in path[-1].tolist())
        told.append(line(played, distance(late.min().item()), distance(late.max().item()), f"({last})"))
    return table(("played", "least distance in steps 800 to 1,000", "greatest", "(x, y) in the end"), told)


def average_table() -> str:
    told = []
    turning = alternating(RATE)[0]
    for decay in (0.9, 0.99, 0.999):
        game = BILINEAR.with_trick("ema", decay=decay, warmup=False)
        formula = (1 - decay) / abs(turning - decay)
        told.append(line(f"ema, `decay = {decay}`", number(formula), number(circling(game))))
    return table(("average", "(1 − β)/\\|λ − β\\|", "measured"), told)


def circling(game: TwoWeights) -> float:
    """The size of G's average, as a share of G's weight, where both go round."""
    sizes, vectors = torch.linalg.eig(game.matrix())
    turning = vectors[:, sizes.imag.argmax()]  # of x, y and the average of x
    return float(turning[2].abs() / turning[0].abs())


def mean_table() -> str:
    rows = []
    for played, game, update in (
        ("alternating", BILINEAR, torch.tensor([[1 - RATE**2, RATE], [-RATE, 1]], dtype=torch.float64)),
        ("simultaneous", AT_ONCE, torch.tensor([[1, RATE], [-RATE, 1]], dtype=torch.float64)),
    ):
        states = game.with_trick("historical_averaging", strength=0.0).states(steps=1000)
        means = torch.stack([states[name] for name in states if "mean" in name]).norm(dim=0)
        for steps in (100, 1000):
            sums = torch.eye(2, dtype=torch.float64) - torch.linalg.matrix_power(update, steps + 1)
            ones = torch.ones(2, dtype=torch.float64)
            formula = torch.linalg.solve(torch.eye(2, dtype=torch.float64) - update, sums @ ones) / (steps + 1)
            rows.append(line(played, f"{steps:,}", distance(formula.norm().item()), distance(means[steps].item())))
    return table(("steps", "t", "(I − Aᵗ⁺¹)(I − A)⁻¹w₀/(t + 1), its length", "measured"), rows)


def power_table() -> str:
    rows = []
    for strength in (0.25, 0.5, 1.0):
        game = AT_ONCE.with_trick("historical_averaging", strength=strength)
        away = game.path(steps=1000).norm(dim=1)
        power = math.log(float(away[250] / away[1000])) / math.log(4)
        rows.append(line(f"{strength:g}", number(slow(1.0, strength), 3), number(power, 3)))
    return table(("λ", "1/(1 + 4λ²)", "measured between steps 250 and 1,000"), rows)


def tricks() -> set[str]:
    """The names of the tricks that are played here."""
    rows = [*bilinear_rows(), *(one.row for one in objectives()), *penalty_rows(), *salimans_rows()]
    played = [*(row.game for row in rows), *corner_games().values(), BILINEAR.with_trick("ema")]
    return {name for game in played for name, _, _ in game.tricks}


def page(pictures: Mapping[str, str]) -> str:
    """The page, with what stands for each picture."""
    return f"""# Small games

Two players that chase each other may circle for ever, and many tricks promise an end to that. On a game that is small
enough, the promise can be checked exactly. Here G has one weight, x, and D has one weight, y. The tricks that ship play
through the same engine as any run does, in float64. The matrix of a step is measured by differences. Its eigenvalues
stand beside the formula of the theory. A test asks that both have one characteristic polynomial, to 10⁻⁹ wherever
nothing is drawn at random. `python docs/build.py` plays all of it in half a minute and writes this page.

The size of an eigenvalue is what a step multiplies the distance from the equilibrium by, in the end. Below 1 the
players arrive, at 1 they circle, above 1 they leave.

These games show how players move around an equilibrium, and nothing else. What tricks do for images is on the page of
[evidence](evidence.md).

## The bilinear game

x y, which one player lowers and the other raises (Gidel et al. 2019, §3.1): the objective wasserstein, a D that scores
a point p as y p, and reals that are all 0. Both players take gradient steps of η = {RATE:g} from (1, 1), which is √2 =
1.41 away from the equilibrium (0, 0).

{pictures["games_bilinear"]}

{step_table(bilinear_rows())}

The largest eigenvalues are shown; for lookahead they are those of five steps, and the factor is that of one. Where a
formula ends in = 0, they are its roots z. The source has the formula, or the update from which it follows. For
historical averaging a = 1 − 2ηλ ± ηi, b = 2ηλ and s = 1/(t + 1), with t terms in the mean.

- Alternating steps, which are those of a recipe, circle. More steps of D for each of G's, or a higher rate, change how
  fast they go round.
- Extragradient, optimistic and lookahead play the same game in another way. They gain about η²/2 a step, lookahead
  somewhat less. Optimistic gains twice as much where steps alternate.
- Unrolled and R1 change the game. They gain in proportion to η: 5 % a step and not 0.5 %.

{pictures["games_rates"]}

In this picture lookahead (5, α = 0.5), optimistic and R1 (γ = 1) are those of simultaneous steps.

### Averages

Where the players circle, with eigenvalues λ, the average that ema keeps of G circles too, in a smaller circle. It does
not arrive. It is the nearer, the longer it remembers (β is `decay`, without the warm-up):

{average_table()}

The mean of all steps does arrive, as 1/t, if the players circle. Where they leave, their mean does as well (Gidel et
al. 2019, proposition 1). It is the mean that historical_averaging keeps, here with λ = 0. A is the matrix of a step and
w₀ = (1, 1).

{mean_table()}

### Historical averaging arrives as a power of t

The pull is towards the mean, and the mean moves less and less. Once the fast part is over, the distance falls as 1/t to
the power of 1/(1 + 4λ²): a stronger pull arrives later. A weak one does not hold the players: simultaneous steps need
η(1 + 4λ²) < 4λ.

{power_table()}

## The Dirac-GAN

Data is a point at 0, G makes the point x, and D scores p as y p (Mescheder et al. 2018, §2). It goes with every
objective. The eigenvalues are now those of the derivative, at (0, 0), of the direction in which the players go. Where
all real parts are below 0, the players arrive if the rate is small enough. Where they are 0, the eigenvalues do not
tell. The distances are those of alternating steps of {RATE:g} from (1, 1).

{pictures["games_dirac"]}

{objective_table()}

No objective has a real part below 0. Near the equilibrium all of them circle, as fast as the slope f′(0) of D's loss
says. Further away they differ. Where G raises what D lowers (minimax, wasserstein, hinge near 0), the distance r stays.
In the others the curvatures of the two losses leave a damping κ: with τ = ηt, dr²/dτ = −κr⁴/4 on average over a turn.
That is slow, as 1/√t. In least_squares D has a constant of 1/2 besides, half-way between its targets.

The game of zero sum that Huang et al. 2024 look at (lemma B.3) keeps its distance. The relativistic objective as it is
trained, with a loss of G's own, comes closer slowly.

{penalty_table()}

- R1, R2 and a gradient penalty of target 0 are one and the same here, as D's slope is y everywhere. The players arrive
  soonest at γ = 2|f′(0)|, where they stop going round.
- For the relativistic objective with one penalty, eq. 12 of Huang et al. 2024 has f′(0) under the root. The Jacobian
  that stands there (eq. 15) gives f′(0)², and so does the measurement. Without the square the pair would be −0.3 ±
  0.64i.
- Instance noise acts through the curvature f″(0), −1/4 for minimax. Under wasserstein f″ is 0, and noise does nothing.
  The row is measured with 65,536 draws, and a test compares the formula with the moments of the draws themselves.
- Unrolled damps G as R1 with γ = 2kρf′(0)² damps D.
- LeCam's penalty is of fourth order here. The eigenvalues do not see it, and the players come closer slowly.

{pictures["games_roots"]}

### Where there is no derivative

A penalty that asks for a slope of 1 has a corner where D is flat, which is where the players should end. A clipped
weight is free near the equilibrium, and D has no damping there. None of these games arrives.

{corner_table()}

The last one ends in a wrong place. It comes to rest at (4λ, 0): G is far from the data, and D has no slope to tell it.

Tricks that are left out have nothing to say here. A point has no mirror image (consistency). One weight divided by its
size is 1 or −1, and there is nothing left to learn (spectral_norm). Reals at 0 have the same score whatever y is
(label_smoothing). Latents play no part (spherical_latents, mode_seeking).

## The game of Salimans et al.

(f(x) − 1)(y − 1), which x lowers and y raises, where f(x) is x below 0 and x² above (Salimans et al. 2016, §3.3). The
paper reports that historical averaging finds the equilibrium, (1, 1), and that gradient descent goes into extended
orbits which do not approach it. Steps of η = {SALIMANS.rate:g} from (2, 2.5), 1.80 away:

{pictures["historical_averaging"]}

{step_table(salimans_rows())}

Alternating steps go round in an orbit that stays. Simultaneous ones leave for good. Historical averaging arrives if λ
is not too weak for the rate, η(1 + λ²) < λ for simultaneous steps, and λ = 1 is slow: the power of 1/t is now 1/(1 +
λ²).

## Your own trick

`TwoWeights`, from [the kit](testing.md#games-of-two-weights), plays any trick in such a game:

```python
import torch
from gantricks.testing import TwoWeights

game = TwoWeights(rate=0.1).with_trick("wasserstein").with_trick("optimistic")
print(torch.linalg.eigvals(game.matrix()).abs().max())
```
"""
