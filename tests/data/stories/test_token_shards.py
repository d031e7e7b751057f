"""Token shards as sets of rows: their names, prompts, tokenizers and fingerprints."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from expunge.core.errors import ConfigError, DataError
from expunge.data.encoder import Encoded, n_truncated, row_lengths
from expunge.data.stories.documents import TokenDocuments
from expunge.data.stories.pretokenize import pretokenize
from expunge.data.stories.shards import TokenDataset, dataset_folder, joined, tokenizer_folder
from expunge.data.stories.text import StoryVariant
from expunge.models.build import train_tokenizer
from expunge.models.config import TokenizerArgs
from expunge.models.load import load_tokenizer


@pytest.fixture(scope="module")
def sets(stories: Path, by_line: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two data sets beside each other, and their tokenizer where the stories keep theirs."""
    root = tmp_path_factory.mktemp("study")
    shutil.copytree(by_line[1], root / "tokenizers" / "bpe600")
    for name, variant in (("all", StoryVariant()), ("twist", StoryVariant("features=Twist"))):
        pretokenize(stories, by_line[1], variant, root / "tok600" / name)
    return root


def shards(root: Path, name: str = "all", **how: Any) -> TokenDataset:
    how = {"max_length": 64, "split": "pretrain", **how}
    return TokenDataset("full", (), folder=root / "tok600" / name, tokenizer=root / "tokenizers" / "bpe600", **how)


def test_it_is_the_documents_of_the_split(sets: Path) -> None:
    rows = shards(sets, cut="bos_chunks")
    same = TokenDocuments(sets / "tok600" / "all", "pretrain", max_seq_len=64, rows="bos_chunks")
    assert list(rows.documents) == list(same) and len(rows) == len(same)
    assert rows.n_tokens == 64 * len(same) and rows.rows == ()
    with pytest.raises(DataError, match="full: it is stored as tokens"):
        rows[:2]


def test_the_fingerprint_is_that_of_what_is_read(sets: Path, tmp_path: Path) -> None:
    one = shards(sets).fingerprint()
    shutil.copytree(sets / "tok600" / "all", tmp_path / "elsewhere")
    moved = TokenDataset("x", (), max_length=64, split="pretrain", folder=tmp_path / "elsewhere")
    assert moved.fingerprint() == one
    others = [
        shards(sets, "twist"),
        shards(sets, split="test"),
        shards(sets, max_length=32),
        shards(sets, cut="chunks"),
    ]
    assert len({one, *(s.fingerprint() for s in others)}) == 5


def test_prompts_end_where_the_story_begins(sets: Path) -> None:
    rows = shards(sets, split="test", max_length=200)
    result = rows.prompts(3)
    tokenizer = load_tokenizer(str(rows.tokenizer), TokenizerArgs())
    assert len(result) == 3
    assert all(tokenizer.decode(row.ids[: row.n_prompt]).endswith("\nStory:") for row in result)


def test_several_sets_are_joined_without_a_copy(sets: Path) -> None:
    parts = [shards(sets), shards(sets, "twist")]
    rows = joined(parts)
    every = [*parts[0].documents, *parts[1].documents]
    assert list(rows) == every and rows[-1] == every[-1] and list(rows[1:3]) == every[1:3]
    assert row_lengths(rows).tolist() == [len(r.ids) for r in every]
    assert n_truncated(rows) == sum(r.truncated > 0 for r in every) > 0
    with pytest.raises(IndexError):
        rows[len(rows)]


def test_lengths_and_cuts_of_plain_rows() -> None:
    rows = [Encoded((1, 2, 3), 1), Encoded((1, 2), 1, 5)]
    assert row_lengths(rows).tolist() == [3, 2] and n_truncated(rows) == 1


def test_a_data_set_is_found_by_name_or_by_its_folder(sets: Path) -> None:
    root = sets / "tok600"
    assert dataset_folder(root, "twist", "key") == dataset_folder(root / "twist", None, "key") == root / "twist"
    assert dataset_folder(root / "twist", "all", "key") == root / "all"
    with pytest.raises(ConfigError, match=r"^key: which data set\? give its name \(there are: all, twist\)$"):
        dataset_folder(root, None, "key")
    with pytest.raises(DataError, match="did you mean 'twist'"):
        dataset_folder(root, "twits", "key")


def test_the_tokenizer_is_the_one_that_made_the_tokens(sets: Path, across: Any) -> None:
    folder = sets / "tok600" / "all"
    assert tokenizer_folder(folder, None) == (sets / "tokenizers" / "bpe600").resolve()
    with pytest.raises(ConfigError, match=r"^data\.args\.tokenizer=.*was made with another tokenizer$"):
        tokenizer_folder(folder, str(across[1]))
    rows = shards(sets)
    rows.check_tokenizer(load_tokenizer(str(rows.tokenizer), TokenizerArgs()))
    with pytest.raises(ConfigError, match="the model's tokenizer is not that of"):
        rows.check_tokenizer(train_tokenizer(["another text"], 270, max_length=64))
