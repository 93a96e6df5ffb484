"""R2: half of γ times the squared slope of D at fakes. What it does to a game is in test_games.py."""

from __future__ import annotations

from slopes import MISTAKES as OF_WEIGHT
from slopes import pays_for_the_slope_at

from gantricks.testing import CONDITIONAL, Mistake, Played, Settings

SETTINGS: Settings = {
    "": ({"weight": 0.3}, {}),
    "lazy": ({"weight": 0.3, "every": 3}, {"n_critic": 2}),
    "conditional": ({"weight": {"start": 0.3, "end": 0.1}}, CONDITIONAL),
}
REFUSED: dict[str, str] = {}

MISTAKES = OF_WEIGHT | {
    "the slope at the other side": Mistake(
        old="squared_slopes(logits, ctx.fake_in.images)",
        new="squared_slopes(ctx.real_out.logits, ctx.real_in.images)",
        caught_by="trace_law",
    ),
    "the sum over the batch in place of the mean": Mistake(
        old="squared_slopes(logits, ctx.fake_in.images).mean()",
        new="squared_slopes(logits, ctx.fake_in.images).sum()",
        caught_by="trace_law",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """The term is γ/2 times the squared slope at fakes, k times as much in each k-th step, and 0 between."""
    pays_for_the_slope_at(played, name, "fake_in")
