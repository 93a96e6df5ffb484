"""Instance norm instead of batch norm: each sample is normalised by itself.

Batch norm also does not go with penalties on D's gradient or with D's batches of mixed provenance. With instance norm a
sample's images and scores are its own. Eval mode computes what training does. A batch of 1 works.

`players` says whose norms are replaced. Each of these players needs convolutions and batch norm (`batch_norm = true`).
Weights and biases are taken over.

virtual_batch_norm is the more expensive alternative for G.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from gantricks import Context, Discriminator, Generator, Players, Problem, Trick, UserError, hookimpl

_BatchNorm = nn.modules.batchnorm._BatchNorm


def instance_norm_like(norm: Any) -> nn.InstanceNorm2d:
    """An instance norm with the width, eps, weight and bias of a 2d batch norm: (B, C, H, W) to the same.

    Each map of each sample is normalised with its own mean and variance over H × W, in training and in eval alike.

    Source: Ulyanov et al. 2016, Instance Normalization.
    """
    with torch.device("meta"):
        instance = nn.InstanceNorm2d(norm.num_features, norm.eps, affine=norm.affine)
    instance.weight, instance.bias = norm.weight, norm.bias
    return instance


class InstanceNorm(Trick):
    """Instance norm instead of batch norm in G, in D, or in both: each map of each sample is normalised by itself.

    Batch norm makes a sample depend on the others of its batch and is noisy in small batches. Instance norm keeps
    activations in scale without any of this.

    When it hurts: it erases the mean and the contrast of every map, so a layer can no longer say how strong something
    is in the whole image. This matters most for D and for small maps. Where batches are large and clean, batch norm is
    usually better.

    Source: GAN hacks list, point 4 (where batch norm is not an option); Ulyanov et al. 2016.
    """

    needs = {
        "generator_batch_norm",
        "generator_convolutions",
        "discriminator_batch_norm",
        "discriminator_convolutions",
    }
    replaces = {"generator_batch_norm", "discriminator_batch_norm"}

    class Config(Trick.Config):
        players: Annotated[Players, Field(description="whose norms are replaced")] = Players()

    config: Config

    @classmethod
    def facts(cls, config: Config) -> dict[str, Any]:
        def of_these(names: Collection[str]) -> set[str]:
            return {name for name in names if name.partition("_")[0] in config.players}

        return {"needs": of_these(cls.needs), "replaces": of_these(cls.replaces)}

    @hookimpl
    def transform_generator(self, network: Generator, ctx: Context) -> Generator:
        found: Generator = self._transform(network, "generator", ctx.name)
        return found

    @hookimpl
    def transform_discriminator(self, network: Discriminator, ctx: Context) -> Discriminator:
        found: Discriminator = self._transform(network, "discriminator", ctx.name)
        return found

    def _transform(self, network: Any, player: str, name: str) -> Any:
        if player not in self.config.players:
            return network
        for place, norm in [(place, m) for place, m in network.named_modules() if isinstance(m, _BatchNorm)]:
            if not isinstance(norm, nn.BatchNorm2d):
                raise UserError(
                    Problem(
                        f"the {player}'s {place} normalises vectors, which have no height and width to take means over",
                        f"tricks.{name}",
                        "use a network whose batch norms all follow convolutions, or name the other player",
                    )
                )
            network.set_submodule(place, instance_norm_like(norm))
        return network
