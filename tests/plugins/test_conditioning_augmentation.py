"""Conditioning augmentation: G is given μ + σ ε, and pays for the distance of N(μ, σ²) to N(0, 1)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from gantricks import UserError
from gantricks.plugins.conditioning_augmentation import Augmented, divergence
from gantricks.testing import Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import close, standard_normal, terms_are, value_at

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({"weight": 0.7}, {}),
    "pairs": (
        {"weight": {"start": 2.0, "end": 0.5}},
        {"n_critic": 2, "generator": {"conditioned": True, "condition_dim": 3}, "discriminator": {"conditioned": True}},
    ),
}
REFUSED = {
    "class_batch_norm": "a condition says more than the class",
    "projection_discriminator": "a condition says more than the class",
    "auxiliary_classifier": "a condition says more than the class",
    "label_injection": "a condition says more than the class",
    "mode_seeking": "no two fakes of a batch share it",
}

MISTAKES = {
    "the divergence is taken the wrong way round": Mistake(
        old="mean.square() + log_variance.exp() - 1 - log_variance",
        new="(1 + mean.square()) / log_variance.exp() - 1 + log_variance",
        caught_by=("test_the_divergence_is_that_of_two_normal_distributions", "trace_law"),
    ),
    "the deviation is the variance": Mistake(
        old="(0.5 * log_variance).exp()", new="log_variance.exp()", caught_by="test_g_is_given_the_mean_and_noise"
    ),
    "noise when sampling": Mistake(
        old="not self.training", new="False", caught_by="test_in_eval_mode_g_is_given_the_mean"
    ),
    "one draw for the whole batch": Mistake(
        old="self.rng.normal(mean.shape).to(mean.dtype)",
        new="self.rng.normal(mean.shape[1:]).to(mean.dtype)",
        caught_by="test_g_is_given_the_mean_and_noise",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """G's loss has the divergence of what its conditions stand for."""
    weight = played.trick(name).config.weight
    for phase in played.steps_of("g"):
        statistics = {
            key.rpartition(".")[2]: tensor
            for key, tensor in phase.before.items()
            if key.startswith("conditioning.statistics.")
        }
        if {*statistics} != {"weight", "bias"}:
            continue  # another trick computes the layer's weights
        mean, log_variance = (phase.fake.condition @ statistics["weight"].T + statistics["bias"]).chunk(2, 1)
        apart = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).mean()
        terms_are(phase, {f"{name}.divergence": value_at(played, weight, phase.step) * apart})


@given(gs.tensors((4, 3), scale=2.0), gs.tensors((4, 3)))
def test_the_divergence_is_that_of_two_normal_distributions(mean, log_variance) -> None:
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).mean()
    torch.testing.assert_close(divergence(mean, log_variance), expected)


def test_it_is_0_at_the_standard_normal_distribution_alone() -> None:
    zeros = torch.zeros(2, 3, dtype=torch.float64)
    assert divergence(zeros, zeros) == 0
    assert divergence(zeros + 0.1, zeros) > 0
    assert divergence(zeros, zeros - 0.1) > 0


def test_half_precision_is_summed_in_float32() -> None:
    assert divergence(torch.ones(2, 3).bfloat16(), torch.ones(2, 3).bfloat16()).dtype == torch.float32


@given(gs.rng(), st.floats(-1, 1))
def test_g_is_given_the_mean_and_noise(rng, log_variance) -> None:
    module = Augmented(2, 3, rng).double()
    with torch.no_grad():
        module.statistics.weight.zero_()
        module.statistics.bias.copy_(torch.tensor([1.0, 2.0, 3.0, *[log_variance] * 3]))
        given_to_g = module(torch.zeros(500, 2, dtype=torch.float64))
    mean, deviation = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), torch.tensor(log_variance / 2).double().exp()
    standard_normal((given_to_g - mean) / deviation, "noise")


def test_in_eval_mode_g_is_given_the_mean() -> None:
    game = TrickHost(condition=3, generator={"conditioned": True}).with_trick("conditioning_augmentation").game()
    module, condition = game.generator.conditioning.eval(), game.feed.next().condition
    close(module(condition), module.parameters_of(condition)[0], "c")


def test_each_stage_of_two_has_its_own_and_pays_for_it() -> None:
    stages = {"network": "stackgan", "conditioned": True, "condition_dim": 3, "first": {"channels": 4}, "blocks": 1}
    host = TrickHost(sample=(1, 8, 8), condition=3, generator=stages).with_trick("conditioning_augmentation")
    played = host.train(1)
    network, (phase,) = played.game.generator, played.steps_of("g")
    assert isinstance(network.conditioning, Augmented)
    assert isinstance(network.first.conditioning, Augmented)
    apart = 0
    for place in ("conditioning.statistics", "first.conditioning.statistics"):
        weight, bias = phase.before[f"{place}.weight"], phase.before[f"{place}.bias"]
        mean, log_variance = (phase.fake.condition @ weight.T + bias).chunk(2, 1)
        apart = apart + kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).mean()
    terms_are(phase, {"conditioning_augmentation.divergence": 2.0 * apart})


def test_without_conditions_it_is_refused() -> None:
    with pytest.raises(UserError, match="conditioning_augmentation needs generator_conditioned"):
        TrickHost().with_trick("conditioning_augmentation").plan()
