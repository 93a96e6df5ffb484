"""A run's folder: the lock, which folders a run may begin in, and what goes when it does."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gantricks import UserError, files, resume, train
from gantricks.planning.recipe_files import shipped_recipes
from gantricks.planning.validation import load_recipe
from gantricks.runs import checkpoint, folder

TINY = [
    *("train.steps=4", "train.checkpoint_every=2", "train.log_every=1", "train.sample_every=2", "train.capture=off"),
    *("data.samples=500", "data.batch_size=16", "generator.hidden=[8]", "discriminator.hidden=[8]"),
]
posix = pytest.mark.skipif(os.name == "nt", reason="links and locks of POSIX")


def tree(where: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(where)): path.read_bytes() if path.is_file() else b""
        for path in where.rglob("*")
        if path.name != ".lock"
    }


# ---------------------------------------------------------------- the lock


@posix
def test_one_process_at_a_time(tmp_path: Path) -> None:
    with folder.locked(tmp_path, "at it"):
        with pytest.raises(UserError, match="another process is at it"), folder.locked(tmp_path, "at it"):
            pass
        with (
            pytest.raises(UserError, match="another process is at it"),
            folder.locked(tmp_path, "at it", patience=0.15),
        ):
            pass
    with folder.locked(tmp_path, "at it"):
        pass


@posix
def test_a_lock_that_was_removed_meanwhile_locks_nobody_out_and_nobody_in(tmp_path: Path) -> None:
    with folder.locked(tmp_path, "at it"):
        (tmp_path / ".lock").unlink()  # as who gives the folder back does
        with folder.locked(tmp_path, "at it"):
            pass


@posix
def test_the_users_own_lock_is_locked_and_not_written(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("precious")
    (tmp_path / ".lock").chmod(0o444)
    with folder.locked(tmp_path, "at it") as held:
        assert held
        with pytest.raises(UserError, match="another process"), folder.locked(tmp_path, "at it"):
            pass
    assert (tmp_path / ".lock").read_text() == "precious"


@posix
@pytest.mark.parametrize("what", ["link", "dangling link", "folder", "pipe"])
def test_a_lock_that_is_no_file_of_its_own_is_refused(tmp_path: Path, what: str) -> None:
    mine, lock = tmp_path / "mine", tmp_path / "run" / ".lock"
    lock.parent.mkdir()
    if what != "dangling link":
        mine.write_text("precious")
    {
        "link": lambda: lock.symlink_to(mine),
        "dangling link": lambda: lock.symlink_to(mine),
        "folder": lock.mkdir,
        "pipe": lambda: os.mkfifo(lock),
    }[what]()
    with (
        pytest.raises(UserError, match=r"\.lock: it is (a link|not a regular file)"),
        folder.locked(lock.parent, "at it"),
    ):
        pass
    assert mine.read_text() == "precious" if what != "dangling link" else not mine.exists()


@posix
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EIO])
def test_a_file_system_without_locks_is_worked_on_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    told: list[str] = []
    with folder.locked(tmp_path, "at it", told.append) as held:
        assert held == ()
    assert len(told) == 1
    assert os.strerror(number) in told[0]


@posix
@pytest.mark.parametrize("number", [errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES])
def test_what_says_that_another_process_has_the_lock_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(UserError, match="another process"), folder.locked(tmp_path, "at it"):
        pass


@posix
def test_the_lock_goes_with_the_process_however_it_ends(tmp_path: Path) -> None:
    script = f"""
import os, signal, sys
from pathlib import Path
from gantricks.runs import folder
with folder.locked(Path({str(tmp_path)!r}), "at it"):
    print("held", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another process"), folder.locked(tmp_path, "at it"):
            pass
        process.kill()
        process.wait()
        with folder.locked(tmp_path, "at it") as held:
            assert held


# ---------------------------------------------------------------- where a run may begin


def resolved() -> str:
    return load_recipe("ring_mlp", TINY).as_toml()


@pytest.mark.parametrize("left", [["recipe"], ["recipe", "samples"], ["recipe", "manifest", "metrics.jsonl"]])
def test_what_a_run_leaves_before_its_first_checkpoint_is_set_aside(tmp_path: Path, left: list[str]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.toml").write_text(resolved())
    if "samples" in left:
        (run / "samples").mkdir()
        (run / "samples" / "000002.png").write_text("a picture")
    if "manifest" in left:
        (run / "manifest.json").write_text("{}")
        (run / "metrics.jsonl").write_text("{}")
        (run / "events.out.tfevents.0000000001.x").write_text("")
        (run / "checkpoints").mkdir()
    tolerated = {"slurm-1.out": "a", "train.log": "b"}
    for name, text in tolerated.items():
        (run / name).write_text(text)
    (run / "lost+found").mkdir()
    before = tree(run)
    assert train("ring_mlp", overrides=TINY, run_dir=run).finished == 4
    moved = {name: content for name, content in before.items() if name not in {*tolerated, "lost+found"}}
    assert tree(run / "earlier-1") == moved
    assert all((run / name).read_text() == text for name, text in tolerated.items())


@pytest.mark.parametrize("moved", range(5))
def test_killed_while_it_is_set_aside_what_was_left_is_still_a_runs(
    tmp_path: Path, moved: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last of these moments is between the last file that is set aside and the first that is written."""
    for name in ("manifest.json", "metrics.jsonl"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "recipe.toml").write_text(resolved())
    (tmp_path / "samples").mkdir()
    rename, done = Path.rename, []

    def killed(path: Path, target: Path) -> Path:
        if len(done) == moved:
            raise KeyboardInterrupt
        done.append(path.name)
        return rename(path, target)

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(Path, "rename", killed)
        folder.set_aside(tmp_path, folder.leavings(tmp_path))
    assert len(done) == min(moved, 4)
    assert train("ring_mlp", overrides=TINY, run_dir=tmp_path).finished == 4


def test_a_folder_of_the_users_that_is_named_like_one_set_aside_is_theirs(tmp_path: Path) -> None:
    (tmp_path / "earlier-1").mkdir()
    (tmp_path / "earlier-1" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="no run of gantricks has written: earlier-1"):
        folder.leavings(tmp_path)


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_a_recipe_as_a_run_writes_it_is_known_and_one_that_a_person_writes_is_not(tmp_path: Path, name: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(shipped_recipes()[name].read_bytes())
    assert not folder._is_resolved(path)
    text = path.read_text(encoding="utf-8")
    more = (
        ["data.path=/x"] if 'source = "folder"' in text or 'source = "npz"' in text or name.startswith("folder") else []
    )
    files.write_whole(path, load_recipe(name, more).as_toml())
    assert folder._is_resolved(path)


OTHERS = {
    "a file": ("notes.txt",),
    "their recipe": ("recipe.toml",),
    "their samples": ("samples/song.wav",),
    "their metrics": ("metrics.jsonl",),
    "their events": ("events.out.tfevents.1.x",),
    "their checkpoints": ("checkpoints/model.pt",),
    "several": ("a", "b", "c", "d", "e", "f", "g"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_folder_with_another_programs_files_is_refused_and_left_as_it_is(tmp_path: Path, what: str) -> None:
    run = tmp_path / "run"
    for name in OTHERS[what]:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("# theirs\n" + resolved())
    before = tree(tmp_path)
    with pytest.raises(UserError) as caught:
        train("ring_mlp", overrides=TINY, run_dir=run)
    assert OTHERS[what][0].partition("/")[0] in str(caught.value)
    assert f"--run-dir {run}" in str(caught.value)
    if what == "several":
        assert "a, b, c, d, e and 2 more" in str(caught.value)
    assert tree(tmp_path) == before
    assert not (run / ".lock").exists()


def test_files_of_others_beside_those_of_a_run_are_not_moved_either(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "samples").mkdir(parents=True)
    (run / "recipe.toml").write_text(resolved())
    (run / "manifest.json").write_text("{}")
    (run / "samples" / "song.wav").write_text("theirs")
    before = tree(run)
    with pytest.raises(UserError, match="samples"):
        train("ring_mlp", overrides=TINY, run_dir=run)
    assert tree(run) == before


@posix
@pytest.mark.parametrize("name", ["samples", "checkpoints", "fault"])
def test_a_run_writes_through_no_link_out_of_its_folder(tmp_path: Path, name: str) -> None:
    elsewhere, run = tmp_path / "elsewhere", tmp_path / "run"
    train("ring_mlp", overrides=TINY, run_dir=run)
    if (run / name).exists():
        (run / name).rename(elsewhere)
    else:
        elsewhere.mkdir()
    (run / name).symlink_to(elsewhere)
    before = tree(elsewhere)
    with pytest.raises(UserError, match=f"{name}: it is a link"):
        resume(run)
    assert tree(elsewhere) == before


@posix
def test_files_of_a_run_that_are_links_are_replaced_and_not_followed(tmp_path: Path) -> None:
    run = train("ring_mlp", overrides=TINY, run_dir=tmp_path / "run").run
    precious = tmp_path / "precious"
    names = ("manifest.json", "metrics.jsonl", "samples/000004.png")
    for number, name in enumerate(names):
        copy = tmp_path / f"precious-{number}"
        (run / name).rename(copy)
        (run / name).symlink_to(copy)
    before = [(tmp_path / f"precious-{number}").read_bytes() for number in range(len(names))]
    assert resume(run, step=2).finished == 4
    assert [(tmp_path / f"precious-{number}").read_bytes() for number in range(len(names))] == before
    assert not any((run / name).is_symlink() for name in names)
    assert not precious.exists()


# ---------------------------------------------------------------- what killed processes leave


def test_whoever_goes_on_with_a_run_removes_what_killed_processes_left_in_it(tmp_path: Path) -> None:
    run = train("ring_mlp", overrides=TINY, run_dir=tmp_path / "run").run
    expected = {name for name in tree(run) if "tfevents" not in name}
    for name in ("recipe.toml", "manifest.json", "metrics.jsonl", "result.json", "samples/000004.png"):
        files._part_name(run / name).write_text("half")
    for name in ("checkpoints/000004", "checkpoints/000002.replaced"):
        files._part_name(run / name).mkdir()
        (files._part_name(run / name)).mkdir()
    (run / "checkpoints" / "000004").rename(run / "checkpoints" / ".000004.99999")
    resume(run)
    assert {name for name in tree(run) if "tfevents" not in name} == expected


def test_what_killed_processes_left_stops_no_run_from_beginning(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    files._part_name(run / "recipe.toml").write_text("half")
    train("ring_mlp", overrides=TINY, run_dir=run)
    assert not [name for name in tree(run) if name.endswith(".part")]
    assert list(checkpoint.checkpoints(run)) == [2, 4]
