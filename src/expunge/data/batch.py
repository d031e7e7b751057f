"""Padded batches whose mask comes from lengths, not from `ids != pad`, because pad may equal EOS."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from expunge.core.records import Ints
from expunge.data.encoder import Encoded


@dataclass(frozen=True)
class Batch:
    """B rows padded to length T.

    ids_BT, mask_BT (True on real tokens). row_N, pos_N: for each of the N scored tokens its row and the position that
    *predicts* it (its own position minus one). token_N: the scored token ids. labelled_N: only if every position is
    listed: whether the next token is scored. marked_N: only on request: whether the scored token has a mark.
    """

    ids_BT: Tensor
    mask_BT: Tensor
    row_N: Tensor
    pos_N: Tensor
    token_N: Tensor
    labelled_N: Tensor | None = None
    marked_N: Tensor | None = None

    def to(self, device: torch.device | str) -> Batch:
        """Return the same batch on a device."""
        return dataclasses.replace(self, **{k: x.to(device) for k, x in vars(self).items() if x is not None})

    @property
    def n_rows(self) -> int:
        """The number of rows, B."""
        return int(self.ids_BT.shape[0])


def scored_tokens(row: Encoded) -> int:
    """Return the number of tokens that `collate` lists as scored. The first token of a sequence has no prediction."""
    return max(0, len(row.ids) - max(row.n_prompt, 1))


def collate(
    rows: Sequence[Encoded],
    *,
    pad_id: int,
    padding_side: Literal["right", "left"] = "right",
    positions: Literal["answer", "own", "all"] = "answer",
    marks: bool = False,
) -> Batch:
    """Pad rows and list their scored positions, row after row.

    Args:
        rows: Encoded rows.
        pad_id: Id of the padding token.
        padding_side: Side of the padding.
        positions: "answer" lists the positions that predict an answer token; "own" the answer tokens' own positions
            (for hidden states); "all" lists B x T with padding (to reproduce projects that average so). The tokens are
            the next ids, with the pad id after the last.
        marks: List also which scored tokens have a mark; not for "all".
    """
    ids, mask = pad([r.ids for r in rows], pad_id=pad_id, side=padding_side)
    width = ids.shape[1]
    starts = [0 if padding_side == "right" else width - len(r.ids) for r in rows]
    # nothing predicts the first token of a sequence
    lows = [start + max(r.n_prompt, 1) - 1 for start, r in zip(starts, rows, strict=True)]
    counts = [max(0, start + len(r.ids) - 1 - low) for start, low, r in zip(starts, lows, rows, strict=True)]
    row, place = ragged(lows, counts)
    row_N, pos_N = torch.from_numpy(row), torch.from_numpy(place)
    marked_N = None
    if marks and positions != "all":
        marked_BT = torch.zeros_like(mask)
        for b, (start, marked) in enumerate(zip(starts, rows, strict=True)):
            marked_BT[b, [start + i for i in marked.marks]] = True
        marked_N = marked_BT[row_N, pos_N + 1]
    if positions == "own":
        return Batch(ids, mask, row_N, pos_N + 1, ids[row_N, pos_N + 1], marked_N=marked_N)
    if positions == "all":
        row_N = torch.arange(len(rows)).repeat_interleave(width)
        pos_N = torch.arange(width).repeat(len(rows))
        following = torch.cat([ids[:, 1:], torch.full((len(rows), 1), pad_id)], dim=1)
        labelled = torch.zeros_like(mask)
        labelled[torch.from_numpy(row), torch.from_numpy(place)] = True
        return Batch(ids, mask, row_N, pos_N, following[row_N, pos_N], labelled[row_N, pos_N])
    return Batch(ids, mask, row_N, pos_N, ids[row_N, pos_N + 1], marked_N=marked_N)


def pad(rows: Sequence[Sequence[int]], *, pad_id: int, side: Literal["right", "left"]) -> tuple[Tensor, Tensor]:
    """Return rows of token ids as one block: ids_BT, and mask_BT (True on real tokens)."""
    lengths = np.array([len(row) for row in rows])
    width = int(lengths.max())
    place_T = np.arange(width)
    mask = place_T < lengths[:, None] if side == "right" else place_T >= width - lengths[:, None]
    ids = np.full(mask.shape, pad_id, dtype=np.int64)
    ids[mask] = joined(rows)
    return torch.from_numpy(ids), torch.from_numpy(mask)


def joined(rows: Sequence[Sequence[int]]) -> Ints:
    """Return the ids of all rows, one after another."""
    return np.fromiter(itertools.chain.from_iterable(rows), dtype=np.int64)


def ragged(lows: Sequence[int] | Ints, counts: Sequence[int] | Ints) -> tuple[Ints, Ints]:
    """Return for each row k the numbers lows[k], lows[k] + 1, ..., counts[k] of them, with their row indices."""
    n_B = np.asarray(counts, dtype=np.int64)
    row_N = np.repeat(np.arange(len(n_B)), n_B)
    within_N = np.arange(len(row_N)) - (np.cumsum(n_B) - n_B)[row_N]
    return row_N, np.asarray(lows, dtype=np.int64)[row_N] + within_N


def budget_batches(items: Sequence[Any], lengths: Sequence[int], budget: int) -> list[list[Any]]:
    """Sort items by length (longest first, then by position) and cut into batches of at most `budget` padded tokens."""
    order = sorted(range(len(items)), key=lambda i: (-lengths[i], i))
    out: list[list[Any]] = []
    width = 0
    for i in order:
        if not out or width * (len(out[-1]) + 1) > budget:
            out.append([])
            width = max(lengths[i], 1)
        out[-1].append(items[i])
    return out
