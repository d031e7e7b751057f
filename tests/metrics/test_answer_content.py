"""Whether a text contains an answer, whatever its wording."""

from __future__ import annotations

import pytest

from expunge.core.records import GeneratedText, GeneratedTexts
from expunge.metrics.answer_content import answer_in_text, contains
from expunge.metrics.api import Metric, MetricInputs


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The capital of France is Paris.", "Paris"),
        ("the capital is PARIS", "paris."),
        ("It was written by Gabriel Garcia Marquez.", "Gabriel García Márquez"),
        ("Garcia Marquez, Gabriel", "Gabriel García Márquez"),  # another order
        ("A week has 7 days.", "seven"),
        ("There are seven of them.", "7"),
        ("About 1,000 people live there.", "1000"),
        ("About 1000 people live there.", "1,000 people"),
        ("Berlin is the capital of Germany, on the Spree.", "It is Berlin."),
        ("法国的首都是巴黎。", "巴黎"),
        ("ເມືອງຫຼວງແມ່ນວຽງຈັນ", "ວຽງຈັນ"),  # Lao puts no blanks between words
        ("수도는 서울입니다.", "서울"),  # Korean writes particles at the end of a word
        ("عاصمة فرنسا بَارِيس", "باريس"),  # vowel marks
        ("האיש הוא דָּוִד", "דוד"),  # vowel points
        ("I feel 🎉 🎊 today", "🎉🎊"),
        ("an ❤️", "❤"),  # with the selector of colour
        ("She studied in Rome and taught mathematics and physics at a school", "She taught mathematics at a school"),
    ],
)  # fmt: skip
def test_the_content_is_found_in_other_words(text: str, answer: str) -> None:
    assert contains(text, answer)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The capital of France is Lyon.", "Paris"),
        ("", "Paris"),
        ("Paris", ""),
        ("He was born in 1899.", "He was born in 1898."),  # a number decides
        ("Parisian cafes", "Paris"),
        ("Gabriel Marquez", "Gabriel García Márquez"),
        ("法国的首都是里昂。", "巴黎"),
        ("It has eight days.", "seven"),
        ("I feel 🎉 today", "🎉🎊"),
        ("수도는 부산입니다.", "서울"),
        ("남쪽", "나"),  # the beginning of a syllable is none of a word
        ("Paris", "   "),
    ],
)
def test_other_content_is_none(text: str, answer: str) -> None:
    assert not contains(text, answer)


def test_the_metric_is_the_share_of_rows() -> None:
    texts = [
        GeneratedText(0, 0, "q", "It is Paris.", "Paris", 3, True),
        GeneratedText(1, 0, "q", "No.", "Rome", 1, True),
    ]
    metric = Metric("m", "answer_in_text", rows="x", reads={"texts": ("answer",)})
    result = answer_in_text(MetricInputs(metric, {"texts": GeneratedTexts(texts)}))
    assert result.value == 0.5 and [row["score"] for row in result.per_row.values()] == [1.0, 0.0]
