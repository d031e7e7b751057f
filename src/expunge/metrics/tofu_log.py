"""The evaluation logs that TOFU's authors publish, as results with the usual names.

`eval_log_aggregated.json` has one group for each set of rows (`eval_log_forget.json`, ...), and in it one object per
quantity, from row numbers to values: `avg_gt_loss`, `avg_paraphrased_loss`, `average_perturb_loss`, `rougeL_recall`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from expunge.core.errors import DataError
from expunge.metrics.aggregate import mean_over_rows
from expunge.metrics.api import FIRST_ROWS, MetricResult

FILES = {
    "eval_log_forget.json": "forget",
    "eval_log.json": "retain",
    "eval_real_author_wo_options.json": "ra",
    "eval_real_world_wo_options.json": "wf",
}
RIGHT, PARAPHRASED, WRONG, ROUGE = "avg_gt_loss", "avg_paraphrased_loss", "average_perturb_loss", "rougeL_recall"
PUBLISHED_ROWS = 300  # the published logs end there


def read_tofu_log(data: Mapping[str, Any], where: str) -> dict[str, MetricResult]:
    """Return the metrics of a log by their usual names. Raises DataError for missing or odd entries."""
    out: dict[str, MetricResult] = {}
    for file, short in FILES.items():
        if file not in data:
            continue
        place = f"{where}: {file}"
        right, wrong = _column(data[file], RIGHT, place), _column(data[file], WRONG, place)
        paraphrased, rouge = _column(data[file], PARAPHRASED, place), _column(data[file], ROUGE, place)
        rows = np.array(sorted(right))
        if any(sorted(column) != sorted(right) for column in (wrong, paraphrased, rouge)):
            raise DataError(f"{place}: its quantities cover different rows")
        loss_R = np.array([float(np.mean(right[row])) for row in rows])
        prob = {"prob": np.exp(-loss_R).tolist(), "avg_loss": loss_R.tolist()}
        out[f"{short}_Q_A_Prob"] = mean_over_rows(rows, np.exp(-loss_R), prob)
        rouge_R = np.array([float(np.mean(rouge[row])) for row in rows])
        out[f"{short}_Q_A_ROUGE"] = mean_over_rows(rows, rouge_R, {ROUGE: rouge_R.tolist()})
        # ln R = loss of the right answer - mean loss of the wrong ones; the logs' own truth_ratio is 1 / R.
        log_R = np.array([float(np.mean(paraphrased[row]) - np.mean(wrong[row])) for row in rows])
        ratio = {"score": np.exp(log_R).tolist(), "log_score": log_R.tolist()}
        extra = {FIRST_ROWS: float(len(rows))} if len(rows) == PUBLISHED_ROWS else {}
        if short == "forget":
            out["forget_truth_ratio"] = mean_over_rows(rows, np.exp(-np.abs(log_R)), ratio, extra)
        else:
            name = f"{short}_Truth_Ratio"
            out[name] = mean_over_rows(rows, np.maximum(0.0, -np.expm1(np.minimum(log_R, 0.0))), ratio, extra)
    return out


def _column(group: Any, key: str, place: str) -> dict[int, list[float]]:
    """Return row number -> values of one quantity."""
    values = group.get(key) if isinstance(group, dict) else None
    if not isinstance(values, dict) or not values:
        raise DataError(f"{place}: no quantity '{key}' by row")
    out = {}
    for row, value in values.items():
        numbers = value if isinstance(value, list) else [value]
        if not row.isdecimal() or not numbers or not all(_finite(n) for n in numbers):
            raise DataError(f"{place}: '{key}' of row {row!r} must be a number or a list of numbers, got {value!r:.60}")
        out[int(row)] = [float(n) for n in numbers]
    return out


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
