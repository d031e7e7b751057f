"""The mark of a shown folder: it names a job of a store, and confirms no guess of the job's key."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from expunge.core.errors import JobError
from expunge.engine.mark import SECRET, MarkState, commitment, mark_state, write_mark
from expunge.engine.store import Store
from expunge.engine.verify import verify_store

KEY, OTHER = hashlib.sha256(b"one").hexdigest(), hashlib.sha256(b"two").hexdigest()


def test_a_mark_is_that_of_one_job_of_one_store(tmp_path: Path) -> None:
    text = write_mark(tmp_path / "a", KEY)
    assert text == write_mark(tmp_path / "a", KEY) != write_mark(tmp_path / "b", KEY)
    assert mark_state(f"{text}\n", tmp_path / "a", KEY) is MarkState.SAME
    assert mark_state(text, tmp_path / "a", OTHER) is MarkState.OTHER_JOB
    assert mark_state(text, tmp_path / "b", KEY) is MarkState.OTHER_STORE
    assert mark_state(text, tmp_path / "none", KEY) is MarkState.OTHER_STORE
    (tmp_path / "a").rename(tmp_path / "moved")
    assert mark_state(text, tmp_path / "moved", KEY) is MarkState.SAME


def test_a_mark_contains_nothing_that_its_key_gives(tmp_path: Path) -> None:
    text = write_mark(tmp_path, KEY)
    assert KEY[:16] not in text and hashlib.sha256(KEY.encode()).hexdigest()[:16] not in text
    assert commitment(text) in text and len(commitment(text)) == 64
    assert commitment(KEY) == commitment("refreshed") == ""


def test_marks_of_earlier_versions_are_recognised(tmp_path: Path) -> None:
    assert mark_state(f"{KEY}\n", tmp_path, KEY) is MarkState.PLAIN
    assert mark_state(f"{KEY} {OTHER}\n", tmp_path, f"{KEY} {OTHER}") is MarkState.PLAIN
    assert mark_state(KEY, tmp_path, OTHER) is MarkState.OTHER_JOB
    assert mark_state("refreshed", tmp_path, KEY) is MarkState.OTHER_JOB
    assert not (tmp_path / SECRET).exists()  # a comparison writes nothing


def test_processes_that_begin_together_use_one_secret(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: write_mark(tmp_path, KEY), range(32)))) == 1
    assert [p.name for p in (tmp_path / SECRET).iterdir()] == ["secret.json"]


def test_a_changed_secret_is_named(tmp_path: Path) -> None:
    text = write_mark(tmp_path, KEY)
    file = tmp_path / SECRET / "secret.json"
    data = bytearray(file.read_bytes())
    for at in range(len(data)):
        data[at] ^= 1
        file.chmod(0o644)
        file.write_bytes(bytes(data))
        with pytest.raises(JobError, match=r"secret\.json is damaged; remove it"):
            mark_state(text, tmp_path, KEY)
        assert [fault.path for fault in verify_store(Store(tmp_path), lambda done, total: None).faults] == [file]
        data[at] ^= 1


def test_a_store_that_cannot_be_written_has_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    text = write_mark(tmp_path, KEY)
    assert commitment(text) == "" and mark_state(text, tmp_path, KEY) is MarkState.OTHER_STORE
