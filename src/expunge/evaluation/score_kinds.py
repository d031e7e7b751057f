"""The record kinds of the package. Each imports its pass over the model when it computes, so a plan needs no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from expunge.core.errors import JobError
from expunge.core.records import (
    AGREEMENT,
    GRADS,
    JUDGEMENTS,
    SIMILARITY,
    TEXTS,
    TOKENS,
    GeneratedTexts,
    Similarities,
    similarity_records,
    text_records,
    texts_table,
    token_records,
)
from expunge.data.examples import ANSWER, ExampleSet
from expunge.evaluation.kinds import NO_EMBEDDER, NO_JUDGE, NO_ORIGINAL, ScoringInputs, record_kind

if TYPE_CHECKING:
    from expunge.evaluation.distributed import RankShard


@record_kind("tokens", schema=TOKENS, read=lambda table, examples: token_records(table), cost=2.0, collective=True)
def tokens(inputs: ScoringInputs) -> pa.Table:
    """Read each answer teacher-forced: one line per scored token."""
    from expunge.evaluation.distributed import score_tokens_sharded

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
    """Return the generations of a TEXTS table, with the texts of the examples to compare them with, by name."""
    references = {row.row_id: {name: row.text(name) for name in row.names} for row in examples}
    traces = frozenset(row.row_id for row in examples if row.trace is not None)
    return GeneratedTexts(text_records(table), references, traces)


def _generate(inputs: ScoringInputs) -> pa.Table:
    import pyarrow.compute as pc

    from expunge.evaluation.distributed import generate_texts_sharded
    from expunge.evaluation.prompts import drafts_of

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
    from expunge.evaluation.distributed import RankShard, this_rank_shard

    return RankShard() if inputs.whole else this_rank_shard()


@record_kind("grads", schema=GRADS, cost=6.0)
def grads(inputs: ScoringInputs) -> pa.Table:
    """Measure the norms of the loss gradient of each answer."""
    from expunge.evaluation.gradients import score_grads

    return score_grads(inputs.model, inputs.examples, inputs.names, inputs.encoder, progress=inputs.progress)


@record_kind("agreement", schema=AGREEMENT, cost=4.0, needs="original")
def agreement(inputs: ScoringInputs) -> pa.Table:
    """Compare the model with the original one at each token of an answer."""
    from expunge.evaluation.agreement import BUDGET, score_agreement

    if inputs.original is None:
        raise JobError(NO_ORIGINAL)
    return score_agreement(
        inputs.model,
        inputs.original(),
        inputs.examples,
        inputs.names,
        inputs.encoder,
        token_budget=inputs.batch_tokens or BUDGET,
        progress=inputs.progress,
    )


def _similarity(inputs: ScoringInputs) -> pa.Table:
    """Compare stored generations with the named answers. The model itself is not read."""
    from expunge.evaluation.similarity import Embedder, score_similarity

    if inputs.embedder is None or inputs.source is None:
        raise JobError(NO_EMBEDDER)
    embedder = inputs.embedder
    if isinstance(embedder, str):
        embedder = Embedder(embedder, next(inputs.model.parameters()).device)
    table = score_similarity(embedder, read_texts(inputs.source, inputs.examples), inputs.names)
    if inputs.progress:
        inputs.progress(table.num_rows)
    return table


def read_similarity(table: pa.Table, examples: ExampleSet) -> Similarities:
    """Return the records of a SIMILARITY table."""
    return similarity_records(table)


@record_kind("texts_similarity", schema=SIMILARITY, read=read_similarity, cost=0.0, needs="embedder", follows="texts")
def texts_similarity(inputs: ScoringInputs) -> pa.Table:
    """Measure the similarity of greedy generations to answers, by an embedding model."""
    return _similarity(inputs)


@record_kind(
    "samples_similarity", schema=SIMILARITY, read=read_similarity, cost=0.0, needs="embedder", follows="samples"
)
def samples_similarity(inputs: ScoringInputs) -> pa.Table:
    """Measure the similarity of sampled generations to answers, by an embedding model."""
    return _similarity(inputs)


@record_kind("judgements", schema=JUDGEMENTS, cost=0.0, needs="judge", follows="texts")
def judgements(inputs: ScoringInputs) -> pa.Table:
    """Score greedy generations with a judge. The model itself is not read."""
    if inputs.judge is None or inputs.source is None:
        raise JobError(NO_JUDGE)
    generations = read_texts(inputs.source, inputs.examples).against(ANSWER)
    lines = [
        {"row_id": t.row_id, "sample": t.sample, "variant": ANSWER, "score": score, "reason": reason}
        for t, (score, reason) in zip(generations, inputs.judge(generations), strict=True)
    ]
    if inputs.progress:
        inputs.progress(len(lines))
    return pa.Table.from_pylist(lines, schema=JUDGEMENTS)
