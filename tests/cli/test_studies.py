"""ablate, interpolate and report, as a person meets them."""

import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from gantricks.cli.console import output
from gantricks.cli.study import Screen, write_table
from gantricks.study import Comparison, Mean, Table, study
from gantricks.study.effects import Effect, Family, Findings
from gantricks.study.folder import Outcome
from gantricks.study.playing import Interrupted


class Told:
    """Stands in for the study itself: keeps what it was asked for."""

    def __init__(self, **changes: Any) -> None:
        row = Mean("full", 7.0, 1.0, 2, 0, 0, {0: 6.0, 1: 8.0})
        less = Mean("without-ema", 5.0, 0.5, 1, 1, 0, {0: 5.0})
        ema = Comparison("ema", ("full",), ("without-ema",), 2.0, 0.1, 1.5, 2.5, 0.01, 0.02, 2, 1, "helps")
        same = Comparison("a", ("full",), ("without-a",), 0.0, 0.1, -0.5, 0.5, 0.9, 1.0, 2, 0, "not established")
        self.table = replace(
            Table(
                name="ring",
                mode="leave-one-out",
                metric="mixture_coverage",
                figure="modes",
                better="higher",
                steps=5,
                seeds=(0, 1),
                floor=8.0,
                means=(row, less, replace(less, variant="without-a")),
                comparisons=(ema, same),
                interactions=(),
                impossible={},
                failed={},
                runs=4,
                seconds=1.0,
            ),
            **changes,
        )
        self.asked: dict[str, Any] = {}

    def __call__(self, recipe: str, **asked: Any) -> tuple[Path, Table]:
        self.asked = asked
        asked["reporter"].finished(Outcome("full", 0, "done", 6.0), 1, 4)
        asked["reporter"].finished(Outcome("without-ema", 1, "diverged", reason="it burst"), 2, 4)
        return Path("studies/ring"), self.table


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    told = Told()
    monkeypatch.setattr("gantricks.study.ablate", told)
    return told


def test_ablate_shows_a_line_per_run_and_the_table(gantricks: Any, told: Told) -> None:
    outcome = gantricks("ablate", "ring_mlp", "--seeds", 2)
    assert (outcome.status, outcome.err) == (0, "")
    assert "run 1/4  full seed 0  6" in outcome.out
    assert "run 2/4  without-ema seed 1  diverged: it burst" in outcome.out
    assert "modes of mixture_coverage, higher is better; seeds 0 to 1, 5 steps a run" in outcome.out
    assert "real samples against real ones: 8" in outcome.out
    rows = [line.split() for line in outcome.out.splitlines()]
    assert ["full", "7.00", "1.00", "2", *"–––"] in rows
    row = "without-ema 5.00 0.50 1 (1 diverged) +2.00 [+1.50, +2.50] 0.020 ema helps"
    assert row.split() in rows
    assert "ema: 1 of 3 pairs have a run without a figure" in outcome.out
    assert "The study is kept in studies/ring" in outcome.out


def test_what_is_not_established_is_grey_on_a_terminal(told: Told) -> None:
    written = io.StringIO()
    write_table(Console(file=written, force_terminal=True, color_system="standard", width=200), told.table)
    assert "\x1b[90mnot established\x1b[0m" in written.getvalue()
    assert "\x1b[32mema helps" in written.getvalue()


def test_the_runs_and_what_they_will_show_are_said_first(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(output())
    design = SimpleNamespace(
        reference=SimpleNamespace(name="plain"),
        variants=[SimpleNamespace(name="with-grow", impossible="it needs images")],
    )
    seeds = {"plain": range(7), "with-a": range(5), "with-b": range(5)}
    screen.planned(Path("studies/x"), design, seeds, 3)
    screen.foreseen("it will see [much]")
    out, err = capsys.readouterr()
    assert "3 variants (plain, with-a, with-b), 5 runs each, of plain 7: 17 runs" in out
    assert "the study is kept in studies/x; 3 of the runs are finished already\nit will see [much]" in out
    assert "with-grow cannot be trained: it needs images" in out + err
    screen.planned(Path("studies/x"), design, dict.fromkeys(seeds, range(5)), 0)
    assert "3 variants (plain, with-a, with-b), 5 runs each: 15 runs" in capsys.readouterr().out


def test_ablate_hands_its_options_on(gantricks: Any, told: Told) -> None:
    words = ("--mode", "add-one", "--seeds", 7, "--metric", "m", "--figure", "f", "--jobs", 2, "--tricks", "a, b,c")
    rules = ("--design", "paired", "--adjust", "holm", "--margin", 0.2, "--spread", "20%")
    more = ("--with", "tricks.a.x=1", "--dir", "here", "--set", "seed=4", "--device", "cpu", "--plugin", "p.py")
    assert gantricks("ablate", "ring_mlp", *words, *rules, *more).status == 0
    told.asked.pop("reporter")
    assert told.asked == {
        "mode": "add-one",
        "seeds": 7,
        "design": "paired",
        "adjust": "holm",
        "margin": 0.2,
        "spread": "20%",
        "metric": "m",
        "figure": "f",
        "jobs": 2,
        "tricks": ["a", "b", "c"],
        "options": ["tricks.a.x=1"],
        "folder": Path("here"),
        "overrides": ["seed=4", "train.device=cpu"],
        "plugins": [Path("p.py")],
    }
    assert gantricks("ablate", "ring_mlp").status == 0
    assert [told.asked[name] for name in ("design", "adjust", "margin", "spread")] == [
        "independent",
        "max-t",
        None,
        None,
    ]


@pytest.mark.parametrize("option", ["--design=paired", "--adjust=holm", "--margin=0", "--spread=0.1"])
@pytest.mark.parametrize("mode", ["factorial", "screening", "confirm"])
def test_rules_of_comparisons_belong_to_the_modes_that_compare(gantricks: Any, option: str, mode: str) -> None:
    outcome = gantricks("ablate", "ring_mlp", "--mode", mode, option)
    assert outcome.status == 2
    refused = f"{option.partition('=')[0]} belongs to --mode leave-one-out or add-one or pairs" in outcome.err
    assert refused == (mode != "confirm" or "design" in option)


def test_ablate_as_json_prints_nothing_else(gantricks: Any, told: Told) -> None:
    outcome = gantricks("ablate", "ring_mlp", "--json")
    assert outcome.status == 0
    found = json.loads(outcome.out)
    assert found["comparisons"][0]["verdict"] == "helps"
    assert found["folder"] == str(Path("studies/ring"))
    assert "run 1/4" in outcome.err


def test_runs_that_failed_are_told_in_the_status(gantricks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gantricks.study.ablate", Told(failed={"full seed 1": "its process was ended by signal 9"}))
    outcome = gantricks("ablate", "ring_mlp")
    assert outcome.status == 1
    assert "full seed 1 failed and is made again by the same command: its process was ended by signal 9" in outcome.out


@pytest.mark.parametrize(("number", "status"), [(2, 130), (15, 143)])
def test_an_interrupted_study_says_how_to_go_on(
    gantricks: Any, monkeypatch: pytest.MonkeyPatch, number: int, status: int
) -> None:
    def interrupted(recipe: str, **asked: Any) -> Any:
        raise Interrupted(number, 3, 8)

    monkeypatch.setattr("gantricks.study.ablate", interrupted)
    outcome = gantricks("ablate", "ring_mlp")
    assert outcome.status == status
    assert "Interrupted after 3 of 8 runs" in outcome.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--seeds", 1), "--seeds"),
        (("--mode", "all"), "--mode"),
        (("--jobs", 0), "--jobs"),
        (("--design", "both"), "--design"),
        (("--adjust", "none"), "--adjust"),
        (("--margin", -1), "--margin"),
        (("--set", "train.stepps=3"), "did you mean 'steps'?"),
    ],
)
def test_what_is_wrong_with_the_command_is_said(gantricks: Any, words: tuple[object, ...], said: str) -> None:
    outcome = gantricks("ablate", "ring_mlp", *words)
    assert outcome.status == 2
    assert said in outcome.err
    assert "Traceback" not in outcome.err
    assert not Path("studies").exists()


def test_a_recipe_without_tricks_names_another_mode(gantricks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = study.Figure("loss", "d", "lower")
    monkeypatch.setattr(study, "_compared", lambda *given: (compared, []))
    outcome = gantricks("ablate", "ring_mlp")
    assert outcome.status == 2
    assert "no trick that could be left out" in outcome.err
    assert "--mode add-one" in outcome.err
    assert not Path("studies").exists()


def test_interpolate_draws_paths_and_overwrites_nothing(gantricks: Any, run: Path) -> None:
    outcome = gantricks("interpolate", run, "--out", "path.png", "--rows", 3, "--columns", 40)
    assert (outcome.status, outcome.err) == (0, "")
    assert "3 paths of run, seed 0: path.png (512 × 512 pixels)" in outcome.out
    with Image.open("path.png") as image:
        drawn = image.tobytes()
    assert gantricks("interpolate", run, "--out", "again.png", "--rows", 3, "--columns", 40).status == 0
    with Image.open("again.png") as image:
        assert image.tobytes() == drawn
    for words in (("--seed", 1), ("--step", 2)):
        assert (
            gantricks("interpolate", run, "--out", f"{words[0]}.png", "--rows", 3, "--columns", 40, *words).status == 0
        )
        with Image.open(f"{words[0]}.png") as image:
            assert image.tobytes() != drawn

    before = Path("path.png").read_bytes()
    refused = gantricks("interpolate", run, "--out", "path.png")
    assert (refused.status, Path("path.png").read_bytes()) == (2, before)
    assert "nothing is overwritten" in refused.err
    assert gantricks("interpolate", run, "--out", "path.jpg").status == 2


def test_report_is_one_file_beside_the_run_or_where_it_is_wanted(gantricks: Any, run: Path) -> None:
    outcome = gantricks("report", run)
    assert (outcome.status, outcome.err) == (0, "")
    assert f"{run / 'report.html'}" in outcome.out
    html = (run / "report.html").read_text()
    assert "<h1>ring_mlp</h1>" in html
    assert gantricks("report", run).status == 0
    assert (run / "report-2.html").read_text() == html
    assert gantricks("report", run, run, "--out", "both.html").status == 0
    assert "the recipes are the same" in Path("both.html").read_text()
    assert gantricks("report", run, "--out", "both.html").status == 2
    assert gantricks("report", run, "--out", "both.pdf").status == 2


def test_report_names_every_folder_that_is_no_run(gantricks: Any) -> None:
    outcome = gantricks("report", "a", "b")
    assert outcome.status == 2
    assert "a: there is no such folder" in outcome.err
    assert "b: there is no such folder" in outcome.err


class Designed:
    """Stands in for a study of a design: keeps what it was asked for, and has found one effect."""

    def __init__(self, **changes: Any) -> None:
        ema = Effect("ema", -0.4, -0.6, -0.2, 0.001, 20, 1.1, "r1", 0.1, 1, 21, 0, 19, price=1.05)
        self.found = Findings(
            name="ring",
            mode="screening",
            metric="mixture_coverage",
            figure="reverse_kl",
            better="lower",
            scale="log",
            steps=5,
            runs=41,
            used=39,
            diverged=1,
            collapsed=1,
            spread=0.3,
            explained=0.5,
            families=(Family("trick", (ema, Effect("r1", None, note="too few runs for an interval"))),),
            impossible={"grow": "it needs images"},
            failed={},
            seconds=1.0,
            finalists=("ema",),
        )
        self.found = replace(self.found, **changes)
        self.asked: dict[str, Any] = {}

    def __call__(self, recipe: str, **asked: Any) -> tuple[Path, Any]:
        self.asked = asked
        asked["reporter"].designed(Path("studies/ring"), "2 to 6 of 7 tricks each", 41, 3, ["grow is not drawn"])
        return Path("studies/ring"), self.found


def test_a_screening_shows_effects_and_what_to_confirm(gantricks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from gantricks.cli import designs

    monkeypatch.setattr(designs, "screening", told := Designed())
    words = ("ablate", "ring_mlp", "--mode", "screening", "--runs=41", "--tricks", "ema, r1", "--set", "seed=4")
    monkeypatch.setattr(sys, "argv", ["gantricks", *words])
    outcome = gantricks(*words)
    assert (outcome.status, outcome.err) == (0, "")
    told.asked.pop("reporter")
    assert told.asked == {
        "runs": 41,
        "metric": None,
        "figure": None,
        "jobs": 1,
        "tricks": ["ema", "r1"],
        "options": [],
        "folder": None,
        "overrides": ["seed=4"],
        "plugins": [],
    }
    assert "2 to 6 of 7 tricks each: 41 runs" in outcome.out
    assert "! grow is not drawn" in outcome.out
    assert "3 of the runs are finished already" in outcome.out
    rows = [" ".join(line.split()) for line in outcome.out.splitlines()]
    assert "ema −33 % −45 % … −18 % 0.001 20 1.10 1 of 21 0 of 19 × 1.05" in rows
    assert "grow is not drawn: it needs images" in outcome.out
    assert "gantricks ablate ring_mlp --set seed=4 --mode confirm --finalists ema" in outcome.out


def test_designs_get_their_own_options(gantricks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from gantricks.cli import designs

    for name in ("factorial", "confirm"):
        monkeypatch.setattr(designs, name, told := Designed(mode=name))
        own = {"factorial": ("--order", 3, "--seeds", 4), "confirm": ("--finalists", "ema,r1", "--blocks", 7)}[name]
        assert gantricks("ablate", "ring_mlp", "--mode", name, *own).status == 0
        wanted = {
            "factorial": {"order": 3, "seeds": 4, "tricks": []},
            "confirm": {"finalists": ["ema", "r1"], "blocks": 7},
        }[name]
        assert {key: told.asked[key] for key in wanted} == wanted
        assert told.asked.keys() & {"runs", "blocks", "order", "seeds", "tricks", "finalists"} == wanted.keys()


def test_options_of_another_mode_are_refused(gantricks: Any) -> None:
    outcome = gantricks("ablate", "ring_mlp", "--mode", "add-one", "--runs", 5, "--blocks", 3)
    assert outcome.status == 2
    assert "--runs belongs to --mode screening" in outcome.err
    assert "--blocks belongs to --mode confirm" in outcome.err
    outcome = gantricks("ablate", "ring_mlp", "--mode", "confirm", "--finalists", "r1", "--tricks", "ema")
    assert (outcome.status, "name them with --finalists" in outcome.err) == (2, True)
    outcome = gantricks("ablate", "ring_mlp", "--mode", "screening", "--seeds", 5)
    assert (outcome.status, "say how many with --runs" in outcome.err) == (2, True)


def test_findings_as_json(gantricks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from gantricks.cli import designs

    monkeypatch.setattr(designs, "screening", Designed(failed={"run-0003 seed 8": "it fell over"}))
    outcome = gantricks("ablate", "ring_mlp", "--mode", "screening", "--json")
    assert outcome.status == 1
    found = json.loads(outcome.out)
    assert found["families"][0]["effects"][0]["low"] == -0.6
    assert found["folder"] == str(Path("studies/ring"))


def test_sweep_trains_and_shows_a_table(gantricks: Any) -> None:
    small = ("--set", "data.samples=500", "--set", "generator.hidden=[8]", "--set", "discriminator.hidden=[8]")
    words = ("generator.optimizer.lr=0.01,-7", "--seeds", 2, "--set", "train.steps=3", *small)
    outcome = gantricks("sweep", "ring_mlp", *words)
    assert outcome.status == 0, outcome.err
    assert "2 variants (recipe, lr=0.01), 2 runs each: 4 runs" in " ".join(outcome.out.split())
    assert "lr=-7 cannot be trained" in outcome.out
    assert "studies/ring_mlp-sweep" in outcome.out
    wrong = gantricks("sweep", "ring_mlp", "generator.optimizer.rate=0.01")
    assert wrong.status == 2
    assert "rate" in wrong.err


SEARCHED = ("--set", "data.samples=500", "--set", "generator.hidden=[8]", "--set", "discriminator.hidden=[8]")


def test_tune_shows_the_best_and_how_to_train_it(gantricks: Any) -> None:
    pytest.importorskip("optuna", reason="a search needs Optuna: pip install 'gantricks[tune]'")
    words = ("--param", "generator.optimizer.lr=1e-3..1e-2:log", "--trials", 2, "--set", "train.steps=3", *SEARCHED)
    outcome = gantricks("tune", "ring_mlp", *words)
    assert outcome.status == 0, outcome.err
    assert "a search over generator.optimizer.lr: 2 trials" in outcome.out
    assert "trial 1/2  trial-0000" in outcome.out
    assert "gantricks train studies/ring_mlp-tune/best.toml" in outcome.out
    again = gantricks("tune", "ring_mlp", *words, "--json")
    found = json.loads(again.out)
    assert (again.status, len(found["trials"]), found["folder"]) == (0, 2, str(Path("studies/ring_mlp-tune")))
    wrong = gantricks("tune", "ring_mlp", "--param", "generator.optimizer.rate=1..2", "--param", "seed=1..2")
    assert wrong.status == 2
    assert "seed cannot be searched" in wrong.err
    wrong = gantricks("tune", "ring_mlp", "--param", "generator.optimizer.rate=1..2")
    assert (wrong.status, "--param generator.optimizer.rate=1.0..2.0: " in wrong.err) == (2, True)


def test_a_search_without_optuna_says_what_to_install(gantricks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    outcome = gantricks("tune", "ring_mlp", "--param", "generator.optimizer.lr=1e-3..1e-2")
    assert outcome.status == 2
    assert outcome.err.split("\n")[:2] == [
        "gantricks tune: a search needs Optuna",
        '    pip install "gantricks[tune]"',
    ]
