"""DUSK's documents and questions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from expunge.core.errors import DataError
from expunge.data.loaders.dusk import FORGET, QUESTIONS, RETAIN, load_dusk


def write_dusk(folder: Path, true_text: str = "gt") -> Path:
    """Files with the hub's names, as JSON."""
    (folder / "raw").mkdir(parents=True)
    for split in (FORGET, *RETAIN):
        (folder / "raw" / f"{split}.json").write_text(json.dumps([{"text": f"{split} {i}"} for i in range(3)]))
    for subset in (*QUESTIONS.values(), "eval_icl"):
        rows = [{"question": f"{subset} {i}?", "answer": f"{subset} {i}."} for i in range(2)]
        (folder / f"{subset}.json").write_text(json.dumps(rows))
    (folder / "eval_verbatim.json").write_text(json.dumps([{"prompt": "He was", true_text: "born."}]))
    (folder / "eval_holdout.json").write_text(json.dumps([{"text": "unseen"}]))
    return folder


def test_roles(tmp_path: Path) -> None:
    sets = load_dusk(str(write_dusk(tmp_path)), max_length=64)
    assert {name: len(rows) for name, rows in sets.items()} == {
        "forget": 3,
        "retain": 12,
        "privleak_forget": 3,
        "privleak_holdout": 1,
        "forget_knowmem": 2,
        "shared_knowmem": 2,
        "retain_knowmem": 2,
        "forget_verbmem": 1,
    }
    assert sets["forget"].long == "pieces" and sets["shared_knowmem"][0].question == "eval_general_qa 0?"
    assert sets["shared_knowmem"].shots[0] == ("eval_icl 0?", "eval_icl 0.")
    assert (sets["forget_verbmem"].form, sets["forget_verbmem"][0].answer) == ("completion", "born.")


@pytest.mark.parametrize("column", ["ground_truth", "answer"])
def test_other_names_of_the_true_text(tmp_path: Path, column: str) -> None:
    assert load_dusk(str(write_dusk(tmp_path, column)), max_length=64)["forget_verbmem"][0].answer == "born."


def test_a_wrong_row_is_named_with_its_own_file(tmp_path: Path) -> None:
    folder = write_dusk(tmp_path)
    (folder / "raw" / f"{RETAIN[2]}.json").write_text(json.dumps([{"text": "a"}, {"text": None}]))
    with pytest.raises(DataError, match=rf"{RETAIN[2]}\.json row 1: 'text' must be text, got None$"):
        load_dusk(str(folder), max_length=64)


def test_no_true_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"eval_verbatim\.json: no column of the true text"):
        load_dusk(str(write_dusk(tmp_path, "gtt")), max_length=64)


def test_a_missing_file(tmp_path: Path) -> None:
    folder = write_dusk(tmp_path)
    (folder / "eval_general_qa.json").unlink()
    with pytest.raises(DataError, match="eval_general_qa does not exist"):
        load_dusk(str(folder), max_length=64)
