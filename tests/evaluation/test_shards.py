"""Two processes against one: the same rows, the same numbers up to rounding, the same texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tests.warm import Warm

from expunge.core.records import GeneratedText, texts_table
from expunge.data.encoder import Encoder
from expunge.data.examples import ExampleSet
from expunge.data.template import Template
from expunge.evaluation.config import TRUNCATED, Generation
from expunge.evaluation.distributed import RankShard, generate_texts_sharded, score_tokens_sharded, this_rank_shard
from expunge.evaluation.generation import generate_texts
from expunge.evaluation.loglikelihood import score_tokens

WANTED = ("answer", "perturbed")
HOW = Generation(temperature=1.0, samples=2, max_new_tokens=5)
CUT = Template(max_length=60)


def score(model: Any, rows: ExampleSet, tokenizer: Any) -> tuple[pa.Table, list[GeneratedText]]:
    shard = this_rank_shard()
    table = score_tokens_sharded(model, rows, WANTED, Encoder(CUT, tokenizer), shard)
    return table, generate_texts_sharded(model, rows, "answer", Encoder(CUT, tokenizer), HOW, shard)


def process(rank: int, folder: str, model: Any, rows: ExampleSet, tokenizer: Any) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    table, texts = score(model, rows, tokenizer)
    pq.write_table(table, f"{folder}/{rank}.tokens")
    pq.write_table(texts_table(texts), f"{folder}/{rank}.texts")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_two_processes_equal_one(model: Any, rows: ExampleSet, tokenizer: Any, tmp_path: Path, warm: Warm) -> None:
    warm.call_each(process, [(rank, str(tmp_path), model, rows, tokenizer) for rank in (0, 1)])
    expected = score_tokens(model, rows, WANTED, Encoder(CUT, tokenizer))
    texts = texts_table(generate_texts(model, rows, "answer", Encoder(CUT, tokenizer), HOW))
    assert int(expected.schema.metadata[TRUNCATED.encode()]) > 0
    for rank in (0, 1):
        actual = pq.read_table(tmp_path / f"{rank}.tokens")
        assert actual.schema.metadata[TRUNCATED.encode()] == expected.schema.metadata[TRUNCATED.encode()]
        exact = ["row_id", "variant", "position", "token_id", "is_argmax", "is_eos", "zlib", "n_bytes"]
        assert actual.select(exact).equals(expected.select(exact))
        for name in ("logp", "mean", "var"):
            np.testing.assert_allclose(actual[name].to_numpy(), expected[name].to_numpy(), rtol=1e-4, atol=2e-5)
        assert pq.read_table(tmp_path / f"{rank}.texts").equals(texts)
    assert (tmp_path / "0.tokens").read_bytes() == (tmp_path / "1.tokens").read_bytes()


def test_a_process_alone_scores_everything(model: Any, rows: ExampleSet, tokenizer: Any) -> None:
    table, texts = score(model, rows, tokenizer)
    assert table.equals(score_tokens(model, rows, WANTED, Encoder(CUT, tokenizer)), check_metadata=True)
    assert texts == generate_texts(model, rows, "answer", Encoder(CUT, tokenizer), HOW)


@pytest.mark.parametrize("world", [1, 2, 3, 9])
def test_shares_are_disjoint_complete_and_alike(world: int) -> None:
    sizes = [7, 1, 9, 3, 3, 8, 2]
    shares = [RankShard(k, world).rows(sizes) for k in range(world)]
    assert sorted(i for share in shares for i in share) == list(range(7))
    weights = [sum(sizes[i] for i in share) for share in shares]
    assert max(weights) - min(weights) <= max(sizes)
