"""The cache of decoded images: what comes back is what was stored, and no run needs it."""

import os
import stat
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gantricks.data import cache as module
from gantricks.data import images
from gantricks.data.folder import Folder
from gantricks.errors import UserError

PARTS = st.lists(st.text("a\n'\udce9", max_size=3) | st.integers(0, 2), max_size=3)
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("GANTRICKS_CACHE", str(folder))
    return folder


def blocks():
    yield PIXELS[:2]
    yield PIXELS[2:]


def store(name="a"):
    return module.store(name, PIXELS.shape, blocks)


def test_the_cache_lies_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for variable in ("GANTRICKS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    assert images.cache_folder() == tmp_path / "home" / ".cache" / "gantricks"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert images.cache_folder() == tmp_path / "xdg" / "gantricks"
    monkeypatch.setenv("GANTRICKS_CACHE", str(tmp_path / "own"))
    assert images.cache_folder() == tmp_path / "own"


def test_what_is_stored_is_recalled_read_only(cache):
    stored, notes = store()
    assert notes == ()
    for kept in (stored, module.recall("a", 5)):
        assert isinstance(kept, np.memmap)
        np.testing.assert_array_equal(kept, PIXELS)
        assert not kept.flags.writeable
    assert module.glance("a", 5) == PIXELS.shape
    for look in (module.recall, module.glance):
        assert look("a", 4) is None
        assert look("b", 5) is None


def test_an_entry_cut_at_any_byte_is_not_recalled(cache):
    store()
    entry = cache / "a.npy"
    whole = entry.read_bytes()
    for length in range(len(whole)):
        entry.write_bytes(whole[:length])
        assert module.recall("a", 5) is None


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_an_entry_with_any_bit_turned_is_not_recalled(data, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("GANTRICKS_CACHE", str(folder))
        store()
        whole = bytearray((folder / "a.npy").read_bytes())
        place = data.draw(st.integers(0, len(whole) - 1))
        whole[place] ^= 1 << data.draw(st.integers(0, 7))
        (folder / "a.npy").write_bytes(whole)
        assert module.recall("a", 5) is None


def test_an_entry_under_another_name_is_foreign(cache):
    store()
    (cache / "a.npy").rename(cache / "b.npy")
    assert module.recall("b", 5) is None


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "array", "empty", "nowhere"])
def test_what_is_no_entry_is_neither_followed_nor_waited_for_and_is_replaced(cache, tmp_path, kind):
    cache.mkdir()
    entry, elsewhere = cache / "a.npy", tmp_path / "mine.npy"
    np.save(elsewhere, PIXELS)
    before = elsewhere.read_bytes()
    if kind in ("link", "nowhere"):
        entry.symlink_to(elsewhere if kind == "link" else tmp_path / "gone")
    elif kind == "pipe":
        os.mkfifo(entry)
    elif kind == "folder":
        (entry / "below").mkdir(parents=True)
    else:
        entry.write_bytes(before if kind == "array" else b"")
    assert module.recall("a", 5) is None
    kept, notes = store()
    np.testing.assert_array_equal(kept, PIXELS)
    assert elsewhere.read_bytes() == before
    assert not (tmp_path / "gone").exists()
    assert bool(notes) == (kind == "folder"), "a folder in the way cannot be replaced"
    assert [path.name for path in cache.iterdir()] == ["a.npy"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_entries_have_the_mode_that_the_umask_says(cache, umask, mode):
    before = os.umask(umask)
    try:
        store()
    finally:
        os.umask(before)
    assert stat.S_IMODE((cache / "a.npy").stat().st_mode) == mode


def test_several_that_store_at_once_leave_one_entry(cache):
    def slowly():
        yield PIXELS[:2]
        time.sleep(0.02)
        yield PIXELS[2:]

    with ThreadPoolExecutor(6) as pool:
        stored = list(pool.map(lambda _: module.store("a", PIXELS.shape, slowly), range(6)))
    for kept, notes in stored:
        np.testing.assert_array_equal(kept, PIXELS)
        assert notes == ()
    assert [path.name for path in cache.iterdir()] == ["a.npy"]


def test_nothing_is_kept_when_the_blocks_stop_short(cache):
    def stopped():
        yield PIXELS[:1]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        module.store("a", PIXELS.shape, stopped)
    assert list(cache.iterdir()) == []


def test_half_written_files_of_killed_runs_are_swept_when_old(cache, tmp_path):
    cache.mkdir()
    former = cache / f"folder-{'0' * 32}.4711-01234567.partial"
    old, young, link = (cache / f".{name}.npy.01234567.part" for name in ("a", "b", "l"))
    mine = tmp_path / "mine"
    for path in (former, old, young, mine):
        path.touch()
    link.symlink_to(mine)
    for path in (former, old, link):
        os.utime(path, (time.time() - 2 * 86400,) * 2, follow_symlinks=False)
    store("c")
    assert not old.exists()
    assert not former.exists()
    assert not link.is_symlink()
    assert young.exists()
    assert mine.exists()


def test_a_cache_that_cannot_be_written_is_done_without_and_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("GANTRICKS_CACHE", str(tmp_path / "file" / "below"))
    kept, (note,) = store()
    np.testing.assert_array_equal(kept, PIXELS)
    assert str(tmp_path / "file" / "below") in note
    assert "GANTRICKS_CACHE" in note


def failing(call, error):
    def fails(*args, **options):
        raise OSError(error, os.strerror(error))

    return call, fails


@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
@pytest.mark.parametrize("error", [1, 5, 13, 28, 30, 122])
def test_a_cache_that_fails_at_any_moment_is_done_without(cache, monkeypatch, call, error):
    cache.mkdir()
    if call == "fsync" and error in (1, 13):
        pytest.skip("so file systems say that they have none")
    monkeypatch.setattr(os, *failing(call, error))
    kept, notes = store()
    monkeypatch.undo()
    np.testing.assert_array_equal(kept, PIXELS)
    assert os.strerror(error) in notes[0]
    assert list(cache.iterdir()) == []


def test_a_file_system_without_fsync_keeps_entries_all_the_same(cache, monkeypatch):
    monkeypatch.setattr(os, *failing("fsync", 22))
    assert store()[1] == ()
    assert module.recall("a", 5) is not None


def test_a_disk_that_fills_up_at_any_write_ends_in_memory(cache):
    """In a process of its own, for the bound on the size of files is the process's."""
    script = """
        import resource, sys
        import numpy as np
        from gantricks.data import cache
        pixels = np.random.default_rng(0).integers(0, 256, (50, 40, 40, 3), dtype=np.uint8)
        entry = cache.cache_folder() / "a.npy"
        for most in range(0, pixels.nbytes + 400, 16_000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
            kept, notes = cache.store("a", pixels.shape, lambda: (pixels[i : i + 5] for i in range(0, 50, 5)))
            assert (kept == pixels).all()
            full = most < pixels.nbytes + 128 + 32
            assert ("too large" in "".join(notes)) == full, (most, notes)
            assert entry.exists() != full
            assert len(list(entry.parent.iterdir())) == (not full)
            entry.unlink(missing_ok=True)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_without_room_on_the_disk_and_in_memory_both_are_named(cache, monkeypatch):
    monkeypatch.setattr(module, "available_memory", lambda: PIXELS.nbytes - 1)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: Usage)
    for call in (store, lambda: module.need_room(PIXELS.shape)):
        with pytest.raises(UserError, match="fit in the memory") as caught:
            call()
        assert caught.value.problems[0].where == str(cache)
        assert "GANTRICKS_CACHE" in caught.value.problems[0].hint
    monkeypatch.setattr(module, "available_memory", lambda: PIXELS.nbytes)
    module.need_room(PIXELS.shape)
    np.testing.assert_array_equal(store()[0], PIXELS)
    assert not cache.exists(), "a disk that has no room is not tried"


class Usage:
    free = PIXELS.nbytes - 1


@pytest.mark.parametrize("closed", ["entry", "folder"])
def test_another_users_cache_that_stays_closed_is_done_without(cache, tmp_path, closed):
    """As another user, where this one can become one: to the superuser nothing is closed."""
    if os.geteuid() != 0:
        pytest.skip("needs the superuser")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.new("RGB", (9, 9), (1, 2, 3)).save(pictures / "a.png")
    Folder(Folder.Config(path=str(pictures), image_size=8)).load()
    (entry,) = cache.iterdir()
    entry.chmod(0o600 if closed == "entry" else 0o644)
    cache.chmod(0o1777 if closed == "entry" else 0o700)
    for folder in (tmp_path, *list(tmp_path.parents)[:-2]):
        folder.chmod(folder.stat().st_mode | 0o055)
    loads = textwrap.dedent(
        f"""
        import os
        from PIL import Image
        from gantricks.data.folder import Folder
        Image.init()  # the other user may not be let in where Python's packages lie
        os.setgid(65534), os.setuid(65534)
        loaded = Folder(Folder.Config(path={str(pictures)!r}, image_size=8)).load()
        assert loaded.samples[0, 0, 0].tolist() == [1, 2, 3]
        assert loaded.notes
        """
    )
    done = subprocess.run([sys.executable, "-c", loads], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in cache.iterdir()] == [entry.name]


@settings(max_examples=200, deadline=None)
@given(PARTS, PARTS)
def test_different_parts_give_different_names(some, others):
    same = module.cache_name("folder", *some) == module.cache_name("folder", *others)
    assert same == (some == others)
