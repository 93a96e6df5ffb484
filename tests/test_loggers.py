"""Loggers from files: what they are told, that no bit of a run moves, and that the run does without one that fails."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gantricks import Logger, UserError, evaluate, load_generator, load_recipe, resume, sample, train
from gantricks.catalogue import registry
from gantricks.catalogue.registry import Registry
from gantricks.cli import main
from gantricks.planning.facts import PlannedLogger
from gantricks.planning.prepare import plan_recipe
from gantricks.runs.loggers import Loggers
from gantricks.runs.reporter import Reporter

STEPS = 6
TINY = """
name = "tiny"
[data]
source = "npz"
path = "{path}"
batch_size = 4
[generator]
network = "dcgan"
channels = 4
depth = 2
latent_dim = 3
[discriminator]
network = "dcgan"
channels = 4
depth = 2
[train]
steps = 6
log_every = 2
sample_every = 3
checkpoint_every = 2
keep = "all"
precision = "fp32"
device = "cpu"
"""

RECORDER = '''
import hashlib, json
from pathlib import Path
from gantricks import Logger

class Recorder(Logger):
    """Recorder: every call as a line of JSON."""

    paths = ("path",)

    class Config(Logger.Config):
        path: str

    def note(self, *what):
        with open(self.config.path, "a") as file:
            file.write(json.dumps(what) + "\\n")

    def started(self, run, recipe, after):
        self.note("started", str(run), recipe, after)

    def scalars(self, step, scalars):
        self.note("scalars", step, scalars)

    def picture(self, step, picture):
        self.note("picture", step, hashlib.sha256(picture.tobytes()).hexdigest())

    def ended(self, step, outcome, reason):
        self.note("ended", step, outcome, reason)
'''

VANDAL = '''
import random
import numpy, torch
from gantricks import Logger

def reseed():
    random.seed(1)
    numpy.random.seed(1)
    torch.manual_seed(1)
    torch.rand(3)

class Vandal(Logger):
    """Vandal: changes all that it can lay hands on."""

    def started(self, run, recipe, after):
        reseed()
        recipe["train"]["steps"] = 1
        recipe["tricks"] = {}

    def scalars(self, step, scalars):
        reseed()
        scalars["loss/d"] = 7.0
        scalars["mine"] = 1.0

    def picture(self, step, picture):
        reseed()
        picture.paste(0, (0, 0, *picture.size))
'''

FAILING = '''
from gantricks import Logger, UserError

class Own(BaseException): pass

class Mute(Exception):
    def __str__(self): raise ValueError

class Failing(Logger):
    """Failing: raises in one of its methods, and counts the calls of all."""

    class Config(Logger.Config):
        where: str
        what: str
        count: str = "count"

    def call(self, name):
        with open(self.config.count, "a") as file:
            file.write(name + " ")
        if name == self.config.where:
            raise eval(self.config.what)

    def started(self, run, recipe, after): self.call("started")
    def scalars(self, step, scalars): self.call("scalars")
    def picture(self, step, picture): self.call("picture")
    def ended(self, step, outcome, reason): self.call("ended")
'''

STOPPER = """
from gantricks import Trick, hookimpl

class Stopper(Trick):
    '''Stopper.'''

    @hookimpl
    def on_boundary(self, ctx):
        if ctx.step >= 3:
            ctx.stop("that will do")
"""

POISON = """
import torch
from gantricks import Trick, hookimpl

class Poison(Trick):
    '''Poison: a loss that is no number.'''

    @hookimpl
    def g_loss_terms(self, ctx):
        return {"bad": torch.full((), torch.nan, device=ctx.device)}
"""

METRIC = """
import numpy
from gantricks import Measurement, Metric

class Brightness(Metric):
    '''Brightness: the mean of all pixels.'''

    figures = {"brightness": "higher"}

    def measure(self, subject):
        batches = [samples for samples, _ in subject.generated(subject.samples)]
        return Measurement({"brightness": float(numpy.concatenate(batches).mean())})
"""

PICKY = """
from gantricks import Logger, Problem, UserError

class Picky(Logger):
    '''Picky: refuses some of its options.'''

    class Config(Logger.Config):
        port: int = 80

    def __init__(self, config):
        super().__init__(config)
        if config.port == 1:
            raise UserError(Problem("port: it is taken", hint="write another"))
        if config.port == 2:
            raise LookupError("no host")

    def scalars(self, step, scalars): pass
"""

READER = """
import json
from gantricks import Logger

class Reader(Logger):
    '''Reader: writes what the manifest says when the run has ended.'''

    def started(self, run, recipe, after):
        self.run = run

    def ended(self, step, outcome, reason):
        session = json.loads((self.run / "manifest.json").read_text())["sessions"][-1]
        (self.run / "loggers").mkdir()
        (self.run / "loggers" / "seen").write_text(str(session["to_step"]))
"""

FILES = {
    "recorder": RECORDER,
    "vandal": VANDAL,
    "failing": FAILING,
    "stopper": STOPPER,
    "poison": POISON,
    "brightness": METRIC,
    "picky": PICKY,
    "reader": READER,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    np.savez(path, images=np.random.default_rng(0).integers(0, 256, (10, 8, 8), dtype=np.uint8))
    return path


@pytest.fixture
def recipe(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe without loggers, in a folder with the files of some."""
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        (tmp_path / f"{name}.py").write_text(text)
    path = tmp_path / "recipe.toml"
    path.write_text(TINY.format(path=data))
    return path


class Listener(Reporter):
    """Keeps the warnings, and sends this process a signal after a step."""

    def __init__(self, signal_at: int | None = None) -> None:
        self.warnings: list[str] = []
        self.signal_at = signal_at

    def stepped(self, finished: int) -> None:
        if finished == self.signal_at:
            os.kill(os.getpid(), signal.SIGTERM)

    def warn(self, sentence: str) -> None:
        self.warnings.append(sentence)


RECORDED = ("loggers.recorder.path=calls",)
PLUGIN = ("recorder.py",)


def calls(path: str = "calls") -> list[list[Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def bits(run: Path) -> dict[str, str]:
    """What a logger must not change."""
    files = [run / "metrics.jsonl", *run.glob("samples/*"), *run.glob("checkpoints/*/*")]
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# ---------------------------------------------------------------- what a logger is told


def test_a_logger_is_told_what_the_run_writes(recipe: Path) -> None:
    measured = ("evaluate.every=3", "evaluate.samples=8", "evaluate.brightness=on")
    plugins = (*PLUGIN, "brightness.py")
    run = train(recipe, overrides=[*RECORDED, *measured], run_dir="run", plugins=plugins).run
    first, *between, last = calls()
    resolved = tomllib.loads((run / "recipe.toml").read_text())
    assert resolved["loggers"] == {"recorder": {"path": str(Path("calls").absolute())}}
    assert first == ["started", str(Path("run").absolute()), resolved, 0]
    assert [{"step": step, **scalars} for kind, step, scalars in between if kind == "scalars"] == lines(run)
    assert {"loss/d", "metric/brightness/brightness"} <= {name for line in lines(run) for name in line}
    drawn = {step: digest for kind, step, digest in between if kind == "picture"}
    pictures = {int(path.stem): Image.open(path) for path in run.glob("samples/*.png")}
    assert drawn == {step: hashlib.sha256(picture.tobytes()).hexdigest() for step, picture in pictures.items()}
    logged = [("scalars", 2), ("scalars", 3), ("picture", 3), ("scalars", 4), ("scalars", 6), ("scalars", 6)]
    assert [(kind, step) for kind, step, _ in between] == [*logged, ("picture", 6)]
    assert last == ["ended", STEPS, "finished", ""]


def test_the_files_of_a_run_are_whole_when_its_end_is_told(recipe: Path) -> None:
    run = train(recipe, overrides=["loggers.reader=on"], run_dir="run", plugins=["reader.py"]).run
    assert (run / "loggers" / "seen").read_text() == str(STEPS)


def test_a_resumed_run_says_after_which_step_what_was_told_is_void(recipe: Path) -> None:
    run = train(recipe, overrides=RECORDED, run_dir="run", plugins=PLUGIN, reporter=Listener(signal_at=3)).run
    assert calls()[-1] == ["ended", 3, "interrupted", "SIGTERM"]
    before = len(calls())
    resume(run, plugins=PLUGIN)
    resume(run, plugins=PLUGIN, step=2)
    resume(run, plugins=PLUGIN, steps=8)
    resume(run, plugins=PLUGIN)  # it is finished: nothing is told
    later = calls()[before:]
    (*_, newest) = (call for call in later if call[0] == "started")
    assert newest[2] == tomllib.loads((run / "recipe.toml").read_text())
    assert [(call[3], call[2]["train"]["steps"]) for call in later if call[0] == "started"] == [(3, 6), (2, 6), (6, 8)]
    assert [call[1:] for call in later if call[0] == "ended"] == [[end, "finished", ""] for end in (6, 6, 8)]
    kept: list[dict[str, Any]] = []
    for kind, at, *rest in calls():
        if kind == "started":
            kept = [line for line in kept if line["step"] <= rest[1]]
        elif kind == "scalars":
            kept.append({"step": at, **rest[0]})
    assert kept == lines(run)


def test_figures_that_are_measured_again_are_told_once(recipe: Path) -> None:
    measured = ("evaluate.every=4", "evaluate.samples=8", "evaluate.brightness=on", "tricks.stopper=on")
    plugins = (*PLUGIN, "brightness.py", "stopper.py")
    run = train(recipe, overrides=[*RECORDED, *measured], run_dir="run", plugins=plugins).run
    assert calls()[-1] == ["ended", 3, "stopped", "stopper: that will do"]
    resume(run, plugins=plugins)
    assert [call[0] for call in calls()].count("started") == 2
    assert [{"step": call[1], **call[2]} for call in calls() if call[0] == "scalars"] == lines(run)


def test_a_signal_before_the_last_figures_is_told_and_the_figures_are_told_on_resume(recipe: Path) -> None:
    overrides = [*RECORDED, "evaluate.every=6", "evaluate.samples=8", "evaluate.brightness=on"]
    plugins = (*PLUGIN, "brightness.py")
    listener = Listener(signal_at=STEPS)
    run = train(recipe, overrides=overrides, run_dir="run", plugins=plugins, reporter=listener).run
    assert calls()[-1] == ["ended", STEPS, "interrupted", "SIGTERM"]
    before = len(calls())
    resume(run, plugins=plugins)
    assert [call[0] for call in calls()[before:]] == ["started", "scalars", "picture", "ended"]
    assert (calls()[before][3], [*calls()[before + 1][2]]) == (STEPS, ["metric/brightness/brightness"])
    assert calls()[-1] == ["ended", STEPS, "finished", ""]


def test_a_second_signal_is_told_too(recipe: Path) -> None:
    class Impatient(Listener):
        def stepped(self, finished: int) -> None:
            super().stepped(finished)
            if finished == self.signal_at:
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(recipe, overrides=RECORDED, run_dir="run", plugins=PLUGIN, reporter=Impatient(signal_at=3))
    assert calls()[-1] == ["ended", 3, "interrupted", "SIGINT"]


def test_an_error_is_told_in_words(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides, plugins = [*RECORDED, "tricks.poison=on"], [*PLUGIN, "poison.py"]
    with pytest.raises(UserError, match="not finite at step 1"):
        train(recipe, overrides=overrides, run_dir="run", plugins=plugins, reporter=Listener(signal_at=1))
    *earlier, (kind, step, outcome, reason) = calls()
    assert (kind, step, outcome) == ("ended", 1, "failed")
    assert reason.startswith("the loss term g.poison.bad is not finite at step 1; the run has stopped with the state")
    assert [call[0] for call in earlier] == ["started"]

    def full(self: object, step: int, scalars: object, speed: float) -> None:
        raise OSError(28, "No space left on device", "run-2/metrics.jsonl")

    monkeypatch.setattr("gantricks.runs.logs.Log.scalars", full)
    with pytest.raises(UserError, match="No space left on device"):
        train(recipe, overrides=RECORDED, run_dir="run-2", plugins=PLUGIN)
    assert calls()[-1] == ["ended", 2, "failed", "OSError: [Errno 28] No space left on device: 'run-2/metrics.jsonl'"]


# ---------------------------------------------------------------- no bit moves


def test_no_logger_moves_a_bit_of_the_run_or_of_what_others_are_told(recipe: Path) -> None:
    plain = train(recipe, run_dir="plain").run
    listener = Listener()
    overrides, plugins = ["loggers.vandal=on", *RECORDED], ("vandal.py", *PLUGIN)
    logged = train(recipe, overrides=overrides, run_dir="logged", plugins=plugins, reporter=listener).run
    assert listener.warnings == []
    assert bits(logged) == bits(plain)
    assert {Path(name).suffix for name in bits(plain)} == {".jsonl", ".png", ".safetensors", ".json"}
    assert calls()[0][2] == tomllib.loads((logged / "recipe.toml").read_text())
    assert [{"step": call[1], **call[2]} for call in calls() if call[0] == "scalars"] == lines(plain)
    picture = Image.open(logged / "samples" / "000006.png").tobytes()
    assert calls()[-2] == ["picture", 6, hashlib.sha256(picture).hexdigest()]


def test_the_resolved_recipe_makes_the_same_run_and_tells_the_same(recipe: Path) -> None:
    first = train(recipe, overrides=RECORDED, run_dir="first", plugins=PLUGIN).run
    told = calls()
    Path("calls").unlink()
    again = train(first / "recipe.toml", run_dir="again", plugins=PLUGIN).run
    assert (again / "recipe.toml").read_bytes() == (first / "recipe.toml").read_bytes()
    assert bits(again) == bits(first)
    assert calls()[1:] == told[1:]


def failing(where: str, what: str) -> list[str]:
    return [f"loggers.bad.{key}={json.dumps(v)}" for key, v in {"use": "failing", "where": where, "what": what}.items()]


@pytest.mark.parametrize(
    ("where", "called"),
    [
        ("started", "started"),
        ("scalars", "started scalars"),
        ("picture", "started scalars picture"),
        ("ended", "started scalars picture scalars scalars picture ended"),
    ],
)
def test_a_logger_that_fails_is_told_once_and_called_no_more(recipe: Path, where: str, called: str) -> None:
    plain = train(recipe, run_dir="plain").run
    listener = Listener()
    overrides, plugins = [*failing(where, "LookupError('no table')"), *RECORDED], ("failing.py", *PLUGIN)
    result = train(recipe, overrides=overrides, run_dir="run", plugins=plugins, reporter=listener)
    assert result.finished == STEPS
    assert bits(result.run) == bits(plain)
    assert Path("count").read_text().split() == called.split()
    line = FAILING.splitlines().index("            raise eval(self.config.what)") + 1
    (warning,) = listener.warnings
    told = rf"the run goes on without the logger bad \(.*failing\.py:{line}\): LookupError: no table"
    assert re.fullmatch(told, warning)
    assert [call[0] for call in calls()].count("scalars") == 3
    assert calls()[-1] == ["ended", STEPS, "finished", ""]


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        ("UserError('set a token')", "UserError: set a token"),
        ("MemoryError()", "MemoryError"),
        ("Own('mine')", "Own: mine"),
        ("GeneratorExit()", "GeneratorExit"),
        ("Mute()", "Mute"),
        ("OSError(28, 'No space left on device', 'run/metrics.jsonl')", "OSError: [Errno 28] No space left on device"),
        ("ValueError('one\\ntwo')", "ValueError: one two"),
    ],
)
def test_whatever_a_logger_raises_is_a_warning(recipe: Path, raised: str, told: str) -> None:
    listener = Listener()
    overrides = failing("scalars", raised)
    assert train(recipe, overrides=overrides, run_dir="run", plugins=["failing.py"], reporter=listener).finished == 6
    (warning,) = listener.warnings
    assert told in warning


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_ctrl_c_in_a_logger_is_ctrl_c(recipe: Path, error: type[BaseException]) -> None:
    overrides = [*failing("scalars", error.__name__), *RECORDED]
    with pytest.raises(error):
        train(recipe, overrides=overrides, run_dir="run", plugins=["failing.py", *PLUGIN])
    assert calls()[-1] == ["ended", 2, "failed", error.__name__]
    with pytest.raises(UserError, match=r"the run uses the logger 'bad' from a file\n.*failing\.py"):
        resume("run", plugins=PLUGIN)
    assert resume("run", plugins=PLUGIN, overrides=["loggers.bad=off"]).finished == STEPS


def test_a_logger_that_has_not_started_is_not_told_of_the_end(recipe: Path) -> None:
    last = ("loggers.last.use=recorder", "loggers.last.path=last")
    overrides = [*RECORDED, *failing("started", "KeyboardInterrupt"), *last]
    with pytest.raises(KeyboardInterrupt):
        train(recipe, overrides=overrides, run_dir="run", plugins=["failing.py", *PLUGIN])
    assert [call[0] for call in calls()] == ["started", "ended"]
    assert Path("count").read_text().split() == ["started"]
    assert not Path("last").exists()


def test_a_logger_that_the_run_waits_for_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("gantricks.runs.loggers.time.perf_counter", lambda: now[0])

    class Slow(Logger):
        def scalars(self, step: int, scalars: Any) -> None:
            now[0] += self.config

    warnings: list[str] = []
    planned = [PlannedLogger(name, name, Slow(seconds), "given") for name, seconds in (("slow", 4.0), ("quick", 0.4))]
    loggers = Loggers(planned, warnings.append)
    with loggers.told(Path("run"), {}, 0, lambda error: (60, "finished", "")):
        for step in range(60):
            now[0] += 10.0  # slow takes 28 % of the time, quick 3 %
            loggers.scalars(step, {})
    assert warnings == ["the run waits for the logger slow: 12 of its 43 seconds so far"]


# ---------------------------------------------------------------- in a recipe


def refusal(recipe: Path, overrides: list[str], *plugins: str) -> str:
    with pytest.raises(UserError) as caught:
        plan_recipe(recipe, overrides, Registry([Path(name) for name in plugins], installed=False))
    return str(caught.value)


def test_every_mistake_is_told_at_once_with_its_place(recipe: Path) -> None:
    text = recipe.read_text()
    line = text.count("\n") + 1
    tables = '[loggers.picky]\nport = 1\n[loggers.second]\nuse = "picky"\nport = 2\n'
    recipe.write_text(text.replace("batch_size = 4", "batch_size = 400") + tables)
    told = refusal(recipe, [], "picky.py")
    assert f"recipe.toml:{line}: port: it is taken\n    write another" in told
    assert f"recipe.toml:{line + 2}: picky.py: making Picky with its options fails: LookupError: no host" in told
    assert "batch_size is 400 and the data holds 10 samples" in told

    tables = '[loggers.picky]\nprot = 1\n[loggers.a]\nuse = 3\n[loggers."b c"]\n[loggers.recoder]\n[loggers.wandb]\n'
    recipe.write_text(text.replace("batch_size = 4", "batch_size = 400") + tables)
    told = refusal(recipe, ["logger.x=on", "loggers.picky.port=high", "loggers.d=3"], "picky.py", "recorder.py")
    assert f"recipe.toml:{line + 1}: loggers.picky.prot: unknown key\n    did you mean 'port'?" in told
    assert "--set loggers.picky.port=high: loggers.picky.port: it must be a whole number" in told
    assert f"recipe.toml:{line + 3}: use must be the name of a logger, not 3" in told
    assert f"recipe.toml:{line + 4}: a logger is named in letters" in told
    assert f"recipe.toml:{line + 5}: there is no logger 'recoder'\n    did you mean 'recorder'?" in told
    assert f"recipe.toml:{line + 6}: there is no logger 'wandb'\n    there are: picky, recorder" in told
    assert "--set loggers.d=3: loggers.d must be a table, not 3" in told
    assert "logger: unknown key\n    did you mean 'loggers'?" in told
    assert "batch_size is 400" in told  # an unknown logger does not hide what else is wrong


def test_where_no_logger_is_known_the_hint_says_how_to_name_one(recipe: Path) -> None:
    hint = "no logger ships with gantricks: name its file with --plugin FILE, or install the package that offers it"
    assert f"there is no logger 'wandb'\n    {hint}" in refusal(recipe, ["loggers.wandb=on"])


def test_loggers_are_inherited_set_and_switched_like_tricks(recipe: Path) -> None:
    known = Registry([Path("recorder.py"), Path("failing.py")], installed=False)
    tables = '[loggers.a]\nuse = "recorder"\npath = "a"\n[loggers.failing]\nwhere = "x"\nwhat = "y"\n'
    recipe.write_text(recipe.read_text() + tables)
    child, resolved = Path("child.toml"), Path("resolved.toml")
    child.write_text('extends = "recipe.toml"\n[loggers.recorder]\npath = "b"\n')

    def named(*overrides: str) -> dict[str, Any]:
        found = load_recipe(child, overrides, known)
        resolved.write_text(found.as_toml())
        assert load_recipe(resolved, (), known).as_dict() == found.as_dict()
        tables: dict[str, Any] = found.as_dict().get("loggers", {})
        return tables

    here = Path().absolute()
    bad = {"where": "x", "what": "y", "count": "count"}
    recorder = {"path": f"{here}/b"}
    assert named() == {"a": {"use": "recorder", "path": f"{here}/a"}, "failing": bad, "recorder": recorder}
    fewer = named("loggers.a=off", "loggers.failing.count=c")
    assert fewer == {"failing": bad | {"count": "c"}, "recorder": recorder}
    assert named("loggers.a=off", "loggers.failing=off", "loggers.recorder=false") == {}
    assert named("loggers.a.path=c")["a"] == {"use": "recorder", "path": f"{here}/c"}
    # another logger under the same name starts afresh
    assert named('loggers.a={use="failing",where="x",what="y"}')["a"] == {"use": "failing"} | bad


def test_a_key_of_a_logger_is_hinted_at_where_it_stands_elsewhere(recipe: Path) -> None:
    told = refusal(recipe, [*failing("scalars", "x"), "train.where=3"], "failing.py")
    assert "train.where: unknown key\n    did you mean loggers.bad.where?" in told


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            RECORDER.replace("def scalars(self, step, scalars)", "def scalars(self, scalars)"),
            "scalars of Recorder does not take what it is called with: (self, step, scalars)",
        ),
        (RECORDER.replace("outcome, reason)", "outcome, reason, how)"), "ended of Recorder does not take"),
        (
            "from gantricks import Logger\nclass Misspelt(Logger):\n    def scalar(self, step, scalars): pass\n",
            "Misspelt is told nothing: it has none of the methods started, scalars, picture, ended",
        ),
        (RECORDER.replace('paths = ("path",)', 'paths = "path"'), "paths of Recorder is not a collection of names"),
        (RECORDER.replace("class Config(Logger.Config)", "class Config"), "is not a subclass of Logger.Config"),
    ],
)
def test_a_class_that_could_be_told_nothing_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "untold.py"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        Registry([path], installed=False).load("loggers", "untold")
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_an_installed_package_offers_loggers(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path().absolute()))
    Path("one_recorder.py").write_text(RECORDER)
    point = EntryPoint("elsewhere", "one_recorder:Recorder", "gantricks.loggers")
    gone = EntryPoint("gone", "no_such_module_at_all:X", "gantricks.loggers")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point, gone] if group == "gantricks.loggers" else [])
    plan, _ = plan_recipe(recipe, ["loggers.elsewhere.path=calls"], Registry())
    assert [(planned.name, planned.use) for planned in plan.loggers] == [("elsewhere", "elsewhere")]
    assert [warning for warning in plan.warnings if "the logger 'gone'" in warning and "is broken" in warning]
    assert train(recipe, overrides=["loggers.elsewhere.path=calls"], run_dir="run").finished == STEPS
    assert calls()[-1] == ["ended", STEPS, "finished", ""]


def test_check_lists_loggers(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["check", "recipe.toml", "--plugin", "recorder.py", "--set", "loggers.other={use='recorder',path='calls'}"]
    assert main(words) == 0
    assert re.search(r"^ *loggers +other \(recorder\)$", capsys.readouterr().out, flags=re.MULTILINE)
    assert main([*words, "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["plan"]["loggers"]
    assert (told["name"], told["use"]) == ("other", "recorder")
    assert told["origin"].startswith("recorder.py sha256:")
    assert not Path("calls").exists(), "a recipe that is checked tells nothing"


def test_loggers_need_no_torch() -> None:
    code = "import sys; from gantricks import Logger; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# ---------------------------------------------------------------- a run and its loggers, later


@pytest.fixture
def run(recipe: Path) -> Path:
    """A run of four steps with a logger, which is not finished."""
    return train(recipe, overrides=RECORDED, run_dir="run", plugins=PLUGIN, reporter=Listener(signal_at=4)).run


def test_a_run_is_sampled_measured_and_loaded_without_its_logger(run: Path) -> None:
    before = len(calls())
    Path("recorder.py").unlink()
    assert sample(run, 4).size
    assert load_generator(run).latent_dim == 3
    (measured,) = evaluate(run, ["brightness"], samples=8, floor=False, plugins=["brightness.py"])
    assert measured.step == 4
    measure = "evaluate run --metric brightness --samples 8 --plugin brightness.py"
    for words in ("sample run --count 4 --out a.png", measure, "report run --out a.html"):
        assert main(words.split()) == 0, words
    (run / "recipe.toml").write_text((run / "recipe.toml").read_text() + "\n[loggers.of]\nuse = 3\n")
    assert sample(run, 4).size
    assert len(calls()) == before


def test_a_run_is_resumed_with_its_logger_or_without_it(run: Path) -> None:
    Path("recorder.py").rename("elsewhere.py")
    with pytest.raises(UserError) as caught:
        resume(run)
    hint = "add --plugin recorder.py to the command, or where recorder.py is now; or --set loggers.recorder=off"
    assert str(caught.value) == f"run: the run uses the logger 'recorder' from a file\n    {hint}"
    before = len(calls())
    resume(run, overrides=["loggers.recorder=off"])
    assert len(calls()) == before
    assert "loggers" not in tomllib.loads((run / "recipe.toml").read_text())
    assert not list(run.glob("*.replaced*")), "the recipe was as the run had written it"
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["loggers"] == {}
    assert manifest["sessions"][-1]["set"] == ["loggers.recorder=off"]
    whole = train("recipe.toml", run_dir="whole").run
    assert bits(run) == bits(whole)


def test_loggers_may_change_between_sessions(run: Path) -> None:
    added = ["loggers.recorder.path=others", "loggers.reader=on"]
    resume(run, overrides=added, plugins=[*PLUGIN, "reader.py"])
    assert [call[0] for call in calls("others")] == ["started", "scalars", "picture", "ended"]
    assert calls("others")[0][3] == 4
    assert (run / "loggers" / "seen").read_text() == "6"
    recipe = run / "recipe.toml"
    assert set(tomllib.loads(recipe.read_text())["loggers"]) == {"recorder", "reader"}
    origins = {
        name: facts["origin"] for name, facts in json.loads((run / "manifest.json").read_text())["loggers"].items()
    }
    assert set(origins) == {"recorder", "reader"}
    assert origins["reader"].startswith("reader.py sha256:")
    # by hand, too: here the file with the user's words is kept
    recipe.write_text("# mine\n" + recipe.read_text().replace("/others", "/third").partition("[loggers.reader]")[0])
    resume(run, steps=7, plugins=PLUGIN)
    assert calls("third")[-1] == ["ended", 7, "finished", ""]
    assert (run / "recipe.toml.replaced").read_text().startswith("# mine")


def test_only_loggers_and_data_are_set_when_a_run_is_resumed(run: Path) -> None:
    with pytest.raises(UserError) as caught:
        resume(run, overrides=["train.log_every=1", "loggers.recorder.path=b"], plugins=PLUGIN)
    (problem,) = caught.value.problems
    assert problem.what.endswith("only its loggers and the place of its data can be set")
    assert problem.where == "--set train.log_every=1"


def test_what_loggers_have_written_is_set_aside_with_an_attempt_that_failed(recipe: Path) -> None:
    train(recipe, overrides=["loggers.reader=on"], run_dir="run", plugins=["reader.py"])
    shutil.rmtree("run/checkpoints")
    assert train(recipe, run_dir="run").finished == STEPS
    assert Path("run/earlier-1/loggers/seen").exists()
    assert not Path("run/loggers").exists()
