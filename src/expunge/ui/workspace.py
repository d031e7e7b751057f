"""The contents of a workspace: studies, models, pages and stores of some folders. Reads finished files only.

A damaged file becomes a line that names it; nothing here raises for the contents of a file.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expunge.core.errors import DataError, JobError
from expunge.core.fingerprints import fingerprint
from expunge.engine.lease import LOCKS
from expunge.engine.record import RECORD, read_record
from expunge.engine.verify import artifacts
from expunge.pipelines.study.run_note import RunNote, read_notes
from expunge.report import query
from expunge.report.markup import plain_text

DEPTH = 5  # folders below a given one that are searched
MOST_FOLDERS = 20_000
REPORT, ERASURE, AUDIT, INSPECT = "report.html", "erasure_report.html", "audit_report.html", "inspect.html"
COMPARISONS = "compare"  # the folder of `expunge compare`
EVAL = "*EVAL.json"
SERVED = frozenset(
    {".html", ".md", ".csv", ".tex", ".svg", ".png", ".pdf", ".json", ".parquet"}
)  # endings of files that a page may link to


@dataclass(frozen=True)
class Page:
    """A page of a folder. files: the files that may be served next to it, by their relative names."""

    id: str
    kind: str  # "study", "grid", "erasure", "audit", "inspect" or "comparison"
    title: str
    name: str
    folder: Path
    files: Mapping[str, Path]
    changed: float

    @property
    def cells(self) -> int:
        """The number of cells of a grid."""
        return sum(name.endswith(f"/{REPORT}") for name in self.files)


@dataclass(frozen=True)
class Model:
    """A measured model. file: its EVAL.json; record: the record that has the file's checksum, if it is in a store."""

    id: str
    group: str
    name: str
    file: Path
    record: Path | None = None


@dataclass(frozen=True)
class StudyEntry:
    """A study. state: running, done, failed, stopped or damaged; choice: the first sentence of its report."""

    id: str
    folder: Path
    state: str
    changed: float
    page: Page | None
    models: tuple[Model, ...]
    n_models: int = 0
    methods: tuple[str, ...] = ()
    choice: str = ""
    damage: str = ""
    note: RunNote | None = None

    @property
    def name(self) -> str:
        """The name of its folder: a variant of a study has the study's name and a hash."""
        return self.folder.name


@dataclass(frozen=True)
class StoreView:
    """A store: the number of results of each kind, and the damaged ones with the reason."""

    root: Path
    kinds: Mapping[str, int]
    damaged: tuple[str, ...]


@dataclass(frozen=True)
class Workspace:
    """All that the pages show. problems: lines about folders that could not be read."""

    folders: tuple[Path, ...]
    stores: tuple[StoreView, ...]
    studies: tuple[StudyEntry, ...]
    models: tuple[Model, ...]
    pages: tuple[Page, ...]
    problems: tuple[str, ...] = ()

    @property
    def mark(self) -> str:
        """A fingerprint that changes if there is something new to show, not with the progress of a running study."""
        studies = [[s.id, s.state, s.page.changed if s.page else 0] for s in self.studies]
        return fingerprint([sorted(studies), [[p.id, p.changed] for p in self.pages]])[:16]

    def page(self, name: str) -> Page | None:
        """Return a page by its id."""
        return next((page for page in (*self.pages, *(s.page for s in self.studies)) if page and page.id == name), None)


@dataclass
class _Listing:
    """Folders of interest below the given ones."""

    stores: list[Path] = field(default_factory=list)
    reports: list[Path] = field(default_factory=list)
    pages: list[tuple[str, Path]] = field(default_factory=list)
    logs: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def scan(folders: Sequence[Path], stores: Sequence[Path]) -> Workspace:
    """Return the workspace of some folders and stores.

    Args:
        folders: Folders with reports and results, such as `saves`; they are searched five levels deep.
        stores: Further stores. Stores below the folders are found.
    """
    listing = _Listing()
    searched = list(dict.fromkeys(folder.resolve() for folder in folders))  # as in the notes of studies: without ".."
    for folder in searched:
        _search(folder, listing)
    roots = list(dict.fromkeys([*(store.resolve() for store in stores), *listing.stores]))
    notes: dict[Path, tuple[Path, RunNote]] = {}
    views = []
    for root in roots:
        noted, damaged = read_notes(root)
        for note in noted:
            place, real = Path(note.folder), Path(note.folder).resolve()
            notes.setdefault(real if real in listing.reports else place, (root, note))
        views.append(_store(root, damaged))
    near = [*searched, *(root.parent for root in roots)]
    places = dict.fromkeys([*listing.reports, *notes])
    studies = [_study(place, notes.get(place), near) for place in places]
    studies.sort(key=lambda study: (study.state != "running", -study.changed))
    models = [model for study in studies for model in study.models]
    models += [Model(_id(log), log.parent.parent.name, _log_name(log), log) for log in listing.logs]
    pages = [page for kind, file in listing.pages if (page := _page(kind, file)) is not None]
    pages.sort(key=lambda page: -page.changed)
    return Workspace(
        tuple(folders), tuple(views), tuple(studies), tuple(models), tuple(pages), tuple(listing.problems)
    )  # fmt: skip


def _search(folder: Path, listing: _Listing) -> None:
    """Add the contents of a folder. Links to folders are not followed, so no cycle and no place outside is reached."""
    waiting, seen = [(folder, 0)], 0
    while waiting:
        here, depth = waiting.pop()
        seen += 1
        if seen > MOST_FOLDERS:
            listing.problems.append(f"{folder}: has more than {MOST_FOLDERS} folders; name a smaller one")
            return
        try:
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
            if (here / LOCKS).is_dir():
                listing.stores.append(here)
                continue
            files = {entry.name for entry in entries if entry.is_file(follow_symlinks=False)}
            below = [Path(e.path) for e in entries if e.is_dir(follow_symlinks=False) and not e.name.startswith(".")]
        except OSError as error:
            listing.problems.append(f"{here}: {error.strerror or error}")
            continue
        is_study = REPORT in files
        if is_study:
            listing.reports.append(here)
        kinds = (("erasure", ERASURE), ("audit", AUDIT), ("inspect", INSPECT))
        listing.pages += [(kind, here / name) for kind, name in kinds if name in files]
        if here.name == COMPARISONS and not is_study:
            listing.pages += [("comparison", here / name) for name in sorted(files) if name.endswith(".html")]
        listing.logs += [here / name for name in sorted(files) if name.endswith("EVAL.json")]
        if depth < DEPTH:
            waiting += [(path, depth + 1) for path in reversed(below) if not (is_study and path.name == "cells")]


def _id(path: Path) -> str:
    return fingerprint(str(path))[:16]


def _log_name(log: Path) -> str:
    return log.parent.name if log.parent.name not in ("evals", "eval") else log.parent.parent.name


def _changed(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def _page(kind: str, file: Path) -> Page | None:
    """Return a page with the plain files next to it, and of a grid those of its cells."""
    try:
        cells = file.parent / "cells"
        folders = [file.parent] if kind == "study" else []
        folders += sorted(cells.glob("*")) if folders and not cells.is_symlink() else []
        files = {file.name: file}
        for folder in folders:
            if folder.is_symlink() or not folder.is_dir():
                continue
            for path in folder.iterdir():
                if path.suffix in SERVED and path.is_file() and not path.is_symlink() and path.name[0] != ".":
                    files[path.relative_to(file.parent).as_posix()] = path
    except OSError:
        return None
    title = file.stem if kind == "comparison" else file.parent.name
    kind = "grid" if kind == "study" and any("/" in name for name in files) else kind
    return Page(_id(file), kind, title, file.name, file.parent, files, _changed(file))


def _study(folder: Path, noted: tuple[Path, RunNote] | None, near: Sequence[Path]) -> StudyEntry:
    """Return a study from its folder, its note in the store, or both."""
    # A note may name any folder of the machine, also by a link or by "..".
    inside = any(folder.resolve().is_relative_to(place.resolve()) for place in near)
    page = _page("study", folder / REPORT) if inside and (folder / REPORT).is_file() else None
    n_models, methods, damage = _numbers(folder / query.FILE) if page else (0, (), "")
    choice = _choice(folder / "results.md") if page else ""
    note = noted[1] if noted else None
    state: str = note.present if note else "done"
    changed = max(page.changed if page else 0.0, note.updated if note else 0.0)
    models = tuple(_measured(*noted)) if noted else ()
    state = "damaged" if damage and state != "running" else state
    n_models = n_models or len(models)
    return StudyEntry(_id(folder), folder, state, changed, page, models, n_models, methods, choice, damage, note)


def _measured(root: Path, note: RunNote) -> Iterator[Model]:
    """Yield the finished models of a noted study."""
    for label, _, seed, place in note.models:
        folder = root / place
        if not folder.resolve().is_relative_to(root.resolve()):
            continue
        for file in sorted(folder.glob(EVAL))[:1]:
            name = f"{label}, seed {seed}" if seed else label
            yield Model(_id(file), Path(note.folder).name, name, file, folder / RECORD)


def _numbers(file: Path) -> tuple[int, tuple[str, ...], str]:
    """Return the number of models, the methods, and the damage of a study's table of results."""
    try:
        stat = file.stat()
    except OSError:
        return 0, (), ""
    return _numbers_at(file, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=2000)
def _numbers_at(file: Path, mtime_ns: int, size: int) -> tuple[int, tuple[str, ...], str]:
    try:
        table = query.read_results([file])
    except DataError as error:
        return 0, (), str(error)
    lines = table.select(["label", "method", "seed"]).to_pylist()
    methods = dict.fromkeys(str(line["method"]) for line in lines if line["method"])
    return len({(line["label"], line["seed"]) for line in lines}), tuple(methods), ""


def _choice(file: Path) -> str:
    """Return the first sentence of a report: the paragraph below the heading Verdict, with the choice."""
    try:
        text = file.read_text(encoding="utf-8")[:20_000]
    except (OSError, ValueError):
        return ""
    match = re.search(r"^## Verdict\n+(?P<text>[^\n#|]+)", text, re.MULTILINE)
    return plain_text(match["text"].strip().strip("*")) if match else ""


def _store(root: Path, damaged_notes: Sequence[str]) -> StoreView:
    """Return a store's results by kind. The records are read, not the results that they describe."""
    kinds: dict[str, int] = {}
    damaged = list(damaged_notes)
    try:
        folders = artifacts(root)
    except OSError as error:
        folders, damaged = [], [f"{root}: {error.strerror or error}"]
    for folder in folders:
        kinds[folder.parent.name] = kinds.get(folder.parent.name, 0) + 1
        try:
            stat = (folder / RECORD).stat()
        except OSError:
            damaged.append(f"{folder.parent.name}/{folder.name}: has lost its {RECORD}")
            continue
        reason = _damage(folder / RECORD, stat.st_mtime_ns, stat.st_size)
        damaged += [f"{folder.parent.name}/{folder.name}: {reason}"] if reason else []
    return StoreView(root, dict(sorted(kinds.items())), tuple(damaged))


@functools.lru_cache(maxsize=100_000)
def _damage(record: Path, mtime_ns: int, size: int) -> str:
    try:
        read_record(record)
    except JobError as error:
        return str(error).removeprefix(f"{record} ")
    return ""


def results_of(model: Model) -> Mapping[str, Any]:
    """Return a model's results by metric. Raises JobError or DataError if its file is damaged."""
    from expunge.engine.store import wrong_file
    from expunge.metrics.results import read_results

    if model.record is not None:
        record = read_record(model.record)
        if record is None or model.file.name not in record["files"]:
            raise JobError(f"{model.record} has no {model.file.name}")
        sha, n_bytes = record["files"][model.file.name]
        reason = wrong_file(model.file, sha, n_bytes, {})
        if reason:
            raise JobError(f"{model.file} {reason}")
    return read_results(model.file)[0]
