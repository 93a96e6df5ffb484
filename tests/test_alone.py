"""A run stands alone: what sampling needs is in its folder, whatever has become of the data."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gantricks import Trick, UserError, hookimpl, resume, sample, train
from gantricks.catalogue import registry
from gantricks.catalogue.index import shipped
from gantricks.catalogue.registry import Registry
from gantricks.data.base import Description
from gantricks.data.ring import Ring
from gantricks.data.stand_in import POINTS, reference_conditions, reference_points, stand_in
from gantricks.engine import sampling, state
from gantricks.engine.game import Game
from gantricks.engine.start import start
from gantricks.errors import Problem
from gantricks.metrics.base import Measurement, Metric
from gantricks.networks.base import Discriminator
from gantricks.planning.plan import make_plan
from gantricks.report import page, read_run
from gantricks.runs.api import load_game
from gantricks.runs.evaluation import evaluate
from gantricks.runs.folder import MANIFEST
from gantricks.runs.interpolation import interpolate, walk
from gantricks.runs.manifest import FORMAT
from gantricks.runs.opening import open_run
from gantricks.runs.reference import REFERENCE
from gantricks.runs.reporter import Reporter
from gantricks.testing import TrickHost
from gantricks.testing.host import MadeUp
from gantricks.testing.record import differences, snapshot

# ---------------------------------------------------------------- every trick


def hosts(trick: str) -> list[TrickHost]:
    """Runs in which the trick acts: on the smallest data that it takes, and on images with classes."""
    cls = Registry(installed=False).load("tricks", trick).cls
    classes = {"sample": (1, 8, 8), "classes": 3, "generator": {"conditional": True, "batch_norm": True, "depth": 2}}
    found = []
    for changes in ({}, classes):
        host = TrickHost.for_trick(cls, **{"precision": "fp32", "steps": 4, **changes})
        host = host.with_trick(trick, **cls.trial)
        try:
            host.plan()
        except UserError:
            continue
        found.append(host)
    assert found, f"{trick} is in no run"
    return found


def looked_at(game: Game) -> list[np.ndarray]:
    """Everything that is ever shown of a generator and a discriminator."""
    made = [images for images, _ in sampling.samples(game, 70, seed=5)]
    shown = [*made, walk(game, 3, 4, seed=5)]
    network: Discriminator = sampling.evaluated_discriminator(game)
    given = network.conditional or network.conditioned
    if not given and (logits := sampling.class_logits(game, network, made[0])) is not None:
        shown.append(logits)
    return shown


def stands_alone(host: TrickHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is looked at without its data has the same state and shows the same samples."""
    trained = host.train().game
    tensors, numbers, expected = snapshot(trained), state.counters(trained), looked_at(trained)
    with monkeypatch.context() as gone:
        for method in ("describe", "load"):
            gone.delattr(MadeUp, method)  # then it has the base class's, which raises
        description = trained.plan.description
        plan = make_plan(host.recipe(), to_train=False, trained=description)
        there = stand_in(description, conditions=reference_conditions(trained.dataset))  # as a run keeps them
        alone = start(plan, there, trained.placement, budget=0)
    state.load(alone, tensors, numbers)
    assert differences(tensors, snapshot(alone)) == []
    for there, here in zip(expected, looked_at(alone), strict=True):
        assert np.array_equal(there, here), "other samples without the data"


@pytest.mark.parametrize("trick", shipped("tricks"))
def test_what_a_run_shows_depends_on_no_data(trick: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for host in hosts(trick):
        stands_alone(host, monkeypatch)


class Keeper(Trick):
    """Scales latents by a figure of the data that no checkpoint holds."""

    @hookimpl
    def on_setup(self, ctx: Any) -> None:
        self.scale = ctx.data.take(torch.arange(8)).images.std()

    @hookimpl
    def latents(self, z: Any, ctx: Any) -> Any:
        return z * self.scale


class Saver(Keeper):
    """The same figure, among the trick's tensors."""

    def tensors(self) -> Any:
        return {"scale": self.scale}


def test_a_trick_that_keeps_data_to_itself_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    host = TrickHost(precision="fp32", steps=2)
    with pytest.raises(AssertionError, match="other samples"):
        stands_alone(host.with_trick(Keeper), monkeypatch)
    stands_alone(host.with_trick(Saver), monkeypatch)


@given(
    count=st.integers(1, 500),
    shape=st.sampled_from([(1,), (2,), (7,), (1, 4, 4), (3, 5, 2)]),
    classes=st.integers(0, 5),
)
def test_a_stand_in_has_the_form_of_the_data_and_takes_no_memory(count: int, shape: Any, classes: int) -> None:
    description = Description(shape, count, tuple(str(number) for number in range(classes)))
    made = stand_in(description)
    if len(shape) == 3:
        assert made.samples.shape == (count, *shape[1:], shape[0])
        assert made.samples.dtype == np.uint8
    else:
        assert made.samples.shape == (count, *shape)
        assert made.samples.dtype == np.float32
        assert np.isfinite(made.samples).all()
    assert np.unique(made.samples[:, *[0] * len(shape)]).size > 1 or count < 9
    assert made.samples.strides[0] == made.samples.itemsize, "each sample shares all but a number with the one before"
    if classes:
        assert made.classes is not None
        assert set(made.classes.tolist()) == set(range(min(classes, count)))
    else:
        assert made.classes is None


# ---------------------------------------------------------------- on the disk

RECIPE = """
name = "alone"
[data]
source = "{source}"
{keys}
batch_size = 4
[generator]
network = "{network}"
{size}
latent_dim = 3
optimizer = {{ name = "adam", lr = 0.01 }}
[discriminator]
network = "{network}"
{size}
[train]
steps = 4
log_every = 1
sample_every = 4
checkpoint_every = 1
precision = "fp32"
device = "cpu"
capture = "off"
{tricks}
"""


class Listens(Reporter):
    """Keeps what it is warned of, and stops the run at a step."""

    def __init__(self, at: int = 0) -> None:
        self.at = at
        self.told: list[str] = []

    def warn(self, sentence: str) -> None:
        self.told.append(sentence)

    def stepped(self, finished: int) -> None:
        if finished == self.at:
            signal.raise_signal(signal.SIGINT)


def pictures(folder: Path, count: int = 6, colours: int = 1) -> Path:
    """Images in two folders, which are their classes."""
    draw = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 256, (8, 8, 3) if colours == 3 else (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return folder


def of_pictures(data: Path, folder: Path, tricks: str = "") -> Path:
    keys, path = f"path = {json.dumps(str(data))}\nimage_size = 8", folder / "alone.toml"
    size = "channels = 4\ndepth = 2"
    text = RECIPE.format(source="folder", keys=keys, network="dcgan", size=size, tricks=tricks)
    path.write_text(text.replace("latent_dim", "conditional = true\nlatent_dim"))
    return path


def of_points(folder: Path, tricks: str = "") -> Path:
    path = folder / "points.toml"
    keys = "samples = 3000"
    path.write_text(RECIPE.format(source="ring", keys=keys, network="mlp", size="hidden = [8]", tricks=tricks))
    return path


class Counts(Metric):
    """Says how much there was to see."""

    figures = {"samples": "higher", "real": "lower"}

    def measure(self, subject: Any) -> Measurement:
        made = [images for images, _ in subject.generated(subject.samples)]
        reals = [images for images, _ in subject.reals(2)]
        return Measurement({"samples": float(np.concatenate(made).sum()), "real": float(np.concatenate(reals).sum())})


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANTRICKS_CACHE", str(tmp_path / "cache"))
    found = [EntryPoint("counts", f"{__name__}:Counts", "gantricks.metrics")]
    monkeypatch.setattr(EntryPoint, "load", lambda point: globals()[point.attr])
    monkeypatch.setattr(registry, "entry_points", lambda group: [p for p in found if p.group == group])


def tensors_of(run: Path, step: int = 4) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run / "checkpoints" / f"{step:06d}").glob("*.safetensors")}


def shown(run: Path) -> list[bytes]:
    return [image.tobytes() for image in (sample(run, 9, 1), interpolate(run, 2, 4), sample(run, 9, 1, step=2))]


def test_a_run_is_sampled_whatever_has_become_of_its_data(tmp_path: Path) -> None:
    data = pictures(tmp_path / "data")
    run = train(of_pictures(data, tmp_path), run_dir=tmp_path / "run").run
    before = shown(run)
    (data / "broken.png").write_bytes(b"no picture")
    assert shown(run) == before
    for number in range(1, 6):
        (data / f"{number % 2}" / f"{number}.png").unlink()
    assert shown(run) == before
    shutil.rmtree(data)
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "elsewhere").mkdir()
    assert shown(run.rename(tmp_path / "elsewhere" / "moved")) == before


def test_points_are_drawn_over_those_that_the_run_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train(of_points(tmp_path), run_dir=tmp_path / "run").run
    before, load = shown(run), Ring.load
    last = Image.open(run / "samples" / "000004.png").tobytes()
    assert sample(run, POINTS, 0).tobytes() == last, "as training drew it, over the same points"
    monkeypatch.delattr(Ring, "load")
    assert shown(run) == before
    kept = load_game(run).dataset
    points = reference_points(kept)
    assert points is not None
    assert points.shape == (POINTS, 2)
    assert len(kept.samples) == 3000
    (run / REFERENCE).write_bytes(b"no points")
    with pytest.raises(UserError, match=r"reference\.safetensors: the file is damaged"):
        sample(run)
    (run / REFERENCE).unlink()
    monkeypatch.setattr(Ring, "load", load, raising=False)
    assert shown(run) == before, "a run without them asks the data"


def of_an_earlier_version(run: Path) -> None:
    """What runs did not say of themselves before they had a format."""
    manifest = json.loads((run / MANIFEST).read_text())
    for key in ("format", "recipe"):
        del manifest[key]
    manifest["data"] = {key: manifest["data"][key] for key in ("count", "fingerprint")}
    (run / MANIFEST).write_text(json.dumps(manifest))
    (run / REFERENCE).unlink(missing_ok=True)


@pytest.mark.parametrize("points", [True, False])
def test_runs_of_an_earlier_version_are_sampled_with_their_data_and_become_whole(tmp_path: Path, points: bool) -> None:
    data = pictures(tmp_path / "data")
    path = of_points(tmp_path) if points else of_pictures(data, tmp_path)
    run = train(path, run_dir=tmp_path / "run").run
    before = shown(run)
    of_an_earlier_version(run)
    assert shown(run) == before
    assert evaluate(run, ["counts"], samples=6)
    resume(run, step=3)
    shutil.rmtree(data)
    assert shown(run) == before
    assert json.loads((run / MANIFEST).read_text())["format"] == FORMAT


def test_a_run_of_a_format_of_the_future_is_refused_in_a_sentence(tmp_path: Path) -> None:
    run = train(of_points(tmp_path), run_dir=tmp_path / "run").run
    facts = {"format": FORMAT + 1, "gantricks": "99.0", "data": "somewhere else", "sessions": 5}
    (run / MANIFEST).write_text(json.dumps(facts))
    for look in (sample, resume, evaluate, read_run):
        with pytest.raises(UserError, match=f"format {FORMAT + 1}[\\s\\S]*99.0"):
            look(run)  # type: ignore[operator]


def test_what_others_have_written_into_a_manifest_stays(tmp_path: Path) -> None:
    run = train(of_points(tmp_path), run_dir=tmp_path / "run").run
    manifest = json.loads((run / MANIFEST).read_text())
    manifest["note"] = {"of": ["mine", None, 1.5]}
    manifest["sessions"][0]["who"] = "me"
    (run / MANIFEST).write_text(json.dumps(manifest))
    resume(run, step=2)
    now = json.loads((run / MANIFEST).read_text())
    assert now["note"] == manifest["note"]
    assert now["sessions"][0] == manifest["sessions"][0]
    assert len(now["sessions"]) == 2


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("points")
    return train(of_points(folder, "[tricks.ema]"), run_dir=folder / "run").run


ODD_VALUES = [None, -1, 0, 1.5, 2**70, "", "x", [], [1 << 20] * 3, {}, {"a": {}}, [[]]]


@pytest.mark.parametrize("odd", ODD_VALUES, ids=range(len(ODD_VALUES)))
def test_a_manifest_with_an_odd_value_is_refused_in_a_sentence_or_does_no_harm(
    points: Path, tmp_path: Path, odd: Any
) -> None:
    run = Path(shutil.copytree(points, tmp_path / "run"))
    sound = json.loads((run / MANIFEST).read_text())

    def changes(value: Any) -> Iterator[Any]:
        yield odd
        for key, inner in value.items() if isinstance(value, dict) else ():
            yield from ({**value, key: changed} for changed in changes(inner))

    before, refusals = sample(run, 4).tobytes(), list[Problem]()
    for manifest in changes({key: value for key, value in sound.items() if key != "recipe"}):
        (run / MANIFEST).write_text(json.dumps(manifest))
        for look in (lambda run: open_run(run).view("cpu"), load_game):
            try:
                look(run)
            except UserError as error:
                refusals += error.problems
    assert refusals
    assert all(problem.what and problem.where for problem in refusals)
    (run / MANIFEST).write_text(json.dumps(sound))
    assert sample(run, 4).tobytes() == before


# ---------------------------------------------------------------- data that has moved, and other data


def test_moved_data_is_said_once(tmp_path: Path) -> None:
    data = pictures(tmp_path / "data")
    path = of_pictures(data, tmp_path)
    whole = train(path, run_dir=tmp_path / "whole").run
    run = train(path, run_dir=tmp_path / "run", reporter=Listens(2)).run
    moved = data.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"recipe\.toml:\d+: .*data.*\n.*gantricks resume .*run --set data\.path="):
        resume(run)
    listens = Listens(3)
    resume(run, overrides=[f"data.path={moved}"], reporter=listens)
    resume(run, reporter=listens)
    assert listens.told == []
    assert json.loads((run / MANIFEST).read_text())["sessions"][1]["set"] == [f"data.path={moved}"]
    assert tensors_of(run) == tensors_of(whole)
    assert tomllib.loads((run / "recipe.toml").read_text())["data"]["path"] == str(moved)
    assert not list(run.glob("recipe.toml.replaced*"))


def test_only_where_the_data_is_can_be_said_to_resume(tmp_path: Path) -> None:
    run = train(of_pictures(pictures(tmp_path / "data"), tmp_path), run_dir=tmp_path / "run", reporter=Listens(2)).run
    wrong = ["data.image_size=16", "train.steps=9", "generator.latent_dim=4", "data.path.x=1", "nonsense"]
    with pytest.raises(UserError) as refused:
        resume(run, overrides=wrong)
    assert [problem.where for problem in refused.value.problems] == [f"--set {each}" for each in wrong]
    assert "--steps" in refused.value.problems[1].hint


def test_data_in_other_classes_and_of_other_shape_are_told(tmp_path: Path) -> None:
    data = pictures(tmp_path / "data")
    run = train(of_pictures(data, tmp_path), run_dir=tmp_path / "run", reporter=Listens(2)).run
    listens = Listens(3)
    swapped = shutil.copytree(data, tmp_path / "swapped")
    (swapped / "0").rename(tmp_path / "former")
    (swapped / "1").rename(swapped / "0")
    (tmp_path / "former").rename(swapped / "1")
    named = shutil.copytree(data, tmp_path / "named")
    (named / "1").rename(named / "one")
    for other in (swapped, named):
        copy = shutil.copytree(run, tmp_path / f"run-{other.name}")
        resume(copy, overrides=[f"data.path={other}"], reporter=listens)
    assert len(listens.told) == 2
    assert "goes on differently" in listens.told[0]
    assert "classes of the data are not those of the beginning: 0, 1 then, 0, one now" in listens.told[1]
    with pytest.raises(UserError, match=r"samples are 3 × 8 × 8, and the run was trained on 1 × 8 × 8"):
        resume(run, overrides=[f"data.path={pictures(tmp_path / 'colours', colours=3)}"])


def test_classes_that_change_while_pixels_do_not_are_told(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8), dtype=np.uint8)
    data, labels = tmp_path / "data.npz", np.arange(8) % 2
    np.savez(data, images=images, labels=labels)
    text = of_pictures(tmp_path, tmp_path).read_text().replace("image_size = 8", "")
    (tmp_path / "npz.toml").write_text(text.replace('"folder"', '"npz"').replace(str(tmp_path), str(data)))
    run = train(tmp_path / "npz.toml", run_dir=tmp_path / "run", reporter=Listens(2)).run
    np.savez(data, images=images, labels=1 - labels)
    listens = Listens()
    resume(run, reporter=listens)
    assert len(listens.told) == 1
    assert "other classes now" in listens.told[0]
    warned: list[str] = []
    evaluate(run, ["counts"], samples=4, overrides=[f"data.path={data}"], warn=warned.append)
    assert warned == ["the data is not that of the beginning: the same samples have other classes now"]
    assert json.loads((run / MANIFEST).read_text())["sessions"][1]["data"]["labels"]


def test_a_run_is_measured_on_data_that_it_is_told_of(tmp_path: Path) -> None:
    data = pictures(tmp_path / "data")
    run = train(of_pictures(data, tmp_path), run_dir=tmp_path / "run").run
    found = evaluate(run, ["counts"], samples=6)[0].measurement
    moved = data.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"gantricks evaluate .*run --set data\.path="):
        evaluate(run, ["counts"], samples=6)
    there = [f"data.path={moved}"]
    warned: list[str] = []
    assert evaluate(run, ["counts"], samples=6, overrides=there, warn=warned.append)[0].measurement == found
    assert warned == []
    few = pictures(tmp_path / "few", 2)  # fewer than a batch
    assert evaluate(run, ["counts"], samples=2, overrides=[f"data.path={few}"], warn=warned.append)
    assert len(warned) == 1
    with pytest.raises(UserError, match="samples are 1 × 16 × 16, and the run was trained on 1 × 8 × 8"):
        evaluate(run, ["counts"], samples=6, overrides=[*there, "data.image_size=16"])


PLUGIN = '''
"""Noise on the targets of D."""
from gantricks import Trick, hookimpl

class Shaken(Trick):
    """Noise on the targets of D."""

    @hookimpl
    def d_labels(self, labels, ctx):
        return labels + 0.1 * ctx.rng.normal(labels.shape)
'''


def test_a_plugin_is_the_same_wherever_its_file_is(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    here, there = tmp_path / "shaken.py", tmp_path / "there" / "shaken.py"
    here.write_text(PLUGIN)
    path = of_points(tmp_path, "[tricks.shaken]")
    run = train(path, run_dir=tmp_path / "run", plugins=[here], reporter=Listens(2)).run
    here.rename(there)
    with pytest.raises(UserError, match=r"--plugin .*shaken\.py to the command, or where shaken\.py is now"):
        resume(run)
    listens = Listens(3)
    resume(run, plugins=[there], reporter=listens)
    assert listens.told == []
    there.write_text(PLUGIN.replace("0.1", "0.2"))
    resume(run, plugins=[there], reporter=listens)
    assert len(listens.told) == 1
    assert "shaken was" in listens.told[0]


# ---------------------------------------------------------------- names that are not UTF-8

ODD = os.fsdecode(b"caf\xe9")


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    try:
        (tmp_path / ODD).mkdir()
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    monkeypatch.chdir(tmp_path)
    return tmp_path / ODD


def test_a_recipe_and_a_plugin_of_any_name_make_a_run_that_can_be_read(
    odd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, plugin = odd / f"{ODD}.toml", odd / "shaken.py"
    of_points(tmp_path, "[tricks.shaken]").rename(recipe)
    plugin.write_text(PLUGIN)
    monkeypatch.setattr("sys.argv", ["gantricks", "train", str(recipe)])
    run = train(recipe, run_dir=tmp_path / "run", plugins=[plugin], reporter=Listens(2)).run
    listens = Listens()
    assert resume(run, plugins=[plugin], reporter=listens).finished == 4
    assert listens.told == []
    assert sample(run, plugins=[plugin])
    assert "caf\\udce9.toml" in page([read_run(run)])


def test_a_run_in_a_folder_of_any_name_is_looked_at_from_there(
    odd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(of_points(tmp_path), run_dir=tmp_path / "run").run
    before = shown(run)
    moved = run.rename(odd / "run")
    for look in (sample, resume, evaluate):
        with pytest.raises(UserError, match=r"not UTF-8[\s\S]*change into it") as refused:
            look(moved)  # type: ignore[operator]
        str(refused.value).encode()
    page([read_run(moved)]).encode()
    monkeypatch.chdir(odd)
    assert shown(Path("run")) == before
    trained = train(tmp_path / "points.toml").run
    assert shown(trained) == before
    assert resume(trained, step=2).finished == 4


@pytest.mark.parametrize("how", ["run", "override", "here"])
def test_a_name_that_no_recipe_holds_is_refused_before_anything_is_trained(
    odd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    pictures(odd)
    path = of_pictures(odd if how == "run" else Path(), tmp_path)
    folder = tmp_path / ("run" if how != "run" else f"run-{ODD}")
    if how == "here":
        monkeypatch.chdir(odd)
    elif how == "run":
        path = of_points(tmp_path)
    with pytest.raises(UserError, match=r"not UTF-8") as refused:
        train(path, run_dir=folder, overrides=[f"data.path={odd}"] if how == "override" else [])
    str(refused.value).encode()
    assert not folder.exists()
