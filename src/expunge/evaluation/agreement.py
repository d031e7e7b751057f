"""The agreement pass: compare a model with the original one at each token of an answer; no distribution is stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from expunge.core.errors import JobError
from expunge.core.records import AGREEMENT
from expunge.data.batch import Batch, budget_batches, collate
from expunge.data.encoder import Encoder
from expunge.data.examples import ExampleSet
from expunge.evaluation.loglikelihood import encode_items
from expunge.evaluation.observation import capabilities
from expunge.evaluation.token_stats import rows_at_a_time
from expunge.models.capabilities import kept_modes, n_logits, padding_id
from expunge.models.packed import BatchPositions, packed_forward

BUDGET = 8192  # padded tokens of a batch


def score_agreement(
    model: Any,
    original: Any,
    rows: ExampleSet,
    names: Sequence[str],
    encoder: Encoder,
    *,
    token_budget: int = BUDGET,
    progress: Callable[[int], None] | None = None,
) -> pa.Table:
    """Return an AGREEMENT table of some answers, sorted by row, variant and position.

    Args:
        model: The model to compare.
        original: The model before unlearning.
        rows: The examples.
        names: The answers, by variant or stem ("perturbed" for all `perturbed_i`).
        encoder: The template and the tokenizer.
        token_budget: Tokens of a padded batch. Both models read each batch once.
        progress: Receives the number of answers of each batch.

    Raises:
        JobError: If the vocabularies of the models differ in size.
    """
    sizes = [n_logits(m) for m in (model, original)]
    if sizes[0] != sizes[1]:
        raise JobError(
            f"agreement: the model has {sizes[0]} tokens and the original one {sizes[1]}; both need the same vocabulary"
        )
    items = encode_items(rows, names, encoder)
    variants = sorted({i.variant for i in items})
    parts: list[tuple[np.ndarray[Any, Any], ...]] = []
    for one in (model, original):
        capabilities(one)  # observed before the first pass, which reads it
    with kept_modes(model, original), torch.inference_mode():
        model.eval()
        original.eval()
        for part in budget_batches(items, [len(i.encoded.ids) for i in items], token_budget):
            batch = collate([i.encoded for i in part], pad_id=padding_id(model, encoder.tokenizer.pad_token_id))
            kl, same = _compare(model, original, batch)
            row_N = batch.row_N.numpy()
            first = np.concatenate([[0], np.cumsum(np.bincount(row_N, minlength=len(part)))])
            parts.append(
                (
                    np.array([i.row_id for i in part])[row_N],
                    np.array([variants.index(i.variant) for i in part])[row_N],
                    np.arange(len(row_N)) - first[row_N],
                    kl.cpu().numpy(),
                    same.cpu().numpy(),
                )
            )
            if progress:
                progress(len(part))
    if not parts:
        return AGREEMENT.empty_table()
    row_id, variant, position, kl_N, same_N = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((position, variant, row_id))
    columns = {
        "row_id": row_id[order],
        "variant": np.array(variants, dtype=object)[variant[order]],
        "position": position[order],
        "kl": kl_N[order],
        "same_argmax": same_N[order],
    }
    return pa.table({n: pa.array(columns[n], type=AGREEMENT.field(n).type) for n in AGREEMENT.names}, schema=AGREEMENT)


def _compare(model: Any, original: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return KL(original || model) in nats, and whether the first choices are equal, for each of N tokens."""
    logits = []
    for one in (model, original):
        here = batch.to(next(one.parameters()).device)
        logits.append(
            packed_forward(one, BatchPositions(here.ids_BT, here.mask_BT, here.row_N, here.pos_N), use_mask=False)
        )
    mine_NV, theirs_NV = logits[0].logits_NV, logits[1].logits_NV.to(logits[0].logits_NV.device)
    parts = []
    chunk = rows_at_a_time(mine_NV)
    for k in range(0, len(mine_NV), chunk):
        mine, theirs = (x[k : k + chunk].float().log_softmax(-1) for x in (mine_NV, theirs_NV))
        kl = (theirs.exp() * (theirs - mine)).sum(-1).clamp(min=0)
        parts.append((kl, mine_NV[k : k + chunk].argmax(-1) == theirs_NV[k : k + chunk].argmax(-1)))
    kl_N, same_N = (torch.cat(column) for column in zip(*parts, strict=True))
    return kl_N, same_N
