"""A study from its first line on the disk to its last: resumed, interrupted, never overwritten; faults are reported."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gantricks import UserError
from gantricks.planning import recipe_files, validation
from gantricks.study import Reporter, ablate
from gantricks.study.playing import Figure, Interrupted

VARIANTS = ("full", "without-soft_labels", "without-ema", "bare")
MOVING = {"full": 1, "full 1": 1.1, "full 2": 1.05, "without-soft_labels": 1, "without-ema": 1, "bare": 2}
"""Figures whose pairs differ by more than a constant."""
EVERY = [f"{variant} {seed}" for seed in range(3) for variant in VARIANTS]


def test_every_variant_is_played_with_the_same_seeds_and_compared(pretend: Any) -> None:
    path, table = pretend({"full": 1, "without-soft_labels": 2, "without-ema": 0.5, "bare": 1})
    assert path == Path("studies/ring_mlp-leave-one-out")
    assert pretend.played() == EVERY
    assert [(row.variant, row.n) for row in table.means] == [(name, 3) for name in VARIANTS]
    assert {c.name: (round(c.effect or 0, 6), c.n) for c in table.comparisons} == {
        "soft_labels": (-1, 3),
        "ema": (0.5, 3),
        "the whole set": (0, 3),
    }
    assert (table.floor, table.runs, table.failed) == (0.5, 12, {})

    assert json.loads((path / "results.json").read_text()) == json.loads(json.dumps(table.as_dict()))
    assert "| without-soft_labels | 2.01" in (path / "results.md").read_text()
    with Image.open(path / "results.png") as image:
        assert image.format == "PNG"


def test_the_recipe_is_read_once_however_many_variants_there_are(
    pretend: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, loaded = list[Path](), list[int]()
    text, validated = recipe_files._text, validation._Validation.recipe

    def counted(path: Path, room: int) -> str:
        read.append(path)
        return text(path, room)

    def loading(found: Any) -> Any:
        loaded.append(len(found.raw.get("tricks", {})))
        return validated(found)

    monkeypatch.setattr(recipe_files, "_text", counted)
    monkeypatch.setattr(validation._Validation, "recipe", loading)
    child = tmp_path / "child.toml"
    child.write_text('extends = "ring_mlp.toml"')
    pretend(recipe=child)
    assert [path.name for path in read] == ["child.toml", "ring_mlp.toml"]
    # as it was given, as a study trains it, and each variant that is not the recipe itself
    assert len(loaded) == 2 + len(VARIANTS) - 1


def test_what_is_going_to_be_done_is_written_down_before_the_first_run(pretend: Any) -> None:
    with pytest.raises(Interrupted) as stop:
        pretend({"full 0": "stop"})
    assert (stop.value.number, stop.value.done, stop.value.total) == (2, 0, 12)
    path = Path("studies/ring_mlp-leave-one-out")
    study = json.loads((path / "study.json").read_text())
    assert {"gantricks", "torch", "python", "argv", "threads"} <= study.keys()
    definition = study["definition"]
    assert (definition["mode"], definition["metric"], definition["figure"]) == ("leave-one-out", "loss", "d")
    assert (definition["seeds"], definition["steps"], definition["reference"]) == ([0, 1, 2], 6, "full")
    assert list(definition["variants"]) == [*VARIANTS]
    assert definition["variants"]["bare"]["recipe"].get("tricks") is None
    for variant in VARIANTS:
        assert (path / "runs" / variant / "recipe.toml").is_file()
    assert not list(path.rglob("result.json"))


def test_a_study_goes_on_with_a_version_that_has_more_options(pretend: Any) -> None:
    path, _ = pretend()
    study = json.loads((path / "study.json").read_text())
    full = study["definition"]["variants"]["full"]
    assert "std" not in full["recipe"]["data"]
    del full["defaults"]["data"]["std"]  # as it was before there was such an option
    full["defaults"]["generator"]["gone"] = 1
    (path / "study.json").write_text(json.dumps(study))
    assert len(pretend.played()) == len(EVERY)
    assert pretend(folder=path)[0] == path
    assert pretend.played() == []

    full["defaults"]["data"]["std"] = 7  # a default that is another one now
    (path / "study.json").write_text(json.dumps(study))
    with pytest.raises(UserError, match=r"it differs in variants\.full\.defaults\.data\.std"):
        pretend(folder=path)


def test_a_study_goes_on_where_it_was_interrupted_and_repeats_nothing(pretend: Any) -> None:
    with pytest.raises(Interrupted):
        pretend({"without-ema 1": "stop"})
    assert pretend.played() == EVERY[:7]
    path, table = pretend()
    assert pretend.played() == EVERY[6:]
    assert path == Path("studies/ring_mlp-leave-one-out")
    assert all(row.n == 3 for row in table.means)

    before = (path / "results.json").read_bytes()
    again, _ = pretend()
    assert again == path
    assert pretend.played() == []
    assert (path / "results.json").read_bytes() == before
    assert [folder.name for folder in Path("studies").iterdir()] == ["ring_mlp-leave-one-out"]


def test_a_study_that_differs_has_a_folder_of_its_own(pretend: Any) -> None:
    first, _ = pretend()
    second, _ = pretend(overrides=["train.steps=7"])
    third, _ = pretend(seeds=2)
    assert [path.name for path in (first, second, third)] == [
        f"ring_mlp-leave-one-out{suffix}" for suffix in ("", "-2", "-3")
    ]
    assert pretend(overrides=["train.steps=7"])[0] == second
    named, _ = pretend(folder=Path("here"))
    assert (named, pretend(folder=Path("here"))[0]) == (Path("here"), Path("here"))


def test_an_independent_study_plays_its_reference_more_often(pretend: Any) -> None:
    def counted(design: str) -> dict[str, int]:
        path, table = pretend({"full": 1, "without-soft_labels": 2}, design=design)
        played = pretend.played()
        assert played[:12] == EVERY
        assert json.loads((path / "study.json").read_text())["definition"]["design"] == design
        assert table.design == design
        assert {row.variant: row.n for row in table.means} == {
            name: sum(run.startswith(f"{name} ") for run in played) for name in VARIANTS
        }
        assert table.runs == len(played)
        return {row.variant: row.n for row in table.means}

    # three others: √3 · 3, about 5
    assert counted("independent") == {"full": 5, "without-soft_labels": 3, "without-ema": 3, "bare": 3}
    assert counted("paired") == dict.fromkeys(VARIANTS, 3)
    assert sorted(path.name for path in Path("studies").iterdir()) == [
        "ring_mlp-leave-one-out",
        "ring_mlp-leave-one-out-2",
    ]


@pytest.mark.parametrize("rule", [{"adjust": "holm"}, {"margin": 0.5}, {"design": "independent"}])
def test_a_study_by_other_rules_is_another_study(pretend: Any, rule: dict[str, Any]) -> None:
    path, _ = pretend()
    assert pretend(spread="0.2")[0] == path  # which is no rule
    with pytest.raises(UserError, match=f"it differs in {next(iter(rule))}"):
        pretend(folder=path, **rule)
    again, table = pretend(**rule)
    assert again != path
    assert {name: getattr(table, name) for name in rule} == rule


def test_a_figure_that_is_always_above_0_is_compared_by_ratios(pretend: Any) -> None:
    pretend.compared = Figure("loss", "d", "lower", ratio=True)
    path, table = pretend({"full": 1, "without-soft_labels": 2, "without-ema": 1.5, "bare": 0.5})
    assert (table.scale, table.margin) == ("log", 0.1)
    soft = table.comparisons[0]
    assert soft.effect == pytest.approx(np.prod([1.0, 1.01, 1.02]) ** (1 / 3) / np.prod([2.0, 2.01, 2.02]) ** (1 / 3))
    assert soft.verdict == "helps"
    assert "| −50 % [" in (path / "results.md").read_text()

    _, table = pretend({"full": 1, "without-soft_labels 0": 0}, overrides=["train.steps=7"])
    assert (table.scale, table.margin) == ("raw", None)
    assert "d is 0 in some run, so differences are compared and no ratios" in table.notes


def test_the_price_of_a_trick_is_measured_and_curves_are_drawn(pretend: Any) -> None:
    pretend.compared = Figure("loss", "d", "lower", ratio=True)
    falling = {name: [[2, 8.0], [3, 4.0], [4, 2.0], [6, 1.95]] for name in VARIANTS}
    path, table = pretend(MOVING, curves=falling)
    soft = table.comparisons[0]
    assert soft.price is not None
    assert soft.price.value == pytest.approx(2)
    # after half of its steps, against the whole of the others'
    assert soft.equal_time is not None
    assert soft.equal_time.value == pytest.approx(4.0 / 1.95)
    assert [*table.curves] == [*VARIANTS]
    assert table.curves["full"].means == pytest.approx((8.0, 4.0, 2.0, 1.95))
    assert table.comparisons[2].verdict == "helps"
    text = (path / "results.md").read_text()
    assert "| at equal time | time a step |" in text
    assert "![](curves.png)" in text
    with Image.open(path / "curves.png") as image:
        assert image.format == "PNG"


def test_a_reference_that_still_falls_leaves_no_verdict(pretend: Any) -> None:
    falling = {"full": [[2, 8.0], [3, 4.0], [4, 2.0], [6, 1.0]]}
    _, table = pretend(MOVING, curves=falling)
    assert {found.verdict for found in table.comparisons} == {"not established"}
    assert table.comparisons[2].adjusted < 0.05
    assert any(note.startswith("full still gets better by 50 %") for note in table.notes)
    path, table = pretend(MOVING, overrides=["train.steps=7"])
    assert table.comparisons[2].verdict == "helps"
    assert not (path / "curves.png").exists()


def test_what_a_study_will_see_is_said_before_its_first_run(pretend: Any) -> None:
    said: list[str] = []

    class Listener(Reporter):
        def foreseen(self, sentence: str) -> None:
            said.append(sentence)

    pretend.compared = Figure("loss", "d", "lower", ratio=True)
    pretend(reporter=Listener(), spread="20%")
    assert "if runs spread by 20 % (assumed)" in said[0]
    assert "10 % takes about" in said[0]
    pretend(reporter=Listener(), overrides=["train.steps=7"])
    assert "if runs spread by 10 %" in said[1]
    path, _ = pretend({"full 0": 1, "full": 2})
    pretend(reporter=Listener(), overrides=["train.steps=8"], spread=str(path))
    assert f"(as in {path / 'results.json'})" in said[2]
    with pytest.raises(Interrupted):
        pretend({"full": 1, "bare": 2, "without-ema 2": "stop"}, overrides=["train.steps=9"])
    pretend({"full": 1, "bare": 2}, overrides=["train.steps=9"], reporter=Listener())
    assert "(measured in the runs that are finished)" in said[3]
    pretend({"full": 1, "bare": 2}, overrides=["train.steps=9"], reporter=Listener())
    assert len(said) == 4  # nothing is left to be played


@pytest.mark.parametrize(
    ("spread", "told"),
    [
        ("0", "must be above 0"),
        ("-1", "must be above 0"),
        ("nan", "must be above 0"),
        ("20%", "it is no share, since differences are compared"),
        ("nowhere.json", "the file cannot be read"),
        ("list.json", "the file holds no results of variants with seeds"),
        ("other.json", "that study compares modes of coverage, not d"),
        ("flat.json", "do not spread"),
    ],
)
def test_a_spread_that_cannot_be_read_is_said_before_a_folder_is_made(pretend: Any, spread: str, told: str) -> None:
    Path("list.json").write_text("[]")
    Path("other.json").write_text('{"metric": "coverage", "figure": "modes", "means": []}')
    Path("flat.json").write_text('{"metric": "loss", "figure": "d", "means": [{"values": {"0": 1, "1": 1}}]}')
    with pytest.raises(UserError, match=told):
        pretend(spread=spread)
    assert not Path("studies").exists()


def test_without_scipy_a_study_says_how_to_get_it(pretend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.special", None)
    with pytest.raises(UserError, match="the statistics of a study need scipy") as error:
        pretend()
    assert 'pip install "gantricks[study]"' in error.value.problems[0].hint
    assert not Path("studies").exists()


def test_a_folder_that_holds_something_else_is_left_alone(pretend: Any) -> None:
    path, _ = pretend()
    with pytest.raises(UserError, match="it differs in seeds"):
        pretend(folder=path, seeds=2)
    other = Path("other")
    other.mkdir()
    (other / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="not a study of gantricks"):
        pretend(folder=other)
    assert [entry.name for entry in other.iterdir()] == ["letter.txt"]
    (path / "study.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        pretend(folder=path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": 1}', '{"format": 1, "definition": 3}', '{"format": "1", "definition": {}}', "�"]
)
def test_a_study_that_is_not_as_it_was_written_is_said_to_be_damaged(pretend: Any, text: str) -> None:
    path, _ = pretend()
    (path / "study.json").write_bytes(text.encode("utf-16" if text == "�" else "utf-8"))
    with pytest.raises(UserError, match="the file is damaged: ") as error:
        pretend(folder=path)
    (problem,) = error.value.problems
    assert (problem.where, problem.hint) == (str(path / "study.json"), "name another folder with --dir")


def test_outcomes_outlive_the_folders_of_their_runs(pretend: Any) -> None:
    """The plan and the outcomes are enough to go on with a study on another machine."""
    path, table = pretend(MOVING, curves={"full": [(2, 8.0), (6, 4.0)]})
    pretend.played()
    for file in path.iterdir():
        if file.name not in ("study.json", "outcomes.jsonl"):
            shutil.rmtree(file) if file.is_dir() else file.unlink()
    _, again = pretend()
    assert pretend.played() == []
    assert again.as_dict() == table.as_dict()
    lines = (path / "outcomes.jsonl").read_text().splitlines()
    (path / "outcomes.jsonl").write_text("\n".join(lines[1:]))
    pretend(MOVING)
    assert pretend.played() == [f"{json.loads(lines[0])['variant']} 0"]


def test_the_result_in_a_run_counts_before_the_line_of_its_outcome(pretend: Any) -> None:
    path, _ = pretend(MOVING)
    pretend.played()
    (path / "runs/bare/seed-1/result.json").unlink()
    _, table = pretend(MOVING | {"bare 1": 4.0})
    assert pretend.played() == ["bare 1"]
    assert next(row for row in table.means if row.variant == "bare").values[1] == pytest.approx(4.01)
    assert [json.loads(line)["session"] for line in (path / "outcomes.jsonl").read_text().splitlines()].count(2) == 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda text: text.replace('"done"', '"done", 1', 1), "the file is damaged"),
        (lambda text: text.replace('"done"', '"refused"', 1), "a finished run must have a figure"),
        (lambda text: text.splitlines()[0] + "\n" + text, "stands in two lines"),
        (lambda text: text.replace('"seed"', '"sed"', 1), "damaged"),
    ],
)
def test_a_damaged_line_of_outcomes_is_said_with_its_number(pretend: Any, change: Any, told: str) -> None:
    path, _ = pretend(MOVING)
    file = path / "outcomes.jsonl"
    file.write_text(change(file.read_text()))
    with pytest.raises(UserError, match=told) as error:
        pretend(MOVING)
    assert error.value.problems[0].where in (f"{file}:1", f"{file}:2")


def test_runs_on_other_data_are_not_compared(pretend: Any) -> None:
    path, _ = pretend(MOVING)
    shutil.rmtree(path / "runs/bare/seed-1")
    lines = (path / "outcomes.jsonl").read_text().splitlines()
    (path / "outcomes.jsonl").write_text("\n".join(line for line in lines if '"bare", "seed": 1' not in line))
    with pytest.raises(UserError, match="trained on different data: full seed 0 and bare seed 1") as error:
        pretend(MOVING, data="others")
    assert error.value.problems[0].where == str(path)
    assert f"remove {path / 'runs/bare/seed-1'}" in error.value.problems[0].hint
    shutil.rmtree(path / "runs/bare/seed-1")
    _, table = pretend(MOVING)
    assert table.runs == 12


def test_the_plan_of_a_study_names_no_folder_of_the_machine(pretend: Any, tmp_path: Path) -> None:
    plugin = tmp_path / "own_trick.py"
    plugin.write_text('"""A trick."""\n\nfrom gantricks import Trick\n\n\nclass OwnTrick(Trick):\n    """Nothing."""\n')
    path, _ = pretend(plugins=[plugin], overrides=["tricks.own_trick={}"])
    text = (path / "study.json").read_text()
    assert "own_trick.py sha256:" in text
    assert str(tmp_path) not in text.replace(json.dumps(sys.argv[1:])[1:-1], "")


def test_a_study_of_another_format_is_refused(pretend: Any) -> None:
    path, _ = pretend()
    (path / "study.json").write_text('{"format": 2, "definition": {}}')
    with pytest.raises(UserError, match="the study has format 2; this version reads 1"):
        pretend(folder=path)


def test_results_that_cannot_be_written_are_a_sentence_and_the_runs_are_kept(pretend: Any) -> None:
    path, _ = pretend()
    (path / "results.json").unlink()
    (path / "results.json").mkdir()
    with pytest.raises(UserError, match="results cannot be written") as error:
        pretend()
    assert error.value.problems[0].hint == "its runs are kept: give the same command again"
    (path / "results.json").rmdir()
    pretend.played()
    pretend()
    assert pretend.played() == []


def test_a_trick_with_which_every_run_diverges_is_said_to(pretend: Any) -> None:
    tricks = ["instance_noise"]
    path, table = pretend({"with-instance_noise": "diverged"}, mode="add-one", tricks=tricks, seeds=5)
    assert table.comparisons[0].verdict == "diverges more often: 5 of 5 against 0 of 5"
    text = (path / "results.md").read_text()
    assert "| instance_noise diverges more often: 5 of 5 against 0 of 5 |" in text
    assert "- instance_noise: Fisher's exact test of these rates: p 0.0079, adjusted (Holm)." in text


def test_a_run_that_diverged_is_a_result_and_one_that_failed_is_made_again(pretend: Any) -> None:
    values = {"full": 1, "without-ema 1": "diverged", "bare 0": "failed", "bare 2": "refused"}
    _, table = pretend(values)
    rows = {row.variant: (row.n, row.diverged, row.failed) for row in table.means}
    assert rows == {"full": (3, 0, 0), "without-soft_labels": (3, 0, 0), "without-ema": (2, 1, 0), "bare": (1, 0, 2)}
    assert table.failed == {"bare seed 0": "so it was told", "bare seed 2": "so it was told"}
    ema = next(found for found in table.comparisons if found.name == "ema")
    assert (ema.n, ema.lost) == (2, 1)

    pretend.played()
    _, table = pretend()
    assert pretend.played() == ["bare 0", "bare 2"]
    assert not table.failed
    assert next(row for row in table.means if row.variant == "without-ema").diverged == 1


def test_a_worker_that_falls_over_costs_one_run(pretend: Any) -> None:
    _, table = pretend({"without-ema 0": "crash"}, jobs=2)
    assert [*table.failed] == ["without-ema seed 0"]
    assert table.failed["without-ema seed 0"] == "its process ended with status 1: the worker fell over"
    assert sum(row.n for row in table.means) == 11
    assert sorted(pretend.played()) == sorted(EVERY)


def test_workers_stay_alive_and_share_the_runs(pretend: Any) -> None:
    pretend(jobs=2)
    processes = {line.split()[-1] for line in pretend.log.read_text().splitlines()}
    assert len(processes) == 2
    assert sorted(pretend.played()) == sorted(EVERY)


def test_the_recipe_itself_refused_ends_the_study(pretend: Any) -> None:
    with pytest.raises(UserError, match="the recipe itself is refused: so it was told"):
        pretend({"full 1": "refused"})


def test_the_floor_is_measured_once(pretend: Any) -> None:
    def asked() -> list[str]:
        return [line for line in pretend.log.read_text().splitlines() if "floor" in line]

    _, table = pretend({"full 0": "diverged", "without-soft_labels 0": "failed"})
    assert [" ".join(line.split()[:2]) for line in asked()] == ["full 0", "without-soft_labels 0", "without-ema 0"]
    assert table.floor == 0.5
    pretend.played()
    pretend()
    assert pretend.played() == ["without-soft_labels 0"]
    assert not asked()


def test_the_reporter_is_told_of_every_run(pretend: Any) -> None:
    told: list[Any] = []

    class Listener(Reporter):
        def planned(self, folder: Any, design: Any, seeds: Any, done: int) -> None:
            assert seeds == dict.fromkeys(VARIANTS, (0, 1, 2))
            told.append(("planned", done))

        def foreseen(self, sentence: str) -> None:
            told.append(sentence)

        def finished(self, outcome: Any, done: int, total: int) -> None:
            told.append((outcome.variant, done, total))

        def stepped(self, runs: int, steps: float) -> None:
            assert 0 <= steps <= 1
            assert runs <= 12

        def warn(self, sentence: str) -> None:
            told.append(sentence)

        def close(self) -> None:
            told.append("closed")

    pretend(reporter=Listener())
    assert told[0] == ("planned", 0)
    assert "times the spread between runs, 4 times in 5" in told[1]
    assert told[2:-1] == [(name.split()[0], number, 12) for number, name in enumerate(EVERY, 1)]
    assert told[-1] == "closed"
    told.clear()
    path = Path("studies/ring_mlp-leave-one-out/study.json")
    path.write_text(path.read_text().replace(f'"torch": "{json.loads(path.read_text())["torch"]}"', '"torch": "1.0"'))
    pretend(reporter=Listener())
    assert "the study began with torch 1.0" in told[0]
    assert told[1:] == [("planned", 12), "closed"]


def test_everything_wrong_with_the_recipe_is_said_before_a_folder_is_made(pretend: Any) -> None:
    with pytest.raises(UserError) as error:
        pretend(overrides=["data.modees=3", "tricks.ema.dekay=1"])
    assert len(error.value.problems) == 2
    assert not Path("studies").exists()
    with pytest.raises(UserError, match="no such recipe"):
        ablate("nothing")


def test_a_second_process_waits_its_turn_and_then_gives_up(pretend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from gantricks.study import folder

    monkeypatch.setattr(folder, "PATIENCE", 0.3)
    path, _ = pretend()
    with folder.locked(folder.Folder(path)), pytest.raises(UserError, match="another process is at work"):
        pretend()
