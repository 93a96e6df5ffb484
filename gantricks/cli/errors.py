"""Prints the error of a failed command, and chooses the exit status."""

from __future__ import annotations

import contextlib
import errno
import sys
import traceback
from collections.abc import Sequence

from gantricks.catalogue.imports import ended_by_plugin, plugin_line
from gantricks.errors import Problem, TrickError, UserError, printable
from gantricks.files import error_of_system

_THEIRS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE, errno.EFBIG}
_HINTS = {
    errno.ENOSPC: "make room on the disk",
    errno.EDQUOT: "make room within your quota",
    errno.EROFS: "name a folder on a disk that can be written",
    errno.EACCES: "name another place, or change its permissions",
    errno.EPERM: "name another place, or change its permissions",
}


def report(error: Exception | SystemExit) -> int:
    """Print `error` on standard error. Returns 2 when the user can correct it; otherwise 1, with the traceback."""
    if isinstance(error, SystemExit) and not plugin_line(error):
        if isinstance(error.__context__, BrokenPipeError):
            return 0  # typer raises this when the reader of its output has gone
        return error.code if isinstance(error.code, int) and error.code else 1
    if problems := problems_of(error):
        write_problems(problems)
        return 2
    text = "".join(traceback.format_exception(error))
    # plain printing, because as little as possible should be able to fail here
    with contextlib.suppress(OSError):
        sys.stderr.write(printable(f"{text}\n{_whose(error)}\n", keep="\n\t"))
    return 1


def problems_of(error: Exception | SystemExit) -> list[Problem]:
    """Return the problems that the user can correct; none when the error is in gantricks."""
    if isinstance(error, SystemExit):
        return [ended_by_plugin(error)]
    # recognised by its method, because typer may bring its own copy of click
    if hasattr(error, "format_message"):
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "gantricks"
        return [Problem(error.format_message(), command, f"what it takes: {command} --help")]
    if isinstance(error, UserError):
        return error.problems
    if isinstance(error, TrickError):
        return [Problem(f"a trick breaks the contract: {error}", hint="mend the trick, or switch it off in the recipe")]
    # recognised by name, without importing torch
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        first = str(error).split(". ")[0]
        hint = "smaller data.batch_size, data.image_size or networks need less"
        return [Problem(f"the memory does not suffice: {first}".rstrip(": "), hint=hint)]
    if type(error).__name__ == "SafetensorError":
        error = error_of_system(error) or error
    if isinstance(error, OSError) and (error.filename is not None or error.errno in _THEIRS):
        where = str(error.filename) if error.filename is not None else ""
        return [Problem(error.strerror or str(error), where, _HINTS.get(error.errno or 0, ""))]
    return []


def write_problems(problems: Sequence[Problem]) -> None:
    """Write each problem to standard error: where, what, and the hint indented below."""
    from rich.padding import Padding

    from gantricks.cli.console import Text, errors

    console = errors()
    for problem in problems:
        what = Text.assemble((f"{problem.where}: " if problem.where else "", "bold"), (problem.what, "red"))
        console.print(what)
        if problem.hint:
            console.print(Padding(Text(problem.hint, "green"), (0, 0, 0, 4), expand=False))
    if len(problems) > 1:
        console.print(Text(f"{len(problems)} problems", "dim"))


def _whose(error: BaseException) -> str:
    if place := plugin_line(error):
        return f"This came out of your plugin, {place}."
    return (
        "This is a fault of gantricks, not of yours. Please report it with the text above, the recipe, and what\n"
        "`gantricks doctor` prints."
    )
