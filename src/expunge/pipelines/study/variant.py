"""The folder of a study whose words change its settings, so that it never overwrites the report of another variant."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.core.errors import ConfigError
from expunge.core.fingerprints import fingerprint

PLACES = ("name", "paths", "launch", "store")  # settings that change no result
ROOT = "saves/study"
LATEST = "-latest"  # end of the link to the variant that ran last


def with_folder(tree: Mapping[str, Any], words: Sequence[str], read: Callable[[Sequence[str]], Any]) -> dict[str, Any]:
    """Return a study's tree with `paths.output_dir`: NAME, or NAME-HASH if words change the settings of its file.

    Args:
        tree: The plain tree of the study with all its words.
        words: The words.
        read: Returns the plain tree of some words.
    """
    paths = tree.get("paths") or {}
    if paths.get("output_dir") or not isinstance(tree.get("name"), str):
        return dict(tree)
    own = [word for word in words if word.partition("=")[0].lstrip("+").partition(".")[0] in ("study", *PLACES)]
    plain = None
    if len(own) == len(words):
        plain = tree
    else:
        with contextlib.suppress(ConfigError):  # a shipped study may need a word, such as forget=FILE
            plain = read(own)
    name = tree["name"]
    if plain is None or _settings(plain) != _settings(tree):
        name += f"-{fingerprint([_settings(tree)])[:8]}"
    return {**tree, "paths": {**paths, "output_dir": f"{ROOT}/{name}"}}


def _settings(tree: Mapping[str, Any]) -> str:
    return json.dumps({k: v for k, v in tree.items() if k not in PLACES}, sort_keys=True, default=str)


def link_latest(folder: Path, name: str) -> None:
    """Let NAME-latest, next to a folder under saves/study, point to it."""
    if folder.parent != Path(ROOT):
        return
    link = folder.parent / f"{name}{LATEST}"
    new = folder.parent / f".{link.name}-{os.getpid()}"
    with contextlib.suppress(OSError):  # a file system without links has the folders alone
        new.symlink_to(folder.name)
        if link.is_symlink() or not link.exists():
            new.replace(link)
        else:
            new.unlink()
