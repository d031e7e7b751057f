"""`python -m expunge` is `expunge`."""

from __future__ import annotations

import sys

from expunge.core.garbage import collect_rarely, keep_until_exit

INTERRUPTED = 130


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
        return main()
    finally:
        keep_until_exit()


if __name__ == "__main__":
    sys.exit(run())
