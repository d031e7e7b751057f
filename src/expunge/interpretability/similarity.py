"""Linear CKA: similarity of two models' layers on the same rows, invariant to rotation and scale."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from expunge.core.errors import DataError
from expunge.interpretability.hidden import HiddenStates, hidden_states
from expunge.interpretability.inputs import AnalysisInputs, At


@dataclass(frozen=True)
class CkaLine:
    """CKA of one layer in two models; NaN with a `reason` if it is undefined."""

    layer: int
    cka: float
    reason: str | None = None


@dataclass(frozen=True)
class CkaResult:
    """CKA by layer over n positions (rows or tokens)."""

    n: int
    unbiased: bool
    lines: tuple[CkaLine, ...]


def layer_cka(a: HiddenStates, b: HiddenStates, *, unbiased: bool = True) -> CkaResult:
    """Compute CKA of each layer from two models' states, on the same rows and positions.

    Raises DataError if layers or positions differ.
    """
    if a.layers != b.layers or a.row_N.tolist() != b.row_N.tolist():
        raise DataError("layer_cka: the two models' states have different layers or positions")
    lines = []
    for k, layer in enumerate(a.layers):
        value = linear_cka(a.values_LND[k], b.values_LND[k], unbiased=unbiased)
        reason = None
        if math.isnan(value):
            reason = "too few positions" if unbiased and len(a.row_N) < 4 else "the states are equal at all positions"
        lines.append(CkaLine(layer, value, reason))
    return CkaResult(len(a.row_N), unbiased, tuple(lines))


def compare_layers(a: Any, b: Any, inputs: AnalysisInputs, *, at: At = "last", unbiased: bool = True) -> CkaResult:
    """Compute CKA of every layer of two models: over rows (at="last", mean of the last ten tokens) or over tokens."""
    return layer_cka(hidden_states(a, inputs, at=at), hidden_states(b, inputs, at=at), unbiased=unbiased)


def linear_cka(x_ND: Tensor, y_NE: Tensor, *, unbiased: bool) -> float:
    """Compute HSIC(X, Y) / sqrt(HSIC(X, X) HSIC(Y, Y)) with linear kernels, in float64.

    Biased (Kornblith et al. 2019, arXiv:1905.00414): HSIC = ||Xc^T Yc||_F^2, which is too large unless N is much larger
    than D. Unbiased: HSIC_1 of Song et al. 2012 (used for CKA in arXiv:2010.15327), which may be below 0 for unlike
    layers; N must be at least 4. NaN if a kernel is constant.
    """
    x, y = (v.double() - v.double().mean(0) for v in (x_ND, y_NE))
    if len(x) < (4 if unbiased else 2):
        return math.nan
    hsic = _hsic_1 if unbiased else _frobenius
    xx, yy = hsic(x, x), hsic(y, y)
    tiny = 1e-20 * max(float(x_ND.double().square().sum()) ** 2, float(y_NE.double().square().sum()) ** 2)
    if xx <= tiny or yy <= tiny:
        return math.nan
    return hsic(x, y) / math.sqrt(xx) / math.sqrt(yy)


def _frobenius(x: Tensor, y: Tensor) -> float:
    """Return ||X^T Y||_F^2 = sum_ij (x_i x_j)(y_i y_j), through the smaller matrix."""
    if len(x) < x.shape[1] and len(x) < y.shape[1]:
        return float(((x @ x.T) * (y @ y.T)).sum())
    return float((x.T @ y).square().sum())


def _hsic_1(x: Tensor, y: Tensor) -> float:
    """Compute the unbiased estimator from features, with K, L the Gram matrices without their diagonals.

    HSIC_1 = [tr(K L) + (1'K1)(1'L1) / ((n-1)(n-2)) - 2 (1'K L 1) / (n-2)] / (n (n-3)).
    """
    n = len(x)
    dx, dy = x.square().sum(1), y.square().sum(1)
    trace = _frobenius(x, y) - float(dx @ dy)
    kx, ky = x @ x.sum(0) - dx, y @ y.sum(0) - dy  # row sums of K and L
    ones = float(kx.sum() * ky.sum()) / ((n - 1) * (n - 2))
    return (trace + ones - 2 * float(kx @ ky) / (n - 2)) / (n * (n - 3))
