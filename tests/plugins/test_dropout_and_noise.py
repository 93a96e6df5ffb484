"""Laws that dropout and noise share, in G and in D: the formula of dropout, and layers that draw by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations, product
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from gantricks import LayerNoise, Rng, Trick
from gantricks.engine.game import Game
from gantricks.networks.base import mixes_samples
from gantricks.plugins import discriminator_dropout, generator_dropout
from gantricks.plugins.discriminator_dropout import DiscriminatorDropout, Dropout
from gantricks.plugins.discriminator_noise import DiscriminatorNoise
from gantricks.plugins.generator_dropout import AlwaysDropout, GeneratorDropout
from gantricks.plugins.generator_noise import GeneratorNoise
from gantricks.rng import Clock
from gantricks.testing import Played, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import close, flows, within_chance
from gantricks.testing.record import differences, same_bits

VECTORS = TrickHost()


class Sibling(NamedTuple):
    """One of the four tricks: its name and class, the layer that it adds and the attribute that says how strong that
    is, the network, its options, values outside their bounds, and images that it is tried on.
    """

    trick: str
    cls: type[Trick]
    layer: type[nn.Module]
    strength: str
    role: str
    options: tuple[str, ...]
    wrong: tuple[float, ...]
    images: TrickHost

    def layers(self, network: nn.Module) -> dict[str, Any]:
        return {name: module for name, module in network.named_modules() if isinstance(module, self.layer)}

    def network(self, game: Game) -> Any:
        return getattr(game, self.role)

    def drawn(self, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """What the layer drew: where it dropped, or what it added."""
        return (out == 0).double() if self.strength == "p" else out - x


SHARES, SIGMAS = (-0.1, 0.96, 1.0, float("nan")), (-0.1, 10.1, float("nan"), float("inf"))
OF_G = TrickHost(sample=(1, 8, 8), generator={"batch_norm": True}, discriminator={"batch_norm": False})
OF_D = TrickHost(sample=(1, 8, 8), discriminator={"depth": 2, "batch_norm": False})
G, D = ("generator", "discriminator")

SIBLINGS = [
    Sibling("generator_dropout", GeneratorDropout, AlwaysDropout, "p", G, ("p",), SHARES, OF_G),
    Sibling("discriminator_dropout", DiscriminatorDropout, Dropout, "p", D, ("input", "hidden"), SHARES, OF_D),
    Sibling("generator_noise", GeneratorNoise, LayerNoise, "sigma", G, ("sigma",), SIGMAS, OF_G),
    Sibling("discriminator_noise", DiscriminatorNoise, LayerNoise, "sigma", D, ("input", "hidden"), SIGMAS, OF_D),
]
ALL = pytest.mark.parametrize("sibling", SIBLINGS, ids=[sibling.trick for sibling in SIBLINGS])
HOSTS = pytest.mark.parametrize("images", [True, False], ids=["dcgan", "mlp"])
FORMULAS = pytest.mark.parametrize("drop", [generator_dropout.drop, discriminator_dropout.drop], ids=["G", "D"])


def drops(played: Played, role: str, layers: Mapping[Any, float], training: bool = True) -> None:
    """Each layer zeroes its share of what it is given, with a mask of its own in each pass, and scales the rest."""
    given, dropped, shares = [], [], []
    for phase in ("d", "g"):
        for layer, x, y in flows(played, role, layers, training, phase):
            close(y, torch.where(y == 0, y, x / (1 - layers[layer])), "what is kept", rtol=1e-12)
            if not x.any():
                continue  # a unit that is off for every sample shows no mask
            given.append(x != 0)
            dropped.append(y == 0)
            shares.append(torch.full(x.shape, layers[layer])[x != 0])
            assert dropped[-1][given[-1]].any(), "a layer drops nothing"
    within_chance(torch.cat([d[g] for d, g in zip(dropped, given, strict=True)]), torch.cat(shares), "dropped")
    for one, other in combinations(range(len(dropped)), 2):
        if dropped[one].shape == dropped[other].shape:
            seen = given[one] & given[other]
            assert not torch.equal(dropped[one][seen], dropped[other][seen]), "the same mask in two layers or passes"


def stream(seed: int = 0) -> tuple[Clock, Rng]:
    clock = Clock()
    return clock, Rng(seed, "tricks/dropout/layer", clock, dtype=torch.float64)


# ---------------------------------------------------------------- dropout's formula


@FORMULAS
@given(gs.batches(), st.floats(0, 0.95), gs.rng())
def test_each_number_is_dropped_or_scaled_up(drop, batch, p, rng):
    x = batch.images
    out = drop(x, p, rng)
    assert out.shape == x.shape
    assert out.dtype == x.dtype
    kept = (out != 0).numpy()
    np.testing.assert_allclose(out.numpy()[kept], x.numpy()[kept] / (1 - p), rtol=1e-14)


@FORMULAS
@given(gs.batches(), gs.rng())
def test_p_zero_is_identity_bit_for_bit(drop, batch, rng):
    for x in (batch.images, batch.images.float(), batch.images.bfloat16()):
        assert same_bits(drop(x, 0.0, rng), x)


@FORMULAS
@pytest.mark.parametrize("p", [0.2, 0.5, 0.95])
def test_expectation_is_kept(drop, p):
    _, rng = stream()
    draws = 200_000
    out = drop(torch.ones(draws, dtype=torch.float64), p, rng)
    deviation = np.sqrt(p / (1 - p) / draws)  # of the mean of draws that are 1 / (1 - p) with probability 1 - p
    assert abs(out.mean().item() - 1) < 5.5 * deviation
    share = (out == 0).double().mean().item()
    assert abs(share - p) < 5.5 * np.sqrt(p * (1 - p) / draws)


@FORMULAS
def test_masks_are_drawn_for_every_number_and_pass(drop):
    clock, rng = stream()
    ones = torch.ones(64, 8, 4, 4, dtype=torch.float64)
    clock.enter("d")
    first, second = drop(ones, 0.5, rng) != 0, drop(ones, 0.5, rng) != 0
    clock.enter("g")
    third = drop(ones, 0.5, rng) != 0
    # 8192 fair coins agree in half of the places, give or take six deviations of 1 / (2 √8192)
    for a, b in ((first, second), (first, third), (second, third)):
        assert abs((a == b).double().mean().item() - 0.5) < 6 / (2 * np.sqrt(8192))
    for axis in range(4):  # nothing is shared along samples, channels, rows or columns
        rolled = first.roll(1, axis)
        assert abs((first == rolled).double().mean().item() - 0.5) < 6 / (2 * np.sqrt(8192)) * 1.5


@FORMULAS
def test_gradient_goes_where_the_numbers_went(drop):
    _, rng = stream()
    x = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    out = drop(x, 0.3, rng)
    out.sum().backward()
    expected = np.where(out.detach().numpy() != 0, 1 / 0.7, 0)
    np.testing.assert_allclose(x.grad.numpy(), expected, rtol=1e-14)


@FORMULAS
def test_bfloat16_stays_bfloat16(drop):
    _, rng = stream()
    assert drop(torch.ones(3, 2, dtype=torch.bfloat16), 0.5, rng).dtype == torch.bfloat16


# ---------------------------------------------------------------- in a network


@ALL
@HOSTS
def test_weights_keep_their_names_and_start(sibling, images):
    host = sibling.images if images else VECTORS
    with_it, plain = host.with_trick(sibling.trick).game(), host.game()
    for role in ("discriminator", "generator"):
        a, b = getattr(with_it, role).state_dict(), getattr(plain, role).state_dict()
        assert list(a) == list(b)
        assert all(same_bits(a[name], b[name]) for name in a)


@ALL
def test_layers_draw_from_streams_of_their_own(sibling):
    game = VECTORS.with_trick(sibling.trick).game()
    layers = [*sibling.layers(sibling.network(game)).values()]
    ones = torch.ones(4, 8, dtype=torch.float64)
    game.clock.enter("d")
    together = [layer(ones) for layer in layers]
    assert not any(same_bits(a, b) for a, b in combinations(together, 2))
    game.clock.enter("d")
    assert same_bits(layers[-1](ones), together[-1]), "what a layer draws depends on the layers before it"


@ALL
def test_two_instances_stay_apart(sibling):
    strengths = {"early": 0.1, "late": 0.2}
    host = VECTORS
    for name, strength in strengths.items():
        host = host.with_trick(sibling.trick, name, **dict.fromkeys(sibling.options, strength))
    layers = sibling.layers(sibling.network(host.game()))
    alone = sibling.layers(sibling.network(VECTORS.with_trick(sibling.trick).game()))
    found = [
        (name.rpartition(".")[2].partition("_")[0], getattr(layer, sibling.strength)) for name, layer in layers.items()
    ]
    assert sorted(found) == sorted(len(alone) * [*strengths.items()])
    assert len({layer.rng.name for layer in layers.values()}) == 2 * len(alone)


@ALL
@pytest.mark.parametrize("apart", [False, True])
def test_every_pass_of_training_draws_anew(sibling, apart):
    """Passes of G share their fakes or do not; D scores reals and fakes in one pass or in two."""
    host = sibling.images.with_trick(sibling.trick)
    if sibling.role == "generator":
        host, phases = host.but(reuse_fakes=not apart), ["d", "g"] if apart else ["d"]
    else:
        host, phases = (host.with_trick("separate_batches"), ["d", "d", "g"]) if apart else (host, ["d", "g"])
    game = host.game()
    seen: list[tuple[str, torch.Tensor]] = []
    name, layer = next(iter(sibling.layers(sibling.network(game)).items()))

    def note(module, args, out):
        given = args[0] != 0
        drawn = sibling.drawn(args[0], out).detach()
        size = drawn[given].mean() if sibling.strength == "p" else drawn.std()
        strength = getattr(layer, sibling.strength)
        assert size.item() == pytest.approx(strength, rel=0.25, abs=0.15 * (sibling.strength == "p")), name
        seen.append((game.clock.phase, drawn[:8]))

    layer.register_forward_hook(note)
    game.advance()
    game.advance()
    assert [phase for phase, _ in seen] == phases * 2
    assert all(not torch.allclose(a, b) for (_, a), (_, b) in combinations(seen, 2))


@ALL
def test_samples_are_not_mixed(sibling):
    game = VECTORS.with_trick(sibling.trick).game()
    network = sibling.network(game)
    assert not mixes_samples(network)
    width = network.latent_dim if sibling.role == "generator" else 2
    x = torch.randn(6, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    other = x.clone()
    other[1:] += 1
    rows = []
    for batch in (x, other):
        game.clock.enter("d")
        out = network(batch)
        rows.append((out if sibling.role == "generator" else out.logits)[0])
    assert same_bits(*rows)


@ALL
def test_a_neutral_run_is_the_plain_one(sibling):
    host = sibling.images.but(precision="fp32")
    neutral = host.with_trick(sibling.trick, **sibling.cls.neutral).train(3)
    assert not differences(neutral.state, host.train(3).state)
    assert not sibling.layers(sibling.network(neutral.game))


@ALL
def test_options_outside_their_bounds_are_refused(sibling):
    for option, wrong in product(sibling.options, sibling.wrong):
        with pytest.raises(ValidationError):
            sibling.cls.Config(**{option: wrong})
