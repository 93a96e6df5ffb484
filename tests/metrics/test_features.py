"""The choice of an extractor in a recipe, and features that are computed once."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from pydantic import ValidationError

from gantricks.errors import UserError
from gantricks.metrics import features
from gantricks.metrics.base import EvaluationFacts
from gantricks.metrics.extractors.base import Extractor
from gantricks.metrics.features import Extracted, choose, extractor_problems, generated_and_real, real_and_real
from gantricks.metrics.frechet_distance import FrechetDistance
from gantricks.metrics.kernel_distance import KernelDistance
from gantricks.options import Options


class Means(Extractor):
    """The mean level of an image."""

    dimension = 1
    paths = ("weights",)
    prepared = 0

    class Config(Options):
        weights: str | None = None
        scale: float = 1.0

    def prepare(self, subject):
        type(self).prepared += 1

    def features(self, images):
        return self.config.scale * images.mean((1, 2, 3), dtype=np.float64)[:, None]


@pytest.fixture(autouse=True)
def _means(monkeypatch):
    known = features._class
    monkeypatch.setattr(features, "_class", lambda name: Means if name == "means" else known(name))
    monkeypatch.setattr(Means, "prepared", 0)


@pytest.fixture
def subject(subject_of, clothes):
    return subject_of(clothes, np.zeros((30, 1, 12, 12), np.float32), ("a", "b"))


def read(extractor):
    return FrechetDistance.Config.model_validate({"extractor": extractor})


def test_a_name_and_a_table_are_the_same_choice():
    assert read("classifier") == read({"name": "classifier"}) == FrechetDistance.Config.model_validate({})
    assert read({"name": "means", "scale": 2.0}).extractor.options.scale == 2


@pytest.mark.parametrize(
    "extractor", ["classifier", {"name": "classifier", "steps": 9}, {"name": "means", "weights": "there/it.pth"}]
)
def test_a_choice_that_is_written_reads_back(extractor, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written = read(extractor).model_dump(mode="json", exclude_none=True)
    again = FrechetDistance.Config.model_validate(written)
    assert again.model_dump(mode="json", exclude_none=True) == written
    if "weights" in written["extractor"]:
        assert written["extractor"]["weights"] == str(tmp_path / "there/it.pth")
    else:
        assert again == read(extractor)


@pytest.mark.parametrize(
    ("extractor", "said"),
    [
        ("clasifier", "classifier"),
        ({"name": "classifier", "step": 9}, "step: unknown key"),
        ({"name": "classifier", "steps": 0}, "steps: it must be at least"),
        ({"name": "classifier", "steps": "9"}, "steps: it must be a whole number"),
        ({"steps": 9}, "name ="),
        (3, "name ="),
    ],
)
def test_a_wrong_choice_is_refused_in_words(extractor, said):
    with pytest.raises(ValidationError) as caught:
        read(extractor)
    assert said in str(caught.value)


def test_two_metrics_on_the_same_features_draw_once(subject):
    for metric in (FrechetDistance, KernelDistance):
        for extractor in ("means", {"name": "means"}):
            made = metric(metric.Config.model_validate({"extractor": extractor}))
            made.measure(subject)
            made.floor(subject)
    assert subject.calls == [("reals", 30, 0), ("generated", 30), ("reals", 30, 1)]
    assert Means.prepared == 1


def test_other_options_are_other_features(subject):
    one, other = (Extracted(subject, choose({"name": "means", "scale": scale})) for scale in (1.0, 2.0))
    np.testing.assert_allclose(2 * one.reals(9), other.reals(9))


def test_features_go_when_their_subject_goes(subject_of, clothes):
    subject = subject_of(clothes, np.zeros((30, 1, 12, 12), np.float32))
    held = weakref.ref(Extracted(subject, choose("means")).extractor)
    assert held() is not None
    del subject
    gc.collect()
    assert held() is None


def test_features_that_are_not_finite_are_refused(subject_of, clothes):
    images = np.zeros((80, 1, 12, 12), np.float32)
    images[70] = np.nan
    with pytest.raises(UserError) as caught:
        generated_and_real(subject_of(clothes, images), choose("means"))
    (problem,) = caught.value.problems
    assert "generated images are not finite" in problem.what
    assert "earlier step" in problem.hint


def test_fewer_reals_than_samples_are_all_compared(subject_of, clothes):
    subject = subject_of(clothes, np.zeros((500, 1, 12, 12), np.float32))
    compared, floor = generated_and_real(subject, choose("means")), real_and_real(subject, choose("means"))
    assert compared.facts == {"samples": 500, "reals": 400, "extractor": "means", "seed": 3}
    assert floor.facts == {"samples": 200, "reals": 200, "extractor": "means", "seed": 3}
    both = np.sort(np.concatenate([floor.reals, floor.others]), 0)
    np.testing.assert_allclose(both, np.sort(compared.reals, 0), err_msg="the two parts are the data, each image once")


def test_published_names_come_from_the_extractor_alone(subject, monkeypatch):
    metric = FrechetDistance(read("means"))
    assert "called" not in metric.measure(subject).facts
    monkeypatch.setattr(Means, "names", {"frechet_distance": "FID"})
    for found in (metric.measure(subject), metric.floor(subject)):
        assert found.facts["called"] == "FID"
        assert list(found.values) == list(FrechetDistance.figures)


def test_an_extractor_without_probabilities_gives_no_score(subject):
    facts = EvaluationFacts(30, subject.source, subject.description, frozenset({"images"}))
    assert extractor_problems(choose("means"), facts) == []
    assert "no probabilities" in extractor_problems(choose("means"), facts, "probabilities")[0]
