"""Caption agreement: high where pictures show their captions, at chance where captions are shuffled."""

import math

import numpy as np
import pytest
import torch

from gantricks.data.base import Dataset
from gantricks.metrics import teaching
from gantricks.metrics.base import obstacles
from gantricks.metrics.caption_agreement import CaptionAgreement, Judge, contrast, scores, taught

STEPS = 60


@pytest.fixture(scope="module")
def coloured():
    """Squares of one of eight grey levels at one of four places, and what stands for both, in eight numbers."""
    draw = np.random.default_rng(0)
    level, place = draw.integers(0, 2, 800), draw.integers(0, 4, 800)
    samples = np.zeros((800, 8, 8, 1), np.uint8)
    for picture, bright, where in zip(samples, level, place, strict=True):
        row, column = divmod(int(where), 2)
        picture[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 120 + 130 * int(bright)
    codes = draw.standard_normal((2, 4, 8)).astype(np.float32)
    return Dataset(samples, conditions=codes[level, place])


def metric(**options):
    return CaptionAgreement(CaptionAgreement.Config(**{"others": 5, "steps": STEPS, **options}))


def measured(subject_of, dataset, order, conditions, **options):
    images = np.ascontiguousarray(dataset.samples[order].transpose(0, 3, 1, 2)) / np.float32(127.5) - np.float32(1)
    subject = subject_of(dataset, images)
    subject.conditions = lambda count: conditions[:count]
    subject.progress = lambda *_: None
    return metric(**options).measure(subject), metric(**options).floor(subject)


def test_it_tells_pictures_of_their_captions_from_pictures_of_others(coloured, subject_of):
    order = np.arange(300)
    right, floor = measured(subject_of, coloured, order, coloured.conditions[order])
    wrong, _ = measured(subject_of, coloured, order, coloured.conditions[np.roll(order, 1)])
    assert right.values["agreement"] > 95
    assert floor.values["agreement"] > 95
    assert wrong.values["agreement"] < 40
    assert right.values["similarity"] > right.values["mismatched"] + 0.5
    assert floor.facts["samples"] == 80


def test_one_picture_for_all_captions_agrees_by_chance(coloured, subject_of):
    order = np.zeros(300, int)
    found, _ = measured(subject_of, coloured, order, coloured.conditions[:300])
    assert found.values["agreement"] == pytest.approx(100 / 6, abs=12)
    assert found.facts["others"] == 5


def test_places_count_and_not_contents_alone(coloured, subject_of):
    order = np.arange(300)
    turned = Dataset(coloured.samples[:, ::-1, ::-1].copy(), conditions=coloured.conditions)
    images = np.ascontiguousarray(turned.samples[order].transpose(0, 3, 1, 2)) / np.float32(127.5) - np.float32(1)
    subject = subject_of(coloured, images)
    subject.conditions = lambda count: coloured.conditions[:count]
    subject.progress = lambda *_: None
    assert metric().measure(subject).values["agreement"] < 20


def test_the_loss_is_that_of_both_directions_without_equal_captions():
    pictures, texts = (torch.nn.functional.normalize(torch.randn(4, 3).double()) for _ in range(2))
    conditions = torch.tensor([[0.0], [1.0], [0.0], [2.0]])
    expected = []
    for a, b in ((pictures, texts), (texts, pictures)):
        for i in range(4):
            allowed = [j for j in range(4) if j == i or conditions[j] != conditions[i]]
            values = [math.exp(float(a[i] @ b[j]) / 0.1) for j in allowed]
            expected.append(-math.log(values[allowed.index(i)] / sum(values)))
    assert contrast(pictures, texts, conditions).item() == pytest.approx(np.mean(expected), rel=1e-9)


def test_each_picture_is_held_to_other_captions_only():
    conditions = np.array([[0.0], [0.0], [1.0], [2.0]])
    texts = np.array([[1.0, 0], [1, 0], [0, 1], [-1, 0]])
    found = scores(texts, texts, conditions, others=99, seed=0)
    assert found.others.shape == (4, 2)
    assert found.won.all()
    np.testing.assert_allclose(np.sort(found.others[0]), [-1, 0])
    few = scores(texts, texts, conditions, others=1, seed=0)
    assert few.others.shape == (4, 1)
    assert (few.others == scores(texts, texts, conditions, others=1, seed=0).others).all()


def test_the_judge_is_taught_once_and_the_same_each_time(coloured, monkeypatch, tmp_path):
    first = taught(coloured, STEPS)
    monkeypatch.setattr(teaching, "batches", None)  # whoever teaches fails
    again = taught(coloured, STEPS)
    monkeypatch.undo()
    monkeypatch.setenv("GANTRICKS_CACHE", str(tmp_path))
    anew = taught(coloured, STEPS)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
        assert torch.equal(tensor, anew.state_dict()[name])
    assert isinstance(first, Judge)


def test_what_it_needs(coloured, subject_of):
    subject = subject_of(coloured, np.zeros((10, 1, 8, 8), np.float32))
    lacking = obstacles(metric(), subject.facts(("images",)))
    assert [sentence.split(":")[0] for sentence in lacking] == ["it needs conditions", "it needs generator_conditioned"]
    few = Dataset(coloured.samples[:100], conditions=coloured.conditions[:100])
    facts = subject_of(few, np.zeros((10, 1, 8, 8), np.float32)).facts(
        ("images", "conditions", "generator_conditioned")
    )
    assert "not taught by 100 pictures" in obstacles(metric(), facts)[0]
