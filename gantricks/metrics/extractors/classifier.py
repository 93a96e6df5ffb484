"""A small convolutional network that is trained on the classes of the data itself."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from gantricks import store
from gantricks.data import cache
from gantricks.data.base import Dataset, Description, Progress, silent
from gantricks.metrics import teaching
from gantricks.metrics.base import Subject
from gantricks.metrics.extractors.base import Extractor
from gantricks.metrics.teaching import moved, network_input, one_thread, tenth_and_rest
from gantricks.networks.base import initialise
from gantricks.options import Options
from gantricks.rng import Clock, Rng

WIDTHS = (24, 48, 96, 128)
SIDES = (8, 32)
RATE = 6e-3
LEAST = 100

# part of every cache name: increase it whenever the same data gives another classifier than before
_FORMAT = 1


class Network(nn.Module):
    """A network from images (B, C, H, W) in [-1, 1] to class logits (B, K). `features` returns the input of the head,
    (B, 128).

    Images of more than 32 pixels are reduced to 32 first, so that training and evaluation take the same time at any
    size.
    """

    init_std = None  # He et al. 2015, in `initialise`

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        layers = OrderedDict[str, nn.Module]()
        for number, (inner, outer) in enumerate(pairwise((channels, *WIDTHS))):
            layers[f"conv{number}"] = nn.Conv2d(inner, outer, 3, padding=1, bias=False)
            if number < len(WIDTHS) - 1:
                layers[f"pool{number}"] = nn.MaxPool2d(2)
            layers[f"norm{number}"] = nn.BatchNorm2d(outer)
            layers[f"activation{number}"] = nn.ReLU()
        self.body = nn.Sequential(layers)
        self.head = nn.Linear(WIDTHS[-1], classes)

    def maps(self, images: Tensor) -> Tensor:
        """Return the last maps, (B, 128, h, w)."""
        least, most = SIDES
        height, width = images.shape[2:]
        scale = min(1.0, most / max(height, width))
        size = [max(least, round(side * scale)) for side in (height, width)]
        if size != [height, width]:
            images = interpolate(images, size=size, mode="bilinear", antialias=True)
        found: Tensor = self.body(images)
        return found

    def features(self, images: Tensor) -> Tensor:
        return self.maps(images).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits


def train(
    samples: np.ndarray, classes: np.ndarray, count: int, steps: int, rng: Rng, progress: Progress = silent
) -> Network:
    """Train a network of `count` classes and return it in eval mode.

    `samples` are uint8 (N, H, W, C) with `classes` (N,). They are shifted by up to a pixel at random, but not mirrored,
    because some mirrored digits are other digits. Training is on the CPU in float32, on one thread, and draws from
    `rng` only.
    """
    # the caller may have switched gradients off
    with torch.inference_mode(False), torch.enable_grad(), one_thread():
        network = _empty(samples.shape[3], count)
        initialise(network, rng)
        optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=RATE, total_steps=steps)
        batches = teaching.batches(len(samples), rng)
        for step in range(steps):
            chosen = next(batches)
            images = moved(network_input(samples[chosen]), rng)
            loss = cross_entropy(network(images), torch.from_numpy(classes[chosen]), label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if (step + 1) % 20 == 0 or step + 1 == steps:
                progress("teaching the classifier", step + 1, steps)
    return network.eval().requires_grad_(False)


def _empty(channels: int, classes: int) -> Network:
    """Return a network with uninitialised weights, in the memory format of training. In another memory format the same
    weights give features that differ in the last bits.
    """
    with torch.device("meta"):  # torch's own initialisation would draw from its global generator
        network = Network(channels, classes)
    network.to_empty(device="cpu").to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


@torch.no_grad()
def classify(network: Network, images: Tensor) -> Tensor:
    """Return the class that the network predicts for images (N, C, H, W): int64 (N,)."""
    return torch.cat([network(part).argmax(1) for part in images.split(500)])


class Taught(NamedTuple):
    """A trained network, and its accuracy on the `held_out` images that training did not use."""

    network: Network
    accuracy: float
    held_out: int


def taught(dataset: Dataset, count: int, options: Classifier.Config, progress: Progress = silent) -> Taught:
    """Return the classifier of a labelled dataset of images with `count` classes: newly trained, or from the cache.

    The held-out tenth of the images and every draw of the training are functions of the data and the options. The
    result is stored in the cache folder of `gantricks.data.images`; a damaged entry is trained anew. Raises UserError
    when that folder cannot be written.
    """
    assert dataset.classes is not None
    samples, classes = dataset.samples, np.asarray(dataset.classes, dtype=np.int64)
    print_of = teaching.fingerprint(samples, classes)
    name = cache.cache_name("classifier", _FORMAT, WIDTHS, SIDES, count, options.steps, print_of)

    def teach() -> tuple[store.Tensors, dict[str, Any]]:
        held_out, known = tenth_and_rest(len(samples))
        rng = Rng(0, "classifier", Clock())
        network = train(samples[known], classes[known], count, options.steps, rng, progress)
        right = classify(network, network_input(samples[held_out])).numpy() == classes[held_out]
        return {"network": network.state_dict()}, {"accuracy": float(right.mean()), "held_out": len(held_out)}

    tensors, facts = teaching.remembered(name, teach)
    network = _empty(samples.shape[3], count)
    network.load_state_dict(tensors["network"])
    return Taught(network.eval().requires_grad_(False), facts["accuracy"], facts["held_out"])


class Classifier(Extractor):
    """The last layer of a small convolutional network, 128 features, that is taught the classes of the data itself:
    always at hand, offline, and at home in the data.

    It is trained once, on nine tenths of the images, in less than a minute; its accuracy on the others is a fact of
    every figure. The result is a function of the data and the options, and is kept in `$GANTRICKS_CACHE` (else
    `$XDG_CACHE_HOME/gantricks`, else `~/.cache/gantricks`), which may be deleted at any time. Figures are comparable
    between runs on the same data and options only. It sees what tells the classes apart, and images of more than 32
    pixels reduced to 32: finer detail counts for nothing.
    """

    dimension = WIDTHS[-1]
    needs = frozenset({"images", "classes"})

    class Config(Options):
        steps: Annotated[int, Field(ge=1, le=1_000_000, description="training steps of 100 images")] = 320

    config: Config

    def problems(self, description: Description) -> list[str]:
        if description.count < LEAST:
            return [f"a classifier is not taught by {description.count} images: the data must hold {LEAST} or more"]
        return []

    def prepare(self, subject: Subject) -> None:
        """Train the classifier, or read the one that an earlier evaluation has trained."""
        found = taught(subject.lessons, subject.description.classes, self.config, subject.progress)
        self.network = found.network.to(subject.device)
        self.device = subject.device
        self.facts = {"accuracy": found.accuracy, "held_out": found.held_out}

    def features(self, images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return self.network.features(torch.from_numpy(images).to(self.device)).double().cpu().numpy()

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            logits = self.network(torch.from_numpy(images).to(self.device))
            found: np.ndarray = logits.double().softmax(1).cpu().numpy()
            return found
