"""What a store may let go: artifacts that no named study reaches, and weights by a policy. Records, metrics and the
provenance of what a study reaches stay; weights that a later job needs are made again (`Store.restore`)."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from expunge.core.errors import JobError
from expunge.core.files import write_json
from expunge.core.fingerprints import file_sha256
from expunge.study.config import Keep
from expunge.study.delta import SUFFIX as DELTA
from expunge.study.delta import pack, unpack
from expunge.study.graph import ModelNode, StudyGraph
from expunge.study.job import Job, in_order
from expunge.study.store import LOCKS, RECORD, Store, lock_file, read_record, sweep
from expunge.study.verify import artifacts

LIKE_RETRAINED = 0.05  # a forget quality at which the KS test no longer tells a model from the retain model
WEIGHTS = ".safetensors"


@dataclass(frozen=True)
class GarbagePlan:
    """Something to remove: a whole folder, or the named files of one. bytes: what that frees on the disk."""

    folder: Path
    key: str
    why: str
    files: tuple[str, ...] = ()
    bytes: int = 0


def removals(graphs: Sequence[StudyGraph], store: Store, keep: Keep) -> list[GarbagePlan]:
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
            out.append(GarbagePlan(folder, key, "no named study reaches it"))
        elif key in stripped:
            whole = jobs[key].passing
            files = () if whole else tuple(_weights(folder))
            if whole or files:
                out.append(GarbagePlan(folder, key, stripped[key], files))
    return _sized(out)


@dataclass(frozen=True)
class DeltaPacking:
    """Weights to keep as their difference from the same file of a parent. bytes: what they take; saved: what that frees
    once it is done."""

    folder: Path
    parent: Path
    role: str
    key: str
    files: tuple[str, ...]
    bytes: int
    saved: int = 0


def packings(graphs: Sequence[StudyGraph], store: Store, going: Iterable[GarbagePlan] = ()) -> list[DeltaPacking]:
    """The weights of unlearned models that can be kept as differences: those that do not go, whose parent is there."""
    gone = {r.key for r in going}
    out: dict[str, DeltaPacking] = {}
    for leaf in (leaf for graph in graphs for leaf in graph.leaves if leaf.role == "unlearn"):
        job = leaf.model
        if job is None or job.key in gone | set(out) or not store.there(job):
            continue
        role = "model" if "model" in job.parents else "base"
        parent = job.parents.get(role)
        if parent is None or not store.there(parent):
            continue
        folder, other = store.path(job), store.path(parent)
        files = tuple(p.name for p in sorted(folder.glob(f"*{WEIGHTS}")) if (other / p.name).is_file())
        if files:
            out[job.key] = DeltaPacking(
                folder, other, role, job.key, files, sum((folder / n).stat().st_size for n in files)
            )
    return list(out.values())[::-1]  # later links of a chain first: their parents are still whole


def pack_all(found: Iterable[DeltaPacking], store: Store) -> tuple[list[DeltaPacking], list[DeltaPacking]]:
    """Pack them, each checked to come back with the same bytes before its weights go; those packed, and those in use.

    Raises JobError where the system refuses."""
    done, busy = [], []
    for p in found:
        with _locked(store, p.key) as mine:
            if mine:
                done.append(dataclasses.replace(p, saved=_pack(p)))
            else:
                busy.append(p)
    return done, busy


def _pack(p: DeltaPacking) -> int:
    """The bytes that it frees."""
    record = read_record(p.folder / RECORD) or {}
    files = dict(record.get("files", {}))
    for name in p.files:
        delta, back = p.folder / (name + DELTA), p.folder / f".{name}.back"
        try:
            pack(p.folder / name, p.parent / name, delta)
            unpack(delta, p.parent / name, back)
        except BaseException:
            delta.unlink(missing_ok=True)
            raise
        finally:
            back.unlink(missing_ok=True)
        files[delta.name] = [file_sha256(delta), delta.stat().st_size]
    gone = sorted({*record.get("removed", ()), *p.files})
    packed = {**record.get("packed", {}), **dict.fromkeys(p.files, p.role)}
    write_json(p.folder / RECORD, {**record, "files": files, "removed": gone, "packed": packed})
    for name in p.files:
        (p.folder / name).unlink()
    return p.bytes - sum(files[name + DELTA][1] for name in p.files)


def after_run(graphs: Sequence[StudyGraph], store: Store, keep: Keep, *, delta: bool) -> list[GarbagePlan]:
    """What a study lets go when it is done, removed: weights by its policy, never what it does not reach itself."""
    jobs = {job.key for graph in graphs for job in in_order(graph.jobs)}
    found = [r for r in removals(graphs, store, keep) if r.key in jobs] if keep != "all" else []
    done, _ = remove(found, store)
    if delta:
        pack_all(packings(graphs, store, found), store)
    return done


def _strippable(graphs: Sequence[StudyGraph], jobs: Mapping[str, Job], store: Store, keep: Keep) -> dict[str, str]:
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


def _kept(leaves: Sequence[ModelNode], store: Store, keep: Keep) -> Iterator[ModelNode]:
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
    found = [*folder.glob(f"*{WEIGHTS}"), *folder.glob(f"*{WEIGHTS}{DELTA}")]
    return sorted(p.name for p in found if p.is_file())


def _sized(found: Sequence[GarbagePlan]) -> list[GarbagePlan]:
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
        out.append(GarbagePlan(r.folder, r.key, r.why, r.files, freed))
    return out


def remove(found: Iterable[GarbagePlan], store: Store) -> tuple[list[GarbagePlan], list[GarbagePlan]]:
    """Remove them; those removed, and those left alone because a running process makes or reads them.

    Raises JobError where the system refuses."""
    done: list[GarbagePlan] = []
    busy: list[GarbagePlan] = []
    for r in found:
        with _locked(store, r.key) as mine:
            if mine:
                _remove(r)
            (done if mine else busy).append(r)
    return done, busy


@contextlib.contextmanager
def _locked(store: Store, key: str) -> Iterator[bool]:
    """The lock of an artifact, if no running process makes or reads it. Raises JobError where the system refuses."""
    lock = FileLock(lock_file(store.root, key))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    except OSError as error:
        raise JobError(f"gc: cannot lock under {store.root}: {error.strerror or error}") from None
    try:
        yield key not in read_now(store.root)
    except OSError as error:
        raise JobError(f"gc: cannot change the artifact {key[:12]}: {error.strerror or error}") from None
    finally:
        lock.release()


def _remove(r: GarbagePlan) -> None:
    if not r.files:
        sweep(r.folder)
        return
    record = read_record(r.folder / RECORD) or {}
    files = {n: v for n, v in record.get("files", {}).items() if not (n.endswith(DELTA) and n in r.files)}
    packed = {n: v for n, v in record.get("packed", {}).items() if n + DELTA not in r.files}
    gone = sorted({*record.get("removed", ()), *(n for n in r.files if not n.endswith(DELTA))})
    changed = {**record, "files": files, "removed": gone, "packed": packed}
    write_json(r.folder / RECORD, changed)  # first: what is named here is not missed
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
