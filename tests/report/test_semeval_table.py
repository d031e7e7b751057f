"""The official score table: its order, its floors, its terms."""

from __future__ import annotations

import math

from expunge.metrics.api import MetricResult
from expunge.metrics.semeval import TERMS
from expunge.report.model import ReportModel, ReportRun
from expunge.report.page import to_html
from expunge.report.semeval import parts_of, score_section
from expunge.report.text import to_markdown


def results(aggregate: float, mmlu: float, reason: str = "") -> dict[str, MetricResult]:
    whole = MetricResult(aggregate, extra={"mmlu_part": mmlu}) if not reason else MetricResult(math.nan, reason=reason)
    terms = {name: i / 100 for i, name in enumerate(TERMS)}
    return {
        "semeval_aggregate": whole,
        "task_aggregate": MetricResult(0.25, extra=terms),
        "mia_score": MetricResult(0.5),
        "mia_auc": MetricResult(0.75),
        "mmlu": MetricResult(mmlu),
    }


def report(*runs: ReportRun) -> ReportModel:
    return ReportModel("t", "s", "c", "now", {"forget": 1}, runs, shown=("semeval_aggregate",))


def test_entries_are_in_the_order_of_the_aggregate_and_the_controls_have_no_rank() -> None:
    section = score_section(
        report(
            ReportRun("full", "full", results=results(0.165, 0.5)),
            ReportRun("retain", "retain", results=results(0.9, 0.49)),
            ReportRun("low", "unlearn", results=results(0.2, 0.38)),
            ReportRun("none", "unlearn", results=results(math.nan, 0.4, "no documents")),
            ReportRun("high", "unlearn", results=results(0.4, 0.3712)),
            ReportRun("ruined", "unlearn", results=results(0.3, 0.371)),
        )
    )
    assert section is not None
    first, terms = ([list(row) for row in grid.rows] for grid in section.grids)
    assert [row[:2] for row in first] == [
        ["1", "high"], ["2", "ruined"], ["3", "low"], ["4", "none"], ["", "full"], ["", "retain"],
    ]  # fmt: skip
    # above .371, and above 75 % of the full model's 0.5; exactly .371 is not above it
    assert [row[-2:] for row in first] == [
        ["yes", "no"], ["no", "no"], ["yes", "yes"], ["\u2013", "\u2013"], ["yes", "yes"], ["yes", "yes"],
    ]  # fmt: skip
    assert first[0][2:7] == ["0.400", "0.250", "0.500", "0.750", "0.371"]
    assert [row[0] for row in terms][:2] == ["high", "ruined"] and terms[0][-1] == "0.110", "the twelfth term"


def test_the_markdown_report_holds_it_for_semeval_alone() -> None:
    assert "Official score of SemEval-2025" in to_markdown(report(ReportRun("a", "unlearn", results=results(0.4, 0.4))))
    assert score_section(report(ReportRun("a", "unlearn", results={"mmlu": MetricResult(0.4)}))) is None


def test_the_page_has_the_table_and_a_way_to_it() -> None:
    page = to_html(report(ReportRun("<b>a</b>", "unlearn", results=results(0.4, 0.4))))
    assert '<a href="#h-semeval">Official score</a>' in page and '<h2 id="h-semeval">' in page
    assert '<td>1</td><th scope="row" class="text">&lt;b&gt;a&lt;/b&gt;</th><td>0.400</td>' in page


def test_one_models_parts_say_what_is_missing() -> None:
    output = dict(parts_of(results(0.4, 0.4) | {"mia_score": MetricResult(math.nan, reason="no documents")}))
    assert output["aggregate"] == "0.400"
    assert output["MIA score"] == "\u2013 (no documents)"
    assert output["MMLU > 0.371"] == "yes"
    assert output["forget_Task1_knowledge"] == "0.010"
    assert dict(parts_of({}))["aggregate"] == "\u2013 (not measured)"
