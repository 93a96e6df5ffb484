"""A folder of image files."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field

from gantricks.data import images
from gantricks.data.base import Dataset, Description, Progress, Source, silent
from gantricks.data.images import ImageSize, PathText
from gantricks.errors import Problem, UserError
from gantricks.options import Options


class Folder(Source):
    """A folder of PNG, JPEG and WebP images of any sizes and modes, searched through all its sub-folders.

    Every image is turned upright (EXIF), laid on white where it is transparent, cropped to its central square
    and resized with antialiasing. 16-bit grey is scaled to 8 bits. When all images lie in sub-folders, the
    first-level sub-folders that hold any are the classes, in the order of their names; otherwise there are no
    classes. Hidden files are ignored, files of other kinds passed over and mentioned. A folder that several
    links lead to is read once.

    The images are decoded once, into `$GANTRICKS_CACHE` (else `$XDG_CACHE_HOME/gantricks`, else
    `~/.cache/gantricks`), and mapped from there by later runs until a file or an option changes. The cache
    may be deleted at any time.
    """

    paths = ("path",)

    class Config(Options):
        path: Annotated[PathText, Field(description="the folder")]
        image_size: ImageSize = 64
        channels: Annotated[
            Literal["auto", 1, 3],
            Field(description="1 for grey, 3 for colour; auto: grey when every file's header says grey"),
        ] = "auto"

    config: Config

    def describe(self) -> Description:
        """List the files and open their headers; pixels stay unread.

        Raises `UserError` for a path that is no folder, a folder without images, and every unreadable header.
        """
        listing = self._listing()
        kept = images.recall(self._cache_name(listing), len(listing.files))
        if kept is not None:
            channels = kept.shape[3]  # every file was decoded once, so every header is sound
        else:
            channels, problems = self._headers(listing, silent)
            if problems:
                raise images.all_of(problems)
        size = self.config.image_size
        return Description((channels, size, size), len(listing.files), listing.class_names, listing.notes)

    def load(self, progress: Progress = silent) -> Dataset:
        """Decode every image, or map what an earlier run decoded.

        Raises `UserError` with every file that cannot be decoded, and keeps nothing then.
        """
        listing = self._listing()
        name, count, size = self._cache_name(listing), len(listing.files), self.config.image_size
        samples = images.recall(name, count)
        if samples is None:
            # unreadable headers are met again by the decoder, which reports them with all the others
            channels = self._headers(listing, progress)[0] if self.config.channels == "auto" else self.config.channels
            decoded = _decoded(listing, size, channels, progress)
            samples = images.store(name, (count, size, size, channels), decoded)
        return Dataset(samples, listing.classes)

    def _listing(self) -> _Listing:
        root = Path(self.config.path).expanduser()
        if not root.is_dir():
            what = "not a folder" if root.exists() else "no such folder"
            raise UserError(Problem(what, str(root), "set data.path to a folder of images"))
        listing = _Listing.of(root)
        if not listing.files:
            found = f"; passed over {_some(listing.others)}" if listing.others else ""
            what = f"no {images.KINDS} image in this folder or below it{found}"
            raise UserError(Problem(what, str(root), "set data.path to a folder of images, or convert the files"))
        return listing

    def _cache_name(self, listing: _Listing) -> str:
        options = (self.config.image_size, self.config.channels)
        return images.cache_name("folder", str(listing.root.resolve()), options, *(tuple(f) for f in listing.files))

    def _headers(self, listing: _Listing, progress: Progress) -> tuple[int, list[Problem]]:
        """The number of channels that the options and the headers lead to, and the headers' faults."""
        all_grey, problems = True, []
        for done, path in enumerate(listing.image_paths):
            if done % 256 == 0:
                progress("reading headers", done, len(listing.files))
            try:
                all_grey &= images.is_grey(path)
            except Exception as error:  # Pillow's parsers raise anything at bytes they do not expect
                problems.append(images.fault(error, _shown(path)))
        progress("reading headers", len(listing.files), len(listing.files))
        wanted = self.config.channels
        return ((1 if all_grey else 3) if wanted == "auto" else wanted), problems


def _decoded(listing: _Listing, size: int, channels: int, progress: Progress) -> Iterator[np.ndarray]:
    def attempt(path: str) -> np.ndarray | Problem:
        try:
            return images.decode(path, size, channels)
        except Exception as error:  # Pillow's decoders raise anything at bytes they do not expect
            return images.fault(error, _shown(path))

    problems: list[Problem] = []
    done, total = 0, len(listing.files)
    progress("decoding", 0, total)
    for block in images.in_blocks(attempt, listing.image_paths):
        pictures = [result for result in block if not isinstance(result, Problem)]
        problems += [result for result in block if isinstance(result, Problem)]
        if not problems:
            yield np.stack(pictures)
        done += len(block)
        progress("decoding", done, total)
    if problems:
        raise images.all_of(problems)


class _File(NamedTuple):
    """An image file below the root, by its relative name; size and time tell whether it has changed."""

    name: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class _Listing:
    root: Path
    files: list[_File]
    others: list[str]

    @classmethod
    def of(cls, root: Path) -> _Listing:
        """Everything below `root`, sorted by name. Raises `UserError` with every folder that stays closed."""
        files: list[_File] = []
        others: list[str] = []
        closed: list[Problem] = []
        seen: set[tuple[int, int]] = set()
        # links wait until every real folder was read, so that a folder goes by its own name where it has one
        real, links = deque([""]), deque[str]()
        while real or links:
            folder = real.popleft() if real else links.popleft()
            try:
                place = os.stat(root / folder)
                if (place.st_dev, place.st_ino) in seen:
                    continue
                seen.add((place.st_dev, place.st_ino))
                entries = sorted(os.scandir(root / folder), key=lambda entry: entry.name)
            except OSError as error:
                where = _shown(root / folder)
                closed.append(
                    Problem(f"cannot be opened: {error.strerror}", where, "make it readable, or move it away")
                )
                continue
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                name = f"{folder}/{entry.name}" if folder else entry.name
                try:
                    status = os.stat(entry.path)
                except OSError:
                    status = None  # a link to nowhere: listed all the same, and reported when it is opened
                is_image = os.path.splitext(entry.name)[1].lower() in images.SUFFIXES
                if status is not None and stat.S_ISDIR(status.st_mode):
                    (links if entry.is_symlink() else real).append(name)
                elif is_image and status is None:
                    files.append(_File(name, -1, 0))
                elif is_image and status is not None and stat.S_ISREG(status.st_mode):
                    files.append(_File(name, status.st_size, status.st_mtime_ns))
                else:
                    others.append(name)
        if closed:
            raise images.all_of(closed, "folders")
        return cls(root, sorted(files), sorted(others))

    @property
    def image_paths(self) -> list[str]:
        return [os.path.join(self.root, file.name) for file in self.files]

    @property
    def class_names(self) -> tuple[str, ...]:
        if self._outside:
            return ()
        return tuple(sorted({_first_level(file.name) for file in self.files}))

    @property
    def classes(self) -> np.ndarray | None:
        index = {name: number for number, name in enumerate(self.class_names)}
        if not index:
            return None
        return np.array([index[_first_level(file.name)] for file in self.files], dtype=np.int64)

    @property
    def notes(self) -> tuple[str, ...]:
        notes = []
        if self.others:
            notes.append(f"passed over, being no {images.KINDS}: {_some(self.others)}")
        if 0 < len(self._outside) < len(self.files):
            notes.append(f"no classes: images lie outside the sub-folders: {_some(self._outside)}")
        return tuple(notes)

    @property
    def _outside(self) -> list[str]:
        return [file.name for file in self.files if "/" not in file.name]


def _first_level(name: str) -> str:
    return name.split("/", 1)[0]


def _some(names: Sequence[str], few: int = 3) -> str:
    count = f"{len(names)} file{'s' * (len(names) != 1)}"
    return f"{count} ({', '.join(map(_shown, names[:few]))}{', …' * (len(names) > few)})"


def _shown(path: str | Path) -> str:
    """A name fit for printing: file systems hold bytes that no terminal can show."""
    return os.fsencode(path).decode("utf-8", "replace")
