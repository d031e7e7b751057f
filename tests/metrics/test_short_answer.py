"""Short answers by hand: accepted wordings, conclusions, words in common; and the entropy of n-grams."""

from __future__ import annotations

import math

import pytest

from expunge.core.records import GeneratedText, GeneratedTexts
from expunge.metrics.api import Metric, MetricResult
from expunge.metrics.compute import compute


def measured(family: str, generation: str, reference: str = "-", **args: object) -> MetricResult:
    metric = Metric("m", family, rows="r", reads={"texts": ("answer",)}, args=args)
    text = GeneratedText(
        row_id=0, sample=0, prompt="", generation=generation, reference=reference, n_new_tokens=5, stopped=True
    )
    return compute([metric], {"texts": {"r": GeneratedTexts([text])}})["m"]


@pytest.mark.parametrize(
    ("generation", "reference", "em", "f1"),
    [
        ("The King!", "Stephen King\nKing", 1.0, 1.0),
        ("a king of horror", "Stephen King", 0.0, 2 / 5),
        ("", "King", 0.0, 0.0),
        ("(A).", "(A)", 1.0, 1.0),
        ("the", "(A)", 0.0, 0.0),
        ("", "(A)", 0.0, 0.0),  # RWKU's script reads an empty text as a wrong word
        ("...", "(A)", 0.0, 0.0),
        ("", "...", 0.0, 0.0),
    ],
)
def test_accepted_answers(generation: str, reference: str, em: float, f1: float) -> None:
    assert measured("short_answer", generation, reference).value == em
    assert measured("short_answer", generation, reference, score="f1").value == pytest.approx(f1)


def test_a_conclusion_after_reasoning() -> None:
    text = "Not of true is false. So the answer is False. Q: next"
    assert measured("short_answer", text, "False", conclusion=True).value == 1
    assert measured("short_answer", text, "False").value == 0


def test_entropy() -> None:
    assert measured("ngram_entropy", "so so so so so").value == 0
    pairs, triples = math.log2(4), math.log2(3)
    assert measured("ngram_entropy", "a b c d e").value == pytest.approx((2 / 3 * pairs + 4 / 3 * triples) / 2)
