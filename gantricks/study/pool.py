"""Worker processes that play one run after another, because importing torch takes longer than many a run."""

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
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any

from pydantic import TypeAdapter

from gantricks.study.folder import Outcome, RunKey

WORKER = (sys.executable, "-P", "-m", "gantricks.study.worker")
ENDING = 60.0
"""The number of seconds that a worker has to save its run when the study is interrupted."""

Task = dict[str, Any]


@dataclass(frozen=True)
class Reading:
    """The study's figure of a run that is training, at a step."""

    step: int
    value: float


_OUTCOME = TypeAdapter(Outcome)


class Worker:
    """One worker process. It computes with `threads` of torch's threads and inherits `descriptors`."""

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
            start_new_session=True,  # a Ctrl-C in the terminal must reach the study only
        )

    def play(self, task: Task, tell: Callable[[int | Reading], None]) -> Outcome | None:
        """Let the process play a run. Returns None when it has ended without an outcome."""
        assert self.process.stdin
        assert self.process.stdout
        with contextlib.suppress(OSError):  # the process may have ended
            self.process.stdin.write(json.dumps(task) + "\n")
            self.process.stdin.flush()
        for line in self.process.stdout:
            answer = json.loads(line)
            if "outcome" in answer:
                return _OUTCOME.validate_python(answer["outcome"])
            tell(Reading(*answer["figure"]) if "figure" in answer else answer["step"])
        return None

    def leave(self) -> None:
        """Ask the process to save its run and to end."""
        assert self.process.stdin
        with contextlib.suppress(OSError):
            self.process.stdin.close()

    @property
    def leaving(self) -> bool:
        """Whether the process has been asked to end."""
        assert self.process.stdin
        return self.process.stdin.closed

    def last_words(self) -> str:
        """Describe how the process ended, with the last line of its standard error."""
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
        """Let the process save its run and end. When interrupted once more, kill it."""
        self.leave()
        try:
            self.process.wait(ENDING)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            self.process.kill()
            self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()
        self._complaints.close()


class Pool:
    """`jobs` workers, each of which plays one run at a time. They end with the block that holds the pool."""

    def __init__(
        self, jobs: int, threads: int, command: Sequence[str] = WORKER, descriptors: Sequence[int] = ()
    ) -> None:
        self._start = lambda: Worker(command, threads, descriptors)
        self._workers = [self._start() for _ in range(jobs)]
        self._closing = False
        self._at = dict[RunKey, int]()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._closing = True
        for worker in self._workers:
            # close the input of all workers first, so that they save their runs at the same time
            worker.leave()
        for worker in self._workers:
            worker.end()

    def stop(self, task: Task) -> None:
        """Let the run of a task that is played end soon, with its state saved. Its outcome is then "failed", unless it
        was on its way already.

        The whole worker ends, since the end of its input is what it answers at any moment of a run. Another takes its
        place with the next task, which costs seconds, and a line in between would have to be waited for by every run.
        """
        self._workers[self._at[task["variant"], task["seed"]]].leave()

    def play(self, next_task: Callable[[], Task | None]) -> Iterator[tuple[Task, int | Reading | Outcome]]:
        """Play the tasks of `next_task` until it returns None. Yields steps, figures and outcomes as they arrive.

        A worker gets its next task after the caller has received the outcome of the last. When a worker ends, its run
        has failed, and a new worker takes its place.
        """
        news: queue.Queue[tuple[int, Task, int | Reading | Outcome]] = queue.Queue()

        def started(number: int) -> int:
            if (task := next_task()) is None:
                return 0
            self._at[task["variant"], task["seed"]] = number
            threading.Thread(target=work, args=(number, task), daemon=True).start()
            return 1

        def work(number: int, task: Task) -> None:
            news.put((number, task, self._played(number, task, lambda said: news.put((number, task, said)))))

        busy = sum(started(number) for number in range(len(self._workers)))
        while busy:
            number, task, item = news.get()
            yield task, item
            if isinstance(item, Outcome):
                busy += started(number) - 1

    def _played(self, number: int, task: Task, tell: Callable[[int | Reading], None]) -> Outcome:
        worker = self._workers[number]
        if worker.leaving and not self._closing:
            worker.end()
            worker = self._workers[number] = self._start()
        try:
            outcome = worker.play(task, tell)
        except (OSError, ValueError):  # an answer that cannot be read
            worker.process.kill()
            outcome = None
        if outcome is None:
            words = "" if self._closing else worker.last_words()
            outcome = Outcome(task["variant"], task["seed"], "failed", reason=words)
            if not self._closing and not worker.leaving:
                self._workers[number] = self._start()
        return outcome


def threads_each(jobs: int, images: bool) -> int:
    """Return the number of threads of each worker. Small matrices gain nothing from a second thread."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // jobs) if images else 1
