"""The logs of TOFU's authors as retain logs: names, the sign of the truth ratio, and logs of the first rows."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from expunge.core.errors import DataError
from expunge.metrics.api import FIRST_ROWS
from expunge.metrics.results import read_results
from expunge.metrics.tofu_log import read_tofu_log


def group(n: int, wrong: float = 2.0) -> dict[str, Any]:
    """A set of rows: losses 0.5 (answer), 1.0 (paraphrase), and five wrong ones around `wrong`."""
    rows = [str(i) for i in range(n)]
    return {
        "avg_gt_loss": dict.fromkeys(rows, 0.5),
        "gt_loss": dict.fromkeys(rows, 5.0),
        "avg_paraphrased_loss": dict.fromkeys(rows, 1.0),
        "average_perturb_loss": {r: [wrong + d for d in (-1.0, -0.5, 0.0, 0.5, 1.0)] for r in rows},
        "rougeL_recall": {r: 0.25 * (int(r) % 2) for r in rows},
    }


def test_a_log_by_the_usual_names(tmp_path: Path) -> None:
    path = tmp_path / "eval_log_aggregated.json"
    path.write_text(json.dumps({"eval_log.json": group(4), "eval_log_forget.json": group(40)}))
    results, meta = read_results(path)
    assert meta == {}
    assert set(results) == {
        "forget_Q_A_Prob", "forget_Q_A_ROUGE", "forget_truth_ratio",
        "retain_Q_A_Prob", "retain_Q_A_ROUGE", "retain_Truth_Ratio",
    }  # fmt: skip
    ratio = results["forget_truth_ratio"]
    assert ratio.per_row[3]["log_score"] == pytest.approx(-1.0)  # the paraphrase is more likely than wrong answers
    assert ratio.value == pytest.approx(math.exp(-1.0)) and FIRST_ROWS not in ratio.extra
    assert results["retain_Truth_Ratio"].value == pytest.approx(1 - math.exp(-1.0))
    assert results["forget_Q_A_Prob"].value == pytest.approx(math.exp(-0.5))
    assert results["forget_Q_A_ROUGE"].value == pytest.approx(0.125)


def test_a_log_of_the_first_rows_says_so() -> None:
    ratio = read_tofu_log({"eval_log_forget.json": group(300)}, "log")["forget_truth_ratio"]
    assert ratio.extra[FIRST_ROWS] == 300


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda g: g.pop("avg_gt_loss"), "no quantity 'avg_gt_loss' by row"),
        (lambda g: g["avg_gt_loss"].update({"1": "x"}), "'avg_gt_loss' of row '1' must be a number"),
        (lambda g: g["avg_gt_loss"].pop("1"), "cover different rows"),
    ],
)
def test_damaged_logs(change: Any, words: str) -> None:
    damaged = group(3)
    change(damaged)
    with pytest.raises(DataError, match=words):
        read_tofu_log({"eval_log_forget.json": damaged}, "log")


def test_one_set_of_a_log_is_answered_with_the_whole_log(tmp_path: Path) -> None:
    path = tmp_path / "eval_log_forget.json"
    path.write_text(json.dumps(group(4)))
    with pytest.raises(DataError, match=r"one set of TOFU's published log; give the eval_log_aggregated.json next to"):
        read_results(path)
