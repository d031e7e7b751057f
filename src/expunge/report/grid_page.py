"""The page of a grid: for each metric a pivot table over the axes, coloured as a heat map, with links to the cells."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from expunge.metrics.api import MetricResult
from expunge.report.differences import differences_section
from expunge.report.model import ReportModel
from expunge.report.page import environment
from expunge.report.table import ABSENT, head_of

MOST = 8  # metrics with a pivot table of their own
ABOUT = (
    "Each cell is one study of the grid and links to its report. Brackets contain a 95 % interval: over seeds if there "
    "are several (Student's t), else over the rows of the one model."
)


@dataclass(frozen=True)
class PivotCell:
    """A number of one model in one cell. share: its place between the smallest and the largest of the table, 0 to 1."""

    text: str
    interval: str = ""
    share: float = 0.0
    link: str = ""


@dataclass(frozen=True)
class Pivot:
    """A metric over the axes. rows: the values that head a row, and its cells."""

    metric: str
    title: str
    direction: str
    heads: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[tuple[str, ...], tuple[PivotCell, ...]], ...]


def grid_page(
    reports: Mapping[str, ReportModel],
    axes: Mapping[str, Mapping[str, str]],
    links: Mapping[str, str],
    *,
    title: str | None = None,
) -> str:
    """Return the page.

    Args:
        reports: The report of each cell, by the cell's name.
        axes: For each cell its label on each axis.
        links: For each cell the address of its page.
        title: The title of the page. None: that of the first cell.
    """
    first = next(iter(reports.values()))
    missing = [(f"{cell}: {m.label}", m.reason) for cell, report in reports.items() for m in report.missing]
    counts = [(cell, links[cell], len(report.runs), len(report.missing)) for cell, report in reports.items()]
    compared = differences_section(reports)
    page = environment().get_template("grid.html")
    return page.render(
        title=title or first.title, model=first, pivots=pivots(reports, axes, links), cells=counts, missing=missing,
        about=ABOUT, sections=[] if compared is None else [compared],
    )  # fmt: skip


def pivots(
    reports: Mapping[str, ReportModel], axes: Mapping[str, Mapping[str, str]], links: Mapping[str, str]
) -> list[Pivot]:
    """Return a pivot table for each metric of the report. The last axis with several values makes the columns."""
    places = {cell: dict(axes.get(cell) or {"cell": cell}) for cell in reports}
    names = list(next(iter(places.values())))
    varied = [name for name in names if len({place.get(name) for place in places.values()}) > 1] or names
    across, down = varied[-1], varied[:-1]
    columns = tuple(dict.fromkeys(place[across] for place in places.values()))
    first = next(iter(reports.values()))
    named = {name for report in reports.values() for run in report.runs for name in run.results}
    shown = [name for name in dict.fromkeys([first.utility, *first.shown]) if name in named][:MOST]
    return [_pivot(metric, reports, places, down, across, columns, links) for metric in shown]


def _pivot(
    metric: str,
    reports: Mapping[str, ReportModel],
    places: Mapping[str, Mapping[str, str]],
    down: Sequence[str],
    across: str,
    columns: tuple[str, ...],
    links: Mapping[str, str],
) -> Pivot:
    by_row: dict[tuple[str, ...], dict[str, tuple[float, str, str]]] = {}
    for cell, report in reports.items():
        for group in report.groups():
            row = (*(places[cell][name] for name in down), group[0].label)
            value, text, interval = over_seeds([run.results.get(metric) for run in group])
            by_row.setdefault(row, {})[places[cell][across]] = (value, text, interval)
    at = {(tuple(place[name] for name in down), place[across]): links[cell] for cell, place in places.items()}
    values = [v for row in by_row.values() for v, _, _ in row.values() if math.isfinite(v)]
    low, high = (min(values), max(values)) if values else (0.0, 0.0)
    rows = []
    for heads, by_column in by_row.items():
        cells = []
        for column in columns:
            value, text, interval = by_column.get(column, (math.nan, ABSENT, ""))
            share = (value - low) / (high - low) if high > low and math.isfinite(value) else 0.0
            cells.append(PivotCell(text, interval, round(share, 3), at.get((heads[:-1], column), "")))
        rows.append((heads, tuple(cells)))
    title, direction = head_of(metric), next(iter(reports.values())).directions.get(metric, "")
    short = tuple(name.rpartition(".")[2] for name in down)
    axis = across.rpartition(".")[2]
    # A number's label contains its axis ("rate=1"); a name of settings does not.
    heads = tuple(c if c.startswith(f"{axis}=") or c == axis else f"{axis}: {c}" for c in columns)
    return Pivot(metric, title, direction, (*short, "model"), heads, tuple(rows))


def over_seeds(results: Sequence[MetricResult | None]) -> tuple[float, str, str]:
    """Return the mean over seeds, its text, and its interval as text."""
    known = [result for result in results if result is not None and math.isfinite(result.value)]
    if not known:
        return math.nan, ABSENT, ""
    values = [result.value for result in known]
    mean = math.fsum(values) / len(values)
    if len(values) > 1:
        from scipy.stats import t as student_t

        half = float(student_t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
        return mean, _number(mean), f"[{_number(mean - half)}, {_number(mean + half)}], {len(values)} seeds"
    low, high = (known[0].extra.get(key, math.nan) for key in ("ci_low", "ci_high"))
    return mean, _number(mean), f"[{_number(low)}, {_number(high)}]" if math.isfinite(low + high) else ""


def _number(value: float) -> str:
    """Return a number with three decimals, or with two digits if these would hide it."""
    return f"{value:.3f}" if value == 0 or abs(value) >= 0.001 else f"{value:.1e}"
