"""What is printed when a command fails, and the exit status."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
import traceback
from collections.abc import Sequence

from gantricks.catalogue.imports import imported
from gantricks.errors import Problem, TrickError, UserError, printable

_THEIRS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE, errno.EFBIG}
_MENDS = {
    errno.ENOSPC: "make room on the disk",
    errno.EDQUOT: "make room within your quota",
    errno.EROFS: "name a folder on a disk that can be written",
    errno.EACCES: "name another place, or change its permissions",
    errno.EPERM: "name another place, or change its permissions",
}


def report(fault: Exception | SystemExit) -> int:
    """Print `fault` on standard error. 2 when the user can mend it; otherwise 1, with the traceback."""
    if isinstance(fault, SystemExit) and not _plugin(fault):
        if isinstance(fault.__context__, BrokenPipeError):
            return 0  # typer's way of saying that its reader has gone
        return fault.code if isinstance(fault.code, int) and fault.code else 1
    if problems := problems_of(fault):
        write_problems(problems)
        return 2
    text = "".join(traceback.format_exception(fault))
    # plain: this is the moment to depend on as little as possible
    with contextlib.suppress(OSError):
        sys.stderr.write(printable(f"{text}\n{_whose(fault)}\n", keep="\n\t"))
    return 1


def problems_of(fault: Exception | SystemExit) -> list[Problem]:
    """The problems that the user can mend; none when the fault is ours."""
    if isinstance(fault, SystemExit):
        said = f": {fault.code}" if fault.code is not None else ""
        return [Problem(f"this plugin ended the program{said}", _plugin(fault))]
    # known by its method: typer brings a click of its own, or uses the installed one
    if hasattr(fault, "format_message"):
        context = getattr(fault, "ctx", None)
        command = context.command_path if context else "gantricks"
        return [Problem(fault.format_message(), command, f"what it takes: {command} --help")]
    if isinstance(fault, UserError):
        return fault.problems
    if isinstance(fault, TrickError):
        return [Problem(f"a trick breaks the contract: {fault}", mend="mend the trick, or switch it off in the recipe")]
    # known by name: torch is not imported to ask
    if type(fault).__name__ == "OutOfMemoryError" or isinstance(fault, MemoryError):
        first = str(fault).split(". ")[0]
        mend = "smaller data.batch_size, data.image_size or networks need less"
        return [Problem(f"the memory does not suffice: {first}".rstrip(": "), mend=mend)]
    if type(fault).__name__ == "SafetensorError" and (number := re.search(r"\(os error (\d+)\)", str(fault))):
        fault = OSError(int(number[1]), os.strerror(int(number[1])))
    if isinstance(fault, OSError) and (fault.filename is not None or fault.errno in _THEIRS):
        where = str(fault.filename) if fault.filename is not None else ""
        return [Problem(fault.strerror or str(fault), where, _MENDS.get(fault.errno or 0, ""))]
    return []


def write_problems(problems: Sequence[Problem]) -> None:
    """Each problem on standard error: where, what, and the mend indented below."""
    from rich.padding import Padding

    from gantricks.cli.console import Text, errors

    console = errors()
    for problem in problems:
        what = Text.assemble((f"{problem.where}: " if problem.where else "", "bold"), (problem.what, "red"))
        console.print(what)
        if problem.mend:
            console.print(Padding(Text(problem.mend, "green"), (0, 0, 0, 4), expand=False))
    if len(problems) > 1:
        console.print(Text(f"{len(problems)} problems", "dim"))


def _plugin(fault: BaseException) -> str:
    """The line of a plugin that `fault` came out of, or nothing when it was ours or nobody's."""
    for frame, line in reversed(list(traceback.walk_tb(fault.__traceback__))):
        module = frame.f_globals.get("__name__", "")
        if origin := imported(module):
            return f"{origin}{frame.f_code.co_filename}:{line}"
        if module.startswith("gantricks."):
            break
    return ""


def _whose(fault: BaseException) -> str:
    if place := _plugin(fault):
        return f"This came out of your plugin, {place}."
    return (
        "This is a fault of gantricks, not of yours. Please report it with the text above, the recipe, and what\n"
        "`gantricks doctor` prints."
    )
