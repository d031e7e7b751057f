"""Means that skip what is missing, and their bootstrap."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import scipy.stats

from expunge.core.errors import ConfigError
from expunge.metrics.aggregate import (
    bootstrap_interval,
    log_sum_of_answers,
    mean_of_answers,
    mean_over_rows,
)


def test_interval_matches_the_normal_one_on_many_rows() -> None:
    values = np.random.default_rng(7).normal(3.0, 2.0, size=2000)
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std(ddof=1) / math.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_interval_matches_scipy() -> None:
    values = np.random.default_rng(1).beta(0.4, 0.6, size=50)
    low, high = bootstrap_interval(values)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=3
    ).confidence_interval
    width = theirs.high - theirs.low
    assert low == pytest.approx(theirs.low, abs=0.06 * width)
    assert high == pytest.approx(theirs.high, abs=0.06 * width)


def test_many_rows_stay_within_memory_and_time() -> None:
    began = time.perf_counter()
    low, high = bootstrap_interval(np.arange(10_000, dtype=float))
    assert time.perf_counter() - began < 5.0
    assert 4900 < low < 4999.5 < high < 5100


def test_columns_of_other_lengths_than_the_rows_are_refused() -> None:
    two, three = np.arange(2), np.zeros(3)
    with pytest.raises(
        ConfigError, match=r"^mean_over_rows: values_R has 3 entries for 2 rows; give one for each row$"
    ):
        mean_over_rows(two, three, {})
    with pytest.raises(ConfigError, match=r"^mean_over_rows: x has 3 entries for 2 rows"):
        mean_over_rows(two, three[:2], {"x": three.tolist()})


def test_order_of_rows_does_not_matter() -> None:
    values = np.array([0.1, 0.9, np.nan, 0.4, 0.35])
    ids = np.array([4, 2, 7, 0, 1])
    shuffle = np.array([3, 0, 4, 2, 1])
    one = mean_over_rows(ids, values, {"x": values.tolist()})
    other = mean_over_rows(ids[shuffle], values[shuffle], {"x": values[shuffle].tolist()})
    assert one.value == other.value
    assert one.extra == other.extra
    assert list(one.per_row) == list(other.per_row) == [0, 1, 2, 4, 7]
    assert one.per_row[4] == other.per_row[4] == {"x": 0.1}


def test_missing_rows_are_counted_and_never_averaged() -> None:
    result = mean_over_rows(np.arange(3), np.array([1.0, np.nan, 0.0]), {})
    assert result.value == 0.5
    assert result.extra["n_missing"] == 1
    assert 0.0 <= result.extra["ci_low"] <= result.value <= result.extra["ci_high"] <= 1.0


def test_one_row_has_no_interval() -> None:
    result = mean_over_rows(np.arange(1), np.array([0.25]), {})
    assert (result.value, dict(result.extra)) == (0.25, {"n_missing": 0.0})


@pytest.mark.parametrize("rows", [[1.0, math.inf], [1e308, 1.7e308]])
def test_infinite_means_have_no_interval(rows: list[float]) -> None:
    result = mean_over_rows(np.arange(2), np.array(rows), {})
    assert (result.value, dict(result.extra)) == (math.inf, {"n_missing": 0.0})


def test_rows_without_a_mean_say_so() -> None:
    result = mean_over_rows(np.arange(2), np.array([math.inf, -math.inf]), {})
    assert math.isnan(result.value)
    assert result.reason == "some rows are inf and some -inf: they have no mean"


def test_answers_of_a_row() -> None:
    values = np.array([[1.0, np.nan, 3.0], [np.nan, np.nan, np.nan], [0.0, 0.0, 3.0]])
    assert mean_of_answers(values) == pytest.approx([2.0, math.nan, 1.0], nan_ok=True)
    logs = np.array([[-2000.0, -2000.0], [np.nan, np.nan], [np.nan, -1.0], [-np.inf, -np.inf]])
    expected = [-2000.0 + math.log(2.0), math.nan, -1.0, -math.inf]
    assert log_sum_of_answers(logs) == pytest.approx(expected, nan_ok=True)
    assert np.isnan(mean_of_answers(np.zeros((2, 0)))).all()
