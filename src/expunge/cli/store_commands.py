"""`expunge verify` and `expunge gc`: whether the store is whole, and what it may let go."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress

from expunge.cli.display import count
from expunge.core.errors import ConfigError

if TYPE_CHECKING:
    from expunge.cli.api import StudyHandle
    from expunge.pipelines.study.config import Keep


def verify(overrides: Sequence[str], plugins: Sequence[str], folder: Path | None) -> int:
    """Print what is damaged or missing; 1 if anything is."""
    from expunge.engine.store import Store
    from expunge.engine.verify import verify_jobs, verify_store

    if (folder is None) == (not overrides):
        raise ConfigError("verify: give either study=NAME or --store DIR")
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"--store: no folder {folder}")
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading", total=None)

        def tell(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        if folder is not None:
            found = verify_store(Store(folder), tell)
        else:
            (study,) = _studies(overrides, plugins)
            found = verify_jobs([job for graph in study.graphs for job in graph.jobs], study.store, tell)
    for fault in found.faults:
        print(f"{fault.path}: {fault.reason}")
    print(f"{found.folders} artifacts, {found.files} files, {count(found.bytes)}B: {len(found.faults)} faults")
    if found.waiting:
        print(f"{found.waiting} jobs of the study are not done")
    if found.unknown:
        print(f"{found.unknown} artifacts were stored without checksums, by an earlier version")
    return 1 if found.faults else 0


def collect(overrides: Sequence[str], plugins: Sequence[str], keep: Keep, *, dry_run: bool) -> int:
    """Remove what the named studies do not reach, and weights by the policy; or only say what that would be."""
    from expunge.engine.retention import remove
    from expunge.pipelines.study.retention import removals

    studies = _studies(overrides, plugins)
    roots = {study.store.root.resolve() for study in studies}
    if len(roots) > 1:
        raise ConfigError("gc: the studies have different stores; name those of one store")
    if any(study.swept and not study.swept.stage.last for study in studies):
        raise ConfigError("gc: a sweep's trials are not all done, so what it chooses is not known; run it first")
    store, graphs = studies[0].store, [graph for study in studies for graph in study.graphs]
    found = removals(graphs, store, keep)
    done, busy = (found, []) if dry_run else remove(found, store)
    for r in done:
        what = ", ".join(r.files) or "all of it"
        print(f"{count(r.bytes) + 'B':>8}  {r.folder.relative_to(store.root)}: {what} ({r.why})")
    for r in busy:
        print(f"in use, left alone: {r.folder.relative_to(store.root)}")
    said = "would be removed from" if dry_run else "removed from"
    print(f"{count(sum(r.bytes for r in done))}B {said} {store.root}, in {len(done)} artifacts")
    return 0


def _studies(overrides: Sequence[str], plugins: Sequence[str]) -> list[StudyHandle]:
    """Each `study=` as a study, with the other words for all."""
    from expunge.cli.api import load_study

    named = [word for word in overrides if word.startswith("study=")]
    others = [word for word in overrides if word not in named]
    return [load_study([word, *others], plugins) for word in named] or [load_study(overrides, plugins)]
