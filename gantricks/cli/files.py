"""Files that commands write where the user says."""

from __future__ import annotations

from pathlib import Path

from gantricks.cli.console import typed
from gantricks.errors import Problem, UserError


def free_for(out: Path, suffix: str, what: str, example: str) -> None:
    """Raise UserError unless a file of that kind can be written to `out` without harm. `what` says the kind."""
    where = f"--out {out}"
    if out.suffix.lower() != suffix:
        raise UserError(Problem(what, where, f"--out {out.with_suffix(suffix) if out.name else example + suffix}"))
    if out.exists() or out.is_symlink():
        raise UserError(
            Problem("the file is there already, and nothing is overwritten", where, "name another, or remove it")
        )
    if not out.parent.is_dir():
        raise UserError(
            Problem("its folder is not there", where, f"make it first: mkdir -p {typed([str(out.parent)])}")
        )
