"""Worker processes that stay alive from run to run: importing torch takes longer than many a run."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import IO, Any

from pydantic import TypeAdapter

from gantricks.study.folder import Outcome

WORKER = (sys.executable, "-P", "-m", "gantricks.study.worker")
ENDING = 60.0
"""Seconds that a worker has to save its run when the study is interrupted."""

Task = dict[str, Any]
_OUTCOME = TypeAdapter(Outcome)


class Worker:
    """One process. `threads`: how many of torch's it computes with; `descriptors` it inherits."""

    def __init__(self, command: Sequence[str], threads: int, descriptors: Sequence[int]) -> None:
        limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        self._complaints: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [*command],
            env=os.environ | limits | {"PYTHONUNBUFFERED": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
            encoding="utf-8",
            pass_fds=tuple(descriptors),
            start_new_session=True,  # a Ctrl-C in the terminal is for the study alone
        )

    def play(self, task: Task, stepped: Callable[[int], None]) -> Outcome | None:
        """Have a run played. None when the process has ended instead of answering."""
        assert self.process.stdin
        assert self.process.stdout
        with contextlib.suppress(OSError):  # what has ended does not listen
            self.process.stdin.write(json.dumps(task) + "\n")
            self.process.stdin.flush()
        for line in self.process.stdout:
            answer = json.loads(line)
            if "outcome" in answer:
                return _OUTCOME.validate_python(answer["outcome"])
            stepped(answer["step"])
        return None

    def last_words(self) -> str:
        """How the process ended, with the last line that it complained in."""
        try:
            status = self.process.wait(ENDING)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        self._complaints.seek(0)
        lines = self._complaints.read().decode("utf-8", "replace").split("\n")
        said = next((line.strip() for line in reversed(lines) if line.strip()), "")
        how = f"its process was ended by signal {-status}" if status < 0 else f"its process ended with status {status}"
        return f"{how}: {said}" if said else how

    def end(self) -> None:
        """Let it save what it is at, and end; without patience when interrupted once more."""
        assert self.process.stdin
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(ENDING)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            self.process.kill()
            self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()
        self._complaints.close()


class Pool:
    """`jobs` workers, alive until the block that holds the pool ends; each may be at one run."""

    def __init__(
        self, jobs: int, threads: int, command: Sequence[str] = WORKER, descriptors: Sequence[int] = ()
    ) -> None:
        self._start = lambda: Worker(command, threads, descriptors)
        self._workers = [self._start() for _ in range(jobs)]
        self._closing = False

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._closing = True
        for worker in self._workers:
            # all of them first: they save side by side
            if worker.process.stdin:
                with contextlib.suppress(OSError):
                    worker.process.stdin.close()
        for worker in self._workers:
            worker.end()

    def play(self, next_task: Callable[[], Task | None]) -> Iterator[tuple[Task, int | Outcome]]:
        """Play what `next_task` gives until it gives None. Yields steps and outcomes as they come.

        A worker is given its next task when the caller has seen the outcome of the last. One that ends costs the run
        that it was at, and another takes its place.
        """
        news: queue.Queue[tuple[int, Task, int | Outcome]] = queue.Queue()

        def started(number: int) -> int:
            if (task := next_task()) is None:
                return 0
            threading.Thread(target=work, args=(number, task), daemon=True).start()
            return 1

        def work(number: int, task: Task) -> None:
            news.put((number, task, self._played(number, task, lambda step: news.put((number, task, step)))))

        busy = sum(started(number) for number in range(len(self._workers)))
        while busy:
            number, task, item = news.get()
            yield task, item
            if not isinstance(item, int):
                busy += started(number) - 1

    def _played(self, number: int, task: Task, stepped: Callable[[int], None]) -> Outcome:
        worker = self._workers[number]
        try:
            outcome = worker.play(task, stepped)
        except (OSError, ValueError):  # an answer that nobody can read
            worker.process.kill()
            outcome = None
        if outcome is None:
            words = "" if self._closing else worker.last_words()
            outcome = Outcome(task["variant"], task["seed"], "failed", reason=words)
            if not self._closing:
                self._workers[number] = self._start()
        return outcome


def threads_each(jobs: int, images: bool) -> int:
    """How many threads a worker computes with: small matrices gain nothing from a second one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // jobs) if images else 1
