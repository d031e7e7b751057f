"""The page of a grid: pivot tables over the axes, seeds as intervals, and a link to each cell."""

from __future__ import annotations

import dataclasses
import re

import pytest

from expunge.metrics.api import MetricResult
from expunge.report.grid_page import grid_page, pivots
from expunge.report.model import MissingResult, ReportModel, ReportRun

AXES = {f"{a},{b}": {"split": a, "train.rate": b} for a in ("small", "large") for b in ("rate=1", "rate=<2>")}
LINKS = {cell: f"cells/{k}/report.html" for k, cell in enumerate(AXES)}


def report(utilities: tuple[float, ...]) -> ReportModel:
    runs = [
        ReportRun("NPO", "unlearn", seed=k, results={"model_utility": MetricResult(u)}) for k, u in enumerate(utilities)
    ]
    full = ReportRun(
        "full", "full", results={"model_utility": MetricResult(0.9, extra={"ci_low": 0.8, "ci_high": 1.0})}
    )
    return ReportModel("A grid", "g", "", "2026-01-01", {}, (full, *runs), directions={"model_utility": "more ability"})


@pytest.fixture(scope="module")
def reports() -> dict[str, ReportModel]:
    values = ((0.1, 0.2, 0.3), (0.4,), (0.5,), ())
    return {cell: report(of) for cell, of in zip(AXES, values, strict=True)}


def test_the_last_axis_makes_the_columns(reports: dict[str, ReportModel]) -> None:
    (pivot,) = pivots(reports, AXES, LINKS)
    assert (pivot.metric, pivot.columns) == ("model_utility", ("rate=1", "rate=<2>"))
    assert pivot.heads == ("split", "model")
    assert [heads for heads, _ in pivot.rows] == [
        ("small", "full"),
        ("small", "NPO"),
        ("large", "full"),
        ("large", "NPO"),
    ]
    npo, other = pivot.rows[1][1]
    # Student's t over three seeds: 0.2 +- 4.303 * 0.1 / sqrt(3)
    assert (npo.text, npo.interval, npo.share) == ("0.200", "[-0.048, 0.448], 3 seeds", 0.0)
    assert (other.text, other.interval, other.share, other.link) == ("0.400", "", 0.286, "cells/1/report.html")
    assert pivot.rows[0][1][0].interval == "[0.800, 1.000]"  # one model: over its rows
    assert pivot.rows[3][1][1].text == "\u2013"  # no result in this cell


def test_a_column_names_its_axis_and_small_numbers_are_not_hidden() -> None:
    axes = {cell: {"unlearn.preset": cell} for cell in ("slow", "fast")}
    one = ReportRun("NPO", "unlearn", results={"p": MetricResult(3e-7), "q": MetricResult(0.0)})
    by_cell = {cell: ReportModel("A grid", "g", "", "now", {}, (one,), shown=("p", "q"), utility="") for cell in axes}
    first, second = pivots(by_cell, axes, {cell: "x" for cell in axes})
    assert first.columns == ("preset: slow", "preset: fast")
    assert first.rows[0][1][0].text == "3.0e-07" and second.rows[0][1][0].text == "0.000"


def test_the_page_links_every_cell_and_escapes(reports: dict[str, ReportModel]) -> None:
    page = grid_page(reports, AXES, LINKS)
    for link in LINKS.values():
        assert f'href="{link}"' in page
    assert "rate=<2>" not in page and "&lt;2&gt;" in page
    assert "a larger value means more ability" in page


def test_cells_without_axes_and_lost_models_are_named(reports: dict[str, ReportModel]) -> None:
    gaps = dataclasses.replace(next(iter(reports.values())), missing=(MissingResult("RMU", "not finite"),))
    page = grid_page({"experiment_0": gaps}, {}, {"experiment_0": "cells/0/report.html"})
    assert re.search("RMU</strong>: not finite", page) and "1 without a result" in page
