"""MUSE's sets by role: which split each is read from, and in which form."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from expunge.core.errors import ConfigError, DataError
from expunge.data.examples import ANSWER, Example, ExampleSet
from expunge.data.loaders.muse import forget_source, load_muse, note_on_part

RELEASED = Path(__file__).parents[4] / "shared" / "data" / "muse_news"


def test_roles_and_forms(muse_folder: Path) -> None:
    sets, _ = load_muse(str(muse_folder), forget=("raw", "forget"), max_length=64)
    assert {name: (len(s), s.form, s.long, s.max_length) for name, s in sets.items()} == {
        "forget": (4, "text", "pieces", 64),
        "retain": (5, "text", "pieces", 64),
        "retain2": (6, "text", "pieces", 64),
        "forget_knowmem": (4, "qa", "right", None),
        "retain_knowmem": (4, "qa", "right", None),
        "forget_verbmem": (4, "completion", "right", 128),
        "privleak_forget": (4, "text", "right", 64),
        "privleak_holdout": (3, "text", "right", 64),
    }
    assert sets["retain"][0].answer.startswith("Bert") and sets["retain2"][0].answer.startswith("Cora")
    assert sets["forget_knowmem"].shots[0] == ("Where did Anna 4 go?", "Town 28")
    assert sets["forget_verbmem"][1].question == "Anna 1 went to"
    assert sets["privleak_forget"][0].question == ""


@pytest.mark.parametrize(
    ("root", "part", "other"),
    [
        ("muse-bench/MUSE-News", "Books", "News"),
        ("data/books/", "News", "Books"),
        ("/data/news/muse_news", "Books", "News"),
        ("muse-bench/MUSE-News", "News", None),
        ("data/news_and_books", "News", None),
        ("books/data", "News", None),
        ("newsletters", "Books", None),
        ("", "Books", None),
    ],
)
def test_a_name_of_the_other_part_is_noted(root: str, part: str, other: str | None) -> None:
    notes = note_on_part(root, part, ExampleSet("forget_knowmem", ()))
    assert [note.partition(": ")[2] for note in notes] == (
        [f"named after MUSE-{other}, and data_split is {part}; did you mean {other}?"] if other else []
    )


@pytest.mark.parametrize("name", ["muse", "MUSE-News", "MUSE-Books"])
def test_the_content_tells_the_part_whatever_the_folder_is_called(name: str) -> None:
    """The authors' folders are called bbc and hp."""
    texts = {"Books": "What did Hagrid call the dragon?", "News": "Who won at the Crucible?"}
    for part, text in texts.items():
        rows = tuple(Example(i, text if i % 4 == 0 else "Where?", {ANSWER: f"{i}"}) for i in range(20))
        questions = ExampleSet("forget_knowmem", rows)
        (other,) = (p for p in texts if p != part)
        (note,) = note_on_part(name, other, questions)
        count = 5 if part == "Books" else 0
        assert note == (
            f"data_split={other}: {count} of 20 forget questions name people of Harry Potter; did you mean {part}?"
        )
        assert not note_on_part(f"{name}-{part}", part, questions)


@pytest.mark.parametrize(
    ("split", "series", "source"),
    [
        ("forget", None, ("raw", "forget")),
        ("scal_3", None, ("scal", "forget_3")),
        ("sust_1", None, ("sust", "forget_1")),
        ("forget_4", "scal", ("scal", "forget_4")),
        ("forget_2", "sust", ("sust", "forget_2")),
    ],
)
def test_where_a_forget_split_is_read(split: str, series: str | None, source: tuple[str, str]) -> None:
    assert forget_source(split, "News", series) == source


@pytest.mark.parametrize(
    ("split", "part", "series"), [("forget_1", "News", None), ("scal_5", "News", None), ("scal_1", "Books", None)]
)
def test_a_split_that_is_not_there(split: str, part: str, series: str | None) -> None:
    with pytest.raises(ConfigError, match=rf"^forget_split={split}: MUSE-{part} has no such split.*forget"):
        forget_source(split, part, series)


def test_the_parquet_files_of_a_copy_of_the_hub_come_first(muse_folder: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copy"
    shutil.copytree(muse_folder, copied)
    for k in range(2):
        pq.write_table(pa.table({"text": [f"part {k}"]}), copied / "raw" / f"forget-0000{k}-of-00002.parquet")
    (copied / "raw" / "forget.json").write_text(json.dumps(["a list of texts"]))
    sets, _ = load_muse(str(copied), forget=("raw", "forget"))
    assert [row.answer for row in sets["forget"]] == ["part 0", "part 1"]


def test_the_layout_of_the_authors_repository(muse_folder: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copy"
    shutil.copytree(muse_folder, copied)
    for name in ("raw/forget", "raw/retain1", "raw/retain2", "privleak/forget", "privleak/holdout"):
        lines = (copied / f"{name}.json").read_text().splitlines()
        (copied / f"{name}.json").write_text(json.dumps([json.loads(line)["text"] for line in lines], indent=1))
    for kind in ("qa", "qa_icl"):
        (copied / f"knowmem/retain_{kind}.json").rename(copied / f"knowmem/retain2_{kind}.json")
    hub, repository = (load_muse(str(f), forget=("raw", "forget")) for f in (muse_folder, copied))
    assert repository == hub


def test_an_empty_text_is_left_out_and_counted(muse_folder: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copy"
    shutil.copytree(muse_folder, copied)
    with open(copied / "raw/forget.json", "a") as f:
        f.write('{"text": " "}\n{"text": "The last."}\n')
    sets, notes = load_muse(str(copied), forget=("raw", "forget"))
    assert [row.row_id for row in sets["forget"]] == list(range(5)) and sets["forget"][4].answer == "The last."
    assert notes == (f"{copied}/raw/forget.json: 5 rows, 1 dropped (an empty text: row 4)",)


@pytest.mark.skipif(not RELEASED.is_dir(), reason="the released files are not here")
def test_the_released_files() -> None:
    sets, notes = load_muse(str(RELEASED), forget=("raw", "forget"))
    assert len(sets["forget"]) == 888 and len(sets["privleak_holdout"]) > 0
    assert [note.rpartition("forget.jsonl: ")[2] for note in notes] == ["888 rows, 1 dropped (an empty text: row 821)"]


def test_a_file_that_is_missing(muse_folder: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copy"
    shutil.copytree(muse_folder, copied)
    (copied / "verbmem" / "forget.json").rename(copied / "verbmem" / "forgot.json")
    with pytest.raises(DataError, match=r"verbmem/forget does not exist; did you mean 'forgot.json'"):
        load_muse(str(copied), forget=("raw", "forget"))
