"""Markdown, CSV and the terminal show the same numbers, and take labels literally."""

from __future__ import annotations

import csv
import dataclasses
import io

import pytest
from rich.console import Console

from expunge.metrics.api import MetricResult
from expunge.report.model import ReportModel, ReportRun
from expunge.report.table import ABSENT
from expunge.report.text import to_csv, to_latex, to_markdown, to_rich


def parsed(model: ReportModel) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(to_csv(model))))


def test_csv_reads_back_with_full_precision(model: ReportModel) -> None:
    lines = parsed(model)
    assert [line["kind"] for line in lines[:6]] == ["run", "run", "run", "run", "mean", "sd"]
    ga = next(line for line in lines if line["label"] == "ga")
    assert float(ga["forget_quality"]) == 3.4e-35
    assert float(ga["ks_distance"]) == 0.75
    assert ga["flag"] == "below the utility floor"
    assert (ga["method"], ga["seed"], ga["forget_Q_A_ROUGE"]) == ("grad_ascent", "0", "")
    assert "generation was switched off" in ga["notes"]
    assert lines[-1]["kind"] == "missing" and "step 3" in lines[-1]["notes"]


def test_csv_means(model: ReportModel) -> None:
    mean, sd = parsed(model)[4:6]
    assert (mean["label"], mean["n"], float(mean["log10_forget_quality"])) == ("npo", "2", pytest.approx(-5.0))
    assert float(sd["log10_forget_quality"]) == pytest.approx(2**0.5)
    assert sd["forget_quality"] == ""
    assert float(sd["model_utility"]) == pytest.approx(0.125 / 2**0.5)


def test_csv_keeps_labels_and_never_says_nan(model: ReportModel) -> None:
    assert "<script>alert('label')</script> [red]|x" in [line["label"] for line in parsed(model)]
    assert not {"nan", "inf"} & {value.lower() for line in parsed(model) for value in line.values()}


def test_markdown_table_is_whole(model: ReportModel) -> None:
    text = to_markdown(model)
    lines = text[text.index("| run |") :].splitlines()
    rows = [line.replace("\\|", "") for line in lines if line.startswith("|")]
    assert len(rows) == 2 + 8
    assert len({row.count("|") for row in rows}) == 1
    assert any(row.startswith("| ga (below the utility floor) | 3.4e-35 | 0.750 |") for row in rows)


def test_markdown_escapes_and_explains(model: ReportModel) -> None:
    text = to_markdown(model)
    assert "<script>" not in text and "&lt;script&gt;" in text
    assert f"{ABSENT}[^1]" in text and "[^1]: " in text
    assert "not an effect size" in text
    assert "- rmu: the loss was not finite at step 3" in text
    assert " nan" not in text.lower()


@pytest.mark.parametrize("width", [60, 80, 200])
def test_terminal_shows_every_number_at_any_width(model: ReportModel, width: int) -> None:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(to_rich(model))
    output = console.file.getvalue()  # type: ignore[attr-defined]
    for text in ("3.4e-35", "10^(-5.0 ± 1.4)", "80.0 %", "59.0 s", "0.500 ± 0.354"):
        assert text in output
    assert "[red]" in output  # not taken for markup
    assert "ga !" in output and "! below the utility floor" in output
    assert max(len(line) for line in output.splitlines()) <= width


def test_latex_shows_means_and_escapes(model: ReportModel) -> None:
    text = to_latex(model)
    assert text.startswith("\\begin{tabular}{l") and text.endswith("\\end{tabular}\n")
    assert r"npo, mean $\pm$ sd (n=2)" in text and "npo, seed 0" not in text
    assert r"10\textasciicircum{}(-5.0 $\pm$ 1.4)" in text and r"80.0 \%" in text
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len({line.count(" & ") for line in lines}) == 1  # every line has as many cells


def test_no_cell_of_the_csv_is_a_formula_to_a_spreadsheet(model: ReportModel) -> None:
    labels = ("=cmd|' /C calc'!A0", "+1", "-2", "@SUM(A1)", "\t=1", "lr=1")
    runs = tuple(ReportRun(label, "unlearn", "=1", "-x", 0, {"model_utility": MetricResult(-0.5)}) for label in labels)
    lines = parsed(dataclasses.replace(model, runs=runs, missing=()))
    assert [line["label"] for line in lines] == [*(f"'{label}" for label in labels[:5]), "lr=1"]
    assert {(line["method"], line["settings"], line["model_utility"]) for line in lines} == {("'=1", "'-x", "-0.5")}


def test_a_label_that_latex_would_take_for_more_stays_a_label(model: ReportModel) -> None:
    runs = tuple(ReportRun(label, "unlearn", results={}) for label in ("[a]", "*b", "<c>|d", "e\x00\x01f"))
    lines = to_latex(dataclasses.replace(model, runs=runs, missing=())).splitlines()
    names = [line.split(" & ")[0] for line in lines if line.endswith(r"\\")][1:]
    assert names == ["{[}a]", "{*}b", r"\textless{}c\textgreater{}\textbar{}d", "ef"]
