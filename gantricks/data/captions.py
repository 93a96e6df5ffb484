"""Captions beside the pictures of a folder: one JSON object a line, {"file": "a/b.png", "caption": "a red bag"}."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gantricks.data import images, text
from gantricks.errors import Problem, UserError, legible

NAME = "captions.jsonl"
_FORM = 'write a line such as {"file": "a/b.png", "caption": "a red bag"}'


@dataclass(frozen=True)
class Captions:
    """The captions of a folder. `files` and `texts` have one entry a line; a file may have several."""

    path: Path
    files: tuple[str, ...]
    texts: tuple[str, ...]

    @property
    def words(self) -> tuple[str, ...]:
        return text.vocabulary(self.texts)

    def of(self, pictures: Sequence[str], rows: np.ndarray) -> np.ndarray:
        """Return a row for each of these pictures: the mean of the `rows` (lines, E) of its captions."""
        place = {name: number for number, name in enumerate(pictures)}
        of_line = np.array([place[file] for file in self.files])
        sums = np.zeros((len(pictures), rows.shape[1]))
        np.add.at(sums, of_line, rows)
        means: np.ndarray = (sums / np.bincount(of_line, minlength=len(pictures))[:, None]).astype(np.float32)
        return means


def read(folder: Path, pictures: Sequence[str]) -> Captions | None:
    """Return the captions of a folder's `pictures`, named relative to it; None where it has no file of captions.

    Raises `UserError` with every line that cannot be read or names no picture, and where a picture has no caption.
    """
    path = folder / NAME
    try:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except FileNotFoundError:
        return None
    except OSError as error:
        hint = "make it readable, or move it away"
        raise UserError(Problem(f"cannot be read: {error.strerror or error}", str(path), hint)) from error
    except UnicodeDecodeError as error:
        raise UserError(Problem("the captions are not UTF-8", str(path), "save the file as UTF-8")) from error
    known, problems = set(pictures), []
    files, texts = list[str](), list[str]()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            problems.append(Problem(f"not JSON: {error}", where, _FORM))
            continue
        found, wrong = _entry(entry)
        if found is None:
            problems.append(Problem(wrong, where, _FORM))
        elif found[0] not in known:
            near = difflib.get_close_matches(found[0], pictures, 1)
            hint = f"did you mean {legible(near[0])!r}?" if near else "files are named from the folder on"
            problems.append(Problem(f"no picture {found[0]!r} in this folder", where, hint))
        else:
            files.append(found[0])
            texts.append(found[1])
    if not problems:
        without = sorted(known.difference(files))
        if without:
            few = ", ".join(map(legible, without[:3])) + ", …" * (len(without) > 3)
            what = f"{len(without):,} of {len(known):,} pictures have no caption ({few})"
            problems.append(Problem(what, str(path), "give each a line, or move them to another folder"))
    if problems:
        raise images.all_of(problems, "lines")
    return Captions(path, tuple(files), tuple(texts))


def _entry(entry: object) -> tuple[tuple[str, str] | None, str]:
    """Return the file and the caption of a line, or None and what is wrong with it."""
    if not isinstance(entry, Mapping):
        return None, "a line is a JSON object"
    wrong = [key for key in ("file", "caption") if not isinstance(entry.get(key), str)]
    if wrong:
        return None, f"{' and '.join(wrong)} must be given, as text"
    if not text.words(entry["caption"]):
        return None, "the caption has no word"
    return (entry["file"], entry["caption"]), ""


def read_embeddings(path: Path, captions: Captions) -> np.ndarray:
    """Return the user's embeddings of the captions, (lines, E), a view of the array in an .npy file.

    Raises `UserError` where the file holds no such array.
    """
    hint = f"save one row of numbers for each line of {NAME}: numpy.save(path, rows), float32 (lines, E)"
    rows = read_rows(path, hint)
    if len(rows) != len(captions.texts):
        what = f"{len(rows):,} rows for {len(captions.texts):,} captions"
        raise UserError(Problem(what, str(path), hint))
    return rows


def read_rows(path: Path, hint: str) -> np.ndarray:
    """Return the array (n, E) of finite numbers in an .npy file, a view of it. Raises `UserError` with `hint` where it
    holds none.
    """
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy's parsers raise anything at bytes they do not expect
        raise UserError(Problem(f"cannot be read: {' '.join(str(error).split())[:200]}", str(path), hint)) from error
    wrong = ""
    if not isinstance(rows, np.ndarray):
        wrong = "an archive, and not a single array"
    elif rows.dtype.kind not in "fiu":
        wrong = f"embeddings are numbers, not {rows.dtype}"
    elif rows.ndim != 2 or 0 in rows.shape:
        wrong = f"embeddings cannot have the shape {rows.shape}"
    elif not all(np.isfinite(rows[i : i + 4096]).all() for i in range(0, len(rows), 4096)):
        wrong = "embeddings hold NaN or infinity"
    if wrong:
        raise UserError(Problem(wrong, str(path), hint))
    found: np.ndarray = rows
    return found
