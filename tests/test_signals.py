"""Signals that ask a process to end: the first is waited for, the second is not, and the exit status says which."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gantricks.runs import checkpoint, signals
from gantricks.runs.api import train
from gantricks.runs.reporter import Reporter, Result

TINY = [
    *("train.steps=100000", "train.checkpoint_every=50000", "train.log_every=5", "train.capture=off"),
    *("data.samples=500", "data.batch_size=16", "generator.hidden=[8]", "discriminator.hidden=[8]"),
]
ALL = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1]


@pytest.fixture(autouse=True)
def _as_a_terminal_starts_it() -> Iterator[None]:
    """Signals have their default action, also where the tests run under nohup."""
    former = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, former)


class Sends(Reporter):
    """Sends the process a signal when a step is done."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = numbers

    def stepped(self, finished: int) -> None:
        if finished == 3:
            for number in self.numbers:
                os.kill(os.getpid(), number)


def trained(run: Path, *numbers: int) -> Result:
    return train("ring_mlp", overrides=TINY, run_dir=run, reporter=Sends(*numbers))


@pytest.mark.parametrize("number", ALL, ids=lambda number: number.name)
def test_every_signal_that_asks_for_an_end_saves_the_run(tmp_path: Path, number: signal.Signals) -> None:
    before = [signal.getsignal(each) for each in ALL]
    result = trained(tmp_path / "run", number)
    assert (result.signal, result.finished) == (number, 3)
    assert list(checkpoint.checkpoints(result.run)) == [3]
    assert [signal.getsignal(each) for each in ALL] == before


@pytest.mark.parametrize("second", ALL, ids=lambda number: number.name)
@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGUSR1], ids=lambda number: number.name)
def test_a_second_signal_ends_the_run_at_once_with_its_own_number(
    tmp_path: Path, first: signal.Signals, second: signal.Signals
) -> None:
    with pytest.raises(KeyboardInterrupt if second == signal.SIGINT else SystemExit) as caught:
        trained(tmp_path / "run", first, second)
    if isinstance(caught.value, SystemExit):
        assert caught.value.code == 128 + second
    assert not checkpoint.checkpoints(tmp_path / "run")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1], ids=lambda number: number.name)
def test_a_signal_that_is_ignored_or_the_programs_own_is_left_alone(number: signal.Signals) -> None:
    came: list[int] = []
    for handler in (signal.SIG_IGN, lambda n, frame: came.append(n)):
        former = signal.signal(number, handler)
        try:
            with signals.heard() as ending, ending.patiently():
                os.kill(os.getpid(), number)
                time.sleep(0.01)
                assert ending.number is None
        finally:
            signal.signal(number, former)
    assert came == [number]


def test_before_there_is_anything_to_save_the_first_signal_ends_the_process() -> None:
    def waits() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)

    with pytest.raises(SystemExit) as caught, signals.heard():
        waits()
    assert caught.value.code == 143


def test_another_thread_hears_nothing_and_changes_nothing() -> None:
    heard: list[int | None] = []

    def listen() -> None:
        with signals.heard() as ending:
            heard.append(ending.number)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert heard == [None]
    assert signal.getsignal(signal.SIGTERM) == before


# ---------------------------------------------------------------- processes

COMMAND = [sys.executable, "-m", "gantricks.cli", "train", "ring_mlp", "--run-dir", "run"]
COMMAND += [part for override in TINY for part in ("--set", override)]


def wait_for(process: subprocess.Popen[bytes], run: Path) -> None:
    until = time.monotonic() + 120
    while not ((run / "metrics.jsonl").is_file() and (run / "metrics.jsonl").stat().st_size):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("number", ALL, ids=lambda number: number.name)
def test_the_exit_status_is_that_of_the_signal(tmp_path: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(COMMAND, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(process, tmp_path / "run")
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err.decode()
    assert b"gantricks resume run" in out
    assert checkpoint.checkpoints(tmp_path / "run")


@pytest.mark.slow
def test_under_nohup_a_hangup_is_not_heard(tmp_path: Path) -> None:
    process = subprocess.Popen(["nohup", *COMMAND], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(process, tmp_path / "run")
    process.send_signal(signal.SIGHUP)
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM


@pytest.mark.slow
def test_a_terminal_that_is_closed_costs_no_step(tmp_path: Path) -> None:
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(tmp_path)
        os.execv(sys.executable, COMMAND)
    until, run = time.monotonic() + 120, tmp_path / "run"
    while not ((run / "metrics.jsonl").is_file() and (run / "metrics.jsonl").stat().st_size):
        assert time.monotonic() < until
        os.read(terminal, 65536)
    os.close(terminal)  # what closing the window does: SIGHUP, and every write fails from now on
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGHUP
    (step,) = checkpoint.checkpoints(run)
    assert step >= len((run / "metrics.jsonl").read_text().splitlines()) * 5
