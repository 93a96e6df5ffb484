"""Decoding: every mode, size and orientation comes out upright, opaque, square and 8-bit."""

import struct
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

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


def test_the_settings_of_pillow_and_of_warnings_are_as_before(tmp_path):
    path = saved(tmp_path / "a.png", plain((1, 2, 3)))
    before = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: images.decode(path, 8, 3), range(200)))
    assert (Image.MAX_IMAGE_PIXELS, list(warnings.filters)) == before
    with pytest.raises(images.Unfit):
        images.decode(saved(tmp_path / "b.png", plain(3, "P"), format="GIF"), 8, 3)
    assert (Image.MAX_IMAGE_PIXELS, list(warnings.filters)) == before


@pytest.mark.parametrize("look", [images.is_grey, lambda path: images.decode(path, 8, 3)])
def test_more_pixels_than_are_decoded_are_refused_and_a_jpeg_is_decoded_small(tmp_path, monkeypatch, look):
    picture = plain((1, 2, 3), size=(200, 160))
    png, jpeg = saved(tmp_path / "a.png", picture), saved(tmp_path / "a.jpg", picture)
    progressive = saved(tmp_path / "b.jpg", picture, progressive=True)
    monkeypatch.setattr(images, "MOST_PIXELS", 200 * 160 - 1)
    look(jpeg)
    for path in (png, progressive):
        with pytest.raises(images.Unfit, match=r"200 × 160 pixels is too large: at most 31,999 are"):
            look(path)
    monkeypatch.setattr(images, "MOST_PIXELS", 200 * 160 // 64 - 1)
    with pytest.raises(images.Unfit, match="too large"):
        look(jpeg)
    monkeypatch.setattr(images, "MOST_PIXELS", 200 * 160)
    for path in (png, progressive):
        look(path)


def test_large_pictures_wait_for_each_other(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png", plain((1, 2, 3)))
    active, most = [], []
    fit = images._fit

    def counted(*args):
        active.append(1)
        most.append(len(active))
        time.sleep(0.005)
        active.pop()
        return fit(*args)

    monkeypatch.setattr(images, "_fit", counted)
    monkeypatch.setattr(images, "_LARGE", 399)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: images.decode(path, 8, 3), range(20)))
    assert max(most) == 1


def test_grey_with_alpha_is_grey_at_any_depth(tmp_path):
    path = tmp_path / "a.png"
    header = struct.pack(">IIBBBBB", 9, 9, 16, 4, 0, 0, 0)
    pixels = zlib.compress((b"\0" + b"\x5a\x5a\xff\xff" * 9) * 9)
    pieces = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*piece) for piece in pieces))
    assert images.is_grey(path)
    assert (images.decode(path, 8, 1) == 0x5A).all()


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="3"/></x:xmpmeta>'
TURNED = b"MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\3\0\0\0\0\0\0"
RAW = b"\nexif\n%8d\n" % (len(TURNED) + 6) + (b"Exif\0\0" + TURNED).hex().encode() + b"\n"


@pytest.mark.parametrize(
    "text",
    [
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP)),
        chunk(b"tEXt", b"Raw profile type exif\0" + RAW),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(RAW)),
        chunk(b"eXIf", TURNED),
    ],
    ids=["XMP", "packed XMP", "raw", "packed raw", "EXIF"],
)
@pytest.mark.parametrize("place", ["before the pixels", "after the pixels"])
def test_the_orientation_is_found_in_the_texts_of_a_png(tmp_path, text, place):
    picture = Image.new("L", (16, 16))
    picture.paste(255, (0, 0, 16, 8))
    whole = saved(tmp_path / "a.png", picture).read_bytes()
    at = 33 if place == "before the pixels" else len(whole) - 12
    (tmp_path / "a.png").write_bytes(whole[:at] + text + whole[at:])
    decoded = images.decode(tmp_path / "a.png", 16, 1)
    assert not decoded[:8].any()
    assert (decoded[8:] == 255).all()


@pytest.mark.parametrize("cut", range(8, 33))
def test_a_png_header_cut_at_any_byte_is_refused(tmp_path, cut):
    path = saved(tmp_path / "a.png", plain((9, 9, 9)))
    path.write_bytes(path.read_bytes()[:cut])
    for look in (images.is_grey, lambda path: images.decode(path, 8, 3)):
        with pytest.raises(ValueError, match="cut off"):
            look(path)


def test_items_are_taken_a_block_at_a_time():
    taken = []

    def items():
        for number in range(10 * images._BLOCK):
            taken.append(number)
            yield number

    blocks = images.in_blocks(lambda number: number, items())
    assert next(blocks) == list(range(images._BLOCK))
    assert len(taken) <= images._BLOCK
    assert sum(map(len, blocks)) == 9 * images._BLOCK


@pytest.mark.parametrize("path", ["gone", "a" * 300, "a\0b", "~nobody-of-this-name/a", "a.png/b"])
@pytest.mark.parametrize("folder", [True, False])
def test_a_path_that_leads_nowhere_is_a_sentence(tmp_path, monkeypatch, path, folder):
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "a.png", plain((9, 9, 9)))
    with pytest.raises(UserError) as caught:
        images.at(path, folder=folder, hint="set data.path")
    assert caught.value.problems[0].where == path
    assert caught.value.problems[0].hint == "set data.path"
