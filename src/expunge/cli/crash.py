"""The last resort for an error that no part of the package expects: one line, and a file with the details."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shlex
import tempfile
import traceback
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from expunge import __version__
from expunge.core.plugins import place_in_plugin
from expunge.core.terminal import complain, printable

SHOW = "EXPUNGE_TRACEBACK"
LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "pydantic", "hydra-core")
_SECRET = re.compile("KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)


def report_crash(error: Exception, words: Sequence[str]) -> int:
    """Print one line for an unexpected error, write its details to a new private file, and return the exit code.

    It is 1, or 2 for an error in the code of a plugin, whose file and line are in the message.
    """
    text = " ".join(str(error).split())
    line = _without_secrets(f"{type(error).__name__}: {text:.200}")
    if os.environ.get(SHOW) == "1":
        complain(_without_secrets("".join(traceback.format_exception(error))))
    place = "no file: the temporary folder cannot be written"
    with contextlib.suppress(OSError):
        handle, place = tempfile.mkstemp(prefix="expunge-crash-", suffix=".txt")  # only its owner can read it
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(_without_secrets(_details(error, words)))
    plugin = place_in_plugin(error)
    if plugin is not None:
        complain(f"expunge: error: plugin {plugin}: {line}; details in {place}")
        return 2
    complain(f"expunge: internal error: {line}; details in {place}")
    return 1


def _details(error: Exception, words: Sequence[str]) -> str:
    lines = [f"command: {printable(shlex.join(['expunge', *words]))}", f"expunge {__version__}"]
    lines.append(f"Python {platform.python_version()} on {platform.platform()}")
    for name in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            lines.append(f"{name} {version(name)}")
    return "\n".join([*lines, "", *traceback.format_exception(error)])


def _without_secrets(text: str) -> str:
    """Return the text without the values of environment variables whose names sound secret."""
    for name, value in os.environ.items():
        if len(value) > 5 and _SECRET.search(name):
            text = text.replace(value, f"<{name}>")
    return text
