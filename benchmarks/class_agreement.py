"""How often a conditional run's samples are of the class that was asked for.

    python benchmarks/class_agreement.py runs/conditional
    python benchmarks/class_agreement.py runs/conditional --step 1000 --per-class 500 --json

The classifier that metrics take their features from, trained on real images only, those of the run's own data, judges
samples of the run: its *agreement* is the share of them that it gives the class that the generator was given. What it
says of real images that it was not trained on, its accuracy, is printed beside it, class by class: a generator whose
samples were drawn from the data would agree about as often. Agreement far above accuracy is no merit, it means that
samples are easier to tell apart than clothes are. Sharpness and variety are not measured here; look at the samples.

The classifier is a function of the data, and --seed says which latents. Nothing is drawn from torch's global generator.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gantricks import Problem, Registry, UserError
from gantricks.engine import sampling, state
from gantricks.engine.start import start
from gantricks.metrics.extractors.classifier import Classifier, classify, taught
from gantricks.metrics.teaching import network_input, tenth_and_rest
from gantricks.pictures import to_pixels
from gantricks.planning.prepare import plan_recipe
from gantricks.runs import checkpoint

LEAST_SAMPLES = 1000


def shares(right: Tensor, classes: Tensor, names: Sequence[str]) -> dict[str, float]:
    """The share of `right` (N,) among the members of each class, by name."""
    return {name: right[classes == number].float().mean().item() for number, name in enumerate(names)}


def measure(
    run: str | Path,
    *,
    step: int | None = None,
    per_class: int = 100,
    seed: int = 0,
    plugins: Sequence[str | Path] = (),
) -> dict[str, Any]:
    """Agreement of a run's samples, `per_class` of each class and 1,000 in all at least, with a classifier that was
    trained on nine tenths of the real images.

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
    game = start(plan, dataset, placement)
    state.load(game, *checkpoint.load(found[step]))
    count = len(names) * max(per_class, -(-LEAST_SAMPLES // len(names)))
    samples = network_input(to_pixels(sampling.sample(game, count, seed)))
    asked = torch.arange(count) % len(names)

    held_out, known = tenth_and_rest(len(dataset.samples))
    classifier = taught(dataset, len(names), Classifier.Config()).network
    assert dataset.classes is not None
    images, classes = network_input(dataset.samples[held_out]), torch.from_numpy(dataset.classes[held_out])
    right = classify(classifier, images) == classes
    agreed = classify(classifier, samples) == asked
    return {
        "run": str(folder),
        "step": step,
        "seed": seed,
        "classifier": {
            "trained_on": len(known),
            "held_out": len(held_out),
            "accuracy": right.float().mean().item(),
            "per_class": shares(right, classes, names),
        },
        "samples": count,
        "agreement": agreed.float().mean().item(),
        "per_class": shares(agreed, asked, names),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a conditional run")
    parser.add_argument("--step", type=int, help="which checkpoint; the newest when left out")
    parser.add_argument(
        "--per-class", type=int, default=100, help=f"samples of each class; {LEAST_SAMPLES} in all at least"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the latents")
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
    except UserError as error:
        print(error, file=sys.stderr)
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
