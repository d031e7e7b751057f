"""The stories protocol in a report: its table, its figures, and nothing a label says is markup."""

from __future__ import annotations

import csv
import dataclasses
import io

import pytest

from expunge.metrics.api import MetricResult, missing
from expunge.report.model import ReportModel, ReportRun
from expunge.report.page import to_html
from expunge.report.protocol import ProbeCurve, Protocol, ProtocolCourse
from expunge.report.stories import heads, recovery_csv, recovery_rows
from expunge.report.stories_figures import story_figures
from expunge.report.text import to_markdown, to_rich

HOSTILE = "<script>alert('data set')</script>|x"

AUC = (("present", "full", 0.9), ("never learned", "retain", 0.6), (HOSTILE, "unlearn", 0.8))


def point(step: int, score: float, loss: float) -> dict[str, float]:
    return {
        "step": float(step), "feature_score": score, "feature_score_low": score - 0.125,
        "feature_score_high": score + 0.125, "loss_recovery-Twist": loss, "loss_filter-Twist": 1.5,
    }  # fmt: skip


@pytest.fixture
def story_model() -> ReportModel:
    report = Protocol(
        feature="Twist",
        task="recovery-Twist",
        losses=("recovery-Twist", "filter-Twist"),
        deletions=(ProtocolCourse(HOSTILE, "unlearn", (point(0, 0.875, 1.0), point(9, 0.25, 1.25))),),
        recoveries=(
            ProtocolCourse("present", "full", (point(0, 0.875, 1.0),)),
            ProtocolCourse("never learned", "retain", (point(0, 0.125, 2.0), point(9, 0.5, 1.5))),
            ProtocolCourse(HOSTILE, "unlearn", (point(0, 0.25, 1.25), point(9, 0.75, 1.0))),
        ),
        probes=tuple(
            ProbeCurve(label, role, attribute, (0, 1), (0.5, auc))
            for label, role, auc in AUC
            for attribute in ("Dialogue", "Twist")
        ),
        shown_at=(0, 3, 9),
        findings=(f"{HOSTILE}: score 0.25",),
    )  # fmt: skip
    runs = (
        ReportRun("present", "full", results={"feature_score": MetricResult(0.875)}),
        ReportRun("never learned", "retain", results={"feature_score": MetricResult(0.125)}),
        ReportRun(
            HOSTILE,
            "unlearn",
            results={"feature_score": MetricResult(0.25), "recovery_steps": missing("not within 9 steps")},
        ),
    )
    return ReportModel(
        title="Stories", study="s", command="expunge run study=s", created="2026-01-01", sets={"stories": 9}, runs=runs,
        shown=("feature_score", "recovery_steps"), utility="", protocol=report,
    )  # fmt: skip


def test_the_table_of_recovery(story_model: ReportModel) -> None:
    report = story_model.protocol
    assert report is not None
    assert heads(report) == ("model", "score @0", "score @3", "score @9", "loss @0", "loss @3", "loss @9")
    assert recovery_rows(report)[1] == (
        "never learned", "0.12 [0.00, 0.25]", "\u2013", "0.50 [0.38, 0.62]", "2.000", "\u2013", "1.500",
    )  # fmt: skip


def test_every_point_as_csv(story_model: ReportModel) -> None:
    report = story_model.protocol
    assert report is not None
    lines = list(csv.DictReader(io.StringIO(recovery_csv(report))))
    assert len(lines) == 7 * 5  # seven points of five numbers
    assert lines[0] == {
        "stage": "deletion", "model": HOSTILE, "role": "unlearn", "step": "0", "name": "feature_score",
        "value": "0.875",
    }  # fmt: skip


def test_the_figures(story_model: ReportModel) -> None:
    sample = {figure.name: figure.figure for figure in story_figures(story_model)}
    assert list(sample) == [
        "recovery-score", "recovery-loss", "deletion-score", "deletion-loss-0", "deletion-loss-1", "probes",
    ]  # fmt: skip
    recovery = sample["recovery-score"]
    assert recovery is not None
    control = next(trace for trace in recovery.data if trace.name == "never learned")
    # the axis is logarithmic in step + 1, so that step 0 has a place; bars are the interval
    assert list(control.x) == [1, 10] and list(control.y) == [0.125, 0.5]
    assert list(control.error_y.array) == [0.125, 0.125]
    assert list(recovery.layout.xaxis.ticktext) == ["0", "9"]
    probes = sample["probes"]
    assert probes is not None
    assert len(probes.data) == 6 and probes.layout.annotations[0].text == "Twist"  # the deleted feature stands first


def test_nothing_is_markup(story_model: ReportModel) -> None:
    page = to_html(story_model)
    assert "<script>alert('data set')" not in page
    assert "Deleted and recovered: Twist" in page and 'data-figure="probes"' in page
    assert "<script>alert" not in to_markdown(story_model)


def test_the_terminal_shows_recovery(story_model: ReportModel) -> None:
    from rich.console import Console

    console = Console(width=160, record=True, file=io.StringIO())
    console.print(to_rich(story_model))
    text = console.export_text()
    assert "Recovery of Twist" in text and "0.75 [0.62, 0.88]" in text and "score 0.25" in text


def test_other_reports_are_as_they_were(model: ReportModel) -> None:
    assert story_figures(model) == []
    assert "Deleted and recovered" not in to_html(model) + to_markdown(model)


def test_an_unfinished_study_draws_what_there_is(story_model: ReportModel) -> None:
    report = story_model.protocol
    assert report is not None
    begun = dataclasses.replace(report, deletions=(), recoveries=(), probes=(), findings=())
    bare = dataclasses.replace(story_model, protocol=begun)
    assert story_figures(bare) == []
    assert "Deleted and recovered: Twist" in to_html(bare)
