"""The end of a time limit: an exception in the main thread first, then the end of the process."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from expunge.pipelines.budget import Budget


class TimeLimitExceeded(BaseException):  # not an Exception: libraries that catch errors must not catch it
    """The hard end of the time limit. The model in the output folder is the result."""


@contextmanager
def alarm(budget: Budget) -> Iterator[None]:
    """Raise TimeLimitExceeded within the block, three quarters of a margin before the limit.

    Signals reach only the main thread. In another thread this has no effect.
    """
    if math.isinf(budget.limit_s) or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise TimeLimitExceeded

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(0.01, budget.left_s - budget.margin_s * 3 / 4), 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class HardEnd:
    """Ends the process at a moment, also during a long operation.

    A signal handler of Python waits until a long operation returns, which a loaded machine delays beyond the limit. A
    second thread does not wait. end: writes the last files and returns the exit code; it changes during a run.
    """

    def __init__(self, at: float, end: Callable[[], int]) -> None:
        """Start the thread. at: the moment, on the clock of `time.monotonic`."""
        self.end = end
        self._cancelled = threading.Event()
        self._at = at
        threading.Thread(target=self._wait, name="time limit", daemon=True).start()

    @classmethod
    def of_limit(cls, began: float, limit_s: float, end: Callable[[], int]) -> HardEnd:
        """Return the end of a command that began at `began`: half of the limit's margin before the limit."""
        return cls(began + limit_s - Budget(limit_s).margin_s / 2, end)

    def cancel(self) -> None:
        """Leave the process alone."""
        self._cancelled.set()

    def _wait(self) -> None:
        if not self._cancelled.wait(max(0.01, self._at - time.monotonic())):
            os._exit(self.end())
