"""The gradient pass: norms of the loss gradient of each answer, with several answers in one backward if possible."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from expunge.core.errors import JobError
from expunge.core.records import GRADS
from expunge.data.batch import Batch, collate
from expunge.data.encoder import Encoder
from expunge.data.examples import ExampleSet
from expunge.evaluation.config import GRADIENT_ANSWERS, GRADIENT_BYTES
from expunge.evaluation.loglikelihood import encode_items
from expunge.evaluation.observation import capabilities
from expunge.evaluation.per_example_gradients import NotByAnswer, PerAnswer
from expunge.models.capabilities import check_ids, padding_id
from expunge.models.packed import BatchPositions, packed_forward, wide

ROOM = {"cpu": 2**26}  # bytes of gradients at a time: more would not fit a processor's cache
NAMES = ("l1", "l2", "linf", "tensor_mean")


def score_grads(
    model: Any,
    rows: ExampleSet,
    names: Sequence[str],
    encoder: Encoder,
    *,
    progress: Callable[[int], None] | None = None,
) -> pa.Table:
    """Return a GRADS table of some answers of `rows`, sorted by variant and row.

    The loss is the mean over the answer's tokens without the last one, which ends it, as in OpenUnlearning. An answer
    of one token has no norms. If the gradients of several answers fit into ROOM, answers of similar length share a
    forward and a backward, but each has its own gradient. A model with other norms in a batch is read one answer at a
    time. Frozen weights count too; a tied tensor counts once.

    Args:
        model: A causal language model.
        rows: The examples.
        names: The answers, by variant or stem.
        encoder: The template and the tokenizer.
        progress: Receives the number of answers of each batch.

    Raises:
        JobError: If no weight has a floating-point type (a quantised model).
    """
    weights = [p for p in model.parameters() if p.is_floating_point()]
    if not weights:
        raise JobError("gradient norms need weights in floating point, but this model is quantised")
    capabilities(model)  # observed before the first pass, which reads it
    device, pad_id = weights[0].device, padding_id(model, encoder.tokenizer.pad_token_id)
    items = encode_items(rows, names, encoder)
    check_ids(model, [(f"{rows.name} row {i.row_id} {i.variant!r}", i.encoded.ids) for i in items])
    whole = [i for i in items if i.n_scored > 1]
    whole.sort(key=lambda i: (len(i.encoded.ids), i.variant, i.row_id))
    n_bytes = sum(p.numel() * p.element_size() for p in weights)
    size = min(GRADIENT_ANSWERS, max(1, ROOM.get(device.type, GRADIENT_BYTES) // n_bytes))
    norms_of = {(i.variant, i.row_id): dict.fromkeys(NAMES, math.nan) for i in items}
    model.eval()
    size = min(size, len(whole)) or 1
    if size > 1 and not _agree(model, collate([i.encoded for i in whole[:2]], pad_id=pad_id).to(device), weights):
        size = 1
    for k in range(0, len(whole), size):
        some = whole[k : k + size]
        norms = _norms(model, collate([i.encoded for i in some], pad_id=pad_id).to(device), weights)
        norms_of.update({(i.variant, i.row_id): n for i, n in zip(some, norms, strict=True)})
        if progress:
            progress(len(some))
    if progress and len(items) > len(whole):
        progress(len(items) - len(whole))
    lines = [{"variant": variant, "row_id": row} | norms for (variant, row), norms in sorted(norms_of.items())]
    return pa.Table.from_pylist(lines, schema=GRADS)


def _agree(model: Any, batch: Batch, weights: Sequence[Tensor]) -> bool:
    """Return whether the first answer has the same gradient in a batch and by itself."""
    try:
        together = _together(model, batch, weights)[0]
    except NotByAnswer:
        return False
    n = int(batch.mask_BT[0].sum())
    own = batch.row_N == 0
    one = Batch(batch.ids_BT[:1, :n], batch.mask_BT[:1, :n], batch.row_N[own], batch.pos_N[own], batch.token_N[own])
    apart = _apart(model, one, weights)
    within = {torch.float64: 1e-9, torch.float32: 1e-3}.get(weights[0].dtype, 0.05)
    return all(math.isclose(together[n], apart[n], rel_tol=within) or math.isnan(apart[n]) for n in NAMES)


def _norms(model: Any, batch: Batch, weights: Sequence[Tensor]) -> list[dict[str, float]]:
    """Return the norms of each answer's gradient."""
    return [_apart(model, batch, weights)] if batch.n_rows == 1 else _together(model, batch, weights)


def _forward(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the logits of the answers' tokens without their last ones, and the gradient of the summed mean losses.

    The gradient in closed form, (softmax - one hot) / n of the answer, is one pass over the logits; autograd needs
    five.
    """
    counts_B = torch.bincount(batch.row_N, minlength=batch.n_rows)
    kept_N = torch.ones_like(batch.row_N, dtype=torch.bool)
    kept_N[counts_B.cumsum(0) - 1] = False
    row_N = batch.row_N[kept_N]
    packed = packed_forward(
        model, BatchPositions(batch.ids_BT, batch.mask_BT, row_N, batch.pos_N[kept_N]), use_mask=False
    )
    with torch.no_grad():
        slope_NV = torch.softmax(wide(packed.logits_NV), dim=-1)
        slope_NV[torch.arange(len(row_N), device=row_N.device), batch.token_N[kept_N]] -= 1
        slope_NV /= (counts_B - 1)[row_N, None]
    return packed.logits_NV, slope_NV.to(packed.logits_NV.dtype)


def _apart(model: Any, batch: Batch, weights: Sequence[Tensor]) -> dict[str, float]:
    """Return the norms of the gradient of one answer. Raises JobError if the model's own code has no backward."""
    with torch.enable_grad(), _needing_gradients(weights, needed=True):
        logits_NV, slope_NV = _forward(model, batch)
        try:
            grads = torch.autograd.grad(logits_NV, list(weights), slope_NV, allow_unused=True)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            first = str(error).partition("\n")[0][:200]
            raise JobError(f"{type(model).__name__} has no gradients in evaluation mode: {first}") from error
    return _of_tensors([g[None] for g in grads if g is not None])[0]


def _together(model: Any, batch: Batch, weights: Sequence[Tensor]) -> list[dict[str, float]]:
    """Return the norms of the gradients of several answers. Raises NotByAnswer."""
    counts_B = torch.bincount(batch.row_N, minlength=batch.n_rows) - 1
    gradients = PerAnswer(
        model, batch.n_rows, torch.arange(batch.n_rows, device=counts_B.device).repeat_interleave(counts_B)
    )
    with torch.enable_grad(), _needing_gradients(weights, needed=False):
        with gradients.hooks():
            logits_NV, slope_NV = _forward(model, batch)
            logits_NV.backward(slope_NV)
        of_weight = gradients.of_weights()
    return _of_tensors([of_weight[id(p)] for p in weights if id(p) in of_weight])


@contextlib.contextmanager
def _needing_gradients(weights: Sequence[Tensor], *, needed: bool) -> Iterator[None]:
    """Set `requires_grad` of all weights within the block."""
    before = [p.requires_grad for p in weights]
    for p in weights:
        p.requires_grad_(needed)
    try:
        yield
    finally:
        for p, was in zip(weights, before, strict=True):
            p.requires_grad_(was)


def _of_tensors(grads: Sequence[Tensor]) -> list[dict[str, float]]:
    """Return the norms of B gradients from one tensor per weight, each (B, *shape); the tensors are overwritten."""
    if not grads:
        raise JobError("no weight of the model takes part in its loss")
    sizes = [(g if g.dtype == torch.float64 else g.float()).flatten(1).abs_() for g in grads]
    of_each = [  # torch's own norms of order 1 and infinity are ten times slower than a sum and a maximum
        [g.sum(1).to(grads[0].device) for g in sizes],
        [torch.linalg.vector_norm(g, dim=1).to(grads[0].device) for g in sizes],
        [g.amax(1).to(grads[0].device) for g in sizes],
    ]
    one, two, top = (torch.stack(norms).cpu().double() for norms in of_each)  # each (tensors, B)
    columns = (one.sum(0), two.square().sum(0).sqrt(), top.amax(0), two.mean(0))
    return [dict(zip(NAMES, values, strict=True)) for values in zip(*(c.tolist() for c in columns), strict=True)]
