"""`expunge verify` and `expunge gc`: check a store, and remove results from it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import Progress

from expunge.core.console import Console
from expunge.core.errors import ConfigError
from expunge.core.terminal import say
from expunge.report.display import size_text

if TYPE_CHECKING:
    from expunge.engine.retention import GarbagePlan
    from expunge.engine.store import Store
    from expunge.pipelines.study.config import Keep
    from expunge.pipelines.study.graph import StudyGraph
    from expunge.pipelines.study.handle import StudyHandle

SHOWN = 12  # results that the question of gc names
MODELS = ("unlearn", "train", "edit", "wrap", "pretrain", "delete", "recover", "relearn", "base")  # trained models


def verify(overrides: Sequence[str], plugins: Sequence[str], folder: Path | None) -> int:
    """Print damaged and missing files, and the root of a study's results. Returns 1 if there are faults."""
    from expunge.engine.store import Store
    from expunge.engine.verify import root, verify_jobs, verify_store

    if (folder is None) == (not overrides):
        raise ConfigError("verify: give either study=NAME or --store DIR")
    _check_store(folder)
    results = ""
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading", total=None)

        def tell(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        if folder is not None:
            report = verify_store(Store(folder), tell)
        else:
            (study,) = _studies(overrides, plugins)
            report = verify_jobs([job for graph in study.graphs for job in graph.jobs], study.store, tell)
            results = root(study.graph.jobs, study.store)
    for fault in report.faults:
        say(f"{fault.path}: {fault.reason}")
    if not all(fault.note for fault in report.faults):
        say("next: move each of these folders away and run its study again; it computes only the missing results")
    others = [(report.checkpoints, "checkpoints"), (report.notes, "notes")]
    totals = [f"{report.files} files, {size_text(report.bytes)}", *(f"{n} {noun}" for n, noun in others if n)]
    say(f"{report.folders} artifacts, {', '.join(totals)}: {len(report.faults)} faults")
    if report.waiting:
        say(f"{report.waiting} jobs of the study are not done")
    if results:
        say(f"root of the results: {results}")
    return 1 if report.faults else 0


def _check_store(folder: Path | None) -> None:
    """Raise ConfigError for a folder that is no store: each store has a folder of locks, or results."""
    from expunge.engine.lease import LOCKS
    from expunge.engine.record import RECORD
    from expunge.engine.verify import TRASH

    if folder is None:
        return
    if not folder.is_dir():
        raise ConfigError(f"--store: {folder} is no folder" if folder.exists() else f"--store: no folder {folder}")
    if not any((folder / name).is_dir() for name in (LOCKS, TRASH)) and not any(folder.glob(f"*/*/{RECORD}")):
        raise ConfigError(f"--store: {folder} is no store: it contains no results")


def collect(overrides: Sequence[str], plugins: Sequence[str], keep: Keep, *, dry_run: bool, yes: bool) -> int:
    """Move results that the named studies do not need, and weights by the policy, to the trash of the store.

    dry_run: only list them. yes: do not ask before results that no named study reaches are moved.
    """
    from expunge.engine.retention import NOT_REACHED, remove
    from expunge.pipelines.study.retention import removals

    store, graphs = _store_of(overrides, plugins)
    plans = removals(graphs, store, keep)
    others = [r for r in plans if r.why == NOT_REACHED]
    if others and not dry_run and not yes:
        _ask(f"results that no named study reaches: {_names(others, store)}")
    done, busy = (plans, []) if dry_run else remove(plans, store, to_trash=True)
    for r in done:
        files = ", ".join(r.files) or "all of it"
        say(f"{size_text(r.bytes):>10}  {r.folder.relative_to(store.root)}: {files} ({r.why})")
    for r in busy:
        say(f"in use, not removed: {r.folder.relative_to(store.root)}")
    action = "would be removed from" if dry_run else "removed from"
    say(f"{size_text(sum(r.bytes for r in done))} {action} {store.root}, in {len(done)} artifacts")
    if done and not dry_run:
        say("they are in its trash: `expunge gc --undo` brings them back, `expunge gc --empty-trash` frees the space")
    return 0


def _names(plans: Sequence[GarbagePlan], store: Store) -> str:
    """Return the places of results in the store, trained and unlearned models first: the first SHOWN, and a number."""
    order = sorted(plans, key=lambda r: (r.folder.parent.name not in MODELS, r.folder.parent.name, r.folder.name))
    names = [f"{r.folder.relative_to(store.root)} ({size_text(r.bytes)})" for r in order[:SHOWN]]
    more = len(plans) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def _ask(what: str) -> None:
    """Ask on the terminal whether to go on. Raises ConfigError for another answer than yes, or without a terminal."""
    if not sys.stdin.isatty():
        raise ConfigError(f"gc: would remove {what}; name their studies as well, or add --yes (--dry-run lists all)")
    if input(f"Remove {what}? [y/N] ").strip().lower() not in ("y", "yes"):
        raise ConfigError("gc: nothing was removed")


def trash(overrides: Sequence[str], plugins: Sequence[str], folder: Path | None, *, undo: bool) -> int:
    """Bring back the results in the trash of a store (`undo`), or remove them for good. Returns 1 if some stay."""
    from expunge.engine.retention import empty_trash, restore_trash
    from expunge.engine.store import Store
    from expunge.pipelines.study.config import StudyPaths

    if folder is None and not overrides:
        folder = Path(StudyPaths().store)
    _check_store(folder)
    store = Store(folder) if folder is not None else _store_of(overrides, plugins)[0]
    if not undo:
        print(f"{size_text(empty_trash(store))} freed in {store.root}")
        return 0
    done, stays = restore_trash(store)
    for place in stays:
        print(f"{place}: stays in the trash, because the result exists again, is in use or is damaged")
    print(f"{len(done)} artifacts restored in {store.root}")
    return 1 if stays else 0


def _store_of(overrides: Sequence[str], plugins: Sequence[str]) -> tuple[Store, list[StudyGraph]]:
    """Return the one store of the named studies, and their graphs."""
    if not overrides:
        raise ConfigError("gc: name every study that is to stay: study=A study=B")
    studies = _studies(overrides, plugins)
    roots = {study.store.root.resolve() for study in studies}
    if len(roots) > 1:
        raise ConfigError("gc: the studies have different stores; name studies of one store")
    if any(study.swept and not study.swept.stage.last for study in studies):
        raise ConfigError("gc: the trials of a sweep are not all done, so its choice is not known; run the sweep first")
    return studies[0].store, [graph for study in studies for graph in study.graphs]


def _studies(overrides: Sequence[str], plugins: Sequence[str]) -> list[StudyHandle]:
    """Return a study for each `study=`, with the other words applied to all."""
    from expunge.pipelines.study.handle import load_study

    named = [word for word in overrides if word.startswith("study=")]
    others = [word for word in overrides if word not in named]
    return [load_study([word, *others], plugins) for word in named] or [load_study(overrides, plugins)]
