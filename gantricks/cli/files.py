"""Writes files at paths that the user names."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from gantricks.cli.console import typed
from gantricks.errors import Problem, UserError
from gantricks.files import naming, whole


def free_for(out: Path, suffix: str, what: str, example: str) -> None:
    """Raise UserError unless a new file of this kind can be written to `out`. `what` names the kind."""
    where = f"--out {out}"
    if out.suffix.lower() != suffix:
        raise UserError(Problem(what, where, f"--out {out.with_suffix(suffix) if out.name else example + suffix}"))
    if os.path.lexists(out):
        raise _taken(out)
    require_folder(out.parent, where, "its folder is not there")


def require_folder(folder: Path, where: str, missing: str = "there is no such folder") -> None:
    """Raise UserError unless the folder exists. `where` is the option that names it."""
    if not folder.is_dir():
        what = "it is not a folder" if folder.exists() else missing
        raise UserError(Problem(what, where, f"make it first: mkdir -p {typed([str(folder)])}"))


@contextlib.contextmanager
def writing_new(out: Path) -> Iterator[BinaryIO]:
    """Open a new file for writing, which exists when the block has ended, or not at all. A file that has appeared since
    `free_for` is not overwritten.
    """
    try:
        with whole(out, fresh=True) as file, naming(out):
            yield file
    except FileExistsError as error:
        raise _taken(out) from error


def _taken(out: Path) -> UserError:
    return UserError(
        Problem("the file is there already, and nothing is overwritten", f"--out {out}", "name another, or remove it")
    )
