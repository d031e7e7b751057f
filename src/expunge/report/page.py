"""One self-contained HTML page: style, figures, rows and the plotly library are inline."""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass
from urllib.parse import quote

import plotly.io
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from expunge.report import examples
from expunge.report.audits import ABOUT, HEADS, NUMBERS, audit_rows
from expunge.report.drawing import Figure, named_runs
from expunge.report.figures import figures
from expunge.report.model import ReportModel, ReportSample
from expunge.report.overview import LEGEND, overview
from expunge.report.reading import cautions, reading
from expunge.report.stories import ABOUT as RECOVERY_ABOUT
from expunge.report.stories import heads, recovery_rows
from expunge.report.table import ABSENT, table
from expunge.report.text import sections, to_csv, to_latex, to_markdown
from expunge.report.verdicts import RANK_HEADS, RANKING, judgement, questions

LIMIT = 5_000_000  # bytes of a page; the rows fill the remaining space
MIN_ROWS = 200_000  # bytes that the rows may always use


def to_html(model: ReportModel, *, live: bool = False) -> str:
    """Return the page. Labels, reasons and generations are escaped; a content policy forbids every load from outside.

    Args:
        model: Contents of the report.
        live: Whether a server shows the page while the study runs; the page then requests newer versions from it.
    """
    without = _render(model, None, live)
    if not model.explorer.rows:
        return without
    return _render(
        model, examples.pack_rows(model.explorer, max(MIN_ROWS, LIMIT - len(without.encode()) - 20_000)), live
    )


def environment() -> Environment:
    """Return the template environment of this package, with escaping enabled."""
    templates = Environment(
        loader=PackageLoader("expunge", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["figure_json"] = _figure_json
    templates.filters["breakable"] = _breakable
    templates.filters["prose"] = _prose
    return templates


def _render(model: ReportModel, packed: examples.PackedExamples | None, live: bool) -> str:
    all_figures = figures(model)
    return environment().get_template("page.html").render(
        model=model,
        live=live,
        table=table(model),
        judgement=judgement(model),
        rank_heads=RANK_HEADS,
        ranking=RANKING,
        questions=questions,
        metrics=_metrics(model),
        figures=all_figures,
        plotly=packed_plotly() if any(d.figure is not None for d in all_figures) else None,
        audits=audit_rows(model),
        audit_heads=HEADS,
        audit_numbers=NUMBERS,
        audit_about=ABOUT,
        audit_legend=LEGEND,
        overview=overview(model),
        sections=sections(model),
        recovery_about=RECOVERY_ABOUT,
        recovery_heads=heads(model.protocol) if model.protocol else (),
        recovery_rows=recovery_rows(model.protocol) if model.protocol else (),
        rows=packed,
        rows_file=examples.FILE,
        reading=reading(model),
        cautions=cautions(model),
        folders=[(name, run.folder) for run, name in named_runs(model) if run.folder],
        missing=[(absent.label, absent.reason) for absent in model.missing],
        samples=[(sample, _in_order(model, sample)) for sample in model.samples],
        csv_link=_data_link("text/csv", to_csv(model)),
        markdown_link=_data_link("text/markdown", to_markdown(model)),
        latex_link=_data_link("text/x-tex", to_latex(model)),
    )  # fmt: skip


@functools.cache
def packed_plotly() -> str:
    """Return the plotly library, compressed, because it is the largest part of a page."""
    return examples.pack(get_plotlyjs())


def _figure_json(about: Figure) -> Markup:
    """Return the figure as JSON, with escapes for characters that could end a script or begin a tag."""
    text = plotly.io.to_json(about.figure, validate=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def _breakable(text: str, after: str = "=,") -> Markup:
    """Return text that may break only after these characters: a number stays whole unless it is wider than its cell."""
    pieces = re.findall(f"[^{after}]+[{after}]*\\s*|[{after}]+\\s*", text)
    if len(pieces) == 1:
        return escape(text)
    out = Markup("")
    for piece in pieces:
        out += Markup('<span class="piece">{}</span>{}').format(piece.rstrip(), " " if piece[-1:].isspace() else "")
    return out


def _prose(text: str) -> Markup:
    """Return a text of ours whose commands and names stand between backticks as code."""
    pieces = text.split("`")
    if len(pieces) % 2 == 0:
        return escape(text)
    return Markup("").join(Markup("<code>{}</code>").format(p) if k % 2 else escape(p) for k, p in enumerate(pieces))


@dataclass(frozen=True)
class _Metrics:
    runs: list[str]
    rows: list[tuple[str, str, list[tuple[str, str, str]]]]


def _metrics(model: ReportModel) -> _Metrics:
    """Return every metric of every run: name, direction, and text, interval and reason of each."""
    runs = named_runs(model)
    names = dict.fromkeys([*model.shown, *(name for run, _ in runs for name in run.results)])
    there = [name for name in names if any(name in run.results for run, _ in runs)]
    lines = []
    for name in there:
        cells = []
        for run, _ in runs:
            result = run.results.get(name)
            if result is None or not math.isfinite(result.value):
                cells.append((ABSENT, "", "not measured" if result is None else result.reason or "no number"))
            else:
                low, high = (result.extra.get(key, math.nan) for key in ("ci_low", "ci_high"))
                cells.append((f"{result.value:.4g}", _interval(low, high), ""))
        lines.append((name, model.directions.get(name, ""), cells))
    return _Metrics([name for _, name in runs], lines)


def _interval(low: float, high: float) -> str:
    return f"[{low:.3f}, {high:.3f}]" if math.isfinite(low) and math.isfinite(high) else ""


def _in_order(model: ReportModel, sample: ReportSample) -> list[tuple[str, str, str]]:
    """Return each run's answer without a note, in the order of the table; runs outside the table come last."""
    order = {label: k for k, label in enumerate(dict.fromkeys(group[0].label for group in model.groups()))}
    answers = sorted(sample.by_run.items(), key=lambda answer: order.get(answer[0], len(order)))
    return [(label, text, "") for label, text in answers]


def _data_link(kind: str, text: str) -> str:
    return f"data:{kind};charset=utf-8,{quote(text)}"
