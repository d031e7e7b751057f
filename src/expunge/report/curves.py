"""Figures over time and effort: training, audits, and the cost of each method, if they were measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from expunge.report.drawing import DARK, EDGE, GREY, Figure, looks_of, named_runs, safe, styled
from expunge.report.model import ReportModel
from expunge.report.table import format_value, head_of

N_TRAJECTORIES = 4  # largest number of figures of metrics over training


def trajectories(model: ReportModel) -> list[Figure]:
    """Return a figure for each metric that was measured during training, those of the table first."""
    metrics = {name: None for run in model.runs for point in run.trajectory for name in point if name != "step"}
    names = sorted(metrics, key=lambda name: (name not in model.shown, list(metrics).index(name)))
    return [_trajectory(model, name) for name in names[:N_TRAJECTORIES]]


def _trajectory(model: ReportModel, metric: str) -> Figure:
    figure, looks = go.Figure(), looks_of(model)
    for run, name in named_runs(model):
        points = [(p["step"], p[metric]) for p in run.trajectory if math.isfinite(p.get(metric, math.nan))]
        if points:
            look = looks[run.role, run.label]
            _line(figure, run.label, name, points, {"color": look.colour, "dash": look.dash, "width": 2}, look.symbol)
    target = model.mean_of("retain", metric)
    if figure.data and math.isfinite(target):
        figure.add_hline(y=target, line={"color": DARK, "width": 1, "dash": "dash"})
    figure.update_xaxes(title="optimiser step")
    figure.update_yaxes(title=safe(head_of(metric)))
    caption = "Evaluations during training. The dashed line is the retain model."
    return Figure(f"trajectory-{_slug(metric)}", f"{head_of(metric)} during training", caption, styled(figure, 400))


STEPS = (
    "effort of the attack (steps)",
    "score after the attack",
    "The retain and the target model under the same attack are the controls. Knowledge that a model without the forget "
    "rows learns in as many steps is no sign of remaining knowledge.",
)
LAYERS = (
    "layer (0: the first block)",
    "score of the layer",
    "If the target model lies above the retain model at a layer, that layer contains the forgotten knowledge. An "
    "unlearned model that stays near the target model there still contains it.",
)


def audit_figures(model: ReportModel) -> list[Figure]:
    """Return a figure for each audit with steps (the score after each step of relearning) or with layers."""
    pairs = dict.fromkeys((line.audit, line.name) for line in model.audits if line.curves or line.layers)
    return [_curves(model, audit, name) for audit, name in pairs]


def _curves(model: ReportModel, audit: str, name: str) -> Figure:
    figure = go.Figure()
    looks = {label: look for (_, label), look in looks_of(model).items()}
    lines = [line for line in model.audits if (line.audit, line.name) == (audit, name) and (line.curves or line.layers)]
    by_steps = any(line.curves for line in lines)
    across, up, caption = STEPS if by_steps else LAYERS
    points = {id(line): line.curves or line.layers for line in lines}
    for line in lines:
        several = line.seed is not None and len([x for x in lines if x.label == line.label]) > 1
        full_name = f"{line.label}, seed {line.seed}" if several else line.label
        _audit_line(figure, line.label, full_name, points[id(line)].get("model", ()), looks.get(line.label))
    for side in ("retain", "full"):
        # A run is compared with the controls of the same training seed, the part before the slash of "0/1".
        curves = {points[id(line)].get(side, ()): str(line.seed).partition("/")[0] for line in lines}
        for curve, seed in curves.items():
            _audit_line(figure, side, f"{side}, seed {seed}" if len(curves) > 1 else side, curve, looks.get(side))
    figure.update_xaxes(title=across)
    if not by_steps:
        figure.update_xaxes(tickmode="linear", tick0=0, dtick=_whole_ticks(figure))
    figure.update_yaxes(title=up)
    return Figure(f"audit-{_slug(f'{audit}-{name}')}", f"Audit: {audit}, {name}", caption, styled(figure, 400))


N_TICKS = 12  # largest number of ticks on an axis of layers


def _whole_ticks(figure: go.Figure) -> int:
    """Return the distance between ticks of an axis of whole numbers."""
    places = [x for trace in figure.data for x in trace.x]
    return max(1, math.ceil((max(places) - min(places)) / N_TICKS)) if places else 1


def _audit_line(figure: go.Figure, label: str, name: str, points: Sequence[tuple[float, float]], look: Any) -> None:
    line = {"color": look.colour if look else GREY, "dash": look.dash if look else "dot", "width": 2}
    if points:
        _line(figure, label, name, points, line, look.symbol if look else "circle")


def cost(model: ReportModel) -> list[Figure]:
    """Return the figure of training seconds of each model, a point per seed."""
    looks = looks_of(model)
    timed = [(run, name) for run, name in named_runs(model) if run.wall_s is not None and math.isfinite(run.wall_s)]
    if not timed:
        return []
    figure = go.Figure()
    for run, name in timed:
        look = looks[run.role, run.label]
        details = [format_value(run.wall_s or 0.0, "time")]
        details += [f"{run.steps} steps"] if run.steps is not None else []
        details += [f"{run.tokens_per_s:,.0f} tokens/s"] if run.tokens_per_s is not None else []
        details += [f"{run.memory_gb:.2f} GB peak"] if run.memory_gb is not None else []
        figure.add_scatter(
            x=[run.wall_s], y=[safe(run.label)], mode="markers", name=safe(name), showlegend=False,
            text=[f"<b>{safe(name)}</b><br>{', '.join(details)}"], hovertemplate="%{text}<extra></extra>",
            marker={"color": look.colour, "symbol": look.symbol, "size": 12, "line": EDGE},
        )  # fmt: skip
    labels = list(dict.fromkeys(safe(run.label) for run, _ in timed))
    figure.update_xaxes(title="seconds of training, wall clock", rangemode="tozero")
    figure.update_yaxes(categoryorder="array", categoryarray=labels[::-1], type="category")
    caption = (
        "Time of the last training step alone, on the machine named below; the training of the target model is not "
        "included."
    )
    return [Figure("cost", "Training cost of each model", caption, styled(figure, 140 + 30 * len(labels)))]


def _line(
    figure: go.Figure,
    label: str,
    name: str,
    points: Sequence[tuple[float, float]],
    line: dict[str, object],
    symbol: str,
) -> None:
    """Draw a curve; seeds of one label share a legend entry."""
    in_legend = any(trace.name == safe(label) for trace in figure.data)
    figure.add_scatter(
        x=[x for x, _ in points], y=[y for _, y in points], mode="lines+markers", name=safe(label), text=safe(name),
        line=line, legendgroup=safe(label).replace("<", ""), showlegend=not in_legend,
        marker={"symbol": symbol, "size": 8},
        hovertemplate="<b>%{text}</b><br>%{x}: %{y:.3f}<extra></extra>",
    )  # fmt: skip


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower())
