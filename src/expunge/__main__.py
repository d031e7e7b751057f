"""`python -m expunge` is `expunge`."""

from __future__ import annotations

import os
import sys
import threading

from expunge.core.garbage import collect_rarely, keep_until_exit

INTERRUPTED = 130
EXIT_S = 3.0  # an interrupted process ends after this time, even if a thread of its pool waits for a lost worker


def run() -> int:
    """Run the command line, and return its exit code. Ctrl-C while it is imported ends it without a traceback."""
    collect_rarely()
    try:
        from expunge.core.terminal import keep_interrupts, warn_once

        keep_interrupts()
        warn_once()
        from expunge.cli.main import main
    except KeyboardInterrupt:
        print("expunge: interrupted", file=sys.stderr)
        return INTERRUPTED
    try:
        code = main()
        if code == INTERRUPTED:
            _end_within(EXIT_S, code)
        return code
    finally:
        keep_until_exit()


def _end_within(seconds: float, code: int) -> None:
    timer = threading.Timer(seconds, os._exit, (code,))
    timer.daemon = True
    timer.start()


if __name__ == "__main__":
    sys.exit(run())
