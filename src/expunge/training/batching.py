"""From rows to a `LossInputs`: what a loss asked for, computed with as few forwards as possible."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from expunge.data.batch import Batch, collate, scored_tokens
from expunge.data.template import Encoded, row_lengths
from expunge.methods.api import LossInputs, Quantity, Requirements, ScoredPositions, SideOutputs
from expunge.models.packed import LmHead, UnknownLmHead, plain_head
from expunge.training.forward import ForwardOutput, ForwardSpec, forward, spec_for
from expunge.training.reference import Reference
from expunge.training.throughput import InputCounter

log = logging.getLogger(__name__)
PROBE = 8  # positions of the first batch at which the head is compared with the model
SIDES = ("forget", "alternate", "retain")


@dataclass(frozen=True)
class TrainingSample:
    """One sample of a step: a row number of each side that takes part, or several on the retain side."""

    forget: int | None = None
    retain: int | tuple[int, ...] | None = None
    alternate: int | None = None

    def numbers(self, side: str) -> tuple[int, ...]:
        """The sample's rows of a side, in order."""
        rows: int | tuple[int, ...] | None = getattr(self, side)
        if rows is None:
            return ()
        return rows if isinstance(rows, tuple) else (rows,)


class LossInputBuilder:
    """Serves views of samples drawn from encoded rows.

    references: by side what the model before unlearning says, and under `<side>_teacher` what a teacher says.
    logits_chunk_size: logits are computed for so many positions at a time where a loss and the model's head allow it
    (0: all at once). reading: where what is read is counted.
    """

    def __init__(
        self,
        needs: Requirements,
        rows: Mapping[str, Sequence[Encoded]],
        references: Mapping[str, Reference],
        *,
        pad_id: int,
        logits_chunk_size: int = 0,
        reading: InputCounter | None = None,
    ) -> None:
        self._reading = InputCounter() if reading is None else reading
        self._rows, self._references, self._pad, self._chunk = rows, references, pad_id, logits_chunk_size
        self._known = False
        self._asks = {s: a for s in SIDES if (a := spec_for(needs, s)) is not None}
        self.memory: dict[str, Any] = {}

    def view(self, model: Any, samples: Sequence[TrainingSample], *, device: Any) -> LossInputs:
        """All sides of these samples. Sides that can share a forward do."""
        numbers = {s: [i for x in samples for i in x.numbers(s)] for s in self._asks}
        served: dict[str, SideOutputs] = {}
        for group in self._groups():
            self._together(model, group, numbers, device, served)
        return LossInputs(**served, memory=self.memory)

    def answer_tokens(self, samples: Sequence[TrainingSample]) -> dict[str, list[int]]:
        """By side, the scored tokens of each row of these samples."""
        return {
            side: [scored_tokens(self._rows[side][i]) for x in samples for i in x.numbers(side)] for side in self._asks
        }

    def _groups(self) -> list[list[str]]:
        """Sides by forward: one for all that read the LM head, one for a layer, one each where padding counts."""
        groups: dict[Any, list[str]] = {}
        for side, what in self._asks.items():
            alone = what.positions is ScoredPositions.ALL
            groups.setdefault(side if alone else (what.positions, what.layer), []).append(side)
        return list(groups.values())

    def _together(
        self,
        model: Any,
        sides: Sequence[str],
        numbers: Mapping[str, Sequence[int]],
        device: Any,
        served: dict[str, SideOutputs],
    ) -> None:
        """One padded batch of all these sides' rows, one forward, split again by side."""
        what = self._asks[sides[0]]
        began = time.perf_counter()
        encoded = [self._rows[s][i] for s in sides for i in numbers[s]]
        whole = collate(encoded, pad_id=self._pad, positions=what.positions.value)
        n_rows = [len(numbers[s]) for s in sides]
        parts = _split_batch(whole, n_rows)
        whole, sizes = whole.to(device), [len(p.token_N) for p in parts]
        self._reading.add(row_lengths(encoded), time.perf_counter() - began)
        said = self._ask(model, whole, what)
        logps: Sequence[Tensor | None] = [None] * len(sides)
        if all(
            self._asks[s].serve is Quantity.LOGPS for s in sides
        ):  # then the head's gradient is made once, not by side
            logps = said.logps(whole.token_N).split(sizes)
        for side, part, its, logps_N in zip(sides, parts, said.split(sizes), logps, strict=True):
            batch = part.to(device)
            served[side] = its.side(batch, self._asks[side], logps_N=logps_N)
            for key, name in ((side, f"{side}_ref"), (f"{side}_teacher", f"{side}_teacher")):
                if key in self._references:
                    served[name] = self._references[key].side(numbers[side], batch)

    def _ask(self, model: Any, batch: Batch, what: ForwardSpec) -> ForwardOutput:
        """The model's answer, by chunks if they are wanted and the head is a known one (the first answer tells)."""
        if self._chunk and what.serve is not Quantity.HIDDEN and plain_head(model):
            try:
                said = forward(
                    model, batch, what, head=LmHead(model), chunk=self._chunk, probe=0 if self._known else PROBE
                )
            except UnknownLmHead:
                log.warning(
                    "logits_chunk_size: this model changes its logits after the LM head, so they are kept whole"
                )
                self._chunk = 0
            else:
                self._known = True
                return said
        return forward(model, batch, what)


def _split_batch(whole: Batch, n_rows: Sequence[int]) -> list[Batch]:
    """A batch in consecutive parts of so many rows; positions are listed row after row."""
    out: list[Batch] = []
    first = 0
    per_row = torch.bincount(whole.row_N, minlength=whole.n_rows)
    ends = torch.cat([torch.zeros(1, dtype=torch.long), per_row.cumsum(0)]).tolist()
    for n in n_rows:
        rows, at = slice(first, first + n), slice(ends[first], ends[first + n])
        out.append(
            Batch(
                ids_BT=whole.ids_BT[rows],
                mask_BT=whole.mask_BT[rows],
                row_N=whole.row_N[at] - first,
                pos_N=whole.pos_N[at],
                token_N=whole.token_N[at],
                labelled_N=None if whole.labelled_N is None else whole.labelled_N[at],
            )
        )
        first += n
    return out
