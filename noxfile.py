"""What there is to do here, by name: `nox -s NAME`, and `nox -l` for the list. CI calls the same.

Sessions run in the environment that is active: the one that `pip install -c constraints.txt -e '.[dev]'` has made.
"""

from __future__ import annotations

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "tests"]

PARALLEL = ("-n", "auto", "--dist", "worksteal")


@nox.session
def lint(session: nox.Session) -> None:
    """Linters, types, and who imports whom."""
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("mypy")
    session.run("lint-imports")


@nox.session
def tests(session: nox.Session) -> None:
    """The tests that take seconds, in several processes; paths and options of pytest go behind `--`."""
    session.run("pytest", *PARALLEL, *session.posargs)


@nox.session
def trick(session: nox.Session) -> None:
    """What is said of one trick: its own tests and every law. `nox -s trick -- NAME`."""
    (name,) = session.posargs
    session.run("pytest", "-q", f"tests/plugins/test_{name}.py")
    session.run("gantricks", "tricks", name, "--check")


@nox.session
def slow(session: nox.Session) -> None:
    """The tests that take minutes: before a release."""
    session.run("pytest", "-m", "slow", *PARALLEL, *session.posargs)


@nox.session
def generate(session: nox.Session) -> None:
    """The index, the pages, the pictures: everything that is generated."""
    session.run("python", "docs/build.py")


@nox.session
def wheel(session: nox.Session) -> None:
    """What is published, in dist/ unless `-- --outdir DIR` says otherwise."""
    session.run("python", "-m", "build", "--wheel", *session.posargs)
