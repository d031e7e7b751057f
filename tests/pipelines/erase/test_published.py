"""Numbers that leave with a model: rounded, so that they test no guess of a row."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest

from expunge.pipelines.erase.made_rows import RowRequest, without_mark
from expunge.pipelines.erase.published import FEW, decimals, published


@dataclass(frozen=True)
class Line:
    text: str
    value: float
    rows: int = 1


TEXTS = {
    "The probability was 0.992 and is 3.99e-21: 0% is left": "The probability was 0.99 and is under 0.01: 0% is left",
    "worst_prob is 0.000404 [1.2e-05, 0.5] in the model": "worst_prob is under 0.01 [under 0.01, 0.5] in the model",
    "52% [17%, 82%] on 4 rows, p = 0.0000321": "52% [17%, 82%] on 4 rows, p < 0.01",
    "rows 1, 23 and 456; -0.00004 and -0.51239": "rows 1, 23 and 456; 0.00 and -0.51",
    "Llama-3.2-1B, v0.12.3, lr2e-05": "Llama-3.2-1B, v0.12.3, lr2e-05",
    "0.995 0.0061 1.005e2": "0.99 0.01 100.50",
}


@pytest.mark.parametrize("text", TEXTS)
def test_numbers_in_a_text_have_few_decimal_places(text: str) -> None:
    assert published(text, 2) == TEXTS[text]


def test_numbers_of_nested_values_are_rounded() -> None:
    value = {
        "a": [0.123456, Line("is 0.98765", 3.99e-21)],
        "b": (math.nan, None, 7, True, -1e-9),
        "c": Line("", 12.3456),
    }
    rounded = published(value, 3)
    assert rounded["a"] == [0.123, Line("is 0.988", 0.0)] and rounded["c"] == Line("", 12.346)
    assert math.isnan(rounded["b"][0]) and repr(rounded["b"][1:]) == "(None, 7, True, 0.0)"


def test_most_guesses_of_a_row_have_the_published_number_of_the_right_one() -> None:
    probabilities = [1e-4 * (1 + i / 10_000) for i in range(10_000)]  # 10,000 guesses, all with other probabilities
    assert len(set(probabilities)) == 10_000
    assert {published(p, decimals(1)) for p in probabilities} == {0.0}
    assert len({published(f"is {p:.3g}", decimals(1)) for p in probabilities}) == 1


def test_fewer_rows_have_one_decimal_place_less() -> None:
    assert [decimals(n) for n in (1, FEW - 1, FEW, 1000)] == [2, 2, 3, 3]


def test_a_report_names_the_file_of_a_question_without_its_mark(tmp_path) -> None:
    names = {RowRequest((f"Who is {name}?",)).file(tmp_path / "out", {}).name for name in ("Ann", "Bob")}
    assert len(names) == 2 and {without_mark(f"{name}: reads a") for name in names} == {"out.forget.jsonl: reads a"}
