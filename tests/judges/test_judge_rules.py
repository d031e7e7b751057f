from __future__ import annotations

import math
from typing import Any

import pytest

from expunge.core.decode import decode
from expunge.core.errors import ConfigError
from expunge.judges.api import JudgeReply, score
from expunge.judges.rules import RuleJudge

TEXT = 'Lily said: "Start here!" Then \u201cno\u201d, and the ART of it.'


@pytest.mark.parametrize(
    ("rule", "holds"),
    [
        ({"any_of": ["cat", "lily"]}, True),
        ({"any_of": ["Lily"], "case_sensitive": True}, True),
        ({"any_of": ["lily"], "case_sensitive": True}, False),
        ({"any_of": ["tar"]}, False),  # not inside "Start"
        ({"any_of": ["art"]}, True),
        ({"any_of": ["the  art"]}, True),
        ({"all_of": ["lily", "here!"]}, True),
        ({"all_of": ["lily", "dog"]}, False),
        ({"regex": r"s[a-z]{3}:"}, True),
        ({"min_words": 12}, False),
        ({"min_words": 11, "max_words": 11}, True),
        ({"min_quotes": 2}, True),
        ({"min_quotes": 3}, False),
        ({"any_of": ["cat"], "negate": True}, True),
        ({"any_of": ["lily"], "max_words": 3}, False),
        ({"contains_reference": True}, True),
    ],
)
def test_conditions(rule: dict[str, Any], holds: bool) -> None:
    judge = decode(RuleJudge, {"rules": [rule]})
    assert score(judge, [TEXT], references=["start\nHERE"]) == [float(holds)]


def test_all_and_any() -> None:
    rules = [{"any_of": ["lily"]}, {"any_of": ["dog"]}]
    assert score(decode(RuleJudge, {"rules": rules}), [TEXT]) == [0.0]
    assert score(decode(RuleJudge, {"rules": rules, "combine": "any"}), [TEXT]) == [1.0]


def test_no_true_answer_is_missing() -> None:
    judge = decode(RuleJudge, {"rules": [{"contains_reference": True}]})
    (verdict,) = judge.judge([JudgeReply(TEXT, reference=" ")])
    assert math.isnan(verdict.score)
    assert verdict.reason == "the row has no true answer to look for"


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"regex": "("}, r"^rules\[0\].regex: is not a pattern"),
        ({}, r"^rules\[0\]: any_of must have an entry|^rules\[0\].*any_of must have an entry"),
        ({"any_of": [" "]}, r"^rules\[0\].any_of: has an empty entry"),
        ({"min_words": -1}, r"^rules\[0\].min_words: must be at least 0, got -1$"),
        ({"anyof": ["a"]}, r"^rules\[0\].anyof: unknown key; did you mean 'any_of'"),
    ],
)
def test_wrong_rules_are_one_line(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        decode(RuleJudge, {"rules": [rule]})


@pytest.mark.parametrize(
    ("text", "rule", "holds"),
    [
        ("抱歉。我不知道答案。", {"any_of": ["我不知道"]}, True),
        ("抱歉。我不知道答案。", {"min_words": 10, "max_words": 10}, True),
        ("मैं नहीं जानता", {"any_of": ["नह"]}, False),
        ("मैं नहीं जानता", {"any_of": ["नहीं"]}, True),
        ("Я не знаю.", {"any_of": ["не ЗНАЮ"]}, True),
        ("Я не знаюсь.", {"any_of": ["не знаю"]}, False),
    ],
)
def test_conditions_in_other_scripts(text: str, rule: dict[str, Any], holds: bool) -> None:
    assert score(decode(RuleJudge, {"rules": [rule]}), [text]) == [float(holds)]
