"""The seconds of training until samples are as good as those of PyTorch's DCGAN example after 2,000 steps.

    python benchmarks/time_to_quality.py --data fashion_mnist.npz                   the main job, fp32
    python benchmarks/time_to_quality.py --data fashion_mnist.npz --precision bf16 --seeds 3
    python benchmarks/time_to_quality.py --data fashion_mnist.npz --recipe dcgan --set generator.channels=16
    python benchmarks/time_to_quality.py --data fashion_mnist.npz --target 2.2 --reference-seconds 540

The archive holds grey images and their classes: x_train, y_train to learn from, x_test, y_test to compare with. Both
contestants see the same images at 32×32, in batches of 64.

The example is `hand_written` in common.py: networks of 64 maps, Adam at 2e-4, fp32, plain weights. Its samples are
drawn in training mode, as the example draws its pictures. The recipe's samples are those of its sampling generator.
Quality is the Fréchet distance of 5,000 samples to half of the held-out images, in the features of a classifier that
the other half has taught. Only training is timed: no start, no compilation, no measurement. `--target` and
`--reference-seconds` give the example's figures where they are known from an earlier run on the same machine.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from common import WIDE, Slices, Workload, arguments, begin, game, hand_written, material, write

from gantricks.data.base import Dataset
from gantricks.engine import sampling
from gantricks.metrics.base import as_generated, halves
from gantricks.metrics.extractors.classifier import Classifier, Network, taught
from gantricks.metrics.frechet_distance import distance_of_moments, moments

SAMPLES = 5000
CHUNK = 50
"""The number of steps between two measurements of a recipe."""


@dataclass
class Judge:
    """Measures samples by a classifier, beside real images that neither it nor a generator has seen."""

    network: Network
    accuracy: float
    reals: Any

    def distance(self, images: Iterator[np.ndarray]) -> float:
        return distance_of_moments(self.reals, moments(map(partial(features, self.network), images)))


@torch.no_grad()
def features(network: Network, images: np.ndarray) -> np.ndarray:
    return network.features(torch.from_numpy(images)).double().numpy()


def judge(held_out: Dataset) -> Judge:
    compared, lessons = halves(held_out)
    assert lessons.classes is not None
    known = taught(lessons, int(lessons.classes.max()) + 1, Classifier.Config())
    images, _ = as_generated(compared, np.arange(min(SAMPLES, len(compared.samples))))
    parts = (features(known.network, part) for part in np.array_split(images, 20))
    return Judge(known.network, known.accuracy, moments(parts))


def data(parsed: Any) -> list[str]:
    return ["data.source=npz", f"data.path={parsed.data}", "data.image_size=32", "data.batch_size=64"]


def example(parsed: Any, judge: Judge) -> tuple[float, float]:
    """(seconds of training, distance at the end) of the published loop."""
    given = material(Workload("dcgan", (*data(parsed), *WIDE), 1))
    step, batches = hand_written(given), Slices(given)
    began = time.perf_counter()
    for _ in range(parsed.reference_steps):
        step(next(batches))
    seconds = time.perf_counter() - began

    def samples() -> Iterator[np.ndarray]:
        with torch.no_grad():
            for _ in range(0, SAMPLES, given.batch_size):
                yield given.generator(torch.randn(given.batch_size, given.latent_dim)).numpy()

    return seconds, judge.distance(samples())


def ours(
    parsed: Any, judge: Judge, seed: int, target: float, most: float
) -> tuple[float | None, list[dict[str, float]]]:
    """(seconds until the distance is at most `target`, or None after `most` seconds; the curve)."""
    playing = game(Workload(parsed.recipe, (*data(parsed), f"seed={seed}", *parsed.set), 1), precision=parsed.precision)
    seconds, curve = 0.0, []
    while seconds < most:
        began = time.perf_counter()
        for _ in range(CHUNK):
            playing.advance()
        seconds += time.perf_counter() - began
        found = judge.distance(images for images, _ in sampling.samples(playing, SAMPLES, 0))
        curve.append({"step": playing.finished, "seconds": round(seconds, 3), "distance": round(found, 4)})
        print(f"  seed {seed}  step {playing.finished:5}  {seconds:7.1f} s  {found:7.3f}", flush=True)
        if found <= target:
            return seconds, curve
    return None, curve


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", required=True, help="an .npz archive with x_train, y_train, x_test, y_test")
    parser.add_argument("--recipe", default="dcgan_soft_labels")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a further key of the recipe")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="the recipe's own")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--reference-steps", type=int, default=2000)
    parser.add_argument("--target", type=float, help="the example's distance, where it is known")
    parser.add_argument("--reference-seconds", type=float, help="the example's time, where it is known")
    parsed = parser.parse_args()
    if (parsed.target is None) != (parsed.reference_seconds is None):
        parser.error("--target and --reference-seconds go together")
    head = begin(parsed, precision=parsed.precision, recipe=parsed.recipe, overrides=parsed.set)

    torch.manual_seed(0)  # the example draws its latents from torch's own generator
    plan = game(Workload(parsed.recipe, tuple(data(parsed)), 1)).plan
    held_out = plan.source.held_out()
    if held_out is None:
        parser.error(f"{parsed.data} holds out no images: it needs x_test and y_test")
    judging = judge(held_out)
    print(f"the classifier is right on {judging.accuracy:.1%} of what it has not seen")
    seconds, target = parsed.reference_seconds, parsed.target
    if target is None:
        seconds, target = example(parsed, judging)
    print(f"the example: {target:.3f} after {seconds:.1f} s")
    found = [ours(parsed, judging, seed, target, 2 * seconds) for seed in range(parsed.seeds)]
    reached = [at for at, _ in found if at is not None]
    ratio = median(reached) / seconds if len(reached) == len(found) else None
    print(f"{parsed.recipe}: {'not reached by every seed' if ratio is None else f'{ratio:.3f} of the time'}")
    write(
        parsed.out,
        head,
        {
            "example": {"seconds": seconds, "distance": target, "steps": parsed.reference_steps},
            "seconds": [at for at, _ in found],
            "curves": [curve for _, curve in found],
            "ratio": ratio,
        },
    )


if __name__ == "__main__":
    main()
