"""Verify a store: recompute the checksums of all files and compare them with the records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from expunge.core.errors import JobError
from expunge.engine.job import Job, in_order
from expunge.engine.store import PACKED, RECORD, Store, read_record, wrong_file

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class StoreFault:
    """A file or folder that differs from its record, and the reason."""

    path: Path
    reason: str


@dataclass(frozen=True)
class VerifyReport:
    """The result of a verification: totals and faults.

    unknown: folders of earlier versions, whose records have no checksums. waiting: jobs of the study that are not done.
    """

    folders: int
    files: int
    bytes: int
    faults: tuple[StoreFault, ...]
    unknown: int = 0
    waiting: int = 0


def verify_store(store: Store, on_progress: OnProgress) -> VerifyReport:
    """Verify every artifact of a store."""
    return _verify(artifacts(store.root), on_progress)


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
    report = _verify([store.path(job) for job in here], on_progress)
    waiting = sum(job.key not in have and not job.ephemeral for job in ordered) - len(missing)
    return VerifyReport(
        report.folders, report.files, report.bytes, (*missing, *other, *report.faults), report.unknown, waiting
    )


def artifacts(root: Path) -> list[Path]:
    """Return the folders of finished jobs."""
    kinds = sorted(p for p in root.glob("*") if p.is_dir() and not p.name.startswith("."))
    return [p for kind in kinds for p in sorted(kind.iterdir()) if p.is_dir() and not p.name.startswith(".")]


def _others(store: Store, job: Job) -> bool:
    try:
        record = read_record(store.path(job) / RECORD)
    except JobError:
        return False  # `_verify` reports it with its folder
    return record is not None and record.get("key") != job.key


def _verify(folders: Iterable[Path], on_progress: OnProgress) -> VerifyReport:
    listed = list(folders)
    sums: dict[tuple[int, ...], str] = {}
    faults: list[StoreFault] = []
    files = size = unknown = 0
    for number, folder in enumerate(listed):
        on_progress(number, len(listed))
        try:
            record = read_record(folder / RECORD)
        except JobError as error:
            faults.append(StoreFault(folder / RECORD, str(error).removeprefix(f"{folder / RECORD} ")))
            continue
        if record is None:
            faults.append(StoreFault(folder, f"holds no {RECORD}"))
        elif not isinstance(record.get("files"), dict):
            unknown += 1
        else:
            faults += [StoreFault(folder, PACKED)] if record.get("packed") else []
            for name, (sha, n_bytes) in record["files"].items():
                if name not in record.get("removed", ()):
                    files, size = files + 1, size + n_bytes
                    reason = wrong_file(folder / name, sha, n_bytes, sums)
                    faults += [StoreFault(folder / name, reason)] if reason else []
    on_progress(len(listed), len(listed))
    return VerifyReport(len(listed), files, size, tuple(faults), unknown)
