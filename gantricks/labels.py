"""The few samples whose labels a trick may see."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gantricks.rng import Rng


def labelled_subset(classes: Tensor, count: int, labels: int, rng: Rng) -> Tensor:
    """The indices, int64 (labels,), of labels / count samples of each of `count` classes, drawn at random.

    `classes` (N,) int64. Raises ValueError naming the first class that has too few samples.
    """
    order = rng.permutation(len(classes)).to(classes.device)
    shuffled = classes[order]
    chosen = [order[shuffled == k][: labels // count] for k in range(count)]
    for k, indices in enumerate(chosen):
        if len(indices) < labels // count:
            raise ValueError(f"class {k} has {len(indices)} samples, and {labels // count} are to be labelled")
    return torch.cat(chosen)


def label_problems(labels: int, classes: int, count: int) -> list[str]:
    """Return sentences saying why `labels` of `count` samples of `classes` classes cannot be chosen, for
    `Trick.problems`.
    """
    if classes == 1:
        return ["the data has one class only, so there is nothing to classify; switch the trick off"]
    found = []
    if classes and labels % classes:
        fitting = max(classes, labels - labels % classes)
        found.append(f"{labels} labels cannot be as many for each of {classes} classes; write labels = {fitting}")
    if labels > count:
        found.append(f"{labels} images are to be labelled, and the data holds {count}; write fewer labels")
    return found


def positions(count: int, size: int, rng: Rng) -> Tensor:
    """`size` of `count` positions, int64 (size,): all in random order, then all again, until there are enough."""
    return torch.cat([rng.permutation(count) for _ in range(math.ceil(size / count))])[:size]
