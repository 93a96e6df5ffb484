"""Decodes image files to square uint8 arrays, and finds the cache folder."""

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
"""The largest number of pixels of a picture. A JPEG counts with its decoded size, which is at least an eighth of its
sides.
"""

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

# a decoded picture of 2**24 pixels takes 64 MiB, with several copies at once, so larger ones are decoded one at a time
_LARGE = 2**24
_one_at_a_time = threading.Lock()

_readers = 0
_readers_lock = threading.Lock()
_own_settings = contextlib.ExitStack()

Item = TypeVar("Item")
Result = TypeVar("Result")


class Unfit(Exception):
    """A file that is not a picture or cannot be decoded: what is wrong, and what to do."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.what, self.hint = what, hint


def is_grey(path: str | os.PathLike[str]) -> bool:
    """Return whether the header of an image file says that it has no colour. No pixel is read.

    A palette counts as colour whatever its entries. Raises `Unfit`, or any error of Pillow, at a header that is
    unreadable or gives more than `MOST_PIXELS`.
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

    Raises `Unfit`, or any error of Pillow, at a file that is corrupt, truncated, too large or not an image;
    `problem_of` describes it.
    """
    with _lenient(), open(path, "rb") as file:
        # this also verifies the checksums of a PNG, because Pillow skips those of pixels
        source = png.pixels_alone(file) if _signature(file) == "PNG" else file
        with _picture(source) as image:
            # a JPEG decodes fast at 1/2, 1/4 or 1/8 of its size; twice the final size leaves enough detail for the
            # filter
            draft = image.draft(image.mode, (2 * size, 2 * size))
            # the last row and column of a draft may be partial, so its true extent is not an integer
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
    """Yield lists of `function` of each item, in order, some hundred at a time, computed in threads, since Pillow
    releases the GIL.
    """
    coming = iter(items)
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        while block := list(itertools.islice(coming, _BLOCK)):
            yield list(pool.map(function, block))


def problem_of(error: Exception, where: str) -> Problem:
    """Return the problem to report for a file that `is_grey` or `decode` has refused."""
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
    """Return a recipe's path as a Path. Raises `UserError` where it is not a folder, or not a file, as `folder`
    says.
    """
    try:
        found = Path(path).expanduser()
        mode = os.stat(found).st_mode
    except FileNotFoundError as error:
        raise UserError(Problem(f"no such {'folder' if folder else 'file'}", path, hint)) from error
    except (OSError, ValueError, RuntimeError) as error:  # names may have any length, any character, or an unknown home
        said = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(Problem(f"cannot be opened: {said}", path, hint)) from error
    if not (stat.S_ISDIR(mode) if folder else stat.S_ISREG(mode)):
        raise UserError(Problem(f"not a {'folder' if folder else 'file'}", str(found), hint))
    return found


def all_of(problems: Sequence[Problem], things: str = "files") -> UserError:
    """Return one error for many problems: the first twenty in full, then a count of the other `things`."""
    rest = len(problems) - _LISTED
    more = [Problem(f"and {rest} more {things} with problems like these")] if rest > 0 else []
    return UserError(*problems[:_LISTED], *more)


def _signature(file: BinaryIO) -> str:
    """Return the format of an image file at its beginning, and keep the position there. Raises `Unfit` for other
    formats.
    """
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
    raise Unfit(f"not an image: its content is not {KINDS}", hint)


def _picture(file: IO[bytes]) -> Image.Image:
    """Open an image of at most `MOST_PIXELS`. Raises `Unfit`, or any error of Pillow."""
    try:
        image = Image.open(file, formats=_FORMATS)
    except UnidentifiedImageError as error:
        # the signature is right, and Pillow's own message names only an object in memory
        raise Unfit("its header is damaged or cut off", "replace it by a sound copy, or remove it") from error
    width, height = image.size
    # a larger JPEG is decoded at an eighth of its sides, but a progressive one needs its whole size first
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
    """Switch off Pillow's limit of pixels (`MOST_PIXELS` applies here) and its warnings, which name no file.

    Both are settings of the whole process: the first thread that reads changes them, and the last one restores them.
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
    # broken EXIF data beside valid pixels is common, and its parser raises anything: such images are not turned
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)


def _opaque(image: Image.Image) -> Image.Image:
    """Return an 8-bit image without transparency, laid on white."""
    if image.mode.startswith("I"):
        grey = np.array(image).astype(np.int32)
        clear = image.info.get("transparency")
        hidden = grey == clear if isinstance(clear, int) else None
        # Pillow's own conversion clips at 255, which turns a 16-bit picture white; in place, because it may be large
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
    """Return the central square of an image of size `extent`, opaque, in `mode`, resized to (size, size)."""
    width, height = extent
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    # the filter cuts the exact square, because half a pixel matters in a JPEG that was decoded at an eighth
    box = (math.floor(left), math.floor(top), math.ceil(left + side), math.ceil(top + side))
    if side == size:
        box = (int(left), int(top), int(left) + size, int(top) + size)
    # cut first, because most of a panorama is outside the square
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
    """Return the cache: $GANTRICKS_CACHE, else $XDG_CACHE_HOME/gantricks, else ~/.cache/gantricks.

    Where there is no home folder, it is a temporary folder that is removed with the process. Raises UserError when
    $GANTRICKS_CACHE names an unknown home folder.
    """
    return lasting_cache() or _passing_cache()


def lasting_cache() -> Path | None:
    """Return the cache if later processes will find it too, or None where it would be temporary."""
    if own := os.environ.get(CACHE_VARIABLE):
        return expanded(own, CACHE_VARIABLE).absolute()
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):  # its specification says to ignore relative paths
        return Path(base) / "gantricks"
    try:
        return expanded("~/.cache/gantricks")
    except UserError:
        return None


def compiler_cache() -> Path:
    """Return the folder for compiled steps: in the cache or, where that cannot be written, a temporary one."""
    folder = cache_folder() / "inductor"
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    return _passing_cache()


@functools.cache
def _passing_cache() -> Path:
    # a new private folder, because compiled steps are programs that others must not replace
    folder, ours = tempfile.mkdtemp(prefix="gantricks-"), os.getpid()
    atexit.register(lambda: shutil.rmtree(folder, ignore_errors=True) if os.getpid() == ours else None)
    return Path(folder)
