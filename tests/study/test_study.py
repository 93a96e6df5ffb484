"""A study from its first line on the disk to its last: resumed, interrupted, never overwritten; faults are reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gantricks import UserError
from gantricks.planning import recipe_files, validation
from gantricks.study import Reporter, ablate
from gantricks.study.playing import Interrupted

VARIANTS = ("full", "without-soft_labels", "without-ema", "bare")
EVERY = [f"{variant} {seed}" for seed in range(3) for variant in VARIANTS]


def test_every_variant_is_played_with_the_same_seeds_and_compared(pretend: Any) -> None:
    path, table = pretend({"full": 1, "without-soft_labels": 2, "without-ema": 0.5, "bare": 1})
    assert path == Path("studies/ring_mlp-leave-one-out")
    assert pretend.played() == EVERY
    assert [(row.variant, row.n) for row in table.means] == [(name, 3) for name in VARIANTS]
    assert {c.name: (round(c.difference or 0, 6), c.n) for c in table.comparisons} == {
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
    assert "- instance_noise: Fisher's exact test of these shares: p 0.0079, adjusted (Holm)." in text


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
            told.append(("planned", done))

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
    assert told[1:-1] == [(name.split()[0], number, 12) for number, name in enumerate(EVERY, 1)]
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
