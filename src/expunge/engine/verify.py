"""Whether what a store holds is what was stored: the checksums of all files, computed again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from expunge.core.errors import JobError
from expunge.engine.job import Job, in_order
from expunge.engine.store import PACKED, RECORD, Store, read_record, wrong_file

Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class StoreFault:
    """A file or folder that is not as it was stored, and in what way."""

    path: Path
    reason: str


@dataclass(frozen=True)
class VerifyReport:
    """What was looked at, and what is wrong. unknown: folders of earlier versions, whose records hold no checksums.
    waiting: jobs of the study that are not done."""

    folders: int
    files: int
    bytes: int
    faults: tuple[StoreFault, ...]
    unknown: int = 0
    waiting: int = 0


def verify_store(store: Store, tell: Tell) -> VerifyReport:
    """Every artifact of a store."""
    return _verify(artifacts(store.root), tell)


def verify_jobs(jobs: Sequence[Job], store: Store, tell: Tell) -> VerifyReport:
    """The artifacts of some jobs and their ancestors. A parent that a finished job was made of must be there, unless
    it is one that may go when its readers are done."""
    ordered = in_order(jobs)
    here = [job for job in ordered if store.path(job).is_dir()]
    wanted = {p.key for job in here for p in job.parents.values() if not p.ephemeral}
    have = {job.key for job in here}
    lost = [StoreFault(store.path(j), f"{j.name} has vanished") for j in ordered if j.key in wanted - have]
    other = [StoreFault(store.path(j), f"holds another job's record than {j.name}") for j in here if _others(store, j)]
    found = _verify([store.path(job) for job in here], tell)
    waiting = sum(job.key not in have and not job.ephemeral for job in ordered) - len(lost)
    return VerifyReport(found.folders, found.files, found.bytes, (*lost, *other, *found.faults), found.unknown, waiting)


def artifacts(root: Path) -> list[Path]:
    """The folders of finished jobs."""
    kinds = sorted(p for p in root.glob("*") if p.is_dir() and not p.name.startswith("."))
    return [p for kind in kinds for p in sorted(kind.iterdir()) if p.is_dir() and not p.name.startswith(".")]


def _others(store: Store, job: Job) -> bool:
    try:
        found = read_record(store.path(job) / RECORD)
    except JobError:
        return False  # told with its folder
    return found is not None and found.get("key") != job.key


def _verify(folders: Iterable[Path], tell: Tell) -> VerifyReport:
    listed = list(folders)
    sums: dict[tuple[int, ...], str] = {}
    faults: list[StoreFault] = []
    files = size = unknown = 0
    for number, folder in enumerate(listed):
        tell(number, len(listed))
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
    tell(len(listed), len(listed))
    return VerifyReport(len(listed), files, size, tuple(faults), unknown)
