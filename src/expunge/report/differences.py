"""Paired differences of the models of a study or grid from a control, on the same rows, corrected for all tests."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from expunge.evaluation.compare import PairedDifference, compare, corrected
from expunge.report.compare_page import cells_of
from expunge.report.model import ReportRun, run_names
from expunge.report.section import GridSection, Section
from expunge.report.table import head_of

ABOUT = (
    "Each line compares a model with {control}, row by row: the mean difference, its 95 % bootstrap interval over "
    "rows, and p of a two-sided permutation test that flips the signs of the differences. Of {tests} tests, about "
    "{chance} would be below 0.05 without any difference; p (Holm) is corrected for all of them. A metric that is no "
    "mean over rows is left out. `expunge compare` shows any two models, and single rows."
)


def differences_section(cells: Mapping[str, Sequence[ReportRun]], shown: Sequence[str]) -> Section | None:
    """Return the differences from the retain model, or without one from the target model; None without both.

    cells: all runs of a study, under an empty name; of a grid, the runs of each cell, which has its own control.
    shown: the metrics of the results table.
    """
    controls = {cell: control for cell, runs in cells.items() if (control := _control(runs)) is not None}
    if not controls:
        return None
    pairs = [pair for cell, control in controls.items() for pair in _pairs(cell, cells[cell], control, shown)]
    if not pairs:
        return None
    all_differences = corrected([difference for _, difference in pairs])
    rows = []
    for (name, _), d in zip(pairs, all_differences, strict=True):
        first, second, *evidence = cells_of(d)
        rows.append((name, head_of(d.metric), second, first, *evidence))
    tests = sum(math.isfinite(d.p) for d in all_differences)
    cell, control = next(iter(controls.items()))
    what = "the retain model" if control.role == "retain" else "the target model"
    if len(cells) > 1:
        what += " of the same cell"
    elif control.seed is not None and sum(run.role == control.role for run in cells[cell]) > 1:
        what += f" of seed {control.seed}"
    heads = ("model", "metric", "value", control.role, "difference", "95 % interval", "p", "p (Holm)", "rows")
    about = ABOUT.format(control=what, tests=tests, chance=f"{0.05 * tests:.1f}")
    grid = GridSection(f"Differences from {what}.", heads, tuple(rows), "model", ("metric",))
    return Section("differences", f"Differences from {what}, row by row", "Differences", about, (grid,))


def _control(runs: Sequence[ReportRun]) -> ReportRun | None:
    """Return the retain model, else the target model."""
    return next((run for role in ("retain", "full") for run in runs if run.role == role), None)


def _pairs(
    cell: str, runs: Sequence[ReportRun], control: ReportRun, shown: Sequence[str]
) -> Iterator[tuple[str, PairedDifference]]:
    """Yield the name of each model and its difference from the control, for each metric that both have by row."""
    groups: dict[tuple[str, str], list[ReportRun]] = {}
    for run in runs:
        if run is not control and run.role != "retain":
            groups.setdefault((run.role, run.label), []).append(run)
    named = [pair for group in groups.values() for pair in zip(run_names(group), group, strict=True)]
    for metric in shown:
        for name, run in named:
            if metric in run.results and metric in control.results:
                difference = compare(control.results, run.results, metrics=[metric])[metric]
                if difference.n:
                    yield f"{cell}: {name}" if cell else name, difference
