"""`python -m expunge` is `expunge`."""

from __future__ import annotations

import gc
import sys

INTERRUPTED = 130


def run() -> int:
    """Run the command line, and return its exit code. Ctrl-C while it is imported ends it without a traceback."""
    try:
        from expunge.core.terminal import keep_interrupts, warn_once

        keep_interrupts()
        warn_once()
        from expunge.cli.main import main
    except KeyboardInterrupt:
        print("expunge: interrupted", file=sys.stderr)
        return INTERRUPTED
    code = main()
    if code == INTERRUPTED:
        gc.freeze()  # the process ends at once: it does not search the objects of torch and transformers for 1.3 CPU s
    return code


if __name__ == "__main__":
    sys.exit(run())
