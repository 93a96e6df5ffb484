"""The classifier of the data's own labels: one result per data and options, kept, and rebuilt when damaged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gantricks.data.base import Dataset
from gantricks.data.fashion_mnist import FashionMnist
from gantricks.errors import UserError
from gantricks.metrics.extractors import classifier as module
from gantricks.metrics.extractors.classifier import Classifier, Network, taught
from gantricks.metrics.teaching import moved, network_input
from gantricks.rng import Clock, Rng

FEW = Classifier.Config(steps=25)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GANTRICKS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def same(one, other):
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def refuse(*arguments, **options):
    raise AssertionError("it is trained again")


def test_one_result_for_the_same_data_whatever_the_generators_and_threads(clothes, cache, monkeypatch, tmp_path):
    state = torch.random.get_rng_state()
    first = taught(clothes, 2, FEW)
    assert torch.equal(torch.random.get_rng_state(), state)
    monkeypatch.setenv("GANTRICKS_CACHE", str(tmp_path / "other"))
    torch.rand(3)
    threads = torch.get_num_threads()
    torch.set_num_threads(3 - min(threads, 2))
    try:
        again = taught(Dataset(clothes.samples.copy(), clothes.classes.copy()), 2, FEW)
        assert torch.get_num_threads() == 3 - min(threads, 2)
    finally:
        torch.set_num_threads(threads)
    assert same(first.network, again.network)
    assert first.accuracy == again.accuracy > 0.8
    assert first.held_out == 40


def test_trained_while_gradients_are_off(clothes):
    with torch.inference_mode():
        found = taught(clothes, 2, FEW)
    assert found.accuracy > 0.8


def test_kept_and_read_back(clothes, monkeypatch):
    first = taught(clothes, 2, FEW)
    monkeypatch.setattr(module, "train", refuse)
    state = torch.random.get_rng_state()
    again = taught(clothes, 2, FEW)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert same(first.network, again.network)
    assert again[1:] == first[1:]
    assert not again.network.training
    layouts = [[weight.stride() for weight in found.network.parameters()] for found in (first, again)]
    assert layouts[0] == layouts[1], "the same weights laid out otherwise give other last bits"
    for count in (1, 9, 256):
        images = network_input(clothes.samples[:count])
        assert torch.equal(first.network(images), again.network(images))


@pytest.mark.parametrize("what", ["samples", "classes", "steps", "count"])
def test_other_data_or_options_give_another_one(clothes, cache, what):
    taught(clothes, 2, FEW)
    samples, classes = clothes.samples.copy(), clothes.classes.copy()
    if what == "samples":
        samples[7, 3, 3] ^= 1
    if what == "classes":
        classes[7] ^= 1
    taught(Dataset(samples, classes), 3 if what == "count" else 2, Classifier.Config(steps=24 + (what != "steps")))
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove weights", "remove state", "forge accuracy", "empty"])
def test_a_damaged_one_is_trained_anew(clothes, cache, damage):
    first = taught(clothes, 2, FEW)
    (folder,) = cache.iterdir()
    weights, state = folder / "network.safetensors", folder / "state.json"
    content = weights.read_bytes()
    if damage == "flip":
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "truncate":
        weights.write_bytes(content[:1000])
    elif damage == "remove weights":
        weights.unlink()
    elif damage == "remove state":
        state.unlink()
    elif damage == "empty":
        state.write_text("")
    else:
        state.write_text(json.dumps(json.loads(state.read_text()) | {"accuracy": 1.5}))
    again = taught(clothes, 2, FEW)
    assert same(first.network, again.network)
    assert again.accuracy == first.accuracy
    assert [path.name for path in cache.iterdir()] == [folder.name], "nothing is left over"
    assert weights.read_bytes() == content


def test_a_cache_that_cannot_be_written_is_named(clothes, cache):
    cache.write_text("a file where the folder should be")
    with pytest.raises(UserError, match="GANTRICKS_CACHE"):
        taught(clothes, 2, FEW)


def test_the_accuracy_is_that_of_images_it_never_saw(clothes, monkeypatch):
    seen = []
    train = module.train

    def spy(samples, *arguments):
        seen.append(samples)
        return train(samples, *arguments)

    monkeypatch.setattr(module, "train", spy)
    found = taught(clothes, 2, FEW)
    (samples,) = seen
    left = {image.tobytes() for image in clothes.samples} - {image.tobytes() for image in samples}
    assert len(samples) == 360
    held_out = np.array([image.tobytes() in left for image in clothes.samples])
    assert held_out.sum() == found.held_out == 40
    right = module.classify(found.network, network_input(clothes.samples[held_out])).numpy()
    assert found.accuracy == (right == clothes.classes[held_out]).mean()


@pytest.mark.parametrize("shape", [(8, 8), (28, 28), (33, 31), (64, 20), (150, 150), (200, 5)])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_gives_the_same_number_of_features(shape, channels):
    network = Network(channels, 4).eval()
    images = torch.zeros(2, channels, *shape)
    assert network.features(images).shape == (2, Classifier.dimension)
    assert network(images).shape == (2, 4)


def test_an_image_has_the_same_features_in_any_company(clothes, subject_of):
    extractor = Classifier(FEW)
    extractor.prepare(subject_of(clothes, np.zeros((1, 1, 12, 12), np.float32), ("a", "b")))
    images = network_input(clothes.samples[:6]).numpy()
    alone = np.concatenate([extractor.features(image[None]) for image in images])
    np.testing.assert_allclose(extractor.features(images), alone, rtol=1e-4, atol=1e-5)
    assert extractor.features(images).dtype == np.float64
    np.testing.assert_allclose(extractor.probabilities(images).sum(1), 1)


def test_moving_shifts_each_image_on_its_own_by_up_to_a_pixel():
    images = torch.arange(2 * 3 * 8 * 9.0).reshape(2, 3, 8, 9)
    seen = set()
    for seed in range(100):
        found = moved(images, Rng(seed, "test", Clock()))
        shifts = []
        for image, original in zip(found, images, strict=True):
            row, column = divmod(int(image[0, 4, 4] - original[0, 0, 0]), 9)
            shifts.append((row - 4, column - 4))
            wanted = original[:, row - 3 : row + 3, column - 3 : column + 4]
            assert torch.equal(image[:, 1:7, 1:8], wanted), "all channels and pixels move together"
        seen.add(tuple(shifts))
    single = {(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)}
    assert {first for first, _ in seen} == {second for _, second in seen} == single
    assert any(first != second for first, second in seen)


def test_few_images_are_refused(subject_of, clothes):
    few = Dataset(clothes.samples[:99], clothes.classes[:99])
    subject = subject_of(few, np.zeros((1, 1, 12, 12), np.float32), ("a", "b"))
    assert "100 or more" in Classifier(FEW).problems(subject.description)[0]
    assert Classifier(FEW).problems(subject_of(clothes, subject.fakes).description) == []


@pytest.mark.slow
def test_the_embedded_images_are_learnt():
    dataset = FashionMnist(FashionMnist.Config()).load()
    assert taught(dataset, 10, Classifier.Config()).accuracy >= 0.85


def test_class_agreement_still_starts():
    script = Path(__file__).parents[2] / "benchmarks" / "class_agreement.py"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script, "nowhere"], capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert "nowhere" in done.stderr
