"""Names that become folders are checked before anything runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/tmp/x", "", " ", "x" * 300, "a\x1b[31mb"])
def test_a_task_name_stays_in_its_folder(here: Path, expunge: Run, name: str) -> None:
    code, _, message = expunge("train", "benchmark=world", "model=llama-64k", "train_split=full", f"task_name={name}")
    assert code == 2 and message.splitlines()[-1].startswith("expunge: error: task_name: ")
    assert not (here / "saves").exists() and "\x1b" not in message


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("name=../x", "name"),
        ("methods=[{trainer: NPO, label: '../x'}]", "methods[0].label"),
        ("paths.output_dir=here.txt", "paths.output_dir"),
    ],
)
def test_a_study_stays_in_its_folder(here: Path, expunge: Run, word: str, key: str) -> None:
    (here / "here.txt").write_text("a file")
    code, _, message = expunge("plan", "study=quickstart", word)
    assert code == 2 and f"expunge: error: {key}: " in message and not (here / "saves").exists()
