"""The command line: `gantricks`, also `python -m gantricks.cli`."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    0: done. 1: a fault of ours, with its traceback. 2: the user's input is wrong, with the mend. 128 + the number of
    the signal that ended it (SIGINT 130, SIGTERM 143, SIGHUP 129, SIGUSR1 138), the state saved where a run had begun.
    """
    for stream in (sys.stdout, sys.stderr):
        # names of files may hold what no terminal can show
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        from gantricks.cli.app import command

        command(args=None if argv is None else list(argv), prog_name="gantricks")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except KeyboardInterrupt:
        return 130
    except Exception as fault:
        from gantricks.cli.faults import report

        return report(fault)
    return 0
