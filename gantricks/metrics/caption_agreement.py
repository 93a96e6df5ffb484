"""Caption agreement: whether a picture shows what its own caption says, and not what another one says."""

from __future__ import annotations

import math
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from gantricks import store
from gantricks.data import cache
from gantricks.data.base import Dataset, Progress, silent
from gantricks.metrics import teaching
from gantricks.metrics.base import EvaluationFacts, Measurement, Metric, Subject, as_generated
from gantricks.metrics.extractors.classifier import WIDTHS, Network
from gantricks.networks.base import initialise
from gantricks.options import Options
from gantricks.rng import Clock, Rng

MAP = 4
"""Height and width of the map of which a picture's features are made: where things stand counts."""
WIDTH = 64
RATE = 3e-3
TEMPERATURE = 0.1
LEAST = 200

# part of every cache name: increase it whenever the same data gives another judge than before
_FORMAT = 1


class Judge(nn.Module):
    """Pictures (B, C, H, W) in [-1, 1] and conditions (B, E) to vectors of length 1, (B, 64) each. The inner product of
    two says how well they fit.
    """

    init_std = None  # He et al. 2015, in `initialise`

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.seen = Network(channels, 1)
        self.seen.head = nn.Identity()  # type: ignore[assignment]
        self.pool = nn.AdaptiveAvgPool2d(MAP)
        self.body = nn.Sequential(nn.Linear(WIDTHS[-1] * MAP * MAP, 256), nn.ReLU())
        self.picture = nn.Linear(256, WIDTH)
        self.text_body = nn.Sequential(nn.Linear(condition, 256), nn.ReLU())
        self.text = nn.Linear(256, WIDTH)

    def pictures(self, images: Tensor) -> Tensor:
        return normalize(self.picture(self.body(self.pool(self.seen.maps(images)).flatten(1))), dim=1)

    def texts(self, conditions: Tensor) -> Tensor:
        return normalize(self.text(self.text_body(conditions)), dim=1)


def contrast(pictures: Tensor, texts: Tensor, conditions: Tensor) -> Tensor:
    """Return the loss of pairs, 0-dim: each picture (B, D) is to fit its own text (B, D) better than the others, and
    each text its own picture. Texts of the same condition (B, E) are not told apart. Source: Radford et al. 2021, fig.
    3.
    """
    scores = pictures @ texts.T / TEMPERATURE
    same = (conditions[:, None] == conditions[None]).all(2) & ~torch.eye(len(scores), dtype=torch.bool)
    scores = scores.masked_fill(same, -math.inf)
    own = torch.arange(len(scores))
    return (cross_entropy(scores, own) + cross_entropy(scores.T, own)) / 2


def train(samples: np.ndarray, conditions: np.ndarray, steps: int, rng: Rng, progress: Progress = silent) -> Judge:
    """Teach a judge from uint8 samples (N, H, W, C) and their conditions (N, E); return it in eval mode.

    Pictures are shifted by up to a pixel at random. Training is on the CPU in float32, on one thread, and draws from
    `rng` only.
    """
    # the caller may have switched gradients off
    with torch.inference_mode(False), torch.enable_grad(), teaching.one_thread():
        judge = _empty(samples.shape[3], conditions.shape[1])
        initialise(judge, rng)
        optimizer = torch.optim.AdamW(judge.parameters(), lr=RATE, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=RATE, total_steps=steps)
        batches = teaching.batches(len(samples), rng)
        for step in range(steps):
            chosen = next(batches)
            images = teaching.moved(teaching.network_input(samples[chosen]), rng)
            told = torch.from_numpy(conditions[chosen])
            loss = contrast(judge.pictures(images), judge.texts(told), told)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if (step + 1) % 20 == 0 or step + 1 == steps:
                progress("teaching the judge", step + 1, steps)
    return judge.eval().requires_grad_(False)


def _empty(channels: int, condition: int) -> Judge:
    with torch.device("meta"):  # torch's own initialisation would draw from its global generator
        judge = Judge(channels, condition)
    judge.to_empty(device="cpu").to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return judge


def taught(dataset: Dataset, steps: int, progress: Progress = silent) -> Judge:
    """Return the judge of a dataset of images with conditions: newly taught by nine tenths of them, or from the cache.
    Raises UserError when the cache cannot be written.
    """
    samples, conditions = dataset.samples, dataset.conditions
    assert conditions is not None
    print_of = teaching.fingerprint(samples, conditions)
    name = cache.cache_name("judge", _FORMAT, WIDTHS, MAP, WIDTH, steps, print_of)

    def teach() -> tuple[store.Tensors, dict[str, Any]]:
        _, known = teaching.tenth_and_rest(len(samples))
        judge = train(samples[known], conditions[known], steps, Rng(0, "judge", Clock()), progress)
        return {"judge": judge.state_dict()}, {}

    tensors, _ = teaching.remembered(name, teach)
    judge = _empty(samples.shape[3], conditions.shape[1])
    judge.load_state_dict(tensors["judge"])
    return judge.eval().requires_grad_(False)


class Scores(NamedTuple):
    """How well pictures fit captions. `own` (n,) and `others` (n, m): the inner product with the picture's own caption,
    and with other ones. `won` (n,): whether its own fits better than all of the others.
    """

    own: np.ndarray
    others: np.ndarray

    @property
    def won(self) -> np.ndarray:
        won: np.ndarray = self.own > self.others.max(1)
        return won


def scores(pictures: np.ndarray, texts: np.ndarray, conditions: np.ndarray, others: int, seed: int) -> Scores:
    """Compare each of `pictures` (n, D) with its own text (n, D) and with `others` texts of other conditions.

    `conditions` (n, E) say which texts are the same. The others are drawn without replacement from all that differ;
    where there are fewer, all are taken.
    """
    unique, kind = np.unique(conditions, axis=0, return_inverse=True)
    kind = kind.reshape(-1)
    first = np.zeros(len(unique), np.int64)
    first[kind[::-1]] = np.arange(len(kind))[::-1]
    choices, draw = texts[first], np.random.default_rng(seed)
    count = min(others, len(unique) - 1)
    found = np.empty((len(pictures), count))
    for row, picture in enumerate(pictures):
        drawn = draw.choice(len(unique) - 1, count, replace=False)
        drawn += drawn >= kind[row]
        found[row] = choices[drawn] @ picture
    return Scores((pictures * texts).sum(1), found)


class CaptionAgreement(Metric):
    """Caption agreement: the share, in %, of generated pictures that fit their own caption better than `others` other
    captions.

    A small network, the judge, is taught by nine tenths of the real pictures which caption belongs to which: both
    become vectors, and their inner product says how well they fit. It is taught once for the data and the options, in
    a few minutes, and kept in the cache. `similarity` is the mean inner product of pictures and their own captions,
    `mismatched` that with other captions; both lie in [-1, 1]. Where captions mean nothing to G, the two are equal and
    the agreement is 100 / (`others` + 1) % on average. The floor is that of the real pictures that the judge has not
    seen.

    When it misleads: pictures that are all alike, or bad to the eye, can agree with their captions. The judge knows no
    more than the data taught it. Captions that mean the same in other words count as others.

    Source: R-precision, Xu et al. 2018, AttnGAN, §4; the judge's loss is that of Radford et al. 2021, CLIP.
    """

    figures = {"agreement": "higher", "similarity": "higher", "mismatched": "lower"}
    needs = frozenset({"images", "conditions", "generator_conditioned"})

    class Config(Options):
        others: Annotated[int, Field(ge=1, le=10_000, description="other captions that each picture is held to")] = 99
        steps: Annotated[int, Field(ge=1, le=1_000_000, description="the judge's training steps of 100 pictures")] = (
            1500
        )

    config: Config

    def problems(self, facts: EvaluationFacts) -> list[str]:
        if facts.held_out:
            return ['its judge is taught by the data of training: write reals = "data"']
        if facts.description.count < LEAST:
            return [f"a judge is not taught by {facts.description.count} pictures: the data must hold {LEAST} or more"]
        return []

    def measure(self, subject: Subject) -> Measurement:
        judge = self._judge(subject)
        conditions = subject.conditions(subject.samples)
        pictures = [_pictures(judge, images) for images, _ in subject.generated(subject.samples)]
        return self._measured(judge, np.concatenate(pictures), conditions, subject)

    def floor(self, subject: Subject) -> Measurement | None:
        """Return the figures of the real pictures that the judge has not seen."""
        judge = self._judge(subject)
        held_out, _ = teaching.tenth_and_rest(len(subject.dataset.samples))
        held_out = held_out[: subject.samples]
        conditions = subject.dataset.conditions
        assert conditions is not None
        images, _ = as_generated(subject.dataset, held_out)
        return self._measured(judge, _pictures(judge, images), np.asarray(conditions[held_out]), subject)

    def _judge(self, subject: Subject) -> Judge:
        steps = self.config.steps
        return subject.once(("judge", steps), lambda: taught(subject.dataset, steps, subject.progress))

    def _measured(self, judge: Judge, pictures: np.ndarray, conditions: np.ndarray, subject: Subject) -> Measurement:
        with torch.no_grad():
            texts = judge.texts(torch.from_numpy(np.array(conditions))).double().numpy()
        found = scores(pictures, texts, conditions, self.config.others, subject.seed)
        share = float(found.won.mean())
        figures = {
            "agreement": 100 * share,
            "similarity": float(found.own.mean()),
            "mismatched": float(found.others.mean()),
        }
        facts = {
            "samples": len(pictures),
            "others": found.others.shape[1],
            "standard_error": 100 * math.sqrt(share * (1 - share) / len(pictures)),
            "seed": subject.seed,
        }
        return Measurement(figures, facts)


@torch.no_grad()
def _pictures(judge: Judge, images: np.ndarray) -> np.ndarray:
    """Return the vectors of images (n, C, H, W), float64 (n, 64)."""
    parts = torch.from_numpy(images).split(500)
    return torch.cat([judge.pictures(part) for part in parts]).double().numpy()
