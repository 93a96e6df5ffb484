"""Gradient clipping: never longer than the limit, never turned, untouched below it, and never blind to an overflow."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gantricks import Players, Trick, hookimpl
from gantricks.plugins.gradient_clipping import clip_
from gantricks.testing import Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import ROLES, close
from gantricks.testing.record import differences, same_bits

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({"max_norm": 0.1}, {}),
}
REFUSED: dict[str, str] = {}

MISTAKES = {
    "each tensor is clipped by its own norm": Mistake(
        old="torch._foreach_mul_(gradients, torch.where(norm.isfinite(), (max_norm / norm).clamp(max=1), norm))",
        new="""
            for gradient in gradients:
                gradient.mul_((max_norm / gradient.norm()).clamp(max=1))
        """,
        caught_by="test_the_direction_is_kept",
    ),
    "short gradients are scaled up": Mistake(
        old="(max_norm / norm).clamp(max=1)",
        new="max_norm / norm",
        caught_by="test_below_the_limit_nothing_changes_bit_for_bit",
    ),
    "an overflow becomes gradients of 0": Mistake(
        old="torch.where(norm.isfinite(), (max_norm / norm).clamp(max=1), norm)",
        new="(max_norm / norm).clamp(max=1)",
        caught_by="test_an_overflow_of_the_norm_is_not_hidden",
    ),
    "the norm is that of the first tensor": Mistake(
        old="torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))",
        new="gradients[0].norm()",
        caught_by="trace_law",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """A gradient longer than the limit has that length afterwards and its direction; others keep every bit."""
    config = played.trick(name).config
    for player in ROLES:
        calls = played.of(name, f"after_{player}_backward")
        assert len(calls) == len(played.steps_of(player))
        limit = config.max_norm if ROLES[player] in config.players else math.inf
        for call in calls:
            norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in call.before.values()))
            assert norm > 0
            for weight, gradient in call.before.items():
                if norm <= limit:
                    assert torch.equal(call.after[weight], gradient), f"{weight} changed within the limit"
                else:
                    close(call.after[weight], gradient * (limit / norm), f"the gradient of {weight}")
        if limit < math.inf:
            logged = played.scalars[-1][f"{name}/norm_{player}"]
            assert math.isclose(logged, norm, rel_tol=1e-6), f"the length logged is {logged}, it was {norm}"


limits = st.floats(1e-3, 1e3)


@st.composite
def gradients(draw: st.DrawFn) -> list[Tensor]:
    """The gradients of a few weights, of sizes far apart."""
    shapes = draw(st.lists(st.sampled_from([(1,), (3, 2), (2, 1, 3, 3)]), min_size=1, max_size=4))
    return [draw(gs.tensors(shape, scale=draw(st.sampled_from([1e-4, 1.0, 100.0])))) for shape in shapes]


def flat(tensors: list[Tensor]) -> np.ndarray:
    return np.concatenate([tensor.detach().numpy().ravel() for tensor in tensors])


def norm(tensors: list[Tensor]) -> float:
    return math.sqrt(math.fsum(float(x) ** 2 for x in flat(tensors)))


def clipped(tensors: list[Tensor], limit: float) -> tuple[list[Tensor], Tensor]:
    copies = [tensor.clone() for tensor in tensors]
    return copies, clip_(copies, torch.tensor(limit, dtype=copies[0].dtype))


# ---------------------------------------------------------------- the formula


@given(gradients(), limits)
def test_the_norm_is_the_smaller_of_its_own_and_the_limit(tensors, limit) -> None:
    result, before = clipped(tensors, limit)
    assert before.item() == pytest.approx(norm(tensors), rel=1e-12)
    assert norm(result) == pytest.approx(min(norm(tensors), limit), rel=1e-12)


@given(gradients(), limits)
def test_the_direction_is_kept(tensors, limit) -> None:
    result, _ = clipped(tensors, limit)
    np.testing.assert_allclose(flat(result) / norm(result), flat(tensors) / norm(tensors), rtol=0, atol=1e-14)


@given(gradients(), st.floats(1.0001, 1e6), st.sampled_from([torch.float64, torch.float32]))
def test_below_the_limit_nothing_changes_bit_for_bit(tensors, slack, dtype) -> None:
    tensors = [tensor.to(dtype) for tensor in tensors]
    result, _ = clipped(tensors, slack * norm(tensors))
    assert all(same_bits(a, b) for a, b in zip(result, tensors, strict=True))


def test_gradients_of_zero_stay_zero() -> None:
    result, before = clipped([torch.zeros(3), torch.zeros(2)], 1.0)
    assert before == 0
    assert not flat(result).any()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stays_so(bad) -> None:
    result, _ = clipped([torch.tensor([1.0, bad]), torch.tensor([2.0])], 1.0)
    assert not np.isfinite(norm(result))


def test_an_overflow_of_the_norm_is_not_hidden() -> None:
    """Every gradient is finite, their norm is not, and limit / inf = 0 would make them all 0."""
    result, before = clipped([torch.full((4,), 3e38), torch.full((4,), 3e38)], 1.0)
    assert before.isinf()
    assert not np.isfinite(flat(result)).any()


# ---------------------------------------------------------------- in a run


class Watch(Trick):
    """Records the norms of both players' gradients after each backward."""

    class Config(Trick.Config):
        pass

    def __init__(self, config: object) -> None:
        super().__init__(config)
        self.seen: dict[str, list[float]] = {"d": [], "g": []}

    @hookimpl
    def after_d_backward(self, ctx):
        self.seen["d"].append(norm([p.grad for p in ctx.discriminator.parameters()]))

    @hookimpl
    def after_g_backward(self, ctx):
        self.seen["g"].append(norm([p.grad for p in ctx.generator.parameters()]))


@pytest.mark.parametrize("players", [Players(), Players("generator"), Players("discriminator")])
def test_each_player_is_clipped_by_its_own_norm(players) -> None:
    limit = 0.05
    host = TrickHost(optimizer={"name": "sgd", "lr": 1e-3})
    host = host.with_trick(Watch, "before").with_trick("gradient_clipping", max_norm=limit, players=players.written())
    played = host.with_trick(Watch, "after").train(4)
    before, trick, after = (planned.trick for planned in played.game.plan.tricks)
    for player in ("d", "g"):
        acts = ROLES[player] in players
        assert max(before.seen[player]) > limit
        expected = [min(length, limit) if acts else length for length in before.seen[player]]
        assert after.seen[player] == pytest.approx(expected, rel=1e-12)
        assert (f"gradient_clipping/norm_{player}" in played.scalars[-1]) == acts
        if acts:
            logged = played.scalars[-1][f"gradient_clipping/norm_{player}"]
            assert logged == pytest.approx(before.seen[player][-1], rel=1e-6)
        assert played.scalars[-1][f"gradient_norm/{player}"] == pytest.approx(expected[-1], rel=1e-12)
    assert trick.tensors().keys() == {f"norm_{player}" for player in "dg" if ROLES[player] in players}


def test_a_limit_that_is_never_reached_leaves_the_run_as_it_is() -> None:
    plain = TrickHost(n_critic=2)
    played = plain.with_trick("gradient_clipping", max_norm=1e6).train()
    assert not differences(played.state, plain.train().state, besides=("tricks",))


class Overflow(Trick):
    """Gives the discriminator finite gradients whose norm overflows, in one step."""

    @hookimpl
    def on_setup(self, ctx):
        self.count = torch.zeros((), device=ctx.device)

    @hookimpl
    def after_d_backward(self, ctx):
        self.count += 1
        for parameter in ctx.discriminator.parameters():
            parameter.grad.add_(torch.where(self.count == 3, 1e38, 0.0))

    def tensors(self):
        return {"count": self.count}


@pytest.mark.parametrize("max_norm", [1e-3, 1e6])
def test_the_guard_sees_through_clipping(max_norm) -> None:
    host = TrickHost(precision="fp32").with_trick(Overflow)
    played = host.with_trick("gradient_clipping", max_norm=max_norm).train(5)
    fault = played.game.non_finite()
    assert fault is not None
    assert (fault.player, fault.step, fault.names) == ("d", 3, ("gradient_norm/d",))
    assert all(bool(p.isfinite().all()) for p in played.game.discriminator.parameters())
