"""The convolutional networks that ship, as their common tests and their own see them: small ones, of either role."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from gantricks.networks.base import Discriminator, Generator, Network, Shapes, initialise
from gantricks.networks.dcgan import DCGAN
from gantricks.networks.densenet import DenseNet
from gantricks.networks.resnet import ResNet
from gantricks.options import Options
from gantricks.rng import Clock, Rng


class Family(NamedTuple):
    """A network by its name: options that make it small, the samples it is built for, options of D that are tried
    besides, and options that are out of bounds.
    """

    name: str
    network: type[Network]
    small: Mapping[str, Any]
    sample: tuple[int, ...]
    variants: tuple[Mapping[str, Any], ...]
    wrong: tuple[Mapping[str, Any], ...]

    @property
    def roles(self) -> list[str]:
        return ["generator", "discriminator"] if self.network.GeneratorConfig else ["discriminator"]

    def config(self, role: str, **options: Any) -> Options:
        kind = self.network.GeneratorConfig if role == "generator" else self.network.DiscriminatorConfig
        assert kind is not None
        return kind(**{**self.small, **options})

    def on_meta(
        self, role: str, sample: tuple[int, ...] | None = None, classes: int = 0, latent_dim: int = 5, **options: Any
    ) -> Any:
        """Shapes alone, without numbers."""
        shapes = Shapes(sample or self.sample, latent_dim, classes)
        with torch.device("meta"):
            return getattr(self.network, role)(self.config(role, **options), shapes)

    def build(self, role: str, seed: int = 0, **options: Any) -> Any:
        network = self.on_meta(role, **options).to_empty(device="cpu")
        initialise(network, stream(seed, role))
        return network

    def pair(self, **options: Any) -> tuple[Generator, Discriminator]:
        return self.build("generator", **options), self.build("discriminator", **options)


FAMILIES = {
    "dcgan": Family(
        "dcgan",
        DCGAN,
        {"channels": 3},
        (3, 32, 32),
        ({"kernel": 3}, {"kernel": 4}, {"kernel": 5}),
        (
            *({"channels": 0}, {"channels": 1025}, {"depth": 0}, {"depth": 8}, {"kernel": 2}, {"kernel": 6}),
            *({"width": "tripling"}, {"chanels": 64}),
        ),
    ),
    "resnet": Family(
        "resnet",
        ResNet,
        {"channels": 3},
        (3, 20, 16),
        ({"pool": "average"}, {"pool": "max"}),
        ({"channels": 0}, {"depth": 8}, {"width": "tripling"}, {"pool": "sum"}),
    ),
    "densenet": Family(
        "densenet",
        DenseNet,
        {"channels": 4, "growth": 3, "layers": 2},
        (3, 20, 16),
        ({"pool": "average", "growth": 8}, {"pool": "max", "growth": 8}),
        ({"channels": 0}, {"growth": 0}, {"layers": 33}, {"depth": 8}, {"pool": "sum"}),
    ),
}


def stream(seed: int = 0, name: str = "net") -> Rng:
    return Rng(seed, name, Clock())


def deepest(height: int, width: int) -> int:
    """How often a map of this size can be halved until a side has one pixel."""
    return max(d for d in range(8) if math.ceil(min(height, width) / 2**d) >= 2)


def initialise_leaves_nothing_unfilled(network: Network) -> None:
    """A network that was laid out on meta, and then holds garbage, holds none of it after `initialise`."""
    network.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.fill_(float("nan") if tensor.is_floating_point() else -7)
    initialise(network, stream())
    for name, tensor in network.state_dict().items():
        assert torch.isfinite(tensor).all(), name
        if name.endswith("num_batches_tracked"):
            assert tensor == 0
