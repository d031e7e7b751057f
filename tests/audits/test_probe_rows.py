"""Probe questions from templates and from files, by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from expunge.audits.probe_rows import KINDS, TURNS, file_probes, probe_set, shorter_name, subjects, template_probes
from expunge.core.errors import ConfigError, DataError
from expunge.data.examples import Example, ExampleSet

PAIRS = (
    ("Where was Ada Mae Lee born?", "Ada Mae Lee was born in Rome."),
    ("What did Ada Mae Lee write for Paris Weekly?", "It was a novel."),
    ("what is the capital?", "It is unnamed."),
)
ROWS = ExampleSet("forget", tuple(Example(i, q, {"answer": a}) for i, (q, a) in enumerate(PAIRS)))


def by_kind(kind: str) -> list[tuple[int, str, str]]:
    return [(p.row, p.question, p.answer) for p in template_probes(ROWS, [kind])]


def test_every_kind_by_hand() -> None:
    assert by_kind("paraphrase")[1] == (1, f"Tell me what you know about this: {PAIRS[1][0]}", PAIRS[1][1])
    assert by_kind("alias") == [
        (0, "Where was A. M. Lee born?", PAIRS[0][1]),
        (1, "What did A. M. Lee write for Paris Weekly?", PAIRS[1][1]),
    ]
    assert by_kind("reverse")[0] == (
        0,
        "Which name belongs in the gap? Question: Where was ____ born? Answer: ____ was born in Rome.",
        "Ada Mae Lee",
    )
    # the other row's answer does not contain the name, so row 0 has no hop; row 1 hops over row 0
    assert by_kind("multi_hop") == [
        (
            1,
            'A name is missing in this sentence: "____ was born in Rome." The same name belongs in this question: '
            '"What did ____ write for Paris Weekly?" Answer it.',
            PAIRS[1][1],
        )
    ]
    assert [row for row, _, _ in by_kind("multi_turn")] == [0, 1, 2]
    assert [p.kind for p in template_probes(ROWS)] == sorted((p.kind for p in template_probes(ROWS)), key=KINDS.index)


def test_the_subject_is_the_name_that_most_rows_ask_about() -> None:
    assert {i: t.name for i, t in subjects(ROWS).items()} == {0: "Ada Mae Lee", 1: "Ada Mae Lee"}
    assert shorter_name("Ludwig van Beethoven") == "L. van Beethoven" and shorter_name("Ada") is None


def test_the_data_s_own_paraphrase_comes_first() -> None:
    row = Example(0, "Where?", {"answer": "Here."}, paraphrased_question="In which place?")
    assert template_probes(ExampleSet("x", (row,)), ["paraphrase"])[0].question == "In which place?"


def test_only_multi_turn_probes_have_turns_before_them() -> None:
    probes = template_probes(ROWS)
    assert probe_set("a", [p for p in probes if p.kind == "multi_turn"]).shots == TURNS
    assert probe_set("b", [p for p in probes if p.kind == "alias"]).shots == ()


def test_wrong_kinds_and_texts_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"kinds: no kind of probe named 'revers'; did you mean 'reverse'"):
        template_probes(ROWS, ["revers"])
    with pytest.raises(ConfigError, match=r"^forget: probes are made from questions"):
        template_probes(ExampleSet("forget", ROWS.rows, form="text"))


def test_a_file_is_read_with_its_errors_named(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text(
        '{"kind": "joke", "row": 2, "question": "q?", "answer": "a"}\n{"kind": "k", "question": "r?", "answer": "b"}\n'
    )
    assert [(p.kind, p.row) for p in file_probes(str(file), 3)] == [("joke", 2), ("k", -1)]
    with pytest.raises(DataError, match=r"row 0: 'row' must be a number of a forget row, 0 to 1, got 2"):
        file_probes(str(file), 2)
    file.write_text('{"kind": "joke", "questions": "q?", "answer": "a"}\n')
    with pytest.raises(DataError, match=r"row 0: no column 'question'; did you mean 'questions'"):
        file_probes(str(file), 2)
