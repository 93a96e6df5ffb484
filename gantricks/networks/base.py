"""What the core, and every trick that does surgery, may rely on in a network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gantricks.options import Options
from gantricks.records import Out
from gantricks.rng import Rng


@dataclass(frozen=True)
class Shapes:
    """What a network must fit. `sample`: (C, H, W) or (D,); `classes`: 0 when the data has none."""

    sample: tuple[int, ...]
    latent_dim: int
    classes: int = 0


class Generator(nn.Module):
    """Latents (B, latent_dim) and, when conditional, classes (B,) to images of `shape`.

    `body` is an `nn.Sequential` of blocks from `inputs(latents, classes)` to the last hidden layer; `head` turns that
    into images. Surgery replaces parts of `body` or `head`; `forward` stays as it is.
    """

    body: nn.Sequential
    head: nn.Module

    def __init__(self, shapes: Shapes, conditional: bool = False) -> None:
        super().__init__()
        self.shape = shapes.sample
        self.latent_dim = shapes.latent_dim
        self.classes = shapes.classes if conditional else 0
        self.conditional = conditional

    def inputs(self, latents: Tensor, classes: Tensor | None) -> Tensor:
        """What the first block of `body` receives."""
        return latents

    def forward(self, latents: Tensor, classes: Tensor | None = None) -> Tensor:
        return self.head(self.body(self.inputs(latents, classes)))


class Discriminator(nn.Module):
    """Images of `shape` and, when conditional, classes (B,) to an `Out`.

    `body` is an `nn.Sequential` of blocks from images to the features (B, A), A = `feature_dim`; `head` turns features
    into logits (B, 1). A conditional discriminator adds the projection ⟨embedding(class), features⟩ to the logit
    (Miyato & Koyama 2018, eq. 3). `class_head`, when a trick sets it, turns features into class logits (B, K).
    """

    body: nn.Sequential
    head: nn.Module
    class_head: nn.Module | None
    projection: nn.Embedding | None

    def __init__(self, shapes: Shapes, feature_dim: int, conditional: bool = False) -> None:
        super().__init__()
        self.shape = shapes.sample
        self.feature_dim = feature_dim
        self.classes = shapes.classes if conditional else 0
        self.conditional = conditional
        self.class_head = None
        self.projection = nn.Embedding(shapes.classes, feature_dim) if conditional else None

    def forward(self, images: Tensor, classes: Tensor | None = None) -> Out:
        features = self.body(images)
        logits = self.head(features)
        if self.projection is not None:
            logits = logits + (self.projection(classes) * features).sum(1, keepdim=True)
        return Out(logits, features, None if self.class_head is None else self.class_head(features))


class Network:
    """A pair of architectures, found by name: one module in `gantricks/networks`, or an entry point in the group
    `gantricks.networks`. The class docstring is its card.

    Either player's half may be missing: leave its Config None. Builders may run under `torch.device("meta")`, so they
    only lay modules out; `initialise` fills every parameter and buffer from a random stream.
    """

    GeneratorConfig: ClassVar[type[Options] | None] = None
    DiscriminatorConfig: ClassVar[type[Options] | None] = None

    @staticmethod
    def problems(role: str, config: Any, shapes: Shapes) -> list[str]:
        """Sentences saying why this architecture cannot be built so; `role` is "generator" or "discriminator"."""
        return []

    @staticmethod
    def capabilities(role: str, config: Any) -> set[str]:
        """What tricks may count on, such as "batch_norm"; seen by them as "generator_batch_norm"."""
        return set()

    @staticmethod
    def generator(config: Any, shapes: Shapes) -> Generator:
        raise NotImplementedError

    @staticmethod
    def discriminator(config: Any, shapes: Shapes) -> Discriminator:
        raise NotImplementedError


def initialise(network: nn.Module, rng: Rng, std: float | None = 0.02) -> None:
    """Fill every parameter and buffer of the layers in `network`, each from the stream named after its module.

    Weights of linear and convolutional layers and embeddings ~ N(0, `std`²), or N(0, 2 / fan_in) where `std` is None
    (He et al. 2015); biases 0; batch norm weights ~ N(1, 0.02²) and fresh running statistics (Radford et al. 2015).
    A layer's values depend on its own name only, never on which other layers exist.
    """
    with torch.no_grad():
        for name, module in network.named_modules():
            stream = rng.fork(name)
            weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.reset_running_stats()
                if weight is not None:
                    weight.copy_(1 + 0.02 * stream.normal(weight.shape))
            elif isinstance(module, nn.Linear | nn.Embedding | nn.modules.conv._ConvNd):
                assert isinstance(weight, Tensor)
                scale = std if std is not None else math.sqrt(2 / _fan_in(module, weight))
                weight.copy_(scale * stream.normal(weight.shape))
            if isinstance(bias, Tensor):
                bias.zero_()


def _fan_in(module: nn.Module, weight: Tensor) -> int:
    if isinstance(module, nn.Embedding):
        return weight.shape[1]
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        return max(1, weight[:, 0].numel() // math.prod(module.stride))
    return weight[0].numel()


def mixes_samples(network: nn.Module) -> bool:
    """Whether, in training, what the network says of one sample depends on the rest of its batch.

    True for batch norm and for any module with an attribute `mixes_samples = True`.
    """
    return any(
        getattr(module, "mixes_samples", isinstance(module, nn.modules.batchnorm._BatchNorm))
        for module in network.modules()
    )


def count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
