"""Frees the disk of what a measured run needs no more."""

from __future__ import annotations

import shutil
from pathlib import Path

LARGEST = 10 * 10**6
"""The size in bytes above which a file of a measured run is not kept."""


def slimmed(run: Path) -> None:
    """Remove the checkpoints of a run whose result is written, and any file that is larger than `LARGEST`.

    What says how the run was made and what came of it stays: its recipe, manifest, log, pictures and result.
    """
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    for path in run.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.stat().st_size > LARGEST:
            path.unlink()
