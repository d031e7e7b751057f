"""A run writes its state into the store, and the reader tells a run from one that was killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from expunge.cli.main import main
from expunge.engine.lease import process_start
from expunge.pipelines.study.run_note import RUNS, read_notes

WORDS = (
    "study=quickstart", "model=llama-64k", "methods=[{trainer: GradDiff}]", "data.world.authors=6",
    "data.world.questions_per_author=2", "data.world.forget_fraction=0.2", "train.num_train_epochs=1",
    "unlearn.num_train_epochs=1", "eval.generation.max_new_tokens=4",
)  # fmt: skip


@pytest.mark.slow
def test_a_study_leaves_a_note_with_its_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", *WORDS, "-q"]) == 0
    (note,), damaged = read_notes(tmp_path / "saves" / "store")
    assert damaged == [] and (note.present, note.failed, note.running) == ("done", 0, ())
    assert note.done == note.total > 5
    assert Path(note.folder, "report.html").is_file()
    assert [(label, role) for label, role, _, _ in note.models] == [
        ("full", "full"), ("retain", "retain"), ("GradDiff", "unlearn")
    ]  # fmt: skip
    for *_, place in note.models:
        assert list((tmp_path / "saves" / "store" / place).glob("*EVAL.json"))
    assert main(["verify", "--store", str(tmp_path / "saves" / "store")]) == 0  # a note is no artifact


def test_a_process_that_has_ended_is_told_from_one_that_runs(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    start = process_start(child.pid)
    assert start not in ("", process_start(os.getpid())) or start == "?"
    assert process_start(child.pid) == start
    child.communicate(b"\n")
    assert process_start(child.pid) == ""


def test_files_that_are_no_notes_are_named(tmp_path: Path) -> None:
    (tmp_path / RUNS).mkdir()
    (tmp_path / RUNS / "a.json").write_text("[1]")
    (tmp_path / RUNS / "b.json").write_text(json.dumps({"study": "x"}))
    (tmp_path / RUNS / "c.json").write_bytes(b"\xff\xfe")
    notes, damaged = read_notes(tmp_path)
    assert notes == [] and [line.split(":")[0] for line in damaged] == ["a.json", "b.json", "c.json"]
    assert read_notes(tmp_path / "nowhere") == ([], [])
