"""Grids, scatter plots and files."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gantricks import pictures
from gantricks.study.forest import forest
from gantricks.study.table import Comparison, Table


def test_every_level_survives_the_way_to_floats_and_back():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    floats = levels.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
    np.testing.assert_array_equal(pictures.to_pixels(floats), levels)


def test_levels_are_rounded_clipped_and_nan_is_dark():
    floats = np.array([-1.0, 1.0, 0.0, 0.003, -7, 7, np.inf, -np.inf, np.nan]).reshape(1, 1, 1, 9)
    assert pictures.to_pixels(floats).ravel().tolist() == [0, 255, 128, 128, 0, 255, 255, 0, 0]


def test_channels_move_last():
    floats = np.stack([np.full((4, 5), -1.0), np.zeros((4, 5)), np.ones((4, 5))])[None]
    pixels = pictures.to_pixels(floats)
    assert pixels.shape == (1, 4, 5, 3)
    assert pixels[0, 0, 0].tolist() == [0, 128, 255]


@settings(max_examples=50, deadline=None)
@given(
    count=st.integers(1, 30),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    channels=st.integers(1, 5),
    columns=st.none() | st.integers(1, 40),
    padding=st.integers(0, 3),
)
def test_every_image_lies_in_its_cell_in_reading_order(count, height, width, channels, columns, padding):
    images = np.random.default_rng(0).integers(0, 256, (count, height, width, channels), dtype=np.uint8)
    sheet = np.asarray(pictures.image_grid(images, columns, padding))
    sheet = sheet[..., None] if sheet.ndim == 2 else sheet
    assert sheet.shape[2] == (3 if channels >= 3 else 1)
    across = (sheet.shape[1] - padding) // (width + padding)
    if columns is not None:
        assert across == min(columns, count)
    for index, image in enumerate(images):
        top = padding + index // across * (height + padding)
        left = padding + index % across * (width + padding)
        np.testing.assert_array_equal(sheet[top : top + height, left : left + width], image[..., : sheet.shape[2]])


@pytest.mark.parametrize("count", range(1, 101))
def test_grids_are_nearly_square(count):
    width, height = pictures.image_grid(np.zeros((count, 8, 8, 1), np.uint8), padding=0).size
    assert width * height - count * 64 <= max(width, height) * 8
    assert max(width, height) <= 2 * min(width, height)
    if round(count**0.5) ** 2 == count:
        assert width == height


def test_wide_images_stand_in_fewer_columns():
    width, height = pictures.image_grid(np.zeros((16, 8, 32, 1), np.uint8), padding=0).size
    assert width == height


def test_a_grid_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no image"):
        pictures.image_grid(np.zeros((0, 8, 8, 3), np.uint8))


def darkness(picture):
    """How far each pixel is from white."""
    return 255 - np.asarray(picture).astype(int).min(axis=2)


def centre_of(picture):
    return [axis.mean() for axis in np.nonzero(darkness(picture))]


def test_a_point_is_drawn_where_it_lies_with_the_second_axis_upward():
    picture = pictures.scatter(np.array([[0.5, 0.75]]), size=100, extent=(0, 1, 0, 1))
    assert picture.size == (100, 100)
    row, column = centre_of(picture)
    assert row == pytest.approx(24.5, abs=1)
    assert column == pytest.approx(49.5, abs=1)


def test_generated_points_are_coloured_and_real_ones_grey_beneath():
    real, generated = np.array([[-0.5, 0.0], [0.5, 0.0]]).repeat(50, axis=0), np.array([[0.5, 0.0]] * 50)
    seen = np.asarray(pictures.scatter(generated, real, size=100, extent=(-1, 1, -1, 1))).astype(int)
    grey, coloured = seen[50, 25], seen[50, 75]
    assert np.ptp(grey) < 20
    assert 150 < grey.mean() < 220
    assert np.ptp(coloured) > 100


def test_crowds_are_darker_than_single_points():
    alone = darkness(pictures.scatter(np.zeros((1, 2)), size=64)).max()
    crowd = darkness(pictures.scatter(np.zeros((20, 2)), size=64)).max()
    assert 0 < alone < 0.7 * crowd


def test_the_reference_sets_the_frame_and_strays_are_drawn_at_its_edge():
    reference = np.array([[0.0, 0.0], [1.0, 1.0]])
    empty = darkness(pictures.scatter(np.zeros((0, 2)), reference, size=64))
    assert empty.any()
    assert not empty[0].any()
    assert not empty[:, 0].any()
    stray = darkness(pictures.scatter(np.array([[1e9, 0.5]]), reference, size=64))
    assert stray[20:44, -4:].any()
    assert not empty[20:44, -4:].any()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_points_that_are_not_finite_are_left_out(wrong):
    points = np.array([[0.1, 0.2], [wrong, 0.3], [0.4, wrong]])
    with_wrong = pictures.scatter(points, size=64, extent=(0, 1, 0, 1))
    assert with_wrong.tobytes() == pictures.scatter(points[:1], size=64, extent=(0, 1, 0, 1)).tobytes()


@settings(max_examples=15, deadline=None)
@given(count=st.integers(0, 5), dimensions=st.integers(1, 5), scale=st.sampled_from([0.0, 1e-30, 1.0, 1e30]))
def test_the_first_two_dimensions_of_any_points_are_shown(count, dimensions, scale):
    points = scale * np.random.default_rng(0).normal(size=(count, dimensions)).astype(np.float32)
    plane = np.zeros((count, 2), np.float32)
    plane[:, : min(dimensions, 2)] = points[:, :2]
    picture = pictures.scatter(points, size=32)
    assert picture.tobytes() == pictures.scatter(plane, size=32).tobytes()
    assert darkness(picture).any() == (count > 0)


def test_a_png_is_written_over_what_is_there_and_its_folders_are_made(tmp_path):
    path = tmp_path / "samples" / "deep" / "1.png"
    for level in (3, 9):
        pictures.save_png(Image.new("L", (4, 4), level), path)
        assert Image.open(path).getpixel((0, 0)) == level
    assert os.listdir(path.parent) == ["1.png"]


def test_an_interrupted_save_leaves_the_old_picture_whole(tmp_path, monkeypatch):
    path = tmp_path / "1.png"
    pictures.save_png(Image.new("L", (4, 4), 3), path)
    before = path.read_bytes()

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pictures.save_png(Image.new("L", (4, 4), 9), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["1.png"]


def test_the_suffix_does_not_decide_the_format(tmp_path):
    pictures.save_png(Image.new("RGB", (4, 4)), tmp_path / "picture.tmp")
    assert Image.open(tmp_path / "picture.tmp").format == "PNG"


# ---------------------------------------------------------------- what draws them

HOSTILE = {
    "axes.facecolor": "red",
    "axes.grid": True,
    "figure.constrained_layout.use": True,
    "font.family": "monospace",
    "lines.linewidth": 9,
    "lines.linestyle": ":",
    "lines.marker": "s",
    "markers.fillstyle": "none",
    "savefig.dpi": 10,
    "figure.dpi": 30,
    "xtick.labelsize": 40,
    "xtick.top": True,
    "text.color": "red",
    "text.usetex": True,
}
"""Settings that a user may have in a matplotlibrc."""


@pytest.fixture(params=["scatter", "forest"])
def draw(request):
    if request.param == "scatter":
        points = np.random.default_rng(0).normal(size=(300, 2))
        return lambda: pictures.scatter(points[:100], points, size=128).tobytes()
    found = Comparison("ema", ("full",), ("without-ema",), 1.0, 0.5, 0.4, 1.6, 0.01, 0.01, 6, 0, "helps")
    table = Table("t", "add-one", "m", "f", "higher", 9, (0, 1), None, (), (found,), (), {}, {}, 12, 1.0)
    return lambda: forest(table).tobytes()


def test_a_picture_is_a_function_of_what_it_shows_whatever_matplotlib_is_set_to(draw):
    import matplotlib

    picture = draw()
    assert draw() == picture
    with matplotlib.rc_context(HOSTILE):
        assert draw() == picture


def test_pictures_drawn_in_threads_at_once_are_those_drawn_alone(draw):
    alone = draw()
    with ThreadPoolExecutor(4) as pool:
        assert {*pool.map(lambda _: draw(), range(12))} == {alone}


def test_matplotlib_is_imported_where_something_is_drawn_and_nowhere_else(tmp_path):
    small = ["train.steps=1", "generator.channels=2", "discriminator.channels=2"]
    flags = [word for setting in small for word in ("--set", setting)]
    program = f"""
import sys
import gantricks
from gantricks.cli import main

def drawn():
    return "matplotlib" in sys.modules

assert not drawn()
assert main(["check", "ring_mlp"]) == 0 and not drawn()
assert main(["train", "dcgan", "--run-dir", "images", *{flags}]) == 0 and not drawn()
assert main(["train", "ring_mlp", "--run-dir", "points", "--set", "train.steps=1"]) == 0 and drawn()
assert "matplotlib.pyplot" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_home_that_cannot_be_written_is_no_matter_for_a_picture(tmp_path):
    """Matplotlib warns of it, and users cannot do anything about that."""
    (tmp_path / "file").touch()
    places = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR"), str(tmp_path / "file" / "in"))
    program = "import numpy as np; from gantricks import pictures; pictures.scatter(np.zeros((1, 2)))"
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | places, capture_output=True, text=True, check=True
    )
    assert done.stdout + done.stderr == ""
