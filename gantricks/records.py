"""The records that hooks pass on: a batch of samples, D's output, and a network that a trick adds to the game."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from gantricks.optimizer_options import SGD, Adam, AdamW


class Batch(NamedTuple):
    """Samples that are all real or all fake, with what belongs to each. Every trick keeps classes and conditions with
    their images.

    `images`: (B, C, H, W) in [-1, 1], or (B, D) for vector data. `classes`: (B,) int64, or None. `condition`: (B, E),
    or None: numbers that describe each image, such as the embedding of its caption, or the other half of a pair that D
    judges.
    """

    images: Tensor
    classes: Tensor | None = None
    condition: Tensor | None = None

    @property
    def size(self) -> int:
        return self.images.shape[0]

    def with_images(self, images: Tensor) -> Batch:
        """Return a batch of other images with the same classes and conditions."""
        return self._replace(images=images)

    def detach(self) -> Batch:
        return Batch(self.images.detach(), self.classes, None if self.condition is None else self.condition.detach())


class Latents(NamedTuple):
    """What G is given: `generator(*latents)`.

    `z`: (B, latent_dim). `classes`: (B,) int64 where G is conditional, else None. `condition`: (B, E) where G is
    conditioned, else None.
    """

    z: Tensor
    classes: Tensor | None = None
    condition: Tensor | None = None


Sampler = Callable[[Latents], Tensor]
"""Makes samples of what G is given for them: images (B, C, H, W) or vectors (B, D)."""


class Out(NamedTuple):
    """The discriminator's output for a batch.

    `logits`: (B, 1). `features`: (B, A), the output of its last layer before the head. `class_logits`: (B, K), or None
    when it does not classify.
    """

    logits: Tensor
    features: Tensor
    class_logits: Tensor | None = None

    def split(self, count: int) -> tuple[Out, Out]:
        """Return the outputs for the first `count` samples, and for the others."""
        parts = [None if part is None else part.split([count, part.shape[0] - count]) for part in self]
        first, others = zip(*(part or (None, None) for part in parts), strict=True)
        return Out(*first), Out(*others)

    def detach(self) -> Out:
        logits, features, class_logits = self
        return Out(logits.detach(), features.detach(), None if class_logits is None else class_logits.detach())

    def to(self, dtype: torch.dtype) -> Out:
        logits, features, class_logits = self
        return Out(logits.to(dtype), features.to(dtype), None if class_logits is None else class_logits.to(dtype))


@dataclass(frozen=True)
class Companion:
    """A further player: a network that a trick adds to the game, such as an encoder or a classifier.

    It is trained by `optimizer` in the step of the player `learns_in`: the gradients of that player's loss reach it as
    they reach the player, and one update moves both. It waits where the player's gate is closed.
    """

    network: nn.Module
    optimizer: Adam | AdamW | SGD
    learns_in: Literal["d", "g"] = "g"
