"""Text for a terminal: without the control characters that could move its cursor or change its colours."""

from __future__ import annotations

import re
import sys
from typing import TextIO

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


def complain(text: object) -> None:
    """Print one text to standard error."""
    say(text, file=sys.stderr)
