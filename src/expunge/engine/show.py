"""Show results of the store in a user's folder, as copies: a change there cannot reach the store."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from expunge.core.files import READ_WRITE, clone, read_sealed, write_sealed
from expunge.core.fingerprints import file_sha256
from expunge.engine.job import Job
from expunge.engine.record import RECORD, public_record
from expunge.engine.store import Store

MANIFEST = ".expunge-shown"  # the checksums of a folder's files, and their times
MEASURED = "evals"  # the subfolder of measurements, which contains texts of the rows and is not published


def show(
    job: Job,
    store: Store,
    folder: Path,
    *,
    names: Mapping[str, str] | None = None,
    replace: bool = False,
) -> list[Path]:
    """Copy files of a finished job into a folder. The copies share disk space if the file system can do that.

    Files that `expunge gc` has removed are recomputed first. Each file is compared with its checksum.

    Args:
        job: The finished job.
        store: The store that holds its result.
        folder: Where to show the files; created if it is missing.
        names: The files to show, each with its name in the folder. A file that the job did not write is left out. None:
            all files, under their own names.
        replace: Replace files that are in the folder already; otherwise these stay unchanged.

    Returns:
        The files that were copied.

    Raises:
        JobError: A file is damaged, or removed files cannot be computed again.
    """
    store.restore(job)
    source = store.path(job)
    files = sorted(p.relative_to(source).as_posix() for p in source.rglob("*") if p.is_file())
    target_names = {name: name for name in files} if names is None else names
    targets = []
    for name, shown in target_names.items():
        target = folder / shown
        if name not in files or (target.exists() and not replace):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        if name == RECORD:
            write_sealed(target, public_record(store.record(job) or {}), READ_WRITE)
        else:
            clone(store.file(job, name), target)
            target.chmod(target.parent.stat().st_mode & READ_WRITE)
        targets.append(target)
    return targets


def write_manifest(folder: Path) -> None:
    """Write the checksums of a folder's present files, so that `changed_files` can compare them later.

    Those of measurements stand next to them, because a checksum of scores of rows confirms a guess of the rows.
    """
    aside = folder / MEASURED
    if aside.is_dir():
        _write_manifest(aside, aside.rglob("*"), has_aside=False)
    _write_manifest(folder, (p for p in folder.rglob("*") if aside not in p.parents), has_aside=aside.is_dir())


def _write_manifest(folder: Path, listed: Iterable[Path], *, has_aside: bool) -> None:
    files = {}
    for file in sorted(p for p in listed if p.is_file() and p.name != MANIFEST):
        stat = file.stat()
        files[file.relative_to(folder).as_posix()] = [stat.st_size, stat.st_mtime_ns, file_sha256(file)]
    write_sealed(folder / MANIFEST, {"files": files, MEASURED: has_aside}, READ_WRITE)


def changed_files(folder: Path) -> list[str]:
    """Return the files that were changed or removed since the folder was written; none without a manifest."""
    try:
        manifest = read_sealed(folder / MANIFEST)
        changed = [
            name for name, (size, time, sha) in manifest["files"].items() if _differs(folder / name, size, time, sha)
        ]
    except FileNotFoundError:
        return []
    except (OSError, ValueError):
        return [MANIFEST]
    if manifest.get(MEASURED):
        aside = folder / MEASURED
        changed += [f"{MEASURED}/{n}" for n in changed_files(aside)] if (aside / MANIFEST).exists() else [MEASURED]
    return changed


def change_notes(folder: Path) -> list[str]:
    """Return a line for each file that was changed since the folder was written."""
    return [
        f"{folder / name} was changed or removed after it was written; the result in the store is as it was (move "
        "the folder away and run again to show it again)"
        for name in changed_files(folder)
    ]


def _differs(file: Path, size: int, time: int, sha: str) -> bool:
    """Return whether a file is another one. Its contents are read only if its size is the same and its time is not."""
    with contextlib.suppress(OSError):
        stat = file.stat()
        return stat.st_size != size or (stat.st_mtime_ns != time and file_sha256(file) != sha)
    return True
