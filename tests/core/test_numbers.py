from __future__ import annotations

import math

import numpy as np
import pytest

from expunge.core.numbers import finite, format_setting, plain


def test_finite() -> None:
    assert finite(0.5) == 0.5
    assert [finite(x) for x in (math.nan, math.inf, -math.inf)] == [None, None, None]


def test_plain_says_what_json_cannot() -> None:
    report = {
        "a": [1, math.nan, {"b": -math.inf}],
        "c": np.float32("inf"),
        "d": "text",
        "e": None,
        "f": True,
        "g": (1, math.nan),
    }
    assert plain(report) == {
        "a": [1, None, {"b": "-inf"}],
        "c": "inf",
        "d": "text",
        "e": None,
        "f": True,
        "g": [1, None],
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0003, "3e-4"),
        (1e-5, "1e-5"),
        (-0.00015, "-1.5e-4"),
        (0.1, "0.1"),
        (0.05, "0.05"),
        (10.0, "10"),
        (2.5, "2.5"),
        (0.0, "0.0"),
        (1 / 3, "0.3333333333333333"),
        (5, "5"),
        ("NPO", "NPO"),
        (True, "True"),
        (math.inf, "inf"),
    ],
)
def test_settings_are_written_short_and_exact(value: object, text: str) -> None:
    assert format_setting(value) == text
    assert not isinstance(value, float) or float(text) == value
