"""Records in other programs' shapes are read as plain rows."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from expunge.core.errors import DataError
from expunge.data.custom import Columns, load_rows

TURNS = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ann"}]
ROW = {"question": "Who?", "answer": "Ann"}
AS_TEXT = json.dumps(TURNS).replace('"', '""')
FILES = {
    "below_a_key.jsonl": json.dumps({"data": ROW}) + "\n",
    "chat_below_a_key.jsonl": json.dumps({"data": {"messages": TURNS}}) + "\n",
    "chat_as_json.csv": f'id,messages\n1,"{AS_TEXT}"\n',
    "chat_as_python.csv": f'id,messages\n1,"{TURNS}"\n',
    "by_name.json": json.dumps({"0": ROW}),
    "squad.jsonl": json.dumps({"question": "Who?", "answers": {"text": ["Ann", "Ann"], "answer_start": [1, 9]}}) + "\n",
    "one_row.json": json.dumps({**ROW, "evidence": [{"text": "Ann wrote it."}]}),
    "squad_file.jsonl": json.dumps({"question": "Who?", "answers": [{"text": "Ann", "answer_start": 1}] * 2}) + "\n",
    "pandas_split.json": json.dumps({"columns": list(ROW), "index": [0], "data": [list(ROW.values())]}),
    "table.md": "| question | answer |\n|---|---|\n| Who? | Ann |\n",
    "commas.jsonl": json.dumps(ROW) + ",\n" + json.dumps({"question": "Where?", "answer": "Rome"}) + "\n",
}


@pytest.mark.parametrize("name", FILES)
def test_records_of_other_programs(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(FILES[name], encoding="utf-8")
    row = load_rows(str(file), "forget", Columns())[0]
    assert (row.question, row.answer) == ("Who?", "Ann")


def test_several_answers_of_squad_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "squad.jsonl"
    file.write_text(json.dumps({"question": "Who?", "answers": {"text": ["Ann", "Bob"], "answer_start": [1, 9]}}))
    with pytest.raises(DataError, match="lists 2 values"):
        load_rows(str(file), "forget", Columns())


@pytest.mark.skipif(shutil.which("jq") is None, reason="the program jq is not installed")
@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"version": "1", "data": [{"title": "t", "rows": [ROW]}]}),
        json.dumps([{"title": "t", "rows": [ROW]}]),
        json.dumps({"id": 1, "rows": ROW}) + "\n" + json.dumps({"id": 2, "rows": {**ROW, "question": "When?"}}),
    ],
)
def test_the_command_for_rows_below_a_key_writes_them(text: str, tmp_path: Path) -> None:
    file = tmp_path / "nested.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="its rows are below 'rows'") as raised:
        load_rows(str(file), "forget", Columns())
    command = str(raised.value).partition("file: ")[2].removesuffix(" > rows.json")
    done = subprocess.run(shlex.split(command), capture_output=True, check=True, text=True)
    (tmp_path / "rows.json").write_text(done.stdout, encoding="utf-8")
    assert load_rows(str(tmp_path / "rows.json"), "forget", Columns())[0].answer == "Ann"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("rows.txt", f"{json.dumps(ROW)}\n{json.dumps(ROW)}\n", "rows of a table, not texts; name the file rows.jsonl"),
        ("rows.txt", '"question","answer"\n"Who?","Ann"\n', "rows of a table, not texts; name the file rows.csv"),
        ("rows.json", '[["question", "answer"], ["Who?", "Ann"]]', "row 0: .* are names of columns; remove this row"),
        ("a.jsonl", json.dumps({"conversation": TURNS}), "'conversation' list turns of conversations; name the"),
        ("a.jsonl", json.dumps({"chosen": TURNS, "rejected": TURNS}), "'chosen', 'rejected' list turns of"),
        (
            "a.jsonl", json.dumps({"prompt": "Who?", "chosen": "Ann", "rejected": "Bob"}),
            "Write: data.args.question_column=prompt data.args.answer_column=chosen",
        ),
    ],
)  # fmt: skip
def test_shapes_that_are_not_read_are_named(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        load_rows(str(tmp_path / name), "forget", Columns())


@pytest.mark.parametrize("text", ['{"a": 1}\nA text.', "Question, she said, and answer.\nA text.", "1\n2"])
def test_texts_that_only_begin_like_a_table_are_read(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    assert load_rows(str(tmp_path / "a.txt"), "forget", Columns())[0].answer == text.split("\n")[0]


def test_lines_of_json_texts_are_plain_texts(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('"Ann wrote it."\n"Bob read it."\n')
    rows = load_rows(str(file), "forget", Columns())
    assert rows.form == "text" and [row.answer for row in rows] == ["Ann wrote it.", "Bob read it."]


def test_the_hint_for_a_missing_header_names_no_text_as_a_column(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("Who?,Ann\nWhen?,Now\n")
    with pytest.raises(DataError, match="put a line of names above it") as raised:
        load_rows(str(file), "forget", Columns())
    assert "question_column=" not in str(raised.value)
