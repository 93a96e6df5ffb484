"""Feeds training with real data, on the device. The order of the samples is a function of seed and epoch."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from gantricks.data.base import Dataset
from gantricks.data.stand_in import reference_conditions
from gantricks.planning.device import Placement, resident_budget
from gantricks.records import Batch
from gantricks.rng import permutation

Raw = tuple[Tensor, Tensor | None, Tensor | None]
"""Samples in their stored form, their classes and their conditions."""


class StaticBatches:
    """The raw batches of a step in tensors that keep their memory, so that a captured step can read them.

    The first step that is played with them records its batches. After `rewind`, later steps get the same tensors, into
    which `fill` has copied the new batches.
    """

    def __init__(self) -> None:
        self._batches: list[Raw] = []
        self._position: int | None = None

    def rewind(self) -> None:
        self._position = 0

    def fill(self, feed: Feed) -> None:
        """Copy the batches of the next step from `feed` into the tensors."""
        for batch in self._batches:
            for kept, drawn in zip(batch, feed.draw(), strict=True):
                if kept is not None and drawn is not None:
                    kept.copy_(drawn)

    def next(self, feed: Feed) -> Raw:
        if self._position is None:
            self._batches.append(feed.draw())
            return self._batches[-1]
        self._position += 1
        return self._batches[self._position - 1]


class Feed:
    """Draws batches of real samples.

    The samples form one endless sequence: epoch after epoch, each in its own order. `cursor` is the position in this
    sequence, and all that a checkpoint needs. Images are stored as uint8 and drawn as real numbers in [-1, 1]. They
    stay on the device when they fit `budget` bytes. Otherwise they are gathered from the memory map one batch ahead.
    """

    def __init__(
        self,
        dataset: Dataset,
        seed: int,
        batch_size: int,
        placement: Placement,
        classes: int = 0,
        budget: int | None = None,
    ) -> None:
        self.seed = seed
        self.batch_size = batch_size
        self.count = len(dataset.samples)
        self.classes = classes
        self.is_images = dataset.samples.ndim == 4
        self.cursor = 0
        self.static: StaticBatches | None = None
        self.data = Data(self)
        self._device, self._dtype = placement.device, placement.dtype
        if budget is None:
            budget = resident_budget(placement.device)
        self._samples: Tensor | None = None
        self._stored: np.ndarray = dataset.samples
        if dataset.samples.nbytes <= budget:
            self._samples = torch.from_numpy(np.array(dataset.samples)).to(self._device)
        own = ((dataset.classes, torch.int64), (dataset.conditions, self._dtype))
        self._on_host = [None if rows is None else torch.from_numpy(np.array(rows)).to(dtype) for rows, dtype in own]
        self._classes, self._conditions = (None if rows is None else rows.to(self._device) for rows in self._on_host)
        self.reference_conditions = reference_conditions(dataset)
        self._orders: dict[int, Tensor] = {}
        self._worker = ThreadPoolExecutor(1, "gantricks-feed") if self._samples is None else None
        self._ahead: tuple[tuple[int, int], Future[Raw]] | None = None

    @property
    def class_of_each(self) -> Tensor | None:
        """The class of every sample, int64 (count,) on the device, or None where the data has no classes."""
        return self._classes

    @property
    def resident(self) -> bool:
        """Whether the samples live on the device."""
        return self._samples is not None

    def next(self) -> Batch:
        """The next `batch_size` samples of the sequence."""
        return self._batch(*(self.static.next(self) if self.static else self.draw()))

    def draw(self) -> Raw:
        """The next `batch_size` samples of the sequence, on the device, in their stored form."""
        start, size = self.cursor, self.batch_size
        self.cursor += size
        indices = self._indices(start, size)
        if self._samples is not None:
            return self._samples.index_select(0, indices), self._classes_of(indices), self.conditions_of(indices)
        read = self._ahead[1].result() if self._ahead and self._ahead[0] == (start, size) else self._read(indices)
        following = self._indices(self.cursor, size)
        assert self._worker
        self._ahead = ((self.cursor, size), self._worker.submit(self._read, following))
        samples, *others = read
        classes, conditions = (part if part is None else self._sent(part) for part in others)
        return self._sent(samples), classes, conditions

    def take(self, indices: Tensor) -> Batch:
        """The samples with these indices, int64 (B,)."""
        raw = (
            self._gather(indices).to(self._device) if self._samples is None else self._samples.index_select(0, indices)
        )
        return self._batch(raw, self._classes_of(indices), self.conditions_of(indices))

    def subset(self, indices: Tensor) -> Subset:
        """The samples with these indices, int64 (n,), for draws within the step. They are put on the device whatever
        their size.
        """
        indices = indices.to(self._device)
        if self._samples is not None:
            return Subset(self, self._samples, indices, self._classes_of(indices), self.conditions_of(indices))
        rows = torch.arange(len(indices), device=self._device)
        stored = self._gather(indices).to(self._device)
        return Subset(self, stored, rows, self._classes_of(indices), self.conditions_of(indices))

    def _classes_of(self, indices: Tensor) -> Tensor | None:
        return None if self._classes is None else self._rows(self._classes, indices.to(self._device))

    def conditions_of(self, indices: Tensor) -> Tensor | None:
        """The conditions of the samples with these indices, (B, E), or None where the data has none."""
        if self._conditions is None:
            return None
        return self._rows(self._conditions, indices.to(self._device))

    def _rows(self, of_each: Tensor, indices: Tensor) -> Tensor:
        if len(of_each) < self.count:  # made-up samples share a few
            indices = indices % len(of_each)
        return of_each.index_select(0, indices)

    def _batch(self, raw: Tensor, classes: Tensor | None, condition: Tensor | None) -> Batch:
        if not self.is_images:
            return Batch(raw.to(self._dtype), classes, condition)
        # a view (B, C, H, W) of memory (B, H, W, C): the channels_last layout, without a copy
        return Batch(raw.permute(0, 3, 1, 2).to(self._dtype).div_(127.5).sub_(1.0), classes, condition)

    def _read(self, indices: Tensor) -> Raw:
        """Read samples, classes and conditions on the host."""
        classes, conditions = (
            None if of_each is None else self._pinned(self._rows(of_each, indices)) for of_each in self._on_host
        )
        return self._gather(indices), classes, conditions

    def _gather(self, indices: Tensor) -> Tensor:
        return self._pinned(torch.from_numpy(self._stored[indices.cpu().numpy()]))

    def _sent(self, tensor: Tensor) -> Tensor:
        """Copy a tensor to the device. Nothing waits for the copy of one that is pinned."""
        return tensor.to(self._device, non_blocking=True)

    def _pinned(self, tensor: Tensor) -> Tensor:
        return tensor.pin_memory() if self._device.type == "cuda" else tensor

    def _indices(self, start: int, size: int) -> Tensor:
        parts = []
        while size:
            epoch, offset = divmod(start, self.count)
            part = self._order(epoch)[offset : offset + size]
            parts.append(part)
            start, size = start + len(part), size - len(part)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _order(self, epoch: int) -> Tensor:
        if epoch not in self._orders:
            order = permutation(f"{self.seed}/order/{epoch}", self.count)
            if self.resident:
                order = self._sent(self._pinned(order))
            self._orders = {e: o for e, o in self._orders.items() if e >= epoch - 1} | {epoch: order}
        return self._orders[epoch]


class Data:
    """The part of a feed that tricks may read. Members are documented in `gantricks.context.Data`."""

    __slots__ = ("_feed",)

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    @property
    def count(self) -> int:
        return self._feed.count

    @property
    def classes(self) -> int:
        return self._feed.classes

    @property
    def class_of_each(self) -> Tensor | None:
        return self._feed.class_of_each

    def conditions(self, indices: Tensor) -> Tensor | None:
        return self._feed.conditions_of(indices)

    @property
    def batch_size(self) -> int:
        return self._feed.batch_size

    @property
    def is_images(self) -> bool:
        return self._feed.is_images

    def take(self, indices: Tensor) -> Batch:
        return self._feed.take(indices)

    def subset(self, indices: Tensor) -> Subset:
        return self._feed.subset(indices)


class Subset:
    """A selection of the samples of a `Feed`. `take` does not wait for the host.

    `classes` are the classes of the selection, int64 (n,), or None; `conditions` its conditions, (n, E), or None.
    """

    def __init__(
        self, feed: Feed, stored: Tensor, rows: Tensor, classes: Tensor | None, conditions: Tensor | None
    ) -> None:
        self.classes, self.conditions = classes, conditions
        self._feed, self._stored, self._rows = feed, stored, rows

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, positions: Tensor) -> Batch:
        """The samples at these positions in the subset, int64 (B,)."""
        raw = self._stored.index_select(0, self._rows.index_select(0, positions))
        own = (None if rows is None else rows.index_select(0, positions) for rows in (self.classes, self.conditions))
        return self._feed._batch(raw, *own)
