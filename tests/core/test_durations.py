"""Times as people write them."""

from __future__ import annotations

import pytest

from expunge.core.durations import seconds
from expunge.core.errors import ConfigError


@pytest.mark.parametrize(
    ("value", "result"),
    [
        ("1h", 3600), ("0.5h", 1800), ("1h30m", 5400), ("1h1m1s", 3661), ("45m", 2700), ("90s", 90), ("90", 90),
        (" 1H ", 3600), (7.5, 7.5),
    ],
)  # fmt: skip
def test_times(value: str | float, result: float) -> None:
    assert seconds(value, "x") == result


@pytest.mark.parametrize(
    "value", ["", "h", "m", "1d", "30x", "30m!", "30 m", "1h30", "30m1h", "-5", "-5m", "0", "0m", "nan", float("inf")]
)
def test_what_is_no_time_is_refused_by_its_key(value: str | float) -> None:
    with pytest.raises(ConfigError, match=r"^--budget: must be a time above 0, such as 1h, 1h30m, 45m or 90s, got"):
        seconds(value, "--budget")
