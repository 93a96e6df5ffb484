"""The two small records that travel through every hook."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """Samples of one provenance, real or fake; classes follow their images through every trick.

    `images`: (B, C, H, W) in [-1, 1], or (B, D) for vector data. `classes`: (B,) int64, or None.
    """

    images: Tensor
    classes: Tensor | None = None

    @property
    def size(self) -> int:
        return self.images.shape[0]

    def with_images(self, images: Tensor) -> Batch:
        """The same classes beside other images."""
        return Batch(images, self.classes)

    def detach(self) -> Batch:
        return Batch(self.images.detach(), self.classes)


class Out(NamedTuple):
    """What the discriminator says of a batch.

    `logits`: (B, 1). `features`: (B, A), its last layer before the head. `class_logits`: (B, K), or None when it
    does not classify.
    """

    logits: Tensor
    features: Tensor
    class_logits: Tensor | None = None

    def rows(self, start: int, stop: int | None) -> Out:
        """The part that belongs to samples `start:stop`."""
        return Out(*(None if part is None else part[start:stop] for part in self))

    def detach(self) -> Out:
        return Out(*(None if part is None else part.detach() for part in self))

    def to(self, dtype: object) -> Out:
        return Out(*(None if part is None else part.to(dtype) for part in self))
