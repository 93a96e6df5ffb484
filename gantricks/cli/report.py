"""`gantricks report`: writes a page about runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gantricks.cli.console import output, typed
from gantricks.cli.files import free_for, writing_new
from gantricks.errors import UserError
from gantricks.files import free_name
from gantricks.report import Record, page, read_run


def report(runs: Sequence[Path], out: Path | None) -> None:
    """Write the page to `out`, which must not exist; by default, to the first free report.html in the first run."""
    records: list[Record] = []
    problems = []
    for folder in runs:
        try:
            records.append(read_run(folder))
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(*problems)
    if out is None:
        out = free_name(runs[0] / "report", ".html")
    free_for(out, ".html", "the page is an HTML file", "report")
    text = page(records)
    with writing_new(out) as file:
        file.write(text.encode())
    told = ", ".join(str(folder) for folder in runs)
    output().print(f"{told}: {typed([str(out)])} ({out.stat().st_size / 1000:,.0f} kB)", soft_wrap=True)
