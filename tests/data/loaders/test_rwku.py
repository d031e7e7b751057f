"""RWKU's subsets, from rows of its schema."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from expunge.core.errors import DataError
from expunge.data.loaders.rwku import check_targets, load_subset, probes, texts

PEOPLE = ("Stephen King", "Confucius")


def write_rwku(folder: Path) -> Path:
    """A folder as the hub's: All/, its files named as there."""
    folder = folder / "All"
    folder.mkdir(parents=True)
    names = {
        "forget_level1": "1", "forget_level2": "2", "forget_level3": "3", "neighbor_level1": "1",
        "neighbor_level2": "2",
    }  # fmt: skip
    for name, level in names.items():
        rows = [
            {
                "query": f"{person} {name} {i}: ___?", "answer": f"{person} answer {i}", "level": level,
                "type": "simple question", "subject": person,
            }
            for person in PEOPLE
            for i in range(2)
        ]  # fmt: skip
        (folder / f"{name}.json").write_text(json.dumps(rows))
    (folder / "intro.json").write_text(json.dumps([{"target": p, "intro": f"{p} is known."} for p in PEOPLE]))
    for name in ("passage", "forget_mia", "retain_mia"):
        rows = [{"text": f"A {name} text about {p}.", "subject": p} for p in PEOPLE]
        (folder / f"{name}.json").write_text(json.dumps(rows))
    return folder.parent


def test_probes_of_one_person_and_of_all(tmp_path: Path) -> None:
    root = str(write_rwku(tmp_path))
    rows = probes(root, "forget_level1", ["Confucius"], "Fill in: {query}")
    assert [r.question for r in rows] == [f"Fill in: Confucius forget_level1 {i}: ___?" for i in range(2)]
    assert rows[1].answer == "Confucius answer 1" and rows[1].meta == {
        "subject": "Confucius",
        "type": "simple question",
    }
    assert len(probes(root, "neighbor_level2", [], "{query}")) == 4


def test_texts_of_the_targets_and_of_the_others(tmp_path: Path) -> None:
    root = str(write_rwku(tmp_path))
    mine = texts(root, "train_original_passage", "forget", ["Confucius"])
    assert [(r.question, r.answer) for r in mine] == [("", "A passage text about Confucius.")]
    assert (mine.name, mine.form) == ("forget", "text")
    others = texts(root, "train_original_passage", "retain", ["Confucius"], others=True)
    assert [r.answer for r in others] == ["A passage text about Stephen King."]
    assert len(texts(root, "train_original_passage", "retain", PEOPLE, others=True)) == 0


def test_files_by_the_subsets_own_names(tmp_path: Path) -> None:
    (tmp_path / "mia_forget.jsonl").write_text('{"text": "One.", "subject": "Confucius"}\n')
    assert len(load_subset(str(tmp_path), "mia_forget")[0]) == 1


def test_one_folder_for_each_person(tmp_path: Path) -> None:
    """As the repository's own script writes the hub's data: Target/NUMBER_NAME/, numbered in the order of the hub."""
    everyone = write_rwku(tmp_path / "hub")
    people = ("Stephen King", "Confucius", "Prince Harry, Duke of Sussex")
    for number, person in zip((2, 3, 10), people, strict=True):
        folder = tmp_path / "RWKU" / "Target" / f"{number}_{person.replace(' ', '_')}"
        folder.mkdir(parents=True)
        for file in (everyone / "All").iterdir():
            kings = [r for r in json.loads(file.read_text()) if "Stephen King" in (r.get("subject"), r.get("target"))]
            (folder / file.name).write_text(json.dumps(kings).replace("Stephen King", person))
    for root in (tmp_path / "RWKU", tmp_path / "RWKU" / "Target"):
        check_targets(str(root), people)
        rows, where = load_subset(str(root), "forget_level1")
        assert [row["subject"] for row in rows] == [person for person in people for _ in range(2)]
        assert where == f"{tmp_path}/RWKU/Target/*/forget_level1.json"
        others = texts(str(root), "train_original_passage", "retain", people[:1], others=True)
        assert [r.answer for r in others] == [f"A passage text about {person}." for person in people[1:]]
    assert len(load_subset(str(tmp_path / "RWKU" / "Target" / "3_Confucius"), "forget_level1")[0]) == 2


def test_what_is_wrong(tmp_path: Path) -> None:
    root = str(write_rwku(tmp_path))
    with pytest.raises(DataError, match=r"no person named 'Steven King'; did you mean 'Stephen King'"):
        check_targets(root, ["Steven King"])
    with pytest.raises(DataError, match="no row about Socrates"):
        probes(root, "forget_level1", ["Socrates"], "{query}")
    with pytest.raises(DataError, match=r"no rows of train_positive_phi3: looked for .* and positive_phi"):
        load_subset(root, "train_positive_phi3")
    (tmp_path / "All" / "passage.json").write_text('[{"text": "x"}]')
    with pytest.raises(DataError, match=r"passage\.json row 0: 'subject' must be text, got None"):
        texts(root, "train_original_passage", "forget", ["Confucius"])
    (tmp_path / "All" / "passage.json").write_text('[{"txt": "x", "subject": "Confucius"}]')
    with pytest.raises(DataError, match="row 0: no column 'text'"):
        texts(root, "train_original_passage", "forget", ["Confucius"])
