"""Show results of the store in a user's folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from expunge.core.files import link
from expunge.engine.job import Job
from expunge.engine.store import Store


def show(
    job: Job,
    store: Store,
    folder: Path,
    *,
    names: Mapping[str, str] | None = None,
    replace: bool = False,
) -> list[Path]:
    """Link files of a finished job into a folder, so that they use disk space once.

    Files are hard links into the store, or copies on another file system. Files that `expunge gc` has removed are
    recomputed first.

    Args:
        job: The finished job.
        store: The store that holds its result.
        folder: Where to show the files; created if it is missing.
        names: The files to show, each with its name in the folder. A file that the job did not write is left out. None:
            all files, under their own names.
        replace: Replace files that are in the folder already; otherwise these stay unchanged.

    Returns:
        The files that were linked.

    Raises:
        JobError: Removed files cannot be computed again.
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
        link(source / name, target)
        targets.append(target)
    return targets
