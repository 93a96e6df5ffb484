"""A folder of images: what is found, what is refused, what is kept."""

import json
import os
import subprocess
import sys
import textwrap
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from gantricks.data import images
from gantricks.data.folder import Folder
from gantricks.data.text import embed
from gantricks.errors import UserError


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("GANTRICKS_CACHE", str(folder))
    return folder


@pytest.fixture
def root(tmp_path, cache):
    folder = tmp_path / "pictures"
    folder.mkdir()
    return folder


def put(path, colour=(10, 20, 30), mode="RGB", size=(16, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)
    return path


def folder(path, **options):
    return Folder(Folder.Config(path=str(path), image_size=8, **options))


def refused(call):
    with pytest.raises(UserError) as caught:
        call()
    return caught.value.problems


@pytest.fixture
def no_decoding(monkeypatch):
    def decode(*args):
        raise AssertionError("decoded")

    return lambda: monkeypatch.setattr(images, "decode", decode)


def test_images_of_all_kinds_are_found_at_any_depth_in_the_order_of_their_names(root):
    put(root / "b.JPG", (200, 200, 200))
    put(root / "a.webp", (0, 0, 0))
    put(root / "c" / "d" / "e.jpeg", (100, 100, 100))
    put(root / "z.PnG", (255, 255, 255))
    source = folder(root)
    assert source.describe().count == 4
    levels = source.load().samples[:, 0, 0, 0].astype(int)
    np.testing.assert_allclose(levels, [0, 200, 100, 255], atol=3)


def test_describe_and_load_agree_before_and_after_caching(root):
    put(root / "a" / "1.png")
    put(root / "b" / "2.png", 9, "L", (30, 11))
    source = folder(root)
    before, dataset, after = source.describe(), source.load(), source.describe()
    assert before == after
    assert before.shape == (3, 8, 8)
    assert dataset.samples.shape == (2, 8, 8, 3)
    assert dataset.samples.dtype == np.uint8
    assert before.class_names == ("a", "b")


@pytest.mark.parametrize("mode", ["L", "LA", "1", "I;16"])
def test_channels_are_one_only_when_every_image_is_grey(root, mode):
    put(root / "a.png", 0 if mode != "LA" else (0, 255), mode)
    assert folder(root).describe().shape[0] == 1
    assert folder(root).load().samples.shape[3] == 1
    put(root / "b.png")
    assert folder(root).describe().shape[0] == 3
    assert folder(root).load().samples.shape[3] == 3


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_can_be_set(root, channels):
    put(root / "a.png", (255, 0, 0))
    source = folder(root, channels=channels)
    assert source.describe().shape[0] == source.load().samples.shape[3] == channels


def test_first_level_folders_are_the_classes(root):
    put(root / "dogs" / "deep" / "1.png")
    put(root / "cats" / "2.png")
    put(root / "cats" / "3.png")
    (root / "empty").mkdir()
    assert folder(root).describe().class_names == ("cats", "dogs")
    classes = folder(root).load().classes
    assert classes.dtype == np.int64
    assert classes.tolist() == [0, 0, 1]


def test_an_image_outside_the_sub_folders_means_no_classes_and_is_mentioned(root):
    put(root / "cats" / "1.png")
    put(root / "stray.png")
    description = folder(root).describe()
    assert description.class_names == ()
    assert folder(root).load().classes is None
    assert any("stray.png" in note for note in description.notes)


def test_a_flat_folder_has_no_classes_and_nothing_to_mention(root):
    put(root / "1.png")
    assert folder(root).describe().class_names == ()
    assert folder(root).describe().notes == ()


def test_hidden_files_are_ignored_and_others_mentioned(root):
    put(root / "a.png")
    put(root / ".hidden.png")
    put(root / ".git" / "b.png")
    for name in ("notes.txt", "c.gif", "d.csv", "e.tar"):
        (root / name).touch()
    description = folder(root).describe()
    assert description.count == 1
    (note,) = description.notes
    assert "4 files (c.gif, d.csv, e.tar, …)" in note


@pytest.mark.parametrize("call", ["describe", "load"])
def test_paths_that_hold_no_images_are_refused(root, call):
    (root / "notes.txt").touch()
    for path, words in (
        (root, "notes.txt"),
        (root / "gone", "no such"),
        (root / "notes.txt", "not a folder"),
    ):
        (problem,) = refused(getattr(folder(path), call))
        assert words in problem.what
        assert problem.where == str(path)
        assert problem.hint


def test_describe_decodes_nothing_and_names_every_unreadable_header(root, no_decoding):
    no_decoding()
    put(root / "a.png")
    (root / "text.png").write_text("I am no picture")
    (root / "empty.jpg").touch()
    (root / "nowhere.webp").symlink_to(root / "gone")
    problems = refused(folder(root).describe)
    assert [os.path.basename(p.where) for p in problems] == ["empty.jpg", "nowhere.webp", "text.png"]
    assert all(p.hint for p in problems)


@pytest.mark.parametrize("channels", ["auto", 3])
def test_load_names_every_broken_file_at_once_and_keeps_nothing(root, cache, channels):
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    for name in ("corrupt.png", "cut.jpg", "cut.png", "cut.webp", "sound.png"):
        noise.save(root / name)
        content = (root / name).read_bytes()
        if name.startswith("cut"):
            (root / name).write_bytes(content[: len(content) // 2])
        if name == "corrupt.png":
            (root / name).write_bytes(content[:500] + bytes(50) + content[550:])
    (root / "text.png").write_text("I am no picture")
    problems = refused(folder(root, channels=channels).load)
    broken = ["corrupt.png", "cut.jpg", "cut.png", "cut.webp", "text.png"]
    assert [os.path.basename(p.where) for p in problems] == broken
    assert all(p.hint for p in problems)
    assert not list(cache.glob("*"))
    for name in broken:
        (root / name).unlink()
    assert len(folder(root, channels=channels).load().samples) == 1


def test_many_broken_files_are_listed_up_to_twenty_and_counted(root):
    for index in range(30):
        (root / f"{index:02}.png").touch()
    for call in (folder(root).describe, folder(root).load):
        problems = refused(call)
        assert len(problems) == 21
        assert "10 more" in problems[-1].what


def test_the_second_load_decodes_nothing(root, no_decoding, monkeypatch):
    put(root / "a" / "1.png")
    put(root / "b" / "2.png", (200, 0, 0))
    first = folder(root).load()
    no_decoding()
    monkeypatch.setattr(images, "is_grey", images.decode)
    second = folder(root).load()
    assert isinstance(second.samples, np.memmap)
    np.testing.assert_array_equal(first.samples, second.samples)
    np.testing.assert_array_equal(first.classes, second.classes)


def test_the_cache_follows_the_files(root):
    put(root / "a.png", (0, 0, 0))
    assert folder(root).load().samples.max() == 0
    put(root / "a.png", (9, 9, 9))
    os.utime(root / "a.png", ns=(1, 1))
    assert folder(root).load().samples.max() == 9
    put(root / "b.png", (50, 50, 50))
    assert len(folder(root).load().samples) == 2
    (root / "a.png").rename(root / "z.png")
    assert folder(root).load().samples[0].max() == 50


def test_the_cache_follows_the_options(root):
    put(root / "a.png", (255, 0, 0))
    shapes = {
        Folder(Folder.Config(path=str(root), image_size=size, channels=channels)).load().samples.shape
        for size in (8, 16)
        for channels in (1, 3)
    }
    assert shapes == {(1, 8, 8, 1), (1, 8, 8, 3), (1, 16, 16, 1), (1, 16, 16, 3)}


def test_a_damaged_cache_is_built_again(root, cache):
    put(root / "a.png", (7, 7, 7))
    folder(root).load()
    (entry,) = cache.iterdir()
    entry.write_bytes(entry.read_bytes()[:-1])
    assert folder(root).describe().count == 1
    assert (folder(root).load().samples == 7).all()
    entry.write_bytes(b"no array at all")
    assert (folder(root).load().samples == 7).all()


def test_a_run_killed_while_decoding_leaves_nothing_to_load(root, cache):
    for index in range(300):
        put(root / f"{index:03}.png", (index % 256,) * 3, size=(8, 8))
    script = f"""
        import os
        from gantricks.data import images
        from gantricks.data.folder import Folder
        decode = images.decode

        def deadly(path, size, channels):
            if path.endswith("299.png"):
                os._exit(9)
            return decode(path, size, channels)

        images.decode = deadly
        Folder(Folder.Config(path={str(root)!r}, image_size=8)).load()
    """
    finished = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert finished.returncode == 9
    assert [path.suffix for path in cache.iterdir()] == [".part"]
    samples = folder(root).load().samples
    np.testing.assert_array_equal(samples[:, 0, 0, 0], np.arange(300) % 256)


def test_progress_reaches_the_end(root):
    for index in range(3):
        put(root / f"{index}.png")
    seen = {}
    folder(root).load(lambda what, done, total: seen.__setitem__(what, (done, total)))
    assert seen == {"reading headers": (3, 3), "decoding": (3, 3)}


def test_links_that_form_a_loop_end(root):
    put(root / "a" / "1.png")
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "self").symlink_to(root / "a")
    (root / "loop.png").symlink_to(root / "loop.png")
    (root / "loop.png").unlink()
    assert folder(root).describe().count == 1


def test_a_linked_folder_is_read_once_under_its_own_name_if_it_has_one(root, tmp_path):
    put(root / "b" / "1.png")
    put(tmp_path / "elsewhere" / "2.png")
    (root / "a").symlink_to(root / "b")
    (root / "c").symlink_to(tmp_path / "elsewhere")
    description = folder(root).describe()
    assert description.class_names == ("b", "c")
    assert description.count == 2


def test_a_pipe_among_the_files_does_not_hang(root):
    put(root / "a.png")
    os.mkfifo(root / "pipe.png")
    assert folder(root).describe().count == 1


def test_names_that_are_no_text_can_be_loaded_and_printed(root):
    name = os.fsdecode(b"caf\xe9.png")
    put(root / "a.png").rename(root / name)
    assert len(folder(root).load().samples) == 1
    (root / name).write_bytes(b"")
    (problem,) = refused(folder(root).describe)
    assert str(problem).encode()


def test_what_a_nas_or_a_desktop_adds_is_no_picture_and_no_class(root):
    put(root / "cats" / "1.png")
    for name in ("@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg", "cats/@EADIR/x.jpg", "__MACOSX/cats/._1.png", "#recycle/2.png"):
        put(root / name)
    put(root / "cats" / "._1.png")
    description = folder(root).describe()
    assert description.count == 1
    assert description.class_names == ("cats",)
    (note,) = description.notes
    assert "5 names (#recycle, @eaDir, __MACOSX, …)" in note


def test_a_class_without_pictures_is_none_and_is_mentioned(root):
    put(root / "cats" / "1.png")
    (root / "dogs" / "deep").mkdir(parents=True)
    (root / "fish").mkdir()
    (root / "fish" / "notes.txt").touch()
    description = folder(root).describe()
    assert description.class_names == ("cats",)
    assert folder(root).load().classes.tolist() == [0]
    assert any("they hold no image: 2 sub-folders (dogs, fish)" in note for note in description.notes)


def test_class_names_and_numbers_are_the_same_in_every_session(root, monkeypatch):
    for name in ("b", "a", "10", "9", "Z", "é"):
        put(root / name / "1.png")
    scandir = os.scandir
    seen = set()
    for order in (sorted, lambda entries, key: sorted(entries, key=key, reverse=True)):

        class Entries(list):
            def __enter__(self):
                return self

            def __exit__(self, *error):
                pass

        with monkeypatch.context() as patch:
            patch.setattr(os, "scandir", lambda path, order=order: Entries(order(scandir(path), key=lambda e: e.name)))
            source = folder(root)
            seen.add((source.describe().class_names, tuple(source.load().classes)))
    assert seen == {(("10", "9", "Z", "a", "b", "é"), (0, 1, 2, 3, 4, 5))}


def test_names_that_are_no_text_are_classes_that_can_be_written_as_json(root):
    for name in (b"caf\xe8", b"caf\xe9"):
        put(root / os.fsdecode(name) / "1.png")
        (root / os.fsdecode(name) / "notes.txt").touch()
    description = folder(root).describe()
    assert description.class_names == ("caf\\xe8", "caf\\xe9")
    assert json.dumps([description.class_names, description.notes], ensure_ascii=False).encode()
    assert folder(root).load().classes.tolist() == [0, 1]


def test_a_file_that_changes_while_it_is_read_is_not_kept(root, cache, monkeypatch):
    put(root / "a.png")
    decode = images.decode

    def slowly(path, *options):
        pixels = decode(path, *options)
        put(root / "a.png", (200, 200, 200), size=(20, 20))
        return pixels

    monkeypatch.setattr(images, "decode", slowly)
    (problem,) = refused(folder(root).load)
    assert "changed" in problem.what
    assert list(cache.glob("*")) == []
    monkeypatch.undo()


def test_a_file_that_goes_while_the_folder_is_read_was_never_there(root, monkeypatch):
    put(root / "a.png")
    put(root / "b.png")
    stat = os.stat

    def gone(path, *args, **options):
        if str(path).endswith("b.png"):
            (root / "b.png").unlink(missing_ok=True)
        return stat(path, *args, **options)

    monkeypatch.setattr(os, "stat", gone)
    assert folder(root).describe().count == 1


def test_a_file_that_goes_before_it_is_decoded_is_named(root, monkeypatch):
    put(root / "a.png")
    decode = images.decode
    monkeypatch.setattr(images, "decode", lambda path, *options: (os.unlink(path), decode(path, *options)))
    (problem,) = refused(folder(root, channels=3).load)
    assert "removed" in problem.what
    assert problem.where.endswith("a.png")


@pytest.mark.parametrize("call", ["describe", "load"])
def test_closed_files_and_folders_are_named_with_the_reason(root, monkeypatch, call):
    put(root / "a.png")
    put(root / "closed" / "b.png")
    scandir, opened = os.scandir, open

    def denied(path, real):
        if os.fspath(path).endswith(("closed", "a.png")):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", lambda path: denied(path, scandir))
        (problem,) = refused(getattr(folder(root), call))
    assert problem.where.endswith("closed")
    with monkeypatch.context() as patch:
        patch.setattr(images, "open", lambda path, mode: denied(path, lambda p: opened(p, mode)), raising=False)
        (problem,) = refused(getattr(folder(root), call))
    assert problem.where.endswith("a.png")
    assert problem.what == "cannot be read: Permission denied"


def test_a_folder_that_tells_names_and_nothing_else_is_named(root, monkeypatch):
    """Readable and not searchable: every file in it is there and can be neither measured nor opened."""
    put(root / "a.png")
    put(root / "closed" / "b.png")
    stat = os.stat

    def denied(path, *args, **options):
        if "closed/" in str(path):
            raise PermissionError(13, "Permission denied", path)
        return stat(path, *args, **options)

    monkeypatch.setattr(os, "stat", denied)
    (problem,) = refused(folder(root).describe)
    assert problem.where.endswith("closed")
    assert "Permission denied" in problem.what


def test_memory_does_not_grow_with_the_number_of_pictures(root, monkeypatch):
    """Beyond a block of decoded pictures and the names."""
    monkeypatch.setattr(images, "decode", lambda path, size, channels: np.zeros((size, size, channels), np.uint8))
    peaks = []
    for count in (600, 3000):
        for index in range(count):
            (root / f"{index:04}.png").touch()
        source = Folder(Folder.Config(path=str(root), image_size=64, channels=3))
        tracemalloc.start()
        assert len(source.load().samples) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 2400 * 1000, "a picture takes 12,288 bytes, and its name some hundreds"


def test_a_cache_that_cannot_be_written_is_done_without(root, tmp_path, monkeypatch):
    put(root / "a.png", (7, 7, 7))
    (tmp_path / "file").touch()
    monkeypatch.setenv("GANTRICKS_CACHE", str(tmp_path / "file" / "cache"))
    assert folder(root).describe().count == 1
    dataset = folder(root).load()
    assert (dataset.samples == 7).all()
    assert "held in memory" in dataset.notes[0]


# ---------------------------------------------------------------- captions


def caption(root, *lines):
    (root / "captions.jsonl").write_text("\n".join(lines), encoding="utf-8")


def line(file, caption):
    return json.dumps({"file": file, "caption": caption})


@pytest.fixture
def three(root):
    for name in ("a.png", "sub/b.png", "c.png"):
        put(root / name)
    return root


def test_captions_are_hashed_and_the_mean_stands_for_several(three):
    caption(
        three,
        line("c.png", "a red bag"),
        line("a.png", "two shoes"),
        "",
        line("sub/b.png", "one"),
        line("a.png", "one"),
    )
    source = folder(three, text_dim=16)
    described, dataset = source.describe(), source.load()
    assert described.condition == 16
    assert described.words == ("a", "bag", "one", "red", "shoes", "two")
    assert described.notes == ("no classes: images lie outside the sub-folders: 2 files (a.png, c.png)",)
    shoes, one, bag = embed(["two shoes", "one", "a red bag"], 16)
    np.testing.assert_allclose(dataset.conditions, [(shoes + one) / 2, bag, one], rtol=1e-6)
    assert dataset.conditions.dtype == np.float32
    assert (source.embed(["one"]) == one).all()


def test_rows_of_another_encoder_stand_for_the_lines(three, tmp_path):
    caption(three, line("c.png", "x"), line("a.png", "y"), line("sub/b.png", "z"), line("a.png", "w"))
    np.save(tmp_path / "rows.npy", np.array([[1.0, 2], [3, 4], [5, 6], [7, 8]]))
    source = folder(three, embeddings=str(tmp_path / "rows.npy"))
    assert source.describe().condition == 2
    assert source.describe().words == ()
    np.testing.assert_allclose(source.load().conditions, [[5, 6], [1, 2], [5, 6]])
    assert source.embed(["x"]) is None


def test_a_folder_without_captions_has_no_conditions(three):
    assert folder(three).describe().condition == 0
    assert folder(three).load().conditions is None


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (['{"file": "a.png"}'], "captions.jsonl:1: caption must be given, as text"),
        (['{"file": 3, "caption": 4}'], "file and caption must be given"),
        (["[]"], "a line is a JSON object"),
        (["{"], "not JSON"),
        ([line("a.png", "…")], "the caption has no word"),
        ([line("b.png", "x")], "no picture 'b.png' in this folder"),
        ([line("a.png", "x")], "2 of 3 pictures have no caption (c.png, sub/b.png)"),
    ],
)
def test_wrong_captions_are_told_by_their_lines(three, lines, told):
    caption(three, *lines)
    problems = refused(folder(three).describe)
    assert any(told in f"{problem.where}: {problem.what}" for problem in problems), problems


def test_all_wrong_lines_are_told_at_once(three):
    caption(three, "{", line("d.png", "x"), "[]")
    assert [problem.where.rpartition(":")[2] for problem in refused(folder(three).load)] == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (np.ones((2, 4)), "2 rows for 3 captions"),
        (np.ones(3), "cannot have the shape (3,)"),
        (np.array([["x"]] * 3), "embeddings are numbers"),
        (np.array([[1.0], [np.nan], [2]]), "NaN or infinity"),
    ],
)
def test_wrong_rows_are_refused(three, tmp_path, rows, told):
    caption(three, *(line(name, "x") for name in ("a.png", "sub/b.png", "c.png")))
    np.save(tmp_path / "rows.npy", rows)
    (problem,) = refused(folder(three, embeddings=str(tmp_path / "rows.npy")).describe)
    assert told in problem.what


def test_rows_without_captions_and_files_that_are_no_arrays_are_refused(three, tmp_path):
    (tmp_path / "rows.npy").write_bytes(b"x")
    rows = str(tmp_path / "rows.npy")
    assert "there is no captions.jsonl" in refused(folder(three, embeddings=rows).describe)[0].what
    caption(three, *(line(name, "x") for name in ("a.png", "sub/b.png", "c.png")))
    assert "cannot be read" in refused(folder(three, embeddings=rows).describe)[0].what
    assert "no such file" in refused(folder(three, embeddings=rows + "x").describe)[0].what
