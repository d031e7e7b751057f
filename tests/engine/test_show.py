"""Results of the store in a folder of the user's: copies, names of the folder's own, and files that stay."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from toy_jobs import CallJob

from expunge.engine.retention import GarbagePlan, remove
from expunge.engine.run import run
from expunge.engine.show import show
from expunge.engine.store import Store


def two_files(out: Path, inputs: Mapping[str, Path], progress: Any) -> dict[str, Any]:
    (out / "model.safetensors").write_text("weights")
    (out / "deep").mkdir()
    (out / "deep" / "more.txt").write_text("more")
    return {}


@pytest.fixture
def job_and_store(tmp_path: Path) -> tuple[CallJob, Store]:
    job, store = CallJob(label="one", do=two_files), Store(tmp_path / "store")
    run([job], store, lambda event: None)
    return job, store


def test_all_files_are_copied(job_and_store: tuple[CallJob, Store], tmp_path: Path) -> None:
    job, store = job_and_store
    display = show(job, store, tmp_path / "out")
    assert {p.relative_to(tmp_path / "out").as_posix() for p in display} == {
        "deep/more.txt",
        "job.json",
        "model.safetensors",
    }
    assert os.stat(tmp_path / "out/model.safetensors").st_ino != os.stat(store.path(job) / "model.safetensors").st_ino


def test_named_files_under_other_names_and_only_if_they_are_there(
    job_and_store: tuple[CallJob, Store], tmp_path: Path
) -> None:
    job, store = job_and_store
    names = {"deep/more.txt": "less.txt", "absent": "absent"}
    assert show(job, store, tmp_path / "out", names=names) == [tmp_path / "out/less.txt"]


@pytest.mark.parametrize(("replace", "text"), [(False, "mine"), (True, "weights")])
def test_what_is_there_stays_unless_it_is_replaced(
    replace: bool, text: str, job_and_store: tuple[CallJob, Store], tmp_path: Path
) -> None:
    job, store = job_and_store
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.safetensors").write_text("mine")
    show(job, store, tmp_path / "out", replace=replace)
    assert (tmp_path / "out" / "model.safetensors").read_text() == text
    assert (store.path(job) / "model.safetensors").read_text() == "weights"


def test_removed_files_are_computed_again(job_and_store: tuple[CallJob, Store], tmp_path: Path) -> None:
    job, store = job_and_store
    remove([GarbagePlan(store.path(job), job.key, "test", ("model.safetensors",))], store)
    show(job, store, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").read_text() == "weights"
