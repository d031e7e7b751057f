"""Padded batches whose mask comes from lengths, never from `ids != pad`: pad may equal EOS and no EOS is lost."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from expunge.data.template import Encoded


@dataclass(frozen=True)
class Batch:
    """B rows padded to length T.

    ids_BT, mask_BT (True on real tokens). row_N, pos_N: for each of the N scored tokens its row and the position
    that *predicts* it (its own position minus one). token_N: the scored token ids. labelled_N: only where every
    position is listed: whether the next token is scored.
    """

    ids_BT: Tensor
    mask_BT: Tensor
    row_N: Tensor
    pos_N: Tensor
    token_N: Tensor
    labelled_N: Tensor | None = None

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""
        return dataclasses.replace(self, **{k: x.to(device) for k, x in vars(self).items() if x is not None})

    @property
    def n_rows(self) -> int:
        """B."""
        return int(self.ids_BT.shape[0])


def collate(
    rows: Sequence[Encoded],
    *,
    pad_id: int,
    padding_side: Literal["right", "left"] = "right",
    positions: Literal["answer", "own", "all"] = "answer",
) -> Batch:
    """Pad rows and list their scored positions, row after row.

    positions: "answer" lists those that predict an answer token; "own" those where the answer tokens stand (for hidden
    states); "all" lists B x T, padding included (for numbers of projects that average so): the tokens listed are then
    the next ids, with the pad id after the last.
    """
    width = max(len(r.ids) for r in rows)
    ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    row_of: list[Tensor] = []
    listed: list[Tensor] = []
    for i, row in enumerate(rows):
        start = 0 if padding_side == "right" else width - len(row.ids)
        ids[i, start : start + len(row.ids)] = torch.tensor(row.ids)
        mask[i, start : start + len(row.ids)] = True
        first = max(row.n_prompt, 1)  # the first token of a sequence has no prediction
        at = torch.arange(start + first - 1, start + len(row.ids) - 1)
        listed.append(at)
        row_of.append(torch.full_like(at, i))
    row_N, pos_N = torch.cat(row_of), torch.cat(listed)
    if positions == "own":
        return Batch(ids, mask, row_N, pos_N + 1, ids[row_N, pos_N + 1])
    if positions == "all":
        row_N = torch.arange(len(rows)).repeat_interleave(width)
        pos_N = torch.arange(width).repeat(len(rows))
        following = torch.cat([ids[:, 1:], torch.full((len(rows), 1), pad_id)], dim=1)
        labelled = torch.zeros_like(mask)
        labelled[torch.cat(row_of), torch.cat(listed)] = True
        return Batch(ids, mask, row_N, pos_N, following[row_N, pos_N], labelled[row_N, pos_N])
    return Batch(ids, mask, row_N, pos_N, ids[row_N, pos_N + 1])


def budget_batches(items: Sequence[Any], lengths: Sequence[int], budget: int) -> list[list[Any]]:
    """Items sorted by length (longest first, then by place), cut into batches of at most `budget` padded tokens."""
    order = sorted(range(len(items)), key=lambda i: (-lengths[i], i))
    out: list[list[Any]] = []
    width = 0
    for i in order:
        if not out or width * (len(out[-1]) + 1) > budget:
            out.append([])
            width = max(lengths[i], 1)
        out[-1].append(items[i])
    return out
