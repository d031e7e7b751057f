"""The results table: raw values with their text, so that every output shows the same numbers."""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from expunge.metrics.api import MetricResult
from expunge.metrics.results import left_out
from expunge.metrics.utility import share_of_utility
from expunge.report.model import ReportModel, ReportRun, once, run_names

Kind = Literal["p", "number", "percent", "count", "time"]
ABSENT = "\u2013"  # an en dash
BELOW_FLOOR = "below the utility floor"
ITSELF = "this number is a distance from the retain model, and this is the retain model itself"
NO_RETAIN = "this number is a distance from the retain model, and there is no retain model"


@dataclass(frozen=True)
class TableColumn:
    """A column. key: its name in the CSV; metric and extra: source of its value; title: how to read it.

    to_retain: it is a distance from the retain model, which is undefined for the retain model itself.
    """

    key: str
    head: str
    kind: Kind
    title: str
    metric: str | None = None
    extra: str | None = None
    to_retain: bool = False


_KNOWN = (
    TableColumn(
        "forget_quality", "forget quality p", "p",
        "p-value of the KS test between the truth ratios of this model and of the retain model; larger is nearer",
        "forget_quality", to_retain=True,
    ),
    TableColumn(
        "ks_distance", "KS distance", "number",
        "largest gap between the two curves of truth ratios, 0 to 1; smaller is nearer the retain model",
        "forget_quality", "ks_distance", to_retain=True,
    ),
    TableColumn(
        "forget_truth_ratio", "forget truth ratio", "number",
        "aggregate truth ratio on the forget rows; compare with the retain model",
        "forget_truth_ratio",
    ),
    TableColumn(
        "forget_Q_A_Prob", "forget prob.", "number",
        "probability of the true answers to forget questions; compare with the retain model",
        "forget_Q_A_Prob",
    ),
    TableColumn(
        "forget_Q_A_ROUGE", "forget ROUGE", "number",
        "overlap of generated and true answers to forget questions; compare with the retain model",
        "forget_Q_A_ROUGE",
    ),
    TableColumn(
        "model_utility", "model utility", "number",
        "harmonic mean over the abilities to keep; larger is better",
        "model_utility",
    ),
    TableColumn(
        "retain_Q_A_Prob", "retain prob.", "number",
        "probability of the true answers to retain questions; larger is better",
        "retain_Q_A_Prob",
    ),
    TableColumn(
        "retain_Q_A_ROUGE", "retain ROUGE", "number",
        "overlap of generated and true answers to retain questions; larger is better",
        "retain_Q_A_ROUGE",
    ),
    TableColumn(
        "forget_knowmem_ROUGE", "forget knowledge", "number",
        "overlap of generated and true answers to questions about the forget texts; compare with the retain model",
        "forget_knowmem_ROUGE",
    ),
    TableColumn(
        "forget_verbmem_ROUGE", "forget verbatim", "number",
        "overlap of the model's continuation of a forget text with the true one; compare with the retain model",
        "forget_verbmem_ROUGE",
    ),
    TableColumn(
        "retain_knowmem_ROUGE", "retain knowledge", "number",
        "overlap of generated and true answers to questions about the retain texts; larger is better",
        "retain_knowmem_ROUGE",
    ),
    TableColumn(
        "extraction_strength", "extraction strength", "number",
        "share of a forget text that the model reproduces from some point on; compare with the retain model",
        "extraction_strength",
    ),
    TableColumn(
        "privleak", "privacy leakage", "number",
        "how far an attack's AUC is from the retain model's, in percent; 0 is best, either side is worse", "privleak",
        to_retain=True,
    ),
    TableColumn(
        "mia_min_k", "attack AUC", "number",
        "AUC of the min-k attack: forget texts against texts never seen; compare with the retain model", "mia_min_k",
    ),
    TableColumn("mmlu", "MMLU", "number", "accuracy over all MMLU questions; larger is better", "mmlu"),
    TableColumn("wmdp_bio", "WMDP bio", "number", "accuracy on biology questions; guessing gives 0.25", "wmdp_bio"),
    TableColumn("wmdp_chem", "WMDP chem", "number", "accuracy on chemistry questions; chance is 0.25", "wmdp_chem"),
    TableColumn("wmdp_cyber", "WMDP cyber", "number", "accuracy on security questions; chance is 0.25", "wmdp_cyber"),
)  # fmt: skip
_DROP = TableColumn(
    "utility_drop_percent", "utility drop", "percent", "utility loss against the target model; smaller is better"
)
_ATTACKS = (  # shown if some run has them
    TableColumn(
        "mia_distance", "MIA distance", "number",
        "distance of the min-k attack's AUC from the retain model's, from either side; 0 is best",
        "mia_min_k", "auc_distance", to_retain=True,
    ),
    next(column for column in _KNOWN if column.key == "privleak"),
)  # fmt: skip
_MEMORY = TableColumn("memory_gb", "memory GB", "number", "peak memory of training, in GB")  # shown if recorded
_LAST = (
    TableColumn("steps", "steps", "count", "optimiser steps"),
    TableColumn("wall_s", "time", "time", "seconds of training, wall clock"),
)


@dataclass(frozen=True)
class TableCell:
    """One value. value is NaN if missing. `note` is the footnote with the reason, or with the ignored rows.

    sd and n: only in rows of means; the sd of a p-value is that of its log10. low, high: a confidence interval.
    log10: of a p-value, finite even if the p-value itself underflows to 0. spread: lowest and highest of a seed range.
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
        """The confidence interval as text, or empty."""
        digits = 1 if self.text.endswith("%") else 3
        there = math.isfinite(self.low) and math.isfinite(self.high)
        return f"[{self.low:.{digits}f}, {self.high:.{digits}f}]" if there else ""


@dataclass(frozen=True)
class TableRow:
    """One row. kind: a run, the mean over the seeds of a label, the retrain-seed range, or a job without a result.

    run: the run, if it is one.
    """

    kind: Literal["run", "mean", "band", "missing"]
    name: str
    label: str
    role: str
    cells: tuple[TableCell, ...]
    run: ReportRun | None = None
    n: int = 1
    flag: str | None = None


@dataclass(frozen=True)
class ReportTable:
    """Columns, rows (a cell per column), and the footnotes; footnote k is `footnotes[k - 1]`."""

    columns: tuple[TableColumn, ...]
    rows: tuple[TableRow, ...]
    footnotes: tuple[str, ...]


@dataclass
class _Footnotes:
    numbers: dict[str, int] = field(default_factory=dict)

    def number(self, reason: str) -> int:
        return self.numbers.setdefault(reason, len(self.numbers) + 1)

    def absent(self, reason: str) -> TableCell:
        return TableCell(math.nan, ABSENT, note=self.number(reason))


def head_of(metric: str) -> str:
    """Return the column head of a metric; its own name if there is no other."""
    return next((c.head for c in _KNOWN if c.metric == metric and c.extra is None), metric)


def columns_of(model: ReportModel) -> tuple[TableColumn, ...]:
    """Return the columns of the metrics in the report, the utility drop next to the utility, then steps and time."""
    out: list[TableColumn] = []
    for name in model.shown:
        predefined = [column for column in _KNOWN if column.metric == name]
        out += predefined or [TableColumn(name, name, "number", f"the metric {name}", name)]
        if name == model.utility:
            out.append(_DROP)
    shown = {column.metric for column in out}
    there = {name for run in model.runs for name in run.results} - shown
    memory = [_MEMORY] if any(run.memory_gb is not None for run in model.runs) else []
    return (*out, *(c for c in _ATTACKS if c.metric in there), *_LAST, *memory)


@once
def table(model: ReportModel) -> ReportTable:
    """Return the results table: full, retain, then the methods; a row of means if a label has several seeds."""
    notes = _Footnotes()
    columns = columns_of(model)
    rows: list[TableRow] = []
    for group in model.groups():
        scale = _ColorScale.of(model, group[0].cell)
        own = [_run_row(run, name, columns, scale, notes) for run, name in zip(group, run_names(group), strict=True)]
        rows += own
        if len(own) > 1:
            rows.append(_mean_row(own, columns, scale, notes))
        if group[0].role == "retain" and model.null_band:
            rows.append(_band_row(model, columns, notes))
    for absent in model.missing:
        cells = tuple(notes.absent(f"{absent.label}: {absent.reason}") for _ in columns)
        rows.append(TableRow("missing", absent.label, absent.label, "", cells))
    return ReportTable(columns, tuple(rows), tuple(notes.numbers))


def _band_row(model: ReportModel, columns: tuple[TableColumn, ...], notes: _Footnotes) -> TableRow:
    """Return the row from the lowest to the highest retain model: the effect of another training seed alone."""
    cells = []
    for column in columns:
        name = f"{column.metric}.{column.extra}" if column.extra else column.metric
        seeds = model.null_band.get(name or "")
        if seeds is None:
            cells.append(notes.absent("no range: it is not measured between retain models"))
            continue
        ends = format_value(seeds.low, column.kind), format_value(seeds.high, column.kind)
        cells.append(TableCell(seeds.mean, " to ".join(ends), n=seeds.n, spread=(seeds.low, seeds.high)))
    n = max(seeds.n for seeds in model.null_band.values())
    return TableRow("band", f"retain models, lowest to highest (n={n})", "null band", "retain", tuple(cells), n=n)


@dataclass(frozen=True)
class _ColorScale:
    """The scale of utility: its metric, the target model's value, the floor, and the target models' results."""

    metric: str
    full: float
    floor: float
    targets: Sequence[Mapping[str, MetricResult]]

    @classmethod
    def of(cls, model: ReportModel, cell: str | None) -> _ColorScale:
        full = model.mean_of("full", model.utility, cell)
        return cls(model.utility, full, model.utility_floor * full, model.results_of("full", cell))


def _run_row(
    run: ReportRun, name: str, columns: tuple[TableColumn, ...], scale: _ColorScale, notes: _Footnotes
) -> TableRow:
    cells = tuple(_cell(run, column, scale, notes) for column in columns)
    return TableRow("run", name, run.label, run.role, cells, run, flag=_flag(run.role, columns, cells, scale))


def _flag(role: str, columns: tuple[TableColumn, ...], cells: tuple[TableCell, ...], scale: _ColorScale) -> str | None:
    """Return the mark of a collapsed model. Comparisons with NaN are false, so an unknown utility marks nothing."""
    utility = next((cell.value for c, cell in zip(columns, cells, strict=True) if c.metric == scale.metric), math.nan)
    return BELOW_FLOOR if role == "unlearn" and utility < scale.floor else None


def _cell(run: ReportRun, column: TableColumn, scale: _ColorScale, notes: _Footnotes) -> TableCell:
    if column.key in ("steps", "wall_s", "memory_gb"):
        number = getattr(run, column.key)
        value, reason = (math.nan, "not recorded") if number is None else (float(number), "not a finite number")
        return TableCell(value, format_value(value, column.kind)) if math.isfinite(value) else notes.absent(reason)
    metric = column.metric or scale.metric
    result = run.results.get(metric)
    if result is None:
        return notes.absent(f"{metric} was not measured")
    value, low, high = result.value, result.extra.get("ci_low", math.nan), result.extra.get("ci_high", math.nan)
    reason = result.reason or f"{metric} is not a finite number, and no reason was stored"
    if column.extra is not None:
        value, low, high = result.extra.get(column.extra, math.nan), math.nan, math.nan
        reason = result.reason or (NO_RETAIN if column.to_retain else f"no {column.extra} was measured with {metric}")
    if run.role == "retain" and column.to_retain:
        reason = ITSELF
    if column.key == "utility_drop_percent":
        if not scale.full > 0:
            return notes.absent("there is no target model with a positive utility to compare with")
        ends = math.nan, math.nan, math.nan
        if run.role != "full" and math.isfinite(value):
            ends = share_of_utility([run.results], scale.targets, metric)
        value, high, low = 100 * (1 - value / scale.full), *(100 * (1 - end) for end in ends[1:])
    if not math.isfinite(value):
        return notes.absent(reason)
    remarks = [remark for remark in (left_out(result), _beyond(column, result)) if remark]
    note = notes.number(f"{metric}: {'; '.join(remarks)}") if remarks else None
    if column.kind == "p":
        log10 = log10_p(result)
        return TableCell(value, format_p(log10), low=low, high=high, log10=log10, note=note)
    return TableCell(value, format_value(value, column.kind), low=low, high=high, note=note)


def _beyond(column: TableColumn, result: MetricResult) -> str | None:
    """Return the AUCs behind a privacy leakage outside [-100, 100], or None."""
    reference = result.extra.get("auc_ref", math.nan)
    if column.key != "privleak" or abs(result.value) <= 100 or not math.isfinite(reference):
        return None
    auc = 1 - (1 - reference) * (1 + result.value / 100)
    return (
        f"beyond 100 % because the retain model's AUC is {reference:.3f}, near 1; this model's AUC is {auc:.3f}. "
        "Compare these two"
    )


def _mean_row(
    rows: list[TableRow], columns: tuple[TableColumn, ...], scale: _ColorScale, notes: _Footnotes
) -> TableRow:
    cells = []
    for i, column in enumerate(columns):
        there = [row.cells[i] for row in rows if math.isfinite(row.cells[i].value)]
        values = [cell.log10 if column.kind == "p" else cell.value for cell in there]
        if not values:
            why = {row.cells[i].note for row in rows}
            same = why.pop() if len(why) == 1 else None
            cells.append(TableCell(math.nan, ABSENT, note=same) if same else notes.absent("no seed has a value"))
            continue
        cell = _mean_cell(values, column.kind)
        # A cell over fewer seeds than its row shows their number, because it is another mean.
        cells.append(cell if len(values) == len(rows) else replace(cell, text=f"{cell.text} (n={len(values)})"))
    label, n, done = rows[0].label, len(rows), tuple(cells)
    flag = _flag(rows[0].role, columns, done, scale)
    return TableRow("mean", f"{label}, mean ± sd (n={n})", label, rows[0].role, done, n=n, flag=flag)


def _mean_cell(values: list[float], kind: Kind) -> TableCell:
    """Return mean and sample standard deviation. p-values come as log10 p, since they span orders of magnitude."""
    mean = statistics.fmean(values)
    sd = statistics.stdev(values) if len(values) > 1 else math.nan
    if kind == "p":
        text = f"10^({mean:.1f} ± {sd:.1f})" if len(values) > 1 else format_p(mean)
        return TableCell(10**mean, text, sd=sd, n=len(values), log10=mean)
    if len(values) == 1:
        text = format_value(mean, kind)
    elif kind == "time":
        text = f"{format_value(mean, kind)} ± {format_value(sd, kind)}"
    else:
        digits = {"percent": 1, "count": 0}.get(kind, 3)
        text = f"{mean:.{digits}f} ± {sd:.{digits}f}" + (" %" if kind == "percent" else "")
    return TableCell(mean, text, sd=sd, n=len(values))


def log10_p(result: MetricResult) -> float:
    """Return log10 of a p-value: the stored one, exact if p underflows, else that of the value, at least 1e-308."""
    stored = result.extra.get("log10_p", math.nan)
    if math.isfinite(stored):
        return stored
    return math.log10(max(result.value, sys.float_info.min)) if math.isfinite(result.value) else math.nan


def format_p(log10: float) -> str:
    """Format a p-value from its log10: three decimals from 0.01 on, else like 3.4e-35. Never a NaN."""
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
    """Format a number: percents with one decimal, counts with none, others with three. Never a NaN."""
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
