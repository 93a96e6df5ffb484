"""Writing: whole or not at all, exclusive, through no link; and what killed processes leave is swept."""

from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gantricks import files

posix = pytest.mark.skipif(os.name == "nt", reason="links, pipes and modes of POSIX")


@pytest.mark.parametrize("fresh", [False, True])
def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path, fresh: bool) -> None:
    path = tmp_path / "a"

    def breaks() -> None:
        with files.whole(path, fresh=fresh) as file:
            file.write(b"half")
            assert not path.exists()
            raise RuntimeError("of the caller")

    with pytest.raises(RuntimeError):
        breaks()
    assert list(tmp_path.iterdir()) == []
    files.write_whole(path, "first\r\n")
    assert path.read_bytes() == b"first\r\n"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_fresh_takes_no_place_that_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = tmp_path / "taken"
    taken.write_text("mine")
    (tmp_path / "dangling").symlink_to("nowhere")

    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    for links in (True, False):
        if not links:  # FAT and its like
            monkeypatch.setattr(os, "link", no_links)
        for name in ("taken", "dangling"):
            with pytest.raises(FileExistsError) as caught:
                files.write_whole(tmp_path / name, "theirs", fresh=True)
            assert caught.value.filename == str(tmp_path / name)
        files.write_whole(tmp_path / f"new-{links}", "theirs", fresh=True)
    assert taken.read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["dangling", "new-False", "new-True", "taken"]


@posix
def test_a_link_is_replaced_and_what_it_points_to_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "link").symlink_to("mine")
    files.write_whole(tmp_path / "link", "theirs")
    assert (tmp_path / "mine").read_text() == "mine"
    assert (tmp_path / "link").read_text() == "theirs"
    assert not (tmp_path / "link").is_symlink()


@posix
def test_nothing_is_appended_through_a_link_or_to_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "link").symlink_to("mine")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe"):
        with pytest.raises(OSError) as caught:
            files.append(tmp_path / name)
        assert caught.value.filename == str(tmp_path / name)
    with files.append(tmp_path / "mine") as file:
        file.write(b" and more")
    assert (tmp_path / "mine").read_text() == "mine and more"


def test_a_name_that_others_could_guess_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = iter(["00000000", "00000000", "00000001"])
    monkeypatch.setattr(files.secrets, "token_hex", lambda count: next(tokens))
    (tmp_path / "mine").write_text("mine")
    (tmp_path / ".a.00000000.part").symlink_to("mine")
    files.write_whole(tmp_path / "a", "theirs")
    assert (tmp_path / "mine").read_text() == "mine"
    assert (tmp_path / "a").read_text() == "theirs"


@posix
@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_a_file_has_the_mode_that_the_umask_gives(tmp_path: Path, umask: int) -> None:
    former = os.umask(umask)
    try:
        files.write_whole(tmp_path / "a", "")
        files.write_whole(tmp_path / "b", "", fresh=True)
        files.create(tmp_path / "c").close()
    finally:
        os.umask(former)
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "abc"} == {0o666 & ~umask}


@pytest.mark.parametrize("what", ["open", "write", "fsync", "replace"])
def test_a_disk_that_refuses_is_told_with_the_file_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "another name")

    def write() -> None:
        with files.whole(tmp_path / "a") as file, files.naming(tmp_path / "a"):
            if what == "write":
                full()
            file.write(b"x")

    if what != "write":
        monkeypatch.setattr(os, what, full)
    with pytest.raises(OSError, match="No space left") as caught:
        write()
    monkeypatch.undo()
    assert caught.value.filename == str(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_a_fresh_file_whose_folder_cannot_be_flushed_does_not_block_the_next_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "flush_folder", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_whole(tmp_path / "a", "x", fresh=True)
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []
    files.write_whole(tmp_path / "a", "x", fresh=True)


def test_a_folder_is_removed_in_one_moment(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_text("")
    files.remove_folder(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError):
        files.remove_folder(tmp_path / "a")


# ---------------------------------------------------------------- what killed processes leave


def part(path: Path) -> Path:
    """What a process leaves that is killed while it writes `path`."""
    found = files._part_name(path)
    found.mkdir() if not path.suffix else found.write_text("half")
    return found


@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=255))
def test_every_part_is_known_by_its_name_whatever_it_is_a_part_of(name: str) -> None:
    found = files._part_name(Path("/", name).with_name(name) if name not in (".", "..") else Path("/x"))
    assert len(os.fsencode(found.name)) <= 255
    assert files.is_part(found.name)


def test_parts_that_the_callers_lock_covers_go_and_others_when_nobody_has_touched_them_for_a_day(
    tmp_path: Path,
) -> None:
    ours, theirs, old = (part(tmp_path / name) for name in ("000004", "report.html", "notes.txt"))
    (ours / "generator.safetensors").write_text("half")
    os.utime(old, (time.time() - 2 * files.STALE,) * 2)
    kept = [tmp_path / name for name in (".notes", "a.part", ".000004", ".x.part", ".a.1234567.part")]
    for path in kept:
        path.write_text("mine")
    files.sweep(tmp_path, r"\d{6,}")
    assert sorted(tmp_path.iterdir()) == sorted([theirs, *kept])


@pytest.mark.parametrize("name", [".000004.99999", ".recipe.toml.writing", ".000020.png.17.tmp", "metrics.rewriting"])
def test_parts_of_earlier_versions_go_too(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    files.sweep(tmp_path, r"\d{6,}(\.png)?", r"recipe\.toml", r"metrics")
    assert list(tmp_path.iterdir()) == []


@posix
def test_a_part_that_is_a_link_goes_and_what_it_points_to_stays(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".000004.01234567.part").symlink_to(tmp_path / "mine")
    files.sweep(tmp_path / "run", r"\d{6,}")
    assert list((tmp_path / "run").iterdir()) == []
    assert (tmp_path / "mine" / "a").read_text() == "mine"


# ---------------------------------------------------------------- names


def test_the_next_free_name_is_the_first_of_which_nothing_is_there(tmp_path: Path) -> None:
    assert files.free_name(tmp_path / "a.b") == tmp_path / "a.b"
    (tmp_path / "a.b").mkdir()
    (tmp_path / "a.b-2").symlink_to("nowhere")
    assert files.free_name(tmp_path / "a.b") == tmp_path / "a.b-3"
    (tmp_path / "report.html").touch()
    assert files.free_name(tmp_path / "report", ".html") == tmp_path / "report-2.html"
