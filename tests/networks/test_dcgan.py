"""Laws of the strided convolutional pair: sizes, norms, classes, precision, memory format."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from every_network import FAMILIES, deepest, stream
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gantricks.networks.base import Shapes, mixes_samples
from gantricks.networks.dcgan import DCGAN
from gantricks.networks.halving import halvings

ROLES = ["generator", "discriminator"]
SIDES = st.integers(8, 256)
FAMILY = FAMILIES["dcgan"]
config_of, build, pair = FAMILY.config, FAMILY.build, FAMILY.pair


def maps(network: nn.Module, *inputs: torch.Tensor) -> list[tuple[int, int]]:
    """The sizes of the map that goes through each convolution, in order."""
    seen: list[tuple[int, int]] = []
    hooks = [
        module.register_forward_hook(lambda _m, args, out: seen.extend([args[0].shape[2:], out.shape[2:]]))
        for module in network.modules()
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
    ]
    network(*inputs)
    for hook in hooks:
        hook.remove()
    return [tuple(size) for size in seen[:1] + seen[1::2]]


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_sides_halve_rounding_up_and_the_generator_retraces_them(data):
    height, width = data.draw(SIDES), data.draw(SIDES)
    depth = data.draw(st.none() | st.integers(1, min(7, deepest(height, width))))
    channels = data.draw(st.integers(1, 5))
    options = {"kernel": data.draw(st.sampled_from([3, 4, 5])), "depth": depth, "width": "constant"}
    with torch.device("meta"):  # shapes only: no numbers are computed
        shapes = Shapes((channels, height, width), 5)
        generator = DCGAN.generator(config_of("generator", **options), shapes)
        discriminator = DCGAN.discriminator(config_of("discriminator", **options), shapes)
        down = maps(discriminator, torch.empty(2, channels, height, width))
        up = maps(generator, torch.empty(2, 5))
        images = generator(torch.empty(2, 5))
        out = discriminator(images)
    assert down[0] == (height, width)
    assert all(after == tuple(math.ceil(n / 2) for n in before) for before, after in pairwise(down))
    assert len(down) - 1 == depth if depth else min(down[-1]) <= 5
    assert up == down[::-1]
    assert images.shape == (2, channels, height, width)
    assert out.logits.shape == (2, 1)
    assert out.features.shape == (2, discriminator.feature_dim)
    assert discriminator.feature_dim == 3 * math.prod(down[-1])
    for role in ROLES:
        assert DCGAN.problems(role, config_of(role, **options), shapes) == []


@given(SIDES, SIDES)
def test_without_a_depth_the_first_map_of_at_most_five_is_the_last(height, width):
    sizes = halvings((height, width))
    assert min(sizes[-1]) <= 5
    assert all(min(size) > 5 for size in sizes[:-1])


@pytest.mark.parametrize(
    ("side", "sides"),
    [(32, [32, 16, 8, 4]), (64, [64, 32, 16, 8, 4]), (28, [28, 14, 7, 4]), (150, [150, 75, 38, 19, 10, 5])],
)
def test_the_sizes_of_familiar_images(side, sides):
    assert halvings((side, side)) == [(n, n) for n in sides]


@settings(deadline=None, max_examples=12)
@given(st.integers(8, 40), st.integers(8, 40), st.sampled_from([3, 4, 5]))
def test_every_pixel_is_read_by_the_discriminator_and_written_by_the_generator(height, width, kernel):
    options = {"sample": (1, height, width), "kernel": kernel, "channels": 2, "batch_norm": False}
    generator, discriminator = pair(**options)
    images = torch.zeros(1, 1, height, width, requires_grad=True)
    (read,) = torch.autograd.grad(discriminator(images).features.sum(), images)
    assert (read != 0).all()
    with torch.no_grad():  # positive weights on positive inputs: a pixel of 0 is one that no weight reaches
        for parameter in generator.parameters():
            parameter.abs_()
    assert (generator(torch.ones(1, 5)) > 0).all()


@pytest.mark.parametrize("kernel", [3, 4, 5])
@pytest.mark.parametrize("size", [(11, 14), (9, 9), (16, 10)])
def test_the_generators_convolutions_are_adjoint_to_the_discriminators(kernel, size):
    generator, discriminator = pair(sample=(3, *size), kernel=kernel, depth=1)
    down, up = discriminator.body.down1.conv, generator.head.conv
    with torch.no_grad():
        up.weight.copy_(down.weight)
    image, small = stream(1).normal((1, 3, *size)), stream(2).normal((1, 3, *halvings(size, 1)[1]))
    torch.testing.assert_close((down(image) * small).sum(), (image * up(small)).sum(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("width", "expected"), [("doubling", [4, 8, 16, 32]), ("constant", [4, 4, 4, 4])])
def test_feature_maps_follow_the_width_rule_and_mirror(width, expected):
    generator, discriminator = pair(sample=(3, 64, 64), channels=4, width=width)
    down = [module.out_channels for module in discriminator.modules() if isinstance(module, nn.Conv2d)]
    up = [module.in_channels for module in generator.modules() if isinstance(module, nn.ConvTranspose2d)]
    assert down == expected
    assert up == expected[::-1]
    assert discriminator.feature_dim == expected[-1] * 16


def blocks_of(network) -> list[nn.Sequential]:
    return [block for block in network.body if isinstance(block, nn.Sequential)]


def test_batch_norm_stands_after_all_but_the_discriminators_first_and_the_generators_output():
    generator, discriminator = pair(sample=(3, 64, 64))
    assert [hasattr(block, "norm") for block in blocks_of(discriminator)] == [False, True, True, True]
    assert [hasattr(block, "norm") for block in blocks_of(generator)] == [True, True, True, True]
    assert not mixes_samples(generator.head)
    assert not mixes_samples(discriminator.head)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_layer_has_a_bias_exactly_where_no_batch_norm_follows(role, batch_norm):
    network = build(role, batch_norm=batch_norm)
    for block in blocks_of(network):
        assert (block[0].bias is None) == hasattr(block, "norm")
    output = network.head.conv if role == "generator" else network.head
    assert output.bias is not None


def test_blocks_are_sequences_of_named_layers_that_surgery_can_walk():
    generator, discriminator = build("generator"), build("discriminator", slope=0.3)
    down = dict(discriminator.body.named_children())
    assert list(down) == ["down1", "down2", "down3", "flatten"]
    assert [name for name, _ in down["down2"].named_children()] == ["conv", "norm", "activation"]
    assert down["down2"].activation.negative_slope == 0.3
    up = dict(generator.body.named_children())
    assert list(up) == ["project", "up1", "up2"]
    assert [name for name, _ in up["project"].named_children()] == [
        "linear",
        "unflatten",
        "norm",
        "activation",
    ]
    assert isinstance(generator.head.activation, nn.Tanh)


@pytest.mark.parametrize("role", ROLES)
def test_a_deeper_network_starts_with_the_same_values_where_names_and_shapes_agree(role):
    shallow, deep = (
        build(role, sample=(3, 64, 64), depth=d, width="constant", conditional=True, classes=4) for d in (3, 4)
    )
    shared = [
        name
        for name, tensor in shallow.state_dict().items()
        if name in deep.state_dict() and deep.state_dict()[name].shape == tensor.shape
    ]
    assert len(shared) > 8
    for name in shared:
        assert torch.equal(shallow.state_dict()[name], deep.state_dict()[name]), name


@pytest.mark.parametrize("role", ROLES)
def test_weights_start_from_a_normal_of_deviation_two_hundredths(role):
    network = build(role, channels=24, seed=1)
    weights = [m.weight for m in network.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)]
    assert len(weights) == 4
    for weight in weights:
        assert weight.std().item() == pytest.approx(0.02, rel=0.1)
        assert abs(weight.mean().item()) < 0.002


def test_images_lie_between_minus_one_and_one():
    images = build("generator")(stream(2).normal((4, 5)) * 1e3)
    assert images.abs().max() <= 1


def test_the_class_changes_a_conditional_discriminators_logit_by_the_projection_alone():
    network = build("discriminator", conditional=True, classes=4).double().eval()
    image = stream(3).normal((1, 3, 32, 32)).double().repeat(4, 1, 1, 1)
    out = network(image, torch.arange(4))
    plain = torch.einsum("ba,a->b", out.features, network.head.weight[0]) + network.head.bias
    projected = torch.einsum("ka,ka->k", network.projection.weight, out.features)
    torch.testing.assert_close(out.logits[:, 0], plain + projected)
    assert out.logits.unique().numel() == 4


def test_a_batch_of_one_works_without_batch_norm_and_in_evaluation_with_it():
    for batch_norm in (False, True):
        generator, discriminator = pair(batch_norm=batch_norm)
        if batch_norm:
            generator.eval(), discriminator.eval()
        out = discriminator(generator(stream(6).normal((1, 5))))
        assert out.logits.shape == (1, 1)
        assert torch.isfinite(out.logits).all()


def test_all_misfits_are_told_at_once():
    config = config_of("generator", conditional=True, depth=7)
    assert len(DCGAN.problems("generator", config, Shapes((3, 32, 32), 5))) == 2


@pytest.mark.parametrize("size", [3, 8, 9, 16, 17, 32, 33])
def test_the_depth_that_a_problem_recommends_is_the_deepest_that_has_none(size):
    shapes = Shapes((1, size, size), 5)
    accepted = [
        d for d in range(1, 8) if not DCGAN.problems("discriminator", config_of("discriminator", depth=d), shapes)
    ]
    assert accepted == list(range(1, deepest(size, size) + 1))
    told = DCGAN.problems("discriminator", config_of("discriminator", depth=7), shapes)
    assert f"depth = {accepted[-1]}" in told[0].split("most")[1]


@pytest.mark.parametrize("role", ROLES)
def test_capabilities_name_what_the_network_has(role):
    assert DCGAN.capabilities(role, config_of(role), Shapes((1, 16, 16), 5, 3)) == {"batch_norm", "convolutions"}
    config = config_of(role, conditional=True, batch_norm=False)
    assert DCGAN.capabilities(role, config, Shapes((1, 16, 16), 5, 3)) == {"conditional", "convolutions"}


def test_a_discriminator_whose_image_is_halved_once_has_no_batch_norm_and_says_so():
    config = config_of("discriminator")
    assert "batch_norm" not in DCGAN.capabilities("discriminator", config, Shapes((1, 8, 8), 5))
    assert "batch_norm" in DCGAN.capabilities("generator", config_of("generator"), Shapes((1, 8, 8), 5))
