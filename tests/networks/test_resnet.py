"""Laws of the residual pair: sizes, sums, pooling, norms, classes, precision."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from gantricks.networks.base import Discriminator, Generator, Shapes, initialise, mixes_samples
from gantricks.networks.halving import halvings
from gantricks.networks.resnet import Residual, ResNet, pooling
from gantricks.rng import Clock, Rng

ROLES = ["generator", "discriminator"]
SIDES = st.integers(8, 256)


def stream(seed: int = 0, name: str = "net") -> Rng:
    return Rng(seed, name, Clock())


def config_of(role: str, **options):
    kind = ResNet.GeneratorConfig if role == "generator" else ResNet.DiscriminatorConfig
    return kind(**{"channels": 3, **options})


def build(role: str, sample=(3, 20, 16), classes=0, seed=0, latent_dim=5, **options):
    shapes = Shapes(sample, latent_dim, classes)
    with torch.device("meta"):
        network = getattr(ResNet, role)(config_of(role, **options), shapes)
    network.to_empty(device="cpu")
    initialise(network, stream(seed, role))
    return network


def pair(**options) -> tuple[Generator, Discriminator]:
    return build("generator", **options), build("discriminator", **options)


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
    deepest = max(d for d in range(8) if math.ceil(min(height, width) / 2**d) >= 2)
    depth = data.draw(st.none() | st.integers(1, min(7, deepest)))
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


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("batch_norm", [False, True])
def test_mixes_samples_exactly_with_batch_norm(role, batch_norm):
    config, shapes = config_of(role, batch_norm=batch_norm), Shapes((3, 20, 16), 5)
    assert mixes_samples(build(role, batch_norm=batch_norm)) == batch_norm
    assert ("batch_norm" in ResNet.capabilities(role, config, shapes)) == batch_norm


def test_a_discriminator_of_one_block_has_no_batch_norm_and_says_so():
    config = config_of("discriminator", depth=1, batch_norm=True)
    assert not mixes_samples(build("discriminator", depth=1, batch_norm=True))
    assert "batch_norm" not in ResNet.capabilities("discriminator", config, Shapes((3, 20, 16), 5))


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


@pytest.mark.parametrize("role", ROLES)
def test_meta_construction_leaves_the_global_random_state_alone(role):
    before = torch.get_rng_state()
    with torch.device("meta"):
        network = getattr(ResNet, role)(config_of(role, conditional=True), Shapes((3, 20, 31), 5, 4))
    assert torch.equal(before, torch.get_rng_state())
    assert all(tensor.is_meta for tensor in (*network.parameters(), *network.buffers()))


@pytest.mark.parametrize("role", ROLES)
def test_initialise_fills_every_tensor_of_a_network_built_on_meta(role):
    config = config_of(role, conditional=True, batch_norm=True)
    with torch.device("meta"):
        network = getattr(ResNet, role)(config, Shapes((3, 32, 32), 5, 4))
    network.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.fill_(float("nan") if tensor.is_floating_point() else -7)
    initialise(network, stream())
    for name, tensor in network.state_dict().items():
        assert torch.isfinite(tensor).all(), name


def test_the_class_changes_what_a_conditional_pair_makes_and_says():
    generator, discriminator = pair(conditional=True, classes=4)
    generator.eval()
    images = generator(stream(3).normal((1, 5)).repeat(4, 1), torch.arange(4))
    logits = discriminator(images[:1].repeat(4, 1, 1, 1), torch.arange(4)).logits
    assert logits.unique().numel() == 4
    for other in range(1, 4):
        assert not torch.allclose(images[0], images[other], rtol=0, atol=1e-7)
    assert images.abs().max() <= 1


@pytest.mark.parametrize("pool", ["average", "max"])
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_parameter_gets_a_finite_gradient(pool, batch_norm, dtype):
    options = {"sample": (1, 17, 24), "batch_norm": batch_norm, "conditional": True, "classes": 3, "channels": 8}
    generator, discriminator = build("generator", **options), build("discriminator", pool=pool, **options)
    generator.to(dtype), discriminator.to(dtype)
    classes = torch.tensor([0, 1, 2, 0])
    images = generator(stream(5).normal((4, 5)).to(dtype), classes)
    out = discriminator(images, classes)
    assert images.dtype == out.logits.dtype == dtype
    torch.nn.functional.softplus(-out.logits).mean().backward()
    for network in (generator, discriminator):
        for name, parameter in network.named_parameters():
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().sum() > 0, name


def test_without_batch_norm_a_sample_is_judged_and_made_alone():
    generator, discriminator = pair(batch_norm=False)
    latents = stream(7).normal((3, 5))
    images = generator(latents)
    torch.testing.assert_close(images[:1], generator(latents[:1]))
    torch.testing.assert_close(discriminator(images).logits[:1], discriminator(images[:1]).logits)


def test_channels_last_gives_the_numbers_of_the_contiguous_format():
    discriminator = build("discriminator", sample=(3, 21, 16), pool="max")
    images = stream(4).normal((4, 3, 21, 16))
    expected = discriminator(images).logits
    discriminator.to(memory_format=torch.channels_last)
    actual = discriminator(images.contiguous(memory_format=torch.channels_last)).logits
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    ("sample", "options", "words"),
    [
        ((2,), {}, ["resnet needs images", "vectors of 2 numbers", 'network = "mlp"']),
        ((3, 2, 40), {}, ["2x40", "3 pixels"]),
        ((3, 32, 20), {"depth": 5}, ["depth = 5", "32x20", "depth = 4"]),
        ((3, 32, 32), {"conditional": True}, ["conditional = true", "classes", "conditional = false"]),
    ],
    ids=["vectors", "tiny", "too deep", "no classes"],
)
def test_each_misfit_is_told_in_one_sentence_that_says_what_to_write(role, sample, options, words):
    (problem,) = ResNet.problems(role, config_of(role, **options), Shapes(sample, 5))
    for word in words:
        assert word in problem


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("wrong", [{"channels": 0}, {"depth": 8}, {"width": "tripling"}, {"pool": "sum"}])
def test_options_out_of_bounds_are_refused(role, wrong):
    with pytest.raises(ValidationError):
        config_of(role, **wrong)


@pytest.mark.parametrize("role", ROLES)
def test_every_option_is_described(role):
    for name, field in type(config_of(role)).model_fields.items():
        assert field.description, name
