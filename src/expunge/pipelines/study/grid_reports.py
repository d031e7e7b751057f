"""Write the reports of a study: one, or for a grid one for each cell and a page with links."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from expunge.core.files import write_text
from expunge.report.grid_page import grid_page
from expunge.report.model import MissingResult, ReportModel
from expunge.report.query import write_results
from expunge.report.write import write_report


def in_one(reports: Mapping[str, ReportModel]) -> ReportModel:
    """Return all cells as one model, for tables over all of them: each label begins with its cell.

    Leaves out the parts of a single cell (the retrain-seed range, samples).
    """
    if list(reports) == [""]:
        return reports[""]
    first = next(iter(reports.values()))
    runs = tuple(dataclasses.replace(r, label=f"{c}/{r.label}", cell=c) for c, m in reports.items() for r in m.runs)
    missing = tuple(
        MissingResult(f"{cell}/{m.label}", m.reason) for cell, model in reports.items() for m in model.missing
    )
    audits = tuple(dataclasses.replace(a, label=f"{c}/{a.label}") for c, m in reports.items() for a in m.audits)
    return dataclasses.replace(first, runs=runs, missing=missing, samples=(), null_band={}, notes=(), audits=audits)


def write_reports(
    reports: Mapping[str, ReportModel], folder: Path, axes: Mapping[str, Mapping[str, str]]
) -> tuple[Path, ...]:
    """Write the report and results.parquet of all cells; of a grid, a folder for each cell under `cells`.

    axes: for each cell its label on each axis. Returns the written files at the top.
    """
    results = write_results(in_one(reports), folder)
    if list(reports) == [""]:
        return (*write_report(reports[""], folder), results)
    links: dict[str, str] = {}
    title = next(iter(reports.values())).title
    # The page of the grid reads the comparisons of the cells' reports.
    reports = {cell: dataclasses.replace(model, title=f"{title}: {cell}") for cell, model in reports.items()}
    for cell, model in reports.items():
        name = re.sub(r"[^A-Za-z0-9._=,-]+", "-", cell).strip("-.")[:80]
        while f"cells/{quote(name)}/report.html" in links.values():  # names may differ only in replaced characters
            name += "-"
        links[cell] = f"cells/{quote(name)}/report.html"
        write_report(model, folder / "cells" / name)
    write_text(folder / "report.html", grid_page(reports, axes, links, title=title))
    return folder / "report.html", results
