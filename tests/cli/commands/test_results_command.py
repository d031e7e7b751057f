"""`expunge results`: tables that fit a terminal of 80 columns, without a cut name."""

from __future__ import annotations

from pathlib import Path

import pytest

from expunge.cli.main import main
from expunge.metrics.api import MetricResult
from expunge.report.model import ReportModel, ReportRun
from expunge.report.query import write_results

LONG = "mia_min_k_plus_plus_holdout"  # the longest name of a shipped benchmark
LABEL = "GradDiff-KL(alpha=0.5,beta=0.1)"


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    value = MetricResult(-0.061234, extra={"ci_low": -0.0651234, "ci_high": -0.00471234})
    runs = (
        ReportRun("full", "full", None, "", 0, {"privleak": MetricResult(0.5), LONG: value}),
        *(ReportRun(LABEL, "unlearn", "GradDiff", "", n, {LONG: MetricResult(-0.06 - n / 7)}) for n in (0, 1)),
    )
    folder = tmp_path / "saves" / "study" / "mine"
    folder.mkdir(parents=True)
    write_results(ReportModel("t", "mine", "c", "now", {"forget": 8}, runs), folder)
    return folder


def test_the_means_fit_eighty_columns(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["results"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "role full, label full" in lines
    assert f"role unlearn, label {LABEL}" in lines
    heads = [line for line in lines if line.startswith("metric")]
    assert heads == [heads[0]] * 2  # the tables of both models have the same columns
    assert heads[0].split() == ["metric", "n", "mean", "sd", "ci_low", "ci_high"]
    assert sum(LONG in line for line in lines) == 2
    assert lines[-1].startswith("ci_low, ci_high: the 95 % interval")


def test_text_to_paste_has_all_columns(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["results", "--format", "csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "study,role,label,metric,n,mean,sd,ci_low,ci_high,interval"
    assert [line.split(",")[-1] for line in lines[1:] if LONG in line] == ["rows", "seeds"]
