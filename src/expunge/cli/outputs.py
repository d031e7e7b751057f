"""The outputs of a command against all of its inputs, as its words name them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from expunge.core.outputs import PLACES, check_output, named_paths

OUT = "out"
SETTINGS = ("overrides", "settings")  # key=value words


def check_outputs(parsed: argparse.Namespace) -> None:
    """Raise ConfigError if `--out` of a command is an input of the same command, or cannot be written.

    Settings (`paths.output_dir`) are checked with all files that the settings name, by the command.
    """
    out = getattr(parsed, OUT, None)
    if isinstance(out, Path):
        check_output(out, "--out", _inputs(parsed), writable=not getattr(parsed, "dry_run", False))


def _inputs(parsed: argparse.Namespace) -> dict[str, Path]:
    """Return the existing files and folders that options, positional words and settings name."""
    named: dict[str, Any] = {}
    for action in parsed.parser._actions:
        if action.dest == OUT or not hasattr(parsed, action.dest):
            continue
        value = getattr(parsed, action.dest)
        if action.dest in SETTINGS:
            named |= dict(_settings(value))
        elif isinstance(value, str | Path | list):
            option = next((name for name in action.option_strings if name.startswith("--")), action.dest.upper())
            named[option] = value[0] if isinstance(value, list) and len(value) == 1 else value
    return named_paths(named)


def _settings(words: list[str]) -> Iterator[tuple[str, str]]:
    for word in words or ():
        key, _, value = word.lstrip("+").partition("=")
        if not key.startswith(f"{PLACES}."):
            yield key, value
