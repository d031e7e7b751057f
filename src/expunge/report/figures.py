"""The plotly figures of the page: the plane of forgetting and utility, truth-ratio curves, strips."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from expunge.metrics.api import MetricResult
from expunge.report.curves import audit_figures, cost, trajectories
from expunge.report.drawing import (
    DARK,
    EDGE,
    GREY,
    Figure,
    looks_of,
    named_runs,
    safe,
    seed_bars,
    styled,
    value_of,
)
from expunge.report.model import ReportModel, ReportRun
from expunge.report.stories_figures import story_figures
from expunge.report.table import format_p, head_of, log10_p

# Statistic of `forget_truth_ratio` with the raw ratio wrong / correct of each row.
TRUTH_RATIO = "score"
CLIP_LOW, CLIP_HIGH = 1e-3, 1e3  # limits of the truth-ratio axis
N_STEPS = 400  # largest number of points of a truth-ratio curve; more are indistinguishable on a screen


def figures(model: ReportModel) -> list[Figure]:
    """Return all figures of the page, in order: truth-ratio figures if shown, else the first metric's plane."""
    if model.protocol is not None:
        return [*story_figures(model), *cost(model)]
    planes = [_plane_p(model), _plane_ks(model)] if "forget_quality" in model.shown else _plane_first(model)
    ratios = [_ecdf(model)] if "forget_truth_ratio" in model.shown else []
    return [*planes, *ratios, *_strips(model), *trajectories(model), *audit_figures(model), *cost(model)]


def _plane_p(model: ReportModel) -> Figure:
    placed = []
    for run, name in named_runs(model):
        u, result = value_of(run, model.utility), run.results.get("forget_quality")
        if result is not None and math.isfinite(u + result.value):
            log10 = log10_p(result)
            placed.append((run, name, u, log10, f"p = {format_p(log10)}"))
    title = "Forget quality (p) and utility"
    caption = (
        "Further right is more utility. Above the dotted line (p = 0.05) the test finds no difference from the retain "
        "model, which is no proof that there is none; the height among these points means nothing. Below the line, the "
        "difference from the retain model is significant."
    )
    figure = _plane(model, placed, "log<sub>10</sub> p of forget quality", target_y=0.0)
    if figure is None:
        return Figure("plane-p", title, "No run has both a forget quality and a model utility.", None)
    figure.add_hline(y=math.log10(0.05), line={"color": GREY, "width": 1, "dash": "dot"})
    lowest = min([y for *_, y, _ in placed] + [-2.0])
    figure.update_yaxes(range=[lowest * 1.08, -lowest * 0.08])
    return Figure("plane-p", title, caption, figure)


def _plane_ks(model: ReportModel) -> Figure:
    placed = []
    for run, name in named_runs(model):
        u, ks = value_of(run, model.utility), value_of(run, "forget_quality", "ks_distance")
        if math.isfinite(u + ks):
            placed.append((run, name, u, ks, f"KS distance {ks:.3f}"))
    title = "KS distance and utility"
    figure = _plane(model, placed, "KS distance (0 at the top)", target_y=0.0)
    if figure is None:
        return Figure("plane-ks", title, "No run has both a KS distance and a model utility.", None)
    highest = max([y for *_, y, _ in placed] + [0.2])
    figure.update_yaxes(range=[min(1.02, highest * 1.08), -highest * 0.08])
    caption = (
        "The same test as an effect size, on an inverted axis. A higher point is nearer to the retain model, which is "
        "at 0 by definition. A point further right has more utility."
    )
    return Figure("plane-ks", title, caption, figure)


def _plane_first(model: ReportModel) -> list[Figure]:
    """Return the first metric, except the utility, against the utility; nothing if either was not measured."""
    metric = next((name for name in model.shown if name != model.utility), None)
    if metric is None:
        return []
    placed = []
    for run, name in named_runs(model):
        u, y = value_of(run, model.utility), value_of(run, metric)
        if math.isfinite(u + y):
            placed.append((run, name, u, y, f"{safe(head_of(metric))} {y:.3f}"))
    figure = _plane(model, placed, safe(head_of(metric)), target_y=model.mean_of("retain", metric))
    if figure is None:
        return []
    caption = "The cross of dashed lines is the retain model. On the forget rows a value nearer to it is better."
    return [Figure("plane", f"{head_of(metric)} and utility", caption, figure)]


def _plane(
    model: ReportModel, placed: list[tuple[ReportRun, str, float, float, str]], y_title: str, target_y: float
) -> go.Figure | None:
    """Draw a plane with utility on x. The retain model is at `target_y` (for a test against it: by definition)."""
    placed = [point for point in placed if point[0].role != "retain"]
    target = model.mean_of("retain", model.utility)
    full = model.mean_of("full", model.utility)
    if not placed:
        return None
    figure = go.Figure()
    floor = model.utility_floor * full
    xs = [x for _, _, x, _, _ in placed] + [v for v in (target, full) if math.isfinite(v)]
    right = max(xs) * 1.08 if max(xs) > 0 else 1.0
    if math.isfinite(floor) and floor > 0:
        figure.add_vrect(x0=0, x1=floor, fillcolor="#f3f4f6", line_width=0, layer="below")
        figure.add_annotation(
            x=0, y=0.9, xref="x", yref="paper", text=" below the utility floor", showarrow=False, xanchor="left",
            yanchor="top", font={"color": GREY, "size": 12},
        )  # fmt: skip
    if math.isfinite(target):
        line = {"color": DARK, "width": 1, "dash": "dash"}
        figure.add_vline(x=target, line=line)
        if math.isfinite(target_y):
            figure.add_hline(y=target_y, line=line)
    looks, shown = looks_of(model), set()
    seeds: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for run, _, x, y, _ in placed:
        seeds.setdefault((run.role, run.label), []).append((x, y))
    for key, points in seeds.items():
        seed_bars(figure, key[1], points, looks[key])
    for run, name, x, y, text in placed:
        look, key = looks[run.role, run.label], (run.role, run.label)
        figure.add_scatter(
            x=[x], y=[y], mode="markers", name=safe(run.label), legendgroup="/".join(key).replace("<", ""),
            showlegend=key not in shown, text=[f"<b>{safe(name)}</b><br>utility {x:.3f}<br>{text}"],
            hovertemplate="%{text}<extra></extra>",
            marker={"color": look.colour, "symbol": look.symbol, "size": 13, "line": EDGE},
        )  # fmt: skip
        shown.add(key)
    if math.isfinite(target + target_y):
        figure.add_scatter(
            x=[target], y=[target_y], mode="markers", name="retain (target)", hovertemplate="%{text}<extra></extra>",
            text=[f"<b>retain: the target</b><br>utility {target:.3f}"],
            marker={"color": DARK, "symbol": "star", "size": 18, "line": EDGE},
        )  # fmt: skip
    figure.update_xaxes(title=safe(head_of(model.utility)), range=[-0.02 * right, right])
    figure.update_yaxes(title=y_title)
    return styled(figure, 440 + 7 * len(seeds))


def _ratios(results: Mapping[str, MetricResult]) -> np.ndarray:
    """Return the finite raw truth ratios of the forget rows, shape (rows,); empty if none are stored."""
    result = results.get("forget_truth_ratio")
    rows = [] if result is None else [stats.get(TRUTH_RATIO) for stats in result.per_row.values()]
    values = np.array([v for v in rows if isinstance(v, int | float)], dtype=np.float64)
    return values[~np.isnan(values)]


def _ecdf(model: ReportModel) -> Figure:
    title = "Truth ratios of the forget rows"
    curves = [(run, name, ratios) for run, name in named_runs(model) if len(ratios := _ratios(run.results))]
    if not curves:
        return Figure("ecdf", title, "No run has truth ratios of single rows.", None)
    pooled = np.concatenate([ratios for *_, ratios in curves])
    low, high = _limits(pooled)
    outside = int(((pooled < low) | (pooled > high)).sum())
    figure, looks, shown = go.Figure(), looks_of(model), set()
    for run, name, ratios in sorted(curves, key=lambda curve: curve[0].role == "retain"):  # the retain model on top
        xs, ys = _steps(np.clip(ratios, low, high))
        look, key = looks[run.role, run.label], (run.role, run.label)
        figure.add_scatter(
            x=[low, *xs.tolist(), high], y=[0.0, *ys.tolist(), 1.0], mode="lines", name=safe(run.label),
            legendgroup="/".join(key).replace("<", ""), showlegend=key not in shown, text=safe(name),
            line={"color": look.colour, "width": look.width, "dash": look.dash, "shape": "hv"},
            hovertemplate="<b>%{text}</b><br>ratio %{x:.3g}: share %{y:.2f}<extra></extra>",
        )  # fmt: skip
        shown.add(key)
    figure.update_xaxes(
        title="truth ratio, wrong / correct (log scale)", type="log", range=[math.log10(low), math.log10(high)], dtick=1
    )
    figure.update_yaxes(title="share of rows with at most this ratio", range=[-0.01, 1.02])
    clipped = (
        f" Of {len(pooled)} values, {outside} lie outside {low:.4g} to {high:.4g} and are drawn at the edge."
        if outside
        else ""
    )
    caption = (
        "A curve for each run: the share of forget rows with a ratio of at most x. The ratio is the probability of "
        "wrong answers over that of the correct one. Left of 1 the model prefers the correct answer. The KS distance "
        f"is the largest vertical gap to the retain model (bold, dashed).{clipped}"
    )
    return Figure("ecdf", title, caption, styled(figure, 460 + 7 * len(curves)))


def _steps(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps of the share of values at most x: x and share, including both ends, at most N_STEPS."""
    xs = np.sort(values)
    indices = np.unique(np.linspace(0, len(xs) - 1, min(len(xs), N_STEPS)).round().astype(int))
    return xs[indices].round(6), ((indices + 1) / len(xs)).round(4)


def _limits(values: np.ndarray) -> tuple[float, float]:
    """Return axis limits that contain 1 and all values but the outer hundredth on each side, within the clip limits."""
    positive = np.clip(values, CLIP_LOW, CLIP_HIGH)
    low, high = np.quantile(positive, [0.01, 0.99])
    steps = 4  # round outwards to a quarter of a decade
    low_exp = math.floor(min(math.log10(low), -0.25) * steps) / steps
    high_exp = math.ceil(max(math.log10(high), 0.25) * steps) / steps
    return max(CLIP_LOW, 10**low_exp), min(CLIP_HIGH, 10**high_exp)


_STRIPS = (
    ("forget_Q_A_Prob", "forget probability"),
    ("forget_Q_A_ROUGE", "forget ROUGE"),
    ("forget_knowmem_ROUGE", "forget knowledge"),
    ("forget_verbmem_ROUGE", "forget verbatim"),
    ("wmdp_bio", "WMDP bio"),
    ("wmdp_chem", "WMDP chem"),
    ("wmdp_cyber", "WMDP cyber"),
)  # from 0 to 1, compared with the retain model or with guessing


def _strips(model: ReportModel) -> list[Figure]:
    title = "Remaining knowledge of the forget rows"
    metrics = [(metric, head) for metric, head in _STRIPS if metric in model.shown]
    if not metrics:
        return []
    runs = [(run, name) for run, name in named_runs(model)]
    if not any(math.isfinite(value_of(run, metric)) for run, _ in runs for metric, _ in metrics):
        heads = " or a ".join(head for _, head in metrics)
        return [Figure("strips", title, f"No run has a {heads}.", None)]
    figure = make_subplots(rows=1, cols=len(metrics), shared_yaxes=True, horizontal_spacing=0.06)
    looks = looks_of(model)
    labels = list(dict.fromkeys(safe(run.label) for run, _ in runs))
    for col, (metric, head) in enumerate(metrics, 1):
        for run, name in runs:
            x, look = value_of(run, metric), looks[run.role, run.label]
            if not math.isfinite(x):
                continue
            low, high = value_of(run, metric, "ci_low"), value_of(run, metric, "ci_high")
            has_interval = math.isfinite(low + high)
            figure.add_scatter(
                x=[x], y=[safe(run.label)], mode="markers", showlegend=False, row=1, col=col,
                name=f"{safe(name)}, {head}",
                error_x={"array": [high - x], "arrayminus": [x - low], "color": look.colour} if has_interval else None,
                text=[f"<b>{safe(name)}</b><br>{head} {x:.3f}"], hovertemplate="%{text}<extra></extra>",
                marker={"color": look.colour, "symbol": look.symbol, "size": 12, "line": EDGE},
            )  # fmt: skip
        # After the points, because plotly omits lines in a plot that is still empty.
        for role, line in (("full", _looks_line(GREY, "dot")), ("retain", _looks_line(DARK, "dash"))):
            x = model.mean_of(role, metric)  # type: ignore[arg-type]
            if math.isfinite(x):
                figure.add_vline(x=x, line=line, row=1, col=col)
        figure.update_xaxes(title=head, range=[-0.02, 1.02], row=1, col=col)
    figure.update_yaxes(categoryorder="array", categoryarray=labels[::-1], type="category")
    styled(figure, 140 + 34 * len(labels))
    caption = "Dashed: the retain model. Dotted: the target model (full). Bars are confidence intervals where stored."
    return [Figure("strips", title, caption, figure)]


def _looks_line(colour: str, dash: str) -> dict[str, object]:
    return {"color": colour, "width": 1.5, "dash": dash}
