"""Decoding: every mode, size and orientation comes out upright, opaque, square and 8-bit."""

import os
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from gantricks.data import images
from gantricks.errors import UserError

PARTS = st.lists(st.text("a\n'", max_size=3) | st.integers(0, 2), max_size=3)


def saved(path, picture, **options):
    picture.save(path, **options)
    return path


def plain(colour, mode="RGB", size=(20, 20)):
    return Image.new(mode, size, colour)


def test_a_png_of_the_wanted_size_keeps_every_pixel(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    path = saved(tmp_path / "a.png", Image.fromarray(pixels))
    np.testing.assert_array_equal(images.decode(path, 16, 3), pixels)


def test_16_bit_grey_is_scaled_not_clipped(tmp_path):
    levels = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    path = saved(tmp_path / "a.png", Image.fromarray(levels))
    assert images.is_grey(path)
    np.testing.assert_array_equal(images.decode(path, 16, 1)[..., 0].ravel(), np.arange(256))


@pytest.mark.parametrize(
    ("picture", "colour"),
    [
        (plain((200, 30, 60, 0), "RGBA"), (255, 255, 255)),
        (plain((200, 0, 100, 128), "RGBA"), (227, 127, 177)),
        (plain((40, 0), "LA"), (255, 255, 255)),
        (plain((40, 255), "LA"), (40, 40, 40)),
        (plain(1, "1"), (255, 255, 255)),
        (plain(77, "L"), (77, 77, 77)),
    ],
    ids=["RGBA clear", "RGBA half", "LA clear", "LA opaque", "1-bit", "L"],
)
def test_modes_are_laid_on_white(tmp_path, picture, colour):
    decoded = images.decode(saved(tmp_path / "a.png", picture), 8, 3)
    np.testing.assert_allclose(decoded, np.broadcast_to(colour, (8, 8, 3)), atol=1)


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "P", "I;16"])
def test_the_transparent_colour_of_any_mode_becomes_white(tmp_path, mode):
    black = Image.new(mode, (20, 20), 0)
    if mode == "P":
        black.putpalette([10, 20, 30, 200, 100, 50])
    clear = (0, 0, 0) if mode == "RGB" else 0
    path = saved(tmp_path / "a.png", black, transparency=clear)
    assert (images.decode(path, 8, 3) == 255).all()
    assert (images.decode(path, 8, 1) == 255).all()


def test_an_opaque_palette_is_looked_up(tmp_path):
    picture = Image.new("P", (20, 20), 1)
    picture.putpalette([10, 20, 30, 200, 100, 50])
    path = saved(tmp_path / "a.png", picture)
    assert not images.is_grey(path)
    assert (images.decode(path, 8, 3) == (200, 100, 50)).all()


def test_cmyk_becomes_rgb(tmp_path):
    path = saved(tmp_path / "a.jpg", plain((0, 255, 255, 0), "CMYK"), quality=95)
    red = images.decode(path, 8, 3).astype(int)
    assert (red[..., 0] > 200).all()
    assert (red[..., 1:] < 60).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_exif_orientation_is_undone(tmp_path, orientation, suffix):
    upright = np.zeros((12, 12, 3), np.uint8)
    upright[:3, :6] = (255, 0, 0)  # a corner that no rotation and no reflection leaves in place
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }.get(orientation)
    stored = Image.fromarray(upright)
    if turn is not None:
        stored = stored.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / f"a.{suffix}", stored, exif=exif, lossless=True)
    np.testing.assert_array_equal(images.decode(path, 12, 3), upright)


def test_broken_exif_beside_sound_pixels_is_forgiven(tmp_path):
    path = saved(tmp_path / "a.png", plain((9, 9, 9)), exif=b"no TIFF header")
    with Image.open(path) as image, pytest.raises(SyntaxError):
        ImageOps.exif_transpose(image)
    assert (images.decode(path, 8, 3) < 20).all()


@pytest.mark.parametrize(("width", "height"), [(60, 20), (20, 60), (61, 20), (20, 61)])
@pytest.mark.parametrize("size", [10, 20])
def test_only_the_central_square_is_seen(tmp_path, width, height, size):
    pixels = np.full((height, width), 255, np.uint8)
    top, left = (height - 20) // 2, (width - 20) // 2
    odd_rows, odd_columns = (height - 20) % 2, (width - 20) % 2
    pixels[top : top + 20 + odd_rows, left : left + 20 + odd_columns] = 0
    path = saved(tmp_path / "a.png", Image.fromarray(pixels))
    assert not images.decode(path, size, 1).any()


def test_shrinking_averages_and_does_not_alias(tmp_path):
    checks = (np.indices((256, 256)).sum(axis=0) % 2 * 255).astype(np.uint8)
    decoded = images.decode(saved(tmp_path / "a.png", Image.fromarray(checks)), 16, 1)
    assert np.abs(decoded.astype(int) - 127).max() <= 8


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_decodes_as_if_it_were_shrunk_from_full_size(tmp_path, orientation):
    coarse = np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)
    big = Image.fromarray(coarse).resize((1001, 700), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = big.transpose(Image.Transpose.ROTATE_90) if orientation == 6 else big
    path = saved(tmp_path / "a.jpg", stored, quality=95, exif=exif)
    box = (150.5, 0, 850.5, 700)
    wanted = np.asarray(big.resize((32, 32), Image.Resampling.LANCZOS, box=box)).astype(int)
    assert np.abs(images.decode(path, 32, 3) - wanted)[1:-1, 1:-1].mean() < 2


def test_a_flipped_bit_in_a_png_is_noticed(tmp_path):
    rng = np.random.default_rng(0)
    path = saved(tmp_path / "a.png", Image.fromarray(rng.integers(0, 256, (32, 32), dtype=np.uint8)))
    content = bytearray(path.read_bytes())
    content[-30] ^= 1  # in the last bytes of the pixel data, where decoding alone does not look
    path.write_bytes(content)
    with pytest.raises(Exception, match="checksum"):
        images.decode(path, 32, 1)


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    channels=st.sampled_from([1, 3]),
    size=st.integers(8, 40),
    level=st.integers(0, 255),
)
def test_resizing_keeps_a_flat_image_flat(height, width, channels, size, level):
    resized = images.resize(np.full((height, width, channels), level, np.uint8), size)
    assert resized.shape == (size, size, channels)
    assert resized.dtype == np.uint8
    assert (resized == level).all()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("GANTRICKS_CACHE", str(folder))
    return folder


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
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    stored = images.store("a", pixels.shape, [pixels[:2], pixels[2:]])
    for kept in (stored, images.recall("a", 5)):
        assert isinstance(kept, np.memmap)
        np.testing.assert_array_equal(kept, pixels)
        assert not kept.flags.writeable
    assert images.recall("a", 4) is None
    assert images.recall("b", 5) is None


def test_an_entry_cut_at_any_byte_is_not_recalled(cache):
    images.store("a", (2, 2, 2, 1), [np.ones((2, 2, 2, 1), np.uint8)])
    entry = cache / "a.npy"
    whole = entry.read_bytes()
    for length in range(len(whole)):
        entry.write_bytes(whole[:length])
        assert images.recall("a", 2) is None


def test_nothing_is_kept_when_the_blocks_stop_short(cache):
    def blocks():
        yield np.zeros((1, 2, 2, 1), np.uint8)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        images.store("a", (2, 2, 2, 1), blocks())
    assert list(cache.iterdir()) == []


def test_half_written_files_of_killed_runs_are_swept_when_old(cache):
    cache.mkdir()
    old, young, former = cache / ".a.npy.01234567.part", cache / ".b.npy.01234567.part", cache / "a.x_7w2k4q.partial"
    for path in (old, young, former):
        path.touch()
    for path in (old, former):
        os.utime(path, (time.time() - 2 * 86400,) * 2)
    images.store("c", (1, 2, 2, 1), [np.zeros((1, 2, 2, 1), np.uint8)])
    assert not old.exists()
    assert not former.exists()
    assert young.exists()


def test_a_cache_that_cannot_be_written_names_the_folder_and_the_variable(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("GANTRICKS_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(UserError) as caught:
        images.store("a", (1, 2, 2, 1), [])
    assert str(tmp_path / "file" / "below") in str(caught.value)
    assert "GANTRICKS_CACHE" in caught.value.problems[0].mend


def test_a_full_disk_is_the_users_problem_and_leaves_nothing(cache, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        images.store("a", (1, 2, 2, 1), [np.zeros((1, 2, 2, 1), np.uint8)])
    assert list(cache.iterdir()) == []


@settings(max_examples=200, deadline=None)
@given(PARTS, PARTS)
def test_different_parts_give_different_names(some, others):
    same = images.cache_name("folder", *some) == images.cache_name("folder", *others)
    assert same == (some == others)
