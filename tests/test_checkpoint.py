"""Checkpoints: whole or not there, checked before use, nothing overwritten."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gantricks import UserError, store
from gantricks.runs import checkpoint

TENSORS = {
    "generator": {"body.weight": torch.randn(3, 4), "scalar": torch.tensor(2.0)},
    "tricks": {},
    "image": {"channels_last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)},
}
COUNTERS = {
    "step": 7,
    "images_seen": 99,
    "batch_size": 4,
    "n_critic": 1,
    "optimizers": {"d": [{"lr": 0.1, "betas": [0.5, 0.9]}]},
}


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(
        a[group].keys() == b[group].keys() and all(torch.equal(a[group][k], b[group][k]) for k in a[group])
        for group in a
    )


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    folder = store.save(tmp_path / "checkpoints" / "000007", TENSORS, COUNTERS)
    tensors, counters = checkpoint.load(folder)
    assert same(tensors, TENSORS)
    assert {key: counters[key] for key in COUNTERS} == COUNTERS
    assert checkpoint.checkpoints(tmp_path) == {7: folder}


def test_only_safetensors_and_json_are_written(tmp_path: Path) -> None:
    folder = store.save(tmp_path / "checkpoints" / "000007", TENSORS, COUNTERS)
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}
    assert not [path for path in folder.parent.iterdir() if path != folder], "nothing is left beside it"


@given(st.data())
def test_any_flipped_byte_is_noticed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = store.save(tmp_path_factory.mktemp("run") / "checkpoints" / "000007", TENSORS, COUNTERS)
    path = data.draw(st.sampled_from(sorted(folder.iterdir())))
    content = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    if path.name == "state.json" and _same_json(content, folder):
        return  # white space
    with pytest.raises(UserError, match=path.name):
        checkpoint.load(folder)


def _same_json(content: bytes, folder: Path) -> bool:
    try:
        state = json.loads(content)
        return state.pop("self") == store._digest_of(state)
    except (ValueError, KeyError, AttributeError):
        return False


def test_a_missing_or_truncated_file_is_noticed_and_an_earlier_checkpoint_named(tmp_path: Path) -> None:
    store.save(tmp_path / "checkpoints" / "000003", TENSORS, COUNTERS | {"step": 3})
    folder = store.save(tmp_path / "checkpoints" / "000007", TENSORS, COUNTERS)
    (folder / "tricks.safetensors").unlink()
    path = folder / "generator.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError) as caught:
        checkpoint.load(folder)
    message = str(caught.value)
    assert "tricks.safetensors" in message
    assert "generator.safetensors" in message
    assert f"gantricks resume {tmp_path} --step 3" in message


def test_an_unfinished_checkpoint_is_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "flush_folder", dies)
    with pytest.raises(KeyboardInterrupt):
        store.save(tmp_path / "checkpoints" / "000007", TENSORS, COUNTERS)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_the_same_checkpoint_is_kept_and_another_one_moved_aside(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints" / "000007"
    store.save(folder, TENSORS, COUNTERS)
    written = (folder / "state.json").stat().st_mtime_ns
    store.save(folder, TENSORS, COUNTERS)
    assert (folder / "state.json").stat().st_mtime_ns == written
    for seen in (100, 101):
        store.save(folder, TENSORS, COUNTERS | {"images_seen": seen})
    assert checkpoint.load(folder)[1]["images_seen"] == 101
    assert store.read(folder.with_name("000007.replaced"))[1]["images_seen"] == 99
    assert store.read(folder.with_name("000007.replaced-2"))[1]["images_seen"] == 100
    assert list(checkpoint.checkpoints(tmp_path)) == [7]


def test_a_checkpoint_of_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "FORMAT", 99)
    folder = store.save(tmp_path / "checkpoints" / "000007", TENSORS, COUNTERS)
    monkeypatch.undo()
    with pytest.raises(UserError, match="format 99"):
        checkpoint.load(folder)


# ---------------------------------------------------------------- written beside training


def test_a_writer_keeps_the_state_as_it_was_when_it_was_asked(tmp_path: Path) -> None:
    live = {group: {key: value.clone() for key, value in tensors.items()} for group, tensors in TENSORS.items()}
    changed, order = threading.Event(), []
    with checkpoint.Writer() as writer:
        folder = tmp_path / "checkpoints" / "000007"
        writer.save(folder, live, COUNTERS, first=lambda: order.append(changed.wait(10)))
        for tensors in live.values():
            for value in tensors.values():
                value.add_(1)
        order.append("changed")
        assert not checkpoint.checkpoints(tmp_path), "the caller was kept until it was written"
        changed.set()
    assert order == ["changed", True]
    assert same(checkpoint.load(folder)[0], TENSORS)


def test_a_writer_writes_what_saving_writes(tmp_path: Path) -> None:
    plain = store.save(tmp_path / "a" / "000007", TENSORS, COUNTERS)
    with checkpoint.Writer() as writer:
        writer.save(tmp_path / "b" / "000007", TENSORS, COUNTERS)
    assert {path.name: path.read_bytes() for path in plain.iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "b" / "000007").iterdir()
    }


def test_a_writer_writes_one_checkpoint_at_a_time_and_all_of_them(tmp_path: Path) -> None:
    with checkpoint.Writer() as writer:
        for step in range(5):
            writer.save(tmp_path / "checkpoints" / f"{step:06}", TENSORS, COUNTERS | {"step": step})
            assert len(checkpoint.checkpoints(tmp_path)) >= step
    assert list(checkpoint.checkpoints(tmp_path)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("when", ["the next", "a look", "the end"])
def test_what_goes_wrong_in_a_writer_reaches_its_caller(tmp_path: Path, when: str) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def through() -> None:
        with checkpoint.Writer() as writer:
            writer.save(tmp_path / "checkpoints" / "000007", TENSORS, COUNTERS, first=full)
            if when == "the next":
                writer.save(tmp_path / "checkpoints" / "000008", TENSORS, COUNTERS)
            while when == "a look":
                writer.check()

    with pytest.raises(OSError, match="No space left"):
        through()
    assert not checkpoint.checkpoints(tmp_path)


def test_a_fault_of_the_caller_is_told_and_the_checkpoint_is_whole_all_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints" / "000007"

    def through() -> None:
        with checkpoint.Writer() as writer:
            writer.save(folder, TENSORS, COUNTERS)
            raise RuntimeError("of the caller")

    with pytest.raises(RuntimeError, match="of the caller"):
        through()
    assert same(checkpoint.load(folder)[0], TENSORS)


# ---------------------------------------------------------------- what is not believed


def resealed(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change state.json and seal it again, as a writer other than ours would."""
    state = json.loads((folder / "state.json").read_text())
    state.pop("self")
    change(state)
    state["self"] = store._digest_of(state)
    (folder / "state.json").write_text(json.dumps(state))


@pytest.mark.parametrize(
    "facts",
    [
        {"step": "7"},
        {"step": 7.0},
        {"step": True},
        {"step": 8},
        {"step": -1},
        {"step": 10**400},
        {"step": None},
        {"images_seen": -1},
        {"images_seen": 2**70},
        {"images_seen": "99"},
        {"batch_size": 0},
        {"batch_size": 10**9},
        {"n_critic": 0},
        {"n_critic": [1]},
        {"optimizers": []},
        {"optimizers": {"d": {"lr": 1}}},
        {"sha256": {"../000006/generator.safetensors": "0" * 64}},
        {"sha256": {"/etc/passwd": "0" * 64}},
        {"sha256": {"state.json": "0" * 64}},
        {"sha256": {"sub/generator.safetensors": "0" * 64}},
        {"sha256": {"generator.safetensors": 5}},
        {"sha256": ["generator.safetensors"]},
        {"format": True},
        {"phase": "x"},
        {"run": 5},
        {"kept": {"step": 3}},
        {"kept": {"step": 8, "batch_size": 4, "n_critic": 1, "optimizers": {}}},
        {"state_from_step": 9},
        {"state_from_step": "3"},
    ],
    ids=str,
)
def test_a_sealed_state_that_no_run_writes_is_damaged(tmp_path: Path, facts: dict[str, Any]) -> None:
    folder = store.save(tmp_path / "checkpoints" / "000007", TENSORS, COUNTERS)
    resealed(folder, lambda state: state.update(facts))
    with pytest.raises(UserError, match="the checkpoint is damaged"):
        checkpoint.load(folder)


@pytest.mark.parametrize("key", ["step", "images_seen", "batch_size", "n_critic", "optimizers", "sha256", "format"])
def test_a_sealed_state_that_lacks_a_key_is_refused(tmp_path: Path, key: str) -> None:
    folder = store.save(tmp_path / "checkpoints" / "000007", TENSORS, COUNTERS)
    resealed(folder, lambda state: state.pop(key))
    with pytest.raises(UserError, match=r"damaged|format"):
        checkpoint.load(folder)


@pytest.mark.parametrize(
    "text", ["", "[]", "5", "null", "{", '{"a": NaN}', "[" * 200_000, '{"a":' * 100_000, "9" * 9999]
)
def test_a_state_that_is_no_state_is_damaged_at_once(tmp_path: Path, text: str) -> None:
    folder = store.save(tmp_path / "checkpoints" / "000007", TENSORS, COUNTERS)
    (folder / "state.json").write_text(text)
    began = time.process_time()
    with pytest.raises(UserError, match="damaged"):
        checkpoint.load(folder)
    assert time.process_time() - began < 2


def header(text: bytes, length: int | None = None) -> bytes:
    return (len(text) if length is None else length).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"abc",
        header(b"{}", 2**63),
        header(b"{}", 10**7),
        header(b"x" * 50),
        header(b"[]"),
        header(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,400]}}') + b"12345678",
        header(b'{"a":{"dtype":"F32","shape":[99999999999,99999999999],"data_offsets":[0,8]}}') + b"12345678",
        header(b'{"a":{"dtype":"NO","shape":[2],"data_offsets":[0,8]}}') + b"12345678",
        header(b'{"a":' * 100_000),
        header(
            b"{"
            + b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % i for i in range(400_000))
            + b"}"
        ),
    ],
    ids=lambda content: repr(content[:60]),
)
def test_garbage_with_a_right_sum_is_damaged_at_once(tmp_path: Path, content: bytes) -> None:
    folder = store.save(tmp_path / "checkpoints" / "000007", TENSORS, COUNTERS)
    path = folder / "generator.safetensors"
    path.write_bytes(content)
    resealed(folder, lambda state: state["sha256"].update({path.name: store._digest(path)}))
    began = time.process_time()
    with pytest.raises(UserError, match=r"generator\.safetensors: the checkpoint is damaged"):
        checkpoint.load(folder)
    assert time.process_time() - began < 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in the file system")
def test_a_pipe_in_the_place_of_a_file_keeps_nobody_waiting(tmp_path: Path) -> None:
    for name in ("state.json", "generator.safetensors"):
        folder = store.save(tmp_path / name / "checkpoints" / "000007", TENSORS, COUNTERS)
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with pytest.raises(UserError, match=r"damaged|missing"):
            checkpoint.load(folder)


def test_a_checkpoint_of_another_run_or_step_is_refused_and_one_without_an_id_is_not(tmp_path: Path) -> None:
    folder = store.save(tmp_path / "checkpoints" / "000007", TENSORS, COUNTERS | {"run": "a" * 32})
    assert checkpoint.load(folder, "a" * 32)[1]["run"] == "a" * 32
    assert checkpoint.load(folder)
    with pytest.raises(UserError, match="that of another run"):
        checkpoint.load(folder, "b" * 32)
    folder.rename(folder.with_name("000009"))
    with pytest.raises(UserError, match="it is that of step 7"):
        checkpoint.load(folder.with_name("000009"), "a" * 32)


# ---------------------------------------------------------------- how many are kept


def test_the_newest_are_kept_and_what_is_no_checkpoint_is_left_alone(tmp_path: Path) -> None:
    for step in (1, 2, 3, 999_999, 1_000_000):
        name = checkpoint.checkpoint_name(step)
        store.save(tmp_path / "checkpoints" / name, TENSORS, COUNTERS | {"step": step})
    others = [tmp_path / "checkpoints" / name for name in ("000001.replaced", "0000001", "notes")]
    for other in others:
        other.mkdir()
    checkpoint.keep_newest(tmp_path, 2)
    assert list(checkpoint.checkpoints(tmp_path)) == [999_999, 1_000_000]
    assert all(other.is_dir() for other in others)


def test_of_those_set_aside_as_many_are_kept_and_they_are_those_written_last(tmp_path: Path) -> None:
    def saved(step: int, seen: int) -> None:
        folder = store.save(
            tmp_path / "checkpoints" / checkpoint.checkpoint_name(step),
            TENSORS,
            COUNTERS | {"step": step, "images_seen": seen},
        )
        os.utime(folder / "state.json", (seen, seen))

    seen = 0
    for round_ in range(4):  # back to step 1, again and again
        for step in (1, 2, 3) if not round_ else (2, 3):
            saved(step, seen := seen + 1)
        checkpoint.keep_newest(tmp_path, 3)
        if round_ < 3:
            checkpoint.set_aside_after(tmp_path, 1)
    assert list(checkpoint.checkpoints(tmp_path)) == [1, 2, 3]
    aside = (tmp_path / "checkpoints").glob("*.replaced*")
    assert sorted(store.read(folder)[1]["images_seen"] for folder in aside) == [5, 6, 7]


def test_a_removal_that_is_cut_short_leaves_no_half_of_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2):
        store.save(tmp_path / "checkpoints" / f"{step:06}", TENSORS, COUNTERS | {"step": step})

    def killed(path: Path, **how: object) -> None:
        (path / "generator.safetensors").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr("gantricks.files.shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.keep_newest(tmp_path, 1)
    assert list(checkpoint.checkpoints(tmp_path)) == [2]


@pytest.mark.skipif(os.name == "nt", reason="no such modes")
@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_files_and_folders_have_the_mode_that_the_umask_gives(tmp_path: Path, umask: int) -> None:
    former = os.umask(umask)
    try:
        folder = store.save(tmp_path / "checkpoints" / "000007", TENSORS, COUNTERS)
    finally:
        os.umask(former)
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o666 & ~umask}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~umask


def test_checkpoints_are_written_where_folders_cannot_be_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, flushed = os.open, os.fsync

    def as_windows_opens(path: Any, flags: int, mode: int = 0o777) -> int:
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, flags, mode)

    def as_windows_flushes(descriptor: int) -> None:
        os.write(descriptor, b"")  # EBADF where it is open for reading alone
        flushed(descriptor)

    monkeypatch.setattr(os, "open", as_windows_opens)
    monkeypatch.setattr(os, "fsync", as_windows_flushes)
    assert same(checkpoint.load(store.save(tmp_path / "a" / "000007", TENSORS, COUNTERS))[0], TENSORS)
    monkeypatch.undo()
    for number in (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.ENOSYS):

        def refuses(descriptor: int, number: int = number) -> None:
            if os.path.isdir(f"/proc/self/fd/{descriptor}"):
                raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", refuses)
        folder = store.save(tmp_path / str(number) / "000007", TENSORS, COUNTERS)
        assert same(checkpoint.load(folder)[0], TENSORS)
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(errno.EIO, "I/O error")))
    with pytest.raises(OSError, match="I/O error"):
        store.save(tmp_path / "failing" / "000007", TENSORS, COUNTERS)
    assert list((tmp_path / "failing").iterdir()) == []
