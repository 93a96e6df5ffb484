"""The command line: `gantricks`, also `python -m gantricks`."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    0: done. 1: an error in gantricks, with its traceback. 2: the user's input is wrong, with the hint. 128 + the number
    of the signal that ended it (SIGINT 130, SIGTERM 143, SIGHUP 129, SIGUSR1 138); a run that had begun is saved.
    """
    from gantricks.cli import streams

    streams.prepare()
    try:
        status = _status(argv)
    finally:
        problems = streams.finish()
    if problems:
        from gantricks.cli.errors import write_problems

        write_problems(problems)
        return status or 2
    return status


def _status(argv: Sequence[str] | None) -> int:
    try:
        from gantricks.cli.app import command

        # not typer's standalone mode, so that its errors are printed like every other problem
        status = command(args=None if argv is None else list(argv), prog_name="gantricks", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except KeyboardInterrupt:
        return 130
    except (Exception, SystemExit) as error:
        from gantricks.cli.errors import report

        return report(error)
