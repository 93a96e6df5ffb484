"""Image files to square uint8 arrays, and the memory-mapped cache that keeps what was decoded."""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import Field

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

# part of every cache name: raise it whenever the same file would decode to other pixels than before
_FORMAT = 1
_FORMATS = ("PNG", "JPEG", "WEBP")
_GREY_MODES = frozenset({"1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N"})
_BLOCK = 256
_LISTED = 20
_STALE_SECONDS = 24 * 3600

Item = TypeVar("Item")
Result = TypeVar("Result")


def is_grey(path: str | os.PathLike[str]) -> bool:
    """Whether the header of an image file says that it has no colour; no pixel is read.

    A palette counts as colour whatever its entries. Raises whatever Pillow raises at an unreadable header.
    """
    with Image.open(path, formats=_FORMATS) as image:
        return image.mode in _GREY_MODES


def decode(path: str | os.PathLike[str], size: int, channels: int) -> np.ndarray:
    """Read an image file as uint8 (size, size, channels): opaque on white, cropped, resized, upright.

    Raises whatever Pillow raises at a file that is corrupt, truncated or no image; `fault` puts it in words.
    """
    with _opened(path) as image:
        # a JPEG decodes fast at 1/2, 1/4 or 1/8 of its size; twice the wanted one leaves the filter its work
        draft = image.draft(image.mode, (2 * size, 2 * size))
        # the last row and column of a draft may be covered in part: its true extent is no whole number
        extent = draft[1][2:] if draft else image.size
        image.load()
        square = _fit(_opaque(image).convert("L" if channels == 1 else "RGB"), size, extent)
        _turn_upright(square)
        return _as_array(square)


def resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """Crop uint8 (H, W, 1 or 3) to its central square and resize it with antialiasing to (size, size, …)."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    return _as_array(_fit(image, size, image.size))


def in_blocks(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[list[Result]]:
    """`function` of each item, in order, some hundred at a time, on threads: Pillow frees the GIL."""
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        for start in range(0, len(items), _BLOCK):
            yield list(pool.map(function, items[start : start + _BLOCK]))


def fault(error: Exception, where: str) -> Problem:
    """What a user is told of a file that `is_grey` or `decode` failed on."""
    mend = "remove it, or replace it by a sound copy"
    if isinstance(error, UnidentifiedImageError):
        return Problem(f"not an image: its content is no {KINDS}", where, mend)
    if isinstance(error, FileNotFoundError):
        return Problem("a link to a file that does not exist, or removed just now", where, mend)
    return Problem(f"cannot be decoded: {error or type(error).__name__}", where, mend)


def all_of(problems: Sequence[Problem], things: str = "files") -> UserError:
    """One error for many problems: the first twenty in full, then a count of the `things` left unnamed."""
    rest = len(problems) - _LISTED
    more = [Problem(f"and {rest} more {things} with problems like these")] if rest > 0 else []
    return UserError(*problems[:_LISTED], *more)


def _opened(path: str | os.PathLike[str]) -> Image.Image:
    image = Image.open(path, formats=_FORMATS)
    if image.format != "PNG":
        return image
    with image:
        # Pillow skips the checksums of pixel data when it decodes: a flipped bit would pass as a picture
        image.verify()
    return Image.open(path, formats=_FORMATS)


def _turn_upright(image: Image.Image) -> None:
    # broken EXIF data beside sound pixels is common, and its parser raises anything: such images stay as is
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)


def _opaque(image: Image.Image) -> Image.Image:
    """An 8-bit image without transparency; what showed through becomes white."""
    if image.mode.startswith("I"):
        grey = np.array(image).astype(np.int64)
        if isinstance(image.info.get("transparency"), int):
            grey[grey == image.info["transparency"]] = 65535
        # Pillow's own conversion clips at 255, which turns a 16-bit picture white
        return Image.fromarray(((grey.clip(0, 65535) + 128) // 257).astype(np.uint8))
    if not image.has_transparency_data:
        return image
    layer = image.convert("LA" if image.mode in _GREY_MODES else "RGBA")
    white = Image.new(layer.mode, layer.size, "white")
    if layer.mode == "RGBA":
        return Image.alpha_composite(white, layer)
    return Image.composite(layer.getchannel(0), white.getchannel(0), layer.getchannel(1))


def _fit(image: Image.Image, size: int, extent: tuple[float, float]) -> Image.Image:
    width, height = extent
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    if side == size:
        return image.crop((int(left), int(top), int(left) + size, int(top) + size))
    # half a pixel matters in a JPEG that was decoded at an eighth, so the exact square is cut by the filter
    image = image.crop((math.floor(left), math.floor(top), math.ceil(left + side), math.ceil(top + side)))
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


def cache_name(kind: str, *parts: object) -> str:
    """A name for the pixels that a `kind` of source makes of `parts`: all they depend on, as plain values."""
    digest = hashlib.sha256(f"{kind} {_FORMAT}".encode())
    for part in parts:
        digest.update(b"\n" + repr(part).encode())
    return f"{kind}-{digest.hexdigest()[:32]}"


def recall(name: str, count: int) -> np.ndarray | None:
    """The stored uint8 (count, H, W, 1 or 3), mapped read-only; None when absent, truncated or different."""
    try:
        kept = np.lib.format.open_memmap(_entry(name), mode="r")
    except (OSError, ValueError):
        return None
    sound = kept.dtype == np.uint8 and kept.ndim == 4 and kept.shape[0] == count and kept.shape[3] in (1, 3)
    return kept if sound else None


def store(name: str, shape: tuple[int, int, int, int], blocks: Iterable[np.ndarray]) -> np.ndarray:
    """Keep uint8 `blocks`, which together have `shape`, and return them mapped read-only.

    They are written beside and renamed when complete, so an interrupted run leaves nothing that `recall`
    would take. What `blocks` raises passes through, and nothing is kept. Raises `UserError` when the folder
    cannot be written.
    """
    with _cache_faults():
        entry = _entry(name)
        entry.parent.mkdir(parents=True, exist_ok=True)
        _sweep(entry.parent)
        handle, written = tempfile.mkstemp(dir=entry.parent, prefix=f"{name}.", suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            # plain writes, not a writable map: on a full disk these raise where a map kills the process
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            with _cache_faults():
                np.lib.format.write_array_header_1_0(file, header)
            for block in blocks:
                with _cache_faults():
                    file.write(np.ascontiguousarray(block).data)
            with _cache_faults():
                file.flush()
                os.fsync(file.fileno())
        with _cache_faults():
            os.replace(written, entry)
            return np.lib.format.open_memmap(entry, mode="r")
    except BaseException:
        Path(written).unlink(missing_ok=True)
        raise


def _entry(name: str) -> Path:
    return cache_folder() / f"{name}.npy"


def _sweep(folder: Path) -> None:
    """Remove what killed runs left half written; a file that is still growing is younger than this."""
    for partial in folder.glob("*.partial"):
        with contextlib.suppress(OSError):
            if time.time() - partial.stat().st_mtime > _STALE_SECONDS:
                partial.unlink()


@contextlib.contextmanager
def _cache_faults() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            Problem(
                f"decoded images cannot be kept here: {error.strerror or error}",
                str(cache_folder()),
                f"make room or make it writable, or set {CACHE_VARIABLE} to another folder",
            )
        ) from error
