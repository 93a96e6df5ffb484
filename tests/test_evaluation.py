"""Evaluating runs on the disk: what is measured, of which state, and what is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import gantricks
from gantricks import Measurement, Metric, Options, UserError, evaluate, train
from gantricks.catalogue import registry
from gantricks.catalogue.index import shipped
from gantricks.catalogue.registry import Registry
from gantricks.data.base import Description
from gantricks.engine.subject import GameSubject
from gantricks.metrics.base import EvaluationFacts
from gantricks.runs.evaluation import default_metrics
from gantricks.runs.opening import open_run
from gantricks.testing import TrickHost

RING = """
name = "ring"
seed = 3
[data]
source = "ring"
samples = 500
batch_size = 16
[generator]
network = "mlp"
hidden = [8]
latent_dim = 2
[discriminator]
network = "mlp"
hidden = [8]
[train]
steps = 4
checkpoint_every = 2
device = "cpu"
"""
CLASSES = """
name = "classes"
[data]
source = "npz"
path = "{path}"
batch_size = 4
[generator]
network = "dcgan"
channels = 4
depth = 2
conditional = true
latent_dim = 3
[discriminator]
network = "dcgan"
channels = 4
depth = 2
[train]
steps = 2
device = "cpu"
precision = "fp32"
[tricks.auxiliary_classifier]
[evaluate.held_out_error]
"""


class Counts(Metric):
    """Says how much there was to see."""

    figures = {"samples": "higher", "mean": "lower"}

    def problems(self, facts: Any) -> list[str]:
        return ["2 samples at least"] if facts.samples < 2 else []

    def measure(self, subject: Any) -> Measurement:
        images = np.concatenate([images for images, _ in subject.generated(subject.samples)])
        return Measurement({"samples": len(images), "mean": float(images.mean())}, {"seed": subject.seed})

    def floor(self, subject: Any) -> Measurement:
        reals = np.concatenate([images for images, _ in subject.reals(10)])
        return Measurement({"samples": 10, "mean": float(reals.mean())})


class Compares(Metric):
    """Remembers what it was given."""

    figures = {"mean": "lower"}
    seen: ClassVar[list[Any]] = []

    def problems(self, facts: Any) -> list[str]:
        self.seen.append(facts)
        return []

    def measure(self, subject: Any) -> Measurement:
        reals = np.concatenate([images for images, _ in subject.reals(len(subject.dataset.samples))])
        self.seen.append((subject.dataset, subject.lessons, reals))
        return Measurement({"mean": float(reals.mean())})


class Demanding(Metric):
    """Has an option without a default."""

    figures = {"mean": "lower"}

    class Config(Options):
        level: int


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ring")
    (folder / "recipe.toml").write_text(RING)
    return train(folder / "recipe.toml", run_dir=folder / "run").run


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, draw = tmp_path_factory.mktemp("data") / "set.npz", np.random.default_rng(0)
    arrays = {
        f"x_{split}": draw.integers(0, 256, (n, 8, 8), dtype=np.uint8) for split, n in (("train", 20), ("test", 9))
    }
    np.savez(path, y_train=np.arange(20) % 3, y_test=np.arange(9) % 3, **arrays)
    return path


@pytest.fixture(scope="module")
def classified(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classified")
    (folder / "recipe.toml").write_text(CLASSES.format(path=archive))
    return train(folder / "recipe.toml", run_dir=folder / "run").run


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        EntryPoint(name, f"{__name__}:{name.title()}", "gantricks.metrics")
        for name in ("counts", "compares", "demanding")
    ]
    monkeypatch.setattr(EntryPoint, "load", lambda point: globals()[point.attr])
    monkeypatch.setattr(registry, "entry_points", lambda group: [p for p in found if p.group == group])


def files(run: Path) -> dict[Path, str]:
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in run.rglob("*") if path.is_file()}


def refusal(*arguments: Any, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        evaluate(*arguments, **options)
    return str(caught.value)


def test_what_suits_the_data_is_measured_and_nothing_is_written(ring: Path) -> None:
    before = files(ring)
    (found,) = evaluate(ring)
    assert before == files(ring)
    assert (found.metric, found.use, found.step) == ("mixture_coverage", "mixture_coverage", 4)
    assert next(iter(found.better.items())) == ("total_variation", "lower")
    assert found.better["modes"] == "higher"
    assert list(found.measurement.values) == list(found.better)
    assert found.floor is not None
    assert found.floor.values["modes"] == 8
    assert found.seconds > 0


def test_the_same_arguments_give_the_same_figures_and_another_seed_others(ring: Path) -> None:
    def mean(**options: Any) -> float:
        return evaluate(ring, ["counts"], samples=30, **options)[0].measurement.values["mean"]

    assert mean() == mean()
    assert mean(seed=1) != mean()
    assert mean(step=2) != mean()
    assert mean(step=4) == mean()


def test_the_newest_checkpoint_is_the_state_that_is_measured(ring: Path) -> None:
    subject = GameSubject(open_run(ring).view("cpu").game(), 30, 0)
    found = evaluate(ring, ["counts"], samples=30)[0]
    assert Counts(Counts.Config()).measure(subject) == found.measurement


def test_the_number_of_samples_is_the_recipes_unless_it_is_said(ring: Path) -> None:
    assert evaluate(ring, ["counts"])[0].measurement.values["samples"] == 5000
    assert evaluate(ring, ["counts"], samples=30)[0].measurement.values["samples"] == 30


def test_metrics_come_in_the_order_in_which_they_are_named_each_once(ring: Path) -> None:
    found = evaluate(ring, ["counts", "mixture_coverage", "counts"], samples=20)
    assert [each.metric for each in found] == ["counts", "mixture_coverage"]


def test_all_metrics_look_at_one_subject(ring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    measure = Counts.measure
    monkeypatch.setattr(Counts, "measure", lambda self, subject: (seen.append(subject), measure(self, subject))[1])
    monkeypatch.setattr(Demanding, "Config", Counts.Config)
    monkeypatch.setattr(Demanding, "measure", Counts.measure)
    evaluate(ring, ["counts", "demanding"], samples=3)
    assert seen[0] is seen[1]


def test_without_a_floor_reals_are_left_alone(ring: Path) -> None:
    found = evaluate(ring, ["counts", "mixture_coverage"], samples=20, floor=False)
    assert [each.floor for each in found] == [None, None]


def test_progress_and_the_seed_reach_the_metrics(ring: Path) -> None:
    told: list[tuple[str, int, int]] = []
    found = evaluate(ring, ["counts"], samples=130, seed=7, progress=lambda *words: told.append(words))
    assert [words for words in told if words[0] == "generating"] == [
        ("generating", 64, 130),
        ("generating", 128, 130),
        ("generating", 130, 130),
    ]
    assert found[0].measurement.facts["seed"] == 7


def test_the_recipes_instances_are_measured_under_their_names_with_their_options(tmp_path: Path) -> None:
    text = RING + '[evaluate]\nsamples = 50\n[evaluate.few]\nuse = "mixture_coverage"\npoints = 40\n[evaluate.counts]\n'
    (tmp_path / "recipe.toml").write_text(text)
    run = train(tmp_path / "recipe.toml", run_dir=tmp_path / "run").run
    few, counts = evaluate(run)
    assert (few.metric, few.use, few.measurement.facts["samples"]) == ("few", "mixture_coverage", 40)
    assert counts.measurement.values["samples"] == 50
    assert [each.metric for each in evaluate(run, ["few"])] == ["few"]
    assert evaluate(run, ["mixture_coverage"])[0].measurement.facts["samples"] == 2500
    assert "did you mean 'few'?" in refusal(run, ["fewer"])
    # a metric that this machine cannot measure is in nobody's way until it is asked for
    assert "counts: 2 samples at least" in refusal(run, samples=1)
    assert gantricks.sample(run, 4)
    assert [each.metric for each in evaluate(run, ["few"], samples=1)] == ["few"]


def test_the_test_error_is_that_of_the_checkpoint_on_the_held_out_part(classified: Path, archive: Path) -> None:
    (found,) = evaluate(classified)
    game = open_run(classified).view("cpu").game()
    with np.load(archive) as stored:
        images = stored["x_test"][:, None].astype(np.float32) / np.float32(127.5) - 1
        wrong = int((GameSubject(game, 1, 0).classify(images).argmax(1) != stored["y_test"]).sum())
    assert found.measurement.facts["wrong"] == wrong
    assert found.measurement.values["error"] == pytest.approx(100 * wrong / 9)
    assert found.floor is None


# ---------------------------------------------------------------- what suits the data


def names(host: TrickHost, *provided: str) -> Iterator[str]:
    plan = host.plan()
    object.__setattr__(plan.facts, "provided", plan.facts.provided | set(provided))

    class Any_(Registry):
        def load(self, kind: str, name: str) -> Any:
            return registry.Found(name, Lenient, "test")

    return [planned.use for planned in default_metrics(plan, Any_())]


class Lenient(Metric):
    """Takes any option."""

    class Config(Options):
        extractor: str = ""


def test_what_is_measured_without_being_named_suits_the_data() -> None:
    images = TrickHost(sample=(1, 8, 8), classes=3)
    assert names(TrickHost()) == []
    assert names(TrickHost(), "mixture") == ["mixture_coverage"]
    assert names(TrickHost(sample=(1, 8, 8))) == []
    assert names(images) == ["frechet_distance", "kernel_distance"]
    assert names(images, "held_out") == ["frechet_distance", "kernel_distance"]
    assert names(images, "held_out", "class_logits") == ["frechet_distance", "kernel_distance", "held_out_error"]


def test_a_metric_that_nobody_asked_for_is_left_out_with_a_warning(ring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gantricks.planning import measured

    both = (({"vectors"}, "counts", {}), ({"mixture"}, "mixture_coverage", {}))
    monkeypatch.setattr(measured, "DEFAULTS", both)
    warned: list[str] = []
    found = evaluate(ring, samples=1, warn=warned.append)
    assert [each.metric for each in found] == ["mixture_coverage"]
    assert warned == ["left out, counts: 2 samples at least"]
    monkeypatch.setattr(measured, "DEFAULTS", both[:1])
    assert "counts: 2 samples at least" in refusal(ring, samples=1)
    monkeypatch.setattr(measured, "DEFAULTS", ())
    assert "none is known to suit its data" in refusal(ring)


# ---------------------------------------------------------------- refusals


def test_everything_that_is_wrong_with_the_metrics_is_said_at_once(ring: Path) -> None:
    said = refusal(ring, ["mixture_coverag", "held_out_error", "counts", "demanding", "sharpness"], samples=1)
    assert "--metric mixture_coverag: neither the recipe nor gantricks has a metric 'mixture_coverag'" in said
    assert "did you mean 'mixture_coverage'?" in said
    assert "--metric held_out_error: held_out_error: it needs held_out" in said
    assert "--metric held_out_error: held_out_error: it needs class_logits" in said
    assert "--metric counts: counts: 2 samples at least" in said
    assert "--metric demanding: level: this key is missing" in said
    assert "there are: " in said
    assert all(name in said.rpartition("there are: ")[2] for name in shipped("metrics"))


def test_a_metric_of_a_file_that_cannot_be_made_is_a_problem_that_names_the_file(ring: Path, tmp_path: Path) -> None:
    (tmp_path / "fussy.py").write_text(
        'from gantricks import Metric\n\n\nclass Fussy(Metric):\n    """It is never made."""\n\n'
        "    figures = {'value': 'lower'}\n\n    def __init__(self, config):\n        raise ValueError('not today')\n\n"
        "    def measure(self, subject): ...\n"
    )
    said = refusal(ring, ["fussy"], plugins=[tmp_path / "fussy.py"])
    assert "fussy.py: making Fussy with its options fails: ValueError: not today" in said


def test_too_few_reals_are_a_problem_of_the_users(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(RING.replace("samples = 500", "samples = 9").replace("size = 16", "size = 4"))
    run = train(tmp_path / "recipe.toml", run_dir=tmp_path / "run").run
    assert "10 real samples are wanted, and the data holds 9" in refusal(run, ["counts"], samples=5)


def test_no_run_no_checkpoint_and_no_such_step_are_told(ring: Path, tmp_path: Path) -> None:
    assert "there is no such folder" in refusal(tmp_path / "nothing")
    assert "there are: 2, 4" in refusal(ring, step=3)
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "recipe.toml").write_text(RING)
    assert "the run has no checkpoint yet" in refusal(bare)


def test_a_generator_that_makes_nothing_finite_is_told(ring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gantricks.networks.base import Generator

    forward = Generator.forward
    monkeypatch.setattr(Generator, "forward", lambda *inputs: forward(*inputs) * float("nan"))
    assert "the generator's samples are not finite (NaN or infinity) after 4 steps" in refusal(ring)


def test_other_data_than_that_of_the_training_is_told(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(RING)
    run = train(tmp_path / "recipe.toml", run_dir=tmp_path / "run").run
    written = (run / "recipe.toml").read_text()
    (run / "recipe.toml").write_text(written.replace("samples = 500", "samples = 400"))
    warned: list[str] = []
    evaluate(run, ["counts"], samples=10, warn=warned.append)
    assert warned == ["the data is not that of the beginning: 500 samples then, 400 now"]


# ---------------------------------------------------------------- reals that training never saw


HELD_OUT = 'evaluate.reals="held_out"'


def test_samples_are_compared_with_half_of_what_is_held_out_and_the_other_half_teaches(classified, archive):
    Compares.seen.clear()
    evaluate(classified, ["compares"], overrides=[HELD_OUT])
    facts, (compared, lessons, reals) = Compares.seen
    with np.load(archive) as stored:
        images, classes = stored["x_test"], stored["y_test"]
    assert (len(compared.samples), len(lessons.samples)) == (4, 5) == (facts.description.count, 9 - 4)
    assert facts.held_out
    found = {
        image.tobytes(): int(k)
        for part in (compared, lessons)
        for image, k in zip(part.samples[..., 0], part.classes, strict=True)
    }
    assert found == {image.tobytes(): int(k) for image, k in zip(images, classes, strict=True)}
    assert {image.tobytes() for image in reals} == {
        image.tobytes() for image in compared.samples.transpose(0, 3, 1, 2) / np.float32(127.5) - np.float32(1)
    }
    # the halves are those of every seed, step and run
    evaluate(classified, ["compares"], overrides=[HELD_OUT], seed=7)
    assert all(
        np.array_equal(a.samples, b.samples) for a, b in zip(Compares.seen[3][:2], (compared, lessons), strict=True)
    )


def test_without_it_the_data_of_training_is_both(classified):
    Compares.seen.clear()
    evaluate(classified, ["compares"])
    _, (compared, lessons, _) = Compares.seen
    assert compared is lessons
    assert len(compared.samples) == 20


def test_a_run_that_holds_out_nothing_is_not_compared_with_that(ring, tmp_path):
    with pytest.raises(UserError, match="holds out nothing") as refusal:
        evaluate(ring, overrides=[HELD_OUT])
    assert "x_test and y_test" in str(refusal.value)
    (tmp_path / "recipe.toml").write_text(RING + '[evaluate]\nreals = "held_out"\n')
    with pytest.raises(UserError, match=r"recipe.toml:\d+: evaluate.reals: the data holds out nothing"):
        train(tmp_path / "recipe.toml", run_dir=tmp_path / "run")


def test_the_classifier_is_taught_by_the_half_that_is_not_compared_with(classified, monkeypatch):
    from gantricks.metrics.extractors import classifier

    taught = []
    monkeypatch.setattr(classifier, "taught", lambda dataset, *_: taught.append(dataset))
    extractor = classifier.Classifier(classifier.Classifier.Config())
    for held_out in (False, True):
        subject = GameSubject(open_run(classified).view("cpu", [HELD_OUT] if held_out else []).game(None), 4, 0)
        with pytest.raises(AttributeError):  # the stand-in has taught nothing
            extractor.prepare(subject)
        assert taught[-1] is subject.lessons
        assert (subject.lessons is subject.dataset) is not held_out


def test_a_judge_of_captions_is_not_taught_by_what_is_held_out():
    metric = Registry(installed=False).load("metrics", "caption_agreement").cls
    description = Description((3, 8, 8), 500, condition=4, held_out=500)
    for held_out, said in ((True, "taught by the data of training"), (False, "")):
        facts = EvaluationFacts(10, None, description, frozenset(), held_out)
        assert said in " ".join(metric(metric.Config()).problems(facts))
        assert bool(metric(metric.Config()).problems(facts)) is held_out
