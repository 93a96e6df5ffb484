"""Strided convolutions instead of max pooling: the discriminator learns how to halve its maps.

Average pooling, whose gradient is dense already, is left as it is. Sizes stay exactly what they were.

The trick needs a discriminator with max pooling: `network = "resnet"` or `"densenet"` with `pool = "max"`. `dcgan` has
strided convolutions from the outset. List the trick before tricks that treat every convolution, such as weight norm.
"""

from __future__ import annotations

from collections import OrderedDict
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from gantricks import Context, Discriminator, Trick, hookimpl

Size = tuple[int, int]


def strided_convolution(pool: nn.MaxPool2d, channels: int, size: Size) -> nn.Module:
    """A convolution from `channels` to `channels` maps with the window, stride and padding of `pool`.

    It takes (B, C, *size) to exactly the size that `pool` gives; where the pool rounds up, zeros are appended at the
    right and at the bottom. Source: Springenberg et al. 2015, Striving for Simplicity, §2.
    """
    window, stride, padding, dilation = map(_pair, (pool.kernel_size, pool.stride, pool.padding, pool.dilation))
    conv = nn.Conv2d(channels, channels, window, stride, padding, dilation)
    pooled = pool(torch.empty((1, 1, *size), device="meta")).shape[2:]
    missing = [
        max(0, (after - 1) * s + d * (w - 1) + 1 - (before + 2 * p))
        for after, before, w, s, p, d in zip(pooled, size, window, stride, padding, dilation, strict=True)
    ]
    if not any(missing):
        return conv
    return nn.Sequential(OrderedDict([("pad", nn.ZeroPad2d((0, missing[1], 0, missing[0]))), ("conv", conv)]))


def _pair(value: int | Size) -> Size:
    return (value, value) if isinstance(value, int) else value


class StridedDownsampling(Trick):
    """Strided convolutions instead of max pooling: D halves its maps by learned filters that read every pixel.

    Max pooling sends gradient to one pixel in four and none to the rest, so what G learns through it is sparse. The GAN
    hacks list counts it, with ReLU, among the things that upset the game. A convolution with the same window and stride
    lets every pixel count.

    When it hurts: it adds weights, C² per pixel of the window for each pool of C maps, and D grows stronger with them.
    The new filters start random, so D does not start as the same function.

    Source: GAN hacks list, point 5; Radford et al. 2016, §3; Springenberg et al. 2015, §2.
    """

    needs = {"discriminator_convolutions", "discriminator_max_pool"}
    replaces = {"discriminator_max_pool"}

    @hookimpl
    def transform_discriminator(self, network: Discriminator, ctx: Context) -> Discriminator:
        for name, (channels, size) in _inputs_of_pools(network, ctx).items():
            pool: Any = network.get_submodule(name)

            def make(pool: Any = pool, channels: int = channels, size: Size = size) -> nn.Module:
                return strided_convolution(pool, channels, size)

            network.set_submodule(name, ctx.build(name, make, like=network))
        return network


def _inputs_of_pools(network: Discriminator, ctx: Context) -> dict[str, tuple[int, Size]]:
    """The number and size of the maps that reach each max pool, by the pool's name, found by showing D a sample."""
    seen: dict[str, tuple[int, Size]] = {}
    copy = deepcopy(network).eval()
    for name, module in copy.named_modules():
        if isinstance(module, nn.MaxPool2d):

            def note(module: nn.Module, args: Any, name: str = name) -> None:
                _, channels, height, width = args[0].shape
                seen[name] = channels, (height, width)

            module.register_forward_pre_hook(note)
    with torch.no_grad():
        batch = ctx.data.take(torch.arange(min(4, ctx.data.count), device=ctx.device))
        if network.conditioned:  # a trick may give D conditions that the data does not have
            batch = batch._replace(condition=batch.images.new_zeros((batch.size, network.condition)))
        copy(*batch)
    return seen
