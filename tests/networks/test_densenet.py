"""Laws of the densely connected discriminator: sizes, concatenation, gradients, classes, precision."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from gantricks.networks.base import Discriminator, Shapes, initialise, mixes_samples
from gantricks.networks.densenet import Dense, DenseNet
from gantricks.networks.halving import halvings
from gantricks.rng import Clock, Rng

SIDES = st.integers(8, 256)
SMALL = {"channels": 4, "growth": 3, "layers": 2}


def stream(seed: int = 0, name: str = "net") -> Rng:
    return Rng(seed, name, Clock())


def config_of(**options) -> DenseNet.DiscriminatorConfig:
    return DenseNet.DiscriminatorConfig(**SMALL | options)


def build(sample=(3, 20, 16), classes=0, **options) -> Discriminator:
    with torch.device("meta"):
        network = DenseNet.discriminator(config_of(**options), Shapes(sample, 5, classes))
    network.to_empty(device="cpu")
    initialise(network, stream(0, "discriminator"))
    return network


@settings(max_examples=30)
@given(st.data())
def test_sides_halve_rounding_up(data):
    height, width, channels = data.draw(SIDES), data.draw(SIDES), data.draw(st.integers(1, 4))
    deepest = max(d for d in range(8) if math.ceil(min(height, width) / 2**d) >= 2)
    depth = data.draw(st.none() | st.integers(1, min(7, deepest)))
    options = {"depth": depth, "pool": data.draw(st.sampled_from(["average", "max"]))}
    shapes = Shapes((channels, height, width), 5)
    with torch.device("meta"):  # shapes only: no numbers are computed
        network = DenseNet.discriminator(config_of(**options), shapes)
        x = images = torch.empty(2, channels, height, width)
        sizes = []
        for block in network.body[:-1]:
            x = block(x)
            sizes.append(tuple(x.shape[2:]))
        out = network(images)
    assert sizes[0] == (height, width)
    assert sizes == halvings((height, width), depth)
    assert out.logits.shape == (2, 1)
    assert out.features.shape == (2, network.feature_dim)
    assert DenseNet.problems("discriminator", config_of(**options), shapes) == []


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_a_dense_block_appends_its_layers_to_its_input(channels, growth, layers, norm):
    dense = Dense(channels, growth, layers, norm).eval()
    initialise(dense, stream())
    x = stream(1).normal((2, channels, 5, 4))
    out = dense(x)
    assert out.shape == (2, channels + growth * layers, 5, 4)
    assert torch.equal(out[:, :channels], x)
    for number, layer in enumerate(dense):
        before = channels + growth * number
        torch.testing.assert_close(out[:, before : before + growth], layer(out[:, :before]))


def test_the_transition_halves_the_maps_after_every_block():
    network = build(channels=5, growth=4, layers=3, depth=2)
    assert [network.body.down1.conv.in_channels, network.body.down1.conv.out_channels] == [17, 9]
    assert [network.body.down2.conv.in_channels, network.body.down2.conv.out_channels] == [21, 11]
    assert network.feature_dim == 11 * 5 * 4


def test_the_input_of_a_block_reaches_its_output_past_dead_layers():
    network = build()
    for module in network.modules():
        if isinstance(module, Dense):
            for parameter in module.parameters():
                parameter.requires_grad_(False).zero_()
    images = stream(2).normal((3, 3, 20, 16)).requires_grad_()
    network.body(images).square().sum().backward()
    assert (images.grad.flatten(1) != 0).any(1).all()


def test_blocks_are_sequences_of_named_layers_that_surgery_can_walk():
    blocks = dict(build(batch_norm=True).body.named_children())
    assert list(blocks) == ["stem", "down1", "down2", "flatten"]
    assert [name for name, _ in blocks["stem"].named_children()] == ["conv", "activation"]
    assert [name for name, _ in blocks["down1"].named_children()] == ["dense", "conv", "pool", "activation"]
    assert [name for name, _ in blocks["down2"].named_children()] == ["dense", "conv", "pool", "norm", "activation"]
    assert isinstance(blocks["flatten"], nn.Flatten)


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("depth", [1, 2])
def test_mixes_samples_exactly_with_batch_norm_and_says_so(batch_norm, depth):
    mixes = batch_norm and depth > 1  # the first block never has it
    assert mixes_samples(build(batch_norm=batch_norm, depth=depth)) == mixes
    able = DenseNet.capabilities("discriminator", config_of(batch_norm=batch_norm, depth=depth), Shapes((3, 20, 16), 5))
    assert ("batch_norm" in able) == mixes


def test_capabilities_name_what_the_network_has():
    shapes = Shapes((1, 16, 16), 5, 3)
    assert DenseNet.capabilities("discriminator", config_of(), shapes) == {"convolutions"}
    config = config_of(conditional=True, pool="max")
    assert DenseNet.capabilities("discriminator", config, shapes) == {"convolutions", "conditional", "max_pool"}
    assert any(isinstance(module, nn.MaxPool2d) for module in build(pool="max").modules())
    assert not any(isinstance(module, nn.MaxPool2d) for module in build().modules())
    assert DenseNet.GeneratorConfig is None


def test_it_is_built_on_meta_without_a_draw_and_filled_entirely():
    before = torch.get_rng_state()
    with torch.device("meta"):
        network = DenseNet.discriminator(config_of(conditional=True, batch_norm=True), Shapes((3, 20, 31), 5, 4))
    assert torch.equal(before, torch.get_rng_state())
    assert all(tensor.is_meta for tensor in (*network.parameters(), *network.buffers()))
    network.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.fill_(float("nan") if tensor.is_floating_point() else -7)
    initialise(network, stream())
    for name, tensor in network.state_dict().items():
        assert torch.isfinite(tensor).all(), name


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_parameter_gets_a_finite_gradient(batch_norm, dtype):
    network = build(sample=(1, 17, 24), batch_norm=batch_norm, conditional=True, classes=3, growth=8).to(dtype)
    out = network(stream(5).normal((4, 1, 17, 24)).to(dtype), torch.tensor([0, 1, 2, 0]))
    assert out.logits.dtype == dtype
    torch.nn.functional.softplus(-out.logits).mean().backward()
    for name, parameter in network.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_the_class_changes_the_logit():
    network = build(conditional=True, classes=4)
    image = stream(3).normal((1, 3, 20, 16)).repeat(4, 1, 1, 1)
    assert network(image, torch.arange(4)).logits.unique().numel() == 4


@pytest.mark.parametrize(
    ("sample", "options", "words"),
    [
        ((2,), {}, ["densenet needs images", 'network = "mlp"']),
        ((3, 2, 40), {}, ["2x40", "3 pixels"]),
        ((3, 32, 20), {"depth": 5}, ["depth = 5", "depth = 4"]),
        ((3, 32, 32), {"conditional": True}, ["conditional = true", "conditional = false"]),
    ],
    ids=["vectors", "tiny", "too deep", "no classes"],
)
def test_each_misfit_is_told_in_one_sentence_that_says_what_to_write(sample, options, words):
    (problem,) = DenseNet.problems("discriminator", config_of(**options), Shapes(sample, 5))
    for word in words:
        assert word in problem


@pytest.mark.parametrize("wrong", [{"channels": 0}, {"growth": 0}, {"layers": 33}, {"depth": 8}, {"pool": "sum"}])
def test_options_out_of_bounds_are_refused(wrong):
    with pytest.raises(ValidationError):
        config_of(**wrong)


def test_every_option_is_described():
    for name, field in DenseNet.DiscriminatorConfig.model_fields.items():
        assert field.description, name
