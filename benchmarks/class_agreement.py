"""How often a conditional run's samples are of the class that was asked for.

    python benchmarks/class_agreement.py runs/conditional
    python benchmarks/class_agreement.py runs/conditional --step 1000 --per-class 500 --json

A small convolutional classifier is trained on real images only, those of the run's own data, and judges samples of the
run: its *agreement* is the share of them that it gives the class that the generator was given. What it says of real
images that it was not trained on, its accuracy, is printed beside it, class by class: a generator whose samples were
drawn from the data would agree about as often. Agreement far above accuracy is no merit, it means that samples are
easier to tell apart than clothes are. Sharpness and variety are not measured here; look at the samples.

Everything is a function of --seed and the run: the split into training and held-out images, the classifier, the
latents. Nothing is drawn from torch's global generator.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gantricks import Problem, Registry, Rng, UserError, checkpoint, initialise
from gantricks.game import Game
from gantricks.pictures import to_pixels
from gantricks.rng import Clock
from gantricks.run import plan_recipe

LEAST_SAMPLES = 1000
BATCH = 50


class Classifier(nn.Module):
    """Images (B, C, H, W) in [-1, 1] of any size to class logits (B, K)."""

    init_std = None  # He et al. 2015, as `initialise` has it

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        layers = OrderedDict[str, nn.Module]()
        for number, (inner, outer) in enumerate(pairwise((channels, 32, 64, 64, 128, 128))):
            layers[f"conv{number}"] = nn.Conv2d(inner, outer, 3, padding=1, bias=False)
            layers[f"norm{number}"] = nn.BatchNorm2d(outer)
            layers[f"activation{number}"] = nn.ReLU()
            if number in (0, 2):
                layers[f"pool{number}"] = nn.MaxPool2d(2)
        self.body = nn.Sequential(layers)
        self.head = nn.Linear(128, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images).mean((2, 3)))
        return logits


def trained_classifier(images: Tensor, classes: Tensor, count: int, epochs: int, rng: Rng) -> Classifier:
    """A classifier of `count` classes, taught `classes` (N,) by `images` (N, C, H, W) in [-1, 1], which are mirrored
    and moved by up to 2 pixels at random.
    """
    with torch.device("meta"):
        network = Classifier(images.shape[1], count)
    initialise(network.to_empty(device="cpu"), rng)
    network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.05)
    steps = epochs * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    for _ in range(epochs):
        for chosen in rng.permutation(len(images)).split(BATCH):
            if len(chosen) == BATCH:  # batch norm wants whole batches
                loss = cross_entropy(network(varied(images[chosen], rng)), classes[chosen], label_smoothing=0.1)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return network.eval()


def varied(images: Tensor, rng: Rng, reach: int = 2) -> Tensor:
    """Each image (B, C, H, W) mirrored in half of the cases; the whole batch moved by up to `reach` pixels."""
    mirrored = torch.where(rng.bernoulli((len(images), 1, 1, 1), 0.5), images.flip(3), images)
    down, right = (rng.randint(2, 2 * reach + 1) - reach).tolist()
    moved = nn.functional.pad(mirrored, [reach] * 4, mode="replicate")
    height, width = images.shape[2:]
    return moved[:, :, reach + down : reach + down + height, reach + right : reach + right + width]


@torch.no_grad()
def judged(network: Classifier, images: Tensor) -> Tensor:
    """The class that the network gives each image, int64 (N,)."""
    return torch.cat([network(part).argmax(1) for part in images.split(500)])


def shares(right: Tensor, classes: Tensor, names: Sequence[str]) -> dict[str, float]:
    """The share of `right` (N,) among the members of each class, by name."""
    return {name: right[classes == number].float().mean().item() for number, name in enumerate(names)}


def measure(
    run: str | Path,
    *,
    step: int | None = None,
    per_class: int = 100,
    seed: int = 0,
    epochs: int = 12,
    plugins: Sequence[str | Path] = (),
) -> dict[str, Any]:
    """Agreement of a run's samples, `per_class` of each class and 1,000 in all at least, with a classifier that was
    trained on four fifths of the real images.

    Raises UserError for a run whose generator is given no classes.
    """
    folder = Path(run)
    plan, placement = plan_recipe(folder / "recipe.toml", ["train.device=cpu"], Registry([Path(p) for p in plugins]))
    names = plan.description.class_names
    if not plan.description.is_images or not getattr(plan.recipe.generator.options, "conditional", False):
        raise UserError(
            Problem(
                "the run's generator is given no classes of images", str(folder), "name a conditional run of images"
            )
        )
    found = checkpoint.checkpoints(folder)
    if not found or (step is not None and step not in found):
        raise UserError(Problem("there is no such checkpoint", str(folder), f"there are: {', '.join(map(str, found))}"))
    step = max(found) if step is None else step

    dataset = plan.source.load()
    game = Game(plan, dataset, placement)
    game.load(*checkpoint.load(found[step]))
    count = len(names) * max(per_class, -(-LEAST_SAMPLES // len(names)))
    samples = network_input(to_pixels(game.sample(count, seed)))
    asked = torch.arange(count) % len(names)

    rng = Rng(seed, "class_agreement", Clock())
    order = rng.permutation(len(dataset.samples)).numpy()
    images, classes = network_input(dataset.samples[order]), torch.from_numpy(dataset.classes[order])
    held_out = len(images) // 5
    classifier = trained_classifier(images[held_out:], classes[held_out:], len(names), epochs, rng)
    known = judged(classifier, images[:held_out]) == classes[:held_out]
    agreed = judged(classifier, samples) == asked
    return {
        "run": str(folder),
        "step": step,
        "seed": seed,
        "classifier": {
            "trained_on": len(images) - held_out,
            "held_out": held_out,
            "accuracy": known.float().mean().item(),
            "per_class": shares(known, classes[:held_out], names),
        },
        "samples": count,
        "agreement": agreed.float().mean().item(),
        "per_class": shares(agreed, asked, names),
    }


def network_input(images: np.ndarray) -> Tensor:
    """uint8 (N, H, W, C) to float32 (N, C, H, W) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2) / 127.5 - 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a conditional run")
    parser.add_argument("--step", type=int, help="which checkpoint; the newest when left out")
    parser.add_argument(
        "--per-class", type=int, default=100, help=f"samples of each class; {LEAST_SAMPLES} in all at least"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the split, of the classifier and of the latents")
    parser.add_argument("--plugin", type=Path, action="append", default=[], help="a file that holds a trick of the run")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    try:
        found = measure(
            arguments.run,
            step=arguments.step,
            per_class=arguments.per_class,
            seed=arguments.seed,
            plugins=arguments.plugin,
        )
    except UserError as fault:
        print(fault, file=sys.stderr)
        return 2
    if arguments.json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
        return 0
    classifier = found["classifier"]
    print(
        f"{found['samples']:,} samples of {found['run']} at step {found['step']:,}, seed {found['seed']}; a classifier"
    )
    print(f"trained on {classifier['trained_on']:,} real images and tried on {classifier['held_out']:,} others\n")
    print(f"{'':16} {'agreement':>9} {'accuracy on real images':>25}")
    for name in found["per_class"]:
        print(f"{name:16} {found['per_class'][name]:9.1%} {classifier['per_class'][name]:25.1%}")
    print(f"{'overall':16} {found['agreement']:9.1%} {classifier['accuracy']:25.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
