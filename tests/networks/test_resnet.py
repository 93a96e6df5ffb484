"""Laws of the residual pair: sizes, sums, pooling, norms, classes, precision."""

from __future__ import annotations

import math

import pytest
import torch
from every_network import FAMILIES, deepest, stream
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gantricks.networks.base import Shapes
from gantricks.networks.halving import halvings
from gantricks.networks.resnet import Residual, ResNet, pooling

ROLES = ["generator", "discriminator"]
SIDES = st.integers(8, 256)
FAMILY = FAMILIES["resnet"]
config_of, build, pair = FAMILY.config, FAMILY.build, FAMILY.pair


def after_blocks(network: nn.Module, inputs: torch.Tensor) -> list[tuple[int, int]]:
    """The size of the map after each block that has one."""
    sizes = []
    for block in network.body:
        inputs = block(inputs)
        sizes.append(tuple(inputs.shape[2:]))
    return [size for size in sizes if size]


@settings(max_examples=30)
@given(st.data())
def test_sides_halve_rounding_up_and_the_generator_retraces_them(data):
    height, width, channels = data.draw(SIDES), data.draw(SIDES), data.draw(st.integers(1, 4))
    depth = data.draw(st.none() | st.integers(1, min(7, deepest(height, width))))
    options = {"depth": depth, "width": "constant"}
    shapes = Shapes((channels, height, width), 5)
    d_config = config_of("discriminator", pool=data.draw(st.sampled_from(["average", "max"])), **options)
    with torch.device("meta"):  # shapes only: no numbers are computed
        generator = ResNet.generator(config_of("generator", **options), shapes)
        discriminator = ResNet.discriminator(d_config, shapes)
        images = generator(torch.empty(2, 5))
        out = discriminator(images)
        down = after_blocks(discriminator, images)
        up = after_blocks(generator, torch.empty(2, 5))
    sizes = halvings((height, width), depth)
    assert down == sizes[1:]
    assert up == sizes[::-1]
    assert images.shape == (2, channels, height, width)
    assert out.logits.shape == (2, 1)
    assert out.features.shape == (2, discriminator.feature_dim)
    for role in ROLES:
        assert ResNet.problems(role, config_of(role, **options), shapes) == []


@pytest.mark.parametrize(("n", "target"), [(5, 9), (5, 10), (2, 3), (75, 150), (19, 38), (128, 256), (128, 255)])
def test_upsampling_repeats_each_pixel_twice_and_crops(n, target):
    pixels = torch.arange(n, dtype=torch.float32).view(1, 1, n, 1).expand(1, 1, n, n)
    up = nn.Upsample(size=(target, target))(pixels)
    assert torch.equal(up[0, 0, :, 0], pixels[0, 0, :, 0].repeat_interleave(2)[:target])


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (3, 4)])
def test_average_pooling_at_an_odd_edge_takes_the_mean_of_the_pixels_there_are(size):
    x = stream(1).normal((1, 1, *size))
    out, biggest = pooling("average")(x), pooling("max")(x)
    for i in range(-(-size[0] // 2)):
        for j in range(-(-size[1] // 2)):
            window = x[0, 0, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
            assert out[0, 0, i, j].item() == pytest.approx(window.mean().item(), abs=1e-6)
            assert biggest[0, 0, i, j] == window.max()


def test_a_residual_is_the_sum_of_branch_and_shortcut_over_the_root_of_two():
    x = stream(1).normal((2, 3))
    branch = nn.Linear(3, 3)
    expected = (x @ branch.weight.T + branch.bias + x) / 2**0.5
    torch.testing.assert_close(Residual(branch, nn.Identity())(x), expected)


@pytest.mark.parametrize("role", ROLES)
def test_with_dead_branches_the_shortcuts_still_carry_input_and_gradient(role):
    network = build(role, batch_norm=False, width="constant", channels=4)
    for module in network.modules():
        if isinstance(module, Residual):
            module.branch.requires_grad_(False)
            for parameter in module.branch.parameters():
                parameter.zero_()
    shape = (3, 5) if role == "generator" else (3, 3, 20, 16)
    inputs = stream(2).normal(shape).requires_grad_()
    network.body(inputs).square().sum().backward()
    assert (inputs.grad.flatten(1) != 0).any(1).all()


@pytest.mark.parametrize("role", ROLES)
def test_weights_start_with_the_deviation_that_their_number_of_inputs_asks_for(role):
    network = build(role, channels=24)
    for name, module in network.body.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and module.weight.numel() > 1000:
            expected = math.sqrt(2 / module.weight[0].numel())
            assert module.weight.std().item() == pytest.approx(expected, rel=0.1), name


@pytest.mark.parametrize("role", ROLES)
def test_the_scale_of_the_maps_does_not_grow_with_depth(role):
    network = build(role, sample=(3, 64, 64), batch_norm=False, channels=16, width="constant", depth=5)
    x = stream(3).normal((8, 5) if role == "generator" else (8, 3, 64, 64))
    squares = []
    with torch.no_grad():
        for block in network.body:
            x = block(x)
            squares.append(x.square().mean().item())
    assert 0.02 < squares[-1] / squares[0] < 8


@pytest.mark.parametrize(("width", "expected"), [("doubling", [4, 8, 16]), ("constant", [4, 4, 4])])
def test_feature_maps_follow_the_width_rule_and_mirror(width, expected):
    generator, discriminator = pair(sample=(3, 32, 32), channels=4, width=width)
    down = [m.branch.conv2.out_channels for m in discriminator.modules() if isinstance(m, Residual)]
    up = [m.branch.conv1.in_channels for m in generator.modules() if isinstance(m, Residual)]
    assert down == expected
    assert up == expected[::-1]
    assert discriminator.feature_dim == expected[-1] * 16
    assert generator.head.conv.in_channels == 4


def test_a_block_ends_in_its_activation_and_surgery_can_walk_it():
    generator, discriminator = pair(batch_norm=True, channels=4)
    down = dict(discriminator.body.named_children())
    assert list(down) == ["down1", "down2", "flatten"]
    assert [name for name, _ in down["down1"].named_children()] == ["residual", "pool", "activation"]
    assert [name for name, _ in down["down2"].named_children()] == ["residual", "pool", "norm", "activation"]
    up = dict(generator.body.named_children())
    assert list(up) == ["project", "up1", "up2"]
    assert [name for name, _ in up["up2"].named_children()] == ["upsample", "residual", "norm", "activation"]
    assert all(isinstance(block, nn.Sequential) for block in (*up.values(), *list(down.values())[:-1]))
    assert isinstance(generator.head.activation, nn.Tanh)


@pytest.mark.parametrize("pool", ["average", "max"])
def test_the_pooling_is_the_one_asked_for_and_told(pool):
    network = build("discriminator", pool=pool)
    kinds = {type(m) for m in network.modules() if isinstance(m, nn.AvgPool2d | nn.MaxPool2d)}
    assert kinds == {nn.AvgPool2d if pool == "average" else nn.MaxPool2d}
    able = ResNet.capabilities("discriminator", config_of("discriminator", pool=pool), Shapes((3, 20, 16), 5))
    assert ("max_pool" in able) == (pool == "max")


def test_capabilities_name_what_the_network_has():
    shapes = Shapes((1, 16, 16), 5, 3)
    assert ResNet.capabilities("generator", config_of("generator"), shapes) == {"batch_norm", "convolutions"}
    assert ResNet.capabilities("discriminator", config_of("discriminator"), shapes) == {"convolutions"}
    for role in ROLES:
        config = config_of(role, conditional=True, batch_norm=False)
        assert ResNet.capabilities(role, config, shapes) == {"conditional", "convolutions"}
