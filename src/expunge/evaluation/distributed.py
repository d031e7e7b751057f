"""Scoring by several processes: each takes its share of the rows, and all get everything.

Every process calls the same function at the same time (it waits for the others), with the same model and rows. The
result is that of one process up to the rounding that other batches bring.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from expunge.core import distributed
from expunge.core.records import GeneratedText, text_records, texts_table
from expunge.data.examples import ExampleSet
from expunge.data.template import Encoder
from expunge.evaluation.config import Generation
from expunge.evaluation.generation import generate_texts
from expunge.evaluation.loglikelihood import TRUNCATED, score_tokens, wanted_variants


@dataclass(frozen=True)
class RankShard:
    """This process's place among `world` of them."""

    rank: int = 0
    world: int = 1

    def rows(self, sizes: Sequence[int]) -> frozenset[int]:
        """The ids of this process's rows: every world-th of the rows by size, so that shares weigh alike."""
        order = sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))
        return frozenset(order[self.rank :: self.world])


def this_rank_shard() -> RankShard:
    """This process's place among those that do the job."""
    here = distributed.here()
    return RankShard(here.number, here.world)


def score_tokens_sharded(
    model: Any, rows: ExampleSet, wanted: Sequence[str], encoder: Encoder, shard: RankShard, **options: Any
) -> pa.Table:
    """`score_tokens` with the rows shared out; the whole table in every process."""
    sizes = [sum(len(r.question) + len(r.answers[v]) for v in wanted_variants(r, wanted)) for r in rows.rows]
    table = score_tokens(model, rows, wanted, encoder, only=shard.rows(sizes), **options)
    parts = _gather(table, shard)
    cut = sum(int(p.schema.metadata[TRUNCATED.encode()]) for p in parts)
    whole = pa.concat_tables([p.replace_schema_metadata(None) for p in parts])
    keys = [(name, "ascending") for name in ("row_id", "variant", "position")]
    return whole.sort_by(keys).combine_chunks().replace_schema_metadata({TRUNCATED: str(cut)})


def generate_texts_sharded(
    model: Any,
    rows: ExampleSet,
    reference: str,
    encoder: Encoder,
    generation: Generation,
    shard: RankShard,
    **options: Any,
) -> list[GeneratedText]:
    """`generate_texts` with the rows shared out; all texts in every process."""
    only = shard.rows([len(r.question) for r in rows.rows])
    made = generate_texts(model, rows, reference, encoder, generation, only=only, **options)
    parts = _gather(texts_table(made), shard)
    return text_records(pa.concat_tables(parts))


def _gather(table: pa.Table, shard: RankShard) -> list[pa.Table]:
    """Every process's table, by rank: sent as bytes of Arrow's own stream format."""
    if shard.world == 1:
        return [table]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return [pa.ipc.open_stream(data).read_all() for data in distributed.gather(sink.getvalue().to_pybytes())]
