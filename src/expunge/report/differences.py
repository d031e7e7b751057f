"""Paired differences of the models of a study or grid from a control, on the same rows, corrected for all tests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from expunge.evaluation.compare import PairedDifference, compare, corrected
from expunge.report.model import ReportModel, ReportRun, once, run_names
from expunge.report.section import GridSection, Section
from expunge.report.table import ABSENT, format_p, head_of

ABOUT = (
    "Each line compares a model with {control}, row by row: the mean difference; its 95 % bootstrap interval over "
    "rows; p of a two-sided permutation test that flips the signs of the differences. Of {tests} tests, about "
    "{chance} would be below 0.05 without any difference; p (Holm) is corrected for all of them. A metric that is no "
    "mean over rows, nor one of such means, is left out. `expunge compare` shows any two models, and single rows."
)


def differences_section(reports: Mapping[str, ReportModel]) -> Section | None:
    """Return the differences from the retain model, or without one from the target model; None without both.

    reports: a study's report under an empty name; of a grid, the report of each cell, which has its own control.
    """
    pairs = [
        (f"{cell}: {name}" if cell else name, difference)
        for cell, report in reports.items()
        for name, difference in paired_differences(report)
    ]
    if not pairs:
        return None
    all_differences = corrected([difference for _, difference in pairs])
    rows = []
    for (name, _), d in zip(pairs, all_differences, strict=True):
        first, second, *evidence = cells_of(d)
        rows.append((name, head_of(d.metric), second, first, *evidence))
    tests = sum(math.isfinite(d.p) for d in all_differences)
    report, control = next((r, of) for r in reports.values() if (of := _control(r.runs)) is not None)
    what = "the retain model" if control.role == "retain" else "the target model"
    if len(reports) > 1 or control.cell is not None:
        what += " of the same cell"
    elif control.seed is not None and sum(run.role == control.role for run in report.runs) > 1:
        what += f" of seed {control.seed}"
    heads = ("model", "metric", "value", control.role, "difference", "95 % interval", "p", "p (Holm)", "rows")
    about = ABOUT.format(control=what, tests=tests, chance=f"{0.05 * tests:.1f}")
    grid = GridSection(f"Differences from {what}.", heads, tuple(rows), "model", ("metric",))
    return Section("differences", f"Differences from {what}, row by row", "Differences", about, (grid,))


@once
def paired_differences(model: ReportModel) -> tuple[tuple[str, PairedDifference], ...]:
    """Return the name of each model and its difference from the control, for each shown metric that both have by row.

    The page of a grid and the report of its cell read the same ones.
    """
    cells = dict.fromkeys(run.cell for run in model.runs)
    controls = {cell: _control([run for run in model.runs if run.cell == cell]) for cell in cells}
    named = [pair for group in model.groups() for pair in zip(run_names(group), group, strict=True)]
    out = []
    for metric in model.shown:
        for name, run in named:
            control = controls[run.cell]
            if control is None or run is control or run.role == "retain":
                continue
            if metric in run.results and metric in control.results:
                difference = compare(control.results, run.results, metrics=[metric])[metric]
                if difference.n:
                    out.append((name, difference))
    return tuple(out)


def _control(runs: Sequence[ReportRun]) -> ReportRun | None:
    """Return the retain model, else the target model."""
    return next((run for role in ("retain", "full") for run in runs if run.role == role), None)


def cells_of(d: PairedDifference) -> tuple[str, ...]:
    """Return the texts of a line: first, second, difference, interval, p, p after Holm, and the number of examples."""
    interval = f"[{d.ci_low:.3f}, {d.ci_high:.3f}]" if math.isfinite(d.ci_low) else ""
    p, p_holm = (format_p(math.log10(v)) if math.isfinite(v) and v > 0 else "" for v in (d.p, d.p_holm))
    return signed(d.a), signed(d.b), signed(d.difference, "+"), interval, p, p_holm, str(d.n) if d.n else ""


def signed(value: float, sign: str = "") -> str:
    """Return a number with three decimals, with its sign if `sign` is "+"."""
    return f"{value:{sign}.3f}" if math.isfinite(value) else ABSENT
