"""Verify a store: recompute the checksums of all files and compare them with the records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from expunge.core.errors import JobError
from expunge.core.fingerprints import fingerprint
from expunge.core.sealed import read_sealed
from expunge.engine.job import Job, in_order
from expunge.engine.record import RECORD, Record, proof, read_record
from expunge.engine.store import PASSPORTS, Store, wrong_file

OnProgress = Callable[[int, int], None]
TRASH = ".trash"  # in the store: the results that the last `expunge gc` moved away


@dataclass(frozen=True)
class StoreFault:
    """A file or folder that differs from its record, and the reason."""

    path: Path
    reason: str


@dataclass(frozen=True)
class VerifyReport:
    """The result of a verification: totals and faults.

    waiting: jobs of the study that are not done.
    """

    folders: int
    files: int
    bytes: int
    faults: tuple[StoreFault, ...]
    waiting: int = 0


def verify_store(store: Store, on_progress: OnProgress) -> VerifyReport:
    """Verify every file of a store: results, the trash of `expunge gc`, and the passports of models."""
    notes = [f for f in sorted((store.root / PASSPORTS).glob("*.json")) if not _sealed(f)]
    folders = [*artifacts(store.root), *artifacts(store.root / TRASH)]
    report = _verify(folders, store.root, on_progress)
    faults = (*report.faults, *(StoreFault(file, "is damaged; remove it") for file in notes))
    return VerifyReport(report.folders, report.files, report.bytes, faults)


def verify_jobs(jobs: Sequence[Job], store: Store, on_progress: OnProgress) -> VerifyReport:
    """Verify the artifacts of some jobs and their ancestors.

    A parent of a finished job must exist, unless it is ephemeral.
    """
    ordered = in_order(jobs)
    here = [job for job in ordered if store.path(job).is_dir()]
    required = {p.key for job in here for p in job.parents.values() if not p.ephemeral}
    have = {job.key for job in here}
    missing = [StoreFault(store.path(j), f"{j.name} has vanished") for j in ordered if j.key in required - have]
    other = [StoreFault(store.path(j), f"holds another job's record than {j.name}") for j in here if _others(store, j)]
    report = _verify([store.path(job) for job in here], store.root, on_progress)
    waiting = sum(job.key not in have and not job.ephemeral for job in ordered) - len(missing)
    faults = (*missing, *other, *report.faults)
    return VerifyReport(report.folders, report.files, report.bytes, faults, waiting)


def root(jobs: Sequence[Job], store: Store) -> str:
    """Return the fingerprint of the results of the finished jobs and of all results that these were computed from."""
    records = {job.key: store.readable_record(job) for job in jobs}
    return fingerprint({key: proof(record) for key, record in records.items() if record is not None})


def artifacts(root: Path) -> list[Path]:
    """Return the folders of finished jobs."""
    return [folder for kind in _visible(root) for folder in _visible(kind)]


def _visible(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("*") if p.is_dir() and not p.name.startswith("."))


def _sealed(file: Path) -> bool:
    try:
        read_sealed(file)
    except (OSError, ValueError):
        return False
    return True


def _others(store: Store, job: Job) -> bool:
    try:
        record = read_record(store.path(job) / RECORD)
    except JobError:
        return False  # `_verify` reports it with its folder
    return record is not None and record["key"] != job.key


def _verify(folders: Iterable[Path], root: Path, on_progress: OnProgress) -> VerifyReport:
    listed = list(folders)
    sums: dict[tuple[int, ...], str] = {}
    faults: list[StoreFault] = []
    records: dict[Path, Record] = {}
    files = size = 0
    for number, folder in enumerate(listed):
        on_progress(number, len(listed))
        try:
            record = _record_of(folder, root)
        except JobError as error:
            faults.append(StoreFault(folder / RECORD, str(error).removeprefix(f"{folder / RECORD} ")))
            continue
        if record is None:
            faults.append(StoreFault(folder, f"has lost its {RECORD}"))
            continue
        records[folder] = record
        present = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - {RECORD}
        moved = not (folder / RECORD).exists()  # the trash holds some files of a result that stays
        for name in present if moved else sorted({*record["files"]} - {*record.get("removed", ())}):
            if name in record["files"]:
                sha, n_bytes = record["files"][name]
                files, size = files + 1, size + n_bytes
                reason = wrong_file(folder / name, sha, n_bytes, sums)
                faults += [StoreFault(folder / name, reason)] if reason else []
        faults += [StoreFault(folder / n, "is not in the record") for n in sorted(present - {*record["files"]})]
    on_progress(len(listed), len(listed))
    return VerifyReport(len(listed), files, size, (*faults, *_broken_chains(records)))


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
