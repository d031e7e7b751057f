"""SemEval's rows: ids, sides, tasks, documents."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from expunge.core.errors import ConfigError, DataError
from expunge.data.loaders.semeval import (
    by_term,
    first_documents,
    has_validation,
    load_members,
    load_semeval,
    load_sides,
    parse_id,
    with_template,
)

FORGET = [
    {"id": '"a-1"sc1', "task": "Task1", "input": "Once upon a", "output": "time there was."},
    {"id": '"a-1"qa0', "task": "Task1", "input": "Who?", "output": "Gisella"},
    {"id": "b-2sc1", "task": "Task2", "input": "Her Social", "output": "Security Number is 1."},
    {"id": "b-2qa0", "task": "Task2", "input": "Her birth date?", "output": "1984-12-31"},
    {"id": "b-2qa1", "task": "Task2", "input": "Her number?", "output": "1"},
    {"id": "b-3qa0", "task": "Task2", "input": "His birth date?", "output": "1985-12-31"},
]
RETAIN = [{**row, "id": row["id"].replace("a-1", "r-1").replace("b-", "k-")} for row in FORGET]


def write(folder: Path, forget: list[dict] = FORGET, retain: list[dict] = RETAIN, split: str = "train") -> Path:
    (folder / split).mkdir(parents=True)
    for name, rows in (("forget", forget), ("retain", retain)):
        (folder / split / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder


def test_ids() -> None:
    assert parse_id('"8f24c511-0b7e"sc1') == ("8f24c511-0b7e", "sc")
    assert parse_id("df8d2304-sc1qa4") == ("df8d2304-sc1", "qa")
    assert parse_id("59716187qa0") == ("59716187", "qa")
    for wrong in ("", "sc1", "59716187", "59716187qa", "59716187qa10", "59716187QA1", "59716187qa1 "):
        with pytest.raises(DataError, match="expected <document>sc<digit> or <document>qa<digit>"):
            parse_id(wrong)


def test_rows_stand_as_they_are_and_are_told_by_task_and_kind(tmp_path: Path) -> None:
    sets = load_semeval(str(write(tmp_path)), "train")
    row = sets["forget"][0]
    assert (row.question, row.answer, sets["forget"].form) == ("Once upon a", "time there was.", "completion")
    assert row.meta == {"id": '"a-1"sc1', "document": "a-1", "kind": "sc", "task": "Task1"}
    terms = by_term(sets)
    assert {name: len(rows) for name, rows in terms.items() if name.startswith("forget")} == {
        "forget_Task1_regurgitation": 1,
        "forget_Task1_knowledge": 1,
        "forget_Task2_regurgitation": 1,
        "forget_Task2_knowledge": 3,
    }
    assert [r.answer for r in terms["forget_Task2_knowledge"]] == ["1984-12-31", "1", "1985-12-31"]


def test_parquet_and_csv_of_the_same_rows_are_the_same(tmp_path: Path) -> None:
    targets = load_semeval(str(write(tmp_path / "lines", split="validation")), "validation")
    parquet, lume = tmp_path / "hub" / "data", tmp_path / "lume"
    parquet.mkdir(parents=True)
    lume.mkdir()
    for name, rows in (("forget", FORGET), ("retain", RETAIN)):
        pq.write_table(pa.Table.from_pylist(rows), parquet / f"{name}_validation-00000-of-00001.parquet")
        with open(lume / f"{name}.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, list(FORGET[0]))
            writer.writeheader()
            writer.writerows(rows)
    for root, split in ((tmp_path / "hub", "validation"), (lume, "all")):
        result = load_semeval(str(root), split)
        assert {n: r.fingerprint() for n, r in result.items()} == {n: r.fingerprint() for n, r in targets.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "a-1"}, "row 0: id 'a-1': expected"),
        ({"task": "task1"}, "row 0: task 'task1'; did you mean 'Task1'?"),
        ({"task": None}, "row 0: 'task' must be text, got None"),
        ({"id": 5}, "row 0: 'id' must be text, got 5"),
        ({"id": '"a-1"qa0'}, "row 1: the id '\"a-1\"qa0' is also that of row 0"),
        ({"id": "k-2sc1"}, "row 0: its document k-2 is also that of"),
        ({"output": " "}, "row 0: 'output' is empty"),
    ],
)
def test_a_wrong_row_is_one_line(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(DataError) as error:
        load_semeval(str(write(tmp_path, [{**FORGET[0], **change}, *FORGET[1:]])), "train")
    assert message in str(error.value)
    assert "did you mean 'id'" not in str(error.value)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"forget_split=valid: .* did you mean 'validation'"):
        load_semeval(str(tmp_path), "valid")
    with pytest.raises(DataError, match="no forget rows of the split train: looked for train/forget, forget_train"):
        load_semeval(str(tmp_path), "train")


def test_membership_documents(tmp_path: Path) -> None:
    assert load_members(str(tmp_path), "train", named=False) == {}
    with pytest.raises(DataError, match=r"^data\.args\.mia=.*no member and nonmember files"):
        load_members(str(tmp_path), "train", named=True)
    folder = tmp_path / "mia_data" / "train"
    folder.mkdir(parents=True)
    for name in ("member", "nonmember"):
        (folder / f"{name}.jsonl").write_text(json.dumps({"id": "1", "document": f"A {name} text."}) + "\n")
    result = load_members(str(tmp_path), "train", named=False)
    row = result["member"][0]
    assert (row.question, row.answer, result["member"].form) == ("", "A member text.", "text")


def test_the_first_documents_come_whole(tmp_path: Path) -> None:
    sets = first_documents(load_semeval(str(write(tmp_path)), "train"), 1)
    assert [r.meta["id"] for r in sets["forget"]] == ['"a-1"sc1', '"a-1"qa0', "b-2sc1", "b-2qa0", "b-2qa1"]
    assert [r.row_id for r in sets["forget"]] == [0, 1, 2, 3, 4]


@pytest.mark.shared
def test_the_real_rows(shared: Path) -> None:
    root = str(shared / "data" / "semeval")
    for split, sizes in (("train", (1112, 1136)), ("validation", (254, 278))):
        sets = load_semeval(root, split)
        assert (len(sets["forget"]), len(sets["retain"])) == sizes
        terms = by_term(sets)
        assert len(terms) == 12 and sum(len(rows) for rows in terms.values()) == sum(sizes)
    assert {n: len(r) for n, r in load_members(root, "train", named=False).items()} == {"member": 250, "nonmember": 250}


def hub_files(folder: Path) -> Path:
    """The four files of the task's data set on the hub."""
    folder.mkdir()
    for split in ("train", "validation"):
        for side in ("forget", "retain"):
            row = {"id": f"{side}-{split}sc1", "task": "Task1", "input": f"{side} {split}", "output": "gold"}
            table = pa.Table.from_pylist([row])
            pq.write_table(table, folder / f"{side}_{split}-00000-of-00001.parquet")
    return folder


def test_the_hubs_four_files_as_the_tasks_own_folders(tmp_path: Path) -> None:
    for folder in (hub_files(tmp_path / "flat"), hub_files(tmp_path / "data").parent):
        sets = load_sides({"forget": str(folder), "retain": str(folder)})
        assert [sets[side][0].question for side in ("forget", "retain")] == ["forget train", "retain train"]
        assert has_validation(str(folder))
    file = tmp_path / "flat" / "forget_validation-00000-of-00001.parquet"
    sets = load_sides({"forget": str(file), "retain": str(tmp_path / "flat")})
    assert sets["forget"][0].question == "forget validation"
    file.unlink()
    assert not has_validation(str(tmp_path / "flat"))


def test_of_several_files_of_a_side_none_is_chosen_silently(tmp_path: Path) -> None:
    folder = write(tmp_path) / "train"
    both = {"forget": str(folder), "retain": str(folder)}
    pq.write_table(pa.Table.from_pylist(FORGET), folder / "forget.parquet")
    assert len(load_sides(both)["forget"]) == len(FORGET)  # the same rows twice
    pq.write_table(pa.Table.from_pylist(FORGET[:2]), folder / "forget.parquet")
    with pytest.raises(DataError, match=r"one file of forget rows, got: forget.jsonl, forget.parquet; name the file$"):
        load_sides(both)
    (folder / "forget.parquet").unlink()
    (folder / "forget.jsonl").rename(folder / "forget_validation.jsonl")
    with pytest.raises(
        DataError, match=r"got: no file forget.jsonl, .* \(forget_validation.jsonl is for validation\)$"
    ):
        load_sides(both)


def test_the_input_output_template(tmp_path: Path) -> None:
    folder = hub_files(tmp_path / "flat")
    sets = load_sides({"forget": str(folder), "retain": str(folder)})
    assert with_template(sets, "raw") == sets
    row = with_template(sets, "input_output")["forget"][0]
    assert f"{row.question} {row.answer}" == "### Input: forget train\n ### Output: gold"
