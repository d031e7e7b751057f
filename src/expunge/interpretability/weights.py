"""Weights and gradients by layer: how far unlearning moved each part, and which parts the loss depends on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from expunge.core.errors import ConfigError
from expunge.interpretability.inputs import AnalysisInputs, forward
from expunge.interpretability.model_layout import ModelLayout, model_layout
from expunge.methods.weight_edits.api import check_same
from expunge.models.packed import token_logps

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class DriftLine:
    """Change of a part: ||w - w_ref|| (Frobenius), ||w_ref||, and their ratio (NaN if w_ref is all zero).

    layer None: outside the blocks. module "": the whole layer.
    """

    layer: int | None
    module: str
    change: float
    norm: float
    relative: float


@dataclass(frozen=True)
class DriftResult:
    """The change of the whole model, then of every layer and every parameter."""

    change: float
    norm: float
    relative: float
    lines: tuple[DriftLine, ...]


def parameters(model: Any) -> dict[str, Tensor]:
    """Return a model's floating-point parameters by name, each shared one once."""
    return {n: p for n, p in model.named_parameters() if p.is_floating_point()}


def weight_drift(model: Any, reference: Any) -> DriftResult:
    """Compute the distance of a model's weights from another's of the same shape, with float64 sums.

    Raises ConfigError, naming the tensor, if the two differ in names or shapes.
    """
    mine, theirs = parameters(model), parameters(reference)
    check_same(mine, [theirs], what="reference")
    body = model_layout(model)
    squares = {n: (_square(mine[n].detach(), w.detach().to(mine[n].device)), _square(w.detach())) for n, w in
               theirs.items()}  # fmt: skip
    lines = []
    for layer, names in _by_layer(body, squares).items():
        lines.append(_drift(layer, "", [squares[n] for n in names]))
        lines += [_drift(layer, body.part(n).module, [squares[n]]) for n in names]
    total = _drift(None, "", list(squares.values()))
    return DriftResult(total.change, total.norm, total.relative, tuple(lines))


def _square(a: Tensor, b: Tensor | None = None) -> float:
    """Return the sum of squares of a, or of a - b."""
    wide = a.double() if b is None else a.double() - b.double()
    return float(wide.square().sum())


def _drift(layer: int | None, module: str, squares: list[tuple[float, float]]) -> DriftLine:
    change, norm = (math.sqrt(math.fsum(column)) for column in zip(*squares, strict=True))
    relative = change / norm if norm else (math.nan if change else 0.0)
    return DriftLine(layer, module, change, norm, relative)


def _by_layer(body: ModelLayout, names: Mapping[str, Any]) -> dict[int | None, list[str]]:
    """Group parameter names by block, in order of blocks; names outside the blocks come first, under None."""
    out: dict[int | None, list[str]] = {None: []} | {k: [] for k in range(len(body.blocks))}
    for name in names:
        out[body.part(name).layer].append(name)
    return {layer: members for layer, members in out.items() if members}


def loss_gradients(model: Any, inputs: AnalysisInputs) -> tuple[float, dict[str, Tensor]]:
    """Return the loss (mean over rows of a row's mean NLL, nats per token) and its gradient for every parameter.

    Gradients are in float32 or wider, on the model's device. The model's own .grad and requires_grad do not change.
    """
    own = parameters(model)
    required = {n: p.requires_grad for n, p in own.items()}
    total = torch.zeros((), dtype=torch.float64)
    out = {n: torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)) for n, p in own.items()}
    model.eval()
    try:
        for p in own.values():
            p.requires_grad_(True)
        for _, batch in inputs.batches(model):
            logps = token_logps(forward(model, batch).logits_NV, batch.token_N)
            weights = 1.0 / torch.bincount(batch.row_N).to(logps)[batch.row_N]
            loss = -(logps * weights).sum() / len(inputs.rows)
            grads = torch.autograd.grad(loss, list(own.values()), allow_unused=True)
            for name, grad in zip(own, grads, strict=True):
                if grad is not None:
                    out[name] += grad
            total += loss.detach().double().cpu()
    finally:
        for name, p in own.items():
            p.requires_grad_(required[name])
    return float(total), out


@dataclass(frozen=True)
class GradientLine:
    """Gradient norm of a part; relative to the weights' norm; and its attribution, sum of |w g| (nats)."""

    layer: int | None
    module: str
    gradient: float
    relative: float
    attribution: float


@dataclass(frozen=True)
class GradientResult:
    """The loss of the rows, and the parts of its gradient. module "": the whole layer."""

    loss: float
    gradient: float
    lines: tuple[GradientLine, ...]


def gradient_attribution(model: Any, inputs: AnalysisInputs) -> GradientResult:
    """Compute how much the loss of some rows depends on each layer and parameter."""
    loss, grads = loss_gradients(model, inputs)
    weights, body = parameters(model), model_layout(model)
    parts = {
        n: (_square(g), _square(weights[n].detach()), float((weights[n].detach().double() * g.double()).abs().sum()))
        for n, g in grads.items()
    }
    lines = []
    for layer, names in _by_layer(body, parts).items():
        for module, group in [("", names), *((body.part(n).module, [n]) for n in names)]:
            g2, w2, share = (math.fsum(column) for column in zip(*(parts[n] for n in group), strict=True))
            relative = math.sqrt(g2 / w2) if w2 else math.nan
            lines.append(GradientLine(layer, module, math.sqrt(g2), relative, share))
    return GradientResult(loss, math.sqrt(math.fsum(g2 for g2, _, _ in parts.values())), tuple(lines))


@dataclass(frozen=True)
class CosineLine:
    """Cosine of two gradients in one part; NaN with a `reason` if one of them is zero. module "": the whole layer."""

    layer: int | None
    module: str
    cosine: float
    reason: str | None = None


@dataclass(frozen=True)
class CosineResult:
    """The cosine over all parameters, and by layer and parameter."""

    cosine: float
    reason: str | None
    lines: tuple[CosineLine, ...]


def gradient_cosines(model: Any, forget: AnalysisInputs, retain: AnalysisInputs) -> CosineResult:
    """Compute cosines of the forget and the retain loss's gradients: near 1 both fall together; < 0 is a conflict."""
    _, f = loss_gradients(model, forget)
    _, r = loss_gradients(model, retain)
    return cosines(model_layout(model), f, r)


def cosines(body: ModelLayout, a: State, b: State) -> CosineResult:
    """Compute cosines of two sets of tensors with the same names, by part. Raises ConfigError if the names differ."""
    if set(a) != set(b):
        raise ConfigError("cosines: the two sets of tensors have different names")
    parts = {n: (float((a[n].double() * b[n].double()).sum()), _square(a[n]), _square(b[n])) for n in a}

    def line(layer: int | None, module: str, group: list[str]) -> CosineLine:
        dot, aa, bb = (math.fsum(column) for column in zip(*(parts[n] for n in group), strict=True))
        if not aa or not bb:
            return CosineLine(layer, module, math.nan, "a gradient is zero there")
        return CosineLine(layer, module, dot / math.sqrt(aa) / math.sqrt(bb))

    lines = []
    for layer, names in _by_layer(body, parts).items():
        lines += [line(layer, "", names), *(line(layer, body.part(n).module, [n]) for n in names)]
    whole = line(None, "", list(parts))
    return CosineResult(whole.cosine, whole.reason, tuple(lines))
