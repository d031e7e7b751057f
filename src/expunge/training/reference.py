"""What the reference says: the model as it was before unlearning, asked once for every row the run will use.

Log-probabilities need one number per answer token. Distributions need the hidden states that the LM head reads, and a
frozen copy of the head: the logits come out the same, without a second model and without its forward at each step.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from expunge.data.batch import Batch, collate
from expunge.data.template import Encoded
from expunge.methods.api import Positions, Serve, Side
from expunge.models.chunks import Chunks
from expunge.models.packed import FrozenHead, Packed
from expunge.training.ask import Ask, Said, ask


class StoredReference:
    """Reference quantities of chosen rows of one side, by row number."""

    def __init__(
        self, model: Any, rows: Sequence[Encoded], wanted: Sequence[int], what: Ask, *, pad_id: int, batch: int = 16
    ) -> None:
        self._what = what
        self._head = FrozenHead(model) if what.serve is Serve.LOGITS else None
        self._by_row: dict[int, Tensor] = {}
        device = next(model.parameters()).device
        order = sorted(set(wanted), key=lambda i: (len(rows[i].ids), i))
        was_training = model.training
        model.eval()
        with torch.no_grad():
            for start in range(0, len(order), batch):
                numbers = order[start : start + batch]
                made = collate([rows[i] for i in numbers], pad_id=pad_id, positions=what.positions.value).to(device)
                said = ask(model, made, what, head=self._head if start else None)
                if self._head and start == 0:
                    self._head.check(Packed(said.whole(), said.hidden_ND))
                self._keep(numbers, made, said)
        model.train(was_training)

    def _keep(self, numbers: Sequence[int], batch: Batch, said: Said) -> None:
        logps = self._what.serve is Serve.LOGPS
        kept = said.logps(batch.token_N) if logps else said.hidden_ND
        for k, number in enumerate(numbers):
            self._by_row[number] = kept[batch.row_N == k].clone()

    def side(self, numbers: Sequence[int], batch: Batch) -> Side:
        """The reference's view of a batch made of these rows, in this order."""
        kept = torch.cat([self._by_row[i] for i in numbers])
        if self._what.serve is Serve.LOGPS:
            return Said(None, kept.new_zeros(0)).side(batch, self._what, logps_N=kept)
        with torch.no_grad():
            logits = None if self._head is None else Chunks(self._head, kept)
            return Said(logits, kept).side(batch, self._what)


class ResidentReference:
    """A frozen second model, run at each step: only for numbers that depend on the shape of the batch."""

    def __init__(self, model: Any, what: Ask) -> None:
        self._model = copy.deepcopy(model).eval().requires_grad_(False)
        self._what = what

    def side(self, numbers: Sequence[int], batch: Batch) -> Side:
        """The reference's view of a batch, computed anew."""
        del numbers
        with torch.no_grad():
            return ask(self._model, batch, self._what).side(batch, self._what)


Reference = StoredReference | ResidentReference


def reference(model: Any, rows: Sequence[Encoded], wanted: Sequence[int], what: Ask, *, pad_id: int) -> Reference:
    """The cheapest reference that gives the asked quantity exactly."""
    if what.positions is Positions.ALL:
        return ResidentReference(model, what)
    return StoredReference(model, rows, wanted, what, pad_id=pad_id)
