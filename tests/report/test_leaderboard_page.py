"""The leaderboard: ranks, verdicts, intervals, cost and links."""

from __future__ import annotations

import re

from expunge.metrics.api import MetricResult
from expunge.report.leaderboard_page import LeaderboardStudy, PairedCell, leaderboard_column, leaderboard_page
from expunge.report.model import ReportModel, ReportRun


def run(label: str, role: str, utility: float, seed: int = 0, wall: float = 60.0) -> ReportRun:
    results = {"model_utility": MetricResult(utility)}
    return ReportRun(label, role, seed=seed, results=results, wall_s=wall)  # type: ignore[arg-type]


def report(title: str = "One") -> ReportModel:
    runs = (
        run("full", "full", 0.8),
        run("NPO", "unlearn", 0.6),
        run("NPO", "unlearn", 0.7, 1, 120.0),
        run("GradAscent <b>", "unlearn", 0.1),
    )
    return ReportModel(title, "one", "", "2026-01-01", {}, runs)


def study(link: str = "study/one/report.html") -> LeaderboardStudy:
    return LeaderboardStudy("one", report(), link, "expunge run study=one")


def test_a_broken_model_has_no_rank_and_costs_are_means() -> None:
    column = leaderboard_column(study())
    npo, ascent = column.cells["NPO"], column.cells["GradAscent <b>"]
    assert (npo.rank, npo.seeds, npo.utility, npo.cost) == ("1", 2, "81%", "1 min 30 s")
    # Student's t over two seeds: 0.65 +- 12.706 * 0.0707 / sqrt(2)
    assert npo.value == "0.650 [0.015, 1.285], 2 seeds"
    assert ascent.rank == "\u2013" and "utility" in ascent.broken
    assert npo.forgot == "not measurable"  # there is no retain model


def test_the_page_links_reports_and_escapes_names() -> None:
    other = LeaderboardStudy("two", ReportModel("Two", "two", "", "2026-01-01", {}, ()), "", "expunge run study=two")
    page = leaderboard_page([study(), other], "expunge leaderboard one two")
    assert page.count('href="study/one/report.html"') == 3  # a cell for each method, and the study's own
    assert "GradAscent &lt;b&gt;" in page and "<b>" not in page
    assert "expunge run study=one" in page and "no unlearned model with a verdict" in page
    assert re.search(r"NPO</th><td[^>]*><a[^>]*>not measurable</a>", page)


METRIC = "forget_Q_A_Prob"


def by_row(
    label: str, role: str, values: list[float], seed: int = 0, first: int = 0, utility: float = 0.7
) -> ReportRun:
    prob = MetricResult(sum(values) / len(values), per_row={first + i: {"prob": v} for i, v in enumerate(values)})
    results = {"model_utility": MetricResult(utility), METRIC: prob}
    return ReportRun(label, role, seed=seed, results=results)  # type: ignore[arg-type]


def test_models_are_compared_on_the_same_rows() -> None:
    runs = (
        by_row("full", "full", [0.9] * 6),
        by_row("retain", "retain", [0.1, 0.2, 0.1, 0.2, 0.1, 0.2]),
        by_row("Near", "unlearn", [0.1, 0.2, 0.2, 0.3, 0.1, 0.2]),  # over its two seeds: 0.05 above retain
        by_row("Near", "unlearn", [0.2, 0.3, 0.1, 0.2, 0.2, 0.3], 1),
        by_row("Far", "unlearn", [0.6, 0.7, 0.6, 0.7, 0.6, 0.7]),
        by_row("Other", "unlearn", [0.5] * 6, first=40, utility=0.1),
    )
    report = ReportModel("One", "one", "", "2026-01-01", {}, runs)
    column = leaderboard_column(LeaderboardStudy("one", report, "", "expunge run study=one"))
    assert (column.control, column.best, column.metric) == ("the retain model", "Near", METRIC)
    # all six signs equal: 2 of 64 sign flips, times 3 tests
    assert column.paired["Near"] == (
        PairedCell("+0.050", "[0.050, 0.050] p (Holm) 0.094, 6 rows"),
        PairedCell("\u2013", "itself"),
    )
    assert [cell.difference for cell in column.paired["Far"]] == ["+0.500", "+0.450"]
    assert column.paired["Other"] == (PairedCell("\u2013", "other rows"), PairedCell("\u2013", "other rows"))
    page = leaderboard_page([column.study], "expunge leaderboard one")
    assert "from the retain model</th>" in page and "from Near</th>" in page and "other rows" in page


def test_a_study_without_values_by_row_says_so() -> None:
    paired = leaderboard_column(study()).paired["NPO"]
    assert paired[0].difference == "\u2013" and paired[0].evidence in ("judged by audits", "no values by row")
