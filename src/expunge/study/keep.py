"""What a store may let go: artifacts that no named study reaches, and weights by a policy. Records, metrics and the
provenance of what a study reaches stay; weights that a later job needs are made again (`Store.restore`)."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from expunge.core.errors import JobError
from expunge.core.files import write_json
from expunge.study.graph import Graph, Leaf
from expunge.study.job import Job, in_order
from expunge.study.store import LOCKS, RECORD, Store, lock_file, read_record, sweep
from expunge.study.verify import artifacts

Keep = Literal["all", "best", "last", "none"]
LIKE_RETRAINED = 0.05  # a forget quality at which the KS test no longer tells a model from the retain model
WEIGHTS = ".safetensors"


@dataclass(frozen=True)
class Removal:
    """Something to remove: a whole folder, or the named files of one. bytes: what that frees on the disk."""

    folder: Path
    key: str
    why: str
    files: tuple[str, ...] = ()
    bytes: int = 0


def removals(graphs: Sequence[Graph], store: Store, keep: Keep) -> list[Removal]:
    """What may go. keep: whose weights stay, of the unlearned models of each study and cell; those of base, full and
    retain models always do.

    best: the model with the largest model utility among those whose forget quality is at least 0.05, else the one with
    the largest forget quality; a model without these numbers stays. last: the last of each chain of requests.
    Weights that a job which is not done reads stay too. An artifact whose record cannot be read is left alone.
    """
    jobs = {job.key: job for graph in graphs for job in in_order(graph.jobs)}
    stripped = {} if keep == "all" else _strippable(graphs, jobs, store, keep)
    out = []
    for folder in artifacts(store.root):
        try:
            record = read_record(folder / RECORD)
        except JobError:
            continue
        if record is None or not isinstance(record.get("key"), str):
            continue
        key = record["key"]
        if key not in jobs:
            out.append(Removal(folder, key, "no named study reaches it"))
        elif key in stripped:
            whole = jobs[key].passing
            files = () if whole else tuple(n for n in _weights(folder) if n not in record.get("removed", ()))
            if whole or files:
                out.append(Removal(folder, key, stripped[key], files))
    return _sized(out)


def _strippable(graphs: Sequence[Graph], jobs: Mapping[str, Job], store: Store, keep: Keep) -> dict[str, str]:
    """Keys of jobs whose weights may go, and why."""
    leaves = [list(part.leaves) for graph in graphs for part in (graph.cells or {"": graph}).values()]
    first = {leaf.model.key for part in leaves for leaf in part if leaf.model and leaf.role != "unlearn"}
    out = {k: "a step on the way" for k, j in jobs.items() if j.kind in ("train", "edit") and k not in first}
    out |= {k: "its readers are done" for k, j in jobs.items() if j.passing}
    out |= {leaf.model.key: f"keep={keep}" for part in leaves for leaf in part if leaf.model and leaf.role == "unlearn"}
    waiting = [job for job in jobs.values() if not store.there(job)]
    stays = {parent.key for job in waiting for parent in job.parents.values()} | first
    for part in leaves:
        stays |= {x.model.key for x in _kept([y for y in part if y.role == "unlearn"], store, keep) if x.model}
    return {key: why for key, why in out.items() if key not in stays}


def _kept(leaves: Sequence[Leaf], store: Store, keep: Keep) -> Iterator[Leaf]:
    """The unlearned models of one cell whose weights stay."""
    if keep == "last":
        ends = {(x.label.partition("@")[0], x.train_seed, x.seed): x for x in leaves}
        yield from ends.values()
    if keep != "best":
        return
    ranked = []
    for leaf in leaves:
        facts: Mapping[str, Any] = (store.found(leaf.metrics) or {}).get("facts", {})
        quality, utility = (facts.get(name) for name in ("forget_quality", "model_utility"))
        if quality is None or utility is None:
            yield leaf
        else:
            good = quality >= LIKE_RETRAINED
            ranked.append((good, utility if good else quality, leaf))
    if ranked:
        yield max(ranked, key=lambda r: r[:2])[2]


def _weights(folder: Path) -> list[str]:
    """The model's weights; adapters, which are small, stay."""
    return sorted(p.name for p in folder.glob(f"*{WEIGHTS}") if p.is_file())


def _sized(found: Sequence[Removal]) -> list[Removal]:
    """With the bytes that each frees: a file goes from the disk with the last of its names."""
    left: dict[tuple[int, int], int] = {}
    out = []
    for r in found:
        freed = 0
        for path in [r.folder / n for n in r.files] or [p for p in r.folder.rglob("*") if p.is_file()]:
            with contextlib.suppress(FileNotFoundError):
                stat = os.stat(path)
                where = (stat.st_dev, stat.st_ino)
                left[where] = left.get(where, stat.st_nlink) - 1
                freed += 0 if left[where] else stat.st_size
        out.append(Removal(r.folder, r.key, r.why, r.files, freed))
    return out


def remove(found: Iterable[Removal], store: Store) -> tuple[list[Removal], list[Removal]]:
    """Remove them; those removed, and those left alone because a running process makes or reads them.

    Raises JobError where the system refuses."""
    done, busy = [], []
    for r in found:
        lock = FileLock(lock_file(store.root, r.key))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            busy.append(r)
            continue
        except OSError as error:
            raise JobError(f"gc: cannot lock under {store.root}: {error.strerror or error}") from None
        try:
            if r.key in read_now(store.root):
                busy.append(r)
                continue
            _remove(r)
        except OSError as error:
            raise JobError(f"gc: cannot remove {r.folder}: {error.strerror or error}") from None
        finally:
            lock.release()
        done.append(r)
    return done, busy


def _remove(r: Removal) -> None:
    if not r.files:
        sweep(r.folder)
        return
    record = read_record(r.folder / RECORD) or {}
    gone = sorted({*record.get("removed", ()), *r.files})
    write_json(r.folder / RECORD, {**record, "removed": gone})  # first: what is named here is not missed
    for name in r.files:
        (r.folder / name).unlink(missing_ok=True)


def read_now(root: Path) -> set[str]:
    """The keys that running processes read: the parents of the jobs whose locks are held."""
    out: set[str] = set()
    for note in (root / LOCKS).glob("*.reads"):
        lock = FileLock(note.with_suffix(".lock"))
        try:
            lock.acquire(timeout=0)
            lock.release()
        except Timeout:
            with contextlib.suppress(OSError, ValueError):
                out |= set(json.loads(note.read_text(encoding="utf-8")))
    return out
