"""MMLU's sets, of its csv files and of the hub's layout."""

from __future__ import annotations

from pathlib import Path

import pytest

from expunge.core.errors import ConfigError, DataError
from expunge.data.loaders.mmlu import mmlu_sets


def test_the_hub_layout_makes_a_set_of_each_subject(wmdp_folder: Path) -> None:
    sets = mmlu_sets(str(wmdp_folder / "mmlu"), n_shots=2, limit=3)
    assert {name: len(rows) for name, rows in sets.items()} == {"mmlu_anatomy": 3, "mmlu_us_law": 3}
    assert "about us law.\n\n" in sets["mmlu_us_law"].shots[0][0]
    assert [a for _, a in sets["mmlu_us_law"].shots] == ["A", "B"]


def test_no_dev_questions_are_read_without_shots(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "law_test.csv").write_text("question,choice0,choice1,answer\nWhy?,so,not so,1\n")
    (rows,) = mmlu_sets(str(tmp_path), n_shots=0).values()
    assert rows[0].answers == {"answer": "B", "wrong_0": "A"}
    with pytest.raises(DataError, match="all"):
        mmlu_sets(str(tmp_path), n_shots=1)


def test_an_unknown_subject(wmdp_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"^data\.args\.subjects: MMLU has no subject 'anatomie'; did you mean 'anat"):
        mmlu_sets(str(wmdp_folder / "mmlu"), subjects=["anatomie"])


def test_too_few_dev_questions(tmp_path: Path) -> None:
    for split in ("test", "dev"):
        (tmp_path / split).mkdir()
        (tmp_path / split / f"law_{split}.csv").write_text("question,choice0,choice1,answer\nWhy?,so,not so,1\n")
    with pytest.raises(DataError, match="the subject law has 1 dev questions, 5 needed"):
        mmlu_sets(str(tmp_path))


@pytest.mark.shared
def test_the_real_set(shared: Path) -> None:
    sets = mmlu_sets(str(shared / "data" / "mmlu"))
    assert len(sets) == 57 and sum(len(rows) for rows in sets.values()) == 14042
    assert all(len(rows.shots) == 5 for rows in sets.values())
    assert all(set(row.answers) == {"answer", "wrong_0", "wrong_1", "wrong_2"} for s in sets.values() for row in s)
    assert (
        sets["mmlu_anatomy"]
        .shots[0][0]
        .startswith(
            "The following are multiple choice questions (with answers) about anatomy.\n\n"
            "What is the embryological origin "
            "of the hyoid bone?\nA. The first pharyngeal arch\n"
        )
    )
    assert sets["mmlu_anatomy"].shots[0][1] == "D"
