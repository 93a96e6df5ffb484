"""Laws of the pair without norms: sizes, sums, the start, classes, precision."""

from __future__ import annotations

import math

import pytest
import torch
from every_network import Family, deepest, initialise_leaves_nothing_unfilled, stream
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from gantricks.networks.base import Shapes, mixes_samples
from gantricks.networks.halving import halvings
from gantricks.networks.r3 import R3, Added, GenerativeBasis
from gantricks.testing import TrickHost

FAMILY = Family("r3", R3, {"channels": 4}, (3, 20, 16), (), ())
ROLES = ["generator", "discriminator"]
EACH_ROLE = pytest.mark.parametrize("role", ROLES)


def after_blocks(network: nn.Module, inputs: torch.Tensor) -> list[tuple[int, int]]:
    sizes = []
    for block in network.body:
        inputs = block(inputs)
        sizes.append(tuple(inputs.shape[2:]))
    return [size for size in sizes if size]


@settings(max_examples=30)
@given(st.data())
def test_sides_halve_rounding_up_and_the_generator_retraces_them(data):
    sides = st.integers(3, 256)
    height, width, channels = data.draw(sides), data.draw(sides), data.draw(st.integers(1, 4))
    depth = data.draw(st.none() | st.integers(1, min(7, deepest(height, width))))
    options = {"depth": depth, "width": "constant", "blocks": 1}
    shapes = Shapes((channels, height, width), 5)
    with torch.device("meta"):  # shapes only: no numbers are computed
        generator = R3.generator(FAMILY.config("generator", **options), shapes)
        discriminator = R3.discriminator(FAMILY.config("discriminator", **options), shapes)
        images = generator(torch.empty(2, 5))
        out = discriminator(images)
        down = after_blocks(discriminator, images)
        up = after_blocks(generator, torch.empty(2, 5))
    sizes = halvings((height, width), depth)
    assert down == [*sizes[1:], (1, 1)]
    assert up == sizes[::-1]
    assert images.shape == (2, channels, height, width)
    assert out.logits.shape == (2, 1)
    assert out.features.shape == (2, discriminator.feature_dim)
    for role in ROLES:
        assert R3.problems(role, FAMILY.config(role, **options), shapes) == []
        assert R3.maps(role, FAMILY.config(role, **options), shapes) == sizes


# ---------------------------------------------------------------- blocks


def residuals(network: nn.Module) -> list[Added]:
    return [module for module in network.modules() if isinstance(module, Added)]


@EACH_ROLE
def test_every_block_starts_as_the_identity(role):
    network = FAMILY.build(role)
    for block in residuals(network):
        x = stream(3).normal((2, block.conv1.in_channels, 4, 5))
        assert torch.equal(block(x), x)


@EACH_ROLE
@pytest.mark.parametrize("blocks", [1, 3])
def test_weights_start_as_he_has_them_times_a_power_of_the_number_of_blocks(role, blocks):
    network = FAMILY.build(role, channels=32, blocks=blocks, sample=(3, 16, 16))
    found = residuals(network)
    assert len(found) == 3 * blocks  # 16, 8 and 4 pixels
    for block in found:
        for conv in (block.conv1, block.conv2):
            fan_in = conv.weight[0].numel()
            expected = math.sqrt(2 / 1.04 / fan_in) * (3 * blocks) ** -0.25
            spread = conv.weight.numel() ** -0.5
            assert abs(conv.weight.std().item() / expected - 1) < 5 * spread
            assert abs(conv.weight.mean().item()) < 5 * spread * expected
            assert not conv.bias.any()


def test_a_block_is_its_formula():
    block = FAMILY.build("discriminator", channels=6, group_size=4).body.down1.residual1.double()
    with torch.no_grad():
        for number, parameter in enumerate(block.parameters()):
            parameter.copy_(stream(number).normal(parameter.shape))
    x = stream(9).normal((2, 6, 5, 5)).double()
    w1, w2, w3 = block.conv1.weight, block.conv2.weight, block.conv3.weight
    assert block.conv2.groups == 3  # 12 maps inside, 4 in each group

    def leaky(x):
        return torch.where(x > 0, x, 0.2 * x)

    inside = leaky(torch.einsum("oi,bihw->bohw", w1[:, :, 0, 0], x) + block.conv1.bias[:, None, None])
    padded = nn.functional.pad(inside, (1, 1, 1, 1))
    grouped = torch.zeros(2, 12, 5, 5, dtype=torch.float64)
    for out in range(12):
        for i in range(4):
            for dy in range(3):
                for dx in range(3):
                    maps = padded[:, out // 4 * 4 + i, dy : dy + 5, dx : dx + 5]
                    grouped[:, out] += w2[out, i, dy, dx] * maps
    branch = torch.einsum("oi,bihw->bohw", w3[:, :, 0, 0], leaky(grouped + block.conv2.bias[:, None, None]))
    torch.testing.assert_close(block(x), x + branch, rtol=1e-10, atol=1e-10)


def test_groups_are_as_large_as_the_width_allows():
    for channels, size, groups in ((32, 16, 4), (4, 16, 1), (12, 16, 3), (5, 16, 5)):
        block = residuals(FAMILY.on_meta("generator", channels=channels, group_size=size, width="constant"))[0]
        assert block.conv2.groups == groups


def test_the_basis_is_a_sum_of_learned_maps_that_the_latents_weigh():
    basis = GenerativeBasis(3, (4, 5))
    basis.basis.data = stream(1).normal((3, 4, 5))
    weights = stream(2).normal((2, 3))
    torch.testing.assert_close(basis(weights), torch.einsum("bc,chw->bchw", weights, basis.basis))


def test_the_discriminator_ends_in_one_product_for_each_channel():
    network = FAMILY.build("discriminator")
    maps = stream(1).normal((2, network.feature_dim, 5, 4))
    found = network.body.weigh.basis(maps)[:, :, 0, 0]
    torch.testing.assert_close(found, torch.einsum("bchw,chw->bc", maps, network.body.weigh.basis.weight[:, 0]))


# ---------------------------------------------------------------- as every network


@EACH_ROLE
def test_meta_construction_draws_nothing_and_initialise_fills_everything(role):
    before = torch.get_rng_state()
    network = FAMILY.on_meta(role, classes=4, conditional=True)
    assert torch.equal(before, torch.get_rng_state())
    initialise_leaves_nothing_unfilled(network)
    assert not mixes_samples(network)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_parameter_gets_a_finite_gradient(channels, dtype):
    options = {"sample": (channels, 17, 24), "classes": 3, "conditional": True}
    networks = [FAMILY.build(role, **options).to(dtype) for role in ROLES]
    with torch.no_grad():
        for network in networks:
            for block in residuals(network):  # the branch of a block whose last layer is 0 has none yet
                block.conv3.weight.copy_(0.1 * stream(4).normal(block.conv3.weight.shape))
    classes = torch.tensor([0, 1, 2, 0])
    images = networks[0](stream(5).normal((4, 5)).to(dtype), classes)
    out = networks[1](images, classes)
    assert images.dtype == out.logits.dtype == dtype
    nn.functional.softplus(-out.logits).mean().backward()
    for network in networks:
        for name, parameter in network.named_parameters():
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().sum() > 0, name


def test_channels_last_gives_the_numbers_of_the_contiguous_format():
    found = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        generator, discriminator = (FAMILY.build(role).to(memory_format=memory_format) for role in ROLES)
        images = generator(stream(4).normal((3, 5))).contiguous(memory_format=memory_format)
        out = discriminator(images)
        out.logits.sum().backward()
        found.append([images, out.logits, *(p.grad for n in (generator, discriminator) for p in n.parameters())])
    for expected, actual in zip(*found, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)


def test_the_class_changes_what_a_conditional_network_makes_and_says():
    options = {"conditional": True, "classes": 4}
    generator, discriminator = FAMILY.build("generator", **options), FAMILY.build("discriminator", **options)
    images = generator(stream(3).normal((1, 5)).repeat(4, 1), torch.arange(4))
    assert all(not torch.allclose(images[0], images[other]) for other in range(1, 4))
    logits = discriminator(images[:1].repeat(4, 1, 1, 1), torch.arange(4)).logits
    assert logits.unique().numel() == 4
    for role in ROLES:
        assert "conditional" in R3.capabilities(role, FAMILY.config(role, conditional=True), Shapes((3, 20, 16), 5, 4))


@EACH_ROLE
@pytest.mark.parametrize(
    ("sample", "options", "words"),
    [
        ((2,), {}, ["r3 needs images", 'network = "mlp"']),
        ((3, 2, 40), {}, ["2x40", "3 pixels"]),
        ((3, 32, 20), {"depth": 5}, ["depth = 5", "depth = 4"]),
        ((3, 32, 32), {"conditional": True}, ["conditional = false"]),
    ],
)
def test_each_misfit_is_told_in_one_sentence_that_says_what_to_write(role, sample, options, words):
    (problem,) = R3.problems(role, FAMILY.config(role, **options), Shapes(sample, 5))
    assert all(word in problem for word in words)


@EACH_ROLE
def test_options_are_described_and_bounded(role):
    for wrong in ({"channels": 0}, {"depth": 8}, {"blocks": 0}, {"expansion": 9}, {"group_size": 0}, {"width": "x"}):
        with pytest.raises(ValidationError):
            FAMILY.config(role, **wrong)
    assert all(field.description for field in type(FAMILY.config(role)).model_fields.values())


# ---------------------------------------------------------------- in a run


@pytest.mark.parametrize("precision", ["fp64", "fp32", "bf16"])
def test_it_trains(precision):
    small = {"network": "r3", "channels": 4, "blocks": 1}
    host = TrickHost(sample=(1, 8, 8), generator=small, discriminator=small, precision=precision, steps=3)
    played = host.train()
    assert all(math.isfinite(value) for scalars in played.scalars for value in scalars.values())
    for name, before in played.start["generator"].items():
        assert not torch.equal(before, played.state["generator"][name]), name
