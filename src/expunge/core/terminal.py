"""The terminal: no text moves its cursor or changes its colours, libraries print only errors, and no Ctrl-C is lost."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
import threading
from typing import Any, TextIO

from expunge.core.numbers import nulled
from expunge.core.on_use import transformers

AGAIN_S = 0.05  # seconds until a lost Ctrl-C is repeated

# C0 without tab and line feed, DEL, C1, and the marks that reorder text.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Return the text with each control character shown as its code."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def say(text: object = "", *, file: TextIO | None = None, flush: bool = False) -> None:
    """Print one text that may contain words of a user; replace characters that the stream cannot encode."""
    stream = file or sys.stdout
    line = printable(str(text))
    encoding = getattr(stream, "encoding", None) or "utf-8"
    print(line.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=flush)


def say_json(value: Any, *, indent: int | None = None) -> None:
    """Print a value as JSON for programs. NaN and infinities become null, because JSON has no word for them."""
    say(json.dumps(nulled(value), indent=indent, allow_nan=False, default=str))


def complain(text: object) -> None:
    """Print one text to standard error."""
    say(text, file=sys.stderr)


def quiet() -> None:
    """Show only errors of libraries, because the progress display is ours."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

    logging: Any = transformers.logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def keep_interrupts() -> None:
    """Repeat a Ctrl-C that arrives while Python removes an object, in place of a traceback and no interruption."""
    before = sys.unraisablehook

    def hook(event: Any) -> None:
        if issubclass(event.exc_type, KeyboardInterrupt):
            threading.Timer(AGAIN_S, os.kill, (os.getpid(), signal.SIGINT)).start()
        else:
            before(event)

    sys.unraisablehook = hook


def warn_once() -> None:
    """Print a warning that is logged again with the same words, as by each job of a study, only the first time."""
    printed: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        new = text not in printed
        printed.add(text)
        return new

    if logging.lastResort is not None:  # the handler of a program that sets none
        logging.lastResort.addFilter(is_new)
