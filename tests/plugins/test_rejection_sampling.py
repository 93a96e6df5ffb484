"""Laws of rejection sampling: its acceptance, the distribution of what is accepted, and what a sample keeps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gantricks import Batch, Latents, Out, UserError
from gantricks.engine import sampling
from gantricks.engine.dispatch import fold
from gantricks.plugins.rejection_sampling import CHUNK, RejectionSampling, acceptance, score
from gantricks.rng import Clock, Rng
from gantricks.testing import CONDITIONAL, MIXING, Mistake, Played, Settings, TrickHost
from gantricks.testing.measure import standard_uniform, within_chance
from gantricks.testing.record import differences, same_bits

# ---------------------------------------------------------------- what the generic suites are told

NO_RATIO = "rejection_sampling needs log_ratio"
SETTINGS: Settings = {
    "": ({"burn_in": 64, "attempts": 3}, {}),
    "classes": ({"burn_in": 100, "attempts": 4, "percentile": 95.0}, CONDITIONAL),
    "mixing": ({"burn_in": 16, "attempts": 3, "gamma": 8.0}, MIXING),
}
REFUSED: dict[str, str] = {
    "hinge": NO_RATIO,
    "least_squares": NO_RATIO,
    "relativistic": NO_RATIO,
    "wasserstein": NO_RATIO,
    "minibatch_discrimination": "depends on the rest of its batch",
    "minibatch_stddev": "depends on the rest of its batch",
    "packing": "says nothing of one",
}

MISTAKES = {
    "D's probability, without the largest ratio": Mistake(
        old="torch.sigmoid(score(logits, maximum, epsilon) - gamma)",
        new="torch.sigmoid(logits - gamma)",
        caught_by=("test_without_a_shift_it_is_the_ratio_over_the_largest", "trace_law"),
    ),
    "the shift has the wrong sign": Mistake(
        old="torch.sigmoid(score(logits, maximum, epsilon) - gamma)",
        new="torch.sigmoid(score(logits, maximum, epsilon) + gamma)",
        caught_by=("test_it_is_the_formula", "trace_law"),
    ),
    "the correction is left out": Mistake(
        old="below - (-torch.expm1(below - epsilon)).log()",
        new="below",
        caught_by=("test_without_a_shift_it_is_the_ratio_over_the_largest", "trace_law"),
    ),
    "accepted ones are made again": Mistake(
        old="ctx.rng.uniform(count) >= acceptance(best, maximum, gamma, options.epsilon)",
        new="ctx.rng.uniform(count) < acceptance(best, maximum, gamma, options.epsilon)",
        caught_by=("test_what_is_accepted_is_distributed_like_the_data", "trace_law"),
    ),
    "the best is kept, and not the first accepted": Mistake(
        old="accepted | (logits > best[rows])",
        new="logits > best[rows]",
        caught_by="test_the_first_that_is_accepted_stays",
    ),
    "a sample that is made again has another class": Mistake(
        old="given._replace(z=ctx.latents(count).z)",
        new="ctx.latents(count)",
        caught_by="trace_law[classes]",
    ),
    "rows and their classes are mixed up": Mistake(
        old="(None if each is None else each[rows] for each in given[1:])",
        new="(None if each is None else each[: len(rows)] for each in given[1:])",
        caught_by="trace_law[classes]",
    ),
    "D judges in training mode": Mistake(
        old="ctx.judge(Batch(images, given.classes, given.condition))",
        new="ctx.discriminator(images, given.classes, given.condition)",
        caught_by="trace_law[mixing]",
    ),
    "the same latents every time": Mistake(
        old="given._replace(z=ctx.latents(count).z)",
        new="given",
        caught_by="test_what_is_accepted_is_distributed_like_the_data",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """Each sample is the first of its class that is accepted, or the likeliest of its attempts, by the paper's F."""
    game, config = played.game, played.trick(name).config
    ((hook, ctx),) = [(hook, ctx) for hook, ctx in game.hooks.sampler if ctx.name == name]
    network = sampling.sampling_generator(game, 3)
    asked: list[tuple[Latents, torch.Tensor, np.ndarray]] = []

    def plain(given: Latents) -> torch.Tensor:
        images = network(*given)
        with sampling.eval_mode(sampling.evaluated_discriminator(game)):
            logits = sampling.evaluated_discriminator(game)(images, *given[1:]).logits
        asked.append((given, images.clone(), logits[:, 0].numpy().astype(float)))
        return images

    count = 9
    with sampling.aside(game, 3), sampling.eval_mode(network):
        make = hook(plain, ctx)
    if config.attempts == 1:
        assert make is plain
        return
    first = np.concatenate([logits for _, _, logits in asked])[: config.burn_in]
    assert len(first) == config.burn_in
    most = float(first.max())

    def ratio(logits: np.ndarray, most: float) -> np.ndarray:
        """exp(F + γ)."""
        return np.exp(logits - most) / -np.expm1(np.minimum(logits - most, 0) - config.epsilon)

    shift = math.exp(config.gamma) if config.gamma is not None else None
    if shift is None:
        shift = math.exp(float(np.percentile(np.log(ratio(first, most)), config.percentile)))
    asked.clear()
    rng = Rng(1, "given", Clock(), dtype=game.placement.dtype)
    given = Latents(
        rng.normal((count, network.latent_dim)),
        rng.randint(count, network.classes) if network.conditional else None,
        rng.normal((count, network.condition)) if network.conditioned else None,
    )
    with sampling.aside(game, 3, 1), sampling.eval_mode(network):
        found = make(given)
    with sampling.aside(game, 3, 1):
        draws = [ctx.rng.uniform(count).numpy()]
        latents = [given.z]
        for _ in range(config.attempts - 1):
            latents.append(ctx.latents(count).z)
            draws.append(ctx.rng.uniform(count).numpy())
    waiting, best = list(range(count)), [-math.inf] * count
    kept: list[Any] = [None] * count
    for attempt, (shown, images, logits) in enumerate(asked):
        assert same_bits(shown.z, latents[attempt][waiting]), "an attempt has other latents"
        for before, after in zip(given[1:], shown[1:], strict=True):
            assert before is after is None or same_bits(before[waiting], after), "a sample has lost its class"
        most = max(most, float(logits.max()))
        odds = ratio(logits, most) / shift
        left = []
        for place, row in enumerate(waiting):
            accepted = draws[attempt][row] * (1 + odds[place]) < odds[place] or not math.isfinite(odds[place])
            if accepted or logits[place] > best[row]:
                best[row], kept[row] = logits[place], images[place]
            if not accepted:
                left.append(row)
        waiting = left
    assert not waiting or len(asked) == config.attempts
    assert same_bits(found, torch.stack(kept)), "another sample is kept"


class Stub:
    """The parts of a context that the trick uses. G is the identity: `log_ratio` is D's logit of a latent."""

    def __init__(self, log_ratio: Any, seed: int = 0) -> None:
        self.rng, self.log_ratio = Rng(seed, "stub", Clock(), dtype=torch.float64), log_ratio

    def latents(self, count: int) -> Latents:
        return Latents(self.rng.normal((count, 1)))

    def judge(self, batch: Batch) -> Out:
        return Out(self.log_ratio(batch.images), batch.images)


def accepted(scale: float, ctx: Stub, count: int, **options: Any) -> torch.Tensor:
    """Samples of G(z) = `scale` z, without rejection but by the trick."""
    trick = RejectionSampling(RejectionSampling.Config(**options))
    make = trick.sampler(lambda given: scale * given.z, ctx)
    start = Rng(1, "start", Clock(), dtype=torch.float64).normal((count, 1))
    return make(Latents(start))


# ---------------------------------------------------------------- the acceptance


@given(st.lists(st.floats(-30, 0), min_size=1, max_size=6), st.floats(-5, 5), st.floats(1e-14, 0.1))
def test_it_is_the_formula(below, gamma, epsilon):
    logits = torch.tensor(below, dtype=torch.float64) + 2
    for found, d in zip(acceptance(logits, 2.0, gamma, epsilon).tolist(), (logits - 2).tolist(), strict=True):
        f = d - math.log(-math.expm1(d - epsilon)) - gamma
        assert found == pytest.approx(1 / (1 + math.exp(-f)), rel=1e-9)


@given(st.lists(st.floats(-30, 0), min_size=1, max_size=6), st.floats(-3, 3))
def test_without_a_shift_it_is_the_ratio_over_the_largest(below, most):
    logits = torch.tensor(below, dtype=torch.float64) + most
    expected = [math.exp(logit) / math.exp(most) for logit in logits.tolist()]
    np.testing.assert_allclose(acceptance(logits, most).tolist(), expected, rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gamma", [-8.0, 0.0, 3.0])
def test_it_rises_with_the_logit_and_is_a_probability_up_to_the_maximum_and_beyond(dtype, gamma):
    logits = torch.cat([torch.linspace(-60, 5, 400), torch.tensor([5.0, 6.0, 1e4])]).to(dtype)
    for epsilon in (0.0, 1e-14, 1e-2):
        p = acceptance(logits, 5.0, gamma, epsilon)
        assert ((p >= 0) & (p <= 1)).all()
        assert (p.diff() >= 0).all()
        assert p[-1] == p[-2] == p[-3] > 0
    assert score(logits, 5.0, 1e-14).isfinite().all()


# ---------------------------------------------------------------- what is accepted


def test_what_is_accepted_is_distributed_like_the_data():
    # G's samples are N(0, 2²), the data N(0, 1): log p/q = log 2 - (1 - 1/4) x²/2, largest at 0, where M = 2
    ctx = Stub(lambda x: math.log(2) - 0.375 * x.square())
    found = accepted(2.0, ctx, 4000, gamma=0.0, attempts=200, burn_in=4096)
    standard_uniform(torch.special.ndtr(found[:, 0]), "accepted samples")


def test_the_share_that_is_accepted_is_one_over_the_largest_ratio():
    ctx = Stub(lambda x: math.log(2) - 0.375 * x.square())
    start = 2 * Rng(1, "start", Clock(), dtype=torch.float64).normal((20_000, 1))
    p = acceptance(ctx.log_ratio(start)[:, 0], math.log(2))
    within_chance(ctx.rng.uniform(20_000) < p, 0.5, "accepted")


def test_a_distribution_of_few_values_is_corrected():
    # G makes four values by the quartiles of z, the data has them with other probabilities
    data = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)

    def value(x: torch.Tensor) -> torch.Tensor:
        return (4 * torch.special.ndtr(x)).long().clamp(max=3)

    ctx = Stub(lambda x: (data[value(x)] / 0.25).log())
    found = value(accepted(1.0, ctx, 4000, gamma=0.0, attempts=100, burn_in=1000))
    plain = value(accepted(1.0, ctx, 4000, attempts=1))
    for k, p in enumerate(data.tolist()):
        within_chance((found == k)[:, 0], p, f"value {k}")
        with pytest.raises(AssertionError):
            within_chance((plain == k)[:, 0], p, f"value {k}")


def test_the_first_that_is_accepted_stays():
    # D hardly tells samples apart, and with ε = 1 half of them are accepted: those that stay are no larger than others
    ctx, half = Stub(lambda x: 1e-9 * x), -math.log1p(-math.exp(-1))
    found = accepted(1.0, ctx, 4000, gamma=half, epsilon=1.0, attempts=100, burn_in=64)
    standard_uniform(torch.special.ndtr(found[:, 0]), "accepted samples")
    start = Rng(1, "start", Clock(), dtype=torch.float64).normal((4000, 1))
    within_chance((found == start)[:, 0], 0.5, "accepted at the first attempt")


def test_where_none_is_accepted_the_likeliest_attempt_stays():
    ctx = Stub(lambda x: -10 * x.square())
    found = accepted(1.0, ctx, 50, gamma=1000.0, attempts=4, burn_in=64)
    again = Stub(ctx.log_ratio)
    again.latents(CHUNK)
    tried = [Rng(1, "start", Clock(), dtype=torch.float64).normal((50, 1))]
    again.rng.uniform(50)
    for _ in range(3):
        tried.append(again.latents(50).z)
        again.rng.uniform(50)
    all_of_them = torch.stack(tried)
    expected = all_of_them.gather(0, all_of_them.abs().argmin(0, keepdim=True))[0]
    assert same_bits(found, expected)


@pytest.mark.parametrize(("percentile", "share"), [(0.0, 0.9), (100.0, 0.0)])
def test_the_percentile_says_how_many_are_accepted(percentile, share):
    ctx = Stub(lambda x: math.log(2) - 0.375 * x.square())
    scores = score(ctx.log_ratio(2 * ctx.latents(4000).z), math.log(2), 1e-14)
    gamma = scores.quantile(percentile / 100)
    p = acceptance(ctx.log_ratio(2 * ctx.latents(4000).z), math.log(2), gamma, 1e-14)
    assert p.mean() >= share
    assert (p.mean() > 0.9) == (share > 0.5)


# ---------------------------------------------------------------- in a run


def test_training_is_what_it_is_without_the_trick():
    host = TrickHost()
    plain, beside = host.train(3), host.with_trick("rejection_sampling", burn_in=64, attempts=5).train(3)
    assert not differences(plain.state, beside.state)
    found = sampling.sample(beside.game, 100, 0)
    same = (found == sampling.sample(plain.game, 100, 0)).all(1)
    # an accepted sample is that of the same latents without the trick
    assert 0 < same.sum() < 100


def test_a_sample_does_not_depend_on_their_number_and_a_walk_is_left_alone():
    host = TrickHost(sample=(1, 8, 8), classes=3, generator={"conditional": True}, discriminator={"conditional": True})
    plain, game = host.game(), host.with_trick("rejection_sampling", burn_in=100, attempts=4).game()
    assert np.array_equal(sampling.sample(game, 100, 1)[:70], sampling.sample(game, 70, 1))
    assert np.array_equal(sampling.walk(game, 2, 5, 0), sampling.walk(plain, 2, 5, 0))
    assert not np.array_equal(sampling.sample(game, 70, 1), sampling.sample(plain, 70, 1))


def test_the_network_with_averaged_weights_is_asked_wherever_the_average_stands():
    host = TrickHost()
    last = host.with_trick("ema", decay=0.9, players="all").with_trick("rejection_sampling", burn_in=64, attempts=4)
    first = host.with_trick("rejection_sampling", burn_in=64, attempts=4).with_trick("ema", decay=0.9, players="all")
    a, b = (each.train(5).game for each in (last, first))
    assert np.array_equal(sampling.sample(a, 70, 0), sampling.sample(b, 70, 0))
    ((_, ctx),) = a.hooks.sampler
    averaged = fold(a.hooks.evaluation_discriminator, a.discriminator)
    images = torch.from_numpy(sampling.sample(a, 8, 0)).double()
    with torch.no_grad():
        assert same_bits(ctx.judge(Batch(images)).logits, averaged(images).logits)
        assert not same_bits(ctx.judge(Batch(images)).logits, a.discriminator(images).logits)


def test_truncated_latents_are_drawn_again_truncated():
    host = TrickHost(latent_dim=3)
    for names in (("truncation", "rejection_sampling"), ("rejection_sampling", "truncation")):
        options = {"truncation": {"limit": 0.3}, "rejection_sampling": {"burn_in": 64, "attempts": 4}}
        game = host
        for name in names:
            game = game.with_trick(name, **options[name])
        game = game.game()
        seen: list[torch.Tensor] = []
        game.generator.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        sampling.sample(game, 64, 0)
        assert len(seen) > 2
        assert torch.cat(seen).abs().max() <= 0.3


def test_its_cautions_are_told():
    plan = TrickHost().with_trick("label_smoothing").with_trick("rejection_sampling").plan()
    assert any("no longer the log of the density ratio" in warning for warning in plan.warnings)


def test_the_objectives_that_give_the_ratio():
    for objective in ("minimax",):
        TrickHost().with_trick(objective).with_trick("rejection_sampling").plan()
    with pytest.raises(UserError, match="log of the ratio of densities"):
        TrickHost().with_trick("hinge").with_trick("rejection_sampling").plan()
