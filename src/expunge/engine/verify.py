"""Verify a store: recompute the checksums of all files and compare them with the records."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from expunge.core.errors import JobError
from expunge.core.files import NOTE, check_sealed_folder, read_sealed
from expunge.core.fingerprints import difference, fingerprint, open_regular
from expunge.engine.job import Job, in_order
from expunge.engine.lease import LOCKS
from expunge.engine.record import DIGESTS, LEFTOVER, RECORD, Record, proof, read_record
from expunge.engine.store import CHECKPOINTS, Store, wrong_file

OnProgress = Callable[[int, int], None]
TRASH = ".trash"  # in the store: the results that the last `expunge gc` moved away
_DAMAGED_NOTE = "is damaged, or was written by an earlier version; remove it, because no result depends on it"
_DAMAGED_CHECKPOINT = "no result depends on it: its run resumes from an earlier checkpoint, or starts again"
_TRIES = 5  # checks of a folder that another process changes


@dataclass(frozen=True)
class StoreFault:
    """A file or folder that differs from its record, and the reason. note: no result depends on the file."""

    path: Path
    reason: str
    note: bool = False


@dataclass(frozen=True)
class VerifyReport:
    """The result of a verification: totals and faults.

    files, bytes: of the folders. checkpoints: of unfinished runs. notes: sealed files that are neither of these.
    waiting: jobs of the study that are not done.
    """

    folders: int
    files: int
    bytes: int
    faults: tuple[StoreFault, ...]
    waiting: int = 0
    checkpoints: int = 0
    notes: int = 0


def verify_store(store: Store, on_progress: OnProgress) -> VerifyReport:
    """Verify every file of a store: results, the trash of `expunge gc`, checkpoints, passports of models, other notes.

    Lock files are left out: they are empty, or name the process that holds them.
    """
    notes = _notes(store.root)
    damaged = [StoreFault(file, _DAMAGED_NOTE, note=True) for file in notes if not _sealed(file)]
    folders = [*artifacts(store.root), *artifacts(store.root / TRASH)]
    report = _verify(folders, store.root, on_progress)
    checkpoints = _checkpoints(store.root / CHECKPOINTS)
    faults = (*report.faults, *damaged, *_checkpoint_faults(checkpoints))
    return replace(report, faults=faults, checkpoints=len(checkpoints), notes=len(notes))


def verify_jobs(jobs: Sequence[Job], store: Store, on_progress: OnProgress) -> VerifyReport:
    """Verify the artifacts of some jobs and their ancestors, and the checkpoints of unfinished jobs.

    A parent of a finished job must exist, unless it is ephemeral.
    """
    ordered = in_order(jobs)
    here = [job for job in ordered if store.path(job).is_dir()]
    required = {p.key for job in here for p in job.parents.values() if not p.ephemeral}
    have = {job.key for job in here}
    missing = [
        StoreFault(store.path(j), f"{j.name} has vanished")
        for j in ordered
        if j.key in required - have and not store.path(j).is_dir()  # a run may have finished it meanwhile
    ]
    other = [StoreFault(store.path(j), f"holds another job's record than {j.name}") for j in here if _others(store, j)]
    report = _verify([store.path(job) for job in here], store.root, on_progress)
    waiting = sum(job.key not in have and not job.ephemeral for job in ordered) - len(missing)
    checkpoints = [place for job in ordered for place in _checkpoints(store.unfinished(job))]
    faults = (*missing, *other, *report.faults, *_checkpoint_faults(checkpoints))
    return replace(report, faults=faults, waiting=waiting, checkpoints=len(checkpoints))


def root(jobs: Sequence[Job], store: Store) -> str:
    """Return the fingerprint of the results of the finished jobs and of all results that these were computed from."""
    records = {job.key: store.readable_record(job) for job in jobs}
    return fingerprint({key: proof(record) for key, record in records.items() if record is not None})


def artifacts(root: Path) -> list[Path]:
    """Return the folders of finished jobs."""
    return [folder for kind in _visible(root) for folder in _visible(kind)]


def _visible(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("*") if p.is_dir() and not p.name.startswith("."))


def _notes(root: Path) -> list[Path]:
    """Return the sealed files in the hidden folders of a store, and those of a program next to its results."""
    folders = [folder for folder in root.glob(".*") if folder.name not in (LOCKS, CHECKPOINTS, TRASH)]
    files = [*root.glob("[!.]*.json"), *(file for folder in folders for file in folder.glob("[!.]*"))]
    return sorted(file for file in files if file.is_file())


def _sealed(file: Path) -> bool:
    """Return whether a note is as it was written and has its own name, or another process has removed it."""
    try:
        return bool(read_sealed(file).get(NOTE, file.name) == file.name)
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False


def _checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints below a folder, without checkpoints that a running process writes or removes."""
    places = sorted(Path(place) for place, _, files in os.walk(folder) if files)
    return [p for p in places if not any(name.startswith(".") for name in p.relative_to(folder).parts)]


def _checkpoint_faults(places: Iterable[Path]) -> list[StoreFault]:
    """Return the damaged checkpoints."""
    reasons = [(place, _checkpoint(place)) for place in places]
    return [StoreFault(place, f"{why}; {_DAMAGED_CHECKPOINT}", note=True) for place, why in reasons if why is not None]


def _checkpoint(place: Path) -> str | None:
    """Return the fault of a checkpoint, or None. One that a process removes or replaces meanwhile is read again."""
    reason = None
    for _ in range(_TRIES):
        try:
            before = os.stat(place)
        except FileNotFoundError:
            return None
        try:
            check_sealed_folder(place)
            return None
        except ValueError as error:
            reason = str(error)
        except OSError as error:
            reason = f"cannot be read: {error.strerror or error}"
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(place), before):
                return reason
    return None


def _others(store: Store, job: Job) -> bool:
    try:
        record = read_record(store.path(job) / RECORD)
    except JobError:
        return False  # `_verify` reports it with its folder
    return record is not None and record["key"] != job.key


def _verify(folders: Iterable[Path], root: Path, on_progress: OnProgress) -> VerifyReport:
    listed = list(folders)
    sums: dict[tuple[int, ...], str] = {}
    checks: dict[Path, _Check] = {}
    for number, folder in enumerate(listed):
        on_progress(number, len(listed))
        checks[folder] = _settled_check(folder, root, sums)
    on_progress(len(listed), len(listed))
    records = {folder: check.record for folder, check in checks.items() if check.record is not None}
    faults = [fault for check in checks.values() for fault in check.faults]
    files, size = sum(c.files for c in checks.values()), sum(c.bytes for c in checks.values())
    return VerifyReport(len(listed), files, size, (*faults, *_broken_chains(records), *_inconsistencies(records)))


class _Check(NamedTuple):
    """The check of one folder: its record, its files and bytes, and its faults."""

    record: Record | None = None
    files: int = 0
    bytes: int = 0
    faults: tuple[StoreFault, ...] = ()


def _settled_check(folder: Path, root: Path, sums: dict[tuple[int, ...], str]) -> _Check:
    """Check a folder, and again if another process (`expunge gc`, a run) changed it meanwhile. No faults if it left."""
    for _ in range(_TRIES):
        before = _state(folder, root)
        check = _check(folder, root, sums)
        if not check.faults or _state(folder, root) == before:
            break
    return check if folder.is_dir() else _Check()


def _state(folder: Path, root: Path) -> tuple[object, ...]:
    """Return the names of a folder's files and the bytes of its record, which show a change by another process."""
    try:
        names = sorted(str(p) for p in folder.rglob("*"))
    except FileNotFoundError:  # a folder that another process moves
        names = []
    state: list[object] = [names]
    for file in (folder / RECORD, root / folder.parent.name / folder.name / RECORD):
        try:
            with open_regular(file) as content:
                state.append(content.read())
        except OSError:
            state.append(None)
    return tuple(state)


def _check(folder: Path, root: Path, sums: dict[tuple[int, ...], str]) -> _Check:
    try:
        record = _record_of(folder, root)
    except JobError as error:
        return _Check(faults=(StoreFault(folder / RECORD, str(error).removeprefix(f"{folder / RECORD} ")),))
    if record is None:
        return _Check(faults=(StoreFault(folder, f"has lost its {RECORD}"),))
    try:
        paths = [p for p in folder.rglob("*") if p.is_file() and not p.match(LEFTOVER)]
    except FileNotFoundError:  # a folder that another process moves
        return _Check(faults=(StoreFault(folder, "has vanished"),))
    present = {p.relative_to(folder).as_posix() for p in paths} - {RECORD}
    moved = not (folder / RECORD).exists()  # the trash holds some files of a result that stays
    faults: list[StoreFault] = []
    files = size = 0
    for name in present if moved else sorted({*record["files"]} - {*record.get("removed", ())}):
        if name in record["files"]:
            sha, n_bytes = record["files"][name]
            files, size = files + 1, size + n_bytes
            reason = wrong_file(folder / name, sha, n_bytes, sums)
            faults += [StoreFault(folder / name, reason)] if reason else []
    faults += [StoreFault(folder / n, "is not in the record") for n in sorted(present - {*record["files"]})]
    return _Check(record, files, size, tuple(faults))


def _record_of(folder: Path, root: Path) -> Record | None:
    """Return the record of a folder; of single files in the trash that of the result that they belong to."""
    record = read_record(folder / RECORD)
    if record is None and TRASH in folder.parts:
        return read_record(root / folder.parent.name / folder.name / RECORD)
    return record


def _broken_chains(records: dict[Path, Record]) -> list[StoreFault]:
    """Return the results that were computed from another result of a parent."""
    by_key = {record["key"]: record for folder, record in records.items() if TRASH not in folder.parts}
    return [
        StoreFault(folder, f"was computed from another result of its {role}; move the folder away and run again")
        for folder, record in records.items()
        for role, proven in record["chain"].items()
        if record["parents"][role] in by_key and proof(by_key[record["parents"][role]]) != proven
    ]


def _inconsistencies(records: dict[Path, Record]) -> list[StoreFault]:
    """Return one fault for each job whose outputs differ from those of most jobs with equal inputs, or the earlier."""
    notes: dict[str, dict[str, dict[str, tuple[Path, list[str]]]]] = {}  # inputs -> output -> job
    for folder, record in sorted(records.items(), key=lambda item: str(item[1].get("finished"))):
        for inputs, own in record.get(DIGESTS, {}).items():
            jobs = notes.setdefault(inputs, {}).setdefault(own[1], {})
            if own[2] not in jobs or own[2] == f"{folder.parent.name}/{folder.name}":
                jobs[own[2]] = folder, own
    faults: dict[str, StoreFault] = {}
    for outputs in notes.values():
        _, usual = next(iter(max(outputs.values(), key=len).values()))
        for job, (folder, own) in (one for jobs in outputs.values() for one in jobs.items()):
            reason = difference(own, usual)
            if reason:
                faults.setdefault(job, StoreFault(folder, reason))
    return list(faults.values())
