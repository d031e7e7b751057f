"""The one rule for words that become file names: task names, study names, labels."""

from __future__ import annotations

import unicodedata
from pathlib import PurePosixPath

from expunge.core.errors import ConfigError

JOINERS = "\u200c\u200d"  # part of words in Persian and Indic scripts, and of emoji
LONGEST = 200  # bytes in UTF-8 of each part; file systems allow 255, and fingerprints are added


def check_folder_name(path: str | None, key: str) -> None:
    """Raise ValueError, for a dataclass to report, if a path is blank, starts with ~ or has a too long part."""
    if path is None:
        return
    if not path.strip() or "\0" in path:
        raise ValueError(f"{key} must name a folder")
    if path.startswith("~"):
        raise ValueError(f"{key} starts with ~, which is not replaced here; write the whole path of the folder")
    if any(len(part.encode("utf-8", "surrogateescape")) > 255 for part in PurePosixPath(path).parts):
        raise ValueError(f"{key} has a part of more than 255 bytes")


def check_name(name: str, key: str, *, nested: bool = False) -> str:
    """Return the name if it can be a file name, on its own or in a longer one.

    Args:
        name: The word that a user gave.
        key: The setting that the message names, such as `task_name`.
        nested: Allow `a/b`, a folder in a folder.

    Raises:
        ConfigError: The name is empty, too long, absolute, contains `..`, a control character, or leading or trailing
            blanks.
    """
    if not name.strip():
        raise ConfigError(f"{key}: is empty; give a name")
    kinds = ("Cc", "Cf", "Cs", "Zl", "Zp")
    hidden = next((c for c in name if unicodedata.category(c) in kinds and c not in JOINERS), None)
    if hidden is not None:
        raise ConfigError(f"{key}: {name!r:.60} contains the control character U+{ord(hidden):04X}; leave it out")
    parts = PurePosixPath(name).parts if nested else (name,)
    if name.startswith(("/", "~")) or (not nested and "/" in name):
        allowed = "a relative path without `..`" if nested else "a name without /"
        raise ConfigError(f"{key}: {name!r:.60} is a path (allowed: {allowed})")
    for part in parts:
        if part in ("..", "."):
            raise ConfigError(f"{key}: {name!r:.60} leaves its folder; leave {part} out")
        if part != part.strip():
            raise ConfigError(f"{key}: {name!r:.60} begins or ends with a blank; leave it out")
        if len(part.encode()) > LONGEST:
            raise ConfigError(f"{key}: {name!r:.60}... is too long: {len(part.encode())} bytes, at most {LONGEST}")
    return name
