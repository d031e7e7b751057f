"""FAME's splits and languages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from expunge.core.errors import DataError
from expunge.data.loaders.fame import LANGUAGES, load_fame


def write_fame(folder: Path, languages: Any = (0, 1, 2, 3, 4)) -> Path:
    """Two rows for each language and split, in the published columns."""
    for split in ("forget", "retain", "test"):
        rows = [
            {
                "identity_id": i,
                "name": f"{split} {i}",
                "language": language,
                "topic_id": f"t{i}",
                "question": f"{split} {language} {i}?",
                "answer": f"Réponse {i}.",
            }
            for language in languages
            for i in range(2)
        ]
        (folder / f"{split}.json").write_text(json.dumps(rows))
    return folder


def test_class_labels_are_languages(tmp_path: Path) -> None:
    sets = load_fame(str(write_fame(tmp_path)), LANGUAGES)
    assert {name: len(rows) for name, rows in sets.items()} == {"forget": 10, "retain": 10, "holdout": 10}
    row = sets["forget"][2]
    assert row.meta == {"language": "EN", "person": "0", "topic": "t0"} and row.question == "forget 1 0?"


def test_some_languages_and_names_in_place_of_labels(tmp_path: Path) -> None:
    sets = load_fame(str(write_fame(tmp_path, ("fr", "IT", "1"))), ("FR", "EN"))
    assert [row.meta["language"] for row in sets["retain"]] == ["FR", "FR", "EN", "EN"]
    assert [row.row_id for row in sets["retain"]] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("language", "message"), [("EM", "row 0: language='EM' is none of DE"), (7, "language=7 is none"), (None, "None")]
)
def test_an_unknown_language(tmp_path: Path, language: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_fame(str(write_fame(tmp_path, (language,))), LANGUAGES)


def test_no_row_in_a_language(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no row in IT"):
        load_fame(str(write_fame(tmp_path, (1,))), ("IT",))
