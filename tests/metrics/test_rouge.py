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
    GeneratedText(i, 0, "", words, "the quick brown fox", 3, True)
    for i, words in enumerate(["the fox", "quick", "", "brown the"])
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
    output = [" ".join(draw.choices(WORDS, k=draw.choice((0, 1, 3, 9, 40, 90)))) for _ in range(2 * n)]
    return [GeneratedText(i, 0, "", output[2 * i], output[2 * i + 1], 1, True) for i in range(n)]


def test_equals_the_package_rouge_score_to_the_last_bit() -> None:
    scorer = rouge_scorer.RougeScorer(["rouge1", "rougeL"], use_stemmer=True)
    compared = 0
    for text, actual in zip(some_pairs(300), rouge.rouge_of_all(some_pairs(300)), strict=True):
        if math.isnan(actual[0]):
            continue
        theirs = scorer.score(text.reference, text.generation)
        assert actual == (theirs["rouge1"].recall, theirs["rougeL"].recall, theirs["rougeL"].fmeasure)
        compared += 1
    assert compared > 200


@pytest.mark.parametrize(
    ("a", "b", "n"), [("", "x", 0), ("abcbdab", "bdcaba", 4), ("aaaa", "aa", 2), ("ab" * 50, "ba" * 50, 99)]
)
def test_longest_common_subsequence_by_hand(a: str, b: str, n: int) -> None:
    truth, output = (" ".join(letters) for letters in (a, b))
    recall = rouge.pair_scores([(truth, output, False)], "rouge_score")[0][1]
    assert recall == pytest.approx(n / len(a)) if a else math.isnan(recall)


@pytest.mark.parametrize(
    ("reference", "generation", "recall"),
    [
        ("Москва 1984", "Лондон 1984", 1 / 2),
        ("Она родилась в Киеве", "она родилась в Одессе", 3 / 4),
        ("हिन्दी में लिखा", "हिन्दु में लिखा", 2 / 3),
        ("كَتَبَ مُحَمَّد", "كَتَبَ أحمد", 1 / 2),
        ("東京で生まれた", "大阪で生まれた", 5 / 7),
        ("เกิดที่เชียงใหม่", "เกิดที่เชียงใหม่", 1.0),
        ("ភ្នំពេញ", "បាត់ដំបង", 0.0),
        ("서울에서 태어났다", "부산에서 태어났다", 1 / 2),
        ("Straße in Köln", "STRASSE in Köln", 1.0),
        ("cafe\u0301 noir fort à", "café noir fort à", 1.0),
        ("im Jahr ١٩٨٤ — год", "im Jahr 1984 год", 1.0),
    ],
)
def test_every_script_is_read(reference: str, generation: str, recall: float) -> None:
    result = run([GeneratedText(0, 0, "", generation, reference, 3, True)])
    assert result.per_row[0]["rougeL_recall"] == pytest.approx(recall)
    assert result.extra["unicode_words"] == 1


def test_a_set_with_few_other_letters_stays_with_rouge_score() -> None:
    plain = [GeneratedText(i, 0, "", "the novels", "the writer wrote long novels" * 4, 3, True) for i in range(9)]
    one = GeneratedText(9, 0, "", "Garcia", "García", 3, True)
    mixed = run([*plain, one])
    assert "unicode_words" not in mixed.extra
    assert mixed.per_row[9]["rougeL_recall"] == 0 and mixed.per_row[0] == run(plain).per_row[0]
    alone = run([one], tokenizer="unicode")
    assert alone.extra["unicode_words"] == 1 and alone.value == 0
    assert run(plain, tokenizer="unicode").per_row[0]["rouge1_recall"] == mixed.per_row[0]["rouge1_recall"]


def test_wrong_tokenizer() -> None:
    with pytest.raises(ConfigError, match=r"args\.tokenizer: 'unicod': no such choice; did you mean 'unicode'\?"):
        run(TEXTS, tokenizer="unicod")


def test_several_processes_count_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = some_pairs(61)
    alone = rouge.rouge_of_all(texts)
    requests: list[int] = []
    plain = rouge._in_a_process
    monkeypatch.setattr(rouge, "FEWEST", 30)
    monkeypatch.setattr(rouge.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(rouge, "_in_a_process", lambda pairs, how: (requests.append(len(pairs)), plain(pairs, how))[1])
    many = rouge.rouge_of_all(texts)
    assert sorted(requests) == [30, 31]
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
