"""The handler for signals that ask the process to end."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

ALWAYS = (signal.SIGINT, signal.SIGTERM)
IF_DEFAULT = tuple(getattr(signal, name) for name in ("SIGHUP", "SIGUSR1") if hasattr(signal, name))
"""Signals for a closed terminal, and for a batch queue's warning that time is running out. They are handled only where
they have their default action: ignored signals (nohup) stay ignored, and a program's own handlers stay.
"""


class Ending:
    """The signals that have asked the process to end. `number` is that of the last one, or None."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._patient = False

    @contextlib.contextmanager
    def patiently(self) -> Iterator[None]:
        """Within this context, the first signal only sets `number`. The caller checks it and ends soon."""
        self._patient = True
        try:
            yield
        finally:
            self._patient = False

    def caught(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal. A second signal, and every one outside `patiently`, ends the process at once, with cleanup:
        KeyboardInterrupt for SIGINT, otherwise SystemExit with 128 + `number`.
        """
        first, self.number = self.number is None, number
        if self._patient and first:
            return
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)


@contextlib.contextmanager
def heard() -> Iterator[Ending]:
    """Catch the signals that ask the process to end, within this context. Only the main thread can catch them."""
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
            if handler is not None:  # a handler that was not set from Python cannot be restored from it
                signal.signal(number, handler)
