"""Write the reports of a study: one, or for a grid one for each cell and a page with links."""

from __future__ import annotations

import dataclasses
import html
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from expunge.core.files import write_text
from expunge.report.model import MissingResult, ReportModel
from expunge.report.query import write_results
from expunge.report.write import write_report


def in_one(reports: Mapping[str, ReportModel]) -> ReportModel:
    """Return all cells as one model, for tables over all of them: each label begins with its cell.

    Leaves out comparisons within one cell (the retrain-seed range, samples).
    """
    if list(reports) == [""]:
        return reports[""]
    first = next(iter(reports.values()))
    runs = tuple(dataclasses.replace(r, label=f"{c}/{r.label}", cell=c) for c, m in reports.items() for r in m.runs)
    missing = tuple(
        MissingResult(f"{cell}/{m.label}", m.reason) for cell, model in reports.items() for m in model.missing
    )
    return dataclasses.replace(first, runs=runs, missing=missing, samples=(), null_band={}, notes=(), audits=())


def write_reports(reports: Mapping[str, ReportModel], folder: Path) -> None:
    """Write the report and results.parquet of all cells; of a grid, a folder for each cell under `cells`."""
    write_results(in_one(reports), folder)
    if list(reports) == [""]:
        write_report(reports[""], folder)
        return
    lines = []
    names: set[str] = set()
    for cell, model in reports.items():
        name = re.sub(r"[^A-Za-z0-9._=,-]+", "-", cell).strip("-.")[:80]
        while name in names:  # two cell names may differ only in replaced characters
            name += "-"
        names.add(name)
        titled = dataclasses.replace(model, title=f"{model.title}: {cell}")
        write_report(titled, folder / "cells" / name)
        count = f"{len(model.runs)} models" + (f", {len(model.missing)} without a result" if model.missing else "")
        where = html.escape(f"cells/{quote(name)}/report.html")
        lines.append(f'<li><a href="{where}">{html.escape(cell)}</a>: {count}</li>')
    title = html.escape(next(iter(reports.values())).title)
    write_text(
        folder / "report.html",
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><h1>{title}</h1>\n<ul>\n'
        + "\n".join(lines)
        + "\n</ul></html>\n",
    )
