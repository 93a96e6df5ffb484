"""Unrolled: G's loss and its gradient are those under D after k plain gradient steps, and D itself stays."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.functional import softplus

from gantricks import Trick, hookimpl
from gantricks.plugins.unrolled import Unrolled, unroll
from gantricks.testing import CONDITIONAL, MIXING, Mistake, Phase, Played, Settings, TrickHost
from gantricks.testing.measure import close, cross_entropy, standard_normal, value_at
from gantricks.testing.record import differences, snapshot

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({"steps": 2, "rate": 0.1}, {}),
    "mixing": ({"steps": 3, "rate": 0.2}, MIXING | {"n_critic": 2}),
    "conditional": ({"steps": 1, "rate": {"start": 0.5, "end": 0.0}}, CONDITIONAL | {"reuse_fakes": False}),
}
REFUSED: dict[str, str] = {}

OF_THE_LOSS = "test_the_gradient_is_that_of_the_loss_after_real_steps_of_d"
OF_THE_GAME = "../test_games.py::test_unrolled_steps_have_their_matrix"

MISTAKES = {
    "no gradient flows through the updates": Mistake(
        old="weight - rate * slope",
        new="weight - rate * slope.detach()",
        caught_by=(OF_THE_LOSS, OF_THE_GAME),
    ),
    "the unrolled steps see detached fakes": Mistake(
        old="ctx.d_loss(*ctx.score(real, fake, weights))",
        new="ctx.d_loss(*ctx.score(real, fake.detach(), weights))",
        caught_by=(OF_THE_LOSS, OF_THE_GAME),
    ),
    "G learns against the present D after all": Mistake(
        old="return ctx.score(real, fake, ahead)",
        new="return ctx.score(real, fake, start)",
        caught_by=("trace_law", OF_THE_GAME),
    ),
    "D keeps the unrolled weights": Mistake(
        old="return ctx.score(real, fake, ahead)",
        new="""
            with torch.no_grad():
                for name, weight in ahead.items():
                    present[name].data.copy_(weight)
            return ctx.score(real, fake, ahead)
        """,
        caught_by=("other-player", "test_the_g_step_leaves_d_as_it_is"),
    ),
    "the unrolled D climbs its loss": Mistake(
        old="weight - rate * slope",
        new="weight + rate * slope",
        caught_by=("trace_law", "test_on_a_parabola_it_is_the_geometric_law", OF_THE_GAME),
    ),
    "fresh fakes in the unrolled steps": Mistake(
        old="ctx.d_loss(*ctx.score(real, fake, weights))",
        new="ctx.d_loss(*ctx.score(real, Batch(ctx.generator(*ctx.latents(fake.size)), *fake[1:]), weights))",
        caught_by="trace_law",
    ),
    "other reals in the unrolled steps": Mistake(
        old="ctx.d_input(ctx.real, True)",
        new="ctx.real.with_images(ctx.real.images.roll(1, 0))",
        caught_by=("trace_law[conditional]", "test_reals_are_shown_as_in_the_step_of_d"),
    ),
    "one step too few": Mistake(
        old="range(steps)",
        new="range(steps - 1)",
        caught_by=("trace_law", "test_on_a_parabola_it_is_the_geometric_law"),
    ),
    "weights that do not learn are moved too": Mistake(
        old="[name for name, weight in ctx.discriminator.named_parameters() if weight.requires_grad]",
        new="[name for name, weight in ctx.discriminator.named_parameters()]",
        caught_by="test_weights_that_do_not_learn_stay",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """G's scores are those of a D after `steps` plain gradient steps on G's own fakes and the D step's reals."""
    config = played.trick(name).config
    alone = len(played.game.plan.tricks) == 1
    for phase in played.steps_of("g"):
        shown = fakes_scored(phase)
        assert len(shown) == config.steps + 1, f"the fakes are scored {len(shown)} times in the G step"
        assert torch.equal(shown[-1][1], phase.fake_out.logits), "G's loss is not of the last scores"
        reals = [images for images, _ in shown if len(images) == 2 * phase.fake.size]
        assert all(torch.equal(images, reals[0]) for images in reals), "the unrolled steps see several batches"
        if alone:
            d_step = [before for before in played.steps_of("d") if before.step == phase.step][-1]
            expected = after_real_steps(played, d_step, phase, config.steps, value_at(played, config.rate, phase.step))
            for found, wanted in zip((phase.real_out, phase.fake_out), expected, strict=True):
                assert found is not None
                close(found.logits, wanted, "a score by the unrolled D", rtol=1e-7, atol=1e-9)


def fakes_scored(phase: Phase) -> list[tuple[Tensor, Tensor]]:
    """The passes of D that hold all fakes of a G step as they are, alone or behind reals, and the logits of these."""
    images, found = phase.fake_in.images, []
    for shown, out in phase.passes:
        if len(shown) in (len(images), 2 * len(images)) and torch.equal(shown[-len(images) :], images):
            found.append((shown, out.logits[-len(phase.fake_out.logits) :]))
    return found


def after_real_steps(played: Played, d_step: Phase, phase: Phase, steps: int, rate: float) -> tuple[Tensor, Tensor]:
    """The logits of reals and fakes after steps of torch's SGD in a copy of D."""
    twin = copy.deepcopy(played.game.discriminator)
    twin.load_state_dict(d_step.after)
    optimizer = torch.optim.SGD(twin.parameters(), lr=rate)
    both = [
        torch.cat(pair) if pair[0] is not None else None for pair in zip(d_step.real_in, phase.fake_in, strict=True)
    ]
    targets = torch.cat([d_step.real_labels, d_step.fake_labels])
    with torch.enable_grad():
        for _ in range(steps):
            optimizer.zero_grad()
            (2 * cross_entropy(twin(*both).logits, targets).mean()).backward()
            optimizer.step()
    real, fake = twin(*both).logits.detach().chunk(2)
    return real, fake


# ---------------------------------------------------------------- the formula


@given(st.floats(0.1, 5), st.floats(-3, 3), st.floats(-3, 3), st.floats(0, 0.5), st.integers(0, 6))
def test_on_a_parabola_it_is_the_geometric_law(a, start, centre, rate, steps) -> None:
    """Steps down a/2 (w - c)² from w leave c + (1 - rate a)^k (w - c), whose slope in c is 1 - (1 - rate a)^k."""
    c = torch.tensor(centre, dtype=torch.float64, requires_grad=True)
    w = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    (end,) = unroll({"w": w}, lambda at: a / 2 * (at["w"] - c).square(), steps, rate).values()
    share = (1 - rate * a) ** steps
    ended = torch.tensor(centre + share * (start - centre), dtype=torch.float64)
    close(end.detach(), ended, "the end", atol=1e-10)
    (slope,) = torch.autograd.grad(end + 0 * c, c)
    close(slope, torch.tensor(1 - share, dtype=torch.float64), "its slope", atol=1e-10)


def test_weights_that_the_loss_does_not_use_stay() -> None:
    a, b = (torch.ones((), requires_grad=True) for _ in range(2))
    ahead = unroll({"a": a, "b": b}, lambda at: at["a"].square(), 3, 0.1)
    assert ahead["b"] is b
    assert ahead["a"] < 1


# ---------------------------------------------------------------- the gradient of G


def fooled(real: Tensor, fake: Tensor) -> Tensor:
    return softplus(-fake).mean()


def told(real: Tensor, fake: Tensor) -> Tensor:
    return softplus(-real).mean() + softplus(fake).mean()


def smoothed(real: Tensor, fake: Tensor) -> Tensor:
    return 0.8 * softplus(-real).mean() + 0.2 * softplus(real).mean() + softplus(fake).mean()


GAMES: dict[str, Any] = {
    "plain": ({}, (), told, fooled),
    "mixing": (MIXING, (), told, fooled),
    "in separate passes": (MIXING, (("separate_batches", {}),), told, fooled),
    "conditional": (CONDITIONAL, (), told, fooled),
    "smoothed": ({}, (("label_smoothing", {"real": 0.8}),), smoothed, fooled),
    "comparing": (
        {},
        (("relativistic", {}),),
        lambda r, f: softplus(f - r).mean(),
        lambda r, f: softplus(r - f).mean(),
    ),
    "critic": ({}, (("wasserstein", {}),), lambda r, f: f.mean() - r.mean(), lambda r, f: -f.mean()),
}
"""Hosts, tricks beside, and the two losses as functions of logits."""


@pytest.mark.parametrize("game", GAMES)
def test_the_gradient_is_that_of_the_loss_after_real_steps_of_d(game: str) -> None:
    """By finite differences of G's loss, with D's steps made by torch's SGD in a copy: nothing is derived twice."""
    host, beside, d_loss, g_loss = GAMES[game]
    of = TrickHost(**host)
    for trick, options in beside:
        of = of.with_trick(trick, **options)
    played = of.with_trick("unrolled", steps=3, rate=0.3).train(1)
    d_step, g_step = played.phases
    generator, discriminator = copy.deepcopy(played.game.generator), copy.deepcopy(played.game.discriminator)
    start = {weight: g_step.before[weight] for weight, _ in generator.named_parameters()}
    separate = any(trick == "separate_batches" for trick, _ in beside)

    def scores(network: nn.Module, fake: Tensor) -> tuple[Tensor, Tensor]:
        batches = (d_step.real_in, g_step.fake_in.with_images(fake))
        if separate:
            real, made = (network(*batch).logits for batch in batches)
            return real, made
        both = network(*(None if pair[0] is None else torch.cat(pair) for pair in zip(*batches, strict=True)))
        real, made = both.logits.chunk(2)
        return real, made

    def loss(weights: dict[str, Tensor]) -> Tensor:
        generator.load_state_dict(g_step.before | weights)
        discriminator.load_state_dict(d_step.after)
        optimizer = torch.optim.SGD(discriminator.parameters(), lr=0.3)
        classes = g_step.fake.classes if played.game.generator.conditional else None
        fake = generator(g_step.fake_latents, classes).detach()
        for _ in range(3):
            optimizer.zero_grad()
            d_loss(*scores(discriminator, fake)).backward()
            optimizer.step()
        return g_loss(*scores(discriminator, fake)).detach()

    draw, h = torch.Generator().manual_seed(0), 1e-7
    for _ in range(3):
        way = {name: torch.randn(at.shape, generator=draw, dtype=at.dtype) for name, at in start.items()}
        ends = [loss({name: at + side * h * way[name] for name, at in start.items()}) for side in (1, -1)]
        slope = sum((g_step.gradients[name] * way[name]).sum() for name in start)
        assert float(slope) == pytest.approx(float((ends[0] - ends[1]) / (2 * h)), rel=1e-4, abs=1e-7)


# ---------------------------------------------------------------- D


@pytest.mark.parametrize("host", [{}, MIXING, CONDITIONAL], ids=["plain", "mixing", "conditional"])
def test_the_g_step_leaves_d_as_it_is(host) -> None:
    game = TrickHost(reuse_fakes=False, **host).with_trick("unrolled", steps=3, rate=1.0).game()
    game.step.d_step()
    before = snapshot(game)
    gradients = [weight.grad.clone() for weight in game.discriminator.parameters()]
    game.step.g_step()
    moved = {name.partition("/")[0] for name in differences(before, snapshot(game))}
    assert moved <= {"generator", "generator_optimizer"}
    assert "generator" in moved
    for weight, gradient in zip(game.discriminator.parameters(), gradients, strict=True):
        assert weight.requires_grad
        assert torch.equal(weight.grad, gradient)


def test_the_step_of_d_is_an_ordinary_one() -> None:
    plain, ahead = TrickHost(**MIXING).train(1), TrickHost(**MIXING).with_trick("unrolled", rate=1.0).train(1)
    for name, weight in plain.steps_of("d")[0].after.items():
        assert torch.equal(ahead.steps_of("d")[0].after[name], weight)


class Still(Trick):
    """D's first layer does not learn."""

    @hookimpl
    def transform_discriminator(self, network):
        next(network.parameters()).requires_grad_(False)
        return network


def test_weights_that_do_not_learn_stay() -> None:
    game = TrickHost().with_trick(Still).with_trick("unrolled", steps=2, rate=1.0).game()
    layers = [layer for layer in game.discriminator.modules() if isinstance(layer, nn.Linear)]
    seen: dict[nn.Module, list[Tensor]] = {layer: [] for layer in layers}
    for layer in layers:
        layer.register_forward_hook(lambda at, *_: seen[at].append(at.weight.detach().clone()))
    game.step.d_step()
    for weights in seen.values():
        weights.clear()
    game.step.g_step()
    still, *others = seen.values()
    assert len(still) == 3
    assert all(torch.equal(weight, still[0]) for weight in still)
    assert all(not torch.equal(weights[0], weights[-1]) for weights in others)


# ---------------------------------------------------------------- beside others


@pytest.mark.parametrize("host", [{}, MIXING], ids=["plain", "mixing"])
def test_without_steps_it_is_the_baseline_whatever_draws_beside_it(host) -> None:
    of = TrickHost(**host).with_trick("instance_noise", sigma=0.5).with_trick("relativistic")
    assert not differences(of.with_trick("unrolled", steps=0).train().state, of.train().state)


def test_reals_are_shown_as_in_the_step_of_d() -> None:
    """All passes of a G step hold the D step's reals, changed once by the tricks on D's input."""
    played = TrickHost().with_trick("instance_noise", sigma=0.1).with_trick("unrolled", steps=2, rate=0.3).train(4)
    noise = []
    for phase in played.steps_of("g"):
        first, *others = (shown[: phase.fake.size] for shown, _ in fakes_scored(phase))
        assert all(torch.equal(reals, first) for reals in others)
        noise.append(first - phase.real.images)
    standard_normal(torch.cat(noise) / 0.1, "the noise on reals")


def test_the_weights_of_fakes_go_by_the_unrolled_scores() -> None:
    played = TrickHost().with_trick("top_k", share=0.5).with_trick("unrolled", steps=3, rate=2.0).train(3)
    for phase in played.steps_of("g"):
        best = phase.fake_out.logits.flatten().sort().values[4:]
        assert phase.terms["adversarial"] == pytest.approx(softplus(-best).mean().item(), rel=1e-9)


class GFirst(Trick):
    """G steps before D does."""

    @hookimpl
    def play(self, ctx):
        ctx.g_step()
        ctx.d_step(0)


def test_before_a_step_of_d_it_looks_ahead_on_the_next_reals() -> None:
    played = TrickHost().with_trick(GFirst).with_trick("unrolled", steps=2, rate=0.5).train(2)
    for phase in played.steps_of("g"):
        assert [len(shown) for shown, _ in fakes_scored(phase)] == [16, 16, 16]
        assert all(torch.equal(shown[:8], phase.real.images) for shown, _ in fakes_scored(phase))


def test_packs_are_scored_whole() -> None:
    host = TrickHost(batch_size=6).with_trick("packing", m=3)
    for phase in host.with_trick("unrolled", steps=2, rate=0.5).train(2).steps_of("g"):
        assert phase.fake_out.logits.shape == (2, 1)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_batch_of_one_plays_in_every_precision(precision) -> None:
    host = TrickHost(sample=(1, 8, 8), batch_size=1, precision=precision, generator={"batch_norm": False})
    assert host.with_trick("unrolled", rate=0.5).train(2).game.non_finite() is None


# ---------------------------------------------------------------- options


@pytest.mark.parametrize("wrong", [{"steps": -1}, {"steps": 1.5}, {"rate": -0.1}])
def test_options_out_of_range_are_refused(wrong) -> None:
    with pytest.raises(ValidationError):
        Unrolled.Config(**wrong)
