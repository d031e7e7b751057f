"""The teacher-forced pass: every answer of a set of rows is read once, and what metrics may need is kept per token."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from expunge.core.records import TOKENS
from expunge.data.batch import Batch, budget_batches, collate
from expunge.data.rows import Row, RowSet
from expunge.data.template import Encoded, Encoder
from expunge.models.packed import Positions, packed_forward

Progress = Callable[[int], None]
TRUNCATED = "truncated_answers"
CHUNK = 4096  # scored tokens whose vocabulary statistics are computed at a time


@dataclass(frozen=True)
class _Item:
    row_id: int
    variant: str
    encoded: Encoded


def wanted_variants(row: Row, wanted: Sequence[str]) -> list[str]:
    """The row's variants among those wanted; a stem such as "perturbed" stands for all `perturbed_i`."""
    out: list[str] = []
    for name in row.answers:
        stem, _, index = name.rpartition("_")
        if name in wanted or (index.isdigit() and stem in wanted):
            out.append(name)
    return out


def encode_items(rows: RowSet, wanted: Sequence[str], encoder: Encoder) -> list[_Item]:
    """Every wanted answer of every row, encoded."""
    return [
        _Item(row.row_id, name, encoder.row(rows, row, name))
        for row in rows.rows
        for name in wanted_variants(row, wanted)
    ]


def score_tokens(
    model: Any,
    rows: RowSet,
    wanted: Sequence[str],
    encoder: Encoder,
    *,
    token_budget: int = 8192,
    progress: Progress | None = None,
) -> pa.Table:
    """A TOKENS table of the wanted variants of `rows`, sorted by row, variant and position.

    Its metadata counts the answers that were cut at the template's `max_length` (`truncated_answers`).
    Rows are sorted by length and batched so that a padded batch holds at most `token_budget` tokens. Batches depend on
    the rows alone, so the same model and rows give the same bytes.
    """
    items = encode_items(rows, wanted, encoder)
    device = next(model.parameters()).device
    pad_id = encoder.tokenizer.pad_token_id
    parts: list[dict[str, np.ndarray[Any, Any]]] = []
    model.eval()
    with torch.inference_mode():
        for batch_items in budget_batches(items, [len(i.encoded.ids) for i in items], token_budget):
            batch = collate([i.encoded for i in batch_items], pad_id=pad_id).to(device)
            parts.append(_score(model, batch, batch_items, encoder))
            if progress:
                progress(len(batch_items))
    cut = sum(1 for item in items if item.encoded.truncated)
    return _table(parts, items).replace_schema_metadata({TRUNCATED: str(cut)})


def _score(model: Any, batch: Batch, items: Sequence[_Item], encoder: Encoder) -> dict[str, np.ndarray[Any, Any]]:
    at = Positions(batch.ids_BT, batch.mask_BT, batch.row_N, batch.pos_N)
    packed = packed_forward(model, at, use_mask=False)
    stats = [
        _statistics(packed.logits_NV[k : k + CHUNK], batch.token_N[k : k + CHUNK])
        for k in range(0, len(batch.token_N), CHUNK)
    ]
    logp, mean, var, argmax = (torch.cat(column).cpu().numpy() for column in zip(*stats, strict=True))
    row_N = batch.row_N.cpu().numpy()
    first = np.concatenate([[0], np.cumsum(np.bincount(row_N, minlength=len(items)))])
    token_id = batch.token_N.cpu().numpy()
    position = np.arange(len(row_N)) - first[row_N]
    texts = [_scored_text(i.encoded, encoder) for i in items]
    is_last = position == np.bincount(row_N, minlength=len(items))[row_N] - 1
    return {
        "row_id": np.array([i.row_id for i in items])[row_N],
        "variant": np.array([i.variant for i in items], dtype=object)[row_N],
        "position": position,
        "token_id": token_id,
        "logp": logp,
        "mean": mean,
        "var": var,
        "is_argmax": argmax,
        "is_eos": is_last & (token_id == encoder.eos),
        "zlib": np.array([len(zlib.compress(text)) for text in texts])[row_N],
        "n_bytes": np.array([len(text) for text in texts])[row_N],
    }


def _scored_text(encoded: Encoded, encoder: Encoder) -> bytes:
    """The text of the scored tokens without special ones, as UTF-8."""
    text: str = encoder.tokenizer.decode(encoded.ids[max(encoded.n_prompt, 1) :], skip_special_tokens=True)
    return text.encode()


def _statistics(logits_NV: Tensor, token_N: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """log p of each token; mean and variance of log p(v) under v ~ p; whether the token is the greedy choice."""
    logp_NV = torch.log_softmax(logits_NV.float(), dim=-1)
    p_NV = logp_NV.exp()
    mean = (p_NV * logp_NV).sum(-1)
    var = (p_NV * logp_NV.square()).sum(-1) - mean.square()
    logp = logp_NV.gather(1, token_N[:, None])[:, 0]
    return logp, mean, var.clamp(min=0), logits_NV.argmax(-1) == token_N


def _table(parts: list[dict[str, np.ndarray[Any, Any]]], items: Sequence[_Item]) -> pa.Table:
    if not parts:
        return TOKENS.empty_table()
    columns = {name: np.concatenate([p[name] for p in parts]) for name in TOKENS.names}
    rank = {v: k for k, v in enumerate(sorted({i.variant for i in items}))}
    variant = np.array([rank[v] for v in columns["variant"]])
    order = np.lexsort((columns["position"], variant, columns["row_id"]))
    return pa.table({n: pa.array(columns[n][order], type=TOKENS.field(n).type) for n in TOKENS.names}, schema=TOKENS)
