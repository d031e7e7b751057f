"""The figures of a study of stories: the courses of training and the probes of each layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from expunge.report.drawing import GREY, Figure, FigureStyle, looks_of, safe, styled
from expunge.report.model import ReportModel
from expunge.report.protocol import SCORE, ProbeCurve, Protocol, ProtocolCourse

UNIT = "nats per token"


COLUMNS = 3  # of the probe plot


_DASHES = {"full": "dot", "retain": "dash", "unlearn": "solid"}


def story_figures(model: ReportModel) -> list[Figure]:
    """Return the figures of recovery and deletion, by score and by loss, and the probes; none for other studies."""
    protocol = model.protocol
    if protocol is None:
        return []
    looks = {label: look for (_, label), look in looks_of(model).items()}
    score = f"share of generations with {protocol.feature}"
    course_figures = [
        _courses("recovery-score", "Recovery: generations", protocol.recoveries, SCORE, score, looks),
        _courses(
            "recovery-loss", "Recovery: loss on stories with the feature", protocol.recoveries, f"loss_{protocol.task}",
            UNIT, looks,
        ),
        _courses("deletion-score", "Deletion: generations", protocol.deletions, SCORE, score, looks),
        *(
            _courses(f"deletion-loss-{i}", f"Deletion: loss on {name}", protocol.deletions, f"loss_{name}", UNIT, looks)
            for i, name in enumerate(protocol.losses)
        ),
    ]  # fmt: skip
    return [*(figure for figure in course_figures if figure is not None), *_probes(protocol, looks)]


def _courses(
    name: str, title: str, courses: Sequence[ProtocolCourse], quantity: str, axis: str, looks: Mapping[str, FigureStyle]
) -> Figure | None:
    figure = go.Figure()
    steps: set[int] = set()
    for course in courses:
        points = [p for p in course.points if math.isfinite(p.get(quantity, math.nan))]
        if not points:
            continue
        look = looks.get(course.label)
        ends = [[p.get(f"{quantity}_{end}", math.nan) for p in points] for end in ("high", "low")]
        values = [p[quantity] for p in points]
        bars = None
        if all(math.isfinite(v) for end in ends for v in end):
            bars = {
                "array": [high - v for high, v in zip(ends[0], values, strict=True)],
                "arrayminus": [v - low for low, v in zip(ends[1], values, strict=True)],
                "thickness": 1,
                "width": 3,
            }
        steps |= {int(p["step"]) for p in points}
        figure.add_scatter(
            x=[p["step"] + 1 for p in points], y=values, mode="lines+markers", name=safe(course.label),
            text=[f"<b>{safe(course.label)}</b><br>step {p['step']:.0f}: {p[quantity]:.3f}" for p in points],
            hovertemplate="%{text}<extra></extra>", error_y=bars,
            line={"color": look.colour if look else GREY, "dash": _DASHES[course.role], "width": 2},
            marker={"symbol": look.symbol if look else "circle", "size": 8},
        )  # fmt: skip
    if not figure.data:
        return None
    shown = sorted(steps)
    # a logarithmic axis of step + 1, which has a place for step 0
    figure.update_xaxes(
        title="optimiser step", type="log", tickvals=[s + 1 for s in shown], ticktext=[str(s) for s in shown]
    )
    figure.update_yaxes(title=safe(axis))
    caption = "Solid: deletions; dashed: the never-learned control; dotted: the present model. Bars are 95 % intervals."
    return Figure(name, title, caption, styled(figure, 420))


def _probes(protocol: Protocol, looks: Mapping[str, FigureStyle]) -> list[Figure]:
    there = [c for c in protocol.probes if any(math.isfinite(v) for v in c.auc)]
    if not there:
        return []
    names = sorted({c.attribute for c in there}, key=lambda name: (name != protocol.feature, name))
    n_rows = -(-len(names) // COLUMNS)
    figure = make_subplots(rows=n_rows, cols=min(COLUMNS, len(names)), subplot_titles=[safe(n) for n in names])
    legend: set[str] = set()
    for curve in there:
        place = names.index(curve.attribute)
        _probe_curve(figure, curve, place, looks.get(curve.label), show=curve.label not in legend)
        legend.add(curve.label)
    figure.update_yaxes(title="AUC", col=1)
    figure.update_xaxes(title="layer", row=n_rows, dtick=1)
    caption = (
        "How well a linear probe of the mean state of a story's last tokens detects the feature; "
        f"{protocol.feature} is the deleted one. 0.5 is guessing. A deletion with the probe scores of the "
        "never-learned model has lost the feature; one with those of the present model has hidden it."
    )
    return [Figure("probes", "Probes of each layer", caption, styled(figure, 240 + 220 * n_rows))]


def _probe_curve(figure: go.Figure, curve: ProbeCurve, place: int, look: FigureStyle | None, *, show: bool) -> None:
    figure.add_scatter(
        x=list(curve.layers), y=list(curve.auc), mode="lines+markers", name=safe(curve.label), showlegend=show,
        legendgroup=safe(curve.label), row=place // COLUMNS + 1, col=place % COLUMNS + 1,
        text=[f"<b>{safe(curve.label)}</b>, {safe(curve.attribute)}"] * len(curve.layers),
        hovertemplate="%{text}<br>layer %{x}: %{y:.3f}<extra></extra>",
        line={"color": look.colour if look else GREY, "dash": _DASHES[curve.role], "width": 2},
        marker={"symbol": look.symbol if look else "circle", "size": 7},
    )  # fmt: skip
