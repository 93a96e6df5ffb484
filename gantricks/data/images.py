"""Image files to square uint8 arrays, and the folder that keeps what was decoded."""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import math
import os
import shutil
import stat
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Annotated, BinaryIO, TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import Field

from gantricks.data import png
from gantricks.errors import Problem, UserError
from gantricks.paths import expanded

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
KINDS = "PNG, JPEG or WebP"
CACHE_VARIABLE = "GANTRICKS_CACHE"

ImageSize = Annotated[
    int,
    Field(ge=8, le=256, description="side in pixels of the square that images are cropped and resized to"),
]
PathText = Annotated[str, Field(min_length=1, max_length=4096)]

MOST_PIXELS = 2**28
"""Larger pictures are refused. A JPEG counts as large as it is decoded, at least at an eighth of its sides."""

_FORMATS = ("PNG", "JPEG", "WEBP")
_GREY_MODES = frozenset({"1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N"})
_BLOCK = 256
_LISTED = 20
_OTHERS = {
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"ftypavif": "AVIF",
    b"ftyphei": "HEIC",
    b"ftypmif1": "HEIF",
    b"ftypmsf1": "HEIF",
    b"8BPS": "Photoshop's",
    b"%PDF": "PDF",
    b"<svg": "SVG",
    b"<html": "a web page",
    b"<!DOCTYPE": "a web page",
    b"<!doctype": "a web page",
    b"version https://git-lfs": "a pointer of Git LFS",
}

# decoded, a picture of 2**24 pixels takes 64 MiB, and several copies are at work: larger ones wait for each other
_LARGE = 2**24
_one_at_a_time = threading.Lock()

_readers = 0
_readers_lock = threading.Lock()
_own_settings = contextlib.ExitStack()

Item = TypeVar("Item")
Result = TypeVar("Result")


class Unfit(Exception):
    """A file that is no picture, or none that can be decoded: what is the matter, and what to do."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.what, self.hint = what, hint


def is_grey(path: str | os.PathLike[str]) -> bool:
    """Whether the header of an image file says that it has no colour; no pixel is read.

    A palette counts as colour whatever its entries. Raises `Unfit`, or whatever Pillow raises, at a header that is
    unreadable or tells of more than `MOST_PIXELS`.
    """
    with _lenient(), open(path, "rb") as file:
        if _signature(file) == "PNG":
            header, grey = png.header_alone(file)
            with _picture(header):
                return grey
        with _picture(file) as image:
            return image.mode in _GREY_MODES


def decode(path: str | os.PathLike[str], size: int, channels: int) -> np.ndarray:
    """Read an image file as uint8 (size, size, channels): opaque on white, cropped, resized, upright.

    Raises `Unfit`, or whatever Pillow raises, at a file that is corrupt, truncated, too large or no image;
    `problem_of` puts it in words.
    """
    with _lenient(), open(path, "rb") as file:
        # the checksums of a PNG are looked at as well: Pillow skips those of pixels, and a flipped bit would pass
        source = png.pixels_alone(file) if _signature(file) == "PNG" else file
        with _picture(source) as image:
            # a JPEG decodes fast at 1/2, 1/4 or 1/8 of its size; twice the wanted one leaves the filter its work
            draft = image.draft(image.mode, (2 * size, 2 * size))
            # the last row and column of a draft may be covered in part: its true extent is no whole number
            extent = draft[1][2:] if draft else image.size
            with _one_at_a_time if math.prod(image.size) > _LARGE else contextlib.nullcontext():
                image.load()
                square = _fit(image, size, extent, "L" if channels == 1 else "RGB")
            _turn_upright(square)
            return _as_array(square)


def resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """Crop uint8 (H, W, 1 or 3) to its central square and resize it with antialiasing to (size, size, …)."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    return _as_array(_fit(image, size, image.size, image.mode))


def in_blocks(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[list[Result]]:
    """`function` of each item, in order, some hundred at a time, on threads: Pillow frees the GIL."""
    coming = iter(items)
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        while block := list(itertools.islice(coming, _BLOCK)):
            yield list(pool.map(function, block))


def problem_of(error: Exception, where: str) -> Problem:
    """What a user is told of a file that `is_grey` or `decode` failed on."""
    hint = "remove it, or replace it by a sound copy"
    if isinstance(error, Unfit):
        return Problem(error.what, where, error.hint)
    if isinstance(error, FileNotFoundError):
        return Problem("a link to a file that does not exist, or removed just now", where, hint)
    if isinstance(error, MemoryError):
        return Problem("too large for the memory of this machine", where, "make it smaller, or cut it into several")
    if isinstance(error, OSError) and error.strerror:
        return Problem(f"cannot be read: {error.strerror}", where, "make it readable, or move it away")
    said = " ".join(str(error).split())[:200]
    return Problem(f"cannot be decoded: {said or type(error).__name__}", where, hint)


def at(path: str, *, folder: bool, hint: str) -> Path:
    """What a recipe's path leads to. Raises `UserError` where that is no folder, or no file, as `folder` says."""
    try:
        found = Path(path).expanduser()
        mode = os.stat(found).st_mode
    except FileNotFoundError as error:
        raise UserError(Problem(f"no such {'folder' if folder else 'file'}", path, hint)) from error
    except (OSError, ValueError, RuntimeError) as error:  # names of any length, with any character, of any home
        said = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(Problem(f"cannot be opened: {said}", path, hint)) from error
    if not (stat.S_ISDIR(mode) if folder else stat.S_ISREG(mode)):
        raise UserError(Problem(f"not a {'folder' if folder else 'file'}", str(found), hint))
    return found


def all_of(problems: Sequence[Problem], things: str = "files") -> UserError:
    """One error for many problems: the first twenty in full, then a count of the `things` left unnamed."""
    rest = len(problems) - _LISTED
    more = [Problem(f"and {rest} more {things} with problems like these")] if rest > 0 else []
    return UserError(*problems[:_LISTED], *more)


def _signature(file: BinaryIO) -> str:
    """The format of an image file at its beginning, where it is left. Raises `Unfit` where it is none that is read."""
    start = file.read(32)
    file.seek(0)
    if start.startswith(png.SIGNATURE):
        return "PNG"
    if start.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WEBP"
    hint = "remove it, or replace it by a sound copy"
    if not start:
        raise Unfit("an empty file", hint)
    for other, name in _OTHERS.items():
        if start.startswith(other) or start[4:].startswith(other):
            raise Unfit(f"not an image: its content is {name}, no {KINDS}", f"convert it to PNG; or {hint}")
    raise Unfit(f"not an image: its content is no {KINDS}", hint)


def _picture(file: IO[bytes]) -> Image.Image:
    """An opened image of at most `MOST_PIXELS`. Raises `Unfit`, or whatever Pillow raises."""
    try:
        image = Image.open(file, formats=_FORMATS)
    except UnidentifiedImageError as error:
        # the signature was right; Pillow's own words name an object in memory
        raise Unfit("its header is damaged or cut off", "replace it by a sound copy, or remove it") from error
    width, height = image.size
    # a JPEG beyond the bound is decoded at an eighth of its sides, but a progressive one needs its whole size first
    shrinks = image.format in ("JPEG", "MPO") and not image.info.get("progressive")
    if width * height > MOST_PIXELS * (64 if shrinks else 1):
        image.close()
        raise Unfit(
            f"a picture of {width:,} × {height:,} pixels is too large: at most {MOST_PIXELS:,} are decoded",
            "make it smaller, or cut it into several",
        )
    return image


@contextlib.contextmanager
def _lenient() -> Iterator[None]:
    """Pillow without its bound of pixels, which is `MOST_PIXELS` here, and without warnings, which name no file.

    Both are of the whole process: the first thread that reads changes them, and the last one restores them.
    """
    global _readers
    with _readers_lock:
        _readers += 1
        if _readers == 1:
            _own_settings.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", module=r"PIL\.")
            _own_settings.callback(setattr, Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
            Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        with _readers_lock:
            _readers -= 1
            if _readers == 0:
                _own_settings.close()


def _turn_upright(image: Image.Image) -> None:
    # broken EXIF data beside sound pixels is common, and its parser raises anything: such images stay as is
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)


def _opaque(image: Image.Image) -> Image.Image:
    """An 8-bit image without transparency; what showed through becomes white."""
    if image.mode.startswith("I"):
        grey = np.array(image).astype(np.int32)
        clear = image.info.get("transparency")
        hidden = grey == clear if isinstance(clear, int) else None
        # Pillow's own conversion clips at 255, which turns a 16-bit picture white; in place, for it may be large
        grey.clip(0, 65535, out=grey)
        grey += 128
        grey //= 257
        levels = grey.astype(np.uint8)
        if hidden is not None:
            levels[hidden] = 255
        return Image.fromarray(levels)
    if not image.has_transparency_data:
        return image
    layer = image.convert("LA" if image.mode in _GREY_MODES else "RGBA")
    white = Image.new(layer.mode, layer.size, "white")
    if layer.mode == "RGBA":
        return Image.alpha_composite(white, layer)
    return Image.composite(layer.getchannel(0), white.getchannel(0), layer.getchannel(1))


def _fit(image: Image.Image, size: int, extent: tuple[float, float], mode: str) -> Image.Image:
    """The central square of an image that is `extent` wide and high, opaque, as `mode`, at (size, size)."""
    width, height = extent
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    # half a pixel matters in a JPEG that was decoded at an eighth, so the exact square is cut by the filter
    box = (math.floor(left), math.floor(top), math.ceil(left + side), math.ceil(top + side))
    if side == size:
        box = (int(left), int(top), int(left) + size, int(top) + size)
    # cut first: a panorama is mostly outside
    image = _opaque(image if box == (0, 0, *image.size) else image.crop(box))
    image = image if image.mode == mode else image.convert(mode)
    if side == size:
        return image
    square = (left % 1, top % 1, left % 1 + side, top % 1 + side)
    return image.resize((size, size), Image.Resampling.LANCZOS, box=square, reducing_gap=3.0)


def _as_array(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def cache_folder() -> Path:
    """The cache: $GANTRICKS_CACHE, else $XDG_CACHE_HOME/gantricks, else ~/.cache/gantricks; where there is no home
    folder, one that is removed with the process.

    Raises UserError when $GANTRICKS_CACHE names the home of nobody.
    """
    return lasting_cache() or _passing_cache()


def lasting_cache() -> Path | None:
    """The cache that the next process has too, or None where nothing says where that would be."""
    if own := os.environ.get(CACHE_VARIABLE):
        return expanded(own, CACHE_VARIABLE).absolute()
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):  # its specification has others ignored
        return Path(base) / "gantricks"
    try:
        return expanded("~/.cache/gantricks")
    except UserError:
        return None


def compiler_cache() -> Path:
    """Where compiled steps are kept: in the cache or, where that cannot be written, in a folder that is removed with
    the process, since a run can do without."""
    folder = cache_folder() / "inductor"
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    return _passing_cache()


@functools.cache
def _passing_cache() -> Path:
    # nobody else can write there, or has put anything there before: compiled steps are programs
    folder, ours = tempfile.mkdtemp(prefix="gantricks-"), os.getpid()
    atexit.register(lambda: shutil.rmtree(folder, ignore_errors=True) if os.getpid() == ours else None)
    return Path(folder)
