"""train, resume, check and sample, as a person meets them."""

import errno
import io
import json
import os
import re
import shlex
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from gantricks.cli.progress import Screen, clock, pace
from gantricks.runs.api import train

STOPPER = '''
from gantricks import Context, Trick, hookimpl


class Stopper(Trick):
    """Stops early."""

    @hookimpl
    def on_boundary(self, ctx: Context) -> None:
        if ctx.step == 2:
            ctx.stop("two are enough")
'''


def test_train_shows_plan_progress_and_the_next_command(gantricks: Any) -> None:
    steps = ("--set", "train.steps=6", "--set", "train.log_every=2")
    outcome = gantricks("train", "ring_mlp", *gantricks.small, *steps, "--seed", 5, "--device", "cpu")

    assert (outcome.status, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert lines[0].startswith("ring_mlp on cpu, ")
    assert "ring: 500 points of 2 numbers, in batches of 16" in outcome.out
    assert "mlp: 154 parameters" in outcome.out
    assert "6 steps, seed 5" in outcome.out
    logged = [line for line in lines if line.startswith("step ")]
    assert [line.split("  ")[0] for line in logged] == ["step 2/6", "step 4/6", "step 6/6"]
    assert all("D " in line and "G " in line and "ETA 0:" in line for line in logged)
    assert str(Path("runs/ring_mlp/samples/000006.png")) in outcome.out

    command = shlex.split(lines[-1])
    assert command[:3] == ["gantricks", "sample", str(Path("runs/ring_mlp"))]
    assert gantricks(*command[1:]).status == 0
    assert Path("samples.png").is_file()


def test_check_says_how_much_room_the_checkpoints_take(gantricks: Any) -> None:
    def told(*settings: str) -> tuple[str, dict[str, int]]:
        words = ["check", "ring_mlp", *(part for setting in settings for part in ("--set", setting))]
        line = next(line for line in gantricks(*words).out.splitlines() if line.startswith("  checkpoints"))
        return line.removeprefix("  checkpoints").strip(), json.loads(gantricks(*words, "--json").out)["plan"]

    line, plan = told()
    each = 3 * 4 * (plan["generator"]["parameters"] + plan["discriminator"]["parameters"])
    assert plan["checkpoints"] == {"written": 5, "kept": 3, "bytes_each": each, "bytes": 3 * each}
    assert line == "every 1,000 steps, the newest 3 kept: about 3 × 432 kB = 1.29 MB"
    assert told("train.keep=all")[1]["checkpoints"]["kept"] == 5
    assert told("train.steps=1001", "train.keep=5")[1]["checkpoints"]["kept"] == 2
    assert told("train.steps=10")[0] == "one, at the end: about 432 kB"
    plain = told("generator.optimizer={name='sgd'}", "discriminator.optimizer={name='sgd',momentum=0.5}")[1]
    sizes = [plan[role]["parameters"] for role in ("generator", "discriminator")]
    assert plain["checkpoints"]["bytes_each"] == 4 * (sizes[0] + 2 * sizes[1])


def test_check_says_which_metrics_are_measured_and_when(gantricks: Any) -> None:
    def told(recipe: str, *settings: str) -> tuple[str, dict[str, Any]]:
        words = ["check", recipe, *(part for setting in settings for part in ("--set", setting))]
        found = [line for line in gantricks(*words).out.splitlines() if line.startswith("  metrics")]
        (line,) = found or [""]
        return line.removeprefix("  metrics").strip(), json.loads(gantricks(*words, "--json").out)["plan"]

    line, plan = told("ring_mlp", "evaluate.every=1000")
    assert line == "mixture_coverage: every 1,000 steps and at the end"
    assert plan["metrics"] == [{"name": "mixture_coverage", "use": "mixture_coverage"}]
    assert plan["evaluate"] == {"every": 1000, "samples": 5000, "reals": "data"}
    assert told("ring_mlp", "evaluate.every=1000", "train.steps=1000")[0] == "mixture_coverage: at the end"
    line, plan = told("ring_mlp", "evaluate.modes.use=mixture_coverage")
    assert line == "modes (mixture_coverage): by gantricks evaluate"
    assert plan["evaluate"]["every"] == "off"
    line, plan = told("ring_mlp")
    assert (line, plan["metrics"]) == ("", [])


MAIN = "metric/mixture_coverage/total_variation"


def test_figures_that_are_measured_while_a_run_trains_are_shown(gantricks: Any) -> None:
    steps = ("--set", "train.steps=5", "--set", "train.log_every=4", "--set", "evaluate.every=2")
    outcome = gantricks("train", "ring_mlp", *gantricks.small, *steps, "--run-dir", "run")
    shown = [line for line in outcome.out.splitlines() if line.startswith("step ")]
    assert [line.split("  ")[0] for line in shown] == [f"step {step}/5" for step in (2, 4, 4, 5, 5)]
    measured = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines() if "metric/" in line]
    for line, found in zip((shown[0], shown[2], shown[4]), measured, strict=True):
        assert f"  mixture_coverage total_variation {found[MAIN]:.4g}  measured in " in line


def test_a_run_that_is_interrupted_in_its_last_measurement_says_how_to_go_on(
    gantricks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = ("--set", "train.steps=4", "--set", "evaluate.every=9")
    with monkeypatch.context() as patch:
        patch.setattr(Screen, "measuring", lambda *_: os.kill(os.getpid(), signal.SIGINT))
        outcome = gantricks("train", "ring_mlp", *gantricks.small, *steps, "--run-dir", "run")
    assert outcome.status == 130
    assert "Interrupted after 4 of 4 steps; the run is saved. To go on:\n  gantricks resume run" in outcome.out
    monkeypatch.setattr("gantricks.cli.progress.BETWEEN_LINES", 0.0)
    outcome = gantricks("resume", "run")
    assert outcome.status == 0
    assert "generating: 2,500 of 2,500\nstep 4/4  mixture_coverage total_variation " in outcome.out
    assert "is finished already" in gantricks("resume", "run").out


def test_a_checkpoint_takes_the_room_that_check_says(gantricks: Any) -> None:
    steps = ("--set", "train.steps=2", "--set", "train.precision=fp32")
    told = json.loads(gantricks("check", "dcgan", *steps, "--json").out)["plan"]["checkpoints"]["bytes_each"]
    assert gantricks("train", "dcgan", *steps, "--set", "data.batch_size=4", "--run-dir", "run").status == 0
    (folder,) = Path("run/checkpoints").iterdir()
    assert 1 <= sum(path.stat().st_size for path in folder.iterdir()) / told < 1.05


def test_options_stand_above_overrides(gantricks: Any) -> None:
    outcome = gantricks("check", "ring_mlp", "--json", "--device", "cpu", "--set", "train.device=cuda:9")
    assert outcome.status == 0
    assert json.loads(outcome.out)["plan"]["device"] == "cpu"


def test_a_recipe_that_cannot_be_copied_leaves_nothing_in_the_way(
    gantricks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    words = {"dcgan.toml": ("recipes", "dcgan", "--copy", "."), "gantricks-mine": ("new-trick", "mine")}
    for name, command in words.items():
        with monkeypatch.context() as patch:
            patch.setattr("gantricks.files.flush", full)
            patch.setattr("gantricks.cli.new_trick.Template.substitute", lambda *_: full(0))
            outcome = gantricks(*command)
        assert outcome.status == 2
        assert f"{name}" in outcome.err
        assert "No space left on device" in outcome.err
        assert list(Path().iterdir()) == [Path(there) for there in list(words)[: list(words).index(name)]]
        assert gantricks(*command).status == 0


def test_a_picture_that_appeared_meanwhile_is_not_overwritten(
    gantricks: Any, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gantricks.runs import api as runs

    draw = runs.sample

    def meanwhile(*args: Any, **kwargs: Any) -> Image.Image:
        Path("out.png").write_text("mine")
        return draw(*args, **kwargs)

    monkeypatch.setattr(runs, "sample", meanwhile)
    outcome = gantricks("sample", run, "--out", "out.png", "--count", "4")
    assert (outcome.status, Path("out.png").read_text()) == (2, "mine")
    assert "nothing is overwritten" in outcome.err


def test_a_trick_that_ends_the_run_is_quoted(gantricks: Any) -> None:
    Path("stopper.py").write_text(STOPPER)
    outcome = gantricks(
        *("train", "ring_mlp", *gantricks.small, "--plugin", "stopper.py", "--set", "tricks.stopper={}")
    )
    assert outcome.status == 0, outcome.err
    assert "A trick ended the run after 2 of 5,000 steps. stopper: two are enough" in outcome.out
    assert outcome.out.rstrip().endswith("--plugin stopper.py")


def test_resume_of_a_finished_run_says_so_and_changes_nothing(gantricks: Any, run: Path) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    outcome = gantricks("resume", run)
    assert (outcome.status, outcome.err) == (0, "")
    assert "run is finished already: 4 of 4 steps" in outcome.out
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_resume_from_an_earlier_step_goes_on_from_there(gantricks: Any, run: Path) -> None:
    outcome = gantricks("resume", run, "--step", 2)
    assert outcome.status == 0, outcome.err
    assert "the run is kept in run, from step 2" in outcome.out
    assert "Done: 4 of 4 steps" in outcome.out


def test_resume_lengthens_a_run_and_says_how_long_its_schedules_are(gantricks: Any, run: Path) -> None:
    outcome = gantricks("resume", run, "--steps", 6)
    assert outcome.status == 0, outcome.err
    assert "6 steps, schedules over 4" in outcome.out
    assert "Done: 6 of 6 steps" in outcome.out
    refused = gantricks("resume", run, "--steps", 5)
    assert refused.status == 2
    assert "--steps 5: the run has done 6 steps already" in refused.err
    assert gantricks("resume", run, "--steps", 0).status == 2
    assert gantricks("train", run / "recipe.toml", "--run-dir", "again").status == 0


def test_an_edited_recipe_is_refused_and_nothing_is_trained(gantricks: Any, run: Path) -> None:
    text = (run / "recipe.toml").read_text()
    (run / "recipe.toml").write_text(
        text.replace("steps = 4", "steps = 6").replace("batch_size = 16", "batch_size = 8")
    )
    outcome = gantricks("resume", run, "--set", "seed=5")
    assert outcome.status == 2
    assert "data.batch_size is 8 and was 16 when the run began" in outcome.err
    assert f"gantricks resume {run} --steps 6" in outcome.err
    assert "--set seed=5: a run cannot be changed when it is resumed" in outcome.err
    assert "3 problems" in outcome.err
    assert gantricks("sample", run, "--out", "one.png").status == 0


def test_check_plans_without_writing_anything(gantricks: Any) -> None:
    more = ("--set", "tricks.label_flipping={}", "--set", "tricks.again={use='label_flipping'}")
    outcome = gantricks("check", "dcgan_soft_labels", *more)
    assert (outcome.status, outcome.err) == (0, "")
    table = [line.split() for line in outcome.out.splitlines()]
    assert ["d_assignment", "fold", "label_flipping", "→", "again", "(label_flipping)"] in table
    assert ["d_scores", "choice", "separate_batches"] in table
    assert "5,000 grey images of 32 × 32 in 10 classes" in outcome.out
    assert not list(Path().iterdir())


def test_check_prints_a_command_that_trains_what_was_checked(gantricks: Any) -> None:
    steps = ("--set", "train.steps=1")
    checked = gantricks("check", "ring_mlp", *gantricks.small, *steps)
    command = shlex.split(checked.out.splitlines()[-1])
    assert command[0] == "gantricks"
    assert "Done: 1 of 1 steps" in gantricks(*command[1:]).out


def test_check_as_json_is_one_object_either_way(gantricks: Any) -> None:
    good = gantricks("check", "dcgan_soft_labels", "--json")
    assert good.status == 0
    plan = json.loads(good.out)["plan"]
    assert json.loads(good.out)["problems"] == []
    assert plan["data"]["shape"] == [1, 32, 32]
    assert plan["generator"]["parameters"] > plan["discriminator"]["parameters"] > 0
    assert {"hook": "d_labels", "kind": "fold", "tricks": ["soft_labels"]} in plan["hooks"]

    bad = gantricks("check", "ring_mlp", "--json", "--set", "data.modees=3")
    assert (bad.status, bad.err) == (2, "")
    (problem,) = json.loads(bad.out)["problems"]
    assert problem["where"] == "--set data.modees=3"
    assert problem["hint"] == "did you mean 'modes'?"


def test_sample_is_a_function_of_run_seed_and_step(gantricks: Any, run: Path) -> None:
    def drawn(name: str, *words: object) -> bytes:
        outcome = gantricks("sample", run, "--count", 16, "--out", name, *words)
        assert outcome.status == 0, outcome.err
        assert name in outcome.out
        with Image.open(name) as image:
            assert image.format == "PNG"
            return image.tobytes()

    once = drawn("a.png", "--seed", 1)
    assert drawn("b.png", "--seed", 1) == once
    assert drawn("c.png", "--seed", 2) != once
    assert drawn("d.png", "--seed", 1, "--step", 2) != once


def test_a_terminal_gets_a_bar_and_no_log_lines(tmp_path: Path) -> None:
    written = io.StringIO()
    screen = Screen(Console(file=written, force_terminal=True, width=60, highlight=False, markup=False))
    screen.reading("decoding", 0, 10)
    screen.reading("decoding", 10, 10)
    overrides = [
        "data.samples=500",
        "generator.hidden=[8]",
        "discriminator.hidden=[8]",
        "train.steps=5",
        "train.log_every=1",
    ]
    train("ring_mlp", overrides=overrides, run_dir=tmp_path / "run", reporter=screen)
    text = written.getvalue()
    assert "10/10" in text
    assert "━" in text
    assert "0/5" in text
    assert "step 1/5" not in text


def test_a_bar_shows_what_is_measured_and_the_newest_main_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gantricks.cli.progress.BETWEEN_DRAWINGS", 0.0)
    written = io.StringIO()
    screen = Screen(Console(file=written, force_terminal=True, width=180, highlight=False, markup=False))
    small = ["data.samples=500", "generator.hidden=[8]", "discriminator.hidden=[8]"]
    measured = ["evaluate.every=2", "evaluate.modes.use=mixture_coverage", "evaluate.mixture_coverage=on"]
    train(
        "ring_mlp",
        overrides=[*small, *measured, "train.steps=3", "train.log_every=1"],
        run_dir=tmp_path / "run",
        reporter=screen,
    )
    text = written.getvalue()
    found = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[2])["metric/modes/total_variation"]
    assert "2/3  generating: 2,500/2,500" in text
    assert re.search(rf"3/3  .*  D [\d.]+  G [\d.]+  modes total_variation {found:.4g}", text)
    assert "mixture_coverage total_variation" not in text  # that of the first metric is enough


@pytest.mark.parametrize(("seconds", "shown"), [(0, "0:00"), (59.6, "1:00"), (3600, "1:00:00"), (90061, "25:01:01")])
def test_clock(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown


@pytest.mark.parametrize(("speed", "shown"), [(12345, "12,345 steps/s"), (2.5, "2.5 steps/s"), (0.25, "4 s/step")])
def test_pace(speed: float, shown: str) -> None:
    assert pace(speed) == shown


def test_a_finished_run_is_sampled_with_tricks_that_act_on_samples_alone(gantricks: Any, run: Path) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}

    def drawn(name: str, *words: str, command: str = "sample") -> bytes:
        outcome = gantricks(command, run, "--out", f"{name}.png", *(part for one in words for part in ("--set", one)))
        assert outcome.status == 0, outcome.err
        return Path(f"{name}.png").read_bytes()

    plain = drawn("plain")
    few = ("tricks.rejection_sampling.burn_in=64", "tricks.rejection_sampling.attempts=3")
    found = {
        plain,
        drawn("cut", "tricks.truncation.limit=0.2"),
        drawn("chosen", *few),
        drawn("cut_and_chosen", *few, "tricks.truncation={limit=0.2}"),
        drawn("moved", "tricks.langevin_sampling={steps=20,rate=0.5}"),
    }
    assert len(found) == 5
    assert drawn("same", "tricks.truncation.limit=9.0") == plain
    assert drawn("off", "tricks.truncation=on", "tricks.truncation=off") == plain
    path = drawn("path", command="interpolate")
    assert drawn("short_path", "tricks.truncation.limit=0.2", command="interpolate") != path
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_what_a_run_was_trained_with_cannot_be_set_when_it_is_sampled(gantricks: Any, run: Path) -> None:
    for command in ("sample", "interpolate"):
        for override, told in (
            ("train.steps=3", "a run is sampled as it was trained"),
            ("seed=3", "only tricks that act on samples alone can be set"),
            ("tricks.spherical_latents=on", "spherical_latents acts in training, and the run is trained"),
            ("tricks.averaged.use=ema", "averaged acts in training"),
            ("tricks.truncatoin=on", "did you mean 'truncation'?"),
            ("tricks.truncation.limit=-1", "limit"),
        ):
            outcome = gantricks(command, run, "--out", "x.png", "--set", override)
            assert (outcome.status, outcome.out) == (2, "")
            assert told in outcome.err
            assert f"--set {override}" in outcome.err
    assert not Path("x.png").exists()


def test_a_trick_of_the_recipe_that_acts_on_samples_alone_can_be_set_anew(gantricks: Any) -> None:
    own = ("--set", "tricks.truncation.limit=0.3", "--set", "tricks.ema=on", "--set", "train.steps=2")
    assert gantricks("train", "ring_mlp", *gantricks.small, *own, "--run-dir", "run").status == 0

    def drawn(name: str, *words: str) -> bytes:
        outcome = gantricks("sample", "run", "--out", f"{name}.png", *words)
        assert outcome.status == 0, outcome.err
        return Path(f"{name}.png").read_bytes()

    assert drawn("own") == drawn("same", "--set", "tricks.truncation.limit=0.3")
    wide = drawn("wide", "--set", "tricks.truncation.limit=9.0")
    assert wide != Path("own.png").read_bytes()
    assert drawn("off", "--set", "tricks.truncation=off") == wide
    refused = gantricks("sample", "run", "--out", "x.png", "--set", "tricks.ema=off")
    assert "ema acts in training" in refused.err


def test_a_path_refuses_tricks_that_choose_other_latents(gantricks: Any, run: Path) -> None:
    outcome = gantricks("interpolate", run, "--out", "x.png", "--set", "tricks.rejection_sampling.attempts=3")
    assert (outcome.status, outcome.out) == (2, "")
    assert "a path gives its own" in outcome.err
    assert "--set tricks.rejection_sampling.attempts=3" in outcome.err


def test_one_line_begins_a_run_goes_on_with_it_and_finds_it_finished(gantricks: Any) -> None:
    words = ("train", "ring_mlp", *gantricks.small, "--resume", "auto", "--set", "train.steps=4")
    Path("runs/ring_mlp").mkdir(parents=True)  # such as a queue makes for its log
    begun = gantricks(*words)
    assert begun.status == 0, begun.err
    assert (Path("runs/ring_mlp") / "recipe.toml").is_file()
    for checkpoint in Path("runs/ring_mlp/checkpoints").glob("*"):
        shutil.rmtree(checkpoint)  # as if it had been killed before the first
    again = gantricks(*words)
    assert again.status == 0, again.err
    assert "4 of 4 steps" in again.out
    finished = gantricks(*words)
    assert finished.status == 0
    assert "4 of 4 steps" in finished.out
    assert [path.name for path in Path("runs").iterdir()] == ["ring_mlp"]


def test_a_run_of_another_recipe_is_not_gone_on_with(gantricks: Any) -> None:
    words = ("train", "ring_mlp", *gantricks.small, "--resume", "auto", "--set", "train.steps=4")
    assert gantricks(*words).status == 0
    other = gantricks(*words, "--set", "data.batch_size=8", "--set", "train.steps=6")
    assert other.status == 2
    assert "data.batch_size is 8 and was 16 when the run began" in other.err
    assert "gantricks resume runs/ring_mlp --steps 6" in other.err
    assert "2 problems" in other.err
