"""Inputs of an analysis: rows of token ids, the tokens that count, and padded batches of them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from expunge.core.errors import ConfigError, DataError
from expunge.core.records import Floats, Ints
from expunge.data.batch import Batch, budget_batches, collate
from expunge.data.encoder import Encoded, Encoder
from expunge.data.examples import ExampleSet
from expunge.models.capabilities import capabilities_of
from expunge.models.packed import BatchPositions, PackedOutput, packed_forward, token_logps

At = Literal["predicts", "own", "last"]


@dataclass(frozen=True)
class AnalysisInputs:
    """R rows. If `spans` is set only its tokens count, else every scored token (with EOS).

    spans: for each row the first and the end of its counted tokens; 0 is the row's first scored token. Batches have at
    most `token_budget` padded tokens. Raises DataError for a row without counted tokens.
    """

    rows: tuple[Encoded, ...]
    pad_id: int
    row_ids: tuple[int, ...] = ()
    spans: tuple[tuple[int, int], ...] | None = None
    token_budget: int = 8192

    def __post_init__(self) -> None:
        if not self.rows:
            raise DataError("rows: the list is empty")
        if not self.row_ids:
            object.__setattr__(self, "row_ids", tuple(range(len(self.rows))))
        if len(self.row_ids) != len(self.rows) or (self.spans is not None and len(self.spans) != len(self.rows)):
            raise DataError(f"row_ids and spans: expected one for each of the {len(self.rows)} rows")
        for i, row in enumerate(self.rows):
            n = len(row.ids) - max(row.n_prompt, 1)
            first, end = self.spans[i] if self.spans is not None else (0, n)
            if not 0 <= first < end <= n:
                raise DataError(f"row {self.row_ids[i]}: tokens {first} to {end} of {n} scored ones: none counts")

    def part(self, rows: slice) -> AnalysisInputs:
        """Return some of the rows."""
        spans = None if self.spans is None else self.spans[rows]
        return dataclasses.replace(self, rows=self.rows[rows], row_ids=self.row_ids[rows], spans=spans)

    @functools.cached_property
    def offsets(self) -> Ints:
        """Row i's counted tokens are offsets[i]:offsets[i + 1] of the N of all rows; shape (R + 1,)."""
        counts = [len(self.positions(i, "own")) for i in range(len(self.rows))]
        return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    def positions(self, i: int, at: At, last: int = 10) -> range:
        """Return positions in row i: before its counted tokens, their own, or the row's last `last` ones."""
        row = self.rows[i]
        if at == "last":
            return range(max(0, len(row.ids) - last), len(row.ids))
        first = max(row.n_prompt, 1)
        start, end = self.spans[i] if self.spans is not None else (0, len(row.ids) - first)
        shift = 1 if at == "predicts" else 0
        return range(first + start - shift, first + end - shift)

    def batches(self, model: Any, at: At = "predicts", last: int = 10) -> Iterator[tuple[list[int], Batch]]:
        """Yield right-padded batches with their rows; row_N and pos_N list the positions of `at`, row after row.

        token_N contains the counted tokens: the predicted token (at="predicts") or the token at the position. A model
        that gives other numbers in padded batches (`models.capabilities`) gets one row at a time.
        """
        lengths = [len(r.ids) for r in self.rows]
        budget = self.token_budget if capabilities_of(model).padded else 0
        for rows_of_batch in budget_batches(range(len(self.rows)), lengths, budget):
            batch = collate([self.rows[i] for i in rows_of_batch], pad_id=self.pad_id)
            places = [self.positions(i, at, last) for i in rows_of_batch]
            row_N = torch.tensor([k for k, place in enumerate(places) for _ in place])
            pos_N = torch.tensor([p for place in places for p in place])
            token_N = batch.ids_BT[row_N, pos_N + (at == "predicts")]
            batch = dataclasses.replace(batch, row_N=row_N, pos_N=pos_N, token_N=token_N)
            yield rows_of_batch, batch.to(device_of(model))

    def flat(self, rows_of_batch: Sequence[int]) -> Ints:
        """Return the indices of some rows' counted tokens among the N of all rows."""
        offsets = self.offsets
        return np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in rows_of_batch])


def analysis_inputs(
    rows: ExampleSet, encoder: Encoder, variant: str = "answer", *, token_budget: int = 8192
) -> AnalysisInputs:
    """Return one answer of every row that has it. Raises DataError if none has, or a prompt leaves no room."""
    saved = [r for r in rows.rows if variant in r.answers]
    if not saved:
        raise DataError(f"{rows.name}: no row has an answer {variant!r}")
    return AnalysisInputs(
        tuple(encoder.row(rows, r, variant) for r in saved),
        int(encoder.tokenizer.pad_token_id),
        tuple(r.row_id for r in saved),
        token_budget=token_budget,
    )


def find_span(tokenizer: Any, row: Encoded, text: str) -> tuple[int, int] | None:
    """Return the span of scored tokens that contains the first occurrence of `text`, or None."""
    ids = row.ids[max(row.n_prompt, 1) :]
    ends = [len(tokenizer.decode(ids[: k + 1])) for k in range(len(ids))]
    start = tokenizer.decode(ids).find(text) if text else -1
    if start < 0:
        return None
    first = next(k for k, end in enumerate(ends) if end > start)
    last = next(k for k, end in enumerate(ends) if end >= start + len(text))
    return first, last + 1


def forward(model: Any, batch: Batch) -> PackedOutput:
    """Return logits at a batch's positions. Rows are right-padded, so causal attention needs no mask."""
    return packed_forward(model, BatchPositions(batch.ids_BT, batch.mask_BT, batch.row_N, batch.pos_N), use_mask=False)


def device_of(model: Any) -> torch.device:
    """Return the device of a model's first parameter."""
    device: torch.device = next(model.parameters()).device
    return device


def answer_logps(model: Any, inputs: AnalysisInputs) -> Floats:
    """Return log p of every counted token in nats, shape (N,), row after row (`inputs.offsets`)."""
    out = np.full(int(inputs.offsets[-1]), np.nan)
    model.eval()
    with torch.inference_mode():
        for rows_of_batch, batch in inputs.batches(model):
            logps = token_logps(forward(model, batch).logits_NV, batch.token_N)
            out[inputs.flat(rows_of_batch)] = logps.double().cpu().numpy()
    return out


def row_means(values_N: Floats, inputs: AnalysisInputs) -> Floats:
    """Return the mean of each row's tokens, shape (..., N) -> (..., R)."""
    return np.add.reduceat(values_N, inputs.offsets[:-1], axis=-1) / np.diff(inputs.offsets)


def mean_loss(model: Any, inputs: AnalysisInputs) -> float:
    """Return the mean over rows of a row's mean negative log-likelihood, in nats per token."""
    return -float(row_means(answer_logps(model, inputs), inputs).mean())


@contextmanager
def swapped(model: Any, changed: Mapping[str, Tensor]) -> Iterator[None]:
    """Set other values of the named parameters inside the block, and restore them bit for bit after it.

    Raises ConfigError for a name the model does not have.
    """
    own = dict(model.named_parameters())
    for name in changed:
        if name not in own:
            raise ConfigError(f"the model has no parameter {name!r}")
    saved = {name: own[name].detach().clone() for name in changed}
    try:
        with torch.no_grad():
            for name, value in changed.items():
                own[name].copy_(value)
        yield
    finally:
        with torch.no_grad():
            for name, value in saved.items():
                own[name].copy_(value)
