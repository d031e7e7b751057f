"""The page of `expunge inspect`: a figure by layer, and maps of layers by examples, tokens, modules or heads."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from expunge.interpretability.result import AnalysisResult
from expunge.report.page import environment
from expunge.report.table import ABSENT

WIDTH, HEIGHT, LEFT, BELOW = 720, 280, 64, 34  # of the figure, in its own units
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B07A00", "#56B4E9")  # Okabe and Ito, one of them darker
DASHES = ("", "7 4", "2 4", "10 3 2 3")
ACROSS = {"token": "token", "row_id": "example", "head": "head", "module": "module"}  # the columns of a map
MOST_COLUMNS = 16
Columns = Mapping[str, Mapping[Any, float]]


@dataclass(frozen=True)
class Curve:
    """One curve of the figure: its name, style and points in the figure's units."""

    name: str
    colour: str
    dash: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class LayerFigure:
    """The figure: curves, and the ticks of both axes as (place, text)."""

    curves: tuple[Curve, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class LayerMap:
    """Layers by examples, tokens, modules or heads. rows: a layer, and text and share (0 to 1) of each column."""

    title: str
    across: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[str, float], ...]], ...]
    left_out: int


def inspect_page(
    name: str, about: str, index: str, columns: Columns, results: Mapping[str, AnalysisResult], line: str, command: str
) -> str:
    """Return the page of one analysis.

    Args:
        name: The analysis, such as "lens".
        about: The measured quantity.
        index: The horizontal axis of the figure, such as "layer".
        columns: The curves by name, each a number by index.
        results: The analysis's results by file name.
        line: A finding in words, or empty.
        command: The command line.
    """
    keys = sorted({key for column in columns.values() for key in column if key is not None})
    table = [(_shown(key), [_number(column.get(key, math.nan)) for column in columns.values()]) for key in keys]
    maps = [layer_map for name, result in results.items() for layer_map in maps_of(name, result)]
    return environment().get_template("inspect.html").render(
        what=name, about=about, index=index, heads=list(columns), table=table, line=line, command=command, maps=maps,
        figure=layer_figure(columns, keys), width=WIDTH, height=HEIGHT, left=LEFT, below=BELOW,
    )  # fmt: skip


def layer_figure(columns: Columns, keys: Sequence[Any]) -> LayerFigure | None:
    """Return the figure, or None without two places to connect."""
    values = [v for column in columns.values() for v in column.values() if math.isfinite(v)]
    if len(keys) < 2 or not values:
        return None
    low, high = min(values), max(values)
    if high == low:
        low, high = low - 0.5, high + 0.5
    x_of = {key: LEFT + k * (WIDTH - LEFT - 10) / (len(keys) - 1) for k, key in enumerate(keys)}

    def y_of(value: float) -> float:
        return round(10 + (high - value) / (high - low) * (HEIGHT - BELOW - 20), 1)

    curves = []
    for k, (name, column) in enumerate(columns.items()):
        points = tuple(
            (round(x_of[key], 1), y_of(column[key])) for key in keys if math.isfinite(column.get(key, math.nan))
        )
        curves.append(Curve(name, COLOURS[k % len(COLOURS)], DASHES[k % len(DASHES)], points))
    step = max(1, math.ceil(len(keys) / 12))
    ticks = [low + k * (high - low) / 4 for k in range(5)]
    return LayerFigure(
        tuple(curves),
        tuple((round(x_of[key], 1), _shown(key)) for key in keys[::step]),
        tuple((y_of(value), f"{value:.3g}") for value in ticks),
    )


def maps_of(name: str, result: AnalysisResult) -> list[LayerMap]:
    """Return a map for each number of a result's lines, if they name a layer and an example, a module or a head.

    Lines that name a token have one map for each example.
    """
    lines = result.lines
    fields = [field.name for field in dataclasses.fields(lines[0])] if lines else []
    across = next((field for field in ACROSS if field in fields), None)
    if across is None or "layer" not in fields:
        return []
    numbers = [f for f in fields if isinstance(getattr(lines[0], f), float) and not f.startswith(("ci_", "p_"))][:2]
    title = name.replace("_", " ")
    parts = {title: lines}
    if across == "token":
        parts = {
            f"{title}, example {i}": [ln for ln in lines if ln.row_id == i] for i in {ln.row_id: 0 for ln in lines}
        }
    maps = [_map(f"{part}: {number}", own, across, number) for part, own in parts.items() for number in numbers]
    return [layer_map for layer_map in maps if layer_map is not None]


def _map(title: str, lines: Sequence[Any], across: str, number: str) -> LayerMap | None:
    def column_of(line: Any) -> tuple[Any, str]:
        """Return a column's key and its text; two tokens may have the same text."""
        value = getattr(line, across)
        return (line.position, repr(value)) if across == "token" else (value, str(value))

    values = {(line.layer, column_of(line)): float(getattr(line, number)) for line in lines if line.layer is not None}
    columns = [column for column in dict.fromkeys(column for _, column in values) if column[0] != ""]
    layers = sorted({layer for layer, _ in values})
    finite = [v for (_, column), v in values.items() if column in columns and math.isfinite(v)]
    if len(columns) < 2 or len(layers) < 2 or not finite:
        return None
    shown = columns[:MOST_COLUMNS]
    low, high = min(finite), max(finite)

    def cell(value: float) -> tuple[str, float]:
        share = (value - low) / (high - low) if high > low and math.isfinite(value) else 0.0
        return _number(value), round(share, 3)

    rows = tuple((str(layer), tuple(cell(values.get((layer, c), math.nan)) for c in shown)) for layer in layers)
    return LayerMap(title, ACROSS[across], tuple(text for _, text in shown), rows, len(columns) - len(shown))


def _number(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else ABSENT


def _shown(key: Any) -> str:
    return f"{key:.3g}" if isinstance(key, float) else str(key)
