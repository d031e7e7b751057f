"""Linear mode connectivity: the loss along the straight line between two models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from expunge.core.errors import ConfigError
from expunge.interpretability.inputs import AnalysisInputs, mean_loss, swapped
from expunge.interpretability.weights import parameters
from expunge.methods.weight_edits.api import check_same


@dataclass(frozen=True)
class PathLine:
    """The loss of one set at (1 - a) start + a end; `above`: over the straight line between the ends' losses."""

    rows: str
    a: float
    loss: float
    above: float


@dataclass(frozen=True)
class PathResult:
    """barrier: for each set the largest `above`, at least 0, in nats per token; NaN if a loss is not finite."""

    barrier: dict[str, float]
    reason: str | None
    lines: tuple[PathLine, ...]


def loss_path(start: Any, end: Any, readings: Mapping[str, AnalysisInputs], *, points: int = 11) -> PathResult:
    """Compute losses along theta(a) = (1 - a) start + a end at `points` equal steps, and the barriers.

    Barrier: max over a of L(theta(a)) - ((1 - a) L(start) + a L(end)) (Frankle et al. 2020, arXiv:1912.05671, with the
    straight line of Entezari et al., arXiv:2110.06296). Two models without a barrier lie in one basin, so small steps
    can undo their difference. Parameters are mixed, buffers are the start's; the start is restored afterwards.

    Raises ConfigError for models of different shapes, or fewer than 3 points.
    """
    if points < 3:
        raise ConfigError(f"points must be at least 3, got {points}")
    mine, theirs = parameters(start), parameters(end)
    check_same(mine, [theirs], what="end")
    grid = [k / (points - 1) for k in range(points)]
    losses: dict[str, list[float]] = {name: [] for name in readings}
    for a in grid:
        mixed = {n: torch.lerp(w.detach(), theirs[n].detach().to(w), a) for n, w in mine.items()}
        with swapped(start, mixed):
            for name, inputs in readings.items():
                losses[name].append(mean_loss(start, inputs))
        del mixed
    lines, barrier = [], {}
    for name, curve in losses.items():
        above = [loss - ((1 - a) * curve[0] + a * curve[-1]) for a, loss in zip(grid, curve, strict=True)]
        lines += [PathLine(name, a, loss, over) for a, loss, over in zip(grid, curve, above, strict=True)]
        finite = all(math.isfinite(loss) for loss in curve)
        barrier[name] = max(0.0, *above) if finite else math.nan
    broken = [name for name, value in barrier.items() if math.isnan(value)]
    reason = f"a loss along the line is not finite: {', '.join(broken)}" if broken else None
    return PathResult(barrier, reason, tuple(lines))
