"""Paths as their writers mean them."""

from __future__ import annotations

import os
from pathlib import Path

from gantricks.errors import Problem, UserError


def expanded(path: str | os.PathLike[str], where: str = "") -> Path:
    """The path with `~` and `~user` in its first place replaced by that home folder.

    No shell does that within `--out=~/x.png` or in a recipe, and a folder named ~ is removed as nobody wants. Raises
    UserError, with the place `where`, when there is no such home; a name that begins with ~ and is there stays.
    """
    text = os.fspath(path)
    whole = os.path.expanduser(text)
    if not whole.startswith("~") or os.path.lexists(whole):
        return Path(whole)
    user = Path(text).parts[0][1:]
    what = f"there is no user {user!r} whose home folder ~{user} would be" if user else "~ is no place: HOME is not set"
    raise UserError(Problem(what, where or text, f"write the whole path, or ./{text} where that is its name"))
