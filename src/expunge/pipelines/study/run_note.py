"""The folder of a study, and the state of its run in a small file of the store that others read (`expunge ui`)."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from expunge.core.decode import decode
from expunge.core.errors import ConfigError
from expunge.core.files import read_sealed, write_sealed
from expunge.core.fingerprints import fingerprint
from expunge.engine.lease import process_start
from expunge.engine.run import JobEvent
from expunge.engine.store import Store
from expunge.pipelines.study.graph import ModelNode, StudyGraph
from expunge.report.display import Display

RUNS = ".runs"  # in the store, sealed
EVERY_S = 2.0  # seconds between two writes while jobs run
SILENT_S = 600.0  # seconds after which a run on another machine counts as stopped
State = Literal["running", "done", "failed", "stopped"]


@dataclass(frozen=True, kw_only=True)
class RunNote:
    """The state of a run, as it was written.

    jobs: done, failed and all. left_s: seconds left, an estimate. running: name, units done, all units, seconds so far.
    models: a line per model: label, role, seed, and the folder of its metrics in the store.
    """

    study: str
    folder: str
    command: str
    state: State
    began: float
    updated: float
    host: str
    pid: int
    process: str
    done: int = 0
    failed: int = 0
    total: int = 0
    left_s: float = 0.0
    running: tuple[tuple[str, int, int, float], ...] = ()
    models: tuple[tuple[str, str, str, str], ...] = ()

    def __post_init__(self) -> None:
        if "\0" in self.folder or not Path(self.folder).is_absolute():
            raise ValueError("folder must be an absolute path")
        if any("\0" in place for *_, place in self.models):
            raise ValueError("models must have folders of the store")

    @property
    def present(self) -> State:
        """The state now: a run whose process has ended without a word is stopped."""
        if self.state != "running":
            return self.state
        if self.host != socket.gethostname():
            return "running" if time.time() - self.updated < SILENT_S else "stopped"
        return "running" if process_start(self.pid) == self.process else "stopped"


class NoteWriter:
    """Passes the events of a run to a display, and writes its numbers to the store, at most every two seconds.

    A store that cannot be written has no note: a note is no result.
    """

    def __init__(self, display: Display, store: Store, graph: StudyGraph, command: str, *, last: bool = True) -> None:
        self._display, self._graph, self._store = display, graph, store
        self._command, self._last = command, last
        self._began, self._written, self._failed = time.time(), 0.0, 0
        self._models = tuple(_models(graph, store))

    def __enter__(self) -> NoteWriter:
        self._write("running")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._models = tuple(_models(self._graph, self._store))  # a folder may have got another label
        ended: State = "stopped" if kind else "running" if not self._last else "failed" if self._failed else "done"
        self._write(ended)

    def tell(self, event: JobEvent) -> None:
        """Show an event, and write the note if the last one is old."""
        self._display.tell(event)
        self._failed += event.what in ("failed", "blocked")
        if time.monotonic() - self._written > EVERY_S:
            self._write("running")

    def _write(self, state: State) -> None:
        folder = self._graph.study.output_dir.absolute()
        now = self._display.state()
        note = {
            "study": self._graph.study.name,
            "folder": str(folder),
            "command": self._command,
            "state": state,
            "began": self._began,
            "updated": time.time(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "process": process_start(os.getpid()),
            "done": now.done,
            "failed": self._failed,
            "total": now.total,
            "left_s": round(now.left_s, 1),
            "running": [list(job) for job in now.running],
            "models": [list(model) for model in self._models],
        }
        with contextlib.suppress(OSError):
            write_sealed(self._store.root / RUNS / f"{folder.name}-{fingerprint(str(folder))[:8]}.json", note)
        self._written = time.monotonic()


def _models(graph: StudyGraph, store: Store) -> Iterator[tuple[str, str, str, str]]:
    for cell, part in (graph.cells or {"": graph}).items():
        for leaf in part.leaves:
            label = f"{cell}/{leaf.label}" if cell else leaf.label
            yield label, leaf.role, "" if leaf.seed is None else str(leaf.seed), _folder(leaf, store)


def _folder(leaf: ModelNode, store: Store) -> str:
    return store.path(leaf.metrics).relative_to(store.root).as_posix()


def read_notes(root: Path) -> tuple[list[RunNote], list[str]]:
    """Return the notes of a store, the last change first, and a line for each file that is no note."""
    notes, damaged = [], []
    for file in sorted((root / RUNS).glob("*.json")):
        try:
            notes.append(decode(RunNote, read_sealed(file), where=file.name))
        except (OSError, ValueError, ConfigError) as error:
            damaged.append(f"{file.name}: {error}")
    return sorted(notes, key=lambda note: -note.updated), damaged


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
