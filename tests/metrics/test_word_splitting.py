"""Words of every script."""

from __future__ import annotations

import unicodedata

import pytest
import regex

from expunge.metrics.words import (
    blank_separated,
    choose_tokenizer,
    rouge_score_words,
    unicode_words,
    whole_words_pattern,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Москва, 1984!", ["москва", "1984"]),
        ("हिन्दी में लिखा", ["हिन्दी", "में", "लिखा"]),
        ("مُحَمَّد كَتَبَ", ["مُحَمَّد", "كَتَبَ"]),
        ("我不知道1984年。", ["我", "不", "知", "道", "1984", "年"]),
        ("ก็ดี", ["ก็", "ด\u0e35"]),
        ("မြန်မာ", ["မြ", "န်", "မာ"]),
        ("བོད་སྐད", ["བོ", "ད", "སྐ", "ད"]),
        ("コーヒー", ["コ", "ー", "ヒ", "ー"]),
        ("한국어 단어", ["한국어", "단어"]),
        ("Straße STRASSE", ["strasse", "strasse"]),
        ("می\u200cخواهم", ["میخواهم"]),  # noqa: RUF001
        ("१९८४ ١٩٨٤ ๑๙๘๔", ["1984", "1984", "1984"]),
        ("don't stop", ["don", "t", "stop"]),
        ("\u0301 — …", []),
        ("", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert unicode_words(text) == expected
    assert unicode_words(unicodedata.normalize("NFD", text)) == expected


def test_ascii_words_are_those_of_rouge_score_without_stems() -> None:
    for text in ("The quick brown fox, 12 times.", "a-b_c d", "UPPER lower 3.14"):
        assert unicode_words(text.replace("_", " ")) == [w for w in regex.split("[^a-z0-9]+", text.lower()) if w]
    assert rouge_score_words("writing novels") == ["write", "novel"]


@pytest.mark.parametrize(
    ("references", "expected"),
    [
        (["plain text", "more of it"], "rouge_score"),
        (["plain text " * 20, "é"], "rouge_score"),
        (["Der Müller hört die Vögel"], "unicode"),
        (["Москва"], "unicode"),
        (["", "—"], "rouge_score"),
        ([], "rouge_score"),
    ],
)
def test_the_references_choose(references: list[str], expected: str) -> None:
    assert choose_tokenizer("auto", references) == expected
    assert choose_tokenizer("unicode", references) == "unicode"
    assert choose_tokenizer("rouge_score", references) == "rouge_score"


def test_pieces_between_blanks() -> None:
    assert blank_separated(" The fox.  The fox ") == ["The", "fox.", "The", "fox"]
    assert blank_separated("Der Müller kam.") == ["Der", "Müller", "kam."]
    assert blank_separated("我说hello。") == ["我", "说", "hello。"]


@pytest.mark.parametrize(
    ("words", "text", "result"),
    [
        ("art", "a start", False),
        ("don't  know", "I don't know.", True),
        ("不知道", "我不知道答案", True),
        ("नह", "नहीं", False),
        ("नहीं", "मैं नहीं जानता", True),
        ("知道 OK", "我知道OK", False),
        ("know", "unknown", False),
    ],
)
def test_whole_words(words: str, text: str, result: bool) -> None:
    assert (regex.search(whole_words_pattern(words), text) is not None) == result
