"""The gradient pass: norms of the loss gradient of each answer, one answer at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from expunge.core.errors import JobError
from expunge.core.records import GRADS
from expunge.data.batch import collate
from expunge.data.rows import RowSet
from expunge.data.template import Encoder
from expunge.models.packed import Positions, packed_forward, token_logps
from expunge.scoring.tokens import encode_items


def score_grads(
    model: Any,
    rows: RowSet,
    wanted: Sequence[str],
    encoder: Encoder,
    *,
    progress: Callable[[int], None] | None = None,
) -> pa.Table:
    """A GRADS table of the wanted answers of `rows`, sorted by variant and row.

    The loss is the mean over the answer's tokens without the last one, which ends it, as in OpenUnlearning; an answer
    of one token has no norms. Each answer is read by itself and without padding, so nothing depends on a batch, and at
    most one gradient is held beside the weights. Frozen weights are measured too; a tied tensor counts once. Raises
    JobError where no weight has a type that a gradient can be taken of (a quantised model).
    """
    weights = [p for p in model.parameters() if p.is_floating_point()]
    if not weights:
        raise JobError("gradient norms need weights in floating point; this model is quantised")
    frozen = [p for p in weights if not p.requires_grad]
    items = sorted(encode_items(rows, wanted, encoder), key=lambda i: (i.variant, i.row_id))
    device = weights[0].device
    lines: list[dict[str, Any]] = []
    model.eval()
    for p in frozen:
        p.requires_grad_(True)
    try:
        for item in items:
            batch = collate([item.encoded], pad_id=encoder.tokenizer.pad_token_id).to(device)
            lines.append({"row_id": item.row_id, "variant": item.variant} | _norms(model, batch, weights))
            if progress:
                progress(1)
    finally:
        for p in frozen:
            p.requires_grad_(False)
    return pa.Table.from_pylist(lines, schema=GRADS)


def _norms(model: Any, batch: Any, weights: Sequence[Tensor]) -> dict[str, float]:
    """The norms of the gradient of one answer's mean token loss, without its last token."""
    if len(batch.token_N) < 2:
        return dict.fromkeys(("l1", "l2", "linf", "tensor_mean"), math.nan)
    with torch.enable_grad():
        at = Positions(batch.ids_BT, batch.mask_BT, batch.row_N[:-1], batch.pos_N[:-1])
        loss = -token_logps(packed_forward(model, at, use_mask=False).logits_NV, batch.token_N[:-1]).mean()
        grads = [g for g in torch.autograd.grad(loss, list(weights), allow_unused=True) if g is not None]
    of_each = [torch.stack([_norm(g, p) for p in (1.0, 2.0, float("inf"))]).to(loss.device) for g in grads]
    norms = torch.stack(of_each).double()
    return {
        "l1": norms[:, 0].sum().item(),
        "l2": norms[:, 1].square().sum().sqrt().item(),
        "linf": norms[:, 2].max().item(),
        "tensor_mean": norms[:, 1].mean().item(),
    }


def _norm(grad: Tensor, p: float) -> Tensor:
    wide = grad if grad.dtype == torch.float64 else grad.float()
    return torch.linalg.vector_norm(wide, p)
