"""A NumPy archive of images."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Literal

import numpy as np
from pydantic import Field

from gantricks.data import images
from gantricks.data.base import Dataset, Description, Progress, Source, silent
from gantricks.data.images import ImageSize, PathText
from gantricks.errors import Problem, UserError
from gantricks.options import Options

_IN_MEMORY = 64 * 2**20
_MOST_CLASSES = 65_536
_BROKEN = (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError, MemoryError)


class Npz(Source):
    """The images of a NumPy `.npz` archive, with their labels where it has any.

    Two layouts are known: `images` with optional `labels`, and `x_train`, `x_test` with optional `y_train`,
    `y_test`, of which `split` picks one. Images are uint8, or floats within [0, 1], of shape (N, H, W), (N,
    H, W, 1 or 3) or (N, 1 or 3, H, W); where both of the latter fit, the channels are taken to be last.
    Labels are whole numbers from 0, and name the classes. Images keep their stored size, unless `image_size`
    is set: then they are cropped to their central square and resized with antialiasing. Pickled arrays are
    never read.

    With `split = "train"`, an `x_test` is held out: training never sees it, and metrics such as the test error
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
        """Read the arrays' headers and the labels; the images stay unread.

        Raises `UserError` with everything that is wrong with the file, except values of float images. What is wrong
        with a test split that is only held out becomes a note: training does without it.
        """
        with self._opened() as archive:
            layout, labels = self._examined(archive)
        classes = _classes(labels)
        held_out, notes = self._held_out(self._shape(layout), classes)
        return Description(self._shape(layout), layout.count, tuple(map(str, range(classes))), notes, held_out)

    def load(self, progress: Progress = silent) -> Dataset:
        """Read the images and bring them into shape, or map what an earlier run converted.

        Raises `UserError` with everything that is wrong with the file.
        """
        with self._opened() as archive:
            layout, labels = self._examined(archive)
            channels, height, width = self._shape(layout)
            shape = (layout.count, height, width, channels)
            if layout.as_stored and (height, width) == (layout.height, layout.width):
                progress("reading", 0, layout.count)
                samples = layout.channels_last(self._images(archive, layout))
            elif int(np.prod(shape)) <= _IN_MEMORY:
                samples = np.concatenate(list(self._converted(archive, layout, progress)))
            else:
                name = self._cache_name()
                kept = images.recall(name, layout.count)
                if kept is None:
                    kept = images.store(name, shape, self._converted(archive, layout, progress))
                samples = kept
        return Dataset(samples, labels)

    def held_out(self, progress: Progress = silent) -> Dataset | None:
        """The test split, where training has the other one."""
        return self._test_split().load(progress) if self.describe().held_out else None

    def _held_out(self, shape: tuple[int, ...], classes: int) -> tuple[int, tuple[str, ...]]:
        """How many images of these classes are held out, and why an `x_test` that is there is not."""
        with self._opened() as archive:
            if self.config.split == "test" or "x_test.npy" not in archive.namelist():
                return 0, ()
            try:
                layout, labels = self._test_split()._examined(archive)
            except UserError as fault:
                return 0, tuple(f"x_test is left aside: {problem.what}" for problem in fault.problems)
        faults = []
        if self._shape(layout) != shape:
            faults.append(f"its images have the shape {self._shape(layout)}, those for training {shape}")
        if classes and labels is None:
            faults.append("it has no labels, y_test")
        elif classes and _classes(labels) > classes:
            faults.append(f"it has the class {_classes(labels) - 1}, which those for training have not")
        return (0 if faults else layout.count), tuple(f"x_test is left aside: {fault}" for fault in faults)

    def _test_split(self) -> Npz:
        return Npz(self.config.model_copy(update={"split": "test"}))

    def _opened(self) -> zipfile.ZipFile:
        path = self._path
        if not path.is_file():
            what = "not a file" if path.exists() else "no such file"
            raise UserError(Problem(what, str(path), "set data.path to an .npz file"))
        try:
            return zipfile.ZipFile(path)
        except _BROKEN as error:
            mend = "write one with numpy.savez(path, images=..., labels=...)"
            raise UserError(Problem(f"not an .npz archive: {error}", str(path), mend)) from error

    def _examined(self, archive: zipfile.ZipFile) -> tuple[_Layout, np.ndarray | None]:
        """The layout of the images, and the labels as int64 (N,)."""
        found = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        split = self.config.split
        images_name, labels_name = f"x_{split}", f"y_{split}"
        if images_name not in found and split == "train" and "images" in found:
            images_name, labels_name = "images", "labels"
        if images_name not in found:
            wanted = f"neither images nor {images_name}" if split == "train" else f"no {images_name}"
            names = ", ".join(found[:20]) or "none"
            other = {"train": "x_test", "test": "x_train"}[split]
            mend = "name the array of images so when saving: numpy.savez(path, images=..., labels=...)"
            if other in found or (split == "test" and "images" in found):
                mend = f'or set data.split to "{"test" if split == "train" else "train"}"; {mend}'
            raise UserError(Problem(f"{wanted} in this archive; the arrays found: {names}", str(self._path), mend))
        problems: list[Problem] = []
        layout = self._layout(archive, images_name, problems)
        labels = None
        if labels_name in found:
            labels = self._labels(archive, labels_name, layout.count if layout else None, problems)
        if layout is None or problems:
            raise UserError(*problems)
        return layout, labels

    def _layout(self, archive: zipfile.ZipFile, name: str, problems: list[Problem]) -> _Layout | None:
        where = f"{self._path}, array {name}"
        try:
            shape, dtype = _header(archive, name)
        except _BROKEN as error:
            problems.append(Problem(f"cannot be read: {error}", where, "write the file again"))
            return None
        before = len(problems)
        if dtype.hasobject:
            mend = "save numbers: numpy.stack the images into one uint8 array"
            problems.append(Problem("holds Python objects, which are never read", where, mend))
        elif dtype != np.uint8 and dtype.kind != "f":
            mend = f"save {name}.astype(numpy.uint8), with values from 0 to 255"
            problems.append(Problem(f"images are uint8 or floats, not {dtype}", where, mend))
        axes = _axes(shape)
        if axes is None:
            mend = "shape it (N, H, W), (N, H, W, 1 or 3) or (N, 1 or 3, H, W)"
            problems.append(Problem(f"images cannot have the shape {shape}", where, mend))
        elif 0 in shape:
            problems.append(Problem(f"no image in an array of shape {shape}", where, "save at least one"))
        if axes is None or len(problems) > before:
            return None
        channel, row, column = axes
        channels = 1 if channel is None else shape[channel]
        return _Layout(name, dtype, shape[0], channels, shape[row], shape[column], channel)

    def _labels(
        self, archive: zipfile.ZipFile, name: str, count: int | None, problems: list[Problem]
    ) -> np.ndarray | None:
        where = f"{self._path}, array {name}"
        try:
            shape, dtype = _header(archive, name)
            if dtype.kind not in "iu":
                found = "Python objects, which are never read" if dtype.hasobject else str(dtype)
                mend = f"save {name}.astype(numpy.int64), with classes numbered from 0"
                problems.append(Problem(f"labels are whole numbers, not {found}", where, mend))
                return None
            if shape[1:] not in ((), (1,)) or not shape:
                mend = "save one label per image, shape (N,)"
                problems.append(Problem(f"labels cannot have the shape {shape}", where, mend))
                return None
            if count is not None and shape[0] != count:
                mend = "save one label per image, or leave the labels out"
                problems.append(Problem(f"{shape[0]} labels for {count} images", where, mend))
                return None
            labels = _array(archive, name).reshape(-1)
        except _BROKEN as error:
            problems.append(Problem(f"cannot be read: {error}", where, "write the file again"))
            return None
        if labels.size == 0:
            return None
        low, high = int(labels.min()), int(labels.max())
        if low < 0:
            problems.append(Problem(f"a label is negative: {low}", where, "number the classes from 0"))
        if high >= _MOST_CLASSES:
            mend = f"number the classes 0, 1, 2, …; at most {_MOST_CLASSES}"
            problems.append(Problem(f"a label is {high}, which is no class number", where, mend))
        return labels.astype(np.int64)

    def _images(self, archive: zipfile.ZipFile, layout: _Layout) -> np.ndarray:
        where = f"{self._path}, array {layout.name}"
        try:
            stored = _array(archive, layout.name)
        except _BROKEN as error:
            raise UserError(Problem(f"cannot be read: {error}", where, "write the file again")) from error
        if layout.dtype.kind == "f":
            low, high = float(stored.min()), float(stored.max())
            if not (low >= 0 and high <= 1):  # NaN fails both
                mend = f"scale them to [0, 1], or save {_as_uint8(layout.name, low, high)}"
                raise UserError(Problem(f"float images must lie in [0, 1]; these go from {low} to {high}", where, mend))
        return stored

    def _converted(self, archive: zipfile.ZipFile, layout: _Layout, progress: Progress) -> Iterator[np.ndarray]:
        progress("reading", 0, layout.count)
        stored = layout.channels_last(self._images(archive, layout))
        size = self.config.image_size

        def convert(picture: np.ndarray) -> np.ndarray:
            if layout.dtype.kind == "f":
                picture = np.rint(picture.astype(np.float64) * 255).astype(np.uint8)
            return picture if size is None else images.resize(picture, size)

        done = 0
        for block in images.in_blocks(convert, list(stored)):
            yield np.stack(block)
            done += len(block)
            progress("converting", done, layout.count)

    def _shape(self, layout: _Layout) -> tuple[int, int, int]:
        size = self.config.image_size
        return (layout.channels, size or layout.height, size or layout.width)

    def _cache_name(self) -> str:
        path, status = self._path.resolve(), self._path.stat()
        options = (self.config.image_size, self.config.split)
        return images.cache_name("npz", str(path), options, status.st_size, status.st_mtime_ns)

    @property
    def _path(self) -> Path:
        return Path(self.config.path).expanduser()


@dataclass(frozen=True)
class _Layout:
    """How the images lie in their array; `channel` is the axis of the channels, None when there is none."""

    name: str
    dtype: np.dtype
    count: int
    channels: int
    height: int
    width: int
    channel: int | None

    @property
    def as_stored(self) -> bool:
        """Whether a view of the stored array is what training reads."""
        return self.dtype == np.uint8 and self.channel != 1

    def channels_last(self, stored: np.ndarray) -> np.ndarray:
        return stored[..., None] if self.channel is None else np.moveaxis(stored, self.channel, -1)


def _classes(labels: np.ndarray | None) -> int:
    return 0 if labels is None else int(labels.max()) + 1


def _axes(shape: tuple[int, ...]) -> tuple[int | None, int, int] | None:
    """The axes of channels, rows and columns."""
    if len(shape) == 3:
        return None, 1, 2
    if len(shape) == 4 and shape[3] in (1, 3):
        return 3, 1, 2
    if len(shape) == 4 and shape[1] in (1, 3):
        return 1, 2, 3
    return None


def _header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of an array, from its first bytes."""
    with archive.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, _, dtype = np.lib.format.read_array_header_2_0(file)
        else:
            raise ValueError(f"unknown version {version} of the .npy format")
    return shape, dtype


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    file: IO[bytes]
    with archive.open(f"{name}.npy") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _as_uint8(name: str, low: float, high: float) -> str:
    """The expression that most likely makes bytes of floats within [low, high]."""
    if low >= -1 and high <= 1:
        return f"(({name} + 1) * 127.5).round().astype(numpy.uint8)"
    return f"numpy.nan_to_num({name}).round().clip(0, 255).astype(numpy.uint8)"
