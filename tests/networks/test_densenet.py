"""Laws of the densely connected discriminator: sizes, concatenation, gradients, classes, precision."""

from __future__ import annotations

import torch
from every_network import FAMILIES, deepest, stream
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gantricks.networks.base import Discriminator, Shapes, initialise
from gantricks.networks.densenet import Dense, DenseNet
from gantricks.networks.halving import halvings

SIDES = st.integers(8, 256)
FAMILY = FAMILIES["densenet"]


def config_of(**options) -> DenseNet.DiscriminatorConfig:
    return FAMILY.config("discriminator", **options)


def build(**options) -> Discriminator:
    return FAMILY.build("discriminator", **options)


@settings(max_examples=30)
@given(st.data())
def test_sides_halve_rounding_up(data):
    height, width, channels = data.draw(SIDES), data.draw(SIDES), data.draw(st.integers(1, 4))
    depth = data.draw(st.none() | st.integers(1, min(7, deepest(height, width))))
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


def test_capabilities_name_what_the_network_has():
    shapes = Shapes((1, 16, 16), 5, 3)
    assert DenseNet.capabilities("discriminator", config_of(), shapes) == {"convolutions"}
    config = config_of(conditional=True, pool="max")
    assert DenseNet.capabilities("discriminator", config, shapes) == {"convolutions", "conditional", "max_pool"}
    assert any(isinstance(module, nn.MaxPool2d) for module in build(pool="max").modules())
    assert not any(isinstance(module, nn.MaxPool2d) for module in build().modules())
    assert DenseNet.GeneratorConfig is None
