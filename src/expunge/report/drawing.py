"""Shared parts of all figures: colours and shapes of a run, and the style of axes.

Colours are those of Okabe and Ito, which colour-blind readers can distinguish; marker shapes and dashes repeat the
distinction. plotly renders a subset of HTML in its texts, so every label is escaped first.
"""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from expunge.report.model import ReportModel, ReportRun, run_names

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_SYMBOLS = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "pentagon", "hexagon")
_DASHES = ("solid", "dash", "dot", "dashdot")
DARK, GREY, PALE = "#111827", "#6b7280", "#e5e7eb"
EDGE = {"color": "white", "width": 1}
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


@dataclass(frozen=True)
class Figure:
    """A figure with its caption. `name` is also its anchor in the page. If `figure` is None the caption explains it."""

    name: str
    title: str
    caption: str
    figure: go.Figure | None

    @property
    def numbers(self) -> list[tuple[str, str]]:
        """Text alternative of the figure: each curve or point by name, with its coordinates."""
        if self.figure is None:
            return []
        # A curve that shares its legend entry with other seeds has its full name as its text.
        named = [(t.text if isinstance(t.text, str) else t.name, t) for t in self.figure.data if t.name]
        return [(html.unescape(name), _where(trace)) for name, trace in named]


@dataclass(frozen=True)
class FigureStyle:
    """Colour, marker and line of a run."""

    colour: str
    symbol: str
    dash: str
    width: float


def looks_of(model: ReportModel) -> dict[tuple[str, str], FigureStyle]:
    """Return a style per role and label; seeds of one label share it."""
    looks: dict[tuple[str, str], FigureStyle] = {}
    k = 0
    for group in model.groups():
        role, label = group[0].role, group[0].label
        if role == "full":
            looks[role, label] = FigureStyle(GREY, "x", "dot", 2.5)
        elif role == "retain":
            looks[role, label] = FigureStyle(DARK, "star", "dash", 3.5)
        else:
            dash = _DASHES[k // len(_COLOURS) % len(_DASHES)]
            looks[role, label] = FigureStyle(_COLOURS[k % len(_COLOURS)], _SYMBOLS[k % len(_SYMBOLS)], dash, 2)
            k += 1
    return looks


def named_runs(model: ReportModel) -> list[tuple[ReportRun, str]]:
    """Return every run with its display name, in the order of the table."""
    return [pair for group in model.groups() for pair in zip(group, run_names(group), strict=True)]


def value_of(run: ReportRun, metric: str, extra: str | None = None) -> float:
    """Return a metric's value, or one of its extra numbers; NaN if it was not measured."""
    result = run.results.get(metric)
    if result is None:
        return math.nan
    return result.value if extra is None else result.extra.get(extra, math.nan)


def safe(text: str) -> str:
    """Escape text for plotly."""
    return html.escape(text, quote=True)


def seed_bars(figure: go.Figure, label: str, points: list[tuple[float, float]], look: FigureStyle) -> None:
    """Draw the mean over seeds as a thin cross from the lowest to the highest; nothing for a single seed."""
    if len(points) < 2:
        return
    xs, ys = zip(*points, strict=True)
    x, y = math.fsum(xs) / len(xs), math.fsum(ys) / len(ys)
    figure.add_scatter(
        x=[x], y=[y], mode="markers", name=f"{safe(label)}, mean of {len(xs)} seeds", showlegend=False,
        text=[f"<b>{safe(label)}</b><br>mean of {len(xs)} seeds: {x:.3f}, {y:.3f}"],
        hovertemplate="%{text}<extra></extra>", marker={"color": look.colour, "symbol": "line-ew-open", "size": 7},
        error_x={"array": [max(xs) - x], "arrayminus": [x - min(xs)], "color": look.colour, "thickness": 1.2},
        error_y={"array": [max(ys) - y], "arrayminus": [y - min(ys)], "color": look.colour, "thickness": 1.2},
    )  # fmt: skip


def styled(figure: go.Figure, height: int) -> go.Figure:
    """Apply the axes, fonts and legend of every figure."""
    figure.update_layout(
        height=height,
        template="none",
        dragmode=False,  # scrolling by touch should not zoom
        font={"family": _FONT, "size": 13, "color": DARK},
        margin={"l": 64, "r": 16, "t": 28, "b": 56},
        legend={
            "orientation": "h",
            "yanchor": "top",
            "y": -90 / (height - 150),
            "x": 0,
            "xanchor": "left",
            "itemwidth": 30,
        },
        hoverlabel={"bgcolor": "white", "font": {"family": _FONT, "color": DARK}},
        paper_bgcolor="white",
        plot_bgcolor="white",
    )
    axis = {
        "gridcolor": PALE,
        "linecolor": GREY,
        "zeroline": False,
        "ticks": "outside",
        "tickcolor": GREY,
        "automargin": True,
    }
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)
    return figure


N_TOLD = 5  # largest number of points of a curve in its text


def _where(trace: Any) -> str:
    """Describe a trace in words: its points, or some of them, from the first to the last."""
    xs, ys = list(trace.x), list(trace.y)
    indices = (
        sorted({round(k * (len(xs) - 1) / (N_TOLD - 1)) for k in range(N_TOLD)}) if len(xs) > N_TOLD else range(len(xs))
    )
    return "; ".join(f"{_short(xs[k])}, {_short(ys[k])}" for k in indices)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) else html.unescape(str(value))
