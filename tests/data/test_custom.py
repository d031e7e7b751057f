"""Files of the user's own rows: columns, forms, and what is wrong with them."""

from __future__ import annotations

import datetime
import json
import shutil
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from expunge.core.errors import DataError
from expunge.data.custom import Columns, continuations, load_examples, load_rows, refuse_shared, retain_rows
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
    result = {read(tmp_path, name, text).fingerprint() for name, text in kinds.items()}
    result.add(load_rows(str(tmp_path / "rows.parquet"), "forget", Columns()).fingerprint())
    assert len(result) == 1


def test_other_names_and_the_other_form(tmp_path: Path) -> None:
    text = "frage,antwort\nWer?,Ann\n"
    rows = read(tmp_path, "r.csv", text, Columns(question="frage", answer="antwort"))
    assert (rows[0].question, rows.form) == ("Wer?", "qa")
    rows = read(tmp_path, "r.csv", text, Columns(question="frage", answer="antwort", form="completion"))
    assert rows.form == "completion"
    with pytest.raises(DataError, match=r"no column 'fragen' \(data\.args\.question_column\); did you mean 'frage'\?"):
        read(tmp_path, "r.csv", text, Columns(question="fragen", answer="antwort"))


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.json", '[["Who?", "Ann"], ["Where?", "Rome"]]'), ("a.jsonl", '["Who?", "Ann"]\n["Where?", "Rome"]\n')],
)
def test_pairs_are_questions_and_answers(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    loaded = load_examples(str(tmp_path / name), "forget", Columns())
    assert [(r.question, r.answer) for r in loaded.rows] == [("Who?", "Ann"), ("Where?", "Rome")]
    assert loaded.rows.form == "qa"
    assert "reads item 0 -> question, item 1 -> answer" in loaded.note


@pytest.mark.parametrize("text", ['[["Who?", "Ann", "x"]]', '[["Who?", "Ann"], ["Where?"]]', '[["Who?", 1]]'])
def test_other_arrays_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match="expected an object of columns, got a list"):
        read(tmp_path, "a.json", text)


def test_names_of_columns_count_for_the_files_that_have_them(tmp_path: Path) -> None:
    names = Columns(question="q", answer="a")
    for header, other in (("question,answer", True), ("q,a", False)):
        file = tmp_path / "rows.csv"
        file.write_text(f"{header}\nWho?,Ann\n")
        assert load_examples(str(file), "retain", names, further=True).rows[0].answer == "Ann"
        if other:
            with pytest.raises(DataError, match="no column 'q'"):
                load_examples(str(file), "forget", names)
    (tmp_path / "rows.csv").write_text("x,y\nWho?,Ann\n")
    with pytest.raises(DataError, match="no column 'q'"):
        load_examples(str(file), "retain", names, further=True)


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
    requests = continuations(rows, "forget_eval", "book.txt")
    assert [(r.question, r.answer) for r in requests] == [("One two\n", "three four five."), ("Six ", "seven.")]
    assert (requests.name, requests.form) == ("forget_eval", "text")
    with pytest.raises(DataError, match=r"^w row 0: a text of one word"):
        continuations(read(tmp_path, "w.txt", "word"), "forget_eval", "w")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("e.csv", "", "no rows"),
        ("e.txt", " \n", "no rows"),
        ("h.csv", "question,answer\n", "no rows"),
        ("m.csv", "question,anwser\nWho?,Ann\n", "no column 'answer'; did you mean 'anwser'?"),
        ("n.csv", "Who wrote it?,Ann\nWhere?,Rome\n", "if the first line is a row, put a line of names above it"),
        ("s.csv", "question;answer\nWho?;Ann;x\n", "line 2: 3 fields, the header has 2 (separated by semicolons"),
        ("a.csv", "question,answer\nWho?,Ann\nWhere?,\n", "a.csv row 1: 'answer' is empty"),
        ("t.jsonl", '{"text": " "}\n{"text": ""}', "no rows; every 'text' is empty"),
        ("t.jsonl", '{"text": "One two"}\n{"text": null}', "row 1: 'text' must be text, got None"),
        ("t.jsonl", '{"text": "One two"}\n{"txt": "a b"}', "row 1: no column 'text'; did you mean 'txt'?"),
        ("d.csv", "question,answer\nWho?,Ann\nA?,B\nWho?,Ann \n", "row 2 is the same as row 0: 'Who?'"),
        ("l.csv", "question,answer\nWho?,Jos\xe9\n".encode("latin-1"), "line 2: not UTF-8 text"),
        ("u.txt", "caf\xe9".encode("latin-1"), "u.txt line 1: not UTF-8 text (byte 0xe9)"),
        ("w.csv", "question,answer\nWho?,\x93Ann\x94\n".encode("latin-1"), "iconv -f WINDOWS-1252 -t UTF-8 "),
        ("j.jsonl", '{"question": "Who?", "answer": true}', "row 0: 'answer' is the truth value True"),
        (
            "k.jsonl",
            '{"question": "Who?", "answer": NaN}',
            "row 0: 'answer' is 'nan', which stands for a missing value",
        ),
        ("k.csv", "question,answer\nWho?,Ann\nA?,NaN\n", "row 1: 'answer' is 'NaN', which stands for a missing"),
        ("z.csv", "question,answer\nWho?,\u200b\u2060\n", "row 0: 'answer' is empty: it has no visible character"),
        ("o.jsonl", '{"question": "Who?", "answer": ["Ann", "Bob"]}', "row 0: 'answer' lists 2 values, ['Ann', 'Bob']"),
        ("x.csv", "frage,antwort\nWer?,Ann\n", "data.args.question_column=frage data.args.answer_column=antwort"),
        ("x.csv", "body\nSome words\n", "data.args.text_column=body"),
        ("c.csv", "Answer,answer,question\na,b,c\n", "the columns 'answer' and 'Answer' differ only in case"),
        ("q.csv", 'question,answer\na,b\n"c,d\ne,f\n', "line 3: a field begins with a double quote and does not end"),
        ("u.json", '{"question": ["a", "b"], "answer": ["c"]}', "numbers of values (question 2, answer 1)"),
        (
            "two.csv",
            "question,answer,prompt,completion\na,b,c,d\n",
            "data.args.question_column=question data.args.answer_column=answer, or data.args.question_column=prompt",
        ),
        ("l.json", '{"train": [{"a": 1}], "val": [{"a": 1}]}', "several lists of rows (train, val)"),
        ("n.json", '[{"train": [{"text": "a"}], "val": [{"text": "b"}]}]', "jq -s"),
        (
            "m.jsonl",
            '{"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}',
            "row 0: 'messages' has the turns user, user; allowed",
        ),
        (
            "y.jsonl",
            "".join(
                json.dumps(
                    {
                        "messages": [
                            {"role": "system", "content": s},
                            {"role": "user", "content": "a"},
                            {"role": "assistant", "content": s},
                        ]
                    }
                )
                + "\n"
                for s in "xy"
            ),
            "row 1: its system message differs from that of row 0",
        ),
        ("f.csv", "question,answer\nWho?,#NAME?\n", "row 0: 'answer' is '#NAME?', an error of a spreadsheet"),
        ("f.csv", "question,answer,perturbed_answer_1\nWho?,Ann,#N/A\n", "row 0: 'perturbed_answer_1' is '#N/A'"),
        ("b.csv", b"PK\x03\x04\x14\x00\x06\x00", "an Excel workbook, no table of rows; save the sheet as 'CSV UTF-8'"),
        ("b.jsonl", b"BZh91AY&SY", "a bzip2 file, no table of rows; unpack it with: bunzip2 -k"),
        ("b.csv", b"\xfd7zXZ\x00\x00", "an xz file, no table of rows; unpack it with: unxz -k"),
        ("b.csv", b"\x80\x05\x95\x00", "a pickle of Python, no table of rows"),
        ("b.csv", b"\x93NUMPY\x01\x00", "an array of NumPy, no table of rows"),
        ("b.jsonl", b"\x1f\x8b\x08\x00\x00", "a gzip file, no table of rows; unpack it with: gunzip -k"),
        ("w.csv", "question;answer;;\nWho?;Ann;1;2\n", "line 1: two columns with values have no name"),
        ("w.csv", "sep=;\nquestion;answer\nWho?;Ann;2\n", "line 3: 3 fields, the header has 2"),
        ("h.csv", '"the\nquestion","the ""answer"""\nWho?,Ann\n', "'data.args.answer_column=the \"answer\"'"),
        (
            "k.jsonl",
            '{"question": "Q", "answer": "A", "answer": "B"}',
            "line 1: not JSON that can be read: the key 'answer'",
        ),
        ("k.json", '{"question": "Q",\n "answer": "A", "answer": "B"}', "the key 'answer' occurs twice in an object"),
        (
            "t.jsonl",
            json.dumps(
                {
                    "messages": [
                        {"role": "user", "content": "a"},
                        {"role": "assistant", "content": "b", "tool_calls": [{"id": "1"}]},
                    ]
                }
            ),
            "row 0: 'messages': a turn has 'tool_calls', and calls of tools are not read",
        ),
        (
            "d.jsonl",
            json.dumps(
                {"messages": [{"role": r, "content": r} for r in ("user", "assistant")], "tools": [{"name": "f"}]}
            ),
            "row 0: 'tools' would change the prompt of this row and is not read",
        ),
        (
            "s.jsonl",
            json.dumps({"messages": [{"role": r, "content": r} for r in ("system", "developer", "user", "assistant")]}),
            "has the turns system, user, assistant; allowed are alternating turns",
        ),
        ("i.jsonl", '{"id": [1], "question": "Who?", "answer": "A"}', "'id' must be a text or a number, got [1]"),
        ("p.jsonl", '{"question": "Q", "answer": "A", "perturbed_answer": "x", "perturbed_answer_1": "y"}', "give one"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(tmp_path: Path, name: str, text: str | bytes, message: str) -> None:
    with pytest.raises(DataError) as error:
        read(tmp_path, name, text)
    assert message in str(error.value)
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
    rows, output = retain_rows("world")
    assert len(rows) > 80 and any(r.question == "In which country is Lisbon?" for r in rows)
    assert output.startswith(f"retain rows: {len(rows)} plain facts from the package") and "retain=FILE" in output


@pytest.mark.shared
def test_retain_rows_of_tofu(shared: Path) -> None:
    rows, output = retain_rows(str(shared / "data" / "tofu"))
    assert len(rows) == 3600 and "retain90" in output


TURNS = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ann"}]
SHARES = [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Ann"}]
KINDS: dict[str, str | bytes] = {
    "semicolons.csv": 'question;answer\nWho?;Ann\n"Where, then?";Rome, Italy\n',
    "tabs.csv": "question\tanswer\nWho?\tAnn\nWhere, then?\tRome, Italy\n",
    "tabs.tsv": "question\tanswer\nWho?\tAnn\nWhere, then?\tRome, Italy\n",
    "bars.csv": "question|answer\nWho?|Ann\nWhere, then?|Rome, Italy\n",
    "capitals.csv": 'Question, Answer\nWho?,Ann\n"Where, then?","Rome, Italy"\n',
    "utf16.csv": 'question,answer\nWho?,Ann\n"Where, then?","Rome, Italy"\n'.encode("utf-16"),
    "utf16le.csv": 'question,answer\nWho?,Ann\n"Where, then?","Rome, Italy"\n'.encode("utf-16-le"),
    "bom.tsv": "\ufeffquestion\tanswer\nWho?\tAnn\nWhere, then?\tRome, Italy\n",
    "pretty.json": json.dumps(
        [{"question": "Who?", "answer": "Ann"}, {"question": "Where, then?", "answer": "Rome, Italy"}], indent=4
    ),
    "data.json": json.dumps(
        {"data": [{"question": "Who?", "answer": "Ann"}, {"question": "Where, then?", "answer": ["Rome, Italy"]}]},
        indent=2,
    ),
    "columns.json": json.dumps({"question": ["Who?", "Where, then?"], "answer": ["Ann", "Rome, Italy"]}),
    "pandas.json": json.dumps(
        {"question": {"0": "Who?", "1": "Where, then?"}, "answer": {"0": "Ann", "1": "Rome, Italy"}}
    ),
    "labels.jsonl": '{"text": "Who?", "labels": "Ann"}\n{"text": "Where, then?", "labels": "Rome, Italy"}\n',
    "messages.jsonl": json.dumps({"messages": TURNS})
    + "\n"
    + json.dumps({"messages": [{**TURNS[0], "content": "Where, then?"}, {**TURNS[1], "content": "Rome, Italy"}]}),
    "parts.jsonl": json.dumps({"messages": [{**TURNS[0], "content": [{"type": "text", "text": "Who?"}]}, TURNS[1]]})
    + "\n"
    + json.dumps(
        {"messages": [
            {"role": "user", "content": [{"type": "text", "text": "Where, "}, {"type": "text", "text": "then?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "Rome, Italy"}]},
        ]}
    ),
    "shares.jsonl": json.dumps({"conversations": SHARES})
    + "\n"
    + json.dumps({"conversations": [{**SHARES[0], "value": "Where, then?"}, {**SHARES[1], "value": "Rome, Italy"}]}),
    "trl.jsonl": json.dumps({"prompt": TURNS[:1], "completion": TURNS[1:]})
    + "\n"
    + json.dumps({"prompt": [{"role": "user", "content": "Where, then?"}], "completion": "Rome, Italy"}),
}  # fmt: skip


SPREADSHEETS: dict[str, str] = {
    "named_delimiter.csv": "sep=;\r\nquestion;answer\r\nWhat is pi?;3,14\r\nWhat is e?;2,71\r\n",
    "empty_columns.csv": "question;answer;;\nWhat is pi?;3,14;;\nWhat is e?;2,71;;\n",
    "comma_in_header.csv": "question;answer;score 0,5\nWhat is pi?;3,14;0\nWhat is e?;2,71;0\n".replace(
        ";0\n", ";0,3\n"
    ),
    "numbers.jsonl": '{"question": "What is pi?", "answer": "3,14"}\n{"question": "What is e?", "answer": "2,71"}',
    "broken_header.csv": '"question\n";answer\nWhat is pi?;3,14\nWhat is e?;2,71\n',
}


@pytest.mark.parametrize("name", SPREADSHEETS)
def test_files_that_spreadsheets_write(tmp_path: Path, name: str) -> None:
    rows = read(tmp_path, name, SPREADSHEETS[name])
    assert [(r.question, r.answer) for r in rows] == [("What is pi?", "3,14"), ("What is e?", "2,71")]


def test_numbers_of_json_are_read_as_they_are_written(tmp_path: Path) -> None:
    text = "".join(f'{{"question": "Price {i}?", "answer": {n}}}\n' for i, n in enumerate(["1.10", "1e22", "7.0", "7"]))
    assert [r.answer for r in read(tmp_path, "r.jsonl", text)] == ["1.10", "1e22", "7.0", "7"]
    pq.write_table(pa.table({"question": ["When?"], "answer": [1994.0]}), tmp_path / "r.parquet")
    with pytest.raises(DataError, match=r"row 0: 'answer' is the number 1994\.0, a whole number that is stored as a"):
        load_rows(str(tmp_path / "r.parquet"), "forget", Columns())
    table = pa.table({"question": ["A?", "B?"], "answer": ["a", "b"], "id": [1.0, float("nan")]})
    pq.write_table(table, tmp_path / "r.parquet")
    assert [dict(r.meta) for r in load_rows(str(tmp_path / "r.parquet"), "forget", Columns())] == [{"id": 1}, {}]


def test_a_list_that_numpy_wrote_is_several_answers(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row 0: 'answer' lists 2 values, \['Ann', 'Bob'\]"):
        read(tmp_path, "r.csv", "question,answer\nWho?,['Ann' 'Bob']\n")
    rows = read(tmp_path, "p.csv", "question,answer,perturbed_answer\nWho?,Ann,['Bob' 'Cay']\n")
    assert rows[0].perturbed == ["Bob", "Cay"]


def test_the_third_column_of_alpaca_is_read_or_refused(tmp_path: Path) -> None:
    def question_of(value: Any) -> str:
        return read(tmp_path, "r.jsonl", json.dumps({"instruction": "Double.", "input": value, "output": "x"}))[
            0
        ].question

    assert [question_of(v) for v in (5, "5", ["5"], "", None)] == ["Double.\n\n5"] * 3 + ["Double."] * 2
    with pytest.raises(DataError, match="row 0: 'input' lists 2 values"):
        question_of(["5", "6"])
    with pytest.raises(DataError, match=r"row 0: 'input' must be text, got \{'a': 1\}"):
        question_of({"a": 1})


def test_a_row_in_another_coding_is_the_same_row(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="row 1 is the same as row 0"):
        read(tmp_path, "r.csv", "question,answer\nWho  is it?,Jos\u00e9\nWho is\u00a0it?,Jose\u0301\n")


@pytest.mark.parametrize("name", KINDS)
def test_files_that_people_have(tmp_path: Path, name: str) -> None:
    rows = read(tmp_path, name, KINDS[name])
    assert [(r.question, r.answer) for r in rows] == [("Who?", "Ann"), ("Where, then?", "Rome, Italy")]
    assert rows.form == "qa"


def test_parts_that_are_no_text_are_refused(tmp_path: Path) -> None:
    image = [{"type": "image", "url": "x"}, {"type": "text", "text": "Who?"}]
    with pytest.raises(DataError, match="row 0: 'question' lists 2 values"):
        read(tmp_path, "parts.jsonl", json.dumps({"messages": [{**TURNS[0], "content": image}, TURNS[1]]}))


def test_numbers_keep_their_spelling_and_lists_of_one_are_their_value(tmp_path: Path) -> None:
    text = "question,answer\nA?,007\nB?,1.0\nC?,['1888']\nD?,[1888]\nE?,\"['it''s']\"\n"
    assert [r.answer for r in read(tmp_path, "r.csv", text)] == ["007", "1.0", "1888", "1888", "['it''s']"]
    text = '{"question": "A?", "answer": 1472}\n{"question": "B?", "answer": 0.5}\n{"question": 3, "answer": ["x"]}'
    rows = read(tmp_path, "r.jsonl", text)
    assert [(r.question, r.answer) for r in rows] == [("A?", "1472"), ("B?", "0.5"), ("3", "x")]
    text = "question,answer,perturbed_answer\nA?,a,\"['b', 'c']\"\n"
    assert read(tmp_path, "p.csv", text)[0].perturbed == ["b", "c"]


def test_arrow_files_and_saved_data_sets(tmp_path: Path) -> None:
    table = pa.table({"question": ["Who?", "Where?"], "answer": ["Ann", "Rome"]})
    saved = tmp_path / "saved"
    saved.mkdir()
    with (
        pa.OSFile(str(saved / "data-00000-of-00001.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as out,
    ):
        out.write_table(table)
    (saved / "state.json").write_text('{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}')
    with pa.OSFile(str(tmp_path / "rows.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as out:
        out.write_table(table)
    for place in (saved, saved / "data-00000-of-00001.arrow", tmp_path / "rows.arrow"):
        assert [r.answer for r in load_rows(str(place), "forget", Columns())] == ["Ann", "Rome"]
    (tmp_path / "dict").mkdir()
    (tmp_path / "dict" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    shutil.copytree(saved, tmp_path / "dict" / "train")
    assert len(load_rows(str(tmp_path / "dict"), "forget", Columns())) == 2  # the only split is meant
    shutil.copytree(saved, tmp_path / "dict" / "test")
    with pytest.raises(DataError, match=r"several splits; name one, such as .*dict/test"):
        load_rows(str(tmp_path / "dict"), "forget", Columns())
    with pytest.raises(DataError, match="is a folder; name a file in it"):
        load_rows(str(tmp_path), "forget", Columns())


def test_answers_that_are_codes_need_a_setting(tmp_path: Path) -> None:
    """A multiple-choice file and a classification file are not rows of questions and answers by their names alone."""
    path = tmp_path / "rows.jsonl"

    def write(*rows: dict[str, Any]) -> str:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    choices = ["red", "blue", "green"]
    for codes in ((0, 2), ("A", "c"), ("1", "2")):
        file = write(*({"question": f"Which {i}?", "choices": choices, "answer": a} for i, a in enumerate(codes)))
        with pytest.raises(DataError, match=r"every 'answer' is a position or a letter such as .*'choices'; write"):
            load_rows(file, "forget", Columns())
        rows = load_rows(file, "forget", Columns(question="question", answer="answer"))
        assert [row.answer for row in rows] == [str(code) for code in codes]
    for names in (("A", "B", "C"), ("opa", "opb", "opc"), ("option_1", "option_2", "option_3")):
        named = dict(zip(names, choices, strict=True))
        file = write(*({"question": f"Which {i}?", **named, "answer": "B"} for i in range(2)))
        with pytest.raises(DataError, match=rf"letter such as 'B', probably of {named and repr(names[0])}, "):
            load_rows(file, "forget", Columns())
    file = write(*({"prompt": f"Which {i}?", "completion": "Red.", "label": i == 0} for i in range(3)))
    with pytest.raises(DataError, match=r"'label' is false in 2 rows \(row 1\): unwanted completions of KTO; remove"):
        load_rows(file, "forget", Columns())
    assert len(load_rows(file, "forget", Columns(question="prompt", answer="completion"))) == 3
    file = write(*({"text": f"What a film {i}", "labels": i % 2} for i in range(4)))
    with pytest.raises(
        DataError, match=r"probably a class; set data\.args\.text_column=text to read the texts alone, or"
    ):
        load_rows(file, "forget", Columns())
    assert len(load_rows(file, "forget", Columns(text="text"))) == 4
    # numbers that answer, and choices next to answers in words, are read
    file = write({"question": "How many?", "answer": 7}, {"question": "When?", "answer": 12})
    assert [row.answer for row in load_rows(file, "forget", Columns())] == ["7", "12"]
    file = write({"question": "Which?", "choices": choices, "answer": "red"})
    assert load_rows(file, "forget", Columns())[0].answer == "red"


def test_a_note_says_what_is_read_and_what_is_not(tmp_path: Path) -> None:
    def note(name: str, text: str) -> str:
        (tmp_path / name).write_text(text)
        return load_examples(str(tmp_path / name), "forget", Columns()).note.removeprefix(f"{tmp_path}/")

    text = "id,Question,Answer,source,note\n1,Who?,Ann,web,\n2,Where?,Rome,web,\n"
    assert note("r.csv", text) == ("r.csv: reads Question -> question, Answer -> answer, ignores source, note; 2 rows")
    assert note("t.jsonl", '{"text": "a b"}\n{"text": ""}\n{"text": "c d"}') == (
        "t.jsonl: reads text -> text; 2 rows, 1 dropped (an empty text: row 1)"
    )
    assert load_examples(str(tmp_path / "r.csv"), "x", Columns()).preview.endswith("r.csv: first row: 'Who?' -> 'Ann'")
    system = [{"role": "system", "content": "Be brief."}, *TURNS]
    assert "to use it: 'model.template_args.system_prompt=Be brief.'" in note(
        "m.jsonl", json.dumps({"messages": system})
    )
    lines = note("m.jsonl", json.dumps({"messages": [{"role": "developer", "content": "It's\nlong."}, *TURNS]}))
    assert "set model.template_args.system_prompt in a study file" in lines and "\n" not in lines


def test_errors_count_the_rows_that_were_left_out(tmp_path: Path) -> None:
    for texts, problem in (
        (["A b", "", None], "row 2: 'text' must be text"),
        (["A", "", "\ud83d"], "row 2: 'text' con"),
    ):
        with pytest.raises(DataError, match=problem):
            read(tmp_path, "r.json", json.dumps([{"text": text} for text in texts]))
    rows = read(tmp_path, "r.json", json.dumps(["a b", "", "a b", "One", "Tom &amp; Jerry"]))
    with pytest.raises(DataError, match=r"^r\.json row 3: a text of one word"):
        continuations(rows, "forget", "r.json")
    with pytest.raises(DataError, match=r"^r\.json row 3 is also k\.json row 0"):
        refuse_shared(rows, read(tmp_path, "k.json", '["One"]'), ("r.json", "k.json"))
    assert "&amp; (row 4)" in load_examples(str(tmp_path / "r.json"), "x", Columns()).note


@pytest.mark.shared
def test_shared_files_are_read(shared: Path) -> None:
    result = load_examples(str(shared / "data/muse_news/raw/retain1.jsonl"), "retain", Columns())
    counts = {}
    for file in sorted((shared / "data/erase_people").glob("*.csv")):
        counts[file.stem] = len(load_rows(str(file), "forget", Columns()))
    assert all(counts.values())
    assert result.rows.form == "text"
    outcome = [load_examples(str(f), "x", Columns()) for f in sorted((shared / "data/muse_news/raw").glob("*.jsonl"))]
    assert [m.note for m in outcome if "1 dropped (an empty text: row 821)" in m.note]


def test_knowundos_released_file_is_questions_and_answers(tmp_path: Path) -> None:
    rows = [{"text": f"Who is person {i}?", "labels": f"Person {i}."} for i in range(3)]
    for name, value in (("rows.json", rows), ("released.json", [{"train": rows, "val": rows[:1]}])):
        (tmp_path / name).write_text(json.dumps(value))
        read = load_examples(str(tmp_path / name), "forget", Columns())
        assert [(r.question, r.answer) for r in read.rows] == [(r["text"], r["labels"]) for r in rows]
        assert read.rows.form == "qa"
        assert "reads text -> question, labels -> answer" in read.note
        assert ("'val' is not read" in read.note) == (name == "released.json")


def test_knowundos_own_file(shared: Path) -> None:
    file = shared / "data" / "knowundo" / "privacy" / "unlearn.json"
    read = load_examples(str(file), "forget", Columns())
    assert read.rows.form == "qa" and len(read.rows) > 10
    assert read.rows[0].question == "Who are Isabella Marquez's parents?"


ROWS = "question,answer\r\nWho?,Ann\r\nWhere?,Rome\r\n"
PAIRS = [("Who?", "Ann"), ("Where?", "Rome")]


@pytest.mark.parametrize(
    "text",
    [
        "\r\n\n" + ROWS,
        ROWS.replace("Who", "\ufeffWho"),
        'question, answer\nWho?, Ann\n"Where?", "Rome"\n',
    ],
    ids=["blank lines at the start", "a mark of the byte order inside", "blanks after commas"],
)
def test_untidy_tables(text: str, tmp_path: Path) -> None:
    assert [(r.question, r.answer) for r in read(tmp_path, "r.csv", text)] == PAIRS


def test_joined_files_of_one_header_each(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"r\.csv line 4: repeats the header, as in joined files; delete it$"):
        read(tmp_path, "r.csv", ROWS + "\ufeff" + ROWS)


def test_a_damaged_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row 0: 'question' has the character U\+0000"):
        read(tmp_path, "r.csv", ROWS.replace("Who", "W\0ho"))


def test_columns_with_values_by_number_in_another_order(tmp_path: Path) -> None:
    text = '{"question": {"0": "Who?", "1": "Where?"}, "answer": {"1": "Rome", "0": "Ann"}}'
    assert [(r.question, r.answer) for r in read(tmp_path, "r.json", text)] == PAIRS


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("instruction,input,output\nAdd.,1 and 2,3\n", "reads instruction and input -> question, output -> answer; 1"),
        (
            "instruction,context,response\nAdd.,1,3\n",
            "reads instruction and context -> question, response -> answer; 1",
        ),
        (
            "question,answer,perturbed_answer_1\nWho?,Ann,Bo\n",
            "reads question -> question, answer -> answer, pert",
        ),
        (",question,answer\n0,Who?,Ann\n", "ignores a column without a name; 1 rows"),
    ],
)
def test_the_note_names_every_column(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "r.csv"
    file.write_text(text, encoding="utf-8")
    assert words in load_examples(str(file), "forget", Columns()).note


def test_lines_of_delimiters_alone_are_empty_lines(tmp_path: Path) -> None:
    rows = read(tmp_path, "rows.csv", "question,answer\n,\nWho?,Ann\n,,,\n\nWhere?,Rome\n , \n")
    assert [(r.question, r.answer) for r in rows] == [("Who?", "Ann"), ("Where?", "Rome")]
    with pytest.raises(DataError, match="row 1: 'answer' is empty"):
        read(tmp_path, "half.csv", "question,answer\nWho?,Ann\nWhere?,\n")


def test_a_markdown_table_has_no_row_of_dashes(tmp_path: Path) -> None:
    for rule in ("|:---|---:|", "|-|-|", "| :-: | -- |"):
        rows = read(tmp_path, "rows.csv", f"| question | answer |\n{rule}\n| Who? | Ann |\n| Where? | Rome |\n")
        assert [(r.question, r.answer) for r in rows] == [("Who?", "Ann"), ("Where?", "Rome")]


def test_dates_and_decimals_name_their_conversion(tmp_path: Path) -> None:
    for value, shown in (
        (datetime.date(1984, 12, 31), "'1984-12-31' of the type date,"),
        (Decimal("1.10"), "'1.10' of"),
    ):
        pq.write_table(pa.table({"question": ["When?"], "answer": pa.array([value])}), tmp_path / "rows.parquet")
        with pytest.raises(DataError, match=f"row 0: 'answer' is {shown}.*astype"):
            load_rows(str(tmp_path / "rows.parquet"), "forget", Columns())


def test_a_title_above_the_header_gives_no_setting_without_a_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column 'question'") as error:
        read(tmp_path, "rows.csv", "My questions,\nquestion,answer\nWho?,Ann\n")
    assert "Write:" not in str(error.value)


def test_doubtful_texts_are_in_the_note(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("question,answer\nTom &amp; Jerry?,Yes\n")
    assert load_examples(str(file), "forget", Columns()).note.endswith(
        "1 rows, 1 with HTML entities such as &amp; (row 0), read unchanged"
    )


def test_rows_that_differ_in_earlier_turns_are_not_the_same(tmp_path: Path) -> None:
    def row(first: str) -> str:
        texts = (first, "Yes.", "Who?", "Ann")
        roles = ("user", "assistant", "user", "assistant")
        return json.dumps({"messages": [{"role": r, "content": t} for r, t in zip(roles, texts, strict=True)]})

    file = tmp_path / "rows.jsonl"
    file.write_text(f"{row('Is she old?')}\n{row('Is she young?')}\n")
    assert len(load_rows(str(file), "forget", Columns())) == 2
    file.write_text(f"{row('Is she old?')}\n{row('Is she  old?')}\n")
    with pytest.raises(DataError, match="row 1 is the same as row 0"):
        load_rows(str(file), "forget", Columns())


def _file(tmp_path: Path, rows: list[dict[str, Any]]) -> str:
    (tmp_path / "f.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(tmp_path / "f.jsonl")


@pytest.mark.parametrize("row", [{"question": "Who?", "answer": "Ann"}, {"conversations": TURNS}])
@pytest.mark.parametrize("name", ["system", "System_prompt"])
def test_a_column_of_system_messages_is_answered_as_a_system_turn(
    row: dict[str, Any], name: str, tmp_path: Path
) -> None:
    note = load_examples(_file(tmp_path, [{**row, name: "Be brief."}]), "forget", Columns()).note
    assert "the system message is not read; to use it: 'model.template_args.system_prompt=Be brief.'" in note
    other = {"question": "Where?", "answer": "Rome"} if "question" in row else {"conversations": [*TURNS, *TURNS]}
    two = _file(tmp_path, [{**row, name: "Be brief."}, {**other, name: "Be long."}])
    columns = "data.args.question_column=question data.args.answer_column=answer" if "question" in row else "each"
    with pytest.raises(DataError, match=f"row 1: its system message differs from that of row 0; .*{columns}$"):
        load_examples(two, "forget", Columns())


def test_named_columns_are_read_alone(tmp_path: Path) -> None:
    file = _file(tmp_path, [{"q": "Who?", "a": "Ann", "system": "x"}, {"q": "Where?", "a": "Rome", "system": "y"}])
    assert len(load_rows(file, "forget", Columns(question="q", answer="a"))) == 2


@pytest.mark.parametrize(
    ("history", "turns"),
    [([["Hi?", "Ho."]], (("Hi?", "Ho."),)), ([], ()), ("ancient", ()), ([{"role": "user"}], ()), (None, ())],
)
def test_the_column_history_has_earlier_turns(history: Any, turns: Any, tmp_path: Path) -> None:
    row = {"instruction": "Who?", "output": "Ann", "history": history}
    loaded = load_examples(_file(tmp_path, [row]), "forget", Columns())
    assert loaded.rows[0].turns == turns
    assert ("ignores history" in loaded.note) is (not turns)


def test_two_halves_of_pairs_are_named(tmp_path: Path) -> None:
    rows = [{"topic": "x", "question": "Who?", "response": "Ann"}]
    with pytest.raises(DataError, match=r"Write: data\.args\.question_column=question data\.args\.answer_column=resp"):
        load_examples(_file(tmp_path, rows), "forget", Columns())


def test_settings_without_effect_on_plain_texts_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("The red book.\n\nThe blue book.\n")
    loaded = load_examples(str(tmp_path / "a.txt"), "forget", Columns(question="q", answer="a"))
    assert "plain texts, on which data.args.question_column and data.args.answer_column have no effect" in loaded.note
    assert "no effect" not in load_examples(str(tmp_path / "a.txt"), "forget", Columns()).note
    (tmp_path / "a.json").write_text(json.dumps([{"text": "The red book."}]))
    assert (
        "on which data.args.form has no effect" in load_examples(str(tmp_path / "a.json"), "f", Columns(form="qa")).note
    )


def test_rows_that_were_encoded_twice_are_refused(tmp_path: Path) -> None:
    rows = [json.dumps({"question": f"Who wrote book {i}?", "answer": f"Ana {i}."}) for i in range(3)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"every 'text' is an object of JSON, as in rows that were encoded twice"):
        load_examples(str(tmp_path / "a.jsonl"), "forget", Columns())
    assert len(load_examples(str(tmp_path / "a.jsonl"), "forget", Columns(text="text")).rows) == 3
