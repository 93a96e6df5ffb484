"""Laws of the two base networks and of `initialise`, on networks small enough to check by hand."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

from gantricks.networks.base import (
    Discriminator,
    Generator,
    Network,
    Shapes,
    count_parameters,
    initialise,
    mixes_samples,
)
from gantricks.rng import Clock, Rng


def stream(seed: int = 0, name: str = "net") -> Rng:
    return Rng(seed, name, Clock())


def named(**children: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(children))


def everything() -> nn.Sequential:
    """One of every kind of layer that `initialise` knows."""
    return named(
        conv=nn.Conv2d(3, 4, 3),
        transposed=nn.ConvTranspose2d(4, 6, 3, groups=2),
        linear=nn.Linear(5, 4, bias=False),
        embedding=nn.Embedding(3, 7),
        batch_norm=nn.BatchNorm2d(4),
        bare_batch_norm=nn.BatchNorm1d(4, affine=False),
        stateless_batch_norm=nn.BatchNorm1d(4, track_running_stats=False),
        instance_norm=nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
        group_norm=nn.GroupNorm(2, 4),
        layer_norm=nn.LayerNorm(4),
        rms_norm=nn.RMSNorm(4),
        prelu=nn.PReLU(),
    )


def poison(network: nn.Module) -> None:
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.fill_(float("nan") if tensor.is_floating_point() else -7)


def test_initialise_leaves_nothing_unfilled():
    network = everything()
    poison(network)
    initialise(network, stream())
    for name, tensor in network.state_dict().items():
        assert torch.isfinite(tensor).all(), name


def test_initialise_gives_batch_norm_fresh_statistics_and_others_their_constants():
    network = everything()
    poison(network)
    initialise(network, stream())
    for norm in (network.batch_norm, network.bare_batch_norm, network.instance_norm):
        assert torch.equal(norm.running_mean, torch.zeros(4))
        assert torch.equal(norm.running_var, torch.ones(4))
        assert norm.num_batches_tracked == 0
    for layer in (network.instance_norm, network.group_norm, network.layer_norm, network.rms_norm):
        assert torch.equal(layer.weight, torch.ones(4))
    for layer in (network.conv, network.transposed, network.batch_norm, network.group_norm):
        assert torch.equal(layer.bias, torch.zeros_like(layer.bias))


def test_initialise_draws_batch_norm_weights_around_one():
    norm = nn.BatchNorm1d(20_000)
    initialise(norm, stream())
    assert norm.weight.mean().item() == pytest.approx(1, abs=0.001)
    assert norm.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_initialise_is_a_function_of_the_seed_and_the_stream():
    first, again, other_seed, other_stream = (everything() for _ in range(4))
    initialise(first, stream(3))
    initialise(again, stream(3))
    initialise(other_seed, stream(4))
    initialise(other_stream, stream(3, "other"))
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    for other in (other_seed, other_stream):
        assert not torch.equal(first.conv.weight, other.conv.weight)
        assert not torch.equal(first.batch_norm.weight, other.batch_norm.weight)


def test_initialise_gives_a_layer_the_same_values_whatever_stands_beside_it():
    alone = named(late=nn.Linear(4, 4))
    crowded = named(
        early=nn.Linear(4, 4), inner=nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 9)), late=nn.Linear(4, 4)
    )
    initialise(alone, stream())
    initialise(crowded, stream())
    assert torch.equal(alone.late.weight, crowded.late.weight)


def test_initialise_gives_layers_of_one_shape_different_values():
    network = named(a=nn.Linear(4, 4), b=nn.Linear(4, 4))
    initialise(network, stream())
    assert not torch.equal(network.a.weight, network.b.weight)


def test_initialise_neither_reads_nor_moves_the_global_random_state():
    torch.manual_seed(1)
    first = everything()
    before = torch.get_rng_state()
    initialise(first, stream())
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    second = everything()
    initialise(second, stream())
    assert torch.equal(first.conv.weight, second.conv.weight)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_initialise_fills_any_precision_with_the_same_draws(dtype):
    single, other = nn.Linear(8, 8), nn.Linear(8, 8, dtype=dtype)
    initialise(single, stream())
    initialise(other, stream())
    assert torch.equal(single.weight.to(dtype), other.weight)


@pytest.mark.parametrize("init_std", [0.02, 0.5])
def test_initialise_scales_every_weight_by_the_networks_init_std(init_std):
    network = Discriminator(Shapes((64,), 2, 300), 256, conditional=True)
    network.body = named(hidden1=named(linear=nn.Linear(64, 256)))
    network.head = nn.Linear(256, 128)
    network.init_std = init_std
    initialise(network, stream())
    for layer in (network.body.hidden1.linear, network.head, network.projection):
        assert layer.weight.std().item() == pytest.approx(init_std, rel=0.05)
        assert layer.weight.mean().item() == pytest.approx(0, abs=0.05 * init_std)


def test_initialise_without_init_std_keeps_the_signal_through_rectifiers_and_the_head():
    depth, width = 8, 256
    network = Generator(Shapes((256,), width), conditional=False)
    network.body = nn.Sequential(*(named(linear=nn.Linear(width, width), activation=nn.ReLU()) for _ in range(depth)))
    network.head = nn.Linear(width, width)
    network.init_std = None
    initialise(network, stream())
    latents = stream(1).normal((512, width))
    with torch.no_grad():
        hidden = network.body(latents)
        assert 0.4 < hidden.square().mean().item() < 2.5
        outputs = network.head(hidden)
    assert (outputs.square().mean() / hidden.square().mean()).item() == pytest.approx(1, rel=0.3)


@pytest.mark.parametrize(
    ("layer", "fan_in"),
    [
        (nn.Linear(50, 400), 50),
        (nn.Conv2d(8, 90, 5), 200),
        (nn.Conv2d(8, 90, 5, groups=2), 100),
        (nn.ConvTranspose2d(32, 40, 4, stride=2), 128),
        (nn.ConvTranspose2d(32, 40, 4, stride=2, groups=4), 32),
        (nn.Embedding(300, 64), 64),
    ],
    ids=lambda value: str(value) if isinstance(value, nn.Module) else None,
)
def test_initialise_without_init_std_divides_by_the_fan_in(layer, fan_in):
    network = named(body=named(layer=layer), head=nn.Linear(2, 1))
    network.init_std = None
    initialise(network, stream())
    assert layer.weight.var().item() == pytest.approx(2 / fan_in, rel=0.08)


def test_initialise_without_init_std_preserves_variance_through_a_transposed_convolution():
    conv = nn.ConvTranspose2d(64, 64, 4, stride=2, padding=1, bias=False)
    network = named(head=conv)
    network.init_std = None
    initialise(network, stream())
    with torch.no_grad():
        output = conv(stream(1).normal((4, 64, 12, 12)))[:, :, 4:-4, 4:-4]
    assert output.var().item() == pytest.approx(1, rel=0.1)


def test_initialise_lets_a_module_fill_itself_from_its_own_stream():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.gamma = nn.Parameter(torch.empty(3))

        def initialise(self, rng):
            self.gamma.copy_(rng.uniform(3))

    network = named(body=named(scale=Scale()))
    initialise(network, stream(5))
    assert torch.equal(network.body.scale.gamma, stream(5).fork("body.scale").uniform(3))


@pytest.mark.parametrize("kind", ["parameter", "buffer", "subclass"])
def test_initialise_refuses_a_module_it_cannot_fill_and_names_it(kind):
    odd = nn.Linear(2, 2) if kind == "subclass" else nn.Module()
    if kind == "parameter":
        odd.gamma = nn.Parameter(torch.empty(3))
    else:
        odd.register_buffer("gamma", torch.empty(3))
    with pytest.raises(TypeError, match=r"'body\.odd' holds .*gamma.*initialise\(rng\)"):
        initialise(named(body=named(odd=odd)), stream())


def test_generator_appends_the_class_embedding_to_the_latents():
    generator = Generator(Shapes((2,), 3, 5), conditional=True, embedding_dim=4)
    latents, classes = torch.randn(6, 3), torch.tensor([0, 1, 2, 3, 4, 0])
    inputs = generator.inputs(latents, classes)
    assert inputs.shape == (6, generator.input_dim) == (6, 7)
    assert torch.equal(inputs[:, :3], latents)
    assert torch.equal(inputs[:, 3:], generator.embedding.weight[classes])


def test_generator_without_classes_or_embedding_passes_latents_on():
    latents = torch.randn(2, 3)
    for generator in (
        Generator(Shapes((2,), 3, 5), conditional=False, embedding_dim=4),
        Generator(Shapes((2,), 3, 5), conditional=True),
    ):
        assert generator.inputs(latents, torch.tensor([0, 1])) is latents
        assert generator.input_dim == 3
        assert count_parameters(generator) == 0


def test_class_embeddings_start_at_the_scale_of_the_latents_in_any_network():
    for init_std in (0.02, None):
        generator = Generator(Shapes((2,), 3, 200), conditional=True, embedding_dim=100)
        generator.init_std = init_std
        initialise(generator, stream())
        assert generator.embedding.weight.std().item() == pytest.approx(1, rel=0.05)


def test_projection_is_the_inner_product_of_the_class_embedding_and_the_features():
    network = Discriminator(Shapes((4,), 2, 3), 5, conditional=True)
    network.body = nn.Sequential(nn.Linear(4, 5), nn.Tanh())
    network.head = nn.Linear(5, 1)
    network.double()
    images, classes = torch.randn(7, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2, 2])
    out = network(images, classes)
    features = torch.tanh(images @ network.body[0].weight.T + network.body[0].bias)
    chosen = torch.nn.functional.one_hot(classes, 3).double()
    expected = torch.einsum("ba,a->b", features, network.head.weight[0]) + network.head.bias
    expected = expected + torch.einsum("bk,ka,ba->b", chosen, network.projection.weight, features)
    torch.testing.assert_close(out.logits, expected[:, None])
    torch.testing.assert_close(out.features, features)
    assert out.class_logits is None


def test_class_head_reads_the_features():
    network = Discriminator(Shapes((4,), 2, 3), 4)
    network.body, network.head = nn.Sequential(nn.Flatten()), nn.Linear(4, 1)
    network.class_head = nn.Linear(4, 3)
    images = torch.randn(2, 4)
    assert torch.equal(network(images).class_logits, network.class_head(images))


def test_the_head_reads_class_logits_where_it_is_told_to():
    network = a_discriminator()
    network.class_head = nn.Linear(3, 4)
    network.head, network.head_reads = nn.Linear(4, 1), "class_logits"
    out = network(torch.ones(2, 5))
    torch.testing.assert_close(out.logits, network.head(out.class_logits))


def test_every_head_reads_the_features_through_the_neck_and_features_are_without_it():
    network = a_discriminator()
    network.class_head = nn.Linear(3, 4)
    before = network(torch.ones(2, 5))
    network.neck.append(nn.Tanh())
    out = network(torch.ones(2, 5))
    assert torch.equal(out.features, before.features)
    torch.testing.assert_close(out.logits, network.head(out.features.tanh()))
    torch.testing.assert_close(out.class_logits, network.class_head(out.features.tanh()))


def a_discriminator() -> Discriminator:
    network = Discriminator(Shapes((5,), 4), 3)
    network.body, network.head = nn.Sequential(nn.Linear(5, 3)), nn.Linear(3, 1)
    return network


def test_an_unconditional_discriminator_ignores_classes():
    network = Discriminator(Shapes((4,), 2, 3), 4)
    network.body, network.head = nn.Sequential(nn.Flatten()), nn.Linear(4, 1)
    images = torch.randn(2, 4)
    assert torch.equal(network(images).logits, network(images, torch.tensor([0, 2])).logits)
    assert network.classes == 0


def test_mixes_samples_is_said_by_batch_norm_or_by_the_module_itself():
    class Says(nn.Module):
        def __init__(self, mixes: bool) -> None:
            super().__init__()
            self.mixes_samples = mixes

    class QuietNorm(nn.BatchNorm1d):
        mixes_samples = False

    assert not mixes_samples(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.InstanceNorm1d(2)))
    assert mixes_samples(nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.BatchNorm1d(2))))
    assert mixes_samples(nn.Sequential(Says(True)))
    assert not mixes_samples(nn.Sequential(Says(False), QuietNorm(2)))


def test_count_parameters_counts_shared_ones_once():
    layer = nn.Linear(3, 4)
    assert count_parameters(nn.Sequential(layer, nn.ReLU(), layer)) == 16


def test_a_network_may_leave_out_either_half():
    assert Network.GeneratorConfig is None
    assert Network.DiscriminatorConfig is None
    assert Network.problems("generator", None, Shapes((1,), 1)) == []
    assert Network.capabilities("generator", None, Shapes((2,), 2)) == set()


def test_two_layers_built_by_one_trick_differ_and_each_depends_on_its_name_alone():
    from gantricks import Trick, hookimpl
    from gantricks.testing import TrickHost

    built = {}

    class Builds(Trick):
        @hookimpl
        def transform_discriminator(self, network, ctx):
            for name in ("body.a", "body.b", "body.a", "extra"):
                layer = ctx.build(name, lambda: nn.Linear(400, 50), network)
                built.setdefault(name, []).append(layer.weight.detach())
            return network

    TrickHost().with_trick(Builds).game()
    assert torch.equal(*built["body.a"])
    assert not torch.equal(built["body.a"][0], built["body.b"][0])
    # He's gain stands for the rectifiers of the body
    assert built["body.a"][0].std() / built["extra"][0].std() == pytest.approx(2**0.5, rel=0.05)
