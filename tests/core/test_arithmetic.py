"""Formulas over named numbers: values by hand, missing numbers, and everything that is refused."""

from __future__ import annotations

import math

import pytest

from expunge.core.arithmetic import parse_arithmetic

NUMBERS = {"fq": 0.25, "mu": 0.75, "mmlu/acc": 0.5, "zero": 0.0, "lost": math.nan}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.5*(fq+mu)", 0.5),
        ("mu - fq / 2 ** 2", 0.6875),
        ("-fq + +mu", 0.5),
        ("min(fq, mu) + max(fq, mu, 1) + abs(fq - mu)", 1.75),
        ("hmean(fq, mu)", 2 / (4 + 4 / 3)),
        ("hmean(fq, zero)", 0.0),
        ('"mmlu/acc" * 2', 1.0),
        ("min(fq)", 0.25),
    ],
)
def test_values_by_hand(text: str, value: float) -> None:
    assert parse_arithmetic(text).value(NUMBERS) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize(
    "text", ["lost + 1", "absent", "min(lost, fq)", "fq / zero", "(-fq) ** 0.5", "10 ** fq ** -999"]
)
def test_a_missing_number_is_nan(text: str) -> None:
    assert math.isnan(parse_arithmetic(text).value(NUMBERS))


def test_names_are_listed_once_in_order() -> None:
    assert parse_arithmetic('mu + fq * mu + "mmlu/acc"').names == ("mu", "fq", "mmlu/acc")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "__import__('os').system('ls')",
            r"__import__.* is no part of one; allowed are numbers",
        ),
        ("fq.real", "'fq.real' is no part"),
        ("fq if mu else 1", "is no part"),
        ("[fq]", "is no part"),
        ("fq < mu", "is no part"),
        ("lambda: fq", "is no part"),
        ("True * fq", "'True' is no part"),
        ("min(key=fq)", "is no part"),
        ("abs(fq, mu)", "must give abs one value"),
        ("fq +", "must be a formula; allowed"),
        ("", "must be a formula; allowed"),
        ("1 + 2", "must read at least one metric"),
        ("fq + " * 100 + "fq", "must be at most 300 characters"),
    ],
)
def test_anything_else_is_refused_with_the_part(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_arithmetic(text)
