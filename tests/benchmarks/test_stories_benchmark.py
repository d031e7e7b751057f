"""`benchmark=stories`: which data sets play which role, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from expunge.benchmarks import BenchmarkConfig, find_benchmark
from expunge.core.errors import ConfigError, DataError
from expunge.data.stories.generate import StoriesConfig, generate
from expunge.data.stories.pretokenize import pretokenize
from expunge.data.stories.shards import TokenDataset
from expunge.data.stories.text import StoryVariant
from expunge.models.build import train_tokenizer


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stories in 4 shards, with their tokenizer and two data sets."""
    folder = tmp_path_factory.mktemp("stories") / "st"
    generate(StoriesConfig(n=60, shards=4), folder)
    text = [json.loads(x)["story"] for p in sorted(folder.glob("shards/*")) for x in p.read_text().splitlines()]
    train_tokenizer(text, 320, max_length=512, by_line=True).save_pretrained(folder / "tokenizers" / "bpe320")
    for name, variant in (("all", StoryVariant()), ("twist", StoryVariant("features=Twist"))):
        pretokenize(folder, folder / "tokenizers" / "bpe320", variant, folder / "tok320" / name)
    return folder / "tok320"


def benchmark_of(root: Path | None, **args: Any) -> Any:
    return find_benchmark("stories").make(BenchmarkConfig(root=None if root is None else str(root), args=args))


def test_the_shards_train_and_the_test_documents_are_watched(root: Path) -> None:
    benchmark = benchmark_of(root, dataset_name="all", max_seq_len=32, eval_dataset_names=["twist"])
    full, test, twist = (benchmark.sets[n] for n in ("full", "test", "twist"))
    assert benchmark.full_sets == ("full",) and benchmark.loss_sets == ("test", "twist") and benchmark.panel == ()
    assert all(isinstance(s, TokenDataset) for s in benchmark.sets.values())
    assert (full.split, full.cut, test.split, test.cut) == ("pretrain", "bos_chunks", "test", "documents")
    assert set(full.documents.lengths) == {32} and twist.folder == root / "twist"
    assert Path(benchmark.tokenizer) == (root.parent / "tokenizers" / "bpe320").resolve()
    assert len(benchmark_of(root / "twist", rows="documents", split="all").sets["full"]) == sum(
        np.load(p).shape[1] - 1 for p in (root / "twist").glob("*.index.npy")
    )


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ({}, ConfigError, r"^data.args.dataset_name: which data set\? give its name \(there are: all, twist\)$"),
        ({"dataset_name": "al"}, DataError, "did you mean 'all'"),
        ({"dataset_name": "all", "eval_dataset_names": ["twits"]}, DataError, "did you mean 'twist'"),
        ({"dataset_name": "all", "split": "test"}, ConfigError, "^data.args.split: "),
        ({"dataset_name": "all", "scored": "story"}, ConfigError, "^data.args.scored: must be all with these rows"),
        ({"dataset_name": "all", "eval_dataset_names": ["test"]}, ConfigError, "^data.args.eval_dataset_names: "),
        ({"dataset_name": "all", "max_seq_len": 1}, ConfigError, "^data.args.max_seq_len: must be at least 2"),
        ({"dataset_name": "all", "max_seq_len": 10**6}, DataError, "has no bos_chunks of 1000000 tokens"),
        ({"dataset_name": "all", "tokenizer": "nowhere"}, DataError, "no tokenizer there"),
    ],
)
def test_wrong_settings_are_one_line(root: Path, args: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as result:
        benchmark_of(root, **args)
    assert "\n" not in str(result.value)


def test_the_folder_must_be_named() -> None:
    with pytest.raises(ConfigError, match=r"^data.root: missing"):
        benchmark_of(None)
