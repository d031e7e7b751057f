"""The prompts and the outputs of generation, the same for every engine, and drafts of greedy texts from scores.

A draft is the first tokens of the true answer that the model would generate anyway.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from expunge.core.errors import DataError
from expunge.core.records import Floats, TokenRecords
from expunge.data.encoder import Encoder
from expunge.data.examples import Example, ExampleSet
from expunge.evaluation.config import Generation
from expunge.metrics.api import Metric
from expunge.metrics.compute import requests

# A token with a higher probability is the first choice by a logit margin of at least 0.4, more than the rounding error
# of another batch, in half precision too.
SURE = 0.6

DraftTexts = Mapping[int, tuple[int, ...]]  # by row


@dataclass(frozen=True)
class Prompt:
    """One text to generate: its prompt, its maximum number of tokens, and its first tokens if they are known."""

    row_id: int
    sample: int
    text: str
    ids: tuple[int, ...]
    limit: int
    draft: tuple[int, ...] = ()

    def key(self, seed: int) -> bytes:
        """Return 32 bytes that are unique to the row, the sample and the seed."""
        return hashlib.sha256(f"{seed}/{self.row_id}/{self.sample}".encode()).digest()


@dataclass(frozen=True)
class PromptBatch:
    """The new tokens of a prompt, with the end token if there is one; None if the logits are NaN."""

    ids: list[int] | None
    stopped: bool


def make_prompts(
    rows: ExampleSet, encoder: Encoder, generation: Generation, context: int | None, only: Collection[int] | None
) -> list[Prompt]:
    """Return every prompt and sample. Raises DataError with the row if a prompt fills the model's context."""
    out: list[Prompt] = []
    examples = [row for row in rows.rows if only is None or row.row_id in only]
    for row, prompt in zip(examples, encoder.row_prompts(rows, examples), strict=True):
        ids = tuple(prompt)
        room = generation.max_new_tokens if context is None else min(generation.max_new_tokens, context - len(ids))
        if room < 1:
            raise DataError(
                f"{rows.name} row {row.row_id}: the prompt has {len(ids)} tokens, which fill the model's context of "
                f"{context}; shorten it, because no token can be generated"
            )
        out += [Prompt(row.row_id, sample, row.question, ids, room) for sample in range(generation.samples)]
    return out


def check_lengths(
    metrics: Iterable[Metric],
    sets: Mapping[str, ExampleSet],
    encoder: Encoder,
    generation: Generation,
    context: int | None,
) -> None:
    """Raise DataError for a row to measure that leaves no room for its answer, before a model is trained.

    Only rows whose number of bytes does not rule that out are tokenised.

    Args:
        metrics: The metrics that will read the rows.
        sets: The examples.
        encoder: The template and the tokenizer.
        generation: The settings of generated texts.
        context: The maximum number of the model's positions; None if it is unknown.
    """
    from expunge.evaluation.loglikelihood import check_context, encode_items

    def long(rows: ExampleSet) -> set[int]:
        if rows.long != "right" or rows.n_tokens is not None:
            return set()  # such prompts are cut on the left
        limit = min(rows.max_length or encoder.max_length, context or math.inf)
        return {row.row_id for row in long_rows(rows, encoder, limit)}

    requested = requests(metrics)
    for name, variants in requested.tokens.items():
        if ids := long(sets[name]):
            check_context(context, sets[name], encode_items(sets[name], variants, encoder, ids))
    for name in requested["texts"]:
        if context is not None and (ids := long(sets[name])):
            make_prompts(sets[name], encoder, generation, context, ids)


def long_rows(rows: ExampleSet, encoder: Encoder, limit: float) -> list[Example]:
    """Return the rows whose longest answer may have more than `limit` tokens with its question.

    No other row needs tokens to be ruled out: a token has at least one byte.
    """
    if not rows.rows:
        return []
    frame = len(encoder.row_prompt(rows, rows[0])) + len(rows[0].question.encode())
    return [row for row in rows.rows if frame + _most_bytes(row) >= limit]


def _most_bytes(row: Example) -> int:
    """Return the number of bytes of a row's texts with its longest answer."""
    texts = (row.question, *itertools.chain(*row.turns), row.trace or "")
    longest = max((len(text.encode()) for text in row.answers.values()), default=0)
    return len("".join(texts).encode()) + longest


def draws(seed: int, prompt: Prompt) -> Floats:
    """Return the uniform numbers in [0, 1) that draw the tokens of one text, shape (limit,)."""
    key = int.from_bytes(prompt.key(seed)[:16], "little")
    return np.random.Generator(np.random.Philox(key=key)).random(prompt.limit)


def drafts_of(records: TokenRecords, variant: str) -> DraftTexts:
    """Return the first tokens of each row's answer, up to the first whose probability is at most SURE."""
    answers = records.by_variant.get(variant)
    if answers is None:
        return {}
    rows = zip(answers.row_ids, answers.by_row(answers.token_id), answers.by_row(answers.logp), strict=True)
    return {int(row): tuple(ids[: _n_first(logp > math.log(SURE))].tolist()) for row, ids, logp in rows}


def _n_first(true: npt.NDArray[np.bool_]) -> int:
    """Return the number of True values before the first False."""
    return len(true) if true.all() else int(true.argmin())


def with_drafts(
    prompts: Sequence[Prompt], drafts: DraftTexts, rows: ExampleSet, reference: str, encoder: Encoder
) -> list[Prompt]:
    """Return the prompts with their drafts, if the answer was scored after exactly the tokens of the prompt."""
    known = {p.row_id for p in prompts if drafts.get(p.row_id)}
    answers = [(row, reference) for row in rows.rows if row.row_id in known]
    whole = {row.row_id: e for (row, _), e in zip(answers, encoder.rows(rows, answers), strict=True)}
    out: list[Prompt] = []
    for p in prompts:
        draft = drafts.get(p.row_id, ())[: p.limit]
        scored = whole.get(p.row_id)
        begins = p.ids + draft
        fits = scored is not None and scored.n_prompt == len(p.ids) > 0 and scored.ids[: len(begins)] == begins
        out.append(dataclasses.replace(p, draft=draft) if fits else p)
    return out
