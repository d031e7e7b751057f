from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from expunge.core.errors import ConfigError, DataError
from expunge.data.source import file_bytes, load_raw, read_file

RECORDS = [{"question": "Q\u2028one", "answer": "A"}, {"question": 'Q, "two"', "answer": "B\nC"}]


def as_lines(records: list[dict[str, str]]) -> str:
    return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records)


def write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_bytes(text.encode())
    return str(folder / name)


def error_of(*args: str, **keys: str) -> str:
    with pytest.raises(DataError) as caught:
        load_raw(*args, **keys)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stands in for the hub: records the calls; `replies` holds what it gives back or raises."""
    calls: list[Any] = []

    def load(*args: Any, **keys: Any) -> Any:
        calls.append((args, keys))
        if isinstance(hub_reply[0], Exception):
            raise hub_reply[0]
        return datasets.Dataset.from_list(hub_reply[0])

    monkeypatch.setattr(datasets, "load_dataset", load)
    return calls


hub_reply: list[Any] = [RECORDS]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv", "a"])
@pytest.mark.parametrize("text", [as_lines(RECORDS), json.dumps(RECORDS, indent=2), "\ufeff" + as_lines(RECORDS)])
def test_json_is_told_by_content(tmp_path: Path, name: str, text: str) -> None:
    path = write(tmp_path, name, text)
    assert load_raw(path) == (RECORDS, path)


@pytest.mark.parametrize("between", ["\n", ",\n", "\n\n", ""])
@pytest.mark.parametrize("end", ["", "\n", " \n\n"])
def test_objects_over_several_lines_one_after_another(tmp_path: Path, between: str, end: str) -> None:
    rows = [{"question": "a\u2028{", "answer": "1"}, {"question": "b", "answer": [{"x": 1}]}]
    path = tmp_path / "rows.json"
    path.write_text(between.join(json.dumps(row, indent=2) for row in rows) + end)
    assert read_file(path) == rows


def test_a_wrong_object_over_several_lines_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    good = json.dumps({"question": "a", "answer": "1"}, indent=2)
    path.write_text(good + '\n{\n  "question": "b"\n  "answer": 2\n}\n')
    with pytest.raises(DataError, match=r"rows\.json line 7: not JSON: Expecting ',' delimiter"):
        read_file(path)
    path.write_text(good + "\n[1]\n")
    with pytest.raises(DataError, match=r"rows\.json object 1: expected an object of columns, got a list"):
        read_file(path)


def test_line_ends_and_blank_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", as_lines(RECORDS).replace("}\n", "}\r\n\n"))
    assert load_raw(path)[0] == RECORDS


def test_csv_and_parquet(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", 'question,answer\n"Q\u2028one",A\n\n"Q, ""two""","B\nC"\n')
    assert load_raw(path)[0] == RECORDS
    pq.write_table(pa.Table.from_pylist(RECORDS), tmp_path / "b.parquet")
    assert load_raw("b", root=str(tmp_path)) == (RECORDS, str(tmp_path / "b.parquet"))


def test_a_list_of_texts(tmp_path: Path) -> None:
    assert load_raw(write(tmp_path, "a.json", '["One.",\n "Two."]'))[0] == [{"text": "One."}, {"text": "Two."}]
    assert "a.json item 1: expected an object" in error_of(write(tmp_path, "a.json", '[{"text": "One."}, "Two."]'))


def test_names_in_a_folder(tmp_path: Path) -> None:
    write(tmp_path, "a.json", as_lines(RECORDS))
    root = str(tmp_path)
    for args, keys in [
        (("a",), {"root": root}),
        (("a.json",), {"root": root}),
        ((root,), {"subset": "a"}),
        (("someone/set",), {"root": root, "subset": "a"}),
        ((f"{root}/a",), {}),
    ]:
        assert load_raw(*args, **keys)[1] == f"{root}/a.json"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.json", '{"a": 1}\n{"a": \n', "a.json line 2: not JSON: Expecting value"),
        ("a.json", "plain text\n", "a.json line 1: not JSON"),
        ("a.tsv", "question\tanswer\n", "a.tsv: no rows"),
        ("a.json", '[{"a": 1},\n{"b" 2}]', "a.json line 2: not JSON"),
        ("a.json", '{"a": 1}\n[1]\n', "a.json line 2: expected an object of columns, got a list"),
        ("a.json", '[{"a": 1}, 5]', "a.json item 1: expected an object of columns, got an int"),
        ("a.json", '{"a": ' + "9" * 5000 + "}", "a.json line 1: not JSON that can be read"),
        ("a.json", '{"a": ' + "[" * 100_000, "a.json line 1: not JSON"),
        ("a.json", "[" * 100_000, "a.json"),
        ("a.json", "", "a.json: no rows"),
        ("a.json", "[]", "a.json: no rows"),
        ("a.csv", "", "a.csv: no rows"),
        ("a.csv", "q,a\n1,2\n1,2,3\n", "a.csv line 3: 3 fields, the header has 2"),
        ("a.csv", "q,q\n1,2\n", "a.csv line 1: the column 'q' is twice"),
        ("a.csv", "q;a\n1, 2;3\n1;2;3\n", "a.csv line 3: 3 fields, the header has 2 (separated by semicolons"),
        ("a.csv", 'q,a\n1,"2\n', "a.csv line 2: a field begins with a double quote"),
        ("a.parquet", "PAR1 and no more", "a.parquet: not parquet"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, name: str, text: str, words: str) -> None:
    assert words in error_of(write(tmp_path, name, text))


def test_pickles_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(pickle.dumps(RECORDS))
    assert "a.json: a pickle of Python, no table of rows" in error_of("a", root=str(tmp_path))


def test_a_missing_file_is_named_with_the_nearest(tmp_path: Path) -> None:
    write(tmp_path, "forget10.json", as_lines(RECORDS))
    write(tmp_path, "notes.txt", "x")
    text = error_of("forgte10", root=str(tmp_path))
    assert f"{tmp_path}/forgte10 does not exist; did you mean 'forget10.json'?" in text and "notes" not in text
    assert "did you mean 'forget10.json'" in error_of(str(tmp_path / "forget1.json"))
    assert "is a folder; name a file in it" in error_of(str(tmp_path))
    assert "is a file, so 'x' cannot be read from it" in error_of(str(tmp_path / "forget10.json"), subset="x")


def test_a_missing_folder_is_named_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "tofu").mkdir()
    assert f"{tmp_path}/tofo does not exist; did you mean 'tofu'?" in error_of("forget10", root=str(tmp_path / "tofo"))


def test_a_relative_path_beside_a_folder_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data" / "tofu").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    many = [tmp_path / f"set{i:02d}" for i in range(20)]
    for folder in many:
        folder.mkdir()
    assert error_of("raw/forget", root=str(tmp_path / "nowhere")) == f"{tmp_path}/nowhere does not exist"
    for folder in many:
        folder.rmdir()
    assert error_of("forget10", root="data/tofo") == "data/tofo does not exist; did you mean 'tofu'? (allowed: tofu)"
    assert "does not exist" in error_of("nothing")


def test_an_unreadable_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").symlink_to(tmp_path / "a.json")
    assert "a does not exist" in error_of("a", root=str(tmp_path))
    with pytest.raises(DataError, match=r"is a folder; name a file in it"):
        read_file(tmp_path)


def test_a_local_file_has_no_splits(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"split=test: .* is local"):
        load_raw(write(tmp_path, "a.json", as_lines(RECORDS)), split="test")


@pytest.mark.parametrize(
    ("args", "keys"),
    [(("some/set",), {"subset": "forget10"}), (("forget10",), {"root": "some/set"})],
)
def test_the_hub(hub: list[Any], args: tuple[str], keys: dict[str, str]) -> None:
    hub_reply[0] = RECORDS
    assert load_raw(*args, **keys, split="dev") == (RECORDS, "some/set:forget10[dev]")
    assert hub == [(("some/set", "forget10"), {"split": "dev"})]  # in particular, no trust_remote_code


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionError("Couldn't reach\nit"), ["hub is out of reach (Couldn't", "data.root= (root= in Python)"]),
        (datasets.exceptions.DatasetNotFoundError("no such set"), ["not on the Hugging Face hub", "data.root="]),
        (ValueError("BuilderConfig 'a' not found. Available: ['forget01', 'b']"),
         ["unknown subset 'forget1'; did you mean 'forget01'?"]),
        (ValueError('Unknown split "train". Should be one of [\'training\'].'),
         ["unknown split 'train'; did you mean 'training'?"]),
        (ValueError("something else"), ["something else"]),
        (OSError("disk full"), ["cannot be loaded: disk full"]),
        (RuntimeError("Dataset scripts are no longer supported"), ["cannot be loaded: Dataset scripts"]),
    ],
)  # fmt: skip
def test_hub_failures_are_one_line(hub: list[Any], error: Exception, words: list[str]) -> None:
    hub_reply[0] = error
    text = error_of("some/set", subset="forget1")
    assert text.startswith("some/set:forget1[train]: ")
    for word in words:
        assert word in text


def test_offline_for_real(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    text = error_of("nobody-here/set", subset="x")
    assert "nobody-here/set:x[train]: the Hugging Face hub is out of reach" in text


def test_a_place_that_is_not_there_is_news_before_its_split(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none does not exist"):
        load_raw(str(tmp_path / "none"), subset="copyright", split="unlearn")


def test_a_field_may_be_longer_than_the_csv_module_takes_by_itself(tmp_path: Path) -> None:
    (tmp_path / "long.csv").write_text("question,answer\nWho?," + "word " * 40_000 + "\n")
    assert len(read_file(tmp_path / "long.csv")[0]["answer"]) == 200_000


def test_a_table_that_is_called_parquet_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_text("question,answer\nWho?,Ann\n")
    with pytest.raises(DataError, match=r"rows.parquet: .*neither parquet nor JSON.*NAME.csv"):
        read_file(tmp_path / "rows.parquet")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rows.csv")
    with pytest.raises(DataError, match=r"rows\.csv is a device or a pipe; name a file$"):
        read_file(tmp_path / "rows.csv")


@pytest.mark.parametrize("text", ["<!DOCTYPE html><html></html>", "\n<HTML lang=en>\n<p>404, not found</p>\n"])
def test_a_web_page_is_no_table(tmp_path: Path, text: str) -> None:
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(DataError, match="a web page, no table of rows"):
        read_file(tmp_path / "rows.csv")


def test_a_file_that_would_fill_the_memory(tmp_path: Path) -> None:
    for name in ("rows.csv", "rows.jsonl", "rows.parquet"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(20 << 30)  # a sparse file
        with pytest.raises(DataError, match=rf"{name} has 21474836480 bytes, at most 2147483648 are read"):
            read_file(tmp_path / name)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="a file without a size")
def test_a_file_without_a_size_is_not_waited_for() -> None:
    assert file_bytes(Path("/proc/self/environ")) == b""


def test_a_file_that_grows_is_read_as_it_was_when_it_was_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "Who?", "answer": "Ann"}\n')
    opened = Path.open

    def grown(self: Path, mode: str) -> Any:
        with opened(self, "ab") as more:
            more.write(b"{" * 1000)
        return opened(self, mode)

    monkeypatch.setattr(Path, "open", grown)
    assert [dict(row) for row in read_file(path)] == [{"question": "Who?", "answer": "Ann"}]
