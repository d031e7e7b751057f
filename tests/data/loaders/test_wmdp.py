"""WMDP's questions and corpora."""

from __future__ import annotations

from pathlib import Path

import pytest

from expunge.core.errors import ConfigError, DataError
from expunge.data.loaders.wmdp import wmdp_corpus, wmdp_questions


def test_questions(wmdp_folder: Path) -> None:
    sets = wmdp_questions(str(wmdp_folder), ["cyber", "bio"], style="letters", limit=5, max_length=99)
    assert {name: len(rows) for name, rows in sets.items()} == {"wmdp_cyber": 5, "wmdp_bio": 5}
    assert sets["wmdp_cyber"][1].question.startswith(
        "The following are multiple choice questions (with answers) about cybersecurity.\n\nWhich cyber fact"
    )
    assert (sets["wmdp_cyber"].max_length, sets["wmdp_cyber"][1].answer) == (99, "B")


def test_an_unknown_subject(wmdp_folder: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"data\.args\.subjects: WMDP has no subject 'chemistry'; did you mean 'chem'"
    ):
        wmdp_questions(str(wmdp_folder), ["chemistry"], style="letters", limit=0, max_length=99)


def test_a_corpus_by_name_and_by_file(wmdp_folder: Path) -> None:
    by_name = wmdp_corpus(str(wmdp_folder), "cyber-forget-corpus", name="forget", limit=0, max_length=64)
    by_file = wmdp_corpus(
        "elsewhere/none", str(wmdp_folder / "cyber-forget-corpus.jsonl"), name="forget", limit=2, max_length=64
    )
    assert (len(by_name), len(by_file), by_name.long) == (6, 2, "pieces")
    assert by_file.rows == by_name.rows[:2]


def test_a_corpus_that_is_missing(wmdp_folder: Path) -> None:
    with pytest.raises(DataError, match="bio-forget-corpus"):
        wmdp_corpus(str(wmdp_folder), "bio-forget-corpus", name="forget", limit=0, max_length=64)
