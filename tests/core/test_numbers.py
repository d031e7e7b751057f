from __future__ import annotations

import math

import numpy as np

from expunge.core.numbers import finite, plain


def test_finite() -> None:
    assert finite(0.5) == 0.5
    assert [finite(x) for x in (math.nan, math.inf, -math.inf)] == [None, None, None]


def test_plain_says_what_json_cannot() -> None:
    told = {"a": [1, math.nan, {"b": -math.inf}], "c": np.float32("inf"), "d": "text", "e": None, "f": True, "g": (1,)}
    assert plain(told) == {"a": [1, None, {"b": "-inf"}], "c": "inf", "d": "text", "e": None, "f": True, "g": (1,)}
