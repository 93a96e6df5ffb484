"""A folder of image files."""

from __future__ import annotations

import bisect
import os
import stat
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field

from gantricks.data import cache, captions, images, text
from gantricks.data.base import Dataset, Description, Progress, Source, silent
from gantricks.data.images import ImageSize, PathText
from gantricks.errors import Problem, UserError
from gantricks.options import Options


class Folder(Source):
    """A folder of PNG, JPEG and WebP images of any sizes and modes, searched through all its sub-folders.

    Every image is turned upright (EXIF), laid on white where it is transparent, cropped to its central square and
    resized with antialiasing. 16-bit grey is scaled to 8 bits. Only pixels and their orientation are read: texts and
    colour profiles of any size are skipped. A picture of more than 2²⁸ pixels is refused; a JPEG counts with its
    decoded size, which is at least an eighth of its sides.

    When all images lie in sub-folders, the first-level sub-folders with images are the classes, in the order of their
    names; otherwise there are no classes. Hidden files are ignored. Files of other kinds, and files that a NAS, a
    desktop or an archiver adds (`@eaDir`, `__MACOSX`, `._*` …), are skipped and mentioned. A folder that several links
    lead to is read once.

    The images are decoded once, into `$GANTRICKS_CACHE` (else `$XDG_CACHE_HOME/gantricks`, else `~/.cache/gantricks`),
    and mapped from there by later runs until a file or an option changes. The cache may be deleted at any time. Where
    it cannot be written, the images are held in memory.

    Captions stand in a file `captions.jsonl` in the folder, one a line: {"file": "a/b.png", "caption": "a red bag"}.
    Each picture needs one; it may have several, and is then given the mean of what stands for them. By default words
    and runs of up to three words stand for a caption, hashed to `text_dim` numbers (`gantricks.data.text`). The rows of
    any other encoder, one for each line, can be given as an .npy file, `embeddings`.
    """

    paths = ("path", "embeddings")

    class Config(Options):
        path: Annotated[PathText, Field(description="the folder")]
        image_size: ImageSize = 64
        channels: Annotated[
            Literal["auto", 1, 3],
            Field(description="1 for grey, 3 for colour; auto: grey when every file's header says grey"),
        ] = "auto"
        text_dim: Annotated[int, Field(ge=8, le=4096, description="numbers that stand for a caption")] = 256
        embeddings: Annotated[
            PathText | None, Field(description="an .npy file of what stands for each line of captions.jsonl instead")
        ] = None

    config: Config

    def describe(self) -> Description:
        """List the files and read their headers, but no pixels.

        Raises `UserError` for a path that is not a folder, a folder without images, and every unreadable header.
        """
        listing, size = self._listing(), self.config.image_size
        kept = cache.glance(self._cache_name(listing), len(listing.files))
        if kept is not None:
            channels = kept[3]  # every file was decoded before, so every header is valid
        else:
            channels, problems = self._headers(listing, silent)
            if problems:
                raise images.all_of(problems)
            cache.need_room((len(listing.files), size, size, channels))
        found = self._captions(listing)
        words = found.words if found and not self.config.embeddings else ()
        width = 0 if found is None else self._width(found)
        return Description(
            (channels, size, size), len(listing.files), listing.class_names, listing.notes, condition=width, words=words
        )

    def load(self, progress: Progress = silent) -> Dataset:
        """Decode every image, or map the images that an earlier run decoded.

        Raises `UserError` with every file that cannot be decoded; nothing is stored then.
        """
        listing, notes = self._listing(), tuple[str, ...]()
        name, count, size = self._cache_name(listing), len(listing.files), self.config.image_size
        samples = cache.recall(name, count, progress)
        if samples is None:
            # the decoder meets unreadable headers again, and reports them with all other errors
            channels = self._headers(listing, progress)[0] if self.config.channels == "auto" else self.config.channels
            decoded = partial(_decoded, listing, size, channels, progress)
            samples, notes = cache.store(name, (count, size, size, channels), decoded)
        conditions = None
        if found := self._captions(listing):
            conditions = found.of(listing.names, self._rows(found))
        return Dataset(samples, listing.classes, notes, conditions)

    def embed(self, texts: Sequence[str]) -> np.ndarray | None:
        return None if self.config.embeddings else text.embed(texts, self.config.text_dim)

    def _captions(self, listing: _Listing) -> captions.Captions | None:
        found = captions.read(listing.root, listing.names)
        if found is None and self.config.embeddings:
            what = f"there is no {captions.NAME}, whose lines the embeddings stand for"
            raise UserError(Problem(what, str(listing.root), "write one, or leave data.embeddings out"))
        return found

    def _width(self, found: captions.Captions) -> int:
        return self._given(found).shape[1] if self.config.embeddings else self.config.text_dim

    def _rows(self, found: captions.Captions) -> np.ndarray:
        return self._given(found) if self.config.embeddings else text.embed(found.texts, self.config.text_dim)

    def _given(self, found: captions.Captions) -> np.ndarray:
        assert self.config.embeddings
        hint = f"set data.embeddings to an .npy file with a row for each line of {captions.NAME}"
        return captions.read_embeddings(images.at(self.config.embeddings, folder=False, hint=hint), found)

    def _listing(self) -> _Listing:
        root = images.at(self.config.path, folder=True, hint="set data.path to a folder of images")
        listing = _Listing.of(root)
        if not listing.files:
            found = f"; skipped {listing.others}" if listing.others.count else ""
            what = f"no {images.KINDS} image in this folder or below it{found}"
            raise UserError(Problem(what, str(root), "set data.path to a folder of images, or convert the files"))
        return listing

    def _cache_name(self, listing: _Listing) -> str:
        options = (self.config.image_size, self.config.channels)
        return cache.cache_name("folder", str(listing.root.resolve()), options, *listing.files)

    def _headers(self, listing: _Listing, progress: Progress) -> tuple[int, list[Problem]]:
        """Return the number of channels, from the options and the headers, and the errors in headers."""
        all_grey, problems = True, []
        for done, file in enumerate(listing.files):
            if done % 256 == 0:
                progress("reading headers", done, len(listing.files))
            path = os.path.join(listing.root, file.name)
            try:
                all_grey &= images.is_grey(path)
            except Exception as error:  # Pillow's parsers raise anything at bytes they do not expect
                problems.append(images.problem_of(error, _shown(path)))
        progress("reading headers", len(listing.files), len(listing.files))
        wanted = self.config.channels
        return ((1 if all_grey else 3) if wanted == "auto" else wanted), problems


def _decoded(listing: _Listing, size: int, channels: int, progress: Progress) -> Iterator[np.ndarray]:
    def attempt(file: _File) -> np.ndarray | Problem:
        path = os.path.join(listing.root, file.name)
        try:
            pixels = images.decode(path, size, channels)
            status = os.stat(path)
        except Exception as error:  # Pillow's decoders raise anything at bytes they do not expect
            return images.problem_of(error, _shown(path))
        if (status.st_size, status.st_mtime_ns) != (file.size, file.mtime_ns):
            hint = "start again when nothing writes into the folder any more"
            return Problem("changed while the folder was read", _shown(path), hint)
        return pixels

    problems: list[Problem] = []
    done, total = 0, len(listing.files)
    progress("decoding", 0, total)
    for block in images.in_blocks(attempt, listing.files):
        pictures = [result for result in block if not isinstance(result, Problem)]
        problems += [result for result in block if isinstance(result, Problem)]
        if not problems:
            yield np.stack(pictures)
        done += len(block)
        progress("decoding", done, total)
    if problems:
        raise images.all_of(problems)


class _File(NamedTuple):
    """An image file, by its name relative to the root. Size and time tell whether it has changed."""

    name: str
    size: int
    mtime_ns: int


class _Names:
    """A count of names and the first few of them, as a sentence shows them."""

    def __init__(self, names: Iterable[str] = (), thing: str = "file", few: int = 3) -> None:
        self.count, self._first, self._thing, self._few = 0, list[str](), thing, few
        for name in names:
            self.add(name)

    def add(self, name: str) -> None:
        self.count += 1
        bisect.insort(self._first, name)
        del self._first[self._few :]

    def __str__(self) -> str:
        more = ", …" * (self.count > self._few)
        return f"{self.count:,} {self._thing}{'s' * (self.count != 1)} ({', '.join(map(_shown, self._first))}{more})"


@dataclass(frozen=True)
class _Listing:
    root: Path
    files: list[_File]
    others: _Names
    litter: _Names
    first_level: frozenset[str]
    """The sub-folders that were searched."""

    @classmethod
    def of(cls, root: Path) -> _Listing:
        """List everything below `root`, sorted by name. Raises `UserError` with every folder that cannot be opened."""
        files: list[_File] = []
        others, litter = _Names(), _Names(thing="name")
        closed: list[Problem] = []
        seen: set[tuple[int, int]] = set()
        first_level: set[str] = set()
        # links are followed last, so that a folder is listed under its own path where it has one
        real, links = deque([""]), deque[str]()
        while real or links:
            folder = real.popleft() if real else links.popleft()
            try:
                place = os.stat(root / folder)
                if (place.st_dev, place.st_ino) in seen:
                    continue
                seen.add((place.st_dev, place.st_ino))
                if folder and "/" not in folder:
                    first_level.add(folder)
                with os.scandir(root / folder) as entries:
                    for entry in sorted(entries, key=lambda each: each.name):
                        name = f"{folder}/{entry.name}" if folder else entry.name
                        if _is_litter(entry.name):
                            litter.add(name)
                            continue
                        if entry.name.startswith("."):
                            continue
                        is_image = os.path.splitext(entry.name)[1].lower() in images.SUFFIXES
                        status = _status(entry)
                        if status is None and not entry.is_symlink():
                            continue  # removed since it was listed
                        if status is not None and stat.S_ISDIR(status.st_mode):
                            (links if entry.is_symlink() else real).append(name)
                        elif is_image and status is None:  # a broken link is reported when it is opened
                            files.append(_File(name, -1, 0))
                        elif is_image and status is not None and stat.S_ISREG(status.st_mode):
                            files.append(_File(name, status.st_size, status.st_mtime_ns))
                        elif name != captions.NAME:
                            others.add(name)
            except FileNotFoundError as error:
                if not folder:
                    raise UserError(Problem("removed just now", _shown(root), "set data.path to a folder")) from error
            except OSError as error:
                where = _shown(root / folder)
                hint = "make it readable, or move it away"
                closed.append(Problem(f"cannot be opened: {error.strerror}", where, hint))
        if closed:
            raise images.all_of(closed, "folders")
        return cls(root, sorted(files), others, litter, frozenset(first_level))

    @property
    def names(self) -> list[str]:
        return [file.name for file in self.files]

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, printable: bytes that are not text are escaped."""
        return tuple(map(_shown, self._class_folders))

    @property
    def classes(self) -> np.ndarray | None:
        index = {name: number for number, name in enumerate(self._class_folders)}
        if not index:
            return None
        return np.array([index[_first_level(file.name)] for file in self.files], dtype=np.int64)

    @property
    def notes(self) -> tuple[str, ...]:
        notes = []
        if self.others.count:
            notes.append(f"skipped, because they are not {images.KINDS}: {self.others}")
        if self.litter.count:
            notes.append(f"skipped, because a NAS, a desktop or an archiver adds them: {self.litter}")
        outside = _Names(file.name for file in self.files if "/" not in file.name)
        if 0 < outside.count < len(self.files):
            notes.append(f"no classes: images lie outside the sub-folders: {outside}")
        empty = _Names(self.first_level.difference(self._class_folders), thing="sub-folder")
        if self._class_folders and empty.count:
            notes.append(f"not classes, because they hold no image: {empty}")
        return tuple(notes)

    @cached_property
    def _class_folders(self) -> tuple[str, ...]:
        folders = set()
        for file in self.files:
            if "/" not in file.name:
                return ()
            folders.add(_first_level(file.name))
        return tuple(sorted(folders))


# names in lower case, from Synology, QNAP, Linux desktops, macOS and its archiver, and Windows
_LITTER = frozenset(
    {"@eadir", "#recycle", "#snapshot", "@recycle", ".@__thumb", ".thumbnails", ".appledouble", "__macosx"}
    | {"lost+found", ".trashes", "$recycle.bin", "system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini"}
)


def _is_litter(name: str) -> bool:
    return name.lower() in _LITTER or name.startswith(("._", ".Trash-"))


def _status(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Return the status of an entry's target, or None for a broken link. Raises OSError where the folder forbids
    access.
    """
    try:
        return os.stat(entry.path)
    except OSError as error:
        if isinstance(error, FileNotFoundError) or entry.is_symlink():
            return None
        raise


def _first_level(name: str) -> str:
    return name.split("/", 1)[0]


def _shown(path: str | Path) -> str:
    """Return a printable form of a name. File names may hold bytes that are not text."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
