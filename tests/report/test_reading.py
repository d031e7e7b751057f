"""The cautions follow from the numbers of the report."""

from __future__ import annotations

import dataclasses

from expunge.metrics.api import MetricResult
from expunge.report.model import ReportModel, ReportRun
from expunge.report.reading import cautions, corrected_line, floor_line, reading


def test_one_seed(model: ReportModel) -> None:
    assert any("One seed only" in line and "ga" in line and "npo" not in line for line in cautions(model))
    single = dataclasses.replace(model, runs=tuple(r for r in model.runs if r.seed != 1))
    assert any("was run with one seed" in line for line in cautions(single))
    twice = dataclasses.replace(model, runs=tuple(r for r in model.runs if r.label in ("npo", "full", "retain90")))
    assert cautions(twice) == ()


def test_unlike_row_counts(model: ReportModel) -> None:
    assert not any("different numbers of forget rows" in line for line in cautions(model))
    odd = ReportRun("x", "unlearn", results={"forget_truth_ratio": MetricResult(0.5, per_row={0: {"score": 1.0}})})
    lines = cautions(dataclasses.replace(model, runs=(*model.runs, odd)))
    assert any("(1, 8)" in line for line in lines)


def test_a_test_without_power_and_no_retain_model(model: ReportModel) -> None:
    weak = ReportRun("full", "full", results={"forget_quality": MetricResult(0.5)})
    lines = cautions(dataclasses.replace(model, runs=(weak,)))
    assert any("p = 0.500" in line for line in lines)
    assert any("no retain model" in line for line in lines)


def test_the_floor_says_its_number_or_why_there_is_none(model: ReportModel) -> None:
    assert "(0.312)" in floor_line(model)
    assert "not applied" in floor_line(dataclasses.replace(model, runs=()))


def test_the_tests_of_all_methods_are_corrected_together(model: ReportModel) -> None:
    # p = 3.4e-35, 1e-6, 1e-4 of three runs: Holm gives 3 * 3.4e-35, 2 * 1e-6 and 1e-4
    (line,) = corrected_line(model)
    assert "has 3 of these tests, so about 0.15 of them" in line
    for name, p in (("ga", "1.0e-34"), ("npo, seed 1", "2.0e-06"), ("npo, seed 0", "1.0e-04")):
        assert f"{name} (p = {p})" in line
    assert line in reading(dataclasses.replace(model, shown=("forget_quality",)))
    # 0.03 alone is below 0.05, and 2 * 0.03 is not
    pair = [
        ReportRun(name, "unlearn", results={"forget_quality": MetricResult(p)}) for name, p in (("a", 0.03), ("b", 0.2))
    ]
    assert corrected_line(dataclasses.replace(model, runs=tuple(pair)))[0].endswith("no model differs from it.")
    assert corrected_line(dataclasses.replace(model, runs=(pair[0],))) == ()
