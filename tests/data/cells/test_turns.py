"""Earlier turns in the shapes of other programs, and optional columns next to conversations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from expunge.core.errors import DataError
from expunge.data.custom import Columns, LoadedRows, load_examples
from expunge.data.in_memory import examples_from

TURNS = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ann"}]
PAIRS = (("Who?", "Ann"),)


def load(row: dict[str, Any], tmp_path: Path) -> LoadedRows:
    (tmp_path / "r.json").write_text(json.dumps([row]))
    return load_examples(str(tmp_path / "r.json"), "forget", Columns())


@pytest.mark.parametrize("column", ["history", "History", "turns", "Turns"])
@pytest.mark.parametrize(
    ("value", "turns"),
    [([["Who?", "Ann"]], PAIRS), ("[['Who?', 'Ann']]", PAIRS), ('[["Who?","Ann"]]', PAIRS), (TURNS, PAIRS), ("[]", ())],
)
def test_earlier_turns(column: str, value: Any, turns: Any, tmp_path: Path) -> None:
    row = {"query": "And he?", "response": "Bob", column: value}
    loaded = load(row, tmp_path)
    assert loaded.rows[0].turns == examples_from([row])[0].turns == turns
    assert ("reads query -> question, response -> answer, earlier turns;" in loaded.note) is bool(turns)


def test_turns_that_do_not_alternate_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'turns' must be a list of pairs"):
        load({"question": "Who?", "answer": "Ann", "turns": TURNS[:1]}, tmp_path)


def test_capitals_of_optional_columns_do_not_count(tmp_path: Path) -> None:
    row = {"Question": "Who?", "answer": "Ann", "Trace": "A book.", "Perturbed_Answer": ["Bob"]}
    for rows in (load(row, tmp_path).rows, examples_from([row])):
        assert rows[0].trace == "A book." and rows[0].perturbed == ["Bob"]
    with_numbers = {"question": "Who?", "answer": "Ann", "Perturbed_Answer_1": "Bob"}
    assert load(with_numbers, tmp_path).rows[0].perturbed == ["Bob"]


VARIANTS = {"paraphrased_answer": "It is Ann", "perturbed_answer": ["Bob"], "unwanted": "Ann"}
UNREAD = {"trace": "t", "turns": [["x", "y"]], "input": "i"}


def test_the_note_lists_the_columns_that_are_not_read(tmp_path: Path) -> None:
    loaded = load({"messages": TURNS, **VARIANTS, **UNREAD, "id": 3}, tmp_path)
    assert loaded.note.endswith(
        "reads messages -> question and answer, paraphrased_answer, perturbed_answer, unwanted, "
        "ignores trace, turns, input; 1 rows"
    )
    row = loaded.rows[0]
    assert row.answers == {"answer": "Ann", "paraphrase": "It is Ann", "perturbed_0": "Bob"}
    assert row.meta == {"unwanted": ["Ann"], "id": 3}
    note = load({"text": "A book", **VARIANTS, **UNREAD}, tmp_path).note
    assert note.endswith(f"reads text -> text, ignores {', '.join((*VARIANTS, *UNREAD))}; 1 rows")
