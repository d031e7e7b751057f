"""One HTML page that needs nothing but itself: style, figures, data and the plotly library are inside."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from urllib.parse import quote

import plotly.io
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from expunge.report.figures import Figure, figures
from expunge.report.model import ReportModel, Sample
from expunge.report.reading import cautions, reading
from expunge.report.table import table
from expunge.report.text import to_csv, to_markdown

# The buttons are listed one by one: one of plotly's own would send the data to a server.
_CONFIG = {"responsive": True, "displaylogo": False, "modeBarButtons": [["toImage", "zoom2d", "resetScale2d"]]}


@dataclass(frozen=True)
class _Drawn:
    about: Figure
    html: Markup | None


def to_html(model: ReportModel) -> str:
    """The page. Labels, reasons and generations are escaped; a content policy forbids every load from outside."""
    drawn = [_draw(figure) for figure in figures(model)]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(resources.files("expunge.report").joinpath("page.html").read_text("utf-8"))
    return template.render(
        model=model,
        table=table(model),
        figures=drawn,
        plotly=Markup(get_plotlyjs()) if any(d.html for d in drawn) else None,
        reading=reading(model),
        cautions=cautions(model),
        samples=[(sample, _in_order(model, sample)) for sample in model.samples],
        csv_link=_data_link("text/csv", to_csv(model)),
        markdown_link=_data_link("text/markdown", to_markdown(model)),
    )


def _draw(figure: Figure) -> _Drawn:
    """The figure as a piece of HTML. plotly writes its data with <, > and / escaped, so it cannot end the script."""
    if figure.figure is None:
        return _Drawn(figure, None)
    piece = plotly.io.to_html(
        figure.figure, config=_CONFIG, include_plotlyjs=False, full_html=False, div_id=figure.name, default_width="100%"
    )
    return _Drawn(figure, Markup(piece))


def _in_order(model: ReportModel, sample: Sample) -> list[tuple[str, str]]:
    """What each run says, in the order of the table; runs that the table does not know come last."""
    order = {label: k for k, label in enumerate(dict.fromkeys(group[0].label for group in model.groups()))}
    return sorted(sample.by_run.items(), key=lambda said: order.get(said[0], len(order)))


def _data_link(kind: str, text: str) -> str:
    return f"data:{kind};charset=utf-8,{quote(text)}"
