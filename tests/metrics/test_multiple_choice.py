"""Accuracy of multiple-choice questions, by hand: sums, sums per byte, ties, options that are missing."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from expunge.core.errors import ConfigError
from expunge.core.records import TokenRecords
from expunge.metrics.api import Metric, MetricInputs, MetricResult
from expunge.metrics.multiple_choice import mean_over_questions, multiple_choice

Build = Callable[..., TokenRecords]


def inputs_of(tokens: TokenRecords | None, *names: str, **parents: MetricResult) -> MetricInputs:
    metric = Metric(
        "m", "multiple_choice", rows="r", reads={"tokens": names}, parents={k: f"{k}_metric" for k in parents}
    )
    return MetricInputs(metric, {"tokens": tokens}, parents)


def test_sums_and_sums_per_byte(records: Build) -> None:
    # row 0: right -3 (2 bytes: -1.5) against -2 (1 byte: -2): wrong by sums, right per byte; row 1: right by both
    tokens = records(
        {"answer": {0: [-1, -2], 1: [-0.5]}, "wrong_0": {0: [-2], 1: [-1]}, "wrong_1": {0: [-9], 1: [-9]}},
        n_bytes={"answer": {0: 2, 1: 1}},
    )
    result = multiple_choice(inputs_of(tokens, "answer", "wrong"))
    assert result.value == 0.5
    assert {k: result.extra[k] for k in ("acc", "acc_norm", "n_missing")} == {
        "acc": 0.5,
        "acc_norm": 1.0,
        "n_missing": 0,
    }
    assert result.per_row == {0: {"acc": 0.0, "acc_norm": 1.0}, 1: {"acc": 1.0, "acc_norm": 1.0}}
    assert multiple_choice(inputs_of(tokens, "answer", "wrong"), score="per_byte").value == 1.0


def test_a_tie_counts_its_share(records: Build) -> None:
    tokens = records(
        {
            "answer": {0: [-0.1, -0.2], 1: [-1], 2: [-2]},
            "wrong_0": {0: [-0.1, -0.2], 1: [-1], 2: [-1]},
            "wrong_1": {0: [-9], 1: [-1], 2: [-1]},
        }
    )
    assert [r["acc"] for r in multiple_choice(inputs_of(tokens, "answer", "wrong")).per_row.values()] == [
        0.5,
        1 / 3,
        0.0,
    ]


def test_options_that_a_row_lacks_and_options_without_a_token(records: Build) -> None:
    tokens = records(
        {"answer": {0: [-1], 1: [-1], 2: [-math.inf]}, "wrong_0": {0: [-2], 1: []}, "wrong_1": {2: [-math.inf]}}
    )
    result = multiple_choice(inputs_of(tokens, "answer", "wrong"))
    assert result.per_row[0]["acc"] == 1.0
    assert math.isnan(result.per_row[1]["acc"])  # type: ignore[arg-type]
    assert result.per_row[2]["acc"] == 0.5
    assert (result.value, result.extra["n_missing"]) == (0.75, 1.0)


def test_the_mean_over_questions_is_not_the_mean_over_subjects() -> None:
    def subject(*hits: float) -> MetricResult:
        rows: dict[int, Any] = {i: {"acc": h, "acc_norm": 1.0} for i, h in enumerate(hits)}
        return MetricResult(sum(hits) / len(hits), per_row=rows)

    result = mean_over_questions(inputs_of(None, a=subject(1.0, 1.0, 1.0), b=subject(0.0)))
    assert (result.value, result.extra["mean_over_subjects"], result.extra["acc_norm"]) == (0.75, 0.5, 1.0)
    assert result.per_row == {}
    assert 0 <= result.extra["ci_low"] <= 0.75 <= result.extra["ci_high"] <= 1


def test_a_subject_that_is_missing_is_named() -> None:
    result = mean_over_questions(inputs_of(None, a=MetricResult(math.nan, reason="not scored")))
    assert result.reason == "needs a_metric, which is missing: not scored"


def test_wrong_uses(records: Build) -> None:
    tokens = records({"answer": {0: [-1]}, "wrong_0": {0: [-2]}, "wrong_1": {0: [-2]}})
    with pytest.raises(ConfigError, match=r"reads tokens \(right, wrong\)"):
        multiple_choice(inputs_of(tokens, "answer"))
    with pytest.raises(ConfigError, match="the right option is one answer, 2 were named"):
        multiple_choice(inputs_of(tokens, "wrong", "answer"))
    with pytest.raises(ConfigError, match="as parents"):
        mean_over_questions(inputs_of(None))
