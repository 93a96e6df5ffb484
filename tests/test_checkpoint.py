"""Checkpoints: whole or not there, checked before use, nothing overwritten."""

from __future__ import annotations

import errno
import json
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gantricks import UserError, checkpoint

TENSORS = {
    "generator": {"body.weight": torch.randn(3, 4), "scalar": torch.tensor(2.0)},
    "tricks": {},
    "image": {"channels_last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)},
}
COUNTERS = {"step": 7, "images_seen": 99, "optimizers": {"d": [{"lr": 0.1}]}}


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(
        a[group].keys() == b[group].keys() and all(torch.equal(a[group][k], b[group][k]) for k in a[group])
        for group in a
    )


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    folder = checkpoint.save(tmp_path / "checkpoints" / "000007", TENSORS, COUNTERS)
    tensors, counters = checkpoint.load(folder)
    assert same(tensors, TENSORS)
    assert {key: counters[key] for key in COUNTERS} == COUNTERS
    assert checkpoint.checkpoints(tmp_path) == {7: folder}


def test_only_safetensors_and_json_are_written(tmp_path: Path) -> None:
    folder = checkpoint.save(tmp_path / "checkpoints" / "000007", TENSORS, COUNTERS)
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}
    assert not [path for path in folder.parent.iterdir() if path != folder], "nothing is left beside it"


@given(st.data())
def test_any_flipped_byte_is_noticed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = checkpoint.save(tmp_path_factory.mktemp("run") / "checkpoints" / "000007", TENSORS, COUNTERS)
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
        return state.pop("self") == checkpoint._digest_of(state)
    except (ValueError, KeyError, AttributeError):
        return False


def test_a_missing_or_truncated_file_is_noticed_and_an_earlier_checkpoint_named(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "checkpoints" / "000003", TENSORS, COUNTERS | {"step": 3})
    folder = checkpoint.save(tmp_path / "checkpoints" / "000007", TENSORS, COUNTERS)
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

    monkeypatch.setattr(checkpoint, "_flush", dies)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path / "checkpoints" / "000007", TENSORS, COUNTERS)
    assert checkpoint.checkpoints(tmp_path) == {}


def test_the_same_checkpoint_is_kept_and_another_one_moved_aside(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints" / "000007"
    checkpoint.save(folder, TENSORS, COUNTERS)
    written = (folder / "state.json").stat().st_mtime_ns
    checkpoint.save(folder, TENSORS, COUNTERS)
    assert (folder / "state.json").stat().st_mtime_ns == written
    for seen in (100, 101):
        checkpoint.save(folder, TENSORS, COUNTERS | {"images_seen": seen})
    assert checkpoint.load(folder)[1]["images_seen"] == 101
    assert checkpoint.load(folder.with_name("000007.replaced"))[1]["images_seen"] == 99
    assert checkpoint.load(folder.with_name("000007.replaced-2"))[1]["images_seen"] == 100
    assert list(checkpoint.checkpoints(tmp_path)) == [7]


def test_a_checkpoint_of_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT", 99)
    folder = checkpoint.save(tmp_path / "checkpoints" / "000007", TENSORS, COUNTERS)
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
    plain = checkpoint.save(tmp_path / "a" / "000007", TENSORS, COUNTERS)
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
