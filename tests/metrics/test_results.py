"""Results to JSON and back; other projects' files; files that are not results."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from expunge.core.errors import DataError
from expunge.metrics.api import MetricResult, Parts, missing
from expunge.metrics.results import read_results, write_results

RESULTS = {
    "prob": MetricResult(
        0.5,
        per_row={0: {"prob": 0.25, "avg_loss": 1.5}, 2: {"prob": [0.5, math.nan]}, 10: {"prob": math.nan}},
        extra={"n_missing": 1.0, "odd": math.nan},
    ),
    "tr": MetricResult(0.0, per_row={0: {"log_score": -math.inf, "score": 0.0}, 1: {"log_score": math.inf}}),
    "mu": MetricResult(0.5, extra={"ci_low": 0.4}, parts=Parts({"prob": "retain"}, "arithmetic", complement=True)),
    "fq": missing("needs a retain model's truth ratios (tr); none was given"),
}


def same(a: MetricResult, b: MetricResult) -> bool:
    return repr(a) == repr(b)  # repr, because NaN differs from itself


def test_round_trip(tmp_path: Path) -> None:
    write_results(tmp_path, RESULTS, {"model": "full", "rows": 3}, prefix="TOFU_")
    read, meta = read_results(tmp_path / "TOFU_EVAL.json")
    assert meta == {"model": "full", "rows": 3}
    assert list(read) == list(RESULTS)
    for name, result in RESULTS.items():
        assert same(read[name], result), name


def test_files_are_strict_json_with_nulls(tmp_path: Path) -> None:
    write_results(tmp_path, RESULTS, {})

    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is not JSON")

    data = json.loads((tmp_path / "EVAL.json").read_text(), parse_constant=refuse)
    assert data["fq"] == {"agg_value": None, "reason": RESULTS["fq"].reason, "extra": {}, "value_by_index": {}}
    assert data["prob"]["value_by_index"]["10"] == {"prob": None}
    assert data["prob"]["value_by_index"]["2"] == {"prob": [0.5, None]}
    summary = json.loads((tmp_path / "SUMMARY.json").read_text(), parse_constant=refuse)
    assert summary == {"prob": 0.5, "tr": 0.0, "mu": 0.5, "fq": None}


def test_another_projects_file(tmp_path: Path) -> None:
    path = tmp_path / "TOFU_EVAL.json"
    path.write_text(
        json.dumps(
            {
                "forget_truth_ratio": {
                    "agg_value": 0.6,
                    "value_by_index": {"10": {"score": 0.5}, "2": {"score": 1.5}, "1": None},
                },
                "forget_Q_A_ROUGE": {
                    "agg_value": 0.3,
                    "value_by_index": {"0": {"rougeL_recall": 0.3, "input": "Q", "generation": "A", "ok": True}},
                },
                "mia_min_k": {"forget": {"agg_value": 1.0}, "holdout": {"agg_value": 2.0}, "agg_value": 0.9},
                "forget_quality": {"agg_value": None},
                "broken": {"agg_value": math.nan},
            }
        )
    )
    results, meta = read_results(path)
    assert meta == {}
    assert list(results["forget_truth_ratio"].per_row) == [1, 2, 10]
    assert results["forget_truth_ratio"].per_row[10] == {"score": 0.5}
    assert results["forget_Q_A_ROUGE"].per_row == {0: {"rougeL_recall": 0.3}}
    assert results["mia_min_k"] == MetricResult(0.9)
    for name in ("forget_quality", "broken"):
        assert math.isnan(results[name].value)
        assert results[name].reason == "no value in TOFU_EVAL.json"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[" * 200_000, "not JSON"),
        ("[1, 2]", r"expected \{metric: .*got a list"),
        ('{"fq": 0.5, "mu": null}', "a summary, one number per metric"),
        ('{"fq": {"value": 1}}', "metric 'fq': expected a group with the key 'agg_value', got {'value': 1}"),
        ('{"fq": [1]}', "metric 'fq': expected a group with the key 'agg_value'"),
        ('{"fq": {"agg_value": "high"}}', "metric 'fq': agg_value: expected a number or null, got 'high'"),
        ('{"fq": {"agg_value": true}}', "agg_value: expected a number or null, got True"),
        ('{"fq": {"agg_value": 1, "reason": 3}}', "reason: expected text, got 3"),
        ('{"fq": {"agg_value": 1, "value_by_index": [1]}}', "value_by_index: expected a group of keys"),
        ('{"fq": {"agg_value": 1, "value_by_index": {"a": {}}}}', "a row's key must be its number, got 'a'"),
        ('{"fq": {"agg_value": 1, "value_by_index": {"0": 3}}}', "row 0: statistics: expected a group of keys, got 3"),
        ('{"fq": {"agg_value": 1, "extra": {"d": "x"}}}', "extra.d: expected a number or null"),
        ('{"_expunge": 3}', "entry '_expunge': expected a group of keys, got 3"),
    ],
)
def test_files_that_are_not_results(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "EVAL.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_results(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_results(tmp_path / "none.json")
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read_results(tmp_path)
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not UTF-8 text"):
        read_results(tmp_path / "bytes.json")


def test_parts_of_another_form_are_an_error_of_one_line(tmp_path: Path) -> None:
    entry = {"agg_value": 0.5, "parts": {"examples": {"a": "b"}, "mean": "median"}}
    (tmp_path / "EVAL.json").write_text(json.dumps({"mu": entry}))
    with pytest.raises(DataError, match=r"metric 'mu': parts.*mean"):
        read_results(tmp_path / "EVAL.json")
