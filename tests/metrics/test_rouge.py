"""ROUGE's arguments and order; its numbers are in the golden cases."""

from __future__ import annotations

import math
import random

import pytest
from rouge_score import rouge_scorer

from expunge.core.errors import ConfigError
from expunge.core.records import GeneratedText, GeneratedTexts
from expunge.metrics import rouge
from expunge.metrics.api import Metric
from expunge.metrics.compute import compute

TEXTS = [
    GeneratedText(i, 0, "", said, "the quick brown fox", 3, True)
    for i, said in enumerate(["the fox", "quick", "", "brown the"])
]


def run(texts: list[GeneratedText], **args):
    metric = Metric("m", "rouge", rows="r", reads={"texts": ("answer",)}, args=args)
    return compute([metric], {"texts": {"r": GeneratedTexts(texts)}})["m"]


def test_order_of_rows_does_not_matter() -> None:
    shuffled = TEXTS[:]
    random.Random(3).shuffle(shuffled)
    assert shuffled != TEXTS
    assert run(shuffled) == run(TEXTS)


def test_statistic_is_chosen() -> None:
    assert run(TEXTS, statistic="rouge1_recall").value == pytest.approx((2 + 1 + 0 + 2) / 16)
    assert run(TEXTS, statistic="rougeL_recall").value == pytest.approx((2 + 1 + 0 + 1) / 16)


def test_wrong_statistic() -> None:
    with pytest.raises(
        ConfigError, match=r"args\.statistic: 'rougel_recall': no such choice; did you mean 'rougeL_recall'\?"
    ):
        run(TEXTS, statistic="rougel_recall")


def test_needs_generations() -> None:
    with pytest.raises(ConfigError, match="metric m: family rouge reads generations"):
        compute([Metric("m", "rouge", rows="r")], {})


WORDS = ("the", "author", "authors", "wrote", "writing", "novels", "of", "Paris", "1991", "naïve", "a", "", "—")


def some_pairs(n: int) -> list[GeneratedText]:
    draw = random.Random(0)
    said = [" ".join(draw.choices(WORDS, k=draw.choice((0, 1, 3, 9, 40, 90)))) for _ in range(2 * n)]
    return [GeneratedText(i, 0, "", said[2 * i], said[2 * i + 1], 1, True) for i in range(n)]


def test_equals_the_package_rouge_score_to_the_last_bit() -> None:
    scorer = rouge_scorer.RougeScorer(["rouge1", "rougeL"], use_stemmer=True)
    compared = 0
    for text, got in zip(some_pairs(300), rouge.rouge_of_all(some_pairs(300)), strict=True):
        if math.isnan(got[0]):
            continue
        theirs = scorer.score(text.reference, text.generation)
        assert got == (theirs["rouge1"].recall, theirs["rougeL"].recall, theirs["rougeL"].fmeasure)
        compared += 1
    assert compared > 200


@pytest.mark.parametrize(
    ("a", "b", "n"), [("", "x", 0), ("abcbdab", "bdcaba", 4), ("aaaa", "aa", 2), ("ab" * 50, "ba" * 50, 99)]
)
def test_longest_common_subsequence_by_hand(a: str, b: str, n: int) -> None:
    assert rouge._common(list(a), list(b)) == rouge._common(list(b), list(a)) == n


def test_several_processes_count_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = some_pairs(61)
    alone = rouge.rouge_of_all(texts)
    asked: list[int] = []
    plain = rouge._in_a_process
    monkeypatch.setattr(rouge, "FEWEST", 30)
    monkeypatch.setattr(rouge.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(rouge, "_in_a_process", lambda pairs: (asked.append(len(pairs)), plain(pairs))[1])
    many = rouge.rouge_of_all(texts)
    assert sorted(asked) == [30, 31]
    assert [str(s) for s in many] == [str(s) for s in alone]
    monkeypatch.setattr(rouge.sys, "executable", "/bin/false")
    assert [str(s) for s in rouge.rouge_of_all(texts)] == [str(s) for s in alone], "no worker, same numbers"


def test_a_generation_that_is_none_is_missing_not_zero() -> None:
    broken = [*TEXTS, GeneratedText(4, 0, "", "", "the fox", 0, False)]
    result = run(broken)
    assert math.isnan(result.per_row[4]["rougeL_recall"])
    assert (result.value, result.extra["n_missing"]) == (run(TEXTS).value, 1)
    alone = run(broken[-1:])
    assert math.isnan(alone.value)
    assert (
        alone.reason
        == "none of the 1 rows could be scored: a record is missing for them, or the model's logits were not numbers"
    )
