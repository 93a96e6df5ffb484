"""Runs on the disk: files, resuming, stopping, and what happens when something goes wrong."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from poison import POISON
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gantricks import UserError, resume, sample, store, train
from gantricks.catalogue.index import shipped
from gantricks.catalogue.registry import Registry
from gantricks.engine import sampling
from gantricks.engine.capture import INDUCTOR
from gantricks.engine.start import try_surgery
from gantricks.metrics.base import Measurement, Metric
from gantricks.planning.prepare import plan_recipe
from gantricks.planning.validation import load_recipe
from gantricks.runs import checkpoint
from gantricks.runs.interpolation import interpolate
from gantricks.runs.reporter import Reporter
from gantricks.runs.samples import picture
from gantricks.testing import TrickHost

STEPS = 8
TINY = """
name = "tiny"
seed = 3
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
network = "{discriminator}"
channels = 4
depth = 2
conditional = true
batch_norm = {batch_norm}
[train]
steps = 8
log_every = 1
sample_every = 8
checkpoint_every = 1
keep = "all"
precision = "fp32"
device = "cpu"
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    draw = np.random.default_rng(0)
    np.savez(path, images=draw.integers(0, 256, (10, 8, 8), dtype=np.uint8), labels=np.arange(10) % 2)
    return path


@pytest.fixture
def recipe(data: Path, tmp_path: Path) -> Path:
    return written(data, tmp_path)


def written(data: Path, folder: Path, tricks: dict[str, str] | None = None, discriminator: str = "dcgan") -> Path:
    text = TINY.format(path=data, batch_norm="true", discriminator=discriminator)
    if discriminator == "resnet":
        text = text.replace('network = "resnet"', 'network = "resnet"\npool = "max"')
    for name, options in (tricks or {}).items():
        text += f"[tricks.{name}]\n{options}\n"
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def hashes(run: Path, step: int = STEPS) -> dict[str, str]:
    """Everything that two runs must have in common, byte by byte."""
    files = [run / "recipe.toml", run / "metrics.jsonl", *(run / "samples").glob("*")]
    files += (run / "checkpoints" / checkpoint.checkpoint_name(step)).iterdir()
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def cut(run: Path, step: int, copy: Path) -> Path:
    """A copy of `run` as it was when it had just written the checkpoint at `step`, with later log lines in it."""
    shutil.copytree(run, copy)
    for later, folder in checkpoint.checkpoints(copy).items():
        if later > step:
            shutil.rmtree(folder)
    return copy


# ---------------------------------------------------------------- files


def test_a_run_leaves_the_files_of_the_contract(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = train(recipe)
    assert result.run == Path("runs/tiny")
    assert result.finished == STEPS
    names = {path.name for path in result.run.iterdir()}
    assert {"recipe.toml", "manifest.json", "metrics.jsonl", "samples", "checkpoints"} <= names
    assert any(name.startswith("events.out.tfevents.") for name in names)
    lines = [json.loads(line) for line in (result.run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    wanted = {"loss/d", "loss/g", "loss/d.real", "loss/d.fake", "loss/g.adversarial", "logits/real", "logits/fake"}
    wanted |= {"gradient_norm/d", "gradient_norm/g", "learning_rate/d", "learning_rate/g"}
    assert wanted <= lines[0].keys()
    manifest = json.loads((result.run / "manifest.json").read_text())
    assert manifest["torch"] == torch.__version__
    assert manifest["seed"] == 3
    assert manifest["sessions"][0]["to_step"] == STEPS
    with Image.open(result.pictures[-1]) as picture:
        assert picture.size[0] > 60
    assert {path.suffix for path in result.run.rglob("*") if path.is_file()} <= {
        *(".toml", ".json", ".jsonl", ".png", ".safetensors", ".lock", ""),
        *(path.suffix for path in result.run.glob("events*")),
    }


def test_nothing_is_ever_overwritten(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = train(recipe, overrides=["train.steps=1"])
    second = train(recipe, overrides=["train.steps=1"])
    assert (first.run.name, second.run.name) == ("tiny", "tiny-2")
    with pytest.raises(UserError, match="gantricks resume"):
        train(recipe, run_dir=first.run)


def test_a_folder_without_checkpoint_is_started_afresh_and_its_files_are_kept(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "mine"
    (run / "samples").mkdir(parents=True)
    (run / "metrics.jsonl").write_text('{"step": 1}\n')
    (run / "manifest.json").write_text("{}")
    (run / "slurm-17.out").write_text("a queue's")
    train(recipe, overrides=["train.steps=2"], run_dir=run)
    assert (run / "earlier-1" / "metrics.jsonl").read_text() == '{"step": 1}\n'
    assert (run / "slurm-17.out").read_text() == "a queue's"
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2


def test_data_that_cannot_be_read_leaves_no_folder_behind(recipe: Path, data: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.npz"
    content = bytearray(data.read_bytes())
    content[200] ^= 1
    broken.write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.npz"):
        train(recipe, overrides=[f"data.path={broken}"], run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_resolved_recipe_reproduces_the_run(recipe: Path, tmp_path: Path) -> None:
    first = train(recipe, overrides=["seed=5", "train.steps=8"], run_dir=tmp_path / "a")
    second = train(first.run / "recipe.toml", run_dir=tmp_path / "b")
    assert hashes(first.run) == hashes(second.run)


def test_a_resident_and_a_memory_mapped_run_are_the_same(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train(recipe, run_dir=tmp_path / "a")
    monkeypatch.setattr("gantricks.engine.feed.resident_budget", lambda device: 0)
    second = train(recipe, run_dir=tmp_path / "b")
    assert hashes(first.run) == hashes(second.run)


def test_tensorboard_holds_the_same_curves_the_pictures_and_the_recipe(recipe: Path, tmp_path: Path) -> None:
    run = train(recipe, run_dir=tmp_path / "run").run
    board = EventAccumulator(str(run)).Reload()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for name in lines[0].keys() - {"step"}:
        curve = [(event.step, event.value) for event in board.Scalars(name)]
        assert curve == [(line["step"], pytest.approx(line[name], rel=1e-6)) for line in lines]
    assert "speed/steps_per_second" in board.Tags()["scalars"]
    assert board.Tags()["images"] == ["samples"]
    assert "recipe/text_summary" in board.Tags()["tensors"]


@pytest.mark.parametrize("step", [0, 3])
def test_curves_go_on_without_tangling_after_a_resume(recipe: Path, tmp_path: Path, step: int) -> None:
    run = cut(train(recipe, run_dir=tmp_path / "a").run, step, tmp_path / "b")
    resume(run)
    board = EventAccumulator(str(run), purge_orphaned_data=True).Reload()
    assert [event.step for event in board.Scalars("loss/d")] == list(range(1, STEPS + 1))


def test_a_clock_that_was_set_back_hides_no_step(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train(recipe, run_dir=tmp_path / "run", reporter=_StopAt(4)).run
    for hours, stop in ((1, 6), (2, STEPS)):
        now = time.time() - 3600 * hours
        monkeypatch.setattr("gantricks.runs.logs.time.time", lambda now=now: now)
        resume(run, reporter=_StopAt(stop))
        monkeypatch.undo()
    assert len(list(run.glob("events.*"))) == 3
    board = EventAccumulator(str(run), purge_orphaned_data=True).Reload()
    assert [event.step for event in board.Scalars("loss/d")] == list(range(1, STEPS + 1))
    assert [event.step for event in board.Images("samples")] == [STEPS]


def test_a_full_disk_under_tensorboard_is_a_sentence_with_the_file(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Full:
        def __init__(self, file: object) -> None:
            self.left = 12

        def write(self, data: bytes) -> None:
            self.left -= 1
            if not self.left:
                raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("gantricks.runs.logs.RecordWriter", Full)
    with pytest.raises(UserError, match=r"events\.out\.tfevents.*: No space left on device; the run is"):
        train(recipe, run_dir=tmp_path / "run")
    assert "Traceback" not in "".join(capsys.readouterr())
    assert not [thread for thread in threading.enumerate() if "Async" in type(thread).__name__]


# ---------------------------------------------------------------- resuming

ACTIVE = {
    # options at which a trick does something within eight steps of four images
    "balance_gate": "discriminator = 0.8\ngenerator = 0.4\nwindow = 1",
    "label_flipping": "p = 0.5",
    "network_swap": "keep_every = 2\nswap_every = 3\nlength = 1",
    "ema": "decay = 0.7",
    "historical_averaging": "strength = 0.1",
    "virtual_batch_norm": "reference = 8",
    "minibatch_discrimination": "kernels = 3\ndim = 2",
    "experience_replay": "capacity = 9",
    "batch_size_schedule": "start = 4\nend = 8",
    "failure_watch": "window = 4\ngradient_norm = 0.001",
    "n_critic_schedule": "start = 2\nat = 0.5",
    "semi_supervised": "labels = 10",
    "triple_gan": "labels = 10",
}


def recipe_with(trick: str, data: Path, folder: Path) -> Path:
    """The tiny recipe with one trick, and what it needs."""
    cls = Registry(installed=False).load("tricks", trick).cls
    needs = set(cls.needs)
    beside = {"separate_batches": ""} if "separate_passes" in needs else {}
    network = "resnet" if "discriminator_max_pool" in needs else "dcgan"
    path = written(data, folder, beside | {trick: ACTIVE.get(trick, "")}, network)
    if "generator_styles" in needs:
        head, _, tail = path.read_text(encoding="utf-8").partition("[generator]")
        generator, discriminator, rest = tail.partition("[discriminator]")
        generator = generator.replace('network = "dcgan"', 'network = "style"').replace("batch_norm = true\n", "")
        path.write_text(f"{head}[generator]{generator}{discriminator}{rest}", encoding="utf-8")
    if "generator_two_stages" in needs:
        head, _, tail = path.read_text(encoding="utf-8").partition("[generator]")
        own = '[generator]\nnetwork = "stackgan"\nblocks = 1\nfirst = { channels = 4 }'
        path.write_text(
            head + own + tail.replace('network = "dcgan"', "", 1).replace("depth = 2", "", 1), encoding="utf-8"
        )
    if any(need.endswith("_conditioned") for need in needs):
        text = path.read_text(encoding="utf-8").replace("conditional = true", "conditioned = true")
        scenes = 'source = "scenes"\nimage_size = 16\ncount = 10\ntext_dim = 8'
        text = text.replace(f'source = "npz"\npath = "{data}"', scenes)
        path.write_text(text, encoding="utf-8")
    if "discriminator_conditional" in {*cls.conflicts, *cls.provides}:
        head, _, tail = path.read_text(encoding="utf-8").partition("[discriminator]")
        path.write_text(f"{head}[discriminator]{tail.replace('conditional = true', '')}", encoding="utf-8")
    return path


def all_together(data: Path, folder: Path) -> Path:
    """The tiny recipe with every shipped trick that goes with those before it."""
    chosen: dict[str, str] = {}
    for name in ["separate_batches", *shipped("tricks")]:
        more = chosen | {name: ACTIVE.get(name, "")}
        try:
            try_surgery(plan_recipe(written(data, folder, more), [], Registry(installed=False))[0])
        except UserError:
            continue
        chosen = more
    assert len(chosen) >= 9
    return written(data, folder, chosen)


# what needs a metric is played with one in its own tests
PLAYED = [
    name for name in shipped("tricks") if "metric" not in Registry(installed=False).load("tricks", name).cls.needs
]


@pytest.mark.parametrize("trick", [*PLAYED, "all together", "none"])
def test_a_run_stopped_at_any_step_and_resumed_is_the_run_never_stopped(trick: str, data: Path, tmp_path: Path) -> None:
    if trick in ("none", "all together"):
        path = all_together(data, tmp_path) if trick == "all together" else written(data, tmp_path)
    else:
        path = recipe_with(trick, data, tmp_path)
    whole = train(path, run_dir=tmp_path / "whole").run
    expected = hashes(whole)
    assert len(expected) >= 9
    stops = range(1, STEPS) if trick in ("all together", "none") else (1, 4, 7)
    for step in stops:
        run = cut(whole, step, tmp_path / f"cut-{step}")
        shutil.rmtree(run / "samples", ignore_errors=True)
        resume(run)
        assert hashes(run) == expected, f"resumed at step {step}"


@pytest.mark.slow
@pytest.mark.parametrize("trick", PLAYED)
def test_every_stop_of_every_trick(trick: str, data: Path, tmp_path: Path) -> None:
    whole = train(recipe_with(trick, data, tmp_path), run_dir=tmp_path / "whole").run
    for step in range(1, STEPS):
        run = cut(whole, step, tmp_path / f"cut-{step}")
        resume(run)
        assert hashes(run) == hashes(whole), f"resumed at step {step}"


def test_three_resumes_in_a_chain_end_where_the_run_never_stopped_does(data: Path, tmp_path: Path) -> None:
    path = all_together(data, tmp_path)
    whole = train(path, run_dir=tmp_path / "whole").run
    run = tmp_path / "chain"
    train(path, run_dir=run, reporter=_StopAt(2))
    for step in (4, 5, STEPS):
        resume(run, reporter=_StopAt(step))
    assert hashes(run) == hashes(whole)
    sessions = json.loads((run / "manifest.json").read_text())["sessions"]
    assert [(s["from_step"], s["to_step"]) for s in sessions] == [(0, 2), (2, 4), (4, 5), (5, 8)]


class _StopAt(Reporter):
    """Sends the process the signal that Ctrl-C would, when a certain step is done."""

    def __init__(self, step: int) -> None:
        self.step = step

    def stepped(self, finished: int) -> None:
        if finished == self.step:
            os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_saves_within_one_step(recipe: Path, tmp_path: Path) -> None:
    result = train(recipe, overrides=["train.checkpoint_every=100"], run_dir=tmp_path / "run", reporter=_StopAt(4))
    assert result.signal == 2
    assert result.finished == 4
    assert list(checkpoint.checkpoints(result.run)) == [4]


def test_training_goes_on_while_a_checkpoint_is_written(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = hashes(train(recipe, run_dir=tmp_path / "undisturbed").run)
    ahead, save = threading.Event(), store.save

    class Ahead(Reporter):
        def stepped(self, finished: int) -> None:
            if finished == 4:
                ahead.set()

    def slow(folder: Path, *state: object) -> Path:
        assert ahead.wait(30), "training waits for the disk"
        return save(folder, *state)

    monkeypatch.setattr(store, "save", slow)
    run = train(recipe, overrides=["train.checkpoint_every=3"], run_dir=tmp_path / "run", reporter=Ahead()).run
    assert list(checkpoint.checkpoints(run)) == [3, 6, 8]
    resume(cut(run, 3, tmp_path / "cut"))
    for finished in (run, tmp_path / "cut"):
        text = (finished / "recipe.toml").read_text().replace("checkpoint_every = 3", "checkpoint_every = 1")
        (finished / "recipe.toml").write_text(text)
        assert hashes(finished) == expected


def test_a_disk_that_fills_while_a_checkpoint_is_written_stops_the_run(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = store.save

    def full(folder: Path, *state: object) -> Path:
        if folder.name == "000009":
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(folder, *state)

    monkeypatch.setattr(store, "save", full)
    run = tmp_path / "run"
    with pytest.raises(UserError) as caught:
        train(recipe, overrides=["train.steps=100000", "train.checkpoint_every=3"], run_dir=run)
    assert "No space left on device; the run is saved up to step 6" in str(caught.value)
    assert f"gantricks resume {run}" in str(caught.value)


def test_the_newest_checkpoints_are_kept_and_a_recipe_without_the_key_loses_none(recipe: Path, tmp_path: Path) -> None:
    whole = train(recipe, run_dir=tmp_path / "whole").run
    kept = train(recipe, overrides=["train.keep=2"], run_dir=tmp_path / "kept").run
    assert list(checkpoint.checkpoints(whole)) == list(range(1, STEPS + 1))
    assert list(checkpoint.checkpoints(kept)) == [7, 8]
    assert not [path for path in (kept / "checkpoints").iterdir() if path.name.startswith(".")]
    resume(kept, step=7)
    for name in ("000008", "000007"):
        files = (kept / "checkpoints" / name).iterdir()
        assert all(path.read_bytes() == (whole / "checkpoints" / name / path.name).read_bytes() for path in files)
    with pytest.raises(UserError, match="there are: 7, 8"):
        resume(kept, step=3)
    before = cut(whole, 5, tmp_path / "before")
    text = (before / "recipe.toml").read_text()
    (before / "recipe.toml").write_text(text.replace('keep = "all"\n', ""))
    manifest = json.loads((before / "manifest.json").read_text())
    del manifest["recipe"]  # as it was when there was no such key
    (before / "manifest.json").write_text(json.dumps(manifest))
    resume(before)
    assert list(checkpoint.checkpoints(before)) == list(range(1, STEPS + 1))


def test_a_finished_run_that_could_not_remove_a_checkpoint_does_so_when_it_is_resumed(recipe, tmp_path):
    run = train(recipe, overrides=["train.keep=1"], run_dir=tmp_path / "run").run
    (newest,) = (run / "checkpoints").iterdir()
    shutil.copytree(newest, newest.with_name("000001"))
    resume(run)
    assert [path.name for path in (run / "checkpoints").iterdir()] == [newest.name]


def test_three_checkpoints_are_kept_unless_the_recipe_says_otherwise(data: Path, tmp_path: Path) -> None:
    path = written(data, tmp_path)
    path.write_text(path.read_text().replace('keep = "all"\n', ""))
    run = train(path, run_dir=tmp_path / "run", reporter=_StopAt(6)).run
    assert list(checkpoint.checkpoints(run)) == [4, 5, 6]
    resume(run)
    assert list(checkpoint.checkpoints(run)) == [6, 7, 8]


def test_the_checkpoint_of_another_run_is_refused(recipe: Path, tmp_path: Path) -> None:
    run = cut(train(recipe, run_dir=tmp_path / "a").run, 5, tmp_path / "run")
    other = train(recipe, overrides=["seed=4"], run_dir=tmp_path / "b").run
    place = run / "checkpoints" / "000005"
    shutil.rmtree(place)
    shutil.copytree(other / "checkpoints" / "000005", place)
    for look in (lambda: resume(run), lambda: sample(run)):
        with pytest.raises(UserError, match=r"000005: the checkpoint is that of another run[\s\S]*--step 4"):
            look()
    manifest = json.loads((run / "manifest.json").read_text())
    del manifest["id"]  # as in a run from before there were ids
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert resume(run).finished == STEPS
    assert (
        json.loads((run / "manifest.json").read_text())["id"] == json.loads((other / "manifest.json").read_text())["id"]
    )


Change = Callable[[dict[str, Any], dict[str, dict[str, torch.Tensor]]], object]
UNFIT: dict[str, Change] = {
    "another type": lambda s, t: t["generator"].update({k: v.double() for k, v in t["generator"].items()}),
    "another shape": lambda s, t: t["discriminator"].update({k: v[None] for k, v in t["discriminator"].items()}),
    "a tensor more": lambda s, t: t["generator"].update(more=torch.zeros(2)),
    "a tensor less": lambda s, t: t["generator_optimizer"].pop(next(iter(t["generator_optimizer"]))),
    "a group more": lambda s, t: t.update(more={"a": torch.zeros(2)}),
    "a group less": lambda s, t: t.pop("discriminator_optimizer"),
    "no tricks": lambda s, t: t.pop("tricks"),
    "kept tensors alone": lambda s, t: t.update(kept={"generator/x": torch.zeros(2)}),
    "kept numbers alone": lambda s, t: s.update(
        kept={"step": 0, "batch_size": 4, "n_critic": 1, "optimizers": s["optimizers"]}
    ),
    "a rate that is text": lambda s, t: s["optimizers"]["d"][0].update(lr="0.1"),
    "a rate that is no number": lambda s, t: s["optimizers"]["d"][0].update(lr=float("nan")),
    "a rate that is true": lambda s, t: s["optimizers"]["d"][0].update(lr=True),
    "one beta": lambda s, t: s["optimizers"]["g"][0].update(betas=[0.5]),
    "betas of text": lambda s, t: s["optimizers"]["g"][0].update(betas=["a", "b"]),
    "a flag that is none": lambda s, t: s["optimizers"]["g"][0].update(maximize="yes"),
    "a group of settings more": lambda s, t: s["optimizers"]["g"].append({}),
    "a player more": lambda s, t: s["optimizers"].update(x=[]),
    "a player less": lambda s, t: s["optimizers"].pop("g"),
}


@pytest.mark.parametrize("what", UNFIT)
def test_a_sealed_checkpoint_that_does_not_fit_is_refused_before_a_step(
    recipe: Path, tmp_path: Path, what: str
) -> None:
    run = train(recipe, overrides=["train.steps=2"], run_dir=tmp_path / "run").run
    folder = run / "checkpoints" / "000001"
    shutil.rmtree(run / "checkpoints" / "000002")
    tensors, counters = checkpoint.load(folder)
    counters = {key: value for key, value in counters.items() if key not in ("sha256", "format")}
    UNFIT[what](counters, tensors)
    shutil.rmtree(folder)
    store.save(folder, tensors, counters)
    for look in (lambda: resume(run), lambda: sample(run, 4)):
        with pytest.raises(UserError, match="does not fit the recipe"):
            look()


def test_the_kept_state_of_another_shape_is_refused_before_it_is_come_back_to(data: Path, tmp_path: Path) -> None:
    keeper = tmp_path / "keeper.py"
    keeper.write_text(KEEPER)
    path = written(data, tmp_path, {"keeper": ""})
    whole = train(path, run_dir=tmp_path / "whole", plugins=[keeper]).run

    def unfit(name: str, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
        run = cut(whole, 4, tmp_path / name)
        folder = run / "checkpoints" / "000004"
        tensors, counters = checkpoint.load(folder)
        assert counters["kept"]["step"] == 3
        change(tensors["kept"])
        shutil.rmtree(folder)
        store.save(folder, tensors, {k: v for k, v in counters.items() if k not in ("sha256", "format")})
        with pytest.raises(UserError, match="the kept state"):
            resume(run, plugins=[keeper])

    unfit("shape", lambda kept: kept.update({name: tensor[None] for name, tensor in kept.items()}))
    unfit("type", lambda kept: kept.update({name: tensor.double() for name, tensor in kept.items()}))
    unfit("more", lambda kept: kept.update({"generator/more": torch.zeros(2)}))
    unfit("less", lambda kept: kept.pop(next(name for name in kept if name.startswith("generator/"))))
    run = cut(whole, 4, tmp_path / "fit")
    resume(run, plugins=[keeper])
    assert hashes(run) == hashes(whole)


KEEPER = '''
from gantricks import Trick, hookimpl

class Keeper(Trick):
    """Keeper: the state after three steps is restored after six."""

    @hookimpl
    def on_boundary(self, ctx):
        if ctx.step == 3:
            ctx.snapshot()
        if ctx.step == 6:
            ctx.restore()
'''


def test_pictures_are_in_the_order_of_their_steps(recipe: Path, tmp_path: Path) -> None:
    result = train(recipe, overrides=["train.steps=2"], run_dir=tmp_path / "run")
    for name in ("999500", "1000000", "notes"):
        shutil.copy(result.pictures[0], result.run / "samples" / f"{name}.png")
    assert [path.stem for path in result.pictures] == ["000002", "999500", "1000000"]


@pytest.mark.parametrize("backend", [INDUCTOR, None])
def test_the_cache_of_compiled_steps_is_chosen_before_an_optimizer_is_made(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str | None
) -> None:
    monkeypatch.setenv("GANTRICKS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # so that it is put back
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.setattr("gantricks.engine.capture.backend", lambda plan, placement: backend)

    class Enough(Exception):
        pass

    def build(*_: object) -> None:
        wanted = str(tmp_path / "cache" / "inductor") if backend else None
        assert os.environ.get("TORCHINDUCTOR_CACHE_DIR") == wanted
        raise Enough

    monkeypatch.setattr("gantricks.engine.optimizers.build", build)
    with pytest.raises(Enough):
        train(recipe, run_dir=tmp_path / "run")


def test_a_run_without_checkpoint_resumes_from_its_beginning(recipe: Path, tmp_path: Path) -> None:
    whole = train(recipe, run_dir=tmp_path / "whole").run
    run = cut(whole, 0, tmp_path / "cut")
    resume(run)
    assert hashes(run) == hashes(whole)


def test_a_finished_run_is_left_as_it_is(recipe: Path, tmp_path: Path) -> None:
    run = train(recipe, run_dir=tmp_path / "run").run
    before = hashes(run)
    assert resume(run).finished == STEPS
    assert hashes(run) == before


def test_resuming_from_an_earlier_step_loses_nothing(recipe: Path, tmp_path: Path) -> None:
    run = train(recipe, run_dir=tmp_path / "run").run
    before = hashes(run)
    resume(run, step=5)
    assert hashes(run) == before
    with pytest.raises(UserError, match="there are: 1, 2, 3"):
        resume(run, step=50)


def test_a_resume_from_an_earlier_step_that_is_killed_loses_nothing_either(recipe: Path, tmp_path: Path) -> None:
    run = train(recipe, run_dir=tmp_path / "run").run
    before = hashes(run)

    class Dies(Reporter):
        def stepped(self, finished: int) -> None:
            if finished == 6:
                raise RuntimeError("as if killed")

    with pytest.raises(RuntimeError):
        resume(run, step=4, reporter=Dies())
    resume(run)
    assert hashes(run) == before


def test_a_plugin_or_data_that_changed_since_the_run_began_is_told(data: Path, tmp_path: Path) -> None:
    plugin, mine = tmp_path / "poison.py", tmp_path / "mine.npz"
    plugin.write_text(POISON.replace("torch.nan", "0.0"))
    shutil.copy(data, mine)
    path = written(mine, tmp_path, {"poison": ""})
    run = train(path, run_dir=tmp_path / "run", plugins=[plugin], reporter=_StopAt(4)).run
    plugin.write_text(POISON.replace("torch.nan", "0.1"))
    with np.load(data) as arrays:
        np.savez(mine, images=arrays["images"][:9], labels=arrays["labels"][:9])
    told: list[str] = []

    class Listens(Reporter):
        def warn(self, sentence: str) -> None:
            told.append(sentence)

    resume(run, plugins=[plugin], reporter=Listens())
    assert len(told) == 2
    assert "poison was" in told[0]
    assert "10 samples then, 9 now" in told[1]


@pytest.mark.parametrize("line", ["5", "{}", "[1]", '{"step": "x"}', "\udcff", '{"step": 2'])
def test_a_damaged_line_of_the_metrics_costs_that_line_alone(recipe: Path, tmp_path: Path, line: str) -> None:
    run = cut(train(recipe, run_dir=tmp_path / "a").run, 3, tmp_path / "b")
    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    lines.insert(1, line.encode(errors="surrogateescape") + b"\n")
    (run / "metrics.jsonl").write_bytes(b"".join(lines))
    resume(run)
    assert hashes(run) == hashes(tmp_path / "a")


@pytest.mark.parametrize(
    "text", ["[]", "5", "", "{", '{"threads": "2"}', '{"threads": 100000000}', '{"tricks": []}', '{"sessions": 5}']
)
def test_a_damaged_manifest_is_refused_by_name(recipe: Path, tmp_path: Path, text: str) -> None:
    run = cut(train(recipe, run_dir=tmp_path / "a").run, 3, tmp_path / "b")
    (run / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest\.json: the file is damaged"):
        resume(run)


def test_a_folder_of_the_users_own_is_left_alone(recipe: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(UserError, match=r"no run of gantricks[\s\S]*recipe\.toml"):
        train(recipe, run_dir=tmp_path)
    assert not (tmp_path / ".lock").exists()
    assert all(path.read_bytes() == content for path, content in before.items())


def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_works(recipe: Path, tmp_path: Path) -> None:
    whole = train(recipe, run_dir=tmp_path / "whole").run
    run = cut(whole, 5, tmp_path / "cut")
    path = run / "checkpoints" / "000005" / "discriminator.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    for broken in (lambda: resume(run), lambda: sample(run)):
        with pytest.raises(UserError, match=r"discriminator\.safetensors.*damaged[\s\S]*--step 4"):
            broken()
    resume(run, step=4)
    assert hashes(run) == hashes(whole)
    assert (run / "checkpoints" / "000005.replaced").exists()


def test_one_process_at_a_time(recipe: Path, tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    seen: list[BaseException] = []

    class Meanwhile(Reporter):
        def stepped(self, finished: int) -> None:
            if finished == 2:
                with pytest.raises(UserError, match="another process") as caught:
                    resume(tmp_path / "run")
                seen.append(caught.value)

    train(recipe, run_dir=tmp_path / "run", reporter=Meanwhile())
    assert seen


def test_a_recipe_that_no_longer_fits_its_checkpoint_is_named(recipe: Path, tmp_path: Path) -> None:
    run = cut(train(recipe, run_dir=tmp_path / "run").run, 4, tmp_path / "cut")
    text = (run / "recipe.toml").read_text()
    (run / "recipe.toml").write_text(text.replace("channels = 4", "channels = 5"))
    (run / "manifest.json").unlink()  # else resume compares the recipe with the one that it was begun with
    for look in (resume, sample):
        with pytest.raises(UserError, match="does not fit the recipe"):
            look(run)


@pytest.mark.parametrize("package", ["gantricks", "torch", "numpy"])
def test_a_run_that_goes_on_with_another_version_says_so(stopped: Path, tmp_path: Path, package: str) -> None:
    run = Path(shutil.copytree(stopped, tmp_path / "run"))
    manifest = json.loads((run / "manifest.json").read_text())
    now = manifest[package]
    (run / "manifest.json").write_text(json.dumps(manifest | {package: "0.0.1"}))
    told: list[str] = []

    class Listens(Reporter):
        def warn(self, sentence: str) -> None:
            told.append(sentence)

    resume(run, reporter=Listens())
    said = f"the run began with {package} 0.0.1 and goes on with {now}; its numbers may differ in the last bits"
    assert told == [said]


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("cuda:0", "the random draws of its steps are others there"),
        ("cpu:1", "its numbers may differ in the last bits"),
    ],
)
def test_a_run_that_goes_on_on_a_device_of_another_kind_says_so(
    stopped: Path, tmp_path: Path, before: str, said: str
) -> None:
    run = Path(shutil.copytree(stopped, tmp_path / "run"))
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(manifest | {"device": before}))
    told: list[str] = []

    class Listens(Reporter):
        def warn(self, sentence: str) -> None:
            told.append(sentence)

    resume(run, reporter=Listens())
    (sentence,) = told
    assert sentence.startswith(f"the run began with device {before} and goes on with cpu; {said}")


# ---------------------------------------------------------------- edited and lengthened


def edited(run: Path, folder: Path, *changes: tuple[str, str]) -> Path:
    """A copy of a run whose recipe was written in."""
    shutil.copytree(run, folder)
    text = (folder / "recipe.toml").read_text()
    for former, new in changes:
        assert former in text
        text = text.replace(former, new, 1)
    (folder / "recipe.toml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def stopped(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two tricks that was stopped after four of its eight steps."""
    folder = tmp_path_factory.mktemp("stopped")
    path = written(data, folder, {"soft_labels": "", "instance_noise": "sigma = 0.1", "late": 'use = "label_flipping"'})
    return train(path, run_dir=folder / "run", reporter=_StopAt(4)).run


EDITS = {
    "generator.optimizer.lr": ("lr = 0.0002", "lr = 0.05", "is 0.05 and was 0.0002"),
    "data.batch_size": ("batch_size = 4", "batch_size = 5", "is 5 and was 4"),
    "train.n_critic": ("n_critic = 1", "n_critic = 3", "is 3 and was 1"),
    "train.steps": ("steps = 8", "steps = 12", "is 12 and was 8"),
    "train.log_every": ("log_every = 1\n", "", "is 50 and was 1"),
    "train.schedule_steps": ("steps = 8", "steps = 8\nschedule_steps = 9", "is 9 and was 8"),
    "train.device": ('device = "cpu"', 'device = "auto"', 'is "auto" and was "cpu"'),
    "tricks.instance_noise.sigma": ("sigma = 0.1", "sigma = 0.2", "is 0.2 and was 0.1"),
    "tricks.late.p": ("p = 0.05", "p = 0.5", "is 0.5 and was 0.05"),
    "tricks.ema.decay": ("[tricks.late]", "[tricks.ema]\n[tricks.late]", "is 0.999 and was not there"),
    "seed": ("seed = 3", "seed = 4", "is 4 and was 3"),
    "evaluate.samples": ("samples = 5000", "samples = 10", "is 10 and was 5000"),
}


@pytest.mark.parametrize("key", EDITS)
def test_an_edited_key_is_refused_with_both_values(stopped: Path, tmp_path: Path, key: str) -> None:
    former, new, said = EDITS[key]
    run = edited(stopped, tmp_path / "run", (former, new))
    before = files_of(run)
    with pytest.raises(UserError) as refused:
        resume(run)
    (problem,) = [each for each in refused.value.problems if each.what.startswith(f"{key} ")]
    assert said in problem.what
    assert f"{run / 'recipe.toml'}:" in problem.where
    assert problem.hint
    assert files_of(run) == before
    assert ("--steps 12" in problem.hint) == (key == "train.steps")


def files_of(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}


def test_all_edits_are_refused_at_once_and_so_is_another_order_of_tricks(stopped: Path, tmp_path: Path) -> None:
    run = edited(stopped, tmp_path / "a", ("seed = 3", "seed = 4"), ("batch_size = 4", "batch_size = 5"))
    with pytest.raises(UserError) as refused:
        resume(run, overrides=["train.n_critic=2"])
    assert [problem.what.partition(" ")[0] for problem in refused.value.problems[:2]] == ["seed", "data.batch_size"]
    assert len(refused.value.problems) == 3
    text = (stopped / "recipe.toml").read_text()
    head, *tables = text.split("[tricks.")
    run = edited(
        stopped, tmp_path / "b", (text, "[tricks.".join([head, tables[1], tables[0].rstrip() + "\n\n", tables[2]]))
    )
    with pytest.raises(
        UserError, match="order instance_noise, soft_labels, late, and stood in the order soft_labels, "
    ):
        resume(run)


def test_formatting_comments_and_defaults_are_no_edits(stopped: Path, tmp_path: Path) -> None:
    whole = resume(edited(stopped, tmp_path / "whole")).run
    changes = (("seed = 3", "seed  =  3  # mine"), ("n_critic = 1\n", ""), ("lr = 0.0002", "lr = 2e-4"))
    run = resume(edited(stopped, tmp_path / "run", *changes)).run
    there, here = hashes(whole), hashes(run)
    assert {name for name in there if there[name] != here[name]} == {"recipe.toml"}
    assert "# mine" in (run / "recipe.toml").read_text()


def test_a_run_of_an_earlier_version_that_knew_a_key_less_is_no_edited_one(stopped: Path, tmp_path: Path) -> None:
    run = edited(stopped, tmp_path / "run")
    manifest = json.loads((run / "manifest.json").read_text())
    del manifest["recipe"]["train"]["reuse_fakes"]
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert resume(run).finished == STEPS


@pytest.mark.parametrize("begun", [[], 5, {}, {"name": 3}, {"name": "a", "data": []}])
def test_a_manifest_whose_recipe_is_none_is_refused_by_name(stopped: Path, tmp_path: Path, begun: object) -> None:
    run = edited(stopped, tmp_path / "run")
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(manifest | {"recipe": begun}))
    with pytest.raises(UserError, match=r"manifest\.json"):
        resume(run)


def lasting(data: Path, folder: Path) -> Path:
    """A recipe whose schedules, batch size and learning rate are still on the move at its end."""
    schedules = {
        "instance_noise": "sigma = { start = 0.5, end = 0.1 }",
        "lr_decay": "",
        "batch_size_schedule": "start = 2\nend = 5",
        "ema": "decay = 0.7",
    }
    return written(data, folder, schedules)


def test_a_lengthened_run_keeps_its_past_and_is_what_its_recipe_says(data: Path, tmp_path: Path) -> None:
    short = train(lasting(data, tmp_path), run_dir=tmp_path / "run").run
    before = files_of(short)
    assert resume(short, steps=11).finished == 11
    assert resume(short, steps=13).finished == 13, "lengthened twice"
    for path, content in before.items():
        if path.parent.parent == short / "checkpoints" or path.parent == short / "samples":
            assert path.read_bytes() == content, f"{path} stays"
    assert files_of(short)[short / "metrics.jsonl"].startswith(before[short / "metrics.jsonl"])
    keys = tomllib.loads((short / "recipe.toml").read_text())["train"]
    assert (keys["steps"], keys["schedule_steps"]) == (13, STEPS)
    anew = train(short / "recipe.toml", run_dir=tmp_path / "anew").run
    for step in (STEPS, 11, 13):
        assert state_of(short, step) == state_of(anew, step), f"after step {step}"
    rates = [json.loads(line)["learning_rate/g"] for line in (short / "metrics.jsonl").read_text().splitlines()]
    assert len(set(rates[: STEPS - 1])) == STEPS - 1, "the schedule is that of the shorter run"
    assert len(set(rates[STEPS - 1 :])) == 1, "and rests at its end"
    sessions = json.loads((short / "manifest.json").read_text())["sessions"]
    assert [session.get("set") for session in sessions] == [None, ["train.steps=11"], ["train.steps=13"]]


def state_of(run: Path, step: int) -> dict[str, str]:
    folder = run / "checkpoints" / checkpoint.checkpoint_name(step)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.safetensors")}


@pytest.mark.parametrize("at", [9, 12])
def test_a_lengthened_run_that_is_stopped_goes_on_to_the_same_bytes(data: Path, tmp_path: Path, at: int) -> None:
    path = lasting(data, tmp_path)
    short = train(path, run_dir=tmp_path / "run").run
    copy = Path(shutil.copytree(short, tmp_path / "copy"))
    resume(short, steps=13)
    assert resume(copy, steps=13, reporter=_StopAt(at)).finished == at
    assert resume(copy).finished == 13
    assert hashes(copy, 13) == hashes(short, 13)


def test_a_kill_between_the_recipe_and_the_manifest_leaves_a_run_that_goes_on(data: Path, tmp_path: Path) -> None:
    short = train(lasting(data, tmp_path), run_dir=tmp_path / "run").run
    copy = Path(shutil.copytree(short, tmp_path / "copy"))
    manifest = (short / "manifest.json").read_bytes()
    resume(short, steps=11)
    shutil.copy(short / "recipe.toml", copy / "recipe.toml")
    assert (copy / "manifest.json").read_bytes() == manifest
    assert resume(copy).finished == 11
    assert state_of(copy, 11) == state_of(short, 11)


def test_a_run_is_ended_earlier_and_not_before_what_is_done(stopped: Path, tmp_path: Path) -> None:
    run = edited(stopped, tmp_path / "run")
    for steps in (1, 3, 4):
        with pytest.raises(UserError, match=rf"--steps {steps}: the run has done 4 steps already\n +write 5"):
            resume(run, steps=steps)
    assert resume(run, steps=6).finished == 6
    assert resume(run, steps=8).finished == 8, "and on to where it was to end"
    whole = resume(edited(stopped, tmp_path / "whole")).run
    assert state_of(run, 8) == state_of(whole, 8)
    assert (run / "recipe.toml").read_bytes() == (whole / "recipe.toml").read_bytes()
    assert resume(run, steps=8).finished == 8, "nothing is left to do"


def test_what_the_user_wrote_in_a_recipe_is_kept_when_the_run_is_lengthened(stopped: Path, tmp_path: Path) -> None:
    run = edited(stopped, tmp_path / "run", ("seed = 3", "seed = 3  # my favourite"))
    text = (run / "recipe.toml").read_bytes()
    resume(run, steps=9)
    assert (run / "recipe.toml.replaced").read_bytes() == text
    assert load_recipe(run / "recipe.toml").train.steps == 9


def test_lengthening_a_run_that_ended_with_an_earlier_state_is_told(data: Path, tmp_path: Path) -> None:
    text = "[evaluate.spread]\n"
    path = written(data, tmp_path, {"early_stopping": 'metric = "spread"\nevery = 1\npatience = 100'})
    path.write_text(path.read_text() + text)
    told: list[str] = []

    class Listens(Reporter):
        def warn(self, sentence: str) -> None:
            told.append(sentence)

    registry = {"metrics": {"spread": Falling}}
    with pytest.MonkeyPatch.context() as patch:
        for module in ("api", "opening"):
            patch.setattr(f"gantricks.runs.{module}.Registry", lambda plugins=(): Registry(plugins, given=registry))
        run = train(path, run_dir=tmp_path / "run").run
        state = json.loads((run / "checkpoints" / "000008" / "state.json").read_text())
        resume(run, steps=9, reporter=Listens())
    assert told == [
        f"the run goes on from the state after step {state['state_from_step']}, which a trick has brought back"
    ]


class Falling(Metric):
    """The first state is the best one."""

    figures = {"value": "higher"}
    seen = 0

    def measure(self, subject: object) -> Measurement:
        Falling.seen += 1
        return Measurement({"value": float(-Falling.seen)})


def test_a_run_can_train_in_a_thread(recipe: Path, tmp_path: Path) -> None:
    results = []
    thread = threading.Thread(target=lambda: results.append(train(recipe, run_dir=tmp_path / "run")))
    thread.start()
    thread.join()
    assert results[0].finished == STEPS


# ---------------------------------------------------------------- threads and memory


def test_the_threads_of_the_beginning_are_kept_on_resume(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, counts = [1], []
    # only said: threads that have to share cores with others would take seconds for these steps
    monkeypatch.setattr(torch, "get_num_threads", lambda: now[-1])
    monkeypatch.setattr(torch, "set_num_threads", now.append)

    class Counts(_StopAt):
        def stepped(self, finished: int) -> None:
            counts.append(torch.get_num_threads())
            super().stepped(finished)

    run = train(recipe, run_dir=tmp_path / "run", reporter=Counts(2)).run
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["threads"] == counts[-1] == 1
    manifest["threads"] = 3  # as if the run had begun with more
    (run / "manifest.json").write_text(json.dumps(manifest))
    resume(run, reporter=Counts(4))
    assert counts == [1, 1, 3, 3]
    assert json.loads((run / "manifest.json").read_text())["threads"] == 3
    assert now[-1] == 1, "what the caller computes next is the caller's"


def test_a_run_says_how_much_memory_it_took(recipe: Path, tmp_path: Path) -> None:
    result = train(recipe, run_dir=tmp_path / "run")
    assert result.memory
    assert 50 * 2**20 < result.memory < 2**40
    session = json.loads((result.run / "manifest.json").read_text())["sessions"][0]
    assert 0 < session["peak_memory"] <= result.memory + 2**24


@pytest.mark.parametrize(("size", "hint"), [(4, "--set data.batch_size=2"), (1, "smaller networks")])
def test_out_of_memory_names_a_batch_size_to_try(recipe: Path, tmp_path: Path, size: int, hint: str) -> None:
    class Fills(Reporter):
        def stepped(self, finished: int) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity …")

    overrides = [f"data.batch_size={size}", "discriminator.batch_norm=false", "generator.batch_norm=false"]
    with pytest.raises(UserError, match=f"batches of {size}: 2.00 GiB more were asked for[\\s\\S]*{hint}") as caught:
        train(recipe, overrides=overrides, run_dir=tmp_path / "run", reporter=Fills())
    assert ("batch_size=" in str(caught.value)) == (size > 1)


# ---------------------------------------------------------------- faults


@pytest.mark.parametrize("log_every", [1, 2, 5])
def test_a_non_finite_loss_stops_the_run_with_the_state_from_before_it(
    recipe: Path, tmp_path: Path, log_every: int
) -> None:
    plugin = tmp_path / "poison.py"
    plugin.write_text(POISON)
    overrides = ["tricks.poison={}", f"train.log_every={log_every}", "train.checkpoint_every=100"]
    with pytest.raises(UserError, match=r"d\.poison\.bad.* not finite at step 3") as caught:
        train(recipe, overrides=overrides, run_dir=tmp_path / "run", plugins=[plugin])
    folder = tmp_path / "run" / "fault" / "000003"
    assert str(folder) in str(caught.value)
    healthy = train(recipe, overrides=["train.steps=2"], run_dir=tmp_path / "healthy").run
    counters = checkpoint.load(folder)[1]
    assert (counters["step"], counters["phase"], counters["images_seen"]) == (2, "d", 8)
    kept, expected = checkpoint.load(folder)[0], checkpoint.load(healthy / "checkpoints" / "000002")[0]
    for group in ("generator", "discriminator", "generator_optimizer", "discriminator_optimizer"):
        for name, tensor in expected[group].items():
            if group == "generator" and ("running" in name or "num_batches" in name):
                continue  # schedules differ by the shared forward of step 3
            assert torch.equal(kept[group][name], tensor), f"{group}/{name}"
    assert kept["tricks"]["poison/count"] == 2
    assert not checkpoint.checkpoints(tmp_path / "run"), "what comes after a fault is no checkpoint"


def test_a_local_plugin_is_recorded_and_asked_for_on_resume(recipe: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "poison.py"
    plugin.write_text(POISON.replace("torch.nan", "0.0"))
    run = train(
        recipe, overrides=["tricks.poison={}"], run_dir=tmp_path / "run", plugins=[plugin], reporter=_StopAt(4)
    ).run
    assert "sha256:" in json.loads((run / "manifest.json").read_text())["tricks"]["poison"]["origin"]
    with pytest.raises(UserError, match=r"--plugin .*poison\.py"):
        resume(run)
    assert resume(run, plugins=[plugin]).finished == STEPS


def test_sampling_is_a_function_of_the_seed(recipe: Path, tmp_path: Path) -> None:
    run = train(recipe, run_dir=tmp_path / "run").run
    first, again, other = (np.asarray(sample(run, 9, seed)) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
    assert (np.asarray(sample(run, 9, 1, step=2)) != first).any()


def test_samples_do_not_depend_on_how_many_are_asked_for() -> None:
    game = TrickHost(sample=(1, 8, 8)).train(2).game
    few, many = sampling.sample(game, 5, seed=1), sampling.sample(game, 150, seed=1)
    assert few.shape == (5, 1, 8, 8)
    assert many.shape == (150, 1, 8, 8)
    assert (many[:5] == few).all()


@pytest.mark.slow
def test_kill_9_at_thirty_random_moments_leaves_loadable_checkpoints_and_the_identical_finish(
    data: Path, tmp_path: Path
) -> None:
    long = ["train.steps=300", "train.checkpoint_every=2", "train.log_every=3", "train.sample_every=50"]
    path = all_together(data, tmp_path)
    expected = hashes(train(path, overrides=long, run_dir=tmp_path / "whole").run, 300)
    draw = random.Random(0)
    command = [sys.executable, "-c", "import torch; torch.set_num_threads(1); from gantricks.cli import main; main()"]
    kills, finished, number = 0, 0, 0
    while kills < 30 or not finished:
        run = tmp_path / f"killed-{number}"
        if (run / "recipe.toml").exists():
            arguments = ["resume", str(run)]
        else:
            arguments = ["train", str(path), "--run-dir", str(run)]
            arguments += [part for setting in long for part in ("--set", setting)]
        process = subprocess.Popen(command + arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        if kills < 30:
            if draw.random() < 0.25:
                time.sleep(draw.uniform(0, 3))  # while it starts
            else:
                before = _newest(run)
                while process.poll() is None and _newest(run) == before:
                    time.sleep(0.005)
                time.sleep(draw.uniform(0, 0.6))
            process.kill()
        _, complaint = process.communicate()
        if process.returncode == 0:
            finished += 1
            assert hashes(run, 300) == expected
            assert not [path for path in run.rglob(".*") if path.name != ".lock"], "nothing is left behind"
            number += 1
            continue
        assert process.returncode == -signal.SIGKILL, complaint.decode()
        kills += 1
        for folder in checkpoint.checkpoints(run).values():
            checkpoint.load(folder)


def _newest(run: Path) -> int:
    return max(checkpoint.checkpoints(run), default=0)


def test_samples_are_computed_as_the_run_was(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def noting(function: Any) -> Any:
        def noted(*given: Any) -> Any:
            seen.append(torch.backends.cudnn.deterministic and not torch.backends.cudnn.allow_tf32)
            return function(*given)

        return noted

    monkeypatch.setattr("gantricks.runs.api.picture", noting(picture))
    monkeypatch.setattr("gantricks.runs.interpolation.walk", noting(sampling.walk))
    sample(stopped, 4)
    interpolate(stopped, 2, 3)
    assert seen == [True, True]
    assert not torch.backends.cudnn.deterministic
