"""The folders of saves/study by name: NAME-HASH, or NAME-latest, for the words of the run that wrote one."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from expunge.core.errors import ConfigError

STORE = "saves/store"  # of the runs in saves/study


def words_of_folder(text: str) -> list[str]:
    """Return the words of the run that wrote a folder of saves/study; none if it is no such folder.

    Raises:
        ConfigError: If the folder exists, and the store does not know its run.
    """
    from expunge.pipelines.study.run_note import ROOT, read_notes

    places = [path for path in (Path(text), Path(ROOT) / text) if os.path.isdir(path)]
    folder = next((path.resolve() for path in places if path.resolve().parent == Path(ROOT).resolve()), None)
    if folder is None:
        return []
    for note in read_notes(Path(STORE))[0]:
        if Path(note.folder) == folder:
            return [word for word in shlex.split(note.command)[2:] if "=" in word and not word.startswith("-")]
    raise ConfigError(f"{folder.name}: {STORE} does not know which command wrote this folder; name its study and words")


def with_words(overrides: Sequence[str]) -> list[str]:
    """Return the words of a study, with those of its run in place of `study=NAME-HASH` or `study=NAME-latest`.

    Raises:
        ConfigError: If the store does not know the run of such a folder.
    """
    from expunge.cli.config_files import options

    out: list[str] = []
    for word in overrides:
        name = word.removeprefix("study=")
        is_folder = word.startswith("study=") and name not in options("study") and not os.path.isfile(name)
        out += (words_of_folder(name) if is_folder else []) or [word]
    return out
