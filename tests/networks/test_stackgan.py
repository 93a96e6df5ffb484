"""The generator in two stages: what each stage sees, and the sizes of its maps."""

from __future__ import annotations

import pytest
import torch
from every_network import initialise_leaves_nothing_unfilled, stream
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.nn.functional import pad

from gantricks.networks.base import Shapes, TwoStageGenerator, initialise
from gantricks.networks.dcgan import DCGAN
from gantricks.networks.stackgan import StackGAN
from gantricks.testing import TrickHost
from gantricks.testing.record import same_bits

SMALL = {"channels": 4, "blocks": 1, "first": {"channels": 3}}


def config(**options):
    return StackGAN.GeneratorConfig(**{**SMALL, **options})


def build(sample=(3, 16, 12), classes=0, condition=0, seed=0, **options):
    with torch.device("meta"):
        network = StackGAN.generator(config(**options), Shapes(sample, 5, classes, condition))
    network.to_empty(device="cpu")
    initialise(network, stream(seed, "generator"))
    return network


@settings(max_examples=25, deadline=None)
@given(st.integers(8, 40), st.integers(8, 40), st.sampled_from([1, 3]), st.sampled_from([3, 4, 5]))
def test_images_of_any_size_are_made_from_ones_of_half_the_size(height, width, channels, kernel):
    with torch.device("meta"):
        network = StackGAN.generator(config(kernel=kernel), Shapes((channels, height, width), 5))
        z = torch.empty(2, 5)
        assert network(z).shape == (2, channels, height, width)
        assert network.first(z).shape == (2, channels, -(-height // 2), -(-width // 2))


def test_the_first_stage_is_the_dcgan_of_its_own_options():
    stacked = build(
        condition=4, conditioned=True, condition_dim=6, first={"channels": 3, "depth": 2, "batch_norm": False}
    )
    options = DCGAN.GeneratorConfig(channels=3, depth=2, batch_norm=False, conditioned=True, condition_dim=6)
    with torch.device("meta"):
        alone = DCGAN.generator(options, Shapes((3, 8, 6), 5, condition=4))
    shapes = {name: tensor.shape for name, tensor in alone.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in stacked.first.state_dict().items()}
    alone.to_empty(device="cpu").load_state_dict(stacked.first.state_dict())
    z, condition = torch.randn(2, 5), torch.randn(2, 4)
    assert same_bits(alone(z, None, condition), stacked.first(z, None, condition))


def test_the_second_stage_sees_the_first_ones_image_and_the_condition_but_not_the_latents():
    network = build(condition=4, conditioned=True, condition_dim=6).eval()
    z, condition = torch.randn(2, 5), torch.randn(2, 4)
    image = network.first(z, None, condition)
    network.first.forward = lambda *_: image
    assert same_bits(network(z, None, condition), network(torch.randn(2, 5), None, condition))
    assert not same_bits(network(z, None, condition), network(z, None, condition.flip(0)))
    maps = network.encoder(image)
    joined = network.inputs(z, None, condition)
    assert same_bits(joined[:, : maps.shape[1]], maps)
    tiled = network.conditioning(condition)
    for place in ((0, 0), (1, 2), (-1, -1)):
        torch.testing.assert_close(joined[:, maps.shape[1] :, place[0], place[1]], tiled)


def test_gradients_reach_both_stages_and_each_one_s_own_reading_of_the_condition():
    network = build(condition=4, conditioned=True, condition_dim=6)
    network(torch.randn(2, 5), None, torch.randn(2, 4)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all()
    for part in (network, network.first):
        assert part.conditioning.linear.weight.grad.any()


def test_a_class_is_read_by_both_stages():
    network = build(classes=3, conditional=True, embedding_dim=2).eval()
    z = torch.randn(1, 5).expand(3, -1)
    images, small = network(z, torch.arange(3)), network.first(z, torch.arange(3))
    for found in (images, small):
        assert len({tuple(image.flatten().tolist()) for image in found}) == 3


def test_an_encoder_halves_once_by_the_convolutions_that_it_has():
    network = build()
    image = torch.randn(2, 3, 8, 6)
    first, _, second, _ = network.encoder
    leaky = torch.nn.functional.leaky_relu
    half = leaky(torch.nn.functional.conv2d(pad(image, [1] * 4), first.weight, first.bias), 0.2)
    quarter = leaky(torch.nn.functional.conv2d(half, second.weight, second.bias, stride=2, padding=second.padding), 0.2)
    torch.testing.assert_close(network.encoder(image), quarter)
    assert quarter.shape == (2, 8, 4, 3)


def test_initialise_leaves_nothing_unfilled():
    with torch.device("meta"):
        network = StackGAN.generator(config(conditioned=True), Shapes((3, 16, 16), 5, condition=4))
    initialise_leaves_nothing_unfilled(network)
    assert isinstance(network, TwoStageGenerator)


@pytest.mark.parametrize(
    ("sample", "told"),
    [((2,), "stackgan needs images"), ((1, 7, 20), "each side needs 8 pixels")],
)
def test_what_does_not_fit_is_told(sample, told):
    (sentence,) = StackGAN.problems("generator", config(), Shapes(sample, 5))
    assert told in sentence


def test_what_does_not_fit_the_first_stage_is_told_with_its_name():
    (sentence,) = StackGAN.problems("generator", config(first={"depth": 5}), Shapes((1, 16, 16), 5))
    assert sentence.startswith("first: depth = 5 is too deep for images of 8x8")


@pytest.mark.parametrize(
    "wrong", [{"channels": 1}, {"blocks": 0}, {"first": {"channels": 0}}, {"first": {"conditioned": True}}]
)
def test_options_out_of_bounds_are_refused(wrong):
    with pytest.raises(ValidationError):
        config(**wrong)


def test_both_stages_are_trained_as_one_without_a_trick():
    host = TrickHost(sample=(1, 8, 8), generator={"network": "stackgan", **SMALL})
    played = host.train(2)
    for phase in played.steps_of("g"):
        moved = {name for name in phase.before if not same_bits(phase.before[name], phase.after[name])}
        assert any(name.startswith("first.") for name in moved)
        assert any(name.startswith("body.") for name in moved)
