"""Paired differences from the retain model in a study's report."""

from __future__ import annotations

import dataclasses

import pytest

from expunge.metrics.api import MetricResult
from expunge.report import differences
from expunge.report.differences import differences_section
from expunge.report.grid_page import grid_page
from expunge.report.model import ReportModel, ReportRun
from expunge.report.text import sections


def run(label: str, role: str, values: list[float], seed: int = 0, **more: MetricResult) -> ReportRun:
    per_row = {i: {"prob": value} for i, value in enumerate(values)}
    prob = MetricResult(sum(values) / len(values), per_row=per_row)
    return ReportRun(label, role, seed=seed, results={"forget_Q_A_Prob": prob, **more})  # type: ignore[arg-type]


def report(runs: list[ReportRun], *shown: str) -> ReportModel:
    return ReportModel("T", "t", "", "2026-01-01", {}, tuple(runs), shown=shown or ("forget_Q_A_Prob",))


RETAIN = run("retain", "retain", [0.1, 0.2, 0.1, 0.2, 0.1, 0.2], mia_min_k=MetricResult(0.5))


def test_each_model_is_compared_row_by_row_with_one_correction() -> None:
    far = run("NPO", "unlearn", [0.2, 0.3, 0.2, 0.3, 0.2, 0.3], mia_min_k=MetricResult(0.7))
    same = run("GradDiff", "unlearn", [0.1, 0.2, 0.1, 0.2, 0.2, 0.1])
    runs = [run("full", "full", [0.9] * 6), RETAIN, far, same]
    section = differences_section({"": report(runs, "forget_Q_A_Prob", "mia_min_k")})
    assert section is not None and "Of 3 tests, about 0.2" in section.about and "the retain model" in section.about
    # all signs equal: 2 of 64 sign flips are as far from 0; twice by Holm, because full has the same p
    assert section.grids[0].rows == (
        ("full", "forget prob.", "0.900", "0.150", "+0.750", "[0.717, 0.783]", "0.031", "0.094", "6"),
        ("NPO", "forget prob.", "0.250", "0.150", "+0.100", "[0.100, 0.100]", "0.031", "0.094", "6"),
        ("GradDiff", "forget prob.", "0.150", "0.150", "+0.000", section.grids[0].rows[2][5], "1.000", "1.000", "6"),
    )  # the AUC is no mean over rows


def test_the_control_is_named_and_may_be_missing() -> None:
    full, other = run("full", "full", [0.5, 0.6]), run("NPO", "unlearn", [0.1, 0.2])
    section = differences_section({"": report([full, other])})
    assert section is not None and section.grids[0].heads[3] == "full" and "the target model" in section.title
    assert differences_section({"": report([other])}) is None
    seeds = [run("retain", "retain", [0.1, 0.2], seed=s) for s in (3, 4)]
    section = differences_section({"": report([*seeds, other])})
    assert section is not None and section.title.startswith("Differences from the retain model of seed 3")
    assert differences_section({"": report([*seeds, other], "absent")}) is None


def test_each_cell_of_a_grid_has_its_own_control() -> None:
    cells = {
        "rate=1": [RETAIN, run("NPO", "unlearn", [0.2, 0.3, 0.2, 0.3, 0.2, 0.3])],
        "rate=2": [run("retain", "retain", [0.5] * 6), run("NPO", "unlearn", [0.2] * 6)],
        "rate=3": [run("NPO", "unlearn", [0.2] * 6)],
    }
    section = differences_section({name: report(runs) for name, runs in cells.items()})
    assert section is not None and "the retain model of the same cell" in section.title
    assert [row[0] for row in section.grids[0].rows] == ["rate=1: NPO", "rate=2: NPO"]
    assert [row[4] for row in section.grids[0].rows] == ["+0.100", "-0.300"]


def test_all_cells_in_one_report_keep_their_own_controls() -> None:
    runs = []
    for cell, level in (("rate=1", 0.1), ("rate=2", 0.5)):
        for label, role, shift in (("retain", "retain", 0.0), ("NPO", "unlearn", 0.1)):
            one = run(f"{cell}/{label}", role, [level + shift] * 6)
            runs.append(dataclasses.replace(one, cell=cell))
    section = differences_section({"": report(runs)})
    assert section is not None and "the retain model of the same cell" in section.title
    assert [(row[0], row[4]) for row in section.grids[0].rows] == [("rate=1/NPO", "+0.100"), ("rate=2/NPO", "+0.100")]


def test_a_grid_page_reads_the_differences_that_its_reports_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    compare = differences.compare
    monkeypatch.setattr(differences, "compare", lambda *a, **k: calls.append(1) or compare(*a, **k))
    far = run("NPO", "unlearn", [0.2, 0.3, 0.2, 0.3, 0.2, 0.3])
    reports = {f"rate={k}": report([RETAIN, far]) for k in (1, 2)}
    for one in reports.values():
        assert sections(one)[-1].name == "differences"
        sections(one)
    axes = {name: {"rate": name} for name in reports}
    page = grid_page(reports, axes, {name: "x" for name in reports}, title="All")
    assert "rate=2: NPO" in page and "<h1>All</h1>" in page and len(calls) == 2


@pytest.mark.parametrize("requested", [["judgement"], ["forget_judgement", "retain_judgement"]])
def test_requested_metrics_are_columns_of_the_report(requested: list[str]) -> None:
    from expunge.benchmarks import Benchmark
    from expunge.metrics.api import Metric
    from expunge.pipelines.study.results import shown_metrics

    names = ("forget_judgement", "retain_judgement")
    panel = (
        Metric("model_utility", "model_utility"),
        *(Metric(name, "judgement", rows="forget_eval", reads={"texts": "answer"}) for name in names),
    )
    benchmark = Benchmark("b", "s", {}, panel, full_sets=(), retain_sets=())
    assert shown_metrics(benchmark) == ("model_utility",)
    assert shown_metrics(benchmark, requested) == ("model_utility", *names)


def test_commands_in_texts_are_code_and_other_texts_stay_escaped() -> None:
    from expunge.report.page import environment

    prose = environment().filters["prose"]
    assert prose("`a <b>` shows <i>") == "<code>a &lt;b&gt;</code> shows &lt;i&gt;"
    assert prose("one ` alone & more") == "one ` alone &amp; more"
