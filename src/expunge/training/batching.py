"""Compute the `LossInputs` of rows: the quantities that a loss requires, with as few forwards as possible."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from expunge.data.batch import Batch, collate, scored_tokens
from expunge.data.encoder import Encoded, row_lengths
from expunge.methods.api import LossInputs, Quantity, Requirements, ScoredPositions, SideOutputs
from expunge.models.packed import LmHead, UnknownLmHead, plain_head
from expunge.training.forward import ForwardOutput, forward
from expunge.training.phases import ROLLOUT, SIDES, ForwardSpec, TrainingSample, spec_for
from expunge.training.reference import Reference
from expunge.training.throughput import InputCounter

if TYPE_CHECKING:
    from expunge.training.rollouts import RolloutSampler

log = logging.getLogger(__name__)
PROBE = 8  # positions of the first batch at which the head is compared with the model


class LossInputBuilder:
    """Compute the loss inputs of samples that are drawn from encoded rows.

    references: the outputs of the model before unlearning by side, and of a teacher under `<side>_teacher`.
    logits_chunk_size: the number of positions whose logits are computed at a time, if the loss and the model's head
    allow it (0: all at once). reading: counts the tokens that are read. rollouts: samples the texts of a step, for
    losses that require them.
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
        rollouts: RolloutSampler | None = None,
    ) -> None:
        self._reading = InputCounter() if reading is None else reading
        self._rows, self._references, self._pad, self._chunk = dict(rows), references, pad_id, logits_chunk_size
        self._known, self._marks = False, bool(needs.marks)
        self._specs = {s: a for s in (*SIDES, ROLLOUT) if (a := spec_for(needs, s)) is not None}
        self._rollouts, self._rollout_sides = rollouts if ROLLOUT in self._specs else None, needs.rollout_sides
        self.memory: dict[str, Any] = {}

    def view(self, model: Any, samples: Sequence[TrainingSample], *, device: Any, step: int = 0) -> LossInputs:
        """Return the loss inputs of these samples. Sides share a forward if they can.

        step: the number of steps of the run before this one, from which rollouts have their seed.
        """
        numbers = {s: [i for x in samples for i in x.numbers(s)] for s in self._specs if s != ROLLOUT}
        rewards_B = None
        if self._rollouts is not None:
            of = {side: [i for x in samples for i in x.numbers(side)] for side in self._rollout_sides}
            batch = self._rollouts(model, of["forget"], step, of.get("retain", ()))
            self._rows[ROLLOUT], numbers[ROLLOUT] = batch.rows, list(range(len(batch.rows)))
            rewards_B = torch.tensor(batch.rewards, device=device)
        inputs: dict[str, SideOutputs] = {}
        for group in self._groups():
            self._together(model, group, numbers, device, inputs)
        return LossInputs(**inputs, rewards_B=rewards_B, memory=self.memory)

    def answer_tokens(self, samples: Sequence[TrainingSample]) -> dict[str, list[int]]:
        """Return the number of scored tokens of each row of these samples, by side. Rollouts count as forget rows."""
        sides = {"forget" if side == ROLLOUT else side for side in self._specs}
        return {side: [scored_tokens(self._rows[side][i]) for x in samples for i in x.numbers(side)] for side in sides}

    def _groups(self) -> list[list[str]]:
        """Return the sides of each forward: one for all that read the LM head, one per layer, one each with padding."""
        groups: dict[Any, list[str]] = {}
        for side, spec in self._specs.items():
            alone = spec.positions is ScoredPositions.ALL
            groups.setdefault(side if alone else (spec.positions, spec.layer), []).append(side)
        return list(groups.values())

    def _together(
        self,
        model: Any,
        sides: Sequence[str],
        numbers: Mapping[str, Sequence[int]],
        device: Any,
        inputs: dict[str, SideOutputs],
    ) -> None:
        """Run one forward over one padded batch of these sides' rows, and split the output by side."""
        spec = self._specs[sides[0]]
        began = time.perf_counter()
        encoded = [self._rows[s][i] for s in sides for i in numbers[s]]
        whole = collate(encoded, pad_id=self._pad, positions=spec.positions.value, marks=self._marks)
        n_rows = [len(numbers[s]) for s in sides]
        parts = _split_batch(whole, n_rows)
        whole, sizes = whole.to(device), [len(p.token_N) for p in parts]
        self._reading.add(row_lengths(encoded), time.perf_counter() - began)
        output = self._run_forward(model, whole, spec)
        logps: Sequence[Tensor | None] = [None] * len(sides)
        if all(
            self._specs[s].serve is Quantity.LOGPS for s in sides
        ):  # the head's gradient is then computed once, not once per side
            logps = output.logps(whole.token_N).split(sizes)
        for side, part, of_side, logps_N in zip(sides, parts, output.split(sizes), logps, strict=True):
            batch = part.to(device)
            inputs[side] = of_side.side(batch, self._specs[side], logps_N=logps_N)
            for key, name in ((side, f"{side}_ref"), (f"{side}_teacher", f"{side}_teacher")):
                if key in self._references:
                    inputs[name] = self._references[key].side(numbers[side], batch)

    def _run_forward(self, model: Any, batch: Batch, spec: ForwardSpec) -> ForwardOutput:
        """Run the model; in chunks if they are set and its head is a known one, which the first forward shows."""
        if self._chunk and spec.serve is not Quantity.HIDDEN and plain_head(model):
            try:
                output = forward(
                    model, batch, spec, head=LmHead(model), chunk=self._chunk, probe=0 if self._known else PROBE
                )
            except UnknownLmHead:
                log.warning("logits_chunk_size has no effect: this model changes its logits after the LM head")
                self._chunk = 0
            else:
                self._known = True
                return output
        return forward(model, batch, spec)


def _split_batch(whole: Batch, n_rows: Sequence[int]) -> list[Batch]:
    """Return a batch in consecutive parts of `n_rows` rows; positions are listed row after row."""
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
                marked_N=None if whole.marked_N is None else whole.marked_N[at],
            )
        )
        first += n
    return out
