"""KnowUnDo's two sides and two parts, from rows of its schema."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from expunge.core.errors import DataError
from expunge.data.loaders.knowundo import load_knowundo


def write_knowundo(folder: Path, domain: str = "copyright") -> Path:
    """A folder as the hub's; one file a list of one record, the other the record itself."""
    (folder / domain).mkdir(parents=True)
    for split in ("unlearn", "retention"):
        parts = {
            part: [{"text": f"{split} {part} {i}?", "labels": f"The {split} {part} answer {i}."} for i in range(n)]
            for part, n in (("train", 3), ("val", 2))
        }
        whole = [parts] if split == "unlearn" else parts
        (folder / domain / f"{split}.json").write_text(json.dumps(whole, indent=2))
    return folder


def test_sides_and_parts(tmp_path: Path) -> None:
    sets = load_knowundo(str(write_knowundo(tmp_path)), "copyright")
    assert {n: len(r) for n, r in sets.items()} == {"forget": 3, "forget_eval": 2, "retain": 3, "retain_eval": 2}
    assert (sets["forget"][1].question, sets["forget"][1].answer) == ("unlearn train 1?", "The unlearn train answer 1.")
    assert sets["retain_eval"][0].question == "retention val 0?"


@pytest.mark.shared
def test_the_released_privacy_part(shared: Path) -> None:
    sets = load_knowundo(str(shared / "data" / "knowundo"), "privacy")
    assert {n: len(r) for n, r in sets.items()} == {
        "forget": 400,
        "forget_eval": 110,
        "retain": 441,
        "retain_eval": 108,
    }
    assert sets["forget"][0].question == "Who are Isabella Marquez's parents?"
    assert sets["retain"][0].question == "Who is Isabella Marquez?"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "not JSON"),
        ("[]", "expected one record with the lists train and val, got 0 records"),
        ('{"train": []}', "train: no rows"),
        ('{"train": {"text": "x"}}', "'train' must be a list of rows"),
        ('{"train": [{"text": "x", "label": "y"}]}', "train row 0: no column 'labels'; did you mean 'label'?"),
    ],
)
def test_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    folder = write_knowundo(tmp_path)
    (folder / "copyright" / "unlearn.json").write_text(text)
    with pytest.raises(DataError) as error:
        load_knowundo(str(folder), "copyright")
    assert message in str(error.value) and "unlearn.json" in str(error.value)


def test_a_half_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"unlearn\.json: no such file; write data_split=copyright"):
        load_knowundo(str(write_knowundo(tmp_path)), "privacy")


def test_the_folder_of_a_part_and_a_missing_part_name_the_settings(tmp_path: Path) -> None:
    root = write_knowundo(tmp_path, "privacy")
    with pytest.raises(DataError, match=f"no such file; write data.root={root} data_split=privacy$"):
        load_knowundo(str(root / "privacy"), "copyright")
    with pytest.raises(DataError, match=r"no such file; write data_split=privacy$"):
        load_knowundo(str(root), "copyright")
    with pytest.raises(DataError, match=r"no such file \(allowed: a folder with copyright or privacy\)"):
        load_knowundo(str(tmp_path / "privacy" / ".." / ".."), "copyright")
