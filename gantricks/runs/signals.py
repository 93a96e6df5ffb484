"""The signals that ask a process to end: one handler for all of them."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

ALWAYS = (signal.SIGINT, signal.SIGTERM)
IF_DEFAULT = tuple(getattr(signal, name) for name in ("SIGHUP", "SIGUSR1") if hasattr(signal, name))
"""The terminal is gone, and a queue's warning that time is running out. Ignored ones (nohup) stay ignored, and those
for which the program has a handler of its own are left to it."""


class Ending:
    """What has been asked so far: `number` is that of the last signal, None where none has come."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._patient = False

    @contextlib.contextmanager
    def patiently(self) -> Iterator[None]:
        """Meanwhile the first signal is noted and nothing more: whoever looks at `number` ends in good time."""
        self._patient = True
        try:
            yield
        finally:
            self._patient = False

    def caught(self, number: int, frame: FrameType | None) -> None:
        """The handler. A second signal, and every one outside of `patiently`, ends the process at once, cleaning up
        on the way: KeyboardInterrupt for SIGINT, otherwise SystemExit with 128 + `number`."""
        first, self.number = self.number is None, number
        if self._patient and first:
            return
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)


@contextlib.contextmanager
def heard() -> Iterator[Ending]:
    """Meanwhile signals that ask the process to end are caught; in the main thread, for no other can."""
    ending = Ending()
    if threading.current_thread() is not threading.main_thread():
        yield ending
        return
    wanted = [*ALWAYS, *(number for number in IF_DEFAULT if signal.getsignal(number) == signal.SIG_DFL)]
    former = {number: signal.signal(number, ending.caught) for number in wanted}
    try:
        yield ending
    finally:
        for number, handler in former.items():
            if handler is not None:  # one that was not set from Python cannot be set from it
                signal.signal(number, handler)
