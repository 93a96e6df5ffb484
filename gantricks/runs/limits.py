"""Messages for a machine whose memory or disk is too small for a run."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gantricks.errors import Problem, UserError
from gantricks.planning.device import out_of_memory
from gantricks.runs import checkpoint

if TYPE_CHECKING:
    import torch

_OF_A_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


@contextlib.contextmanager
def memory(run: Path, device: torch.device, batch_size: Callable[[], int]) -> Iterator[None]:
    """Turn an out-of-memory error into a UserError that suggests a smaller batch size."""
    try:
        yield
    except Exception as error:
        asked = out_of_memory(error)
        if asked is None:
            raise
        size = batch_size()
        wanted = f": {asked} more were asked for" if asked else ""
        hint = "smaller networks or images need less"
        if size > 1:
            hint = f"try --set data.batch_size={size // 2}; {hint}, too"
        raise UserError(
            Problem(
                f"the memory of {device} does not suffice for batches of {size}{wanted}",
                str(run),
                hint,
            )
        ) from error


@contextlib.contextmanager
def disk(run: Path) -> Iterator[None]:
    """Turn an error of the disk into a UserError that names the file, the last saved step, and the command to
    continue.
    """
    try:
        yield
    except OSError as error:
        where = Path(error.filename) if isinstance(error.filename, str) else run
        named = where != run or error.errno in _OF_A_DISK
        # errors outside the run's folder, such as a missing data set, are not about the disk
        if not named or not where.is_relative_to(run):
            raise
        step = max(checkpoint.checkpoints(run), default=None)
        saved = "is not saved yet" if step is None else f"is saved up to step {step}"
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "make room on the disk, then" if full else "when it can be written again"
        raise UserError(
            Problem(f"{error.strerror}; the run {saved}", str(where), f"{hint}: gantricks resume {run}")
        ) from error
