"""Attention maps of two models, compared head by head."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from expunge.core.errors import ConfigError, JobError
from expunge.data.batch import Batch
from expunge.interpretability.inputs import AnalysisInputs, At, device_of
from expunge.models.packed import bare


@dataclass(frozen=True)
class HeadLine:
    """One head: the mean Jensen-Shannon divergence of its two maps in bits, 0 (equal) to 1 (disjoint)."""

    layer: int
    head: int
    divergence: float


@dataclass(frozen=True)
class AttentionResult:
    """The mean over heads by layer, and every head."""

    layers: tuple[float, ...]
    lines: tuple[HeadLine, ...]


def compare_attention(
    a: Any, b: Any, inputs: AnalysisInputs, *, at: At = "predicts", token_budget: int = 2048
) -> AttentionResult:
    """Compare two models' attention: JSD(p, q) = H((p + q)/2) - (H(p) + H(q))/2 of each position's attention weights.

    The mean is over a row's positions, then over rows. Both models use "eager" attention meanwhile, because faster
    kernels store no maps; `token_budget` bounds their T x T memory.

    Raises:
        ConfigError: If the models differ in layers or heads.
        JobError: If a model returns no maps.
    """
    small = replace(inputs, token_budget=token_budget)
    sums: Tensor | None = None
    with torch.no_grad(), eager(a), eager(b):
        for _, batch in small.batches(a, at):
            p = _maps(a, batch)
            q = _maps(b, batch.to(device_of(b)))
            if [x.shape for x in p] != [x.shape for x in q]:
                raise ConfigError("compare_attention: the two models differ in layers or heads")
            share = 1.0 / torch.bincount(batch.row_N).double()[batch.row_N] / len(inputs.rows)
            # one layer at a time: (N, H, T) in float64
            divergences = [(_jsd(x, y.to(x.device)) * share[:, None]).sum(0) for x, y in zip(p, q, strict=True)]
            sums = torch.stack(divergences) if sums is None else sums + torch.stack(divergences)
    values = sums.cpu().tolist() if sums is not None else []
    lines = tuple(HeadLine(layer, h, v) for layer, heads in enumerate(values) for h, v in enumerate(heads))
    return AttentionResult(tuple(sum(heads) / len(heads) for heads in values), lines)


@contextmanager
def eager(model: Any) -> Iterator[None]:
    """Use "eager" attention (plain matrix products) inside the block."""
    inner = bare(model)
    before = inner.config._attn_implementation
    inner.eval()
    inner.set_attn_implementation("eager")
    try:
        yield
    finally:
        inner.set_attn_implementation(before)


def _maps(model: Any, batch: Batch) -> list[Tensor]:
    """Return the attention weights of each of a batch's positions: a tensor (N, heads, T) per layer."""
    out = bare(model).base_model(input_ids=batch.ids_BT, use_cache=False, output_attentions=True)
    maps = getattr(out, "attentions", None)
    if not maps or any(m is None for m in maps):
        raise JobError(f"{type(bare(model)).__name__} returns no attention maps")
    return [m[batch.row_N, :, batch.pos_N] for m in maps]


def _jsd(p: Tensor, q: Tensor) -> Tensor:
    """Return the Jensen-Shannon divergence over the last axis, in bits."""
    p, q = p.double(), q.double()
    m = (p + q) / 2
    return (_entropy(m) - (_entropy(p) + _entropy(q)) / 2).clamp(min=0)


def _entropy(p: Tensor) -> Tensor:
    entropy: Tensor = -torch.special.xlogy(p, p).sum(-1) / math.log(2)
    return entropy
