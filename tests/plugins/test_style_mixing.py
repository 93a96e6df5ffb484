"""Laws of style mixing: which layers take other styles, how often, in training alone."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gantricks.plugins.style_mixing import Mixing, StyleMixing, mix
from gantricks.testing import Mistake, Played, Settings, TrickHost
from gantricks.testing.measure import flows, surgery, within_chance
from gantricks.testing.record import differences, same_bits

# ---------------------------------------------------------------- what the generic suites are told

STYLED = {"network": "style", "style_dim": 4, "mapping_layers": 2, "depth": 2}
SETTINGS: Settings = {
    "": ({}, {}),
    "conditional": ({"probability": 0.5}, {"classes": 3, "generator": {**STYLED, "conditional": True}}),
}
OVERRIDES = {"": ["generator.network=style"]}
NO_BATCH_NORM, NO_SURGERY = "has no batch norm", "surgery on plain ones does not fit"
REFUSED: dict[str, str] = {
    "grow": NO_SURGERY,
    "instance_norm": NO_BATCH_NORM,
    "label_injection": "gives every layer the class already",
    "leaky_relu": "has no ReLU",
    "virtual_batch_norm": NO_BATCH_NORM,
    "weight_norm": "divides the length of its weights out",
}

MISTAKES = {
    "the first layers are exchanged": Mistake(
        old="layers >= first[:, None]", new="layers < first[:, None]", caught_by="trace_law"
    ),
    "every sample is mixed": Mistake(
        old="self.draws.ctx.rng.bernoulli(count, self.probability)",
        new="self.draws.ctx.rng.bernoulli(count, 1.0)",
        caught_by="test_the_share_of_mixed_samples_is_the_probability",
    ),
    "samples are mixed too": Mistake(old="not self.training", new="False", caught_by="trace_law"),
    "the last layer is never exchanged alone": Mistake(
        old="self.draws.ctx.rng.randint(count, layers - 1)",
        new="self.draws.ctx.rng.randint(count, layers - 2)",
        caught_by="test_every_layer_but_the_first_is_as_likely_to_be_the_first_exchanged",
    ),
    "a mixed sample may lose its style altogether": Mistake(
        old="1 + self.draws.ctx.rng.randint(count, layers - 1)",
        new="self.draws.ctx.rng.randint(count, layers)",
        caught_by="test_every_layer_but_the_first_is_as_likely_to_be_the_first_exchanged",
    ),
    "the styles of the batch itself are exchanged": Mistake(
        old="network.styles(self.draws.ctx.latents(count).z, classes, condition)",
        new="styles.flip(0)",
        caught_by="trace_law",
    ),
    "a copied network copies the run": Mistake(
        old="return self",
        new="return Draws(self.ctx.__class__(self.ctx._game, 'twin', self.ctx.rng))",
        inside="Draws.__deepcopy__",
        caught_by="test_a_copy_draws_from_the_same_stream",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """A share p of the samples take a style of no sample of the batch, from a layer on that is not the first."""
    p = played.trick(name).config.probability
    added = surgery(played, name, "generator").added
    (module,) = [module for module in added.values() if isinstance(module, Mixing)]
    mixed = []
    for phase in ("d", "g"):
        ((_, given, result),) = flows(played, "generator", [module], phase=phase)
        taken = (given != result).any(2)
        assert not taken[:, 0].any(), "the first layer lost its style"
        assert torch.equal(taken, taken.cummax(1).values), "layers between are exchanged"
        strangers = result[taken]
        assert not (strangers[:, None] == given.flatten(0, 1)[None]).all(2).any(), "the other style is of this batch"
        mixed.append(taken.any(1))
    within_chance(torch.cat(mixed), p, "mixed samples")
    ((_, given, result),) = flows(played, "generator", [module], training=False)
    assert torch.equal(given, result), "samples are mixed"


def host(**options) -> TrickHost:
    return TrickHost.for_trick(StyleMixing).with_trick("style_mixing", **options)


@given(st.integers(1, 4), st.integers(2, 5), st.data())
def test_layers_from_the_first_on_are_the_others(batch, layers, data):
    styles, others = torch.zeros(batch, layers, 2), torch.ones(batch, layers, 2)
    first = [data.draw(st.integers(0, layers)) for _ in range(batch)]
    mixed = mix(styles, others, torch.tensor(first))
    for row, at in zip(mixed, first, strict=True):
        assert row[:, 0].tolist() == [0.0] * at + [1.0] * (layers - at)
        assert torch.equal(row[:, 0], row[:, 1])


def exchanged(count: int, probability: float) -> tuple[torch.Tensor, int]:
    """The first exchanged layer of many samples, and the number of layers, which stands for none."""
    game = host(probability=probability).game()
    styles = game.generator.styles(torch.ones(count, game.generator.latent_dim, dtype=torch.float64))
    game.clock.enter("g")
    mixed = game.generator.style_changes[0](styles, game.generator, None, None)
    layers = game.generator.style_count
    return layers - (mixed != styles).any(2).sum(1), layers


def test_every_layer_but_the_first_is_as_likely_to_be_the_first_exchanged():
    first, layers = exchanged(2000, 1.0)
    counts = torch.bincount(first, minlength=layers + 1)
    assert counts[0] == counts[layers] == 0
    expected = 2000 / (layers - 1)
    assert (counts[1:layers] - expected).abs().max() < 5 * expected**0.5


@pytest.mark.parametrize("probability", [0.2, 0.9])
def test_the_share_of_mixed_samples_is_the_probability(probability):
    first, layers = exchanged(2000, probability)
    within_chance(first < layers, probability, "mixed samples")


def test_gradients_reach_both_styles():
    styles, others = (torch.zeros(1, 3, 2, requires_grad=True) for _ in range(2))
    mix(styles, others, torch.tensor([1])).sum().backward()
    assert styles.grad[0, :, 0].tolist() == [1, 0, 0]
    assert others.grad[0, :, 0].tolist() == [0, 1, 1]


def test_a_copy_draws_from_the_same_stream():
    game = host().game()
    twin = copy.deepcopy(game.generator)
    assert twin.style_changes[0].draws.ctx is game.generator.style_changes[0].draws.ctx


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_probability_zero_is_the_run_without_it(precision):
    plain = TrickHost.for_trick(StyleMixing, precision=precision)
    neutral = plain.with_trick("style_mixing", probability=0.0)
    assert not differences(plain.train(3).state, neutral.train(3).state, besides=("tricks",))


def test_sampling_is_without_mixing():
    mixed, plain = host().game(), TrickHost.for_trick(StyleMixing).game()
    z = torch.ones(3, mixed.generator.latent_dim, dtype=torch.float64)
    assert same_bits(mixed.generator.eval()(z), plain.generator.eval()(z))
