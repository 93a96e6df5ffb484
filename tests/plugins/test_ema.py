"""Laws of the generator's moving average: its formula, what it copies, who sees it."""

from __future__ import annotations

from collections import OrderedDict
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from gantricks import Players, Rng, Trick, UserError, hookimpl
from gantricks.engine import sampling, state
from gantricks.engine.dispatch import fold
from gantricks.plugins.ema import Ema, copy_where_, follow_, share_at
from gantricks.testing import MIXING, Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import ROLES, close, roles_of
from gantricks.testing.record import differences, same_bits, snapshot

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({"decay": 0.9}, {"sample": (1, 8, 8), "generator": {"batch_norm": True}}),
    "both": ({"decay": 0.9, "players": "all", "bias_correction": True}, MIXING | {"n_critic": 2}),
}
REFUSED: dict[str, str] = {}

MISTAKES = {
    "buffers are averaged": Mistake(
        old="copy_where_(*average.buffers, ctx.updated > 0)",
        new="follow_(*([b for b in of if b.is_floating_point()] for of in average.buffers), share * updated)",
        caught_by="test_buffers_are_copied_and_not_averaged",
    ),
    "decay is the weight of the new": Mistake(
        old="follow_(*average.weights, share * updated)",
        new="follow_(*average.weights, (1 - share) * updated)",
        caught_by="test_the_shadow_follows_every_update_of_the_generator",
    ),
    "samples come from the live generator": Mistake(
        inside="Ema",
        new="""
            @hookimpl
            def sampling_generator(self, network):
                return network
        """,
        caught_by="test_samples_come_from_the_shadow",
    ),
    "the warm-up starts from a decay of 0": Mistake(
        old="(9 / (count + 10)).clamp(min=share)",
        new="(10 / (count + 11)).clamp(min=share)",
        caught_by="trace_law",
    ),
    "buffers stay as they started": Mistake(
        old="copy_where_(*average.buffers, ctx.updated > 0)",
        new="pass",
        caught_by="trace_law",
    ),
    "the first weights keep their share of the average": Mistake(
        old="share / -torch.expm1((count + 1) * rate)",
        new="share",
        caught_by="trace_law[both]",
    ),
    "D's buffers stay as they started": Mistake(
        old='copy_where_(*average.buffers, ctx.updated_in_step("d") > 0)',
        new="pass",
        caught_by="trace_law[both]",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """Those who ask get θ̄ ← d θ̄ + (1 - d) θ over the weights after each update of that player, buffers as they are."""
    config = played.trick(name).config
    for player, role in ROLES.items():
        network: Any = getattr(played.game, role)
        hook = {"g": "sampling_generator", "d": "evaluation_discriminator"}[player]
        (asked,) = [(hook, ctx) for hook, ctx in getattr(played.game.hooks, hook) if ctx.name == name]
        used = asked[0](network, asked[1])
        if role not in roles_of(config):
            assert used is network
            continue
        weights = {weight for weight, _ in network.named_parameters()}
        average, count = dict(played.start[role]), 0
        for phase in played.steps_of(player):
            if phase.updated and not phase.trial:
                decay = min(config.decay, (1 + count) / (10 + count)) if config.warmup else config.decay
                if config.bias_correction:
                    decay = config.decay * (1 - config.decay**count) / (1 - config.decay ** (count + 1))
                for key, now in phase.after.items():
                    average[key] = decay * average[key] + (1 - decay) * now if key in weights else now
                count += 1
        if player == "d":  # in the G step, too, its statistics move
            average |= dict(network.named_buffers())
        for key, expected in average.items():
            close(used.state_dict()[key], expected, f"the average of {key}")
            kept = played.state["tricks"][f"{name}/{role}.shadow.{key}"]
            close(kept, expected, f"the average of {key} in a checkpoint")


IMAGES = {"sample": (1, 8, 8)}


def shadow(game) -> nn.Module:
    (trick,) = (planned.trick for planned in game.plan.tricks if isinstance(planned.trick, Ema))
    return trick.averages["generator"].shadow


def numbers(network: nn.Module) -> dict[str, np.ndarray]:
    return {name: parameter.detach().numpy().copy() for name, parameter in network.named_parameters()}


def same(a: nn.Module, b: nn.Module) -> bool:
    of_a, of_b = a.state_dict(), b.state_dict()
    return of_a.keys() == of_b.keys() and all(same_bits(of_a[name], of_b[name]) for name in of_a)


# ---------------------------------------------------------------- the formulas


@given(st.lists(gs.tensors((5,)), min_size=2, max_size=12), st.floats(0, 1, exclude_max=True))
def test_the_average_is_the_exponentially_weighted_sum_of_the_past(path, decay):
    average = path[0].clone()
    for weights in path[1:]:
        follow_([average], [weights], torch.tensor(1 - decay, dtype=torch.float64))
    expected = decay ** (len(path) - 1) * path[0].numpy()
    for age, weights in enumerate(reversed(path[1:])):
        expected = expected + (1 - decay) * decay**age * weights.numpy()
    np.testing.assert_allclose(average.numpy(), expected, rtol=0, atol=1e-13)


@given(gs.tensors((7,), scale=1e3), gs.tensors((7,)), st.sampled_from([torch.float32, torch.float64]))
def test_both_ends_are_exact(average, weights, dtype):
    average, weights = average.to(dtype), weights.to(dtype)
    still, copied = average.clone(), average.clone()
    follow_([still], [weights], torch.zeros((), dtype=dtype))
    follow_([copied], [weights], torch.ones((), dtype=dtype))
    assert torch.equal(still, average)
    assert torch.equal(copied, weights)


@given(gs.tensors((7,)), st.floats(0, 1))
def test_the_average_of_a_constant_is_that_constant(weights, weight):
    average = weights.clone()
    follow_([average], [weights], torch.tensor(weight, dtype=torch.float64))
    assert torch.equal(average, weights)


COUNTS = np.unique(np.round(np.logspace(0, 6, 600))).astype(np.float64) - 1
NEXT_TO_1 = st.floats(0, 7).map(lambda digits: 1 - 10**-digits)
DECAYS = NEXT_TO_1 | st.floats(0, 1, exclude_max=True)


def formula(decay: float, warmup: bool, bias_correction: bool) -> np.ndarray:
    """The share of the newest weights after each of `COUNTS`, in float64 and with no digit lost."""
    if bias_correction:
        with np.errstate(divide="ignore"):
            return (1 - decay) / -np.expm1((COUNTS + 1) * np.log(decay))
    return np.maximum(1 - decay, 9 / (10 + COUNTS)) if warmup else np.full_like(COUNTS, 1 - decay)


@given(DECAYS, st.booleans(), st.booleans(), st.sampled_from([torch.float32, torch.float64]))
@example(1 - 1e-7, False, False, torch.float32)
@example(1 - 1e-7, False, True, torch.float32)
@example(1 - 2**-53, False, True, torch.float32)
@example(0.0, False, True, torch.float32)
def test_the_share_is_the_formula_to_the_last_digits_of_its_type(decay, warmup, bias_correction, dtype):
    found = share_at(torch.from_numpy(COUNTS).to(dtype), decay, warmup, bias_correction)
    assert found.dtype == dtype
    expected = formula(decay, warmup, bias_correction)
    np.testing.assert_allclose(found.double().numpy(), expected, rtol=8 * torch.finfo(dtype).eps, atol=0)
    assert (found <= 1).all()


@given(st.integers(1, 2_000_000), DECAYS)
def test_with_bias_correction_the_share_is_one_of_a_plain_mean_for_a_decay_next_to_1(count, decay):
    share = share_at(torch.tensor(float(count)), decay, False, True).item()
    assert max(1 - decay, 1 / (count + 1)) * (1 - 1e-6) <= share <= min(1.0, 1 / (count + 1) + 1 - decay) * (1 + 1e-6)


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_the_warm_up_is_a_lower_decay_that_grows_to_the_final_one(count, decay):
    def after(updates: int, warmup: bool = True) -> float:
        return 1 - share_at(torch.tensor(float(updates), dtype=torch.float64), decay, warmup).item()

    expected = float(min(Fraction(decay), Fraction(1 + count, 10 + count)))
    assert after(count) == pytest.approx(expected, rel=1e-15, abs=2**-52)
    assert after(count) <= after(count + 1) <= decay + 2**-52
    assert after(count, warmup=False) == pytest.approx(decay, rel=1e-15, abs=2**-52)


@given(st.booleans())
def test_copies_of_any_type_are_exact_and_masked(condition):
    originals = [torch.tensor([1.5, np.nan]), torch.tensor(7), torch.tensor([True, False])]
    copies = [torch.tensor([0.25, 0.5]), torch.tensor(3), torch.tensor([False, False])]
    expected = [tensor.clone() for tensor in (originals if condition else copies)]
    copy_where_(copies, originals, torch.tensor(condition))
    assert all(same_bits(copy, wanted) for copy, wanted in zip(copies, expected, strict=True))


@given(st.lists(gs.tensors((5,)), min_size=1, max_size=12), st.floats(0, 1, exclude_max=True))
@example([torch.ones(5, dtype=torch.float64)] * 3, 1 - 2**-53)  # rounded to 1 in float32
def test_with_bias_correction_the_start_has_no_weight_and_the_others_sum_to_one(path, decay):
    average = torch.full((5,), 1e6, dtype=torch.float64)
    for count, weights in enumerate(path):
        share = share_at(torch.tensor(float(count)), decay, True, True)
        follow_([average], [weights], share.double())
    shares = np.array([decay**age for age in range(len(path))][::-1])
    expected = (shares[:, None] * np.stack([weights.numpy() for weights in path])).sum(0) / shares.sum()
    np.testing.assert_allclose(average.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_with_bias_correction_the_first_average_is_the_weights_bit_for_bit():
    for decay in (0.0, 0.5, 0.9999):
        assert share_at(torch.zeros(()), decay, False, True) == 1


# ---------------------------------------------------------------- in a run


@pytest.mark.parametrize("warmup", [True, False])
@pytest.mark.parametrize("n_critic", [1, 2])
def test_the_shadow_follows_every_update_of_the_generator(warmup, n_critic):
    game = TrickHost(**IMAGES, n_critic=n_critic).with_trick("ema", decay=0.6, warmup=warmup).game()
    expected = numbers(game.generator)
    for step in range(8):
        game.advance()
        decay = min(0.6, (1 + step) / (10 + step)) if warmup else 0.6
        live = numbers(game.generator)
        expected = {name: decay * average + (1 - decay) * live[name] for name, average in expected.items()}
        averages = numbers(shadow(game))
        for name in expected:
            np.testing.assert_allclose(averages[name], expected[name], rtol=0, atol=1e-14)
    assert game.trick_tensors["ema/generator.count"] == 8


def test_buffers_are_copied_and_not_averaged():
    game = TrickHost(**IMAGES).with_trick("ema", decay=0.9).game()
    for step in range(1, 5):
        game.advance()
        live, copies = dict(game.generator.named_buffers()), dict(shadow(game).named_buffers())
        assert any(name.endswith("running_var") for name in live)
        assert all(same_bits(live[name], copies[name]) for name in live)
        counters = [tensor for name, tensor in copies.items() if name.endswith("num_batches_tracked")]
        assert counters
        assert all(counter.dtype == torch.int64 and counter == step for counter in counters)


@pytest.mark.parametrize("options", [{}, {"decay": 0.3, "warmup": False}, {"decay": 0.0}])
def test_training_does_not_notice(options):
    plain = TrickHost(**IMAGES, n_critic=2)
    averaged = plain.with_trick("ema", **options).train()
    assert not differences(averaged.state, plain.train().state, besides=("tricks",))


def test_samples_come_from_the_shadow():
    host = TrickHost(**IMAGES).with_trick("ema", decay=0.9)
    game, plain = host.game(), TrickHost(**IMAGES).game()
    for _ in range(4):
        game.advance()
        plain.advance()
    samples = torch.from_numpy(sampling.sample(game, 5, seed=3))
    assert not same_bits(samples, torch.from_numpy(sampling.sample(plain, 5, seed=3)))
    plain.generator.load_state_dict(shadow(game).state_dict())
    assert same_bits(samples, torch.from_numpy(sampling.sample(plain, 5, seed=3)))


@pytest.mark.parametrize("warmup", [True, False])
def test_zero_decay_is_the_generator_itself_bit_for_bit(warmup):
    game, plain = TrickHost(**IMAGES).with_trick("ema", decay=0.0, warmup=warmup).game(), TrickHost(**IMAGES).game()
    for _ in range(4):
        game.advance()
        plain.advance()
        assert same(shadow(game), game.generator)
        assert np.array_equal(sampling.sample(game, 5, seed=3), sampling.sample(plain, 5, seed=3))


def test_no_gradient_reaches_the_shadow_and_no_optimizer_holds_it():
    played = TrickHost(**IMAGES).with_trick("ema").train(3)
    parameters = list(shadow(played.game).parameters())
    assert all(not p.requires_grad and p.grad is None and p.grad_fn is None for p in parameters)
    trained = {p.data_ptr() for player in played.game.players.values() for p in player.parameters}
    assert trained.isdisjoint(p.data_ptr() for p in parameters)


class Jitter(nn.Module):
    """A layer as a trick would insert it: a weight, an integer buffer, a stream of random numbers."""

    def __init__(self, rng: Rng) -> None:
        super().__init__()
        self.rng = rng
        self.gain = nn.Parameter(torch.ones(1, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros(1, dtype=torch.int64))

    def forward(self, z: Tensor) -> Tensor:
        if self.training:
            self.seen.add_(len(z))
        return self.gain * z + 0.1 * self.rng.normal(z.shape)


class Inserter(Trick):
    """Puts a `Jitter` in front of G."""

    @hookimpl
    def transform_generator(self, network, ctx):
        jitter = Jitter(ctx.rng.fork("jitter"))
        network.body = nn.Sequential(OrderedDict(jitter=jitter, **dict(network.body.named_children())))
        return network


def test_a_generator_with_inserted_modules_is_copied_and_shares_its_random_streams():
    plain = TrickHost().with_trick(Inserter)
    game = plain.with_trick("ema", decay=0.9).game()
    for _ in range(3):
        game.advance()
    live, copied = game.generator.body.jitter, shadow(game).body.jitter
    assert copied is not live
    assert copied.rng is live.rng
    assert copied.gain is not live.gain
    assert not torch.equal(copied.gain, live.gain)
    assert torch.equal(copied.seen, live.seen)
    assert live.seen == 3 * 8
    neutral = plain.with_trick("ema", decay=0.0).train(3).game
    assert np.array_equal(sampling.sample(neutral, 5, seed=3), sampling.sample(plain.train(3).game, 5, seed=3))


def test_a_saved_state_brings_the_shadow_back():
    host = TrickHost(**IMAGES).with_trick("ema", decay=0.9)
    game = host.game()
    for _ in range(3):
        game.advance()
    fresh = host.game()
    state.load(fresh, snapshot(game), state.counters(game))
    assert same(shadow(fresh), shadow(game))
    assert np.array_equal(sampling.sample(fresh, 5, seed=3), sampling.sample(game, 5, seed=3))
    fresh.advance()
    game.advance()
    assert same(shadow(fresh), shadow(game))


def test_the_state_is_every_weight_and_buffer_of_the_shadow_and_a_count():
    game = TrickHost(**IMAGES).with_trick("ema").game()
    assert game.plan.tricks[0].trick.tensors().keys() == {"generator.count"} | {
        f"generator.shadow.{n}" for n in game.generator.state_dict()
    }


class Overflow(Trick):
    """From its third step on G's first layer meets infinite latents, which batch norm makes NaN statistics of."""

    @hookimpl
    def on_setup(self, ctx) -> None:
        self.count = torch.zeros((), device=ctx.device)

    @hookimpl
    def latents(self, z: Tensor, ctx) -> Tensor:
        if ctx.phase == "g":
            self.count.add_(1)
            return torch.where(self.count >= 3, torch.inf, z)
        return z

    def tensors(self) -> dict[str, Tensor]:
        return {"count": self.count}


def test_statistics_that_are_no_longer_finite_never_reach_the_shadow():
    host = TrickHost(**IMAGES, reuse_fakes=False).with_trick(Overflow).with_trick("ema", decay=0.5)
    game = host.game()
    game.advance()
    game.advance()
    before = {name: tensor.clone() for name, tensor in shadow(game).state_dict().items()}
    game.advance()
    game.advance()
    assert game.non_finite() is not None
    assert all(same_bits(tensor, before[name]) for name, tensor in shadow(game).state_dict().items())


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5, float("nan")])
def test_a_decay_outside_0_and_1_is_refused(decay):
    with pytest.raises(ValidationError):
        Ema.Config(decay=decay)


# ---------------------------------------------------------------- D, or both


CLASSIFIED = TrickHost(sample=(1, 8, 8), discriminator={"batch_norm": True, "depth": 2}, n_critic=2)


def used(game) -> nn.Module:
    """The discriminator that evaluation is given."""
    return fold(game.hooks.evaluation_discriminator, game.discriminator)


@pytest.mark.parametrize("options", [{"warmup": True}, {"warmup": False}, {"bias_correction": True}])
def test_the_average_of_d_follows_every_one_of_its_updates(options):
    game = CLASSIFIED.with_trick("ema", decay=0.6, players=["discriminator"], **options).game()
    path = [numbers(game.discriminator)]
    step = game.step.d_step

    def watched(*arguments, **named):
        step(*arguments, **named)
        path.append(numbers(game.discriminator))

    game.step.d_step = watched
    for _ in range(3):
        game.advance()
    assert len(path) == 7
    expected = path[0]
    for count, live in enumerate(path[1:]):
        decay = min(0.6, (1 + count) / (10 + count)) if options.get("warmup") else 0.6
        if options.get("bias_correction"):
            decay = 0.6 * (1 - 0.6**count) / (1 - 0.6 ** (count + 1))
        expected = {name: decay * average + (1 - decay) * live[name] for name, average in expected.items()}
    averages = numbers(used(game))
    for name in expected:
        np.testing.assert_allclose(averages[name], expected[name], rtol=0, atol=1e-12)
    live, copies = dict(game.discriminator.named_buffers()), dict(used(game).named_buffers())
    assert live
    assert all(same_bits(live[name], copies[name]) for name in live)


@pytest.mark.parametrize("players", [Players(), Players("generator"), Players("discriminator")])
def test_each_is_averaged_where_asked_and_itself_elsewhere(players):
    game = CLASSIFIED.with_trick("ema", decay=0.9, players=players.written()).train(3).game
    sampler = fold(game.hooks.sampling_generator, game.generator)
    assert (sampler is game.generator) == ("generator" not in players)
    assert (used(game) is game.discriminator) == ("discriminator" not in players)
    roles = {name.partition("/")[2].partition(".")[0] for name in game.trick_tensors}
    assert roles == {role for role in ROLES.values() if role in players}


@pytest.mark.parametrize("players", [Players("discriminator"), Players()])
def test_training_does_not_notice_the_average_of_d(players):
    averaged = CLASSIFIED.with_trick("ema", players=players.written()).train(3)
    assert not differences(averaged.state, CLASSIFIED.train(3).state, besides=("tricks",))


def test_two_for_different_players_do_not_meet():
    host = TrickHost().with_trick("ema").with_trick("ema", "classifier", players=["discriminator"])
    host.plan()
    with pytest.raises(UserError, match="discriminator_for_evaluation"):
        host.with_trick("ema", "third", players=["discriminator"]).plan()
