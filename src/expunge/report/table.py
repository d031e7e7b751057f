"""The results table: raw values beside their text, so that every output shows the same numbers."""

from __future__ import annotations

import math
import statistics
import sys
from dataclasses import dataclass, field, replace
from typing import Literal

from expunge.metrics.api import Result
from expunge.report.model import ReportModel, Run, run_names

Kind = Literal["p", "number", "percent", "count", "time"]
ABSENT = "\u2013"  # an en dash
BELOW_FLOOR = "below the utility floor"


@dataclass(frozen=True)
class Column:
    """A column. key: its name in the CSV; metric and extra: where its value is read; title: how to read it."""

    key: str
    head: str
    kind: Kind
    title: str
    metric: str | None = None
    extra: str | None = None


COLUMNS = (
    Column(
        "forget_quality", "forget quality p", "p",
        "p-value of the KS test between the truth ratios of this model and of the retain model; larger is nearer",
        "forget_quality",
    ),
    Column(
        "ks_distance", "KS distance", "number",
        "largest gap between the two curves of truth ratios, 0 to 1; smaller is nearer the retain model",
        "forget_quality", "ks_distance",
    ),
    Column(
        "forget_truth_ratio", "forget truth ratio", "number",
        "aggregate truth ratio on the forget rows; compare with the retain model",
        "forget_truth_ratio",
    ),
    Column(
        "forget_Q_A_Prob", "forget prob.", "number",
        "probability of the true answers to forget questions; compare with the retain model",
        "forget_Q_A_Prob",
    ),
    Column(
        "forget_Q_A_ROUGE", "forget ROUGE", "number",
        "overlap of generated and true answers to forget questions; compare with the retain model",
        "forget_Q_A_ROUGE",
    ),
    Column(
        "model_utility", "model utility", "number",
        "harmonic mean over what the model should still know; larger is better",
        "model_utility",
    ),
    Column("utility_drop_percent", "utility drop", "percent", "utility lost against the full model; smaller is better"),
    Column(
        "retain_Q_A_Prob", "retain prob.", "number",
        "probability of the true answers to retain questions; larger is better",
        "retain_Q_A_Prob",
    ),
    Column(
        "retain_Q_A_ROUGE", "retain ROUGE", "number",
        "overlap of generated and true answers to retain questions; larger is better",
        "retain_Q_A_ROUGE",
    ),
    Column("steps", "steps", "count", "optimiser steps"),
    Column("wall_s", "time", "time", "seconds of training, wall clock"),
)  # fmt: skip
ATTACKS = (  # shown where some run has them
    Column(
        "mia_distance", "MIA distance", "number",
        "distance of the min-k attack's AUC from the retain model's, from either side; 0 is best",
        "mia_min_k", "auc_distance",
    ),
    Column(
        "privleak", "privleak", "percent",
        "the min-k attack's AUC against the retain model's, in percent of it; 0 is best, from either side",
        "privleak",
    ),
)  # fmt: skip


def columns_of(model: ReportModel) -> tuple[Column, ...]:
    """The columns of a report: those of the attacks only where a run was attacked."""
    there = {name for run in model.runs for name in run.results}
    return (*COLUMNS[:-2], *(c for c in ATTACKS if c.metric in there), *COLUMNS[-2:])


@dataclass(frozen=True)
class Cell:
    """One value. value is NaN where missing, and then `note` is the footnote that says why.

    sd and n: only in rows of means; the sd of a p-value is that of its log10. low, high: a confidence interval.
    log10: of a p-value, finite where the p-value itself underflows to 0. spread: lowest and highest, of a null band.
    """

    value: float
    text: str
    sd: float = math.nan
    n: int = 1
    low: float = math.nan
    high: float = math.nan
    log10: float = math.nan
    note: int | None = None
    spread: tuple[float, float] | None = None

    @property
    def interval(self) -> str:
        """The confidence interval as text, or nothing."""
        return f"[{self.low:.3f}, {self.high:.3f}]" if math.isfinite(self.low) and math.isfinite(self.high) else ""


@dataclass(frozen=True)
class Row:
    """One row. kind: a run, the mean over the seeds of a label, the band of the retain models, or a job without a
    result. run: the run, if one."""

    kind: Literal["run", "mean", "band", "missing"]
    name: str
    label: str
    role: str
    cells: tuple[Cell, ...]
    run: Run | None = None
    n: int = 1
    flag: str | None = None


@dataclass(frozen=True)
class Table:
    """Columns, rows (a cell per column), and the footnotes; footnote k is `footnotes[k - 1]`."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    footnotes: tuple[str, ...]


@dataclass
class _Footnotes:
    numbers: dict[str, int] = field(default_factory=dict)

    def absent(self, reason: str) -> Cell:
        return Cell(math.nan, ABSENT, note=self.numbers.setdefault(reason, len(self.numbers) + 1))


def table(model: ReportModel) -> Table:
    """The results table: full, retain, then the methods as given; a row of means where a label has several seeds."""
    notes = _Footnotes()
    full_utility = model.mean_of("full", "model_utility")
    floor = model.utility_floor * full_utility
    columns = columns_of(model)
    rows: list[Row] = []
    for group in model.groups():
        own = [
            _run_row(run, name, columns, full_utility, floor, notes)
            for run, name in zip(group, run_names(group), strict=True)
        ]
        rows += own
        if len(own) > 1:
            rows.append(_mean_row(own, columns, floor, notes))
        if group[0].role == "retain" and model.null_band:
            rows.append(_band_row(model, columns, notes))
    for lost in model.missing:
        cells = tuple(notes.absent(f"{lost.label}: {lost.reason}") for _ in columns)
        rows.append(Row("missing", lost.label, lost.label, "", cells))
    return Table(columns, tuple(rows), tuple(notes.numbers))


def _band_row(model: ReportModel, columns: tuple[Column, ...], notes: _Footnotes) -> Row:
    """From the lowest to the highest retain model: what another training seed can do by itself."""
    cells = []
    for column in columns:
        name = f"{column.metric}.{column.extra}" if column.extra else column.metric
        found = model.null_band.get(name or "")
        if found is None:
            cells.append(notes.absent("no band: it is not measured between retain models"))
            continue
        ends = format_value(found.low, column.kind), format_value(found.high, column.kind)
        cells.append(Cell(found.mean, " to ".join(ends), n=found.n, spread=(found.low, found.high)))
    n = max(found.n for found in model.null_band.values())
    return Row("band", f"retain models, lowest to highest (n={n})", "null band", "retain", tuple(cells), n=n)


def _run_row(
    run: Run, name: str, columns: tuple[Column, ...], full_utility: float, floor: float, notes: _Footnotes
) -> Row:
    cells = tuple(_cell(run, column, full_utility, notes) for column in columns)
    return Row("run", name, run.label, run.role, cells, run, flag=_flag(run.role, cells, floor))


def _flag(role: str, cells: tuple[Cell, ...], floor: float) -> str | None:
    """The mark of a collapsed model. Comparisons with NaN are false: an unknown utility or floor marks nothing."""
    utility = cells[[c.key for c in COLUMNS].index("model_utility")].value
    return BELOW_FLOOR if role == "unlearn" and utility < floor else None


def _cell(run: Run, column: Column, full_utility: float, notes: _Footnotes) -> Cell:
    if column.key == "steps" or column.key == "wall_s":
        given = run.steps if column.key == "steps" else run.wall_s
        value, reason = (math.nan, "not recorded") if given is None else (float(given), "not a finite number")
        return Cell(value, format_value(value, column.kind)) if math.isfinite(value) else notes.absent(reason)
    metric = column.metric or "model_utility"
    result = run.results.get(metric)
    if result is None:
        return notes.absent(f"{metric} was not measured")
    value, low, high = result.value, result.extra.get("ci_low", math.nan), result.extra.get("ci_high", math.nan)
    reason = result.reason or f"{metric} is not a finite number, and no reason was stored"
    if column.extra is not None:
        value, low, high = result.extra.get(column.extra, math.nan), math.nan, math.nan
        reason = result.reason or f"{metric} holds no {column.extra}"
    if column.key == "utility_drop_percent":
        if not full_utility > 0:
            return notes.absent("there is no full model with a positive utility to compare with")
        value, low, high = 100 * (1 - value / full_utility), math.nan, math.nan
    if not math.isfinite(value):
        return notes.absent(reason)
    if column.kind == "p":
        log10 = log10_p(result)
        return Cell(value, format_p(log10), low=low, high=high, log10=log10)
    return Cell(value, format_value(value, column.kind), low=low, high=high)


def _mean_row(rows: list[Row], columns: tuple[Column, ...], floor: float, notes: _Footnotes) -> Row:
    cells = []
    for i, column in enumerate(columns):
        there = [row.cells[i] for row in rows if math.isfinite(row.cells[i].value)]
        values = [cell.log10 if column.kind == "p" else cell.value for cell in there]
        if not values:
            cells.append(notes.absent("no seed has a value"))
            continue
        cell = _mean_cell(values, column.kind)
        # A cell whose count is not the row's says so: a mean over fewer seeds is another mean.
        cells.append(cell if len(values) == len(rows) else replace(cell, text=f"{cell.text} (n={len(values)})"))
    label, n, done = rows[0].label, len(rows), tuple(cells)
    return Row(
        "mean", f"{label}, mean ± sd (n={n})", label, rows[0].role, done, n=n, flag=_flag(rows[0].role, done, floor)
    )


def _mean_cell(values: list[float], kind: Kind) -> Cell:
    """Mean and sample standard deviation. p-values come as log10 p, since they span orders of magnitude."""
    mean = statistics.fmean(values)
    sd = statistics.stdev(values) if len(values) > 1 else math.nan
    if kind == "p":
        text = f"10^({mean:.1f} ± {sd:.1f})" if len(values) > 1 else format_p(mean)
        return Cell(10**mean, text, sd=sd, n=len(values), log10=mean)
    if len(values) == 1:
        text = format_value(mean, kind)
    elif kind == "time":
        text = f"{format_value(mean, kind)} ± {format_value(sd, kind)}"
    else:
        digits = {"percent": 1, "count": 0}.get(kind, 3)
        text = f"{mean:.{digits}f} ± {sd:.{digits}f}" + (" %" if kind == "percent" else "")
    return Cell(mean, text, sd=sd, n=len(values))


def log10_p(result: Result) -> float:
    """log10 of a p-value: the stored one, exact where p underflows, else that of the value, cut off at 1e-308."""
    stored = result.extra.get("log10_p", math.nan)
    if math.isfinite(stored):
        return stored
    return math.log10(max(result.value, sys.float_info.min)) if math.isfinite(result.value) else math.nan


def format_p(log10: float) -> str:
    """A p-value, given as log10 p: three decimals from 0.01 on, else like 3.4e-35. Never a NaN."""
    if not math.isfinite(log10):
        return ABSENT
    if log10 >= -2:
        return f"{10**log10:.3f}"
    exponent = math.floor(log10)
    mantissa = round(10 ** (log10 - exponent), 1)
    if mantissa >= 10:  # 9.97 rounds up into the next power
        mantissa, exponent = 1.0, exponent + 1
    return f"{mantissa:.1f}e-{-exponent:02d}"


def format_value(value: float, kind: Kind) -> str:
    """A number as text: percents with one decimal, counts with none, others with three. Never a NaN."""
    if not math.isfinite(value):
        return ABSENT
    if kind == "percent":
        return f"{value:.1f} %".replace("-0.0 ", "0.0 ")
    if kind == "count":
        return f"{value:.0f}"
    if kind == "time":
        return _format_time(value)
    text = f"{value:.3f}"
    return "0.000" if text == "-0.000" else text


def _format_time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
