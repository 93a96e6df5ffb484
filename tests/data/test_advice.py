"""What a message recommends is done to the letter, and gives the right data."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gantricks.data import npz as module
from gantricks.data.npz import Npz
from gantricks.errors import UserError

RNG = np.random.default_rng(0)
LEVELS = np.concatenate([np.arange(256), RNG.integers(0, 256, 6 * 8 * 8 * 3 - 256)]).reshape(6, 8, 8, 3)
NAMES = {"numpy": np}


def source(path, **arrays):
    np.savez(path, **arrays)
    return Npz(Npz.Config(path=str(path)))


def advised(problem, **arrays):
    """The value of the first expression that a problem's hint says to save."""
    return eval(re.search(r"save ([^;]*)", problem.hint)[1], NAMES, arrays)


def followed(path, **arrays):
    """The data set of arrays that are refused, once all advice has been followed, and all that was said."""
    said = []
    for _ in range(3):
        try:
            return source(path, **arrays).load(), said
        except UserError as error:
            for problem in error.problems:
                name = problem.where.rsplit(" ", 1)[1]
                said.append(problem)
                arrays = arrays | {name: advised(problem, **arrays)}
    raise AssertionError(f"advice leads nowhere: {said}")


def distorted(levels, kind):
    """Levels from 0 to 255 as somebody's array might hold them."""
    unit = levels / 255
    return {
        "int64": levels.astype(np.int64),
        "uint32": levels.astype(np.uint32),
        "int16": levels.astype(">i2"),
        "int8": (levels - 128).astype(np.int8),
        "uint16": (levels * 257).astype(np.uint16),
        "int32 of 16 bits": (levels * 257).astype(np.int32),
        "12 bits": np.rint(unit * 4095).astype(np.uint16),
        "10 bits": np.rint(unit * 1023).astype(np.int64),
        "floats of 16 bits": (levels * 257).astype(np.float32),
        "[0, 255]": levels.astype(np.float32),
        "[0, 255], resized": (levels + RNG.uniform(-0.4, 0.4, levels.shape)).astype(np.float64),
        "[-1, 1]": (unit * 2 - 1).astype(np.float32),
        "[-1, 1] in halves": (unit * 2 - 1).astype(np.float16),
        "[-1, 1], beyond": (unit * 2 - 1) * 1.001,
        "[0, 1], beyond": unit * 1.001 - 0.0005,
        "complex": unit.astype(np.complex64),
        "complex of [0, 255]": levels.astype(np.complex128),
        "magnitudes": levels * np.exp(0.3j),
        "standardized": ((unit - 0.45) / 0.22).astype(np.float32),
        "signed, wide": (levels * 1000 - 70_000).astype(np.int32),
    }[kind]


KINDS = [
    "int64",
    "uint32",
    "int16",
    "int8",
    "uint16",
    "int32 of 16 bits",
    "12 bits",
    "10 bits",
    "floats of 16 bits",
    "[0, 255]",
    "[0, 255], resized",
    "[-1, 1]",
    "[-1, 1] in halves",
    "[-1, 1], beyond",
    "[0, 1], beyond",
    "complex",
    "complex of [0, 255]",
    "magnitudes",
    "standardized",
    "signed, wide",
]


@pytest.mark.parametrize("kind", KINDS)
def test_images_saved_as_advised_are_the_images_that_were_meant(tmp_path, kind):
    dataset, said = followed(tmp_path / "a.npz", images=distorted(LEVELS, kind))
    assert len(said) == 1
    assert np.abs(dataset.samples.astype(int) - LEVELS).max() <= 1


@pytest.mark.parametrize("kind", ["bool", "uint32 of 0 and 1", "int64 of 0 and 1"])
def test_black_and_white_stay_black_and_white(tmp_path, kind):
    white = LEVELS > 100
    stored = white if kind == "bool" else white.astype(kind.split()[0])
    dataset, _ = followed(tmp_path / "a.npz", images=stored)
    np.testing.assert_array_equal(dataset.samples, white * 255)


@pytest.mark.parametrize("kind", ["[0, 1]", "[-1, 1]", "[0, 255]", "standardized", "floats of 16 bits"])
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_spoils_no_other_pixel(tmp_path, kind, odd):
    stored = np.array(LEVELS / 255 if kind == "[0, 1]" else distorted(LEVELS, kind), np.float32)
    stored[2, 3, 4] = odd
    dataset, (problem,) = followed(tmp_path / "a.npz", images=stored)
    wanted = LEVELS.copy()
    wanted[2, 3, 4] = 255 if odd == np.inf else 0
    assert np.abs(dataset.samples.astype(int) - wanted).max() <= 1
    assert "NaN" in problem.what


@pytest.mark.parametrize("dtype", ["f4", "c8"])
def test_images_without_any_number_get_no_expression(tmp_path, dtype):
    with pytest.raises(UserError) as caught:
        source(tmp_path / "a.npz", images=np.full((2, 8, 8), np.nan, dtype)).load()
    assert "save" not in caught.value.problems[0].hint


def test_dark_16_bit_images_are_told_both_ways(tmp_path):
    """Whether white is 4095 or 65535 the values cannot tell: the advice says which is which."""
    with pytest.raises(UserError) as caught:
        source(tmp_path / "a.npz", images=np.full((2, 8, 8), 3000, np.uint16)).describe()
    (problem,) = caught.value.problems
    assert "from 3000 to 3000" in problem.what
    assert "(0, 4095)" in problem.hint
    assert "/ 257).astype(numpy.uint8)" in problem.hint


@settings(max_examples=150, deadline=None)
@given(
    dtype=st.sampled_from([np.bool_, np.uint16, np.int8, np.int16, np.int64, np.uint64, "f2", "f4", "f8", "c8", ">u2"]),
    low=st.floats(-1e6, 1e6),
    width=st.floats(0, 1e6),
    seed=st.integers(0, 99),
    odd=st.booleans(),
)
def test_any_numbers_become_an_array_that_is_read_in_the_order_they_had(tmp_path_factory, dtype, low, width, seed, odd):
    rng = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    values = rng.uniform(low, low + width, (2, 8, 8))
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        values = values.clip(max(info.min, -1e6), min(info.max, 2e6)).round()
    if dtype == np.float16:
        values = values.clip(-60000, 60000)
    stored = values.astype(dtype)
    if odd and dtype.kind == "f":
        stored[1, 2, 3] = np.nan
    dataset, _ = followed(tmp_path_factory.mktemp("a") / "a.npz", images=stored)
    before = np.abs(stored) if dtype.kind == "c" and stored.imag.any() else stored.real
    before = before.astype(np.float64).ravel()
    order = np.argsort(before)[: np.isfinite(before).sum()]
    after = dataset.samples.ravel()[order].astype(int)
    assert (np.diff(after) >= 0).all(), "brighter stays brighter"


CLASSES = np.arange(40) % 4
LABELS = {
    "one-hot": np.eye(4)[CLASSES],
    "one-hot of booleans": np.eye(4, dtype=bool)[CLASSES],
    "one-hot of bytes": np.eye(4, dtype=np.uint8)[CLASSES] * 255,
    "one-hot of -1 and 1": np.eye(4)[CLASSES] * 2 - 1,
    "probabilities": np.eye(4)[CLASSES] * 0.6 + 0.1,
    "floats": CLASSES.astype(np.float32),
    "a column of floats": CLASSES[:, None].astype(np.float64),
    "a row": CLASSES[None],
    "names": np.array(["ant", "bee", "cat", "dog"])[CLASSES],
    "a column of names": np.array(["ant", "bee", "cat", "dog"])[CLASSES][:, None],
    "bytes": np.array([b"ant", b"bee", b"cat", b"dog"])[CLASSES],
    "from -1": CLASSES - 1,
    "far": CLASSES * 10**6,
    "negative floats": CLASSES * 0.5 - 1,
    "dates": (CLASSES * 365).astype("datetime64[D]"),
    "objects": CLASSES.astype(object),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_saved_as_advised_are_the_classes_that_were_meant(tmp_path, kind):
    images = LEVELS[np.arange(40) % 6].astype(np.uint8)
    dataset, said = followed(tmp_path / "a.npz", images=images, labels=LABELS[kind])
    assert len(said) == 1
    np.testing.assert_array_equal(dataset.classes, CLASSES)


def test_two_classes_as_booleans(tmp_path):
    images = np.zeros((4, 8, 8), np.uint8)
    dataset, _ = followed(tmp_path / "a.npz", images=images, labels=np.array([True, False, True, False]))
    assert dataset.classes.tolist() == [1, 0, 1, 0]


def test_several_answers_an_image_are_no_one_hot_rows(tmp_path):
    answers = np.array([[1, 1, -1], [-1, -1, 1], [1, -1, -1]])
    images = np.zeros((3, 8, 8), np.uint8)
    with pytest.raises(UserError) as caught:
        source(tmp_path / "a.npz", images=images, labels=answers).describe()
    (problem,) = caught.value.problems
    assert "argmax" not in problem.hint
    np.testing.assert_array_equal(advised(problem, labels=answers), [1, 0, 1])


@pytest.mark.parametrize("labels", [RNG.normal(size=3000), np.arange(3000) * 1.5])
def test_measurements_are_not_made_classes(tmp_path, labels):
    with pytest.raises(UserError) as caught:
        source(tmp_path / "a.npz", images=np.zeros((3000, 8, 8), np.uint8), labels=labels).describe()
    assert "leave the labels out" in caught.value.problems[0].hint


def test_images_without_a_label_are_named(tmp_path):
    labels = np.array([0, 1, np.nan])
    with pytest.raises(UserError) as caught:
        source(tmp_path / "a.npz", images=np.zeros((3, 8, 8), np.uint8), labels=labels).describe()
    assert "numpy.isfinite(labels)" in caught.value.problems[0].hint


@pytest.mark.parametrize(("names", "said"), [(("images", "labels"), "labels"), (("x_train", "y_train"), "y_train")])
def test_numbers_that_no_image_has_are_mentioned_and_can_be_closed_up(tmp_path, names, said):
    labels = np.array([1, 3, 9, 3])
    arrays = {names[0]: np.zeros((4, 8, 8), np.uint8), names[1]: labels}
    description = source(tmp_path / "a.npz", **arrays).describe()
    assert description.classes == 10
    (note,) = description.notes
    assert "7 of the 10 classes (0, 2, 4, …)" in note
    assert f"numpy.unique({said}, return_inverse=True)[1]" in note
    closed = np.unique(labels, return_inverse=True)[1]
    assert source(tmp_path / "a.npz", **arrays | {names[1]: closed}).describe().notes == ()


def test_check_refuses_the_floats_that_training_would(tmp_path):
    stored = np.linspace(-1, 1, 128).reshape(2, 8, 8)
    with pytest.raises(UserError, match="must lie in"):
        source(tmp_path / "a.npz", images=stored).describe()


def test_arrays_are_measured_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PART", 100)
    dataset, said = followed(tmp_path / "a.npz", images=distorted(LEVELS, "uint16"))
    np.testing.assert_array_equal(dataset.samples, LEVELS)
    assert "from 0 to 65535" in said[0].what
