"""A NumPy archive: its layouts, and every fault named with its hint."""

import numpy as np
import pytest

from gantricks.data import images
from gantricks.data import npz as module
from gantricks.data.npz import Npz
from gantricks.errors import UserError

RNG = np.random.default_rng(0)


def pixels(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def archive(tmp_path):
    def write(save=np.savez_compressed, **arrays):
        path = tmp_path / "set.npz"
        save(path, **arrays)
        return path

    return write


def npz(path, **options):
    return Npz(Npz.Config(path=str(path), **options))


def refused(path, call="describe", **options):
    with pytest.raises(UserError) as caught:
        getattr(npz(path, **options), call)()
    for problem in caught.value.problems:
        assert str(path) in problem.where
        assert problem.hint
    return str(caught.value)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("shape", [(5, 6, 7), (5, 6, 7, 1), (5, 6, 7, 3), (5, 1, 6, 7), (5, 3, 6, 7)])
def test_every_layout_of_axes_comes_out_channels_last(archive, shape, save):
    stored = pixels(*shape)
    source = npz(archive(save, images=stored))
    samples = source.load().samples
    wanted = stored[..., None] if stored.ndim == 3 else stored
    if wanted.shape[3] == 7:
        wanted = wanted.transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(samples, wanted)
    assert samples.dtype == np.uint8
    count, height, width, channels = samples.shape
    assert source.describe().shape == (channels, height, width)
    assert source.describe().count == count


def test_labels_become_classes(archive):
    source = npz(archive(images=pixels(3, 8, 8), labels=np.array([0, 4, 2], np.uint8)))
    assert source.describe().class_names == ("0", "1", "2", "3", "4")
    classes = source.load().classes
    assert classes.dtype == np.int64
    assert classes.tolist() == [0, 4, 2]


def test_a_column_of_labels_is_a_row_of_labels(archive):
    path = archive(images=pixels(3, 8, 8), labels=np.array([[0], [1], [1]]))
    assert npz(path).load().classes.tolist() == [0, 1, 1]


def test_without_labels_there_are_no_classes(archive):
    source = npz(archive(images=pixels(3, 8, 8)))
    assert source.describe().class_names == ()
    assert source.load().classes is None


def test_split_picks_the_arrays(archive):
    train, test = pixels(4, 8, 8), pixels(2, 8, 8)
    path = archive(x_train=train, y_train=np.arange(4), x_test=test, y_test=np.array([1, 0]))
    for split, wanted, labels in (("train", train, [0, 1, 2, 3]), ("test", test, [1, 0])):
        dataset = npz(path, split=split).load()
        np.testing.assert_array_equal(dataset.samples[..., 0], wanted)
        assert dataset.classes.tolist() == labels


def splits(archive, **changes):
    stored = {
        "x_train": pixels(5, 8, 8),
        "y_train": np.array([0, 1, 2, 0, 1]),
        "x_test": pixels(4, 8, 8) + np.uint8(1),
        "y_test": np.array([2, 0, 1, 1]),
    } | changes
    return archive(**{name: array for name, array in stored.items() if array is not None})


@pytest.mark.parametrize("image_size", [None, 12])
def test_the_test_split_is_held_out_from_training_and_from_nothing_else(archive, image_size):
    path = splits(archive)
    source = npz(path, image_size=image_size)
    held_out, test = source.held_out(), npz(path, split="test", image_size=image_size)
    np.testing.assert_array_equal(held_out.samples, test.load().samples)
    np.testing.assert_array_equal(held_out.classes, [2, 0, 1, 1])
    assert source.describe().held_out == 4
    assert not source.describe().notes
    assert len(source.load().samples) == 5
    assert test.held_out() is None
    assert test.describe().held_out == 0


def test_without_a_test_split_nothing_is_held_out(archive):
    source = npz(archive(images=pixels(3, 8, 8)))
    assert source.held_out() is None
    assert source.describe().held_out == 0
    assert not source.describe().notes


def test_a_test_split_without_labels_is_held_out_where_training_has_none_either(archive):
    source = npz(splits(archive, y_train=None, y_test=None))
    assert source.describe().held_out == len(source.held_out().samples) == 4
    assert source.held_out().classes is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"x_test": pixels(4, 6, 8)}, "its images have the shape (1, 6, 8), those for training (1, 8, 8)"),
        ({"x_test": pixels(4, 8, 8, 3)}, "its images have the shape (3, 8, 8)"),
        ({"x_test": pixels(4, 8)}, "images cannot have the shape (4, 8)"),
        ({"x_train": pixels(5, 8, 8) / 255, "x_test": pixels(4, 8, 8) / 100}, "float images must lie in [0, 1]"),
        ({"y_test": None}, "it has no labels, y_test"),
        ({"y_test": np.array([0, 3, 1, 1])}, "it has the class 3, which the images for training do not have"),
        ({"y_test": np.array([0, 1])}, "2 labels for 4 images"),
    ],
)
def test_a_test_split_that_does_not_fit_is_left_aside_and_training_goes_on(archive, changes, said):
    source = npz(splits(archive, **changes))
    (note,) = source.describe().notes
    assert note.startswith("x_test is left aside: ")
    assert said in note
    assert source.describe().held_out == 0
    assert source.held_out() is None
    assert len(source.load().samples) == 5


def test_images_of_different_sizes_meet_where_they_are_resized(archive):
    source = npz(splits(archive, x_test=pixels(4, 12, 10)), image_size=8)
    assert source.held_out().samples.shape == (4, 8, 8, 1)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_split_that_is_absent_is_refused_with_the_other_one_named(archive, split):
    other = {"train": "test", "test": "train"}[split]
    message = refused(archive(**{f"x_{other}": pixels(2, 8, 8)}), split=split)
    assert f'data.split to "{other}"' in message
    assert f"x_{other}" in message


def test_describe_reads_no_image(archive, monkeypatch):
    path = archive(images=pixels(3, 8, 8), labels=np.arange(3))
    read = module._array
    names = []
    monkeypatch.setattr(module, "_array", lambda archive, name: names.append(name) or read(archive, name))
    npz(path).describe()
    assert names == ["labels"]


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4"])
@pytest.mark.parametrize("nudge", [-0.4, 0, 0.4])
def test_float_images_round_to_the_nearest_level(archive, dtype, nudge):
    levels = np.arange(256).reshape(1, 16, 16)
    stored = ((levels + nudge) / 255).clip(0, 1).astype(dtype)
    samples = npz(archive(images=stored)).load().samples
    assert samples.dtype == np.uint8
    np.testing.assert_array_equal(samples[..., 0], levels)


@pytest.mark.parametrize("wrong", [-0.5, 1.5, 200.0, np.nan, np.inf])
def test_float_images_outside_0_to_1_are_refused(archive, wrong):
    stored = np.full((2, 8, 8), 0.5, np.float32)
    stored[1, 3, 3] = wrong
    assert "[0, 1]" in refused(archive(images=stored), "load")


def test_resizing_crops_to_the_square_and_keeps_grey_grey(archive):
    stored = np.full((3, 20, 40), 255, np.uint8)
    stored[:, :, 10:30] = 0
    source = npz(archive(images=stored), image_size=8)
    samples = source.load().samples
    assert samples.shape == (3, 8, 8, 1)
    assert source.describe().shape == (1, 8, 8)
    assert not samples.any()


def test_converted_sets_are_kept_only_when_big(archive, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setenv("GANTRICKS_CACHE", str(cache))
    path = archive(images=pixels(300, 9, 9, 3), labels=np.arange(300))
    small = npz(path, image_size=8).load()
    assert not cache.exists()
    monkeypatch.setattr(module, "_IN_MEMORY", 1000)
    big = npz(path, image_size=8).load()
    assert isinstance(big.samples, np.memmap)
    np.testing.assert_array_equal(big.samples, small.samples)

    def resize(*args):
        raise AssertionError("resized again")

    monkeypatch.setattr(images, "resize", resize)
    again = npz(path, image_size=8).load()
    np.testing.assert_array_equal(again.samples, small.samples)
    np.testing.assert_array_equal(again.classes, np.arange(300))
    assert npz(path).load().samples.shape == (300, 9, 9, 3)
    with pytest.raises(AssertionError, match="resized again"):
        npz(path, image_size=10).load()


def test_files_that_are_no_archive_are_refused(tmp_path):
    (tmp_path / "text.npz").write_text("no archive")
    np.save(tmp_path / "array.npy", pixels(2, 8, 8))
    assert "no such file" in refused(tmp_path / "gone.npz")
    assert "not a file" in refused(tmp_path)
    for name in ("text.npz", "array.npy"):
        assert "not an .npz" in refused(tmp_path / name)


def test_missing_arrays_are_refused_with_the_names_that_were_found(archive):
    message = refused(archive(pictures=pixels(2, 8, 8), tags=np.arange(2)))
    assert "pictures, tags" in message
    assert "images" in message


def test_python_objects_are_never_read(archive):
    objects = np.empty(2, object)
    objects[:] = [pixels(8, 8), pixels(9, 9)]
    message = refused(archive(images=objects, labels=np.array(["a", None], object)))
    assert message.count("Python objects") == 2


@pytest.mark.parametrize("shape", [(5,), (5, 8), (5, 8, 8, 2), (5, 4, 8, 8), (2, 5, 8, 8, 3), (0, 8, 8), (5, 0, 8)])
def test_shapes_that_are_no_images_are_refused(archive, shape):
    assert str(shape) in refused(archive(images=np.zeros(shape, np.uint8)))


@pytest.mark.parametrize("dtype", [np.int64, np.uint16, np.bool_, np.complex64])
def test_other_numbers_are_refused(archive, dtype):
    assert str(np.dtype(dtype)) in refused(archive(images=np.zeros((2, 8, 8), dtype)))


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.array([0, 1]), "2 labels for 3 images"),
        (np.array([0, -3, 1]), "negative: -3"),
        (np.array([0.0, 1.0, 2.0]), "not float64"),
        (np.array(["a", "b", "c"]), "whole numbers"),
        (np.eye(3, dtype=int), "shape (3, 3)"),
        (np.array(1), "shape ()"),
        (np.array([0, 1, 2**40]), str(2**40)),
    ],
)
@pytest.mark.parametrize("call", ["describe", "load"])
def test_wrong_labels_are_refused(archive, labels, words, call):
    assert words in refused(archive(images=pixels(3, 8, 8), labels=labels), call)


def test_all_faults_are_named_at_once(archive):
    path = archive(images=np.zeros((3, 8), np.int32), labels=np.array([0.5, 1.5]))
    message = refused(path)
    assert "int32" in message
    assert "(3, 8)" in message
    assert "float64" in message


def test_damage_inside_the_archive_is_refused(archive):
    path = archive(images=pixels(50, 8, 8))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 50] = bytes(50)
    path.write_bytes(content)
    assert "cannot be read" in refused(path, "load")


def test_floats_that_cannot_be_read_are_refused_before_training(archive):
    path = archive(images=np.linspace(0, 1, 3200).reshape(50, 8, 8), save=np.savez)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "cannot be read" in refused(path)


def test_big_conversions_without_a_cache_are_held_in_memory(archive, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("GANTRICKS_CACHE", str(tmp_path / "file" / "cache"))
    stored = pixels(300, 9, 9, 3)
    path = archive(images=stored.transpose(0, 3, 1, 2))
    monkeypatch.setattr(module, "_IN_MEMORY", 1000)
    dataset = npz(path).load()
    np.testing.assert_array_equal(dataset.samples, stored)
    assert "held in memory" in dataset.notes[0]


def test_images_are_converted_once_in_a_process_and_anew_when_the_file_changes(tmp_path, monkeypatch):
    converted = []
    resize = images.resize
    monkeypatch.setattr(images, "resize", lambda picture, size: converted.append(size) or resize(picture, size))
    path = tmp_path / "images.npz"
    np.savez(path, images=np.arange(2 * 256).astype(np.uint8).reshape(2, 16, 16))
    source = Npz(Npz.Config(path=str(path), image_size=8))
    first = source.load().samples
    assert source.load().samples is first
    assert converted == [8, 8]
    assert not first.flags.writeable
    np.savez(path, images=np.full((3, 16, 16), 9, np.uint8))
    assert (source.load().samples == 9).all()
    assert Npz(Npz.Config(path=str(path), image_size=12)).load().samples.shape == (3, 12, 12, 1)


def test_what_is_held_out_is_remembered_beside_the_data_and_no_more_than_both(tmp_path, monkeypatch):
    from gantricks.data import npz as module

    monkeypatch.setattr(module, "_last", {})
    path = tmp_path / "both.npz"
    parts = {f"x_{split}": np.full((3, 16, 16), number, np.uint8) for number, split in enumerate(("train", "test"))}
    np.savez(path, y_train=np.arange(3), y_test=np.arange(3), **parts)
    source = Npz(Npz.Config(path=str(path), image_size=8))
    data, held_out = source.load().samples, source.held_out().samples
    assert source.load().samples is data
    assert source.held_out().samples is held_out
    assert (data == 0).all()
    assert (held_out == 1).all()
    other = Npz(Npz.Config(path=str(path), image_size=12)).load().samples
    assert len(module._last) == 2
    assert any(kept is other for kept in module._last.values())
