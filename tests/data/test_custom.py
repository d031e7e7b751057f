"""Files of the user's own rows: columns, forms, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from expunge.core.errors import DataError
from expunge.data.custom import Columns, continuations, load_rows, refuse_shared, retain_rows
from expunge.data.examples import ANSWER, Example, ExampleSet


def read(tmp_path: Path, name: str, text: str | bytes, columns: Columns | None = None) -> ExampleSet:
    file = tmp_path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_rows(str(file), "forget", columns or Columns())


@pytest.mark.parametrize(
    ("one", "two", "form"),
    [
        ("question", "answer", "qa"),
        ("instruction", "response", "qa"),
        ("instruction", "output", "qa"),
        ("prompt", "completion", "completion"),
        ("input", "output", "completion"),
    ],
)
def test_the_usual_columns_are_found(tmp_path: Path, one: str, two: str, form: str) -> None:
    rows = read(tmp_path, "rows.csv", f'id,{one},{two}\nx1,"Who, then?",Ann\nx2,Where?,Rome\n')
    assert [(r.question, r.answer) for r in rows] == [("Who, then?", "Ann"), ("Where?", "Rome")]
    assert rows.form == form
    assert [dict(r.meta) for r in rows] == [{"id": "x1"}, {"id": "x2"}]


def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path) -> None:
    records = [{"question": "Who?", "answer": "Ann"}, {"question": "Where?", "answer": "Rome"}]
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "rows.parquet")
    kinds = {
        "rows.csv": "question,answer\nWho?,Ann\nWhere?,Rome\n",
        "rows.json": json.dumps(records, indent=1),
        "rows.jsonl": "".join(json.dumps(r) + "\n" for r in records),
        "bom.csv": b"\xef\xbb\xbfquestion,answer\r\nWho?,Ann\r\nWhere?,Rome\r\n",
    }
    found = {read(tmp_path, name, text).fingerprint() for name, text in kinds.items()}
    found.add(load_rows(str(tmp_path / "rows.parquet"), "forget", Columns()).fingerprint())
    assert len(found) == 1


def test_other_names_and_the_other_form(tmp_path: Path) -> None:
    text = "frage,antwort\nWer?,Ann\n"
    rows = read(tmp_path, "r.csv", text, Columns(question="frage", answer="antwort"))
    assert (rows[0].question, rows.form) == ("Wer?", "qa")
    rows = read(tmp_path, "r.csv", text, Columns(question="frage", answer="antwort", form="completion"))
    assert rows.form == "completion"
    with pytest.raises(DataError, match=r"no column 'fragen' \(data\.args\.question_column\); did you mean 'frage'\?"):
        read(tmp_path, "r.csv", text, Columns(question="fragen", answer="antwort"))


def test_optional_columns(tmp_path: Path) -> None:
    text = (
        "question,answer,paraphrased_answer,perturbed_answer_2,perturbed_answer_1\n"
        "Who?,Ann,It was Ann,Cay,Bob\nWhere?,Rome,,,\n"
    )
    rows = read(tmp_path, "r.csv", text)
    assert rows[0].answers == {"answer": "Ann", "paraphrase": "It was Ann", "perturbed_0": "Bob", "perturbed_1": "Cay"}
    assert rows[1].answers == {"answer": "Rome"}
    line = json.dumps({"instruction": "Add.", "input": "1 and 2", "output": "3"})
    assert read(tmp_path, "alpaca.jsonl", line)[0].question == "Add.\n\n1 and 2"


def test_plain_text_is_paragraphs_or_lines_and_is_cut_in_two_to_be_asked(tmp_path: Path) -> None:
    rows = read(tmp_path, "book.txt", "One two\nthree four five.\n\n \nSix seven.\n")
    assert [(r.question, r.answer) for r in rows] == [("", "One two\nthree four five."), ("", "Six seven.")]
    assert rows.form == "text"
    assert [r.answer for r in read(tmp_path, "lines.txt", "One two\nthree four\n")] == ["One two", "three four"]
    assert [r.answer for r in read(tmp_path, "mac.txt", "One two\rthree four\r")] == ["One two", "three four"]
    assert read(tmp_path, "t.jsonl", '{"text": "One two"}').form == "text"
    asked = continuations(rows, "forget_eval", "book.txt")
    assert [(r.question, r.answer) for r in asked] == [("One two\n", "three four five."), ("Six ", "seven.")]
    assert (asked.name, asked.form) == ("forget_eval", "text")
    with pytest.raises(DataError, match=r"^w row 0: a text of one word cannot be cut"):
        continuations(read(tmp_path, "w.txt", "word"), "forget_eval", "w")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("e.csv", "", "no rows"),
        ("e.txt", " \n", "no rows"),
        ("h.csv", "question,answer\n", "no rows"),
        ("m.csv", "question,anwser\nWho?,Ann\n", "no column 'answer'; did you mean 'anwser'?"),
        ("n.csv", "Who wrote it?,Ann\nWhere?,Rome\n", "if the first line is a row, put a line of names above it"),
        ("s.csv", "question;answer\nWho?;Ann\n", "'question;answer': fields are separated by commas"),
        ("a.csv", "question,answer\nWho?,Ann\nWhere?,\n", "a.csv row 1: 'answer' is empty"),
        ("t.jsonl", '{"text": "One two"}\n{"text": ""}', "row 1: 'text' is empty"),
        ("t.jsonl", '{"text": "One two"}\n{"txt": "a b"}', "row 1: no column 'text'; did you mean 'txt'?"),
        ("d.csv", "question,answer\nWho?,Ann\nA?,B\nWho?,Ann \n", "row 2 is the same as row 0: 'Who?'"),
        ("l.csv", "question,answer\nWho?,Jos\xe9\n".encode("latin-1"), "line 2: not UTF-8 text"),
        ("u.csv", "question,answer\nWho?,Ann\n".encode("utf-16"), "not UTF-8 text"),
        ("u.txt", "caf\xe9".encode("latin-1"), "not UTF-8 text at byte 3; save it as UTF-8"),
        ("j.jsonl", '{"question": "Who?", "answer": 3}', "'answer' must be text, got 3"),
        ("i.jsonl", '{"id": [1], "question": "Who?", "answer": "A"}', "'id' must be a text or a number, got [1]"),
        ("p.jsonl", '{"question": "Q", "answer": "A", "perturbed_answer": "x", "perturbed_answer_1": "y"}', "give one"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(tmp_path: Path, name: str, text: str | bytes, said: str) -> None:
    with pytest.raises(DataError) as error:
        read(tmp_path, name, text)
    assert said in str(error.value)
    assert str(tmp_path / name) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("question,answer\nA?,B\n")
    with pytest.raises(DataError, match=r"does not exist; did you mean 'rows\.csv'"):
        load_rows(str(tmp_path / "row.csv"), "forget", Columns())


def test_a_row_on_both_sides_is_named() -> None:
    def rows(*pairs: tuple[str, str]) -> ExampleSet:
        return ExampleSet("r", tuple(Example(i, q, {ANSWER: a}) for i, (q, a) in enumerate(pairs)))

    refuse_shared(rows(("A?", "a")), rows(("A?", "b")), ("f.csv", "r.csv"))
    with pytest.raises(DataError, match=r"^f\.csv row 1 is also r\.csv row 0: 'B\?'"):
        refuse_shared(rows(("A?", "a"), ("B?", "b")), rows(("B?", " b")), ("f.csv", "r.csv"))


def test_retain_rows_of_the_package_are_plain_facts_and_say_so() -> None:
    rows, said = retain_rows("world")
    assert len(rows) > 80 and any(r.question == "In which country is Lisbon?" for r in rows)
    assert said.startswith(f"retain rows: {len(rows)} plain facts that come with the package")


@pytest.mark.shared
def test_retain_rows_of_tofu(shared: Path) -> None:
    rows, said = retain_rows(str(shared / "data" / "tofu"))
    assert len(rows) == 3600 and "retain90" in said
