"""RWKU's utility sets, from rows of its schema."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.data.loaders.test_rwku import write_rwku

from expunge.benchmarks.api import BenchmarkConfig, find_benchmark
from expunge.core.errors import DataError
from expunge.data.loaders.rwku import probes
from expunge.data.loaders.rwku_utility import has_utility, utility_sets

QUESTION = {"question": "2 + 2?", "choices": ["3", "4", "5", "6"], "answer": 1}
RECORDS: dict[str, dict[str, Any]] = {
    "retain_mmlu": {**QUESTION, "task": "high_school_mathematics", "examples": [{**QUESTION, "question": "1 + 3?"}]},
    "retain_bbh": {"task": "boolean", "cot": "Q: True? ... So the answer is True.", "question": "not True is",
                   "answer": ["False"]},
    "truthful": {"question": "Is it?", "mc1_targets": {"choices": ["No.", "Yes."], "labels": [0, 1]}},
    "triviaqa": {"question": "Who wrote It?", "answers": ["Stephen King", "King"]},
    "fluency": {"instruction": "Write a poem.", "output": "Roses"},
}  # fmt: skip


def write_utility(folder: Path) -> Path:
    root = write_rwku(folder)
    for name, record in RECORDS.items():
        rows = [{**record, "subject": person} for person in ("Stephen King", "Confucius")]
        (root / "All" / f"{name}.json").write_text(json.dumps(rows))
    return root


def test_the_five_sets_of_one_person(tmp_path: Path) -> None:
    root = write_utility(tmp_path)
    assert has_utility(str(root))
    sets = utility_sets(str(root), ["Confucius"])
    assert {len(rows) for rows in sets.values()} == {1}
    general = sets["utility_general"][0]
    assert general.question.startswith("The following are multiple choice questions (with answers) about high school")
    assert general.question.count("Answer:") == 2 and "1 + 3?" in general.question
    assert general.answers == {"answer": "B", "wrong_0": "A", "wrong_1": "C", "wrong_2": "D"}
    assert sets["utility_truthfulness"][0].answers == {"answer": "Yes.", "wrong_0": "No."}
    assert sets["utility_factuality"][0].answer == "Stephen King\nKing"
    assert sets["utility_reason"][0].question.endswith("Q: not True is")
    (root / "All" / "fluency.json").unlink()
    assert not has_utility(str(root))


def test_the_panel_has_the_sets_each_attack_and_each_person(tmp_path: Path) -> None:
    benchmark = find_benchmark("rwku").make(
        BenchmarkConfig(root=str(write_utility(tmp_path)), args={"targets": [], "by_target": True})
    )
    names = {metric.name for metric in benchmark.panel}
    assert {
        "utility_general",
        "utility_reason",
        "utility_truthfulness",
        "utility_factuality",
        "utility_fluency",
    } <= names
    assert "forget_level3_ROUGE_simple_question" in names and "forget_level1_ROUGE_stephen_king" in names
    one = next(m for m in benchmark.panel if m.name == "forget_level1_ROUGE_stephen_king")
    assert one.where == {"subject": "Stephen King"}


@pytest.mark.parametrize(
    ("file", "columns", "words"),
    [
        ("truthful", {"mc1_targets": None}, "'mc1_targets' must have choices and labels"),
        ("truthful", {"question": None}, "'question' must be text, got None"),
        (
            "truthful",
            {"mc1_targets": {"choices": ["a", 1], "labels": [0, 1]}},
            "mc1_targets: 'choice' must be text, got 1",
        ),
        ("retain_bbh", {"answer": 7}, "'answer' must be one text or a list of texts, got 7"),
        ("retain_bbh", {"cot": ["a"]}, "'cot' must be text"),
        ("triviaqa", {"answers": [{"a": 1}]}, "'answers' must be one text or a list of texts"),
        ("triviaqa", {"answers": [" "]}, "'answers' is empty"),
        ("fluency", {"instruction": 1}, "'instruction' must be text, got 1"),
    ],
)
def test_rows_that_are_wrong(tmp_path: Path, file: str, columns: dict[str, Any], words: str) -> None:
    """The row is that of the person, because the files have the rows of all people."""
    root = write_utility(tmp_path)
    rows = [{**RECORDS[file], "subject": "Stephen King"}, {**RECORDS[file], "subject": "Confucius", **columns}]
    (root / "All" / f"{file}.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match=rf"{file}\.json, Confucius, row 0: {re.escape(words)}"):
        utility_sets(str(root), ["Confucius"])


@pytest.mark.parametrize("kind", [7, ["a"], {"a": 1}])
def test_a_kind_of_a_probe_is_a_text(tmp_path: Path, kind: Any) -> None:
    root = write_utility(tmp_path)
    row = {"query": "a?", "answer": "b", "subject": "Confucius", "type": kind}
    (root / "All" / "forget_level3.json").write_text(json.dumps([row]))
    with pytest.raises(DataError, match=r"Confucius, row 0: 'type' must be text"):
        probes(str(root), "forget_level3", ["Confucius"], "{query}")
