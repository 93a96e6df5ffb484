"""Paths with `~` for a home folder."""

from __future__ import annotations

import os
from pathlib import Path

from gantricks.errors import Problem, UserError


def expanded(path: str | os.PathLike[str], where: str = "") -> Path:
    """Return the path with a leading `~` or `~user` replaced by that home folder.

    A shell does not do this within `--out=~/x.png` or in a recipe, and a folder named ~ is dangerous to remove. An
    existing file whose name begins with ~ keeps its name. Raises UserError, with the place `where`, when there is no
    such home folder.
    """
    text = os.fspath(path)
    whole = os.path.expanduser(text)
    if not whole.startswith("~") or os.path.lexists(whole):
        return Path(whole)
    user = Path(text).parts[0][1:]
    what = (
        f"there is no user {user!r} whose home folder ~{user} would be" if user else "~ has no meaning: HOME is not set"
    )
    raise UserError(Problem(what, where or text, f"write the whole path, or ./{text} where that is its name"))
