"""Texts that another program may have changed are read unchanged, and counted in the note."""

from __future__ import annotations

import pytest

from expunge.data.doubtful_texts import doubts
from expunge.data.examples import ANSWER, Example


def rows(*pairs: tuple[str, str]) -> list[Example]:
    return [Example(i, question, {ANSWER: answer}) for i, (question, answer) in enumerate(pairs)]


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        ("a cat &amp; a mouse", "1 with HTML entities such as &amp; (row 1), read unchanged"),
        ("It&#39;s", "1 with HTML entities"),
        ("Jean â€“ 1762", "1 with characters such as Ã©: UTF-8 that was read as Windows-1252 (row 1)"),
        ("Ã‰mile", "1 with characters such as Ã©"),
        ("â\x80\x9cXâ\x80\x9d", "1 with characters such as Ã©"),
        ("7.21626E+09", "1 with a number such as 1.2E+09, which a spreadsheet shortened (row 1)"),
        ("7,2E+09", "1 with a number"),
        ("None", "1 with None, null or N/A as the answer (row 1)"),
        ("<NA>", "1 with None, null or N/A"),
    ],
)
def test_doubtful_texts_are_counted_without_showing_them(answer: str, remark: str) -> None:
    (line,) = doubts(rows(("Who?", "Ann"), ("What?", answer)))
    assert line.startswith(remark)


@pytest.mark.parametrize(
    "answer", ["Émile", "R&D; AT&T", "São Tomé", "“x” y", "None of them", "1e9", "5 E+09", "中文", "é"]
)
def test_other_texts_have_no_remark(answer: str) -> None:
    assert doubts(rows(("Wer, Zürich?", answer))) == []


def test_a_question_counts_too() -> None:
    assert len(doubts(rows(("Tom &lt;3 Jerry?", "Yes"), ("A &lt; B?", "No")))) == 1
