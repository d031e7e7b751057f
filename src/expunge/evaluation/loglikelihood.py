"""The teacher-forced pass: read every answer of a set once, and store the statistics of each token for metrics.

Answers to one question share its tokens. If it saves work, the question is read once into a cache, and each answer
continues from the cache. A prefix of all rows (solved examples) is read once for the whole set. A sequence's last token
predicts nothing and is not read, so one-token options cost no more than their question.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from expunge.core.errors import DataError
from expunge.core.records import TOKENS, Ints
from expunge.data.batch import budget_batches, collate, joined, ragged
from expunge.data.encoder import Encoded, Encoder
from expunge.data.examples import Example, ExampleSet
from expunge.evaluation.config import CACHED_PER_TOKEN, SCORED_LOGITS, SCORED_TOKENS, TRUNCATED
from expunge.evaluation.kinds import wanted_variants
from expunge.evaluation.observation import capabilities
from expunge.evaluation.prefix_cache import PrefixCache, common_length, read_on, slides
from expunge.evaluation.token_stats import empty_columns, fill
from expunge.models.capabilities import check_ids, n_logits, padding_id
from expunge.models.load import context_in
from expunge.models.packed import BatchPositions, packed_forward

Progress = Callable[[int], None]
Columns = Mapping[str, np.ndarray[Any, Any]]
BUDGET = {"cpu": 2048}  # tokens per batch: their activations fit a processor's cache
WORTH = 0.15  # minimum share of a row's tokens that a shared question must save
SHOTS = 32  # minimum length of a prefix of the whole set


@dataclass(frozen=True)
class _ScoreItem:
    """One answer. `slot`: the line of its first scored token."""

    row_id: int
    variant: str
    encoded: Encoded
    slot: int = 0

    @property
    def first(self) -> int:
        """The position of the first scored token; the first token of a sequence has no prediction."""
        return max(self.encoded.n_prompt, 1)

    @property
    def n_scored(self) -> int:
        """The number of scored tokens."""
        return max(0, len(self.encoded.ids) - self.first)

    @property
    def read(self) -> tuple[int, ...]:
        """The tokens that the model reads: all but the last."""
        return self.encoded.ids[:-1]


@dataclass(frozen=True)
class _PrefixGroup:
    """The answers of a row, and the length of their common prefix."""

    items: tuple[_ScoreItem, ...]
    n_shared: int


def encode_items(
    rows: ExampleSet, names: Sequence[str], encoder: Encoder, only: Collection[int] | None = None
) -> list[_ScoreItem]:
    """Encode the named answers of every row (of `only` these), sorted by row and variant.

    Raises:
        DataError: If an answer is empty, or a row cannot be encoded.
    """
    answers: list[tuple[Example, str]] = []
    for row in rows.rows:
        if only is not None and row.row_id not in only:
            continue
        for name in sorted(wanted_variants(row, names)):
            if not row.text(name).strip():
                raise DataError(f"{rows.name} row {row.row_id}: {name!r} is empty; an answer needs text to be scored")
            answers.append((row, name))
    items: list[_ScoreItem] = []
    slot = 0
    for (row, name), encoded in zip(answers, encoder.rows(rows, answers), strict=True):
        items.append(_ScoreItem(row.row_id, name, encoded, slot))
        slot += items[-1].n_scored
    return items


def score_tokens(
    model: Any,
    rows: ExampleSet,
    names: Sequence[str],
    encoder: Encoder,
    *,
    token_budget: int | None = None,
    progress: Progress | None = None,
    shared_prefix: bool = True,
    only: Collection[int] | None = None,
) -> pa.Table:
    """Score answers teacher-forced, token by token.

    Batches are sorted by length and depend on the rows alone, so the same model and rows give the same bytes.

    Args:
        model: A causal language model.
        rows: The examples.
        names: The answers, by variant or stem ("perturbed" for all `perturbed_i`).
        encoder: The template and the tokenizer.
        token_budget: The maximum tokens of a padded batch. None: the device's default.
        progress: Receives the number of answers of each batch.
        shared_prefix: False reads every answer with its whole question, which differs by rounding only.
        only: The ids of the rows to score. None: all.

    Returns:
        A TOKENS table, sorted by row, variant and position. Its metadata has the number of answers that were cut at the
        template's `max_length` (`truncated_answers`).

    Raises:
        DataError: If an answer is empty, or longer than the model's context.
    """
    items = encode_items(rows, names, encoder, only)
    check_context(context_length(model), rows, items)
    n = items[-1].slot + items[-1].n_scored if items else 0
    columns = empty_columns(n, next(model.parameters()).dtype)
    model.eval()
    check_ids(model, [(f"{rows.name} row {i.row_id} {i.variant!r}", i.encoded.ids) for i in items])
    capabilities(model)  # observed before the first pass, which reads it
    pad_id = padding_id(model, encoder.tokenizer.pad_token_id)
    budget = token_budget or BUDGET.get(next(model.parameters()).device.type, SCORED_TOKENS)
    with torch.inference_mode():
        for done in _passes(model, items, columns, pad_id, budget, shared_prefix):
            if progress:
                progress(done)
    cut = sum(1 for item in items if item.encoded.truncated)
    return _table(items, columns, encoder).replace_schema_metadata({TRUNCATED: str(cut)})


def check_context(context: int | None, rows: ExampleSet, items: Sequence[_ScoreItem]) -> None:
    """Raise DataError for an answer that is longer than a model's context."""
    for item in items:
        if context is not None and rows.max_length is not None and item.encoded.n_prompt >= context:
            raise DataError(
                f"{rows.name} row {item.row_id}: its prompt alone has {item.encoded.n_prompt} tokens, and the model's "
                f"context is {context}; these rows need a model with a longer context, or other metrics (eval.metrics=)"
            )
        if context is not None and len(item.encoded.ids) > context:
            raise DataError(
                f"{rows.name} row {item.row_id}: {item.variant!r} with its question has {len(item.encoded.ids)} "
                f"tokens, but the model's context is {context}; to cut and count such rows, set {rows.limit_setting}"
            )


def context_length(model: Any) -> int | None:
    """Return the maximum number of positions of a model; None if its configuration sets no limit."""
    config = getattr(model, "config", None)
    return None if config is None else context_in(config)


def _passes(
    model: Any, items: Sequence[_ScoreItem], columns: Columns, pad_id: int, budget: int, shared_prefix: bool
) -> Any:
    """Run the model over all items and fill the columns; yield the number of items of each batch."""
    groups, n_all, alone = _plan(model, items) if shared_prefix else ([], 0, list(items))
    vocabulary = n_logits(model)
    scale = vocabulary * budget / SCORED_LOGITS
    for batch in budget_batches(alone, [max(len(i.encoded.ids), int(i.n_scored * scale)) for i in alone], budget):
        _score_alone(model, batch, columns, pad_id)
        yield len(batch)
    if not groups:
        return
    start = _read_start(model, groups[0].items[0].read[:n_all], pad_id)
    lengths = [max(g.n_shared - n_all, g.n_shared // CACHED_PER_TOKEN, 1) for g in groups]
    for some in budget_batches(groups, lengths, budget):
        _score_groups(model, some, start, columns, pad_id, budget, scale)
        yield sum(len(g.items) for g in some)


def _plan(model: Any, items: Sequence[_ScoreItem]) -> tuple[list[_PrefixGroup], int, list[_ScoreItem]]:
    """Return the rows with a shared prefix, the length of the prefix of all rows, and the items that are read alone."""
    if not capabilities(model).shared_prefix:
        return [], 0, list(items)
    by_row: dict[int, list[_ScoreItem]] = {}
    for item in items:
        if item.n_scored:
            by_row.setdefault(item.row_id, []).append(item)
    groups = [_PrefixGroup(tuple(some), common_length([i.read for i in some])) for some in by_row.values()]
    n_all = 0
    if len(groups) > 1 and not slides(model):
        every = [i for g in groups for i in g.items]
        unscored = min(i.first for i in every) - 1  # the prefix must not contain the prediction of a scored token
        n_all = min(common_length([i.read for i in every]), min(g.n_shared for g in groups) - 1, unscored)
    if n_all >= SHOTS:
        return groups, n_all, []
    shared = [g for g in groups if g.n_shared * (len(g.items) - 1) >= WORTH * _size(g)]
    rows = {g.items[0].row_id for g in shared}
    return shared, 0, [i for i in items if i.row_id not in rows]


def _size(group: _PrefixGroup) -> int:
    """Return the number of tokens of a row's answers, each with its whole question."""
    return sum(len(i.read) for i in group.items)


def _score_alone(model: Any, items: Sequence[_ScoreItem], columns: Columns, pad_id: int) -> None:
    """Score each item with its whole question, in one padded batch."""
    batch = collate([i.encoded for i in items], pad_id=pad_id).to(next(model.parameters()).device)
    if not len(batch.token_N):
        return
    packed = packed_forward(
        model, BatchPositions(batch.ids_BT, batch.mask_BT, batch.row_N, batch.pos_N), use_mask=False
    )
    slot_N = ragged([i.slot for i in items], [i.n_scored for i in items])[1]
    fill(columns, packed.logits_NV, np.arange(len(slot_N)), batch.token_N.cpu().numpy(), slot_N)


def _read_start(model: Any, ids: Sequence[int], pad_id: int) -> PrefixCache | None:
    """Return the cache of the prefix of all rows; None if there is none."""
    if not ids:
        return None
    nowhere = torch.zeros(0, dtype=torch.long)
    return read_on(model, None, [ids], (nowhere, nowhere), pad_id=pad_id, side="left")[0]


class _ScoreRequest:
    """The predictions that one forward must return, and the tokens to score with each."""

    def __init__(self) -> None:
        self.items: list[_ScoreItem] = []
        self.spans: list[tuple[int, int, int, int]] = []  # row of the forward, its first position, positions low..high

    def add(self, row: int, item: _ScoreItem, low: int, high: int) -> None:
        """Add the scored tokens of an item that the tokens at positions low..high-1 predict; the row begins there."""
        self.items.append(item)
        self.spans.append((row, low, max(low, item.first - 1), min(high, len(item.encoded.ids) - 1)))

    def lines(self) -> tuple[Ints, Ints, Ints, Ints]:
        """Return of each prediction: row of the forward, position in the row, token, slot."""
        row_I, begin_I, low_I, high_I = np.array(self.spans, dtype=np.int64).reshape(-1, 4).T
        of_N, place_N = ragged(low_I, np.maximum(0, high_I - low_I))
        lengths = np.array([len(i.encoded.ids) for i in self.items], dtype=np.int64)
        start_I, slot_I = np.cumsum(lengths) - lengths, np.array([i.slot - i.first + 1 for i in self.items], np.int64)
        token_N = joined([i.encoded.ids for i in self.items])[start_I[of_N] + place_N + 1]
        return row_I[of_N], place_N - begin_I[of_N], token_N, slot_I[of_N] + place_N

    def answer(self, read: Callable[[tuple[torch.Tensor, torch.Tensor]], Any], columns: Columns) -> Any:
        """Run the forward and fill the columns. Return the cache to continue from."""
        row, place, token, slot = self.lines()
        width = int(place.max(initial=0)) + 1
        at, which = np.unique(row * width + place, return_inverse=True)
        order = np.argsort(which, kind="stable")
        prefix, logits_UV = read((torch.from_numpy(at // width), torch.from_numpy(at % width)))
        fill(columns, logits_UV, which[order], token[order], slot[order])
        return prefix


def _score_groups(
    model: Any,
    groups: Sequence[_PrefixGroup],
    start: PrefixCache | None,
    columns: Columns,
    pad_id: int,
    budget: int,
    scale: float,
) -> None:
    """Score rows whose questions are read once, with their answers from the cache."""
    n_all = 0 if start is None else start.mask_BT.shape[1]
    device = next(model.parameters()).device
    request = _ScoreRequest()
    for k, group in enumerate(groups):
        for item in group.items:
            request.add(k, item, n_all, group.n_shared)
    before = None if start is None else start.rows(torch.zeros(len(groups), dtype=torch.long, device=device))
    ids = [g.items[0].read[n_all : g.n_shared] for g in groups]
    read = request.answer(lambda at: read_on(model, before, ids, at, pad_id=pad_id, side="left"), columns)
    tails = [(k, i) for k, g in enumerate(groups) for i in g.items if len(i.read) > g.n_shared]
    costs = []
    for k, item in tails:
        n = len(item.read) - groups[k].n_shared
        costs.append(max(n, len(item.read) // CACHED_PER_TOKEN, int(n * scale)))
    for some in budget_batches(tails, costs, budget):
        _score_tails(model, some, [groups[k].n_shared for k, _ in some], read, columns, pad_id)


def _score_tails(
    model: Any,
    tails: Sequence[tuple[int, _ScoreItem]],
    lows: Sequence[int],
    read: PrefixCache,
    columns: Columns,
    pad_id: int,
) -> None:
    """Score answers from the positions `lows` on, each after its row of the cache `read`."""
    request = _ScoreRequest()
    for k, ((_, item), low) in enumerate(zip(tails, lows, strict=True)):
        request.add(k, item, low, len(item.encoded.ids))
    before = read.rows(torch.tensor([k for k, _ in tails], device=read.mask_BT.device))
    ids = [item.read[low:] for (_, item), low in zip(tails, lows, strict=True)]
    request.answer(lambda at: read_on(model, before, ids, at, pad_id=pad_id, side="right"), columns)


def _scored_text(encoded: Encoded, encoder: Encoder) -> bytes:
    """Return the text of the scored tokens without special ones, as UTF-8."""
    ids = encoded.ids[max(encoded.n_prompt, 1) :]
    ids = ids[: len(ids) - encoder.n_end(ids)]  # the end may be no special token
    text: str = encoder.tokenizer.decode(ids, skip_special_tokens=True)
    return text.encode()


def _table(items: Sequence[_ScoreItem], columns: Columns, encoder: Encoder) -> pa.Table:
    items = [i for i in items if i.n_scored]
    if not items:
        return TOKENS.empty_table()
    counts = np.array([i.n_scored for i in items])
    ends = np.cumsum(counts)
    of_item = np.repeat(np.arange(len(items)), counts)
    position = np.arange(ends[-1]) - np.repeat(ends - counts, counts)
    token_id = joined([i.encoded.ids[i.first :] for i in items]).astype(np.int32)
    names = sorted({i.variant for i in items})
    code = {name: k for k, name in enumerate(names)}
    variant = np.array([code[i.variant] for i in items], dtype=np.int32)[of_item]
    texts = [_scored_text(i.encoded, encoder) for i in items]
    first_end = np.array([i.n_scored - encoder.n_end(i.encoded.ids[i.first :]) for i in items])
    values = {
        "row_id": np.array([i.row_id for i in items], dtype=np.int32)[of_item],
        "variant": pa.DictionaryArray.from_arrays(pa.array(variant), pa.array(names)).cast(pa.string()),
        "position": position.astype(np.int32),
        "token_id": token_id,
        "is_eos": position >= first_end[of_item],
        "zlib": np.array([len(zlib.compress(text)) for text in texts], dtype=np.int32)[of_item],
        "n_bytes": np.array([len(text.lstrip(b" ")) for text in texts], dtype=np.int32)[of_item],
        **columns,
    }
    return pa.table({n: pa.array(values[n], type=TOKENS.field(n).type) for n in TOKENS.names}, schema=TOKENS)
