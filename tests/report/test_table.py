"""The results table: formats, what is missing, seeds, the utility floor."""

from __future__ import annotations

import dataclasses
import math

import pytest

from expunge.metrics.api import MetricResult
from expunge.report.model import ReportModel, ReportRun
from expunge.report.table import (
    ABSENT,
    BELOW_FLOOR,
    ITSELF,
    NO_RETAIN,
    ReportTable,
    TableCell,
    TableRow,
    format_p,
    format_value,
    table,
)


def row_of(view: ReportTable, name: str) -> TableRow:
    return next(row for row in view.rows if row.name == name)


def cell_of(view: ReportTable, name: str, key: str) -> TableCell:
    return row_of(view, name).cells[[c.key for c in view.columns].index(key)]


@pytest.mark.parametrize(
    ("log10", "text"),
    [
        (0.0, "1.000"),
        (math.log10(0.0123), "0.012"),
        (math.log10(3.4e-35), "3.4e-35"),
        (math.log10(9.97e-5), "1.0e-04"),
        (math.log10(2) - 400, "2.0e-400"),
        (math.nan, ABSENT),
    ],
)
def test_p_values(log10: float, text: str) -> None:
    assert format_p(log10) == text


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (0.61234, "number", "0.612"),
        (-0.0001, "number", "0.000"),
        (12.34, "percent", "12.3 %"),
        (-0.01, "percent", "0.0 %"),
        (60.0, "count", "60"),
        (12.34, "time", "12.3 s"),
        (187.3, "time", "3 min 07 s"),
        (5400.0, "time", "1 h 30 min"),
        (3599.0, "time", "1 h 00 min"),
        (math.nan, "number", ABSENT),
        (math.inf, "time", ABSENT),
    ],
)
def test_numbers(value: float, kind: str, text: str) -> None:
    assert format_value(value, kind) == text  # type: ignore[arg-type]


def test_order_and_rows_of_means(model: ReportModel) -> None:
    names = [row.name for row in table(model).rows]
    assert names[:6] == ["full", "retain90", "npo, seed 0", "npo, seed 1", "npo, mean ± sd (n=2)", "ga"]
    assert names[-1] == "rmu"


def test_mean_and_sd_over_seeds(model: ReportModel) -> None:
    result, mean = table(model), "npo, mean ± sd (n=2)"
    prob = cell_of(result, mean, "forget_Q_A_Prob")
    assert (prob.value, prob.n, prob.text) == (0.5, 2, "0.500 ± 0.354")
    assert prob.sd == pytest.approx(0.5 / math.sqrt(2))
    p = cell_of(result, mean, "forget_quality")  # 1e-4 and 1e-6: in log10 the mean is -5
    assert p.text == "10^(-5.0 ± 1.4)"
    assert p.value == pytest.approx(1e-5)


def test_a_mean_over_fewer_seeds_says_so(model: ReportModel) -> None:
    runs = (*model.runs, ReportRun("npo", "unlearn", "npo", seed=2))
    cell = cell_of(table(dataclasses.replace(model, runs=runs)), "npo, mean ± sd (n=3)", "model_utility")
    assert cell.text.endswith("(n=2)")
    assert cell.value == 0.4375


def test_missing_values_have_a_reason(model: ReportModel) -> None:
    text = table(model)
    for row in text.rows:
        for cell in row.cells:
            assert math.isfinite(cell.value) == (cell.note is None) == (cell.text != ABSENT)
            assert "nan" not in cell.text.lower()

    def reason(name: str, key: str) -> str:
        note = cell_of(text, name, key).note
        assert note is not None
        return text.footnotes[note - 1]

    assert reason("ga", "forget_Q_A_ROUGE") == "generation was switched off"
    assert reason("ga", "retain_Q_A_ROUGE") == "retain_Q_A_ROUGE was not measured"
    assert reason("full", "steps") == "not recorded"
    assert reason("rmu", "ks_distance") == "rmu: the loss was not finite at step 3"
    assert len(set(text.footnotes)) == len(text.footnotes)


def test_a_value_that_leaves_rows_out_says_so(model: ReportModel) -> None:
    run = model.runs[0]
    partial = {**run.results, "forget_Q_A_ROUGE": MetricResult(0.5, extra={"n_missing": 2.0})}
    text = table(dataclasses.replace(model, runs=(dataclasses.replace(run, results=partial), *model.runs[1:])))
    cell = cell_of(text, next(r.name for r in text.rows if r.label == run.label), "forget_Q_A_ROUGE")
    assert cell.value == 0.5
    assert cell.note is not None
    assert text.footnotes[cell.note - 1] == "forget_Q_A_ROUGE: 2 rows have no value and are left out"


def test_an_underflowed_p_value_uses_the_stored_log(model: ReportModel) -> None:
    quality = {"forget_quality": MetricResult(0.0, extra={"ks_distance": 1.0, "log10_p": -400.0})}
    text = table(dataclasses.replace(model, runs=(ReportRun("a", "unlearn", results=quality),)))
    assert cell_of(text, "a", "forget_quality").text == "1.0e-400"


def test_drop_against_the_full_model_and_floor(model: ReportModel) -> None:
    text = table(model)
    assert cell_of(text, "ga", "utility_drop_percent").value == pytest.approx(80.0)
    assert cell_of(text, "full", "utility_drop_percent").text == "0.0 %"
    assert [row.name for row in text.rows if row.flag == BELOW_FLOOR] == ["ga"]
    strict = table(dataclasses.replace(model, utility_floor=0.75))
    assert [row.name for row in strict.rows if row.flag] == ["npo, seed 1", "npo, mean ± sd (n=2)", "ga"]


def test_without_a_full_model_nothing_is_marked(model: ReportModel) -> None:
    text = table(dataclasses.replace(model, runs=tuple(r for r in model.runs if r.role != "full")))
    assert not any(row.flag for row in text.rows)
    assert cell_of(text, "ga", "utility_drop_percent").text == ABSENT
    assert any("no target model" in reason for reason in text.footnotes)


def test_intervals(model: ReportModel) -> None:
    assert cell_of(table(model), "ga", "forget_truth_ratio").interval == "[0.438, 0.562]"
    assert cell_of(table(model), "ga", "model_utility").interval == ""


def test_the_columns_follow_what_is_shown(model: ReportModel) -> None:
    runs = tuple(
        ReportRun(
            name,
            role,
            results={"mmlu": MetricResult(mmlu), "wmdp_bio": MetricResult(0.25), "arc/acc": MetricResult(0.5)},
        )  # type: ignore[arg-type]
        for name, role, mmlu in (("full", "full", 0.5), ("broken", "unlearn", 0.125), ("rmu", "unlearn", 0.375))
    )
    display = ("wmdp_bio", "mmlu", "arc/acc", "absent")
    text = table(dataclasses.replace(model, runs=runs, missing=(), shown=display, utility="mmlu"))
    keys = ["wmdp_bio", "mmlu", "utility_drop_percent", "arc/acc", "absent", "steps", "wall_s"]
    assert [c.key for c in text.columns] == keys
    assert [c.head for c in text.columns][:4] == ["WMDP bio", "MMLU", "utility drop", "arc/acc"]
    assert cell_of(text, "rmu", "utility_drop_percent").value == pytest.approx(25.0)
    assert [row.name for row in text.rows if row.flag == BELOW_FLOOR] == ["broken"]
    assert "absent was not measured" in text.footnotes


def test_a_distance_to_the_retain_model_is_not_measured_on_it(model: ReportModel) -> None:
    bare = {
        "mia_min_k": MetricResult(0.5),
        "forget_quality": MetricResult(math.nan, "needs a retain model's truth ratios"),
    }
    runs = (
        ReportRun("retain", "retain", seed=0, results=bare),
        ReportRun("retain", "retain", seed=1, results=bare),
        ReportRun("npo", "unlearn", results=bare),
    )
    text = table(dataclasses.replace(model, runs=runs, missing=()))
    why = [
        {c.key: text.footnotes[x.note - 1] for c, x in zip(text.columns, r.cells, strict=True) if x.note}
        for r in text.rows
    ]
    for row in why[:3]:  # two seeds and their mean
        assert row["forget_quality"] == row["ks_distance"] == row["mia_distance"] == ITSELF
    assert (why[3]["mia_distance"], why[3]["ks_distance"]) == (NO_RETAIN, "needs a retain model's truth ratios")
