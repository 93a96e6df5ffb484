"""Laws of the generator with styles: scales, noise, the sum of images, the mapping, precision."""

from __future__ import annotations

import math

import pytest
import torch
from every_network import Family, deepest, initialise_leaves_nothing_unfilled, stream
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn
from torch.nn.functional import interpolate

from gantricks.networks.base import Shapes, initialise, mixes_samples
from gantricks.networks.halving import halvings
from gantricks.networks.style import MappingLayer, NoiseInput, Style, Styled, modulated, normalised
from gantricks.testing import TrickHost
from gantricks.testing.record import same_bits

FAMILY = Family("style", Style, {"channels": 4, "style_dim": 6}, (3, 20, 16), (), ())


def normal(*shape, seed=1):
    return stream(seed).normal(shape).double()


def close(found, expected, rtol=1e-10):
    torch.testing.assert_close(found, expected, rtol=rtol, atol=1e-10)


def layers(network, kind):
    return [module for module in network.modules() if isinstance(module, kind)]


# ---------------------------------------------------------------- scaled weights


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.sampled_from([1, 3]), st.booleans())
def test_modulation_scales_the_weights_of_each_sample(batch, inner, outer, kernel, norm):
    x, scales = normal(batch, inner, 5, 4), normal(batch, inner, seed=2)
    weight = normal(outer, inner, kernel, kernel, seed=3)
    scaled = torch.einsum("bi,oikl->boikl", scales, weight)
    if norm:
        scaled = scaled / (torch.einsum("boikl,boikl->bo", scaled, scaled) + 1e-8).sqrt()[:, :, None, None, None]
    pad = kernel // 2
    windows = nn.functional.pad(x, [pad] * 4).unfold(2, kernel, 1).unfold(3, kernel, 1)
    close(modulated(x, weight, scales, norm), torch.einsum("bihwkl,boikl->bohw", windows, scaled))


@given(st.floats(1e-2, 1e2), st.integers(1, 64))
def test_independent_inputs_of_variance_one_give_variance_one(scale, inner):
    weight, scales = normal(3, inner, 3, 3), scale * normal(2, inner, seed=2)
    # the response to each input alone: their squares sum to the variance
    unit = torch.zeros(inner, inner, 3, 3, dtype=torch.float64)
    unit[torch.arange(inner), torch.arange(inner), 1, 1] = 1
    for sample in scales:
        responses = modulated(unit, weight, sample.expand(inner, -1))
        close(responses.square().sum((0, 2, 3)), torch.ones(3, dtype=torch.float64), rtol=1e-3)


def test_white_noise_keeps_its_variance_through_a_layer():
    layer = Styled(16, 8, 3, 6)
    initialise(layer, stream())
    y = layer(stream(1).normal((4, 16, 64, 64)), stream(2).normal((4, 6)))[:, :, 1:-1, 1:-1]
    assert abs(y.var((2, 3)) - 1).max() < 0.2
    assert abs(y.var() - 1) < 0.02


def test_scales_are_affine_in_the_style_and_start_around_one():
    layer = Styled(4000, 1, 1, 6)
    initialise(layer, stream())
    assert torch.equal(layer.scales(torch.zeros(1, 6)), torch.ones(1, 4000))
    scales = layer.scales(normalised(torch.ones(1, 6)))
    assert abs(scales.mean() - 1) < 0.1
    assert abs(scales.std() - 1) < 0.1


# ---------------------------------------------------------------- the mapping


@given(st.floats(1e-2, 1e3), st.integers(1, 9))
def test_the_mapping_sees_latents_of_root_mean_square_one(scale, dim):
    z = scale * normal(3, dim)
    close(normalised(z).square().mean(1), torch.ones(3, dtype=torch.float64), rtol=1e-2 if scale < 1 else 1e-4)
    network = FAMILY.build("generator", latent_dim=dim).double()
    torch.testing.assert_close(network.styles(z), network.styles(z / scale), rtol=1e-2, atol=1e-2)


def test_a_mapping_layer_is_its_formula_and_learns_a_hundredth():
    layer = MappingLayer(5, 7).double()
    initialise(layer, stream())
    assert abs(layer.weight.std() / 100 - 1) < 0.5
    with torch.no_grad():
        layer.bias.copy_(normal(7, seed=4))
    x = normal(3, 5)
    y = x @ layer.weight.T * 0.01 / math.sqrt(5) + 0.01 * layer.bias
    close(layer(x), math.sqrt(2) * torch.where(y > 0, y, 0.2 * y))


def test_one_style_steers_every_layer():
    network = FAMILY.build("generator")
    styles = network.styles(stream(1).normal((2, 5)))
    assert styles.shape == (2, network.style_count, 6)
    assert all(torch.equal(styles[:, 0], styles[:, number]) for number in range(network.style_count))
    convolutions = layers(network.body, Styled)
    assert network.style_count == len(convolutions) + 1


@pytest.mark.parametrize("number", range(8))
def test_a_style_steers_its_convolution_and_the_image_made_before_it(number):
    network = FAMILY.build("generator", depth=3, sample=(3, 32, 32)).eval()
    convolutions = layers(network.body, Styled)
    seen = {}
    for layer in (*convolutions, *network.head):
        layer.register_forward_hook(lambda layer, given, out: seen.setdefault(layer, []).append(given[1].clone()))
    styles = network.styles(stream(1).normal((1, 5))).clone()
    network.synthesise(styles)
    styles[:, number] += 1
    network.synthesise(styles)
    touched = {layer for layer, (a, b) in seen.items() if not torch.equal(a, b)}
    # images are made after the first convolution, and then after every second one
    expected = {*convolutions[number : number + 1], *([network.head[(number - 1) // 2]] if number % 2 else [])}
    assert touched == expected


# ---------------------------------------------------------------- noise


def test_noise_starts_without_strength_and_moves_nothing():
    network, z = FAMILY.build("generator"), stream(1).normal((2, 5))
    assert same_bits(network.train()(z), network.eval()(z))
    assert layers(network, NoiseInput)


def test_noise_of_strength_s_adds_one_draw_for_each_place_in_training_alone():
    layer = NoiseInput()
    initialise(layer, stream())
    with torch.no_grad():
        layer.strength.fill_(0.5)
    x = stream(1).normal((50, 3, 16, 16))
    noise = layer(x) - x
    assert abs(noise.std() / 0.5 - 1) < 0.05
    torch.testing.assert_close(noise[:, 0], noise[:, 2], rtol=0, atol=1e-6)
    assert not torch.allclose(layer(x) - x, noise)
    assert layer.eval()(x) is x


def test_every_layer_has_noise_of_its_own():
    network = FAMILY.build("generator")
    streams = {layer.rng.name for layer in layers(network, NoiseInput)}
    assert len(streams) == len(layers(network, NoiseInput)) == network.style_count - 1


def test_noise_differs_from_step_to_step_and_follows_from_the_seed():
    def drawn():
        game = TrickHost(sample=(1, 8, 8), generator={"network": "style"}).game()
        layer = layers(game.generator, NoiseInput)[0]
        with torch.no_grad():
            layer.strength.fill_(1)
        found = []
        for step in range(2):
            with game.clock.aside(step, "g"):
                found.append(layer(torch.zeros(1, 1, 4, 4, dtype=torch.float64)))
        return found

    (first, second), again = drawn(), drawn()
    assert not torch.equal(first, second)
    assert torch.equal(first, again[0])


# ---------------------------------------------------------------- the image


def test_the_image_is_the_sum_of_upsampled_images_of_every_size():
    network = FAMILY.build("generator", sample=(3, 32, 32)).double().eval()
    made = []
    for layer in network.head:
        layer.register_forward_hook(lambda _, given, out: made.append(out))
    images = network(normal(2, 5))
    total = 0
    for image in made:
        while image.shape[-1] < 32:
            image = interpolate(image, scale_factor=2, mode="bilinear")
        total = total + image
    assert [image.shape[-1] for image in made] == [4, 8, 16, 32]
    close(images, total)


@settings(max_examples=20)
@given(st.data())
def test_images_of_any_size(data):
    height, width, channels = (
        data.draw(st.integers(3, 200)),
        data.draw(st.integers(3, 200)),
        data.draw(st.integers(1, 4)),
    )
    depth = data.draw(st.none() | st.integers(1, min(7, deepest(height, width))))
    options = {"depth": depth, "width": data.draw(st.sampled_from(["doubling", "constant"]))}
    config, shapes = FAMILY.config("generator", **options), Shapes((channels, height, width), 5)
    assert Style.problems("generator", config, shapes) == []
    network = FAMILY.on_meta("generator", sample=(channels, height, width), **options)
    sizes = []
    for block in network.body:
        block[-1].register_forward_hook(lambda _, given, out: sizes.append(tuple(out.shape[2:])))
    network.eval()
    assert network(torch.empty(2, 5, device="meta")).shape == (2, channels, height, width)
    assert sizes == halvings((height, width), depth)[::-1] == Style.maps("generator", config, shapes)[::-1]


# ---------------------------------------------------------------- as every network


def test_meta_construction_draws_nothing_and_initialise_fills_everything():
    before = torch.get_rng_state()
    network = FAMILY.on_meta("generator", classes=4, conditional=True)
    assert torch.equal(before, torch.get_rng_state())
    initialise_leaves_nothing_unfilled(network)
    assert not mixes_samples(network)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_parameter_gets_a_finite_gradient(channels, dtype):
    network = FAMILY.build("generator", sample=(channels, 17, 24), classes=3, conditional=True).to(dtype)
    images = network(stream(5).normal((3, 5)).to(dtype), torch.tensor([0, 1, 2]))
    assert images.dtype == dtype
    (images * stream(6).normal(images.shape)).sum().backward()
    for name, parameter in network.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_images_start_with_the_scale_of_data():
    images = FAMILY.build("generator", channels=32, style_dim=64)(stream(3).normal((16, 5)))
    assert 0.3 < images.std() < 6


def test_the_class_changes_what_it_makes():
    network = FAMILY.build("generator", conditional=True, classes=4)
    images = network(stream(3).normal((1, 5)).repeat(4, 1), torch.arange(4))
    assert all(not torch.allclose(images[0], images[other]) for other in range(1, 4))


def test_channels_last_gives_the_numbers_of_the_contiguous_format():
    found = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        network = FAMILY.build("generator").to(memory_format=memory_format)
        images = network(stream(4).normal((3, 5)))
        images.square().sum().backward()
        found.append([images, *(p.grad for p in network.parameters())])
    for expected, actual in zip(*found, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3)


def test_styles_can_be_changed():
    class Swap(nn.Module):
        def forward(self, styles, network, classes, condition):
            return styles.flip(0)

    network, z = FAMILY.build("generator").eval(), stream(1).normal((2, 5))
    images = network(z)
    network.style_changes.append(Swap())
    torch.testing.assert_close(network(z), images.flip(0))


@pytest.mark.parametrize(
    ("sample", "options", "words"),
    [
        ((2,), {}, ["style needs images", 'network = "mlp"']),
        ((3, 2, 40), {}, ["2x40", "3 pixels"]),
        ((3, 32, 20), {"depth": 5}, ["depth = 5", "depth = 4"]),
        ((3, 32, 32), {"conditional": True}, ["conditional = false"]),
    ],
)
def test_each_misfit_is_told_in_one_sentence_that_says_what_to_write(sample, options, words):
    (problem,) = Style.problems("generator", FAMILY.config("generator", **options), Shapes(sample, 5))
    assert all(word in problem for word in words)


def test_options_are_described_and_bounded():
    for wrong in ({"channels": 0}, {"depth": 8}, {"mapping_layers": 0}, {"style_dim": 0}, {"width": "x"}):
        with pytest.raises(ValidationError):
            FAMILY.config("generator", **wrong)
    assert all(field.description for field in type(FAMILY.config("generator")).model_fields.values())


# ---------------------------------------------------------------- in a run


@pytest.mark.parametrize("precision", ["fp64", "fp32", "bf16"])
def test_it_trains(precision):
    small = {"network": "style", "channels": 4, "style_dim": 4}
    played = TrickHost(sample=(1, 8, 8), generator=small, precision=precision, steps=3).train()
    assert all(math.isfinite(value) for scalars in played.scalars for value in scalars.values())
    for name, before in played.start["generator"].items():
        assert not torch.equal(before, played.state["generator"][name]), name
