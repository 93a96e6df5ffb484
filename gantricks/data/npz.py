"""A NumPy archive of images."""

from __future__ import annotations

import contextlib
import math
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Annotated, Literal

import numpy as np
from pydantic import Field

from gantricks.data import advice, cache, images
from gantricks.data.base import Dataset, Description, Progress, Source, silent
from gantricks.data.images import ImageSize, PathText
from gantricks.errors import Problem, UserError
from gantricks.options import Options

_IN_MEMORY = 64 * 2**20
_last: dict[str, np.ndarray] = {}
"""The images that were converted last, by their name in the cache, the newest at the end: a process of many runs
converts them once.
"""
_REMEMBERED = 2
"""The number of sets of images that a process keeps: those of training, and those that are held out."""
_MOST_CLASSES = 65_536
_PART = 2**22
_AGAIN = "write the file again"


class Npz(Source):
    """The images of a NumPy `.npz` archive, with their labels where it has any.

    Two layouts are known: `images` with optional `labels`, and `x_train`, `x_test` with optional `y_train`,
    `y_test`, of which `split` picks one. Images are uint8, or floats within [0, 1], of shape (N, H, W), (N,
    H, W, 1 or 3) or (N, 1 or 3, H, W); where both of the latter fit, the channels are taken to be last.
    Labels are whole numbers from 0, and name the classes. Images keep their stored size, unless `image_size`
    is set: then they are cropped to their central square and resized with antialiasing. Pickled arrays are
    never read.

    With `split = "train"`, an `x_test` is held out: training never sees it, and metrics such as the held-out error
    do.

    Images that had to be converted or resized to more than 64 MiB are kept, as those of `folder` are, in
    `$GANTRICKS_CACHE` (else `$XDG_CACHE_HOME/gantricks`, else `~/.cache/gantricks`).
    """

    paths = ("path",)

    class Config(Options):
        path: Annotated[PathText, Field(description="the .npz file")]
        image_size: ImageSize | None = None
        split: Annotated[
            Literal["train", "test"],
            Field(description="which of x_train and x_test; `images` counts as train"),
        ] = "train"

    config: Config

    def describe(self) -> Description:
        """Read the arrays' headers and the labels, but no images.

        Raises `UserError` with everything that is wrong with the file, except values of more than 64 MiB of float
        images. An error in a test split that is only held out becomes a note, since training does not need it.
        """
        with self._opened() as archive:
            layout, labels = self._examined(archive, floats=True)
        shape, classes = self._shape(layout), _classes(labels)
        held_out, notes = self._held_out(shape, classes)
        if not self._as_stored(layout) and layout.count * math.prod(shape) > _IN_MEMORY:
            channels, height, width = shape
            cache.need_room((layout.count, height, width, channels))
        notes = (*_gaps(labels, layout.labels), *notes)
        return Description(shape, layout.count, tuple(map(str, range(classes))), notes, held_out)

    def load(self, progress: Progress = silent) -> Dataset:
        """Read and convert the images, or map the images that an earlier run converted.

        Raises `UserError` with everything that is wrong with the file.
        """
        notes: tuple[str, ...] = ()
        with self._opened() as archive:
            layout, labels = self._examined(archive)
            channels, height, width = self._shape(layout)
            shape = (layout.count, height, width, channels)
            if self._as_stored(layout):
                progress("reading", 0, layout.count)
                samples = layout.channels_last(self._images(archive, layout))
            elif math.prod(shape) <= _IN_MEMORY:
                samples = self._remembered(archive, layout, progress)
            else:
                name = self._cache_name()
                kept = cache.recall(name, layout.count, progress)
                if kept is None:
                    kept, notes = cache.store(name, shape, partial(self._converted, archive, layout, progress))
                samples = kept
        return Dataset(samples, labels, notes)

    def held_out(self, progress: Progress = silent) -> Dataset | None:
        """Return the test split, where training uses the other one."""
        return self._test_split().load(progress) if self.describe().held_out else None

    def _held_out(self, shape: tuple[int, ...], classes: int) -> tuple[int, tuple[str, ...]]:
        """Return the number of held-out images that fit these classes, and a note on an `x_test` that does not."""
        with self._opened() as archive:
            if self.config.split == "test" or "x_test.npy" not in archive.namelist():
                return 0, ()
            try:
                layout, labels = self._test_split()._examined(archive, floats=True)
            except UserError as error:
                return 0, tuple(f"x_test is left aside: {problem.what}" for problem in error.problems)
        errors = []
        if self._shape(layout) != shape:
            errors.append(f"its images have the shape {self._shape(layout)}, those for training {shape}")
        if classes and labels is None:
            errors.append("it has no labels, y_test")
        elif classes and _classes(labels) > classes:
            errors.append(f"it has the class {_classes(labels) - 1}, which the images for training do not have")
        return (0 if errors else layout.count), tuple(f"x_test is left aside: {error}" for error in errors)

    def _test_split(self) -> Npz:
        return Npz(self.config.model_copy(update={"split": "test"}))

    def _opened(self) -> zipfile.ZipFile:
        hint = "write one with numpy.savez(path, images=..., labels=...)"
        path = images.at(self.config.path, folder=False, hint="set data.path to an .npz file")
        try:
            return zipfile.ZipFile(path)
        except Exception as error:  # a damaged directory of members may raise anything
            what = f"not an .npz archive: {_said(error)}"
            with contextlib.suppress(OSError), path.open("rb") as file:
                if file.read(6) == np.lib.format.MAGIC_PREFIX:
                    what = "not an .npz archive but a single array"
                    hint = "save it with numpy.savez(path, images=numpy.load(this file))"
            raise UserError(Problem(what, str(path), hint)) from error

    def _examined(self, archive: zipfile.ZipFile, *, floats: bool = False) -> tuple[_Layout, np.ndarray | None]:
        """Return the layout of the images, and the labels as int64 (N,). With `floats`, the values of a small float
        array are checked too.
        """
        found = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        split = self.config.split
        images_name, labels_name = f"x_{split}", f"y_{split}"
        if images_name not in found and split == "train" and "images" in found:
            images_name, labels_name = "images", "labels"
        if images_name not in found:
            wanted = f"neither images nor {images_name}" if split == "train" else f"no {images_name}"
            names = ", ".join(each[:60] for each in found[:20]) or "none"
            other = {"train": "x_test", "test": "x_train"}[split]
            hint = "name the array of images so when saving: numpy.savez(path, images=..., labels=...)"
            if other in found or (split == "test" and "images" in found):
                hint = f'or set data.split to "{"test" if split == "train" else "train"}"; {hint}'
            raise UserError(Problem(f"{wanted} in this archive; the arrays found: {names}", str(self._path), hint))
        problems: list[Problem] = []
        layout = _layout(archive, images_name, self._path, problems)
        labels = None
        if labels_name in found:
            labels = _labels(archive, labels_name, self._path, layout.count if layout else None, problems)
        if layout is None or problems:
            raise UserError(*problems)
        if floats and layout.dtype.kind == "f" and layout.bytes <= _IN_MEMORY:
            try:
                values = _values(archive, layout.name, layout.dtype)
            except Exception as error:  # NumPy's and zipfile's parsers raise anything at bytes they do not expect
                where = f"{self._path}, array {layout.name}"
                raise UserError(Problem(f"cannot be read: {_said(error)}", where, _AGAIN)) from error
            self._check_floats(layout, values)
        return layout, labels

    def _images(self, archive: zipfile.ZipFile, layout: _Layout) -> np.ndarray:
        try:
            stored = _array(archive, layout.name)
        except Exception as error:  # NumPy's and zipfile's parsers raise anything at bytes they do not expect
            where = f"{self._path}, array {layout.name}"
            raise UserError(Problem(f"cannot be read: {_said(error)}", where, _AGAIN)) from error
        if layout.dtype.kind == "f":
            self._check_floats(layout, advice.Values.of(stored[i : i + 256] for i in range(0, len(stored), 256)))
        return stored

    def _check_floats(self, layout: _Layout, values: advice.Values) -> None:
        if not values.within_0_to_1:
            where = f"{self._path}, array {layout.name}"
            hint = advice.for_images(layout.name, layout.dtype, values)
            raise UserError(Problem(f"float images must lie in [0, 1]; {values}", where, hint))

    def _as_stored(self, layout: _Layout) -> bool:
        """Return whether training can read a view of the stored array."""
        unscaled = self._shape(layout)[1:] == (layout.height, layout.width)
        return unscaled and layout.dtype == np.uint8 and layout.channel != 1

    def _converted(self, archive: zipfile.ZipFile, layout: _Layout, progress: Progress) -> Iterator[np.ndarray]:
        progress("reading", 0, layout.count)
        stored = layout.channels_last(self._images(archive, layout))
        size = self.config.image_size

        def convert(picture: np.ndarray) -> np.ndarray:
            if layout.dtype.kind == "f":
                picture = np.rint(picture.astype(np.float64) * 255).astype(np.uint8)
            return picture if size is None else images.resize(picture, size)

        done = 0
        for block in images.in_blocks(convert, stored):
            yield np.stack(block)
            done += len(block)
            progress("converting", done, layout.count)

    def _remembered(self, archive: zipfile.ZipFile, layout: _Layout, progress: Progress) -> np.ndarray:
        """Return the converted images (N, H, W, C), read-only: those of an earlier call where they are the same."""
        name = self._cache_name()
        if name not in _last:
            samples = np.concatenate(list(self._converted(archive, layout, progress)))
            samples.flags.writeable = False
            _last[name] = samples
        _last[name] = _last.pop(name)
        while len(_last) > _REMEMBERED:
            del _last[next(iter(_last))]
        return _last[name]

    def _shape(self, layout: _Layout) -> tuple[int, int, int]:
        size = self.config.image_size
        return (layout.channels, size or layout.height, size or layout.width)

    def _cache_name(self) -> str:
        path, status = self._path.resolve(), self._path.stat()
        options = (self.config.image_size, self.config.split)
        return cache.cache_name("npz", str(path), options, status.st_size, status.st_mtime_ns)

    @property
    def _path(self) -> Path:
        return Path(self.config.path).expanduser()


@dataclass(frozen=True)
class _Layout:
    """The layout of the images in their array. `channel` is the axis of the channels, or None."""

    name: str
    labels: str
    dtype: np.dtype
    count: int
    channels: int
    height: int
    width: int
    channel: int | None

    @property
    def bytes(self) -> int:
        return self.count * self.channels * self.height * self.width * self.dtype.itemsize

    def channels_last(self, stored: np.ndarray) -> np.ndarray:
        return stored[..., None] if self.channel is None else np.moveaxis(stored, self.channel, -1)


def _layout(archive: zipfile.ZipFile, name: str, path: Path, problems: list[Problem]) -> _Layout | None:
    """Return the layout of the images in an array, or None where they cannot be read; `problems` gets the reasons."""
    where = f"{path}, array {name}"
    try:
        shape, dtype = _header(archive, name)
    except Exception as error:  # NumPy's and zipfile's parsers raise anything at bytes they do not expect
        problems.append(Problem(f"cannot be read: {_said(error)}", where, _AGAIN))
        return None
    before = len(problems)
    axes = _axes(shape)
    size, free = math.prod(shape) * dtype.itemsize, cache.available_memory()
    if dtype.hasobject:
        hint = f"save numpy.stack({name}); pictures of several sizes go in a folder, as PNG files"
        problems.append(Problem("holds Python objects, which are never read", where, hint))
    elif free is not None and size > free:
        what = f"{size / 2**30:,.1f} GiB of images do not fit in the memory, {free / 2**30:,.1f} GiB"
        problems.append(Problem(what, where, "save them smaller, or as pictures in a folder"))
    elif dtype != np.uint8 and dtype.kind != "f" and 0 not in shape:
        what, hint = f"images are uint8 or floats, not {dtype}", "save numbers: uint8, or floats within [0, 1]"
        if dtype.kind in "biuc":
            try:
                said, hint = _numbers(archive, name, dtype)
                what += f"; {said}"
            except Exception as error:  # as above
                what, hint = f"cannot be read: {_said(error)}", _AGAIN
        problems.append(Problem(what, where, hint))
    if axes is None:
        hint = "shape it (N, H, W), (N, H, W, 1 or 3) or (N, 1 or 3, H, W)"
        if len(shape) == 4 and shape[3] in (2, 4):
            hint = f"{hint}; an alpha channel is not read: lay the images on white first"
        problems.append(Problem(f"images cannot have the shape {shape}", where, hint))
    elif 0 in shape:
        problems.append(Problem(f"no image in an array of shape {shape}", where, "save at least one"))
    if axes is None or len(problems) > before:
        return None
    channel, row, column = axes
    channels = 1 if channel is None else shape[channel]
    labels = "labels" if name == "images" else f"y_{name.removeprefix('x_')}"
    return _Layout(name, labels, dtype, shape[0], channels, shape[row], shape[column], channel)


def _numbers(archive: zipfile.ZipFile, name: str, dtype: np.dtype) -> tuple[str, str]:
    """Describe the values of an array of an unsupported type, and return a hint on what to save instead."""
    if dtype.kind != "c":
        values = _values(archive, name, dtype)
        return str(values), advice.for_images(name, dtype, values)
    real = not any(part.imag.any() for part in _parts(archive, name, dtype))
    source = f"{name}.real" if real else f"numpy.abs({name})"
    parts = (part.real if real else np.abs(part) for part in _parts(archive, name, dtype))
    values = advice.Values.of(parts)
    said = f"their {'real parts' if real else 'magnitudes'}: {values}"
    return said, advice.for_images(source, np.dtype(np.float64), values)


def _values(archive: zipfile.ZipFile, name: str, dtype: np.dtype) -> advice.Values:
    return advice.Values.of(_parts(archive, name, dtype))


def _labels(
    archive: zipfile.ZipFile, name: str, path: Path, count: int | None, problems: list[Problem]
) -> np.ndarray | None:
    """Return the labels of `count` images as int64 (N,); None where there are none, or they are wrong; `problems` gets
    the reasons.
    """
    where = f"{path}, array {name}"
    try:
        shape, dtype = _header(archive, name)
        if dtype.hasobject:
            what = "labels are whole numbers, not Python objects, which are never read"
            names = f"numpy.unique({name}.astype(str), return_inverse=True)[1]"
            hint = f"save {name}.astype(numpy.int64); where they are names, {names}"
            problems.append(Problem(what, where, hint))
            return None
        if shape[1:] not in ((), (1,)) or not shape:
            hint = "save one label per image, shape (N,)"
            if len(shape) == 2 and shape[0] == 1 and shape[1] == count:
                hint = f"save {name}.reshape(-1)"
            elif len(shape) == 2 and math.prod(shape) * dtype.itemsize <= _IN_MEMORY:
                hint = advice.for_rows_of_labels(name, _array(archive, name))
            problems.append(Problem(f"labels cannot have the shape {shape}", where, hint))
            return None
        if count is not None and shape[0] != count:
            hint = "save one label per image, or leave the labels out"
            problems.append(Problem(f"{shape[0]} labels for {count} images", where, hint))
            return None
        free = cache.available_memory()
        if free is not None and math.prod(shape) * dtype.itemsize > free:
            problems.append(Problem("the labels do not fit in the memory", where, f"save {name} as numpy.int64"))
            return None
        labels = _array(archive, name).reshape(-1)
    except Exception as error:  # NumPy's and zipfile's parsers raise anything at bytes they do not expect
        problems.append(Problem(f"cannot be read: {_said(error)}", where, _AGAIN))
        return None
    if labels.size == 0:
        return None
    if dtype.kind in "biufUSMm":
        if dtype.kind in "iu" and labels.min() >= 0 and labels.max() < _MOST_CLASSES:
            return labels.astype(np.int64)
        what, hint = advice.for_labels(name if len(shape) == 1 else f"{name}.reshape(-1)", labels)
    else:
        what, hint = f"labels are whole numbers, not {dtype}", "number the classes from 0, or leave the labels out"
    problems.append(Problem(what, where, hint))
    return None


def _classes(labels: np.ndarray | None) -> int:
    return 0 if labels is None else int(labels.max()) + 1


def _axes(shape: tuple[int, ...]) -> tuple[int | None, int, int] | None:
    """Return the axes of channels, rows and columns."""
    if len(shape) == 3:
        return None, 1, 2
    if len(shape) == 4 and shape[3] in (1, 3):
        return 3, 1, 2
    if len(shape) == 4 and shape[1] in (1, 3):
        return 1, 2, 3
    return None


def _gaps(labels: np.ndarray | None, name: str) -> tuple[str, ...]:
    """Return a note about class numbers that no image has."""
    if labels is None:
        return ()
    missing = np.flatnonzero(np.bincount(labels) == 0)
    if not len(missing):
        return ()
    few = ", ".join(map(str, missing[:3])) + ", …" * (len(missing) > 3)
    what = f"no image of {len(missing):,} of the {_classes(labels):,} classes ({few}), of which nothing can be learnt"
    return (f"{what}; to number the classes without gaps, save numpy.unique({name}, return_inverse=True)[1]",)


def _header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Return shape and dtype of an array, from its first bytes.

    Raises ValueError where they do not match the size of the array's file, so that nothing is allocated for a wrong
    header.
    """
    with archive.open(f"{name}.npy") as file:
        shape, dtype = _read_header(file)
        held = archive.getinfo(f"{name}.npy").file_size - file.tell()
    if not dtype.hasobject and (min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != held):
        raise ValueError(f"its header gives the shape {shape} and {dtype}, which does not fit its {held:,} bytes")
    return shape, dtype


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        version = np.lib.format.read_magic(file)
        if version in read:
            with _quietly():
                shape, _, dtype = read[version](file)
            return shape, dtype
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:  # NumPy's message is about its parser
        raise ValueError("its header is damaged") from error
    raise ValueError(f"its format, version {version[0]}.{version[1]} of .npy, is unknown")


def _parts(archive: zipfile.ZipFile, name: str, dtype: np.dtype) -> Iterator[np.ndarray]:
    """Yield the numbers of an array in stored order, in parts."""
    with archive.open(f"{name}.npy") as file:
        _read_header(file)
        while part := file.read(_PART - _PART % dtype.itemsize):
            yield np.frombuffer(part, dtype)


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with _quietly(), archive.open(f"{name}.npy") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Hide NumPy's warning about a header that Python 2 wrote, which is read correctly."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
