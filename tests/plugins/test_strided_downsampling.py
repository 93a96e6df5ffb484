"""Laws of strided downsampling: sizes stay, every pixel gets gradient, average pooling is left alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gantricks import Trick, UserError, hookimpl
from gantricks.engine import state
from gantricks.networks.base import Discriminator
from gantricks.plugins.strided_downsampling import strided_convolution
from gantricks.testing import Mistake, Played, Settings, TrickHost
from gantricks.testing.measure import close, flows, gradient_in, surgery
from gantricks.testing.record import differences, same_bits

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({}, {"sample": (1, 9, 8), "discriminator": {"network": "resnet", "channels": 4, "pool": "max"}}),
}
OVERRIDES = {"": ["discriminator.network=resnet", "discriminator.pool=max", "discriminator.channels=4"]}
REFUSED: dict[str, str] = {}

MISTAKES = {
    "sizes of odd maps change": Mistake(
        old="not any(missing)",
        new="True",
        caught_by="test_the_size_is_exactly_the_pools",
    ),
    "the new layer reads one pixel of each window": Mistake(
        old="nn.Conv2d(channels, channels, window, stride, padding, dilation)",
        new="nn.Conv2d(channels, channels, 1, stride, padding, dilation)",
        caught_by="trace_law",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """Where a max pool was, an affine map of the same size reads every pixel."""
    done = surgery(played, name, "discriminator")
    pools = {place: module for place, module in done.before.items() if isinstance(module, nn.MaxPool2d)}
    assert pools, "D had no max pool"
    assert done.replaced.keys() == pools.keys()
    network: Any = played.game.discriminator
    was_training = network.training
    network.eval()  # a training pass may change the layer, as spectral norm does
    for (layer, x, y), pool in zip(
        flows(played, "discriminator", [done.after[place] for place in pools], training=False),
        pools.values(),
        strict=True,
    ):
        assert y.shape == pool(x).shape
        assert list(layer.parameters()), "nothing is learned"
        at_zero = layer(torch.zeros_like(x))
        close(layer(2 * x) - at_zero, 2 * (y - at_zero), "twice the maps", rtol=1e-7)
        assert gradient_in(lambda maps, layer=layer: layer(maps).sum(), x).all(), "some pixels do not count"
    network.train(was_training)


MAX = {"network": "resnet", "channels": 4, "pool": "max", "depth": 2}
IMAGES = TrickHost(sample=(1, 9, 8), discriminator=MAX)
DENSE = IMAGES.but(discriminator={**MAX, "network": "densenet", "growth": 3, "layers": 2})
HOSTS = pytest.mark.parametrize("host", [IMAGES, DENSE], ids=["resnet", "densenet"])
PAIRS = st.integers(1, 3) | st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def pools(draw) -> nn.MaxPool2d:
    kernel = draw(PAIRS)
    smallest = kernel if isinstance(kernel, int) else min(kernel)
    padding = draw(st.integers(0, smallest // 2))
    return nn.MaxPool2d(
        kernel, draw(st.none() | PAIRS), padding, draw(st.integers(1, 2)), ceil_mode=draw(st.booleans())
    )


def pooled(network: nn.Module, kind: type[nn.Module]) -> list[str]:
    return [name for name, module in network.named_modules() if isinstance(module, kind)]


@given(pools(), st.integers(1, 4), st.integers(6, 13), st.integers(6, 13))
def test_the_size_is_exactly_the_pools(pool, channels, height, width):
    with torch.device("meta"):
        layer = strided_convolution(pool, channels, (height, width))
        x = torch.empty(2, channels, height, width)
        assert layer(x).shape == pool(x).shape


@given(pools(), st.integers(6, 9), st.integers(6, 9))
def test_each_output_reads_the_pools_own_window(pool, height, width):
    """The pixel that wins in the pool's corner windows is read by the convolution for the same outputs."""
    layer = strided_convolution(pool, 1, (height, width)).double()
    x = torch.rand((1, 1, height, width), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(1)
    for corner in [(0, 0), tuple(n - 1 for n in layer(x).shape[2:])]:
        read = []
        for module in (pool, layer):
            probe = x.clone().requires_grad_()
            module(probe)[0, 0][corner].backward()
            read.append(probe.grad[0, 0] != 0)
        assert read[0].sum() == 1
        assert read[1][read[0]].all()


@pytest.mark.parametrize("size", [(4, 4), (5, 4), (4, 5), (5, 7)])
def test_windows_start_where_the_pools_do(size):
    layer = strided_convolution(nn.MaxPool2d(2, ceil_mode=True), 1, size).double()
    x = torch.rand((1, 1, *size), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(1 if parameter.dim() == 4 else 0)
        out = layer(x)[0, 0]
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            assert out[i, j].item() == pytest.approx(x[0, 0, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].sum().item())


def test_every_pixel_gets_gradient_where_pooling_gives_it_to_one_in_four():
    pool = nn.MaxPool2d(2, ceil_mode=True)
    layer = strided_convolution(pool, 1, (9, 8)).double()
    nn.init.normal_(layer.conv.weight, generator=torch.Generator().manual_seed(0))
    shares = []
    for module in (pool, layer):
        x = torch.rand((1, 1, 9, 8), generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
        module(x).sum().backward()
        shares.append((x.grad != 0).double().mean().item())
    assert shares == [pytest.approx(20 / 72), 1.0]


@HOSTS
def test_every_max_pool_becomes_a_convolution_of_the_same_width_with_its_stride(host):
    network, plain = host.with_trick("strided_downsampling").game().discriminator, host.game().discriminator
    names = pooled(plain, nn.MaxPool2d)
    assert len(names) == 2
    assert not pooled(network, nn.MaxPool2d)
    for name in names:
        layer = network.get_submodule(name)
        conv = layer if isinstance(layer, nn.Conv2d) else layer.conv
        assert conv.stride == conv.kernel_size == (2, 2)
        assert conv.in_channels == conv.out_channels


@HOSTS
def test_the_other_layers_and_all_sizes_stay(host):
    network, plain = host.with_trick("strided_downsampling").game().discriminator, host.game().discriminator
    mine = dict(network.named_parameters())
    for name, parameter in plain.named_parameters():
        assert same_bits(mine[name], parameter)
    images = torch.zeros((3, *host.sample), dtype=torch.float64)
    assert network(images).features.shape == plain(images).features.shape


@HOSTS
def test_the_new_filters_are_random_differ_and_train(host):
    game = host.with_trick("strided_downsampling").game()
    fresh = {n: p.detach().clone() for n, p in game.discriminator.named_parameters() if ".pool." in n and p.dim() == 4}
    weights = [*fresh.values()]
    assert len(weights) == 2
    assert all(weight.std() > 0 for weight in weights)
    assert weights[0].flatten()[:4].tolist() != weights[1].flatten()[:4].tolist()
    game.advance()
    live = dict(game.discriminator.named_parameters())
    assert all(not same_bits(live[name], weight) for name, weight in fresh.items())


def test_finding_the_widths_leaves_batch_norm_and_the_other_streams_alone():
    host = IMAGES.but(discriminator={**MAX, "batch_norm": True})
    game, plain = host.with_trick("strided_downsampling").game(), host.game()
    moved = differences(state.tensors(game), state.tensors(plain))
    assert all(".pool." in name for name in moved), moved
    assert not [hook for m in game.discriminator.modules() for hook in m._forward_pre_hooks.values()]


def test_average_pools_beside_max_pools_are_left_alone():
    class OneAverage(Trick):
        @hookimpl
        def transform_discriminator(self, network: Discriminator) -> Discriminator:
            network.body.down1.pool = nn.AvgPool2d(2, ceil_mode=True)
            return network

    network = IMAGES.with_trick(OneAverage).with_trick("strided_downsampling").game().discriminator
    assert pooled(network, nn.AvgPool2d) == ["body.down1.pool"]
    assert not pooled(network, nn.MaxPool2d)


def test_it_works_where_d_is_given_classes():
    host = IMAGES.but(classes=3, generator={"conditional": True}, discriminator={**MAX, "conditional": True})
    played = host.with_trick("strided_downsampling").train(2)
    assert played.game.non_finite() is None
    assert not pooled(played.game.discriminator, nn.MaxPool2d)


@pytest.mark.parametrize("options", [{}, {"network": "resnet", "pool": "average"}, {"network": "densenet"}])
def test_a_discriminator_without_max_pooling_is_refused_with_the_hint(options):
    with pytest.raises(UserError, match='pool = "max"'):
        IMAGES.but(discriminator=options).with_trick("strided_downsampling").plan()
