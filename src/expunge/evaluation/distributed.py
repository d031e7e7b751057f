"""Scoring by several processes: each scores its share of the rows, and all return the whole result.

Every process calls the same function at the same time (a collective), with the same model and rows. The result equals
that of one process up to the rounding of other batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from expunge.core import distributed
from expunge.core.records import GeneratedText, text_records, texts_table
from expunge.data.encoder import Encoder
from expunge.data.examples import ExampleSet
from expunge.evaluation.config import TRUNCATED, Generation
from expunge.evaluation.generation import generate_texts
from expunge.evaluation.kinds import wanted_variants
from expunge.evaluation.loglikelihood import score_tokens


@dataclass(frozen=True)
class RankShard:
    """The number of this process among `world` processes."""

    rank: int = 0
    world: int = 1

    def rows(self, sizes: Sequence[int]) -> frozenset[int]:
        """Return the ids of this process's rows: every world-th row by size, so that the shares have similar cost."""
        order = sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))
        return frozenset(order[self.rank :: self.world])


def this_rank_shard() -> RankShard:
    """Return the number of this process among the processes of the job."""
    here = distributed.here()
    return RankShard(here.number, here.world)


def score_tokens_sharded(
    model: Any, rows: ExampleSet, names: Sequence[str], encoder: Encoder, shard: RankShard, **options: Any
) -> pa.Table:
    """Run `score_tokens` on this process's rows; return the whole table in every process."""
    sizes = [sum(len(r.question) + len(r.text(v)) for v in wanted_variants(r, names)) for r in rows.rows]
    table = score_tokens(model, rows, names, encoder, only=shard.rows(sizes), **options)
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
    """Run `generate_texts` on this process's rows; return all texts in every process."""
    only = shard.rows([len(r.question) for r in rows.rows])
    texts = generate_texts(model, rows, reference, encoder, generation, only=only, **options)
    parts = _gather(texts_table(texts), shard)
    return text_records(pa.concat_tables(parts))


def _gather(table: pa.Table, shard: RankShard) -> list[pa.Table]:
    """Return every process's table, by rank; the tables are sent as bytes of Arrow's stream format."""
    if shard.world == 1:
        return [table]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return [pa.ipc.open_stream(data).read_all() for data in distributed.gather(sink.getvalue().to_pybytes())]
