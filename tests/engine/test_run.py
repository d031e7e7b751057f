"""The runner and the store: what is done is not done again, what fails stops only what waits for it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from toy_jobs import CallJob

from expunge.core.errors import ConfigError, JobError
from expunge.engine.job import Job, Progress, in_order
from expunge.engine.run import JobEvent, plan, run
from expunge.engine.store import Store

Calls = list[str]


def job(name: str, calls: Calls, *, fails: Exception | None = None, identity: int = 0, **parents: Job) -> Job:
    """A job that writes its name, or fails after writing half of it."""

    def do(folder: Path, inputs: Mapping[str, Path], progress: Progress) -> Mapping[str, Any]:
        calls.append(name)
        (folder / "out.txt").write_text(name)
        progress(1, 2)
        if fails:
            raise fails
        return {"read": sorted((p / "out.txt").read_text() for p in inputs.values())}

    return CallJob(kind="toy", label=name, what={"name": name, "n": identity}, do=do, parents=parents)


def events_of(jobs: list[Job], store: Store) -> list[tuple[str, str]]:
    """The events of a run, progress left out."""
    events: list[tuple[str, str]] = []

    def tell(event: JobEvent) -> None:
        if event.what != "progress":
            events.append((event.job.label, event.what))

    run(jobs, store, tell)
    return events


def test_parents_first_each_once_then_hits(tmp_path: Path) -> None:
    calls: Calls = []
    root = job("root", calls)
    left, right = job("left", calls, model=root), job("right", calls, model=root)
    end = job("end", calls, a=left, b=right)
    store = Store(tmp_path)
    assert [p.state for p in plan([end], store)] == ["missing", "blocked", "blocked", "blocked"]
    events_of([end], store)
    assert calls == ["root", "left", "right", "end"]
    assert store.record(end)["facts"] == {"read": ["left", "right"]}  # type: ignore[index]
    assert events_of([end], store) == [(n, "hit") for n in calls]
    assert calls == ["root", "left", "right", "end"]
    assert [p.state for p in plan([end], store)] == ["hit"] * 4


def test_the_key_covers_identity_kind_and_parents_and_not_the_label() -> None:
    calls: Calls = []
    one, other = job("a", calls), job("a", calls, identity=1)
    assert one.key != other.key
    assert job("b", calls, model=one).key != job("b", calls, model=other).key
    named = dataclasses.replace(one, label="renamed")
    assert named.key == one.key
    assert dataclasses.replace(one, kind="other").key != one.key


def test_a_failure_stops_only_what_waits_for_it(tmp_path: Path) -> None:
    calls: Calls = []
    root = job("root", calls)
    bad = job("bad", calls, fails=JobError("the loss is not finite"), model=root)
    after = job("after", calls, model=bad)
    good = job("good", calls, model=root)
    store = Store(tmp_path)
    events = events_of([after, good], store)
    assert ("bad", "failed") in events
    assert ("after", "blocked") in events
    assert ("good", "done") in events
    assert not store.path(bad).exists()
    assert not list(tmp_path.rglob("*.part"))
    outcome = run([after, good], store, lambda event: None)
    assert outcome.failures[bad.key] == "the loss is not finite"
    assert "bad" in outcome.failures[after.key]
    assert isinstance(outcome.first, JobError)


@pytest.mark.parametrize("spoil", [lambda p: p.write_text("{"), lambda p: p.write_text(json.dumps({"key": "another"}))])
def test_a_record_that_is_not_this_jobs_is_not_taken_as_done(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    one = job("one", [])
    store = Store(tmp_path)
    events_of([one], store)
    spoil(store.path(one) / "job.json")
    with pytest.raises(JobError, match=r"one-\w+"):
        store.done(one)


def test_what_a_killed_attempt_left_is_swept(tmp_path: Path) -> None:
    one = job("one", [])
    store = Store(tmp_path)
    left = store.path(one).parent / f".{one.folder_name}.0123abcd.part"
    left.mkdir(parents=True)
    (left / "out.txt").write_text("half")
    events_of([one], store)
    assert not left.exists()
    assert store.done(one)


def test_a_store_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    with pytest.raises(ConfigError, match=r"paths\.store"):
        Store(tmp_path / "store")


def test_in_order_lists_equal_jobs_once() -> None:
    calls: Calls = []
    root, twin = job("root", calls), job("root", calls)
    a, b = job("a", calls, model=root), job("b", calls, model=twin)
    assert [j.label for j in in_order([a, b])] == ["root", "a", "b"]
