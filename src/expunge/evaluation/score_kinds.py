"""The record kinds of the two passes over answers and prompts: tokens, texts (greedy generations) and samples."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from expunge.core.records import TEXTS, TOKENS, GeneratedTexts, text_records, texts_table, token_records
from expunge.data.examples import ANSWER, ExampleSet
from expunge.evaluation.distributed import (
    RankShard,
    generate_texts_sharded,
    score_tokens_sharded,
    this_rank_shard,
)
from expunge.evaluation.kinds import ScoringInputs, record_kind
from expunge.evaluation.speculative import drafts_of


@record_kind("tokens", schema=TOKENS, read=lambda table, examples: token_records(table), cost=2.0, collective=True)
def tokens(inputs: ScoringInputs) -> pa.Table:
    """Read each answer teacher-forced: one line per scored token."""
    return score_tokens_sharded(
        inputs.model,
        inputs.examples,
        inputs.names,
        inputs.encoder,
        _shard(inputs),
        token_budget=inputs.batch_tokens,
        progress=inputs.progress,
    )


def read_texts(table: pa.Table, examples: ExampleSet) -> GeneratedTexts:
    """Return the generations of a TEXTS table, with the examples' answers to compare them with."""
    return GeneratedTexts(text_records(table), {row.row_id: row.answers for row in examples})


def _generate(inputs: ScoringInputs) -> pa.Table:
    drafts = None
    if inputs.tokens is not None:
        answers = inputs.tokens.filter(pc.equal(inputs.tokens["variant"], ANSWER))
        drafts = drafts_of(token_records(answers), ANSWER)
    texts = generate_texts_sharded(
        inputs.model,
        inputs.examples,
        ANSWER,
        inputs.encoder,
        inputs.generation,
        _shard(inputs),
        token_budget=inputs.batch_tokens,
        progress=inputs.progress,
        drafts=drafts,
    )
    return texts_table(texts)


@record_kind("texts", schema=TEXTS, read=read_texts, cost=8.0, settings="generation", collective=True)
def texts(inputs: ScoringInputs) -> pa.Table:
    """Generate an answer to each question, greedily by default: one line per text."""
    return _generate(inputs)


@record_kind("samples", schema=TEXTS, read=read_texts, cost=8.0, settings="sampling", collective=True)
def samples(inputs: ScoringInputs) -> pa.Table:
    """Generate several answers to each question at a temperature: one line per text."""
    return _generate(inputs)


def _shard(inputs: ScoringInputs) -> RankShard:
    """Return this process's share of the examples."""
    return RankShard() if inputs.whole else this_rank_shard()
