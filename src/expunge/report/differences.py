"""Paired differences of the models of a study from a control, on the same rows, with one correction for all tests."""

from __future__ import annotations

import math
from collections.abc import Sequence

from expunge.evaluation.compare import compare, corrected
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


def differences_section(runs: Sequence[ReportRun], shown: Sequence[str]) -> Section | None:
    """Return the differences from the retain model, or without one from the target model; None without both.

    runs: all runs of the study. shown: the metrics of the results table.
    """
    control = next((run for role in ("retain", "full") for run in runs if run.role == role), None)
    if control is None:
        return None
    groups: dict[tuple[str, str], list[ReportRun]] = {}
    for run in runs:
        if run is not control and run.role != "retain":
            groups.setdefault((run.role, run.label), []).append(run)
    named = [pair for group in groups.values() for pair in zip(run_names(group), group, strict=True)]
    pairs = []
    for metric in shown:
        for name, run in named:
            if metric in run.results and metric in control.results:
                difference = compare(control.results, run.results, metrics=[metric])[metric]
                pairs += [(name, difference)] if difference.n else []
    if not pairs:
        return None
    all_differences = corrected([difference for _, difference in pairs])
    rows = []
    for (name, _), d in zip(pairs, all_differences, strict=True):
        first, second, *evidence = cells_of(d)
        rows.append((name, head_of(d.metric), second, first, *evidence))
    tests = sum(math.isfinite(d.p) for d in all_differences)
    what = "the retain model" if control.role == "retain" else "the target model"
    if control.seed is not None and sum(run.role == control.role for run in runs) > 1:
        what += f" of seed {control.seed}"
    heads = ("model", "metric", "value", control.role, "difference", "95 % interval", "p", "p (Holm)", "rows")
    about = ABOUT.format(control=what, tests=tests, chance=f"{0.05 * tests:.1f}")
    grid = GridSection(f"Differences from {what}.", heads, tuple(rows), "model", ("metric",))
    return Section("differences", f"Differences from {what}, row by row", "Differences", about, (grid,))
