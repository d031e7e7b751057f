from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from expunge.core.errors import DataError
from expunge.core.records import GeneratedText
from expunge.judges.api import JudgeReply, JudgeScores, interval, judge_texts, score


class Length:
    """Scores a text by the number it holds; "?" has no score."""

    name = "number"

    def judge(self, replies: Sequence[JudgeReply]) -> list[JudgeScores]:
        return [JudgeScores(math.nan, "no number") if s.text == "?" else JudgeScores(float(s.text)) for s in replies]


def texts(*values: str, samples: int = 1) -> list[GeneratedText]:
    return [GeneratedText(i // samples, i % samples, "p", v, "r", 1, True) for i, v in enumerate(values)]


def test_wilson_by_its_formula() -> None:
    n, k, z = 80, 20, 1.959963984540054
    result = judge_texts(Length(), texts(*["1"] * k, *["0"] * (n - k)))
    centre, half = (k + z * z / 2) / (n + z * z), z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    assert (result.mean, result.interval, result.n, result.warning) == (0.25, "wilson", 80, None)
    assert (result.ci_low, result.ci_high) == pytest.approx((centre - half, centre + half), rel=1e-9)


def test_wilson_at_the_ends_is_no_point() -> None:
    low, high, kind = interval(np.zeros(64))
    assert (low, kind) == (0.0, "wilson")
    assert high == pytest.approx(1.959963984540054**2 / (64 + 1.959963984540054**2), rel=1e-9)


def test_several_samples_are_one_row() -> None:
    result = judge_texts(Length(), texts("1", "0", "1", "1", samples=2))
    assert (result.n, result.mean, result.interval) == (2, 0.75, "bootstrap")
    assert result.ci_low == 0.5
    assert result.ci_high == 1.0


def test_missing_scores_are_counted_and_in_no_mean() -> None:
    result = judge_texts(Length(), texts("1", "?", "0"))
    assert (result.n, result.n_missing, result.mean) == (2, 1, 0.5)
    assert result.lines[1].reason == "no number"
    assert result.warning == (
        "only 2 rows were judged: with fewer than 64 the interval is too wide to rank models; "
        "1 of 3 generations have no score and are in no mean"
    )
    none = judge_texts(Length(), texts("?"))
    assert math.isnan(none.mean)
    assert none.reason == "no text has a score: no number"


def test_order_does_not_matter() -> None:
    some = texts("0.1", "0.9", "0.4", "0.3")
    assert judge_texts(Length(), some) == judge_texts(Length(), some[::-1])


def test_plain_scores() -> None:
    assert score(Length(), ["1", "0.5"]) == [1.0, 0.5]
    with pytest.raises(DataError, match=r"^prompts: 1 for 2 texts$"):
        score(Length(), ["1", "0"], prompts=["a"])
