"""Laws of dropout in D: p = 0 is identity, the mean is kept, eval is whole, each pass has a mask of its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from gantricks import Rng
from gantricks.networks.base import mixes_samples
from gantricks.plugins.discriminator_dropout import DiscriminatorDropout, Dropout, drop
from gantricks.rng import Clock
from gantricks.testing import TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.host import differences, same_bits

IMAGES = TrickHost(sample=(1, 8, 8), discriminator={"batch_norm": False})
VECTORS = TrickHost()


def stream(seed: int = 0) -> tuple[Clock, Rng]:
    clock = Clock()
    return clock, Rng(seed, "tricks/dropout/input", clock, dtype=torch.float64)


def dropouts(network: nn.Module) -> dict[str, Dropout]:
    return {name: module for name, module in network.named_modules() if isinstance(module, Dropout)}


# ---------------------------------------------------------------- the formula


@given(gs.batches(), st.floats(0, 0.95), gs.rng())
def test_each_number_is_dropped_or_scaled_up(batch, p, rng):
    x = batch.images
    out = drop(x, p, rng)
    assert out.shape == x.shape
    assert out.dtype == x.dtype
    kept = (out != 0).numpy()
    np.testing.assert_allclose(out.numpy()[kept], x.numpy()[kept] / (1 - p), rtol=1e-14)


@given(gs.batches(), gs.rng())
def test_p_zero_is_identity_bit_for_bit(batch, rng):
    for x in (batch.images, batch.images.float(), batch.images.bfloat16()):
        assert same_bits(drop(x, 0.0, rng), x)


@pytest.mark.parametrize("p", [0.2, 0.5, 0.95])
def test_expectation_is_kept(p):
    _, rng = stream()
    draws = 200_000
    out = drop(torch.ones(draws, dtype=torch.float64), p, rng)
    deviation = np.sqrt(p / (1 - p) / draws)  # of the mean of draws that are 1 / (1 - p) with probability 1 - p
    assert abs(out.mean().item() - 1) < 5.5 * deviation
    share = (out == 0).double().mean().item()
    assert abs(share - p) < 5.5 * np.sqrt(p * (1 - p) / draws)


def test_masks_are_drawn_for_every_number_and_pass():
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


def test_gradient_goes_where_the_numbers_went():
    _, rng = stream()
    x = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    out = drop(x, 0.3, rng)
    out.sum().backward()
    expected = np.where(out.detach().numpy() != 0, 1 / 0.7, 0)
    np.testing.assert_allclose(x.grad.numpy(), expected, rtol=1e-14)


def test_bfloat16_stays_bfloat16():
    _, rng = stream()
    assert drop(torch.ones(3, 2, dtype=torch.bfloat16), 0.5, rng).dtype == torch.bfloat16


# ---------------------------------------------------------------- the surgery


def test_dropout_follows_the_input_and_every_block_of_a_convolutional_d():
    host = TrickHost(sample=(3, 16, 16), discriminator={"batch_norm": True})
    network = host.with_trick("discriminator_dropout", input=0.1, hidden=0.4).game().discriminator
    hidden = [f"body.{block}.discriminator_dropout_dropout" for block in ("down1", "down2")]
    assert list(dropouts(network)) == ["body.discriminator_dropout_input", *hidden]
    assert all([*block.children()][-1] in dropouts(network).values() for block in network.body[1:3])
    assert [module.p for module in dropouts(network).values()] == [0.1, 0.4, 0.4]


def test_dropout_follows_the_input_and_every_hidden_layer_of_an_mlp():
    network = VECTORS.with_trick("discriminator_dropout").game().discriminator
    hidden = [f"body.{block}.discriminator_dropout_dropout" for block in ("hidden1", "hidden2")]
    assert list(dropouts(network)) == ["body.discriminator_dropout_input", *hidden]
    assert [module.p for module in dropouts(network).values()] == [0.2, 0.5, 0.5]


@pytest.mark.parametrize("host", [IMAGES, VECTORS], ids=["dcgan", "mlp"])
def test_weights_keep_their_names_and_start(host):
    with_it, plain = host.with_trick("discriminator_dropout").game(), host.game()
    for role in ("discriminator", "generator"):
        a, b = getattr(with_it, role).state_dict(), getattr(plain, role).state_dict()
        assert list(a) == list(b)
        assert all(same_bits(a[name], b[name]) for name in a)


@pytest.mark.parametrize("share", ["input", "hidden"])
def test_a_share_of_zero_inserts_nothing(share):
    network = VECTORS.with_trick("discriminator_dropout", **{share: 0.0}).game().discriminator
    hidden = [f"hidden{number}.discriminator_dropout_dropout" for number in (1, 2)]
    others = {"input": hidden, "hidden": ["discriminator_dropout_input"]}[share]
    assert list(dropouts(network)) == [f"body.{name}" for name in others]


def test_one_layer_more_moves_no_other_mask():
    def hidden_masks(**options):
        game = VECTORS.with_trick("discriminator_dropout", **options).game()
        game.clock.enter("d")
        layers = dropouts(game.discriminator)
        ones = torch.ones(4, 8, dtype=torch.float64)
        for name, layer in layers.items():  # in the order of a forward pass
            if name.endswith("input"):
                layer(ones)
        return [layer(ones) for name, layer in layers.items() if not name.endswith("input")]

    both, alone = hidden_masks(), hidden_masks(input=0.0)
    assert all(same_bits(a, b) for a, b in zip(both, alone, strict=True))
    assert not same_bits(*both), "two layers share one stream"


def test_two_instances_stay_apart():
    host = VECTORS.with_trick("discriminator_dropout", "early", hidden=0.0)
    host = host.with_trick("discriminator_dropout", "late", input=0.1)
    layers = dropouts(host.game().discriminator)
    assert {name: layer.p for name, layer in layers.items()} == {
        "body.late_input": 0.1,
        "body.early_input": 0.2,
        "body.hidden1.late_dropout": 0.5,
        "body.hidden2.late_dropout": 0.5,
    }
    assert len({layer.rng.name for layer in layers.values()}) == 4


# ---------------------------------------------------------------- in a run


def test_d_drops_in_both_steps_with_independent_masks():
    game = IMAGES.with_trick("discriminator_dropout").game()
    seen: list[tuple[str, torch.Tensor]] = []
    layer = game.discriminator.body.discriminator_dropout_input
    layer.register_forward_hook(lambda m, args, out: seen.append((game.clock.phase, (out != 0).detach())))
    game.advance()
    game.advance()
    assert [phase for phase, _ in seen] == ["d", "g", "d", "g"]
    rows = [mask[:8] for _, mask in seen]
    for i, a in enumerate(rows):
        assert 0.6 < a.double().mean() < 0.95
        assert all(not torch.equal(a, b) for b in rows[:i])


def test_eval_is_whole_and_deterministic():
    game = IMAGES.with_trick("discriminator_dropout").game()
    plain = IMAGES.game()
    images = torch.rand(4, 1, 8, 8, dtype=torch.float64)
    network = game.discriminator
    assert not same_bits(network(images).logits, network(images).logits)
    network.eval()
    assert same_bits(network(images).logits, plain.discriminator.eval()(images).logits)


def test_dropout_does_not_mix_samples():
    game = VECTORS.with_trick("discriminator_dropout").game()
    assert not mixes_samples(game.discriminator)
    x = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    other = x.clone()
    other[1:] += 1
    game.clock.enter("d")
    first = game.discriminator(x).logits[0]
    game.clock.enter("d")
    assert same_bits(first, game.discriminator(other).logits[0])


def test_a_neutral_run_is_the_plain_one():
    host = IMAGES.but(precision="fp32")
    neutral = host.with_trick("discriminator_dropout", **DiscriminatorDropout.neutral).train(3)
    assert not differences(neutral.state, host.train(3).state)


@pytest.mark.parametrize("share", ["input", "hidden"])
@pytest.mark.parametrize("wrong", [-0.1, 0.96, 1.0, float("nan")])
def test_shares_outside_their_bounds_are_refused(share, wrong):
    with pytest.raises(ValidationError):
        DiscriminatorDropout.Config(**{share: wrong})
